"""The table of data sets: one row each, written in a file of its own."""

from __future__ import annotations

from neurosim import errors
from neurosim.data import (
    brain_tumour,
    digits,
    dsb2018_nuclei,
    fashion_mnist,
    mitdb,
    pneumonia_mnist,
    speech_commands,
)
from neurosim.data.row import DataSet

_ROWS = (
    digits.ROW,
    fashion_mnist.ROW,
    pneumonia_mnist.ROW,
    pneumonia_mnist.ROW_MASKS,
    dsb2018_nuclei.ROW,
    dsb2018_nuclei.ROW_256,
    brain_tumour.ROW,
    brain_tumour.ROW_MASKS,
    mitdb.ROW,
    mitdb.ROW_PATIENTS,
    mitdb.ROW_REFERENCE,
    speech_commands.ROW,
)
DATASETS: dict[str, DataSet] = {row.name: row for row in _ROWS}


def names() -> list[str]:
    """The known data set names, sorted.

    >>> names()[:3]
    ['brain-tumour', 'brain-tumour-masks', 'digits']
    """
    return sorted(DATASETS)


def info(name: str) -> DataSet:
    """The row of a data set; an unknown name raises ``UsageError`` with the nearest known one.

    >>> info("fashion-mnist").licence
    'MIT (Zalando SE)'
    """
    if name not in DATASETS:
        raise errors.unknown("data set", str(name), [*DATASETS, "path/to/file.npz"])
    return DATASETS[name]
