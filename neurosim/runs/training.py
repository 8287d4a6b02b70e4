"""Train what a configuration says, into a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from neurosim.runs.batches import batch_size_for
from neurosim.runs.config import Config
from neurosim.runs.making import create_model, load_data
from neurosim.runs.subjects import Run, open_run
from neurosim.runs.weights import begin, weights_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from neurosim.data import Examples
    from neurosim.models import OwnModel
    from neurosim.training import Progress, TrainResult

KEPT_ON_DEVICE_BYTES = 2**31
"""Of training data, at most; more is moved batch by batch."""


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
    begin(model, config, begun=resume and any(Path(folder).glob("checkpoints/step-*.safetensors")))
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


def _teacher(config: Config, own: Sequence[OwnModel]) -> nn.Module | None:
    """The network that teaches, unchanged since the run was described."""
    origin = config.train.teacher
    if origin is None:
        return None
    weights_of(origin, required=True)
    return open_run(origin.run, own).model()
