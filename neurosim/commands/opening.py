"""Run folders that a command names, opened under short labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neurosim import interrupts
from neurosim.errors import UsageError

if TYPE_CHECKING:
    from neurosim.models import OwnModel
    from neurosim.runs import Run


def labels(folders: Sequence[Path]) -> dict[str, Path]:
    """Each run's folder by a short label: its name, or its path where names are equal.

    Raises:
        UsageError: a run is given twice.

    >>> list(labels([Path("runs/a"), Path("runs/b")]))
    ['a', 'b']
    """
    names = [folder.resolve().name for folder in folders]
    found: dict[str, Path] = {}
    for name, folder in zip(names, folders, strict=True):
        label = name if names.count(name) == 1 else str(folder)
        if label in found:
            raise UsageError(f"the run {label} is given twice")
        found[label] = folder
    return found


def own_networks(names: Sequence[str] | None) -> list[OwnModel]:
    """The callables that the command line names, imported; nowhere else is a user's module imported."""
    if not names:
        return []
    with interrupts.held_back():
        import torch  # noqa: F401  an interrupt in the user's own imports must not leave it half loaded

        from neurosim import models
    return [models.own_model(name) for name in dict.fromkeys(names)]


def opened(folders: Sequence[Path], own_names: Sequence[str] | None) -> dict[str, Run]:
    """Every run by its label, with those networks outside the zoo that the command line names, imported.

    Raises:
        UsageError: no run, a run twice, or a network outside the zoo that no run records.
    """
    with interrupts.held_back():
        from neurosim import runs
    named, own = labels(folders), own_networks(own_names)
    found = {label: runs.open_run(folder, own) for label, folder in named.items()}
    recorded = sorted({run.config.model.name for run in found.values()})
    for one in own:
        if one.name not in recorded:
            names = " and ".join(map(repr, recorded))
            raise UsageError(f"--model {one.name} is in none of the runs given: they record {names}")
    return found
