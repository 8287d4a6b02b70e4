"""Transistors below threshold: their currents, their mismatch, and the circuits that are made of them.

``physics`` holds closed forms, ``pelgrom`` mismatch from geometry and process, ``circuits`` what it does to
the parameters of a neuron, ``biases`` the generator of bias currents, ``fields`` what varies smoothly over a
die, and ``synapse`` the device that holds weights.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from neurosim.devices.subthreshold.biases import DYNAP_SE2, BiasGenerator
from neurosim.devices.subthreshold.fields import grid_positions, linear_field, smooth_field
from neurosim.devices.subthreshold.pelgrom import PROCESSES, Process, Transistor, cv_of, log_std_of
from neurosim.devices.subthreshold.physics import (
    charge_time_s,
    current_ampere,
    dpi_gain,
    dpi_jump_ampere,
    i0_at,
    saturation,
    tau_current_ampere,
    thermal_voltage,
    time_constant_s,
)

if TYPE_CHECKING:
    from neurosim.devices.subthreshold.circuits import DPI_NEURON, heated, neuron_spreads

# they make hardware descriptions, which need the table of devices, which needs this package
_LATE = ("DPI_NEURON", "heated", "neuron_spreads")

__all__ = [
    "DPI_NEURON",
    "DYNAP_SE2",
    "PROCESSES",
    "BiasGenerator",
    "Process",
    "Transistor",
    "charge_time_s",
    "current_ampere",
    "cv_of",
    "dpi_gain",
    "dpi_jump_ampere",
    "grid_positions",
    "heated",
    "i0_at",
    "linear_field",
    "log_std_of",
    "neuron_spreads",
    "saturation",
    "smooth_field",
    "tau_current_ampere",
    "thermal_voltage",
    "time_constant_s",
]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module("neurosim.devices.subthreshold.circuits"), name)
    raise AttributeError(f"module 'neurosim.devices.subthreshold' has no attribute {name!r}")
