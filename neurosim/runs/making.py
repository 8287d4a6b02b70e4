"""The network and the data that a configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim.errors import RunError, UsageError
from neurosim.runs.config import Config, DataPart

if TYPE_CHECKING:
    from torch import nn

    from neurosim.data import Splits
    from neurosim.models import OwnModel


def create_model(config: Config, own: Sequence[OwnModel] = ()) -> nn.Module:
    """The untrained network of a configuration, from the zoo or from one of ``own``."""
    from neurosim import models
    from neurosim.models import fusing

    settings = config.model.model_dump()
    name, in_final_form = settings.pop("name"), settings.pop("fused")
    if "seed" in settings:
        raise UsageError("the configuration: unknown key 'model.seed' (the seed is train.seed)")
    check_known(name, own, "the configuration names")
    task = config.data.task or "classification"
    for one in own:
        if one.name == name:
            model = one.create(settings, config.train.seed, task)
            break
    else:
        _check_task(name, task, config.data.name)
        model = models.create(name, seed=config.train.seed, **settings)
    return fusing.fused(model) if in_final_form else model


def check_known(name: str, own: Sequence[OwnModel], where: str) -> None:
    from neurosim.models import is_own

    if is_own(name) and all(one.name != name for one in own):
        raise UsageError(
            f"{where} the network {name}, code from outside neurosim that a file must not import: "
            f"add --model {name} if you trust that code"
        )


def _check_task(name: str, task: str, data: str) -> None:
    """A network that gives a class for each image needs data that have one, and so for pixels."""
    from neurosim import models

    if (given := models.info(name).task) != task:
        each = {"classification": "image", "segmentation": "pixel"}
        raise UsageError(
            f"{name} gives a class for each {each[given]}, and the data {data!r} have one for each "
            f"{each[task]}: expected a network for {task} (see neurosim models list)"
        )


def check_series(name: str, splits: Splits) -> None:
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


def data_name(data: str) -> str:
    """A name that means the same from every folder."""
    return str(Path(data).absolute()) if data.endswith(".npz") else data


def shapes(splits: Splits) -> dict[str, Any]:
    """What a network is told of its data."""
    mean, std = splits.train.mean_std()
    return {
        "num_classes": splits.num_classes,
        "in_chans": splits.in_chans,
        "image_size": splits.image_size,
        "input_mean": mean,
        "input_std": std,
    }
