"""Resistive wires of a crossbar: exact effective conductances, voltages and currents inside, IR drop."""

from neurosim.devices.wires.approximation import approximate_conductance
from neurosim.devices.wires.effective import TOPOLOGIES, effective_conductance
from neurosim.devices.wires.solution import Solution, solve

__all__ = ["TOPOLOGIES", "Solution", "approximate_conductance", "effective_conductance", "solve"]
