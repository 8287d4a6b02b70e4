"""Device physics, hardware descriptions, and the maps between weights, conductances and codes.

Descriptions load without torch; the tensor functions bring it when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from neurosim.devices.catalogue import DEVICES
from neurosim.devices.device import Device, Effect
from neurosim.devices.faults import Faults
from neurosim.devices.fit_range import FitRange, FitRangeWarning
from neurosim.devices.gaussian import Gaussian
from neurosim.devices.hardware import (
    Adc,
    Array,
    Converter,
    Dac,
    Hardware,
    Periphery,
    Source,
    Wires,
    hardware,
    hardware_names,
)
from neurosim.devices.ideal import Ideal
from neurosim.devices.pcm import Pcm
from neurosim.devices.spread import Spread

if TYPE_CHECKING:
    from neurosim.devices.converters import calibrate_range, quantise
    from neurosim.devices.mapping import Mapped, TileGrid, tile_grid, tiles, to_conductances, to_weights

_NEEDS_TORCH = {
    "calibrate_range": "converters",
    "quantise": "converters",
    "Mapped": "mapping",
    "TileGrid": "mapping",
    "tile_grid": "mapping",
    "tiles": "mapping",
    "to_conductances": "mapping",
    "to_weights": "mapping",
}

__all__ = [
    "DEVICES",
    "Adc",
    "Array",
    "Converter",
    "Dac",
    "Device",
    "Effect",
    "Faults",
    "FitRange",
    "FitRangeWarning",
    "Gaussian",
    "Hardware",
    "Ideal",
    "Mapped",
    "Pcm",
    "Periphery",
    "Source",
    "Spread",
    "TileGrid",
    "Wires",
    "calibrate_range",
    "hardware",
    "hardware_names",
    "quantise",
    "tile_grid",
    "tiles",
    "to_conductances",
    "to_weights",
]


def __getattr__(name: str) -> Any:
    if name in _NEEDS_TORCH:
        return getattr(importlib.import_module(f"neurosim.devices.{_NEEDS_TORCH[name]}"), name)
    raise AttributeError(f"module 'neurosim.devices' has no attribute {name!r}")
