"""A run is a folder: write what it needs to be repeated, open it again, put its network on chips.

``config.toml`` holds everything needed to repeat the run, ``model.safetensors`` its weights (with a
checksum inside), ``metrics.jsonl`` one line an epoch, ``checkpoints/`` what resuming needs, and
``chips.sqlite`` the ledger of every chip evaluated.  Nothing unpickles.
"""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neurosim import __version__
from neurosim.devices.problems import problems
from neurosim.errors import RunError, UsageError, unknown
from neurosim.storage import load_tensors

if TYPE_CHECKING:
    from torch import nn

    from neurosim.analog import Deployed
    from neurosim.data import Splits
    from neurosim.devices import Hardware
    from neurosim.evaluation import Table
    from neurosim.training import Progress, TrainResult

CONFIG = "config.toml"
WEIGHTS = "model.safetensors"
LEDGER = "chips.sqlite"
CALIBRATION_SAMPLES = 1000
"""Training samples on which converter ranges are fixed before any chip is evaluated."""
TEST_BATCH = 500
"""Test samples a forward pass; fixed, because equal batches give equal bits."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelPart(_Part):
    """The network: a name of the zoo, the shapes and statistics of its data, and its own options."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str
    num_classes: int = Field(ge=1)
    in_chans: int = Field(ge=1)
    image_size: tuple[int, int]
    input_mean: tuple[float, ...]
    input_std: tuple[float, ...]


class DataPart(_Part):
    """The data: a name, the checksum of what was read, how it was split, and how much was trained on."""

    name: str
    sha256: str = ""
    seed: int = Field(default=0, ge=0)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    limit: int | None = Field(default=None, ge=1)


class MethodPart(_Part):
    """The training method: a name and its options."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str


class TrainPart(_Part):
    """The loop: how long, how fast, in what steps, from which seed."""

    epochs: int = Field(default=60, ge=1)
    batch_size: int = Field(default=100, ge=1)
    optimizer: str = "adam"
    lr: float = Field(default=1e-3, gt=0)
    lr_schedule: str = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)


PartT = TypeVar("PartT", bound=_Part)


class Config(_Part):
    """Everything needed to repeat a run."""

    model: ModelPart
    data: DataPart
    method: MethodPart
    train: TrainPart
    hardware: dict[str, Any] | None = None
    versions: dict[str, str] = {}


_PARTS: dict[str, type[_Part]] = {
    "model": ModelPart,
    "data": DataPart,
    "method": MethodPart,
    "train": TrainPart,
}
_FROM_DATA = {"model.num_classes", "model.in_chans", "model.image_size", "data.sha256"}


def _validated(tree: Mapping[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        sentences = "; ".join(problem.sentence for problem in problems(error, Config))
        raise UsageError(f"{where}: {sentences}") from error


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """``["method.beta=0.2", "model.hidden=[64, 64]"]`` as keys and values; values are TOML, or plain words.

    >>> parse_changes(["train.lr=1e-3", "model.hidden=[64, 64]", "method.name=noise"])
    {'train.lr': 0.001, 'model.hidden': [64, 64], 'method.name': 'noise'}
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
            found[key] = text
    return found


def new_config(
    *,
    model: str = "mlp",
    data: str = "digits",
    method: str = "standard",
    robust: bool = False,
    hardware: Hardware | None = None,
    data_dir: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Config:
    """A complete configuration from names and changes such as ``{"method.beta": 0.2}``.

    What is derived is derived here: shapes and input statistics from the training data, and every
    option of the method that was not given, so that later defaults cannot change an old run.
    ``robust`` is the paper's method at the paper's settings, whatever ``method`` says.

    Raises:
        UsageError: an unknown name, key or option (with the nearest known one), or a value out of range.
    """
    from neurosim.training import ROBUST, describe, method_from

    tree: dict[str, dict[str, Any]] = {
        "model": {"name": model},
        "data": {"name": str(Path(data).absolute()) if data.endswith(".npz") else data},
        "method": describe(ROBUST) if robust else {"name": method},
        "train": {},
    }
    for key, value in (changes or {}).items():
        part, field = _split_key(key)
        tree[part][field] = value
    splits = load_data(_validated_part(DataPart, "data", tree["data"]), data_dir)
    mean, std = splits.train.mean_std()
    tree["data"]["sha256"] = splits.sha256
    shapes = {
        "num_classes": splits.num_classes,
        "in_chans": splits.in_chans,
        "image_size": splits.image_size,
        "input_mean": mean,
        "input_std": std,
    }
    tree["model"] = {**shapes, **tree["model"]}
    options = dict(tree["method"])
    tree["method"] = describe(method_from(options.pop("name"), options))
    whole: dict[str, Any] = {**tree, "versions": versions()}
    if hardware is not None:
        whole["hardware"] = tomllib.loads(hardware.to_toml())
    config = _validated(whole, "the configuration")
    create_model(config)
    return config


def _split_key(key: str) -> tuple[str, str]:
    """``train.lr`` as its two parts; an unknown part or field gets a suggestion."""
    part, _, field = key.partition(".")
    known = [f"{name}.{f}" for name, kind in _PARTS.items() for f in kind.model_fields]
    known = sorted(set(known) - _FROM_DATA)
    if key in _FROM_DATA:
        raise UsageError(f"{key} comes from the data and cannot be set")
    is_open = part in ("model", "method") and field.isidentifier()
    if key not in known and not is_open:
        raise unknown("key", key, known)
    return part, field


def _validated_part(kind: type[PartT], name: str, tree: Mapping[str, Any]) -> PartT:
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
    return _validated(tree, str(path))


@dataclass(frozen=True)
class Run:
    """An opened run folder."""

    folder: Path
    config: Config

    @property
    def name(self) -> str:
        """The folder's own name, which labels tables and figures."""
        return self.folder.resolve().name

    @property
    def ledger(self) -> Path:
        """Where every chip evaluated with this network is kept."""
        return self.folder / LEDGER

    def model(self) -> nn.Module:
        """The trained network, in evaluation mode.

        Raises:
            RunError: the weights are missing, altered, truncated, or of another network.
        """
        path = self.folder / WEIGHTS
        if not path.exists():
            raise RunError(
                f"{self.folder} holds no {WEIGHTS}: its training has not ended (train it with --resume)"
            )
        tensors, _ = load_tensors(path)
        model = create_model(self.config)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise RunError(f"{path} does not fit the model of {self.folder / CONFIG}: {reason}") from error
        return model.eval()

    def splits(self, data_dir: str | Path | None = None) -> Splits:
        """The data the run was trained on; other data under the same name raise ``RunError``."""
        return load_data(self.config.data, data_dir)

    def deploy(self, hardware: Hardware, splits: Splits) -> Deployed:
        """The trained network on this hardware, its converters fixed on the first training samples."""
        from neurosim.analog import deploy

        return deploy(self.model(), hardware, calibration=splits.train[:CALIBRATION_SAMPLES].inputs)


def open_run(folder: str | Path) -> Run:
    """Open a run folder.  Its model and its data are read when asked for.

    Raises:
        UsageError: not a run folder, or a ``config.toml`` that is not one of ours.
    """
    return Run(Path(folder), read_config(folder))


def create_model(config: Config) -> nn.Module:
    """The untrained network of a configuration."""
    from neurosim import models

    options = config.model.model_dump()
    return models.create(options.pop("name"), seed=config.train.seed, **options)


def load_data(part: DataPart, data_dir: str | Path | None = None) -> Splits:
    """The splits of a configuration, ``limit`` applied; checked against the checksum if it has one.

    Raises:
        UsageError: unknown or missing data.
        RunError: the data are not those the checksum is of.
    """
    from neurosim import data

    splits = data.load(
        part.name, folder=data_dir, seed=part.seed, validation_fraction=part.validation_fraction
    )
    if part.sha256 and splits.sha256 != part.sha256:
        raise RunError(
            f"the data {part.name!r} are not those the run was trained on: "
            f"sha256 {splits.sha256[:12]}..., expected {part.sha256[:12]}..."
        )
    return replace(splits, train=splits.train[: part.limit]) if part.limit else splits


def train_run(
    config: Config,
    folder: str | Path,
    *,
    device: str = "auto",
    data_dir: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train the network of a configuration into a run folder, or go on where it stopped.

    Raises:
        UsageError: a wrong value, a folder that is not ours, that holds a run and ``resume`` is False, or
            that holds a run of another configuration.
        RunError: the data are not the same, or the work could not be done.
    """
    from neurosim.data import Batches
    from neurosim.devices import Hardware
    from neurosim.training import method_from, train

    splits = load_data(config.data, data_dir)
    options = config.method.model_dump()
    settings = config.train.model_dump(exclude={"batch_size"})
    return train(
        create_model(config),
        {
            "train": Batches(splits.train, config.train.batch_size, shuffle_seed=config.train.seed),
            "validation": Batches(splits.validation, TEST_BATCH),
        },
        method=method_from(options.pop("name"), options),
        hardware=None if config.hardware is None else Hardware.model_validate(config.hardware),
        out=folder,
        resume=resume,
        device=device,
        config=config.model_dump(mode="json", exclude_none=True),
        progress=progress,
        **settings,
    )


@dataclass(frozen=True)
class Evaluation:
    """What a run's network does on chips: the table of chips, and its accuracy off any chip."""

    table: Table
    digital_accuracy: float
    hardware: Hardware


def evaluate_run(
    run: Run,
    hardware: Hardware,
    *,
    chips: int | Sequence[int],
    times_s: Sequence[float],
    seed: int = 0,
    limit: int | None = None,
    data_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """The run's network on chips of this hardware, over its test data (the first ``limit`` samples).

    Every chip goes into the run's ledger when it is done, and what the ledger holds is not computed
    again: a stopped evaluation goes on where it stopped.
    """
    from neurosim.data import Batches
    from neurosim.evaluation import digital_accuracy, evaluate

    splits = run.splits(data_dir)
    net = run.deploy(hardware, splits)
    test = Batches(splits.test if limit is None else splits.test[:limit], TEST_BATCH)
    table = evaluate(net, test, chips=chips, times_s=times_s, seed=seed, ledger=run.ledger, progress=progress)
    return Evaluation(table, digital_accuracy(net, test), hardware)
