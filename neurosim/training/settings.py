"""What a training is asked to do, what it tells on the way, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neurosim.errors import UsageError, unknown


@dataclass(frozen=True)
class Progress:
    """What a progress callback receives after every step, and after every epoch with its ``row``."""

    epoch: int  # from 1
    epochs: int
    batch: int  # done in this epoch
    batches: int | None  # per epoch, None when unknown
    metrics: Mapping[str, float]  # of the last step
    row: Mapping[str, Any] | None = None  # of metrics.jsonl, once the epoch is done


@dataclass(frozen=True)
class TrainResult:
    """How a training went.

    ``history`` holds the rows of ``metrics.jsonl``; ``passes`` the forward-and-backward passes of all
    steps; ``seconds`` the time spent, earlier sessions of a resumed run included.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    best_validation_accuracy: float | None
    passes: float
    seconds: float
    path: Path | None


@dataclass(frozen=True)
class Settings:
    """The arguments of :func:`train` that decide its bits; kept in ``training.toml``."""

    method: dict[str, Any]
    epochs: int
    seed: int
    optimizer: str
    lr: float
    lr_schedule: str
    weight_decay: float
    clip_norm: float | None
    hardware: dict[str, Any] | None
    chips_per_batch: int = 1
    freeze: tuple[str, ...] = ()
    autocast: str | None = None
    augment: dict[str, Any] | None = None
    validation_mismatch: float | None = None
    clip_adaptive: float | None = None
    validation_attack: float | None = None

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs, 1)
        check_integer("seed", self.seed, None)
        check_integer("chips_per_batch", self.chips_per_batch, 1)
        if self.chips_per_batch > 1 and self.hardware is None:
            raise UsageError(f"chips_per_batch={self.chips_per_batch} needs hardware to train through")
        if self.autocast not in (None, "bfloat16"):
            raise unknown("type of autocast", str(self.autocast), ["bfloat16"])
        if self.autocast is not None and self.hardware is not None:
            raise UsageError(
                f"autocast={self.autocast!r} is for training in plain numbers: leave it out, or the hardware"
            )
        check_number("lr", self.lr, above=0.0)
        check_number("weight_decay", self.weight_decay, least=0.0)
        if self.validation_mismatch is not None:
            check_number("validation_mismatch", self.validation_mismatch, above=0.0)
        if self.validation_attack is not None:
            check_number("validation_attack", self.validation_attack, above=0.0)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, above=0.0)
        if self.clip_adaptive is not None:
            check_number("clip_adaptive", self.clip_adaptive, above=0.0)

    def described(self) -> dict[str, Any]:
        """For ``training.toml``; what has been added since the first version only where it acts."""
        added = {"chips_per_batch": 1, "freeze": (), "autocast": None, "augment": None}
        added |= {"validation_mismatch": None, "clip_adaptive": None, "validation_attack": None}
        return {key: value for key, value in asdict(self).items() if key not in added or value != added[key]}


def check_integer(name: str, value: object, least: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        bound = "" if least is None else f" >= {least}"
        raise UsageError(f"expected {name}, an integer{bound}; got {name}={value!r}")


def check_number(name: str, value: object, *, above: float = -math.inf, least: float = -math.inf) -> None:
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or number <= above or number < least:
        bound = f" > {above:g}" if above > -math.inf else f" >= {least:g}"
        raise UsageError(f"expected {name}, a finite number{bound}; got {name}={value!r}")
