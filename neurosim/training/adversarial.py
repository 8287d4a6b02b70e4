"""Weight-attack regularisation: the network must say the same when its weights are attacked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from neurosim.errors import UsageError
from neurosim.landscape.ascent import NORMS, SCALES, Norm, Region, Scale, climb
from neurosim.random import Stream
from neurosim.training.method import (
    DrawsFor,
    Step,
    analog_parameters,
    check_choice,
    check_integer,
    check_number,
    check_patterns,
    digital_parameters,
    divergence,
    forward_aside,
    keeping_signs,
    laid_out_as,
    normal_like,
    perturbed,
    uniform_like,
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
        norm, scale: of the region in which the attack stays, Θ + s·δ, if it is not this box: see
            :class:`neurosim.landscape.ascent.Region`.
        start: ``point``, near Θ (ε); or ``uniform``, anywhere in the box: for attacks of one step.
        every: attack in each so many-th step only; the others minimise the task loss alone.
        reuse: begin with the δ in which the last attack ended ("free"), so that few steps go far.
        parameters: patterns of names of further parameters, trained or not, such as
            ``"hidden.neurons.tau_*"``, that are attacked, and noisy where ``eta`` > 0.  Those with one axis
            or none keep their sign (:func:`neurosim.landscape.parameters.keeping_signs`).

    With ``every`` = k the mean cost of a step is 1 + (passes − 1)/k.

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
    norm: str = "box"
    scale: str = "weight"
    start: str = "point"
    every: int = 1
    reuse: bool = False
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("adversarial", "beta", self.beta, 0.0, 1e6)
        check_number("adversarial", "zeta", self.zeta, 0.0, 10.0)
        check_number("adversarial", "eta", self.eta, 0.0, 10.0)
        check_number("adversarial", "initial_std", self.initial_std, 0.0, 10.0)
        check_integer("adversarial", "steps", self.steps, 1)
        check_choice("adversarial", "norm", self.norm, NORMS)
        check_choice("adversarial", "scale", self.scale, SCALES)
        check_choice("adversarial", "start", self.start, STARTS)
        check_integer("adversarial", "every", self.every, 1)
        check_patterns("method 'adversarial'", self.parameters)
        if not isinstance(self.reuse, bool):
            raise UsageError(f"method 'adversarial': expected reuse, true or false; got reuse={self.reuse!r}")

    @property
    def passes(self) -> float:
        """Clean, attacked, N attack steps, and the noisy task loss if there is one; 1 when β = 0."""
        if self.beta == 0.0:
            return 1.0
        return 1.0 + (self.steps + (2.0 if self.eta > 0.0 else 1.0)) / self.every

    @property
    def extra_passes(self) -> float:
        """Beside another objective: clean, attacked and N attack steps."""
        return 0.0 if self.beta == 0.0 else (self.steps + 2.0) / self.every

    def backward(self, step: Step) -> dict[str, float]:
        """Add ∂L/∂Θ to the gradients; see :class:`neurosim.training.method.Method`."""
        if not self._acts(step):
            return ForwardNoise(self.eta, parameters=self.parameters).backward(step)
        if self.eta > 0.0:
            noisy = perturbed(step, self.eta, also=self.parameters)
            task = step.loss(forward_aside(step.model, noisy, step.inputs))
            robust = self._robust_loss(step, self._clean(step))
            loss = task + self.beta * robust
            loss.backward()
        else:
            # the clean forward serves both losses: the affine parameters take their share of one first
            clean = step.model(step.inputs)
            task = step.loss(clean)
            robust = self._robust_loss(step, clean)
            loss = task + self.beta * robust
            affine = self._affine(step.model)
            if affine:
                _accumulate(task, affine)
                loss.backward(inputs=[p for p in self._weights(step.model).values() if p.requires_grad])
            else:
                loss.backward()
        return {"loss": loss.item(), "task_loss": task.item(), "robust_loss": robust.item()}

    def add(self, step: Step) -> dict[str, float]:
        """Add β·∂L_rob/∂Θ; see :class:`neurosim.training.method.Regulariser`."""
        if not self._acts(step):
            return {"loss": 0.0}
        clean = forward_aside(step.model, self._fixed(step.model), step.inputs)
        robust = self._robust_loss(step, clean)
        (self.beta * robust).backward()
        return {"loss": self.beta * robust.item(), "robust_loss": robust.item()}

    def _acts(self, step: Step) -> bool:
        # without a weight to attack the KL is 0
        return self.beta > 0.0 and step.number % self.every == 0 and bool(self._weights(step.model))

    def _clean(self, step: Step) -> Tensor:
        """The clean logits, affine parameters held: this forward writes running statistics."""
        return functional_call(step.model, self._fixed(step.model), (step.inputs,))

    def _robust_loss(self, step: Step, clean: Tensor) -> Tensor:
        model, weights = step.model, self._weights(step.model)
        kept = {n: step.memory.get(f"adversarial/{n}") for n in weights} if self.reuse else {}
        begin = {n: d for n, d in kept.items() if d is not None} or None
        delta = self.attack(model, step.inputs, clean.detach(), step.draws_for, begin)
        if self.reuse:
            step.memory.update({f"adversarial/{n}": d for n, d in delta.items()})
        region = self._region()
        # s is |Θ| with its slope: J = 1 + sign(Θ)·δ; that of a layer is held
        sizes = (
            [p.abs() for p in weights.values()]
            if self.scale == "weight"
            else region.scales(list(weights.values()))
        )
        attacked = {
            n: laid_out_as(p, torch.addcmul(p, s, delta[n]))
            for (n, p), s in zip(weights.items(), sizes, strict=True)
        }
        attacked = keeping_signs(weights, attacked, self.parameters)
        return divergence(clean, forward_aside(model, {**self._fixed(model), **attacked}, step.inputs))

    def _weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return analog_parameters(model, self.parameters)

    def _affine(self, model: nn.Module) -> dict[str, nn.Parameter]:
        attacked = self._weights(model)
        return {name: p for name, p in digital_parameters(model).items() if name not in attacked}

    def _fixed(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self._affine(model).items()}

    def _region(self) -> Region:
        return Region(self.zeta, cast(Norm, self.norm), cast(Scale, self.scale))

    def attack(
        self,
        model: nn.Module,
        inputs: Tensor,
        clean: Tensor,
        draws_for: DrawsFor,
        begin: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The perturbations δ, in the region, of every attacked parameter: name -> its shape.

        ``clean`` (batch, classes) or (batch, classes, ...) are the logits at Θ; ``begin`` is where to start
        from, instead of at random.  Costs N passes; leaves the model as it was.
        """
        weights = self._weights(model)
        fixed = self._fixed(model)
        wanted = widened(clean.detach()).softmax(1)

        def slope(at: Mapping[str, Tensor]) -> Mapping[str, Tensor | None]:
            held = keeping_signs(weights, at, self.parameters)
            place = {name: p.detach().requires_grad_() for name, p in held.items()}
            logits = widened(forward_aside(model, {**fixed, **place}, inputs))
            # ∂KL/∂logits in closed form, up to the 1/batch that steepest ascent forgets
            uphill = logits.detach().softmax(1).sub_(wanted)
            found = torch.autograd.grad(logits, list(place.values()), uphill, allow_unused=True)
            return dict(zip(place, found, strict=True))

        begin = begin or {name: self._start(p, draws_for(f"{name}:attack")) for name, p in weights.items()}
        return climb(weights, self._region(), begin, slope, steps=self.steps)

    def _start(self, parameter: Tensor, stream: Stream) -> Tensor:
        if self.start == "uniform":
            return uniform_like(parameter, stream).mul_(self.zeta)
        return normal_like(parameter, stream).mul_(self.initial_std)


STARTS = ("point", "uniform")


def _accumulate(loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> None:
    """Add ∂loss/∂p to ``p.grad`` of these parameters only, and keep the graph."""
    wanted = [p for p in parameters.values() if p.requires_grad]
    if wanted:
        loss.backward(inputs=wanted, retain_graph=True)
