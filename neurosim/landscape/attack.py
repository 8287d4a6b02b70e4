"""The worst weights near trained ones: projected gradient ascent with restarts, and random draws beside it.

A chip moves every weight a little.  How much worse than a chip can such a move be?  The attack looks for the
worst one in a region; random draws of the same size, as chips make them, are the control.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, final

import torch
from torch import Tensor, nn

from neurosim.errors import RunError, UsageError, unknown
from neurosim.landscape.ascent import Norm, Region, Scale, climb, moved
from neurosim.landscape.losses import evaluating
from neurosim.landscape.parameters import (
    analog_parameters,
    check_patterns,
    divergence,
    forward_aside,
    keeping_signs,
    normal_like,
    task_loss,
    uniform_like,
)
from neurosim.random import stream

Batch = tuple[Tensor, Tensor]
Weights = dict[str, Tensor]
Control = Literal["gaussian", "corner"]

LOSSES = ("cross-entropy", "kl")
PER = ("data", "batch")
KEPT = ("worst", "last")
_FAR = 2.5
"""A step from a random start, in ζ/N: N of them lead from any point of a box to any other (Madry 2018)."""


def _check_count(name: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"expected {name} of an attack on weights, {least} or more; got {value!r}")


def _check_number(name: str, value: object, *, zero: bool = False) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (0 <= value <= 10) or (value == 0 and not zero):  # type: ignore[operator]
        least = "0 <=" if zero else "0 <"
        raise UsageError(f"expected {least} {name} of an attack on weights <= 10; got {value!r}")


@final
@dataclass(frozen=True)
class WeightAttack:
    """How the worst weights Θ* = Θ + s·δ are looked for, in a region of size ζ (:class:`Region`)::

        δ_t = Π(δ_{t-1} + α·ζ·uphill(∂L/∂δ)),   t = 1 … N
        L = mean −log softmax f(Θ*)[y]                          loss "cross-entropy"
        L = mean KL(softmax f(Θ) ‖ softmax f(Θ*)), no label     loss "kl"

    Attacked are the weights and biases: what the network trains (``requires_grad``), but the affine
    parameters of normalisation layers; and what ``parameters`` names beside them.  The network is in
    evaluation mode.

    Args:
        loss: what is climbed.
        steps: N; each costs one forward and backward pass over the data.
        restarts: the first starts beside Θ, δ_0 = ε·R with R ~ N(0, 1); others anywhere in [−ζ, ζ].
        step: α; by default 1/N beside Θ, which just reaches the wall, and 2.5/N from elsewhere.
        initial_std: ε.
        per: ``data`` looks for one δ that is bad for the whole data set, a chip; ``batch`` for one for each
            batch, which no chip could be, for it would have to know what it is shown next.
        keep: ``worst`` of all δ_t by accuracy (seen anyway, so for nothing), or the ``last``.
        norm, scale: of the region.
        parameters: patterns of names of further parameters, such as ``"*.neurons.tau_*"``; see
            :func:`neurosim.landscape.parameters.analog_parameters`, and
            :func:`neurosim.landscape.parameters.keeping_signs` for time constants that stay above 0.

    >>> PAPER.loss, PAPER.steps, PAPER.per
    ('kl', 10, 'batch')
    """

    loss: str = "cross-entropy"
    steps: int = 20
    restarts: int = 3
    step: float | None = None
    initial_std: float = 1e-3
    per: str = "data"
    keep: str = "worst"
    norm: str = "box"
    scale: str = "weight"
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_patterns("attack on weights", self.parameters)
        for name, value, known in (
            ("loss of an attack on weights,", self.loss, LOSSES),
            ("choice of what an attack on weights is per,", self.per, PER),
            ("choice of what an attack on weights keeps,", self.keep, KEPT),
        ):
            if value not in known:
                raise unknown(name, str(value), known)
        _check_count("steps", self.steps)
        _check_count("restarts", self.restarts)
        if self.step is not None:
            _check_number("step", self.step)
        _check_number("initial_std", self.initial_std, zero=self.loss != "kl")
        self.region(0.0)

    def region(self, size: float) -> Region:
        """Where δ may be."""
        return Region(size, cast(Norm, self.norm), cast(Scale, self.scale))

    def step_size(self, size: float, restart: int) -> float:
        """α·ζ of one restart, from 0."""
        factor = self.step if self.step is not None else (_FAR if restart else 1.0) / self.steps
        return factor * size


PAPER = WeightAttack(loss="kl", steps=10, restarts=1, per="batch", keep="last")
"""The attack of Büchel, Faber, Muir (ICLR 2022, arXiv 2106.05009), as in their training.

ε = 10⁻³, ten steps of ζ/10 on the KL in the box Θ ± ζ|Θ|, one δ a batch (of 100)."""


@final
@dataclass(frozen=True, eq=False)
class Attacked:
    """What one size of attack did to a network.

    A score of a sample is 1 if its class is right, else 0; or the fraction of its pixels that are right,
    where each pixel has a class.

    Attributes:
        size: ζ.
        clean: scores at Θ, (samples,).
        attacked: at the worst restart, (samples,): of all, or of each batch where each has its own δ.
        restarts: at each, (restarts, samples).
        gaussian: at Θ + s·ζ·R, R ~ N(0, 1), (draws, samples): the paper's mismatch.
        corner: at Θ + s·ζ·R, R = ±1 at random, (draws, samples): as far from Θ as the attack may go.
        weights: the worst Θ*, name -> its shape; None where each batch has its own.
    """

    size: float
    clean: Tensor
    attacked: Tensor
    restarts: Tensor
    gaussian: Tensor
    corner: Tensor
    weights: Mapping[str, Tensor] | None


def attack_weights(
    model: nn.Module,
    batches: Iterable[Batch],
    sizes: Sequence[float],
    attack: WeightAttack | None = None,
    *,
    draws: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Attacked]:
    """Attack the weights of a trained network at several sizes, with random draws of the same sizes beside.

    The network is read as a function of its parameters and stays as it is, gradients included.

    Args:
        model: gives logits (batch, classes), or (batch, classes, ...) with axes of pixels.
        batches: (inputs, class numbers); kept in a list.
        sizes: ζ, each at least 0.
        attack: by default ``WeightAttack()``.
        draws: of each of the two random controls; the same R at every size.
        seed: of starts and draws.
        progress: called with the passes over the data that are done, and all of them.

    Raises:
        UsageError: no data, sizes or weights; a pattern that matches no parameter; targets that do not fit
            the outputs.
        RunError: the outputs at the trained weights are not finite.

    >>> net = nn.Linear(2, 2, bias=False)
    >>> _ = net.weight.data.copy_(torch.eye(2))
    >>> data = [(torch.tensor([[1.0, 0.9], [0.1, 1.0]]), torch.tensor([0, 1]))]
    >>> found = attack_weights(net, data, [0.01, 0.2], draws=0)
    >>> [(each.size, each.attacked.tolist()) for each in found]
    [(0.01, [1.0, 1.0]), (0.2, [0.0, 1.0])]
    """
    attack = attack or WeightAttack()
    _check_count("draws", draws, least=0)
    if not sizes:
        raise UsageError("no sizes of an attack on weights are given: expected at least one, such as 0.1")
    regions = [attack.region(size) for size in sizes]
    with evaluating(model), torch.no_grad():
        work = _Work(model, attack, _here(batches, model), draws, seed, len(regions), progress)
        return [work.at(region) for region in regions]


class _Work:
    """One network, its data, and what all sizes share."""

    def __init__(
        self,
        model: nn.Module,
        attack: WeightAttack,
        batches: list[Batch],
        draws: int,
        seed: int,
        sizes: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.model, self.attack, self.batches, self.draws, self.seed = model, attack, batches, draws, seed
        attacked = analog_parameters(model, attack.parameters)
        self.theta: Weights = {n: p.detach() for n, p in attacked.items()}
        if not self.theta:
            raise UsageError(f"expected a network with weights to attack; {type(model).__name__} has none")
        self.fixed = {n: p.detach() for n, p in model.named_parameters() if n not in self.theta}
        # batches seen, so that one pass over the data is one whether each batch has its own attack or not
        self._seen = 0
        self._all = len(batches) * (1 + sizes * (attack.restarts * (attack.steps + 1) + 2 * draws))
        self._progress = progress
        clean = [self._clean_of(batch) for batch in batches]
        self.clean = torch.cat([_scores(logits, y) for logits, (_, y) in zip(clean, batches, strict=True)])
        self.logits: list[Tensor | None] = [logits if attack.loss == "kl" else None for logits in clean]

    def at(self, region: Region) -> Attacked:
        """Everything at one size."""
        gaussian = [self._control(region, "gaussian", draw) for draw in range(self.draws)]
        corner = [self._control(region, "corner", draw) for draw in range(self.draws)]
        worst, each, weights = (self._by_batch if self.attack.per == "batch" else self._whole)(region)
        none = self.clean.new_zeros((0, len(self.clean)))
        return Attacked(
            region.size,
            self.clean,
            worst,
            each,
            torch.stack(gaussian) if gaussian else none,
            torch.stack(corner) if corner else none,
            weights,
        )

    def _whole(self, region: Region) -> tuple[Tensor, Tensor, Weights | None]:
        found = [self._climbed(region, r, 0, range(len(self.batches))) for r in range(self.attack.restarts)]
        scores = torch.stack([score for score, _ in found])
        worst = int(scores.mean(1).argmin())
        return scores[worst], scores, found[worst][1]

    def _by_batch(self, region: Region) -> tuple[Tensor, Tensor, Weights | None]:
        worst, each = [], []
        for k in range(len(self.batches)):
            found = [self._climbed(region, r, k, [k])[0] for r in range(self.attack.restarts)]
            scores = torch.stack(found)
            worst.append(scores[scores.mean(1).argmin()])
            each.append(scores)
        return torch.cat(worst), torch.cat(each, dim=1), None

    def _climbed(
        self, region: Region, restart: int, first: int, chosen: Sequence[int]
    ) -> tuple[Tensor, Weights]:
        """Scores of some batches and the weights at the end, or at the worst place, of one ascent."""
        seen: list[tuple[Tensor, Weights]] = []

        def slope(moved: Mapping[str, Tensor]) -> Mapping[str, Tensor | None]:
            at = keeping_signs(self.theta, moved, self.attack.parameters)
            scores, slopes = self._slope(at, chosen)
            if self.attack.keep == "worst" and (not seen or scores.mean() < seen[0][0].mean()):
                seen[:] = [(scores, at)]
            return slopes

        start = {n: self._start(n, weight, region, restart, first) for n, weight in self.theta.items()}
        region.project_(list(start.values()))  # ε may be larger than ζ
        step = self.attack.step_size(region.size, restart)
        delta = climb(self.theta, region, start, slope, steps=self.attack.steps, step_size=step)
        end = self._moved(region, delta)
        scores = self._scores(end, chosen)
        if seen and seen[0][0].mean() < scores.mean():
            return seen[0]
        return scores, end

    def _slope(
        self, at: Mapping[str, Tensor], chosen: Sequence[int]
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Scores at some weights, and the slope of the mean loss there, over some batches."""
        place = {name: weight.detach().requires_grad_() for name, weight in at.items()}
        total: dict[str, Tensor | None] = dict.fromkeys(place)
        count = sum(self.batches[k][1].numel() for k in chosen)
        scores = []
        for k in chosen:
            x, y = self.batches[k]
            with torch.enable_grad():
                logits = forward_aside(self.model, {**self.fixed, **place}, x)
                clean = self.logits[k]
                loss = task_loss(logits, y) if clean is None else divergence(clean, logits)
                part = loss * (y.numel() / count)
            found = torch.autograd.grad(part, list(place.values()), allow_unused=True)
            for name, slope in zip(place, found, strict=True):
                before = total[name]
                # a new tensor: autograd may give two parameters one and the same
                total[name] = slope if before is None or slope is None else before + slope
            scores.append(_scores(logits.detach(), y))
            self._count()
        return torch.cat(scores), total

    def _start(self, name: str, weight: Tensor, region: Region, restart: int, first: int) -> Tensor:
        draws = stream(self.seed, restart, f"{name}:{first}", "attack-start")
        if restart:
            return uniform_like(weight, draws).mul_(region.size)
        return normal_like(weight, draws).mul_(self.attack.initial_std)

    def _control(self, region: Region, kind: Control, draw: int) -> Tensor:
        delta = {}
        for name, weight in self.theta.items():
            drawn = normal_like(weight, stream(self.seed, draw, name, f"attack-{kind}"))
            if kind == "corner":
                drawn = torch.where(drawn < 0, -1.0, 1.0).to(weight.dtype)
            delta[name] = drawn.mul_(region.size)
        return self._scores(self._moved(region, delta), range(len(self.batches)))

    def _moved(self, region: Region, delta: Mapping[str, Tensor]) -> Weights:
        theta = list(self.theta.values())
        at = moved(theta, region.scales(theta), [delta[name] for name in self.theta])
        there = dict(zip(self.theta, at, strict=True))
        return keeping_signs(self.theta, there, self.attack.parameters)

    def _scores(self, weights: Mapping[str, Tensor], chosen: Iterable[int]) -> Tensor:
        found = []
        for k in chosen:
            x, y = self.batches[k]
            found.append(_scores(forward_aside(self.model, {**self.fixed, **weights}, x), y))
            self._count()
        return torch.cat(found)

    def _clean_of(self, batch: Batch) -> Tensor:
        x, y = batch
        logits = forward_aside(self.model, {**self.fixed, **self.theta}, x)
        if not isinstance(logits, Tensor):
            raise UsageError(
                f"expected a network that gives one tensor of logits; got {type(logits).__name__}"
            )
        task_loss(logits, y.clamp(0, logits.shape[1] - 1) if logits.dim() > 1 else y)  # refuses other shapes
        if int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
            raise UsageError(
                f"expected class numbers from 0 to {logits.shape[1] - 1}; got {_strange(y, logits)}"
            )
        if not bool(logits.isfinite().all()):
            raise RunError("the network gives outputs that are not finite: check its weights and the inputs")
        self._count()
        return logits

    def _count(self) -> None:
        self._seen += 1
        if self._progress is not None:
            self._progress(self._seen, self._all)


def _scores(logits: Tensor, targets: Tensor) -> Tensor:
    """1 or 0 a sample, or the right fraction of its pixels, float64; what is not finite is wrong."""
    right = (logits.argmax(1) == targets) & logits.isfinite().all(1)
    return right.double() if right.dim() == 1 else right.double().flatten(1).mean(1)


def _strange(targets: Tensor, logits: Tensor) -> int:
    return int(targets.min()) if int(targets.min()) < 0 else int(targets.max())


def _here(batches: Iterable[Batch], model: nn.Module) -> list[Batch]:
    """The batches, on the network's device."""
    first = next(iter(model.parameters()), None)
    device = torch.device("cpu") if first is None else first.device
    found = []
    for batch in batches:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise UsageError(f"expected batches (inputs, targets); got a {type(batch).__name__}")
        x, y = batch
        if not len(x) or len(x) != len(y):
            raise UsageError(f"expected as many targets as inputs in a batch; got {len(y)} and {len(x)}")
        found.append((x.to(device), y.to(device).long()))
    if not found:
        raise UsageError("there is no data to attack the weights on: expected at least one batch")
    return found
