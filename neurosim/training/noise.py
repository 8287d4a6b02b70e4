"""Forward noise: train through randomly perturbed weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.func import functional_call

from neurosim.training.method import DrawsFor, analog_parameters, check_number, noisy, task_loss
from neurosim.training.standard import Standard


@final
@dataclass(frozen=True)
class ForwardNoise:
    """L = cross-entropy(f(Θ + stop_grad(|Θ|·η·R), X), y),  R ~ N(0, 1) anew each step.

    The noise acts on every weight and bias but the affine parameters of normalisation layers, which
    stay digital on a chip.  Normalisation layers keep the statistics of the noisy network, the only
    one that runs.

    Args:
        eta: relative size of the noise (0.3 in the paper for its CNN).
        ramp: fraction of the training over which the noise grows linearly from 0 to ``eta``.

    Source: "FN" in Büchel, Faber, Muir, ICLR 2022 (arXiv 2106.05009); the idea is Murray & Edwards,
    IEEE Trans. Neural Networks 5(5), 1994 (doi:10.1109/72.317730).

    >>> ForwardNoise(eta=0.2, ramp=0.5).strength(0.25)
    0.1
    """

    eta: float = 0.3
    ramp: float = 0.0

    def __post_init__(self) -> None:
        check_number("noise", "eta", self.eta, 0.0, 10.0)
        check_number("noise", "ramp", self.ramp, 0.0, 1.0)

    @property
    def passes(self) -> float:
        """One: the noisy network runs instead of the clean one."""
        return 1.0

    def strength(self, progress: float) -> float:
        """The noise's relative size when a fraction ``progress`` of the training is done."""
        return self.eta if progress >= self.ramp else self.eta * progress / self.ramp

    def backward(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, draws_for: DrawsFor, progress: float
    ) -> dict[str, float]:
        """Add ∂L/∂Θ to the gradients; see :class:`neurosim.training.method.Method`."""
        eta = self.strength(progress)
        if eta == 0.0:
            return Standard().backward(model, inputs, targets, draws_for, progress)
        parameters = noisy(analog_parameters(model), eta, draws_for)
        loss = task_loss(functional_call(model, parameters, (inputs,)), targets)
        loss.backward()
        return {"loss": loss.item()}
