"""A run is a folder: write what it needs to be repeated, open it again, put its network on chips.

``config.toml`` holds everything needed to repeat the run, ``model.safetensors`` its weights (with a
checksum inside), ``metrics.jsonl`` one line an epoch, ``checkpoints/`` what resuming needs, and
``chips.sqlite`` the ledger of every chip evaluated.  Nothing unpickles.
"""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
import tempfile
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neurosim import __version__
from neurosim.devices.problems import problems
from neurosim.errors import RunError, UsageError, unknown
from neurosim.storage import load_tensors, read_tensors, save_tensors, sha256_file, write_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from neurosim.analog import Deployed
    from neurosim.data import Examples, Splits
    from neurosim.devices import Hardware
    from neurosim.evaluation import Table
    from neurosim.models import OwnModel
    from neurosim.training import Method, Progress, TrainResult

CONFIG = "config.toml"
WEIGHTS = "model.safetensors"
LEDGER = "chips.sqlite"
CALIBRATION_SAMPLES = 1000
"""Training samples on which converter ranges are fixed before any chip is evaluated."""
BATCHNORM = ("kept", "folded", "re-estimated")
TEST_BATCH = 500
KEPT_ON_DEVICE_BYTES = 2**31  # more is moved batch by batch
"""Test samples a forward pass; fixed, because equal batches give equal bits."""
PIXELS_BATCH = 1 << 19
"""Test pixels a forward pass, at most, where each has a class: a U-Net keeps dozens of maps of them."""
WHOLE = "*"
"""The key of ``train.init`` for a whole network; any other is a prefix of names."""
FUSED_WITHIN = 1e-4
"""The largest difference that fusing may make to an output, relative to the largest output."""


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


PartT = TypeVar("PartT", bound=_Part)


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


def _validated(tree: Mapping[str, Any], where: str) -> Config:
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


def new_config(
    *,
    model: str = "mlp",
    data: str = "digits",
    method: str = "standard",
    robust: bool = False,
    hardware: Hardware | None = None,
    data_dir: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    own: Sequence[OwnModel] = (),
) -> Config:
    """A complete configuration from names and changes such as ``{"method.beta": 0.2}``.

    What is derived is derived here: shapes and input statistics from the training data, and every
    option of the method that was not given, so that later defaults cannot change an old run.
    ``robust`` is :data:`neurosim.training.ROBUST`, whatever ``method`` says, its best epoch chosen by
    mismatched networks.  ``own`` are networks
    outside the zoo that ``model`` may name.

    Raises:
        UsageError: an unknown name, key or option (with the nearest known one), or a value out of range.
    """
    from neurosim.training import ROBUST, ROBUST_MISMATCH, describe, method_from

    tree: dict[str, dict[str, Any]] = {
        "model": {"name": model},
        "data": {"name": _data_name(data)},
        "method": describe(ROBUST) if robust else {"name": method},
        "train": {"validation_mismatch": ROBUST_MISMATCH} if robust else {},
    }
    for key, value in (changes or {}).items():
        part, field = _split_key(key)
        _put(tree[part], field, value)
    for one in own:
        if one.name == model:
            one.check_options(set(tree["model"]) - {"name"})
    splits = load_data(_validated_part(DataPart, "data", tree["data"]), data_dir)
    tree["data"]["sha256"] = splits.sha256
    if splits.task == "segmentation":
        tree["data"]["task"] = splits.task
    _check_series(tree["model"]["name"], splits)
    tree["model"] = {**_shapes(splits), **tree["model"]}
    options = dict(tree["method"])
    chosen = method_from(options.pop("name"), options)
    tree["method"] = describe(chosen)
    if (teacher := _teacher_of(chosen)) is not None:
        tree["train"]["teacher"] = teacher
    whole: dict[str, Any] = {**tree, "versions": versions()}
    if hardware is not None:
        whole["hardware"] = tomllib.loads(hardware.to_toml())
    config = _validated(whole, "the configuration")
    create_model(config, own)
    return config


def _teacher_of(method: Method) -> dict[str, str] | None:
    """The run that teaches, recorded with its SHA-256; None where nothing is taught."""
    from neurosim.training.combined import as_combined

    taught = as_combined(method).distillation
    if taught is None or taught.alpha == 0.0:
        return None
    if not taught.teacher:
        raise UsageError("method 'distil' needs a teacher: expected a run's folder, --set method.teacher=RUN")
    path = Path(taught.teacher).absolute()
    read_config(path)
    return {"run": str(path), "sha256": _digest_of(path)}


def _data_name(data: str) -> str:
    """A name that means the same from every folder."""
    return str(Path(data).absolute()) if data.endswith(".npz") else data


def _shapes(splits: Splits) -> dict[str, Any]:
    """What a network is told of its data."""
    mean, std = splits.train.mean_std()
    return {
        "num_classes": splits.num_classes,
        "in_chans": splits.in_chans,
        "image_size": splits.image_size,
        "input_mean": mean,
        "input_std": std,
    }


def _split_key(key: str) -> tuple[str, str]:
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


def _put(table: dict[str, Any], field: str, value: object) -> None:
    """One value, of the table itself or of a table in it."""
    name, dot, rest = field.partition(".")
    if dot:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{field} names a part of {name}, which is {inner!r}")
        inner[rest] = value
    else:
        table[name] = value


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
class Placement:
    """What of a network goes on crossbars, and what becomes of its batch normalisations.

    Attributes:
        include, exclude, strict, also: as ``include``, ``exclude``, ``strict`` and ``weights`` of
            :func:`neurosim.deploy`.
        batchnorm: one of :data:`BATCHNORM`: digital with the statistics of training (``kept``), done by the
            layers before them (``folded``), or digital with statistics taken on each chip (``re-estimated``).
        products: ``float32`` or ``bfloat16``, as of :func:`neurosim.deploy`.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    strict: bool = False
    also: tuple[str, ...] = ()
    batchnorm: str = "kept"
    products: str = "float32"

    def __post_init__(self) -> None:
        if self.batchnorm not in BATCHNORM:
            raise unknown("way to treat batch normalisations,", self.batchnorm, BATCHNORM)

    def deploy(self, model: nn.Module, hardware: Hardware, inputs: Tensor) -> Deployed:
        """The network on this hardware, calibrated on some training inputs."""
        from neurosim.analog import deploy

        net = deploy(
            model,
            hardware,
            calibration=inputs,
            include=self.include,
            exclude=self.exclude,
            strict=self.strict,
            weights=self.also,
            fold=self.batchnorm == "folded",
            products=self.products,  # type: ignore[arg-type]  # checked there
        )
        if self.batchnorm == "re-estimated":
            net.reestimate_batchnorm(inputs)
        return net


@dataclass(frozen=True)
class Subject(ABC):
    """A network that is put on chips, the data it reads, and the folder of what is found."""

    folder: Path

    @property
    @abstractmethod
    def name(self) -> str:
        """What labels it in tables and figures."""

    @property
    def ledger(self) -> Path:
        """Where every chip evaluated with this network is kept."""
        return self.folder / LEDGER

    @property
    @abstractmethod
    def own(self) -> OwnModel | None:
        """The user's own callable that made the network, if one did."""

    @abstractmethod
    def model(self) -> nn.Module:
        """The network, in evaluation mode."""

    @abstractmethod
    def splits(self, data_dir: str | Path | None = None) -> Splits:
        """The data: converters are fixed on its training part, chips are tested on its test part."""

    def deploy(self, hardware: Hardware, splits: Splits, placement: Placement | None = None) -> Deployed:
        """The network on this hardware, its converters fixed on the first training samples.

        So are the weights that are verified when they are written, where the hardware verifies some only.
        """
        some = splits.train[: _calibration_samples(splits)]
        net = (placement or Placement()).deploy(self.model(), hardware, some.inputs)
        if any(one.writing.selective for one in hardware.variants()):
            net.select_verified(some.inputs)
        return net

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """Everything that may run code of the network goes inside."""
        return contextlib.nullcontext() if self.own is None else self.own.at_work()


@dataclass(frozen=True)
class Run(Subject):
    """An opened run folder."""

    config: Config
    known: tuple[OwnModel, ...] = ()
    """Networks outside the zoo that the run may name."""

    @property
    def name(self) -> str:
        """The folder's own name, which labels tables and figures."""
        return self.folder.resolve().name

    @property
    def own(self) -> OwnModel | None:
        """The one of ``known`` that the run records."""
        return next((one for one in self.known if one.name == self.config.model.name), None)

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
        model = create_model(self.config, self.known)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise RunError(f"{path} does not fit the model of {self.folder / CONFIG}: {reason}") from error
        return model.eval()

    def splits(self, data_dir: str | Path | None = None) -> Splits:
        """The data the run was trained on; other data under the same name raise ``RunError``."""
        return load_data(self.config.data, data_dir)


@dataclass(frozen=True)
class OwnNetwork(Subject):
    """A network of the user's own that no run of ours trained; made by :func:`own_network`."""

    network: OwnModel
    data: Splits
    options: Mapping[str, Any]
    weights: Path | None = None

    @property
    def name(self) -> str:
        """Its ``module:callable``."""
        return self.network.name

    @property
    def own(self) -> OwnModel:
        """Its callable."""
        return self.network

    def model(self) -> nn.Module:
        """What the callable returns, with the tensors of ``weights`` in it if there are any."""
        model = self.network.create({**_shapes(self.data), **self.options}, task=self.data.task)
        if self.weights is not None:
            load_weights(model, self.weights, self.name)
        return model.eval()

    def splits(self, data_dir: str | Path | None = None) -> Splits:
        """The data it was opened with."""
        return self.data


def own_network(
    own: OwnModel,
    data: str,
    folder: str | Path,
    *,
    weights: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    data_dir: str | Path | None = None,
) -> OwnNetwork:
    """A network of the user's own and the data to evaluate it on.

    Args:
        own: its callable; the network it returns is trained already, or gets ``weights``.
        data: as for :func:`new_config`.
        folder: where the results go.
        weights: a safetensors file with exactly the network's tensors.
        options: arguments of the callable.
        data_dir: a folder with the data sets.

    Raises:
        UsageError: unknown or missing data, an option the callable does not take.
    """
    own.check_options(options or {})
    splits = load_data(DataPart(name=_data_name(data)), data_dir)
    return OwnNetwork(
        Path(folder), own, splits, dict(options or {}), None if weights is None else Path(weights)
    )


def load_weights(model: nn.Module, path: Path, name: str) -> None:
    """Put the tensors of a safetensors file into a network; a tensor that is used twice may be there once.

    Raises:
        UsageError: no such file, a pickle, or other tensors than the network's.
        RunError: the file is damaged.
    """
    tensors = read_tensors(path)
    fault = _misfit(model.state_dict(keep_vars=True), tensors)
    if fault is not None:
        raise UsageError(f"{path} does not fit the network of {name}: the file {fault}")
    model.load_state_dict(tensors, strict=False)


def _misfit(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong with tensors for a network's state; one that is used twice may be there once."""
    filled = {id(state[key]) for key in tensors if key in state}
    lacking = [key for key, tensor in state.items() if id(tensor) not in filled]
    strange = [key for key in tensors if key not in state]
    if lacking or strange:
        return f"lacks {_some(lacking)}" if lacking else f"holds {_some(strange)}, which the network has not"
    for key, tensor in tensors.items():
        if state[key].shape != tensor.shape:
            shapes = tuple(tensor.shape), tuple(state[key].shape)
            return f"has {key!r} of shape {shapes[0]}, the network of shape {shapes[1]}"
    return None


def begin_from(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str, source: str) -> None:
    """Put trained weights and statistics of another network into this one: all, or those under a prefix.

    Never taken are the buffers of a ``normalise`` (mean and deviation of the inputs): those belong to the
    data.

    Args:
        model: changed in place.
        tensors: of the other network, by name.
        prefix: :data:`WHOLE`, or a prefix such as ``trunk`` of names that both networks have.
        source: what the tensors are called in a message.

    Raises:
        UsageError: what is asked for does not fit, to the last name and shape.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}

    def asked(name: str) -> bool:
        of_data = "normalise" in name.split(".")[:-1] and name not in parameters
        return not of_data and (prefix == WHOLE or name.startswith(f"{prefix}."))

    given = {name: tensor for name, tensor in tensors.items() if asked(name)}
    state = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if asked(name)}
    part = "the network" if prefix == WHOLE else f"the part {prefix!r} of the network"
    if not state:
        raise UsageError(f"there is nothing to begin from {source}: {part} has no weights")
    fault = _misfit(state, given)
    if fault is not None:
        raise UsageError(f"{part} cannot begin from {source}: that {fault}")
    model.load_state_dict(given, strict=False)


def with_init(config: Config, sources: Mapping[str, str | Path], folder: str | Path | None = None) -> Config:
    """The configuration with weights to begin from, each recorded with its SHA-256.

    Args:
        config: of :func:`new_config`.
        sources: run folders by prefix; :data:`WHOLE` for a whole network.
        folder: of a run that is resumed.  Once it has begun it needs the weights no more: those that are
            gone are taken as recorded there, and those that have changed are refused.

    Raises:
        UsageError: not a run, or its weights are not those that ``folder`` began from.
        RunError: a run without weights.
    """
    begun = Path(folder) / CONFIG if folder is not None else None
    recorded = (read_config(begun.parent).train.init or {}) if begun is not None and begun.is_file() else {}
    init = {}
    for prefix, run in sources.items():
        path, old = Path(run).absolute(), recorded.get(prefix)
        if old is not None and old.run == str(path):
            _weights_of(old, required=False)
            init[prefix] = old
        else:
            read_config(path)
            init[prefix] = OriginPart(run=str(path), sha256=_digest_of(path))
    train = config.train.model_copy(update={"init": init or None})
    return config.model_copy(update={"train": train})


def _digest_of(run: Path) -> str:
    if not (run / WEIGHTS).exists():
        raise RunError(f"{run} holds no {WEIGHTS}: its training has not ended (train it with --resume)")
    return sha256_file(run / WEIGHTS)


def _weights_of(origin: OriginPart, required: bool) -> Path | None:
    """The recorded weights, unchanged; None where they are gone and not required."""
    path = Path(origin.run) / WEIGHTS
    if not path.exists() and not required:
        return None
    digest = _digest_of(path.parent)
    if digest != origin.sha256:
        raise UsageError(
            f"{path} has changed since the run was begun from it: sha256 {digest[:12]}..., "
            f"expected {origin.sha256[:12]}..."
        )
    return path


def _begin(model: nn.Module, config: Config, begun: bool) -> None:
    """The weights of ``train.init``; of a run that has a checkpoint they are only checked."""
    for prefix, origin in sorted((config.train.init or {}).items()):
        path = _weights_of(origin, required=not begun)
        if path is not None and not begun:
            begin_from(model, load_tensors(path)[0], prefix, str(path))


def _teacher(config: Config, own: Sequence[OwnModel]) -> nn.Module | None:
    """The network that teaches, unchanged since the run was described."""
    origin = config.train.teacher
    if origin is None:
        return None
    _weights_of(origin, required=True)
    return open_run(origin.run, own).model()


def _some(names: Sequence[str]) -> str:
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def open_run(folder: str | Path, own: Sequence[OwnModel] = ()) -> Run:
    """Open a run folder.  Its model and its data are read when asked for.

    A run that records a network outside the zoo is opened with it among ``own``, or not at all: a file never
    causes an import.

    Raises:
        UsageError: not a run folder, a ``config.toml`` that is not one of ours, or a network outside the zoo
            that is not among ``own``.
    """
    run = Run(Path(folder), read_config(folder), tuple(own))
    _check_known(run.config.model.name, own, f"{folder} records")
    return run


def _check_known(name: str, own: Sequence[OwnModel], where: str) -> None:
    from neurosim.models import is_own

    if is_own(name) and all(one.name != name for one in own):
        raise UsageError(
            f"{where} the network {name}, code from outside neurosim that a file must not import: "
            f"add --model {name} if you trust that code"
        )


def create_model(config: Config, own: Sequence[OwnModel] = ()) -> nn.Module:
    """The untrained network of a configuration, from the zoo or from one of ``own``."""
    from neurosim import models

    settings = config.model.model_dump()
    name, in_final_form = settings.pop("name"), settings.pop("fused")
    if "seed" in settings:
        raise UsageError("the configuration: unknown key 'model.seed' (the seed is train.seed)")
    _check_known(name, own, "the configuration names")
    task = config.data.task or "classification"
    for one in own:
        if one.name == name:
            model = one.create(settings, config.train.seed, task)
            break
    else:
        _check_task(name, task, config.data.name)
        model = models.create(name, seed=config.train.seed, **settings)
    return models.fusing.fused(model) if in_final_form else model


def _check_task(name: str, task: str, data: str) -> None:
    """A network that gives a class for each image needs data that have one, and so for pixels."""
    from neurosim import models

    if (given := models.info(name).task) != task:
        each = {"classification": "image", "segmentation": "pixel"}
        raise UsageError(
            f"{name} gives a class for each {each[given]}, and the data {data!r} have one for each "
            f"{each[task]}: expected a network for {task} (see neurosim models list)"
        )


def _check_series(name: str, splits: Splits) -> None:
    """A network of the zoo reads images or time series, not both."""
    from neurosim import models

    if not models.is_own(name) and models.info(name).series != splits.is_series:
        kinds = ("images", "time series")
        reads, held = kinds[models.info(name).series], kinds[splits.is_series]
        raise UsageError(
            f"{name} reads {reads}, and the data {splits.name!r} are {held}: expected a network for {held}"
            + (" (lsnn-ecg, lsnn-speech)" if splits.is_series else " (see neurosim models list)")
        )


def load_data(part: DataPart, data_dir: str | Path | None = None) -> Splits:
    """The splits of a configuration, with as few training samples as it says; checked by its checksum.

    Raises:
        UsageError: unknown or missing data.
        RunError: the data are not those the checksum is of.
    """
    from neurosim import data

    if part.limit and part.per_class:
        raise UsageError(
            f"data.limit={part.limit} and data.per_class={part.per_class} both choose training samples: "
            "expected one of the two"
        )
    splits = data.load(
        part.name,
        folder=data_dir,
        seed=part.seed,
        validation_fraction=part.validation_fraction,
        per_class=part.per_class,
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
    own: Sequence[OwnModel] = (),
) -> TrainResult:
    """Train the network of a configuration into a run folder, or go on where it stopped.

    ``own`` are networks outside the zoo that the configuration may name.

    Raises:
        UsageError: a wrong value, a folder that is not ours, that holds a run and ``resume`` is False, or
            that holds a run of another configuration.
        RunError: the data are not the same, or the work could not be done.
    """
    from neurosim.data import Batches
    from neurosim.devices import Hardware
    from neurosim.training import method_from, train
    from neurosim.training.loop import torch_device

    splits = load_data(config.data, data_dir)
    options = config.method.model_dump()
    settings = config.train.model_dump(exclude={"batch_size", "init", "freeze", "teacher"})
    kept = partial(_beside, device=torch_device(device))
    model = create_model(config, own)
    _begin(model, config, begun=resume and any(Path(folder).glob("checkpoints/step-*.safetensors")))
    with Run(Path(folder), config, tuple(own)).at_work():
        return train(
            model,
            {
                "train": Batches(kept(splits.train), config.train.batch_size, shuffle_seed=config.train.seed),
                "validation": Batches(kept(splits.validation), batch_size_for(splits)),
            },
            method=method_from(options.pop("name"), options),
            hardware=None if config.hardware is None else Hardware.model_validate(config.hardware),
            out=folder,
            resume=resume,
            device=device,
            config=config.model_dump(mode="json", exclude_none=True),
            progress=progress,
            freeze=config.train.freeze or (),
            teacher=_teacher(config, own),
            **settings,
        )


def _beside(examples: Examples, device: torch.device) -> Examples:
    """The examples where the network is, if that is a GPU and they are small enough to stay there."""
    size = examples.inputs.numel() * examples.inputs.element_size()
    if device.type == "cpu" or size > KEPT_ON_DEVICE_BYTES:
        return examples
    return replace(examples, inputs=examples.inputs.to(device), targets=examples.targets.to(device))


def batch_size_for(splits: Splits) -> int:
    """Samples a forward pass: a function of the data, because equal batches give equal bits."""
    return _at_most(TEST_BATCH, PIXELS_BATCH, splits)


def _calibration_samples(splits: Splits) -> int:
    return _at_most(CALIBRATION_SAMPLES, 2 * PIXELS_BATCH, splits)


def _at_most(samples: int, pixels: int, splits: Splits) -> int:
    """So many samples, or as many as have so many pixels where each pixel has a class; at least one."""
    if splits.task == "classification":
        return samples
    height, width = splits.image_size
    return max(1, min(samples, pixels // (height * width)))


@dataclass(frozen=True)
class Fusion:
    """A run in its final form, and what that changed on the validation data.

    ``largest`` is the largest difference of an output, ``relative`` that over the largest output, and
    ``changed`` the number of ``decisions`` (a class for each sample, or for each pixel) that became others.
    """

    folder: Path
    largest: float
    relative: float
    changed: int
    decisions: int


def fuse_run(run: Run, folder: str | Path, data_dir: str | Path | None = None) -> Fusion:
    """Write a new run whose network is the final form of another's, see :mod:`neurosim.models.fusing`.

    Raises:
        UsageError: nothing to fuse, a network that is fused already, or a folder that exists.
        RunError: the outputs on the validation data differ by more than :data:`FUSED_WITHIN`, relative to
            the largest (of the first 1,000); nothing is written.
    """
    from neurosim.models import fusing

    folder = Path(folder)
    if run.config.model.fused:
        raise UsageError(f"{run.folder} is fused already")
    if folder.exists():
        raise UsageError(f"{folder} exists already: expected a folder that is yet to be made (--out DIR)")
    with run.at_work():
        model = run.model()
        final = fusing.fused(model)
        found = _differences(model, final, run.splits(data_dir), folder)
    if not found.relative <= FUSED_WITHIN:
        raise RunError(
            f"the fused network of {run.folder} gives other outputs: off by up to {found.largest:.3g},"
            f" {found.relative:.2g} of the largest, and {FUSED_WITHIN:g} is allowed"
        )
    _write_fused(run, final, folder)
    return found


def _differences(model: nn.Module, final: nn.Module, splits: Splits, folder: Path) -> Fusion:
    import torch

    from neurosim.data import Batches

    off = size = 0.0
    changed = decisions = 0
    with torch.no_grad():
        for x, y in Batches(splits.validation[:CALIBRATION_SAMPLES], batch_size_for(splits)):
            before, after = model(x), final(x)
            off = max(off, float((before - after).abs().max()))
            size = max(size, float(before.abs().max()))
            changed += int((before.argmax(1) != after.argmax(1)).sum())
            decisions += y.numel()
    return Fusion(folder, off, off / size if size else off, changed, decisions)


def _write_fused(run: Run, final: nn.Module, folder: Path) -> None:
    """All files of the new run, or no folder."""
    import tomli_w

    origin = OriginPart(run=str(run.folder.absolute()), sha256=_digest_of(run.folder))
    part = run.config.model.model_copy(update={"fused": True})
    config = run.config.model_copy(update={"model": part, "fused_from": origin})
    _, facts = load_tensors(run.folder / WEIGHTS)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            new = Path(scratch) / folder.name
            save_tensors(new / WEIGHTS, final.state_dict(), {**facts, "fused_from": origin.sha256})
            metrics = run.folder / "metrics.jsonl"
            if metrics.exists():
                shutil.copyfile(metrics, new / metrics.name)
            write_text(new / CONFIG, tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
            new.rename(folder)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error


@dataclass(frozen=True)
class Evaluation:
    """What a run's network does on chips: the table of chips, and its accuracy off any chip.

    ``products_error`` is that of :meth:`neurosim.analog.Deployed.products_error` on the first chip at the
    first age, where products are not of float32.
    """

    table: Table
    digital_accuracy: float
    hardware: Hardware
    products_error: float | None = None


def evaluate_run(
    run: Subject,
    hardware: Hardware,
    *,
    chips: int | Sequence[int],
    times_s: Sequence[float],
    seed: int = 0,
    limit: int | None = None,
    data_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    engine: str | None = None,
    ledger: str | Path | None = None,
    placement: Placement | None = None,
) -> Evaluation:
    """The network of a run (or of the user's own) on chips of this hardware, over its test data (the first
    ``limit`` samples).

    Every chip goes into the run's ledger (or another one) when it is done, and what the ledger holds is not
    computed again: a stopped evaluation goes on where it stopped.  ``workers`` and ``engine`` are those of
    :func:`neurosim.evaluate`; with either, converter ranges too are found with one thread.
    """
    from neurosim.analog import Lot
    from neurosim.data import Batches
    from neurosim.evaluation import digital_accuracy, evaluate, one_thread

    splits = run.splits(data_dir)
    test = Batches(splits.test if limit is None else splits.test[:limit], batch_size_for(splits))
    threads = contextlib.nullcontext() if workers is None and engine in (None, "local") else one_thread()
    with run.at_work(), threads:
        net = run.deploy(hardware, splits, placement)
        table = evaluate(
            net,
            test,
            chips=chips,
            times_s=times_s,
            seed=seed,
            ledger=ledger or run.ledger,
            progress=progress,
            workers=workers,
            engine=engine,
        )
        off = None
        if net.options["products"] != "float32":
            first = Lot(hardware, seed)[int(table.column("chip")[0])]
            some = splits.test[: batch_size_for(splits)].inputs
            off = net.products_error(first, some, time_s=min(times_s))
        return Evaluation(table, digital_accuracy(net, test), hardware, off)


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count`` of an evaluation: every ``count``-th chip, from the ``index``-th.

    >>> Shard.parse("2/3").chips(range(8)), Shard.parse("2/3").ledger
    ([1, 4, 7], 'chips-shard-2-of-3.sqlite')
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From a text such as ``2/3``.

        Raises:
            UsageError: anything else, or an index that is not from 1 to the count.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and len(text) < 20 and 1 <= int(index) <= int(count)):
            raise UsageError(f"expected a shard such as 2/3, from 1/3 to 3/3; got {text!r}")
        return cls(int(index), int(count))

    def chips(self, numbers: Sequence[int]) -> list[int]:
        """Its share of some chips, equal to any other's but for one.

        Raises:
            UsageError: there are fewer chips than shards before it.
        """
        if not (mine := list(numbers[self.index - 1 :: self.count])):
            raise UsageError(f"shard {self} has no chips: there are only {len(numbers)}")
        return mine

    @property
    def ledger(self) -> str:
        """The name of its ledger: a file of its own, because only one process can write one."""
        return f"chips-shard-{self.index}-of-{self.count}.sqlite"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def merge_ledgers(run: Run, ledgers: Sequence[str | Path]) -> int:
    """Take the chips in other ledgers (of shards) into the run's own, all or none; how many rows were new.

    The order does not matter; a row that is there already is taken once.

    Raises:
        UsageError: no ledgers, something that is no ledger, one with chips of another network than the run's,
            or two different rows for one chip.
        RunError: a ledger is missing or damaged.
    """
    from neurosim.analog import deploy
    from neurosim.devices import hardware
    from neurosim.evaluation import Ledger
    from neurosim.evaluation.experiment import key_of, weights_digest

    if not ledgers:
        raise UsageError("no ledgers to merge: expected at least one, such as chips-shard-1-of-3.sqlite")
    network = weights_digest(deploy(run.model(), hardware("ideal")))
    for path in map(Path, ledgers):
        if path.exists() and run.ledger.exists() and path.samefile(run.ledger):
            raise UsageError(f"{path} is the run's own ledger: expected those of its shards")
        with Ledger(path, read_only=True) as ledger:
            described = ledger.experiments()
            for key in ledger.keys():  # noqa: SIM118
                if key_of(described.get(key, {})) != key:
                    raise RunError(f"{path} is damaged: it does not say what its rows {key[:12]}... are of")
                if described[key].get("network") != network:
                    raise UsageError(
                        f"{path} holds chips of another network than {run.folder}: expected a ledger that "
                        "neurosim evaluate --shard wrote for this run"
                    )
    with Ledger(run.ledger) as kept:
        return kept.merge(*ledgers)
