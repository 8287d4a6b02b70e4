"""Named data sets as tensors, read from files that are checked before they are believed.

>>> from neurosim import data
>>> splits = data.load("digits")
>>> splits.train, splits.num_classes, splits.image_size
(Examples(n=1293, channels=1, height=8, width=8), 10, (8, 8))
>>> for inputs, targets in data.Batches(splits.test, batch_size=100, shuffle_seed=0).epoch(3):
...     pass

Loading never reaches the network; ``neurosim data get NAME`` (:func:`get`) does.  torch is imported on
first use, so listing the names is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from neurosim.data.catalogue import DATASETS, info, names
from neurosim.data.fetch import download, get
from neurosim.data.row import DataSet

if TYPE_CHECKING:
    from neurosim.data.examples import Batches, Examples, Splits
    from neurosim.data.loading import load

_LAZY = {
    "Batches": "neurosim.data.examples",
    "Examples": "neurosim.data.examples",
    "Splits": "neurosim.data.examples",
    "load": "neurosim.data.loading",
}

__all__ = [
    "DATASETS",
    "Batches",
    "DataSet",
    "Examples",
    "Splits",
    "download",
    "get",
    "info",
    "load",
    "names",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'neurosim.data' has no attribute {name!r}")
