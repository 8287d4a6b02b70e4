"""neurosim: put any torch network on analog chips, see how it degrades, and train it so that it does not.

The public surface; names load on first use, so that importing neurosim is fast.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_SURFACE = {
    "hardware": "neurosim.devices",
    "Hardware": "neurosim.devices",
    "deploy": "neurosim.analog",
    "Lot": "neurosim.analog",
    "train": "neurosim.training",
    "evaluate": "neurosim.evaluation",
    "compare": "neurosim.evaluation",
    "summarise": "neurosim.evaluation",
}
_ROOMS = (
    "analog",
    "data",
    "devices",
    "evaluation",
    "models",
    "random",
    "report",
    "runs",
    "storage",
    "training",
)

__all__ = [*_SURFACE, *_ROOMS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _SURFACE:
        return getattr(importlib.import_module(_SURFACE[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"neurosim.{name}")
    raise AttributeError(f"module 'neurosim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
