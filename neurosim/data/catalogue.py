"""The table of data sets: one row each, written in a file of its own."""

from __future__ import annotations

from neurosim import errors
from neurosim.data import digits, fashion_mnist, pneumonia_mnist
from neurosim.data.row import DataSet

DATASETS: dict[str, DataSet] = {row.name: row for row in (digits.ROW, fashion_mnist.ROW, pneumonia_mnist.ROW)}


def names() -> list[str]:
    """The known data set names, sorted.

    >>> names()
    ['digits', 'fashion-mnist', 'pneumonia-mnist']
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
