"""Resistive wires of a crossbar: exact effective conductances, voltages and currents inside, IR drop."""

from neurosim.devices.wires.effective import TOPOLOGIES, effective_conductance
from neurosim.devices.wires.solution import Solution, solve

__all__ = ["TOPOLOGIES", "Solution", "effective_conductance", "solve"]
