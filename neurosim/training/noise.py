"""Forward noise: train through randomly perturbed weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch.func import functional_call

from neurosim.training.method import (
    NOISE_SCALES,
    Step,
    check_choice,
    check_number,
    check_patterns,
    perturbed,
)
from neurosim.training.standard import Standard


@final
@dataclass(frozen=True)
class ForwardNoise:
    """L = cross-entropy(f(Θ + stop_grad(s·η·R), X), y),  R ~ N(0, 1) anew each step.

    ::

        s = |Θ|            scale "weight": relative, the mismatch of a chip
        s = 1              scale "one": additive, the same for all weights of a network
        s = max|Θ|         scale "layer-max": relative to the range of a layer, as conductances are
        s = √mean(Θ²)      scale "layer-rms"; scale "filter": over the weights of each output

    The noise acts on every trained weight and bias but the affine parameters of normalisation layers, which
    stay digital on a chip; and on what ``parameters`` names beside them.  Normalisation layers keep the
    statistics of the noisy network, the only one that runs.

    Args:
        eta: size of the noise (0.3 in the paper for its CNN).
        ramp: fraction of the training over which the noise grows linearly from 0 to ``eta``.
        scale: what ``eta`` is relative to.
        spread: how much the size itself varies from step to step: |η·(1 + spread·N(0, 1))|, for chips whose
            noise is not known well ("variance-aware").
        parameters: patterns of names of further parameters, trained or not, such as
            ``"hidden.neurons.tau_*"``.  Those with one axis or none keep their sign: 1 % of them is left, at
            least (:func:`neurosim.landscape.parameters.keeping_signs`).

    Sources: "FN" in Büchel, Faber, Muir, ICLR 2022 (arXiv 2106.05009); the idea is Murray & Edwards,
    IEEE Trans. Neural Networks 5(5), 1994 (doi:10.1109/72.317730); relative to a layer's largest weight,
    Joshi et al., Nat. Commun. 11, 2473 (2020); a size that varies, Wang et al. 2025 (arXiv 2503.16183).

    >>> ForwardNoise(eta=0.2, ramp=0.5).strength(0.25)
    0.1
    """

    eta: float = 0.3
    ramp: float = 0.0
    scale: str = "weight"
    spread: float = 0.0
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("noise", "eta", self.eta, 0.0, 10.0)
        check_number("noise", "ramp", self.ramp, 0.0, 1.0)
        check_choice("noise", "scale", self.scale, NOISE_SCALES)
        check_number("noise", "spread", self.spread, 0.0, 10.0)
        check_patterns("method 'noise'", self.parameters)

    @property
    def passes(self) -> float:
        """One: the noisy network runs instead of the clean one."""
        return 1.0

    def strength(self, progress: float) -> float:
        """The noise's size when a fraction ``progress`` of the training is done."""
        return self.eta if progress >= self.ramp else self.eta * progress / self.ramp

    def backward(self, step: Step) -> dict[str, float]:
        """Add ∂L/∂Θ to the gradients; see :class:`neurosim.training.method.Method`."""
        eta = self.strength(step.progress)
        if self.spread > 0.0:
            eta *= abs(1.0 + self.spread * float(step.draws_for("noise-size").normal((1,))))
        if eta == 0.0:
            return Standard().backward(step)
        parameters = perturbed(step, eta, self.scale, also=self.parameters)
        loss = step.loss(functional_call(step.model, parameters, (step.inputs,)))
        loss.backward()
        return {"loss": loss.item()}
