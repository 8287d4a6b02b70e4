"""What is put on chips: the network of a run, or a user's own, and how."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim.errors import RunError, unknown
from neurosim.runs.batches import calibration_samples
from neurosim.runs.config import CONFIG, LEDGER, WEIGHTS, Config, DataPart, read_config
from neurosim.runs.making import check_known, create_model, data_name, load_data, shapes
from neurosim.runs.weights import load_weights
from neurosim.storage import load_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from neurosim.analog import Deployed
    from neurosim.data import Splits
    from neurosim.devices import Hardware
    from neurosim.models import OwnModel

BATCHNORM = ("kept", "folded", "re-estimated")


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
        some = splits.train[: calibration_samples(splits)]
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
        model = self.network.create({**shapes(self.data), **self.options}, task=self.data.task)
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
    splits = load_data(DataPart(name=data_name(data)), data_dir)
    return OwnNetwork(
        Path(folder), own, splits, dict(options or {}), None if weights is None else Path(weights)
    )


def open_run(folder: str | Path, own: Sequence[OwnModel] = ()) -> Run:
    """Open a run folder.  Its model and its data are read when asked for.

    A run that records a network outside the zoo is opened with it among ``own``, or not at all: a file never
    causes an import.

    Raises:
        UsageError: not a run folder, a ``config.toml`` that is not one of ours, or a network outside the zoo
            that is not among ``own``.
    """
    run = Run(Path(folder), read_config(folder), tuple(own))
    check_known(run.config.model.name, own, f"{folder} records")
    return run
