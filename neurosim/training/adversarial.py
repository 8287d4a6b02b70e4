"""Weight-attack regularisation: the network must say the same when its weights are attacked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from neurosim.errors import UsageError
from neurosim.training.method import (
    DrawsFor,
    analog_parameters,
    check_number,
    digital_parameters,
    forward_aside,
    laid_out_as,
    noisy,
    normal_like,
    one_a_row,
    task_loss,
    widened,
)
from neurosim.training.noise import ForwardNoise


@final
@dataclass(frozen=True)
class AdversarialWeights:
    """L = L_nat(Θ, X, y) + β·KL(softmax f(Θ, X) ‖ softmax f(Θ*, X)), mean over the batch (and its pixels).

    The attack climbs L_rob, the KL, in the box Θ ± ζ|Θ|, in relative steps δ::

        δ_0 = ε·R,  R ~ N(0, 1)
        δ_t = clip(δ_{t-1} + (ζ/N)·sign(∂L_rob/∂Θ*), −ζ, ζ)      t = 1 … N
        Θ*  = Θ + |Θ|·δ_N

    No label enters it.  With δ held fixed gradients flow through both branches, the clean one included:
    ∂L_rob/∂Θ*·J + ∂L_rob/∂Θ with the diagonal J = 1 + sign(Θ)·δ.  With ``eta`` > 0 the task loss is taken
    at noisy weights Θ + stop_grad(|Θ|·η·R), the paper's "FN + β".

    Attacked are all trained weights and biases but the affine parameters of normalisation layers.  Those
    receive the gradient of the task loss alone: they are constants in both branches of the KL, as in the
    paper's code for ResNet32.  Normalisation layers run in train mode in every branch, and only the clean
    forward writes running statistics: they are those of ordinary training.  (In the task loss at noisy
    weights, ``eta`` > 0, they also see batch statistics and leave none.)

    Args:
        beta: weight of the regulariser (0.25 alone, 0.1 with forward noise in the paper).
        zeta: half-width of the box, relative to each weight.
        steps: N, the number of attack steps.
        eta: relative forward noise in the task loss; 0 for none.
        initial_std: ε, the size of the random start.

    Source: Büchel, Faber, Muir, "Network insensitivity to parameter noise via adversarial regularization",
    ICLR 2022 (arXiv 2106.05009).  The clip is stated there and missing from its codes; the KL is computed
    from log-softmax, without a floor on the probabilities.

    >>> AdversarialWeights(beta=0.1, eta=0.3).passes
    13.0
    """

    beta: float = 0.25
    zeta: float = 0.1
    steps: int = 10
    eta: float = 0.0
    initial_std: float = 1e-3

    def __post_init__(self) -> None:
        check_number("adversarial", "beta", self.beta, 0.0, 1e6)
        check_number("adversarial", "zeta", self.zeta, 0.0, 10.0)
        check_number("adversarial", "eta", self.eta, 0.0, 10.0)
        check_number("adversarial", "initial_std", self.initial_std, 0.0, 10.0)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise UsageError(
                f"method 'adversarial': expected steps, an integer >= 1; got steps={self.steps!r}"
            )

    @property
    def passes(self) -> float:
        """Clean, attacked, N attack steps, and the noisy task loss if there is one; 1 when β = 0."""
        if self.beta == 0.0:
            return 1.0
        return self.steps + (3.0 if self.eta > 0.0 else 2.0)

    def backward(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, draws_for: DrawsFor, progress: float
    ) -> dict[str, float]:
        """Add ∂L/∂Θ to the gradients; see :class:`neurosim.training.method.Method`."""
        weights = analog_parameters(model)
        if self.beta == 0.0 or not weights:  # without a weight to attack the KL is 0
            return ForwardNoise(self.eta).backward(model, inputs, targets, draws_for, progress)
        affine = digital_parameters(model)
        fixed = {name: p.detach() for name, p in affine.items()}

        if self.eta > 0.0:
            clean = functional_call(model, fixed, (inputs,))
            task = task_loss(forward_aside(model, noisy(weights, self.eta, draws_for), inputs), targets)
        else:
            clean = model(inputs)
            task = task_loss(clean, targets)

        delta = self.attack(model, inputs, clean.detach(), draws_for)
        attacked = {n: laid_out_as(p, torch.addcmul(p, p.abs(), delta[n])) for n, p in weights.items()}
        robust = divergence(clean, forward_aside(model, {**fixed, **attacked}, inputs))
        loss = task + self.beta * robust
        if affine and self.eta == 0.0:
            # the clean forward serves both losses: the affine parameters take their share of one first
            _accumulate(task, affine)
            loss.backward(inputs=[p for p in weights.values() if p.requires_grad])
        else:
            loss.backward()
        return {"loss": loss.item(), "task_loss": task.item(), "robust_loss": robust.item()}

    def attack(
        self, model: nn.Module, inputs: Tensor, clean: Tensor, draws_for: DrawsFor
    ) -> dict[str, Tensor]:
        """The relative perturbations δ, |δ| ≤ ζ, of every attacked parameter: name -> its shape.

        ``clean`` (batch, classes) or (batch, classes, ...) are the logits at Θ.  Costs N passes; leaves the
        model as it was.
        """
        weights = analog_parameters(model)
        fixed = {name: p.detach() for name, p in digital_parameters(model).items()}
        names = list(weights)
        theta = [p.detach() for p in weights.values()]
        size = torch._foreach_abs(theta)
        delta = [
            normal_like(p, draws_for(f"{name}:attack")).mul_(self.initial_std) for name, p in weights.items()
        ]
        wanted = widened(clean.detach()).softmax(1)
        for _ in range(self.steps):
            moved = torch._foreach_addcmul(theta, size, delta)
            place = [laid_out_as(p, star).requires_grad_() for p, star in zip(theta, moved, strict=True)]
            logits = widened(forward_aside(model, {**fixed, **dict(zip(names, place, strict=True))}, inputs))
            # ∂KL/∂logits in closed form, up to the 1/batch that the sign forgets
            uphill = logits.detach().softmax(1).sub_(wanted)
            gradients = torch.autograd.grad(logits, place, uphill, allow_unused=True)
            reached = [(d, g) for d, g in zip(delta, gradients, strict=True) if g is not None]
            signs = torch._foreach_sign([g for _, g in reached])
            torch._foreach_add_([d for d, _ in reached], signs, alpha=self.zeta / self.steps)
            torch._foreach_clamp_min_(delta, -self.zeta)
            torch._foreach_clamp_max_(delta, self.zeta)
        return dict(zip(names, delta, strict=True))


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(softmax clean ‖ softmax attacked), mean over samples or pixels; logits (batch, classes[, ...]).

    >>> divergence(torch.zeros(5, 3), torch.ones(5, 3)).item()
    0.0
    """
    clean, attacked = one_a_row(widened(clean)), one_a_row(widened(attacked))
    return F.kl_div(attacked.log_softmax(-1), clean.log_softmax(-1), reduction="batchmean", log_target=True)


def _accumulate(loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> None:
    """Add ∂loss/∂p to ``p.grad`` of these parameters only, and keep the graph."""
    wanted = [p for p in parameters.values() if p.requires_grad]
    if wanted:
        loss.backward(inputs=wanted, retain_graph=True)
