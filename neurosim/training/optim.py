"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from neurosim.errors import unknown


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


def _paper_step(progress: float, epoch_progress: float) -> float:
    # the paper's CNN: 35 epochs at lr, 5 at lr/10
    return 0.1 if epoch_progress >= 0.875 else 1.0


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "paper-step": _paper_step,
}


def optimizer_from(
    name: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float
) -> Optimizer:
    """The optimiser of this name; UsageError with the nearest name if there is none."""
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name](parameters, lr, weight_decay)


def schedule_from(name: str) -> Callable[[float, float], float]:
    """Factor on the learning rate as a function of (progress, progress at the epoch's start), in [0, 1].

    ``constant``: 1.  ``cosine``: ½(1 + cos π·progress).  ``paper-step``: 1, then 0.1 in the last eighth
    of the epochs (35 + 5 of 40).

    >>> [schedule_from("paper-step")(0.0, epoch / 40) for epoch in (0, 34, 35, 39)]
    [1.0, 1.0, 0.1, 0.1]
    """
    if name not in SCHEDULES:
        raise unknown("lr_schedule", name, SCHEDULES)
    return SCHEDULES[name]
