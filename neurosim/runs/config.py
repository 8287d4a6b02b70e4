"""What a run is made of: ``config.toml`` as objects, and changes of it from the command line."""

from __future__ import annotations

import platform
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neurosim import __version__
from neurosim.devices.problems import problems
from neurosim.errors import RunError, UsageError, unknown

CONFIG = "config.toml"
WEIGHTS = "model.safetensors"
LEDGER = "chips.sqlite"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelPart(_Part):
    """The network: a name of the zoo or ``module:callable``, what it is told of its data, its own options."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str
    num_classes: int = Field(ge=1)
    in_chans: int = Field(ge=1)
    image_size: tuple[int, int]
    input_mean: tuple[float, ...]
    input_std: tuple[float, ...]
    fused: bool | None = None
    """Whether it is in its final form, see :mod:`neurosim.models.fusing`."""


class DataPart(_Part):
    """The data: a name, the checksum of what was read, how it was split, and how much was trained on."""

    name: str
    sha256: str = ""
    seed: int = Field(default=0, ge=0)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    limit: int | None = Field(default=None, ge=1)
    per_class: int | None = Field(default=None, ge=1)
    task: Literal["segmentation"] | None = None


class MethodPart(_Part):
    """The training method: a name and its options."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str


class OriginPart(_Part):
    """Another run, and the SHA-256 of its ``model.safetensors`` when it was read."""

    run: str
    sha256: str


class TrainPart(_Part):
    """The loop: how long, how fast, in what steps, from which seed, from whose weights."""

    epochs: int = Field(default=60, ge=1)
    batch_size: int = Field(default=100, ge=1)
    optimizer: str = "adam"
    lr: float = Field(default=1e-3, gt=0)
    lr_schedule: str = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    clip_adaptive: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    chips_per_batch: int | None = Field(default=None, ge=1)
    freeze: tuple[str, ...] | None = None
    init: dict[str, OriginPart] | None = None
    autocast: Literal["bfloat16"] | None = None
    augment: dict[str, bool | int | float] | None = None
    teacher: OriginPart | None = None
    validation_mismatch: float | None = Field(default=None, gt=0)
    validation_attack: float | None = Field(default=None, gt=0)


class Config(_Part):
    """Everything needed to repeat a run."""

    model: ModelPart
    data: DataPart
    method: MethodPart
    train: TrainPart
    hardware: dict[str, Any] | None = None
    fused_from: OriginPart | None = None
    versions: dict[str, str] = {}


_PARTS: dict[str, type[_Part]] = {
    "model": ModelPart,
    "data": DataPart,
    "method": MethodPart,
    "train": TrainPart,
}
_COMES_FROM = {
    **dict.fromkeys(["model.num_classes", "model.in_chans", "model.image_size"], "the data"),
    **dict.fromkeys(["data.sha256", "data.task"], "the data"),
    "model.seed": "--seed (train.seed)",
    "model.fused": "neurosim fuse",
    "train.init": "--init",
    "train.teacher": "method.teacher",
}
PartT = TypeVar("PartT", bound=_Part)


def validated(tree: Mapping[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        sentences = "; ".join(problem.sentence for problem in problems(error, Config))
        raise UsageError(f"{where}: {sentences}") from error


_BARE_POINT = re.compile(r"[+-]?(\.\d+|\d+\.)([eE][+-]?\d+)?")  # .6 and 6.: numbers to all but TOML


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """``["method.beta=0.2", "model.hidden=[64, 64]"]`` as keys and values; values are TOML, or plain words.

    >>> parse_changes(["train.lr=1e-3", "model.hidden=[64, 64]", "method.name=noise"])
    {'train.lr': 0.001, 'model.hidden': [64, 64], 'method.name': 'noise'}
    >>> parse_changes(["method.eta=.6"])
    {'method.eta': 0.6}
    """
    found: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        key, text = key.strip(), text.strip()
        if not (key and equals and text):
            raise UsageError(f"cannot read {change!r}: expected key=value, such as method.beta=0.2")
        try:
            found[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            if text[0] in "[{\"'":
                raise UsageError(f"cannot read {change!r}: {text!r} is not a TOML value") from None
            found[key] = float(text) if _BARE_POINT.fullmatch(text) else text
    return found


def split_key(key: str) -> tuple[str, str]:
    """``train.lr`` as its two parts; an unknown part or field gets a suggestion."""
    part, _, field = key.partition(".")
    known = [f"{name}.{f}" for name, kind in _PARTS.items() for f in kind.model_fields]
    known = sorted(set(known) - set(_COMES_FROM))
    if key in _COMES_FROM:
        raise UsageError(f"{key} comes from {_COMES_FROM[key]} and cannot be set")
    is_open = (part in ("model", "method") and field.isidentifier()) or _is_nested(part, field)
    if key not in known and not is_open:
        raise unknown("key", key, known)
    return part, field


def _is_nested(part: str, field: str) -> bool:
    """Whether it names a value of a table in the table: of a part of a method, or of augmentation."""
    table, _, name = field.partition(".")
    is_table = table == "augment" if part == "train" else part == "method"
    return is_table and table.replace("-", "_").isidentifier() and name.isidentifier()


def put(table: dict[str, Any], field: str, value: object) -> None:
    """One value, of the table itself or of a table in it."""
    name, dot, rest = field.partition(".")
    if dot:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{field} names a part of {name}, which is {inner!r}")
        inner[rest] = value
    else:
        table[name] = value


def validated_part(kind: type[PartT], name: str, tree: Mapping[str, Any]) -> PartT:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        sentences = "; ".join(problem.sentence for problem in problems(error, kind))
        raise UsageError(f"{name}: {sentences}") from error


def versions() -> dict[str, str]:
    """The versions that decide a run's bits."""
    import numpy as np
    import torch

    return {
        "neurosim": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def read_config(folder: str | Path) -> Config:
    """Read ``config.toml`` of a run folder.

    Raises:
        UsageError: no such folder, no ``config.toml`` in it, or one that is not ours; every error at once.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        what = f"it holds no {CONFIG}" if Path(folder).is_dir() else "there is no such folder"
        raise UsageError(f"{folder} is not a run: {what} (neurosim train makes one)")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise UsageError(f"{path} is damaged or not a neurosim configuration: {error}") from error
    return validated(tree, str(path))
