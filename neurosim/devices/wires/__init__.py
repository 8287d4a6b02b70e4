"""Resistive wires of a crossbar: effective conductances, voltages and currents inside, leakage.

Names load with their first use: resistances by node need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurosim.devices.wires.approximation import approximate_conductance
    from neurosim.devices.wires.effective import TOPOLOGIES, effective_conductance
    from neurosim.devices.wires.geometry import node_segment_resistance_ohm, segment_resistance_ohm
    from neurosim.devices.wires.laws import LAWS
    from neurosim.devices.wires.leakage import HalfSelect, gated, half_select
    from neurosim.devices.wires.nonlinear import (
        NonlinearSolution,
        linearisation_error,
        linearised_conductance,
        solve_nonlinear,
    )
    from neurosim.devices.wires.solution import Solution, solve

_WHERE = {
    "LAWS": "laws",
    "TOPOLOGIES": "effective",
    "HalfSelect": "leakage",
    "NonlinearSolution": "nonlinear",
    "Solution": "solution",
    "approximate_conductance": "approximation",
    "effective_conductance": "effective",
    "gated": "leakage",
    "half_select": "leakage",
    "linearisation_error": "nonlinear",
    "linearised_conductance": "nonlinear",
    "node_segment_resistance_ohm": "geometry",
    "segment_resistance_ohm": "geometry",
    "solve": "solution",
    "solve_nonlinear": "nonlinear",
}

__all__ = [
    "LAWS",
    "TOPOLOGIES",
    "HalfSelect",
    "NonlinearSolution",
    "Solution",
    "approximate_conductance",
    "effective_conductance",
    "gated",
    "half_select",
    "linearisation_error",
    "linearised_conductance",
    "node_segment_resistance_ohm",
    "segment_resistance_ohm",
    "solve",
    "solve_nonlinear",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"neurosim.devices.wires.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'neurosim.devices.wires' has no attribute {name!r}")
