"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neurosim.errors import UsageError, unknown


def _adam(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)


def _adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)


def _sgd(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float, float], Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,  # Nesterov momentum 0.9, the paper's for ResNet32
}


def _constant(progress: float, epoch_progress: float) -> float:
    return 1.0


def _cosine(progress: float, epoch_progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _step(drop: float, progress: float, epoch_progress: float) -> float:
    return 0.1 if epoch_progress >= drop else 1.0


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "paper-step": partial(_step, 0.875),
}
_STEP = "step-"
"""What begins the name of a schedule that says itself when the rate drops: ``step-0.75``."""


def optimizer_from(
    name: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float
) -> Optimizer:
    """The optimiser of this name; UsageError with the nearest name if there is none."""
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name](parameters, lr, weight_decay)


def schedule_from(name: str) -> Callable[[float, float], float]:
    """Factor on the learning rate as a function of (progress, progress at the epoch's start), in [0, 1].

    ``constant``: 1.  ``cosine``: ½(1 + cos π·progress).  ``step-0.75``: 1, then 0.1 after that fraction of
    the epochs.  ``paper-step``: the same after seven eighths of them (35 + 5 of 40, the paper's CNN).

    Raises:
        UsageError: no such schedule, or a step outside the training.

    >>> [schedule_from("paper-step")(0.0, epoch / 40) for epoch in (0, 34, 35, 39)]
    [1.0, 1.0, 0.1, 0.1]
    >>> [schedule_from("step-0.75")(0.0, epoch / 200) for epoch in (149, 150)]
    [1.0, 0.1]
    """
    if name in SCHEDULES:
        return SCHEDULES[name]
    if name.startswith(_STEP):
        return partial(_step, _drop(name))
    raise unknown("lr_schedule", name, [*SCHEDULES, f"{_STEP}0.75"])


def _drop(name: str) -> float:
    try:
        drop = float(name.removeprefix(_STEP))
    except ValueError:
        drop = math.nan
    if not 0 < drop < 1:
        raise UsageError(
            f"lr_schedule {name!r}: expected the fraction of the epochs after which the rate drops to a"
            " tenth, such as step-0.75"
        )
    return drop


_LEAST_NORM = 1e-3  # of weights: what begins at 0 must be able to leave it
_TINY = 1e-38


def clip_adaptive_(parameters: Iterable[nn.Parameter], ratio: float) -> None:
    """Adaptive gradient clipping, in place: a unit's gradient in proportion to its weights.

    ::

        G_i ← G_i·min(1, λ·max(‖W_i‖, 10⁻³)/‖G_i‖),   W_i: what leads to unit i (a row; one bias)

    One unit whose gradient explodes, as those of recurrent spiking networks do now and then, then changes
    nothing for the others (where it is not finite, nothing at all); a limit on the norm of the whole gradient
    would stop them all.

    Source: Brock, De, Smith, Simonyan, "High-performance large-scale image recognition without
    normalization", ICML 2021 (arXiv 2102.06171), equation 3.

    Args:
        parameters: those without a gradient are left out.
        ratio: λ, about 0.01 to 0.2.

    >>> p = nn.Parameter(torch.ones(2, 4))
    >>> p.grad = torch.tensor([[3.0] * 4, [0.01] * 4])
    >>> clip_adaptive_([p], 0.1)
    >>> [round(one, 3) for one in p.grad[:, 0].tolist()]
    [0.1, 0.01]
    """
    for p in parameters:
        if p.grad is None or p.numel() == 0:
            continue
        axes = tuple(range(1, p.dim()))
        largest = ratio * _norms(p.detach(), axes).clamp_(min=_LEAST_NORM)
        found = _norms(p.grad, axes)
        factor = (largest / found.clamp(min=_TINY)).clamp_(max=1.0).to(p.grad.dtype)
        p.grad.copy_(torch.where(found.isfinite(), p.grad * factor, 0.0))


def _norms(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """l2 over these axes, which stay, summed in float64 (squares of 10²⁰); absolute values without axes."""
    if not axes:
        return x.abs().double()
    return torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=torch.float64)
