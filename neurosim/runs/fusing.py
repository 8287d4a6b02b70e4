"""A run whose network is the final form of another's."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neurosim.errors import RunError, UsageError
from neurosim.runs.batches import CALIBRATION_SAMPLES, batch_size_for
from neurosim.runs.config import CONFIG, WEIGHTS, OriginPart
from neurosim.runs.subjects import Run
from neurosim.runs.weights import digest_of
from neurosim.storage import load_tensors, save_tensors, write_text

if TYPE_CHECKING:
    from torch import nn

    from neurosim.data import Splits

FUSED_WITHIN = 1e-4
"""The largest difference that fusing may make to an output, relative to the largest output."""


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

    origin = OriginPart(run=str(run.folder.absolute()), sha256=digest_of(run.folder))
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
