"""Voltages, currents and power inside a crossbar with resistive wires."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neurosim.devices.wires.effective import (
    FLOOR,
    TOPOLOGIES,
    Resistances,
    cells,
    check_topology,
    checked,
    flat,
    half_segments,
    padded,
    unit_of,
    unpadded,
)
from neurosim.devices.wires.reduction import Level, Plan, inject, plan, reduce, voltages
from neurosim.errors import UsageError


@dataclass(frozen=True)
class Solution:
    """The state of arrays for given line voltages; shapes (..., inputs, rows, cols) unless said.

    Attributes:
        word_line_volt, bit_line_volt: of the two nodes of each cell.
        device_ampere: through each device, from word line to bit line.
        column_ampere: (..., inputs, cols), what flows out of each bit line into its sense nodes.
        power_watt: (..., inputs), what sources and sense nodes deliver, to devices and wires.
        device_watt: (..., inputs), in devices alone.
    """

    word_line_volt: Tensor
    bit_line_volt: Tensor
    device_ampere: Tensor
    column_ampere: Tensor
    power_watt: Tensor
    device_watt: Tensor


def solve(
    g_siemens: Tensor,
    v_row_volt: Tensor,
    *,
    r_row_ohm: float | Tensor,
    r_col_ohm: float | Tensor,
    r_source_ohm: float | Tensor = 0.0,
    r_sink_ohm: float | Tensor = 0.0,
    topology: str = "opposite",
    v_col_volt: Tensor | None = None,
) -> Solution:
    """Every voltage and current of arrays of linear devices, for maps, energy and leakage.

    The array of :func:`neurosim.devices.wires.effective_conductance`, solved for given inputs: its blocks are
    joined once, then voltages are carried back down to each cell, O(n² log n) an input.

    Args:
        g_siemens: (..., rows, cols).
        v_row_volt: (..., inputs, rows), voltage of each driver; leading axes as those of ``g_siemens``.
        v_col_volt: (..., inputs, cols), voltage of each sense node; None: virtual ground.
        r_row_ohm, r_col_ohm, r_source_ohm, r_sink_ohm, topology: as for ``effective_conductance``.

    Raises:
        UsageError: as ``effective_conductance``, or voltages of another type or shape, NaN or infinite.

    >>> g = torch.full((4, 4), 1e-3, dtype=torch.float64)
    >>> found = solve(g, torch.ones(1, 4, dtype=torch.float64), r_row_ohm=10.0, r_col_ohm=10.0)
    >>> print((found.column_ampere * 1e3).numpy().round(3))
    [[3.593 3.497 3.433 3.402]]
    >>> print(f"{found.power_watt.item() * 1e3:.2f} mW, {found.device_watt.item() * 1e3:.2f} mW in devices")
    13.92 mW, 12.13 mW in devices
    """
    resistances = checked(g_siemens, r_row_ohm, r_col_ohm, r_source_ohm, r_sink_ohm)
    check_topology(topology)
    v_row, v_col = check_voltages(g_siemens, v_row_volt, v_col_volt)
    if not (g_siemens.numel() and v_row.numel()):
        return _nothing(v_row, v_col)
    network = Network.of(g_siemens, resistances, topology)
    word, bit = network.nodes(network.flat(v_row), network.flat(v_col))
    current = network.g.unsqueeze(1) * (word - bit)
    return network.solution(
        word, bit, current, network.flat(v_row), network.flat(v_col), g_siemens.shape[:-2]
    )


def _nothing(v_row: Tensor, v_col: Tensor) -> Solution:
    """The state of no arrays, of arrays without cells, or for no inputs."""
    cell, each = v_row.new_zeros(*v_row.shape, v_col.shape[-1]), v_row.new_zeros(v_row.shape[:-1])
    return Solution(cell, cell, cell, torch.zeros_like(v_col), each, each)


def check_voltages(g: Tensor, v_row: Tensor, v_col: Tensor | None) -> tuple[Tensor, Tensor]:
    """Row and column voltages, (..., inputs, rows) and (..., inputs, cols), or UsageError."""
    batch, (rows, cols) = g.shape[:-2], g.shape[-2:]
    if v_col is None and isinstance(v_row, Tensor) and v_row.dim() >= 1:
        v_col = v_row.new_zeros(*v_row.shape[:-1], cols)
    for name, volts, lines in (("v_row_volt", v_row, rows), ("v_col_volt", v_col, cols)):
        if not isinstance(volts, Tensor) or volts.dtype != g.dtype:
            kind = volts.dtype if isinstance(volts, Tensor) else type(volts).__name__
            raise UsageError(f"expected {name} as a tensor of {g.dtype}; got {kind}")
        if volts.shape[:-2] != batch or volts.shape[-1:] != (lines,) or volts.dim() != g.dim():
            wanted = ", ".join([*map(str, batch), "inputs", str(lines)])
            raise UsageError(f"expected {name} of shape ({wanted}); got {tuple(volts.shape)}")
        if not bool(volts.isfinite().all()):
            raise UsageError(f"expected finite voltages in {name}; got NaN or infinity")
    assert v_col is not None
    if v_row.shape[-2] != v_col.shape[-2]:
        raise UsageError(
            "expected as many inputs in v_col_volt as in v_row_volt; "
            f"got {v_col.shape[-2]} and {v_row.shape[-2]}"
        )
    return v_row, v_col


@dataclass(frozen=True)
class Network:
    """Arrays of linear devices, reduced, with all that is needed to find the voltages inside.

    ``g`` is (arrays, rows, cols) in siemens; ``halves`` are the conductances of the half segments left,
    right, above and below each node, in units of ``unit``.
    """

    g: Tensor
    unit: Tensor
    topology: str
    steps: Plan
    levels: list[Level]
    halves: tuple[Tensor, Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, g: Tensor, r: Resistances, topology: str, sources: bool = False) -> Network:
        """Reduce; ``sources``: :meth:`nodes` will be given current sources."""
        rows, cols = g.shape[-2:]
        arrays = g.detach().reshape(-1, rows, cols)
        r = Resistances(*(x.detach() for x in flat(r, g, g.dtype)))
        unit, steps = unit_of(arrays), plan(rows, cols, TOPOLOGIES[topology])
        floor = FLOOR[g.dtype]
        with torch.no_grad():
            halves = half_segments(arrays, r, unit, floor, topology, steps)
            found = cells(padded(arrays / unit[:, None, None], steps), halves)
            _, levels = reduce(found, steps, keep_levels=True, keep_inverses=sources)
        return cls(arrays, unit, topology, steps, levels, halves)

    def flat(self, values: Tensor) -> Tensor:
        """(..., inputs, lines) as (arrays, inputs, lines)."""
        return values.detach().reshape(self.g.shape[0], values.shape[-2], values.shape[-1])

    def nodes(
        self, v_row: Tensor, v_col: Tensor, source_ampere: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Voltages of word-line and bit-line nodes, each (arrays, inputs, rows, cols).

        Args:
            v_row: (arrays, inputs, rows); v_col: (arrays, inputs, cols).
            source_ampere: (arrays, inputs, rows, cols), a current source beside each device, from its word
                line to its bit line.
        """
        ends = self._ends(v_row, v_col)
        source = (
            None if source_ampere is None else self._padded(source_ampere / self.unit[:, None, None, None])
        )
        left, right, top, bottom = self.halves
        g = padded(self.g / self.unit[:, None, None], self.steps)
        word = (left + right + g).reciprocal()
        to_l, to_r = left * word, right * word
        bit = (top + bottom + (to_l + to_r) * g).reciprocal()
        injected = None
        if source is not None:
            at_bit = ((to_l + to_r) * bit).unsqueeze(-1) * source
            ports = (
                top.unsqueeze(-1) * at_bit,
                (to_l * g).unsqueeze(-1) * at_bit - to_l.unsqueeze(-1) * source,
                bottom.unsqueeze(-1) * at_bit,
                (to_r * g).unsqueeze(-1) * at_bit - to_r.unsqueeze(-1) * source,
            )
            injected = inject(torch.stack(ports, dim=3), self.levels, self.steps)
        v_top, v_left, v_bottom, v_right = voltages(ends, self.levels, self.steps, injected).unbind(3)
        from_rows = to_l.unsqueeze(-1) * v_left + to_r.unsqueeze(-1) * v_right
        b = top.unsqueeze(-1) * v_top + bottom.unsqueeze(-1) * v_bottom + g.unsqueeze(-1) * from_rows
        if source is not None:
            b = b + (to_l + to_r).unsqueeze(-1) * source
        b = b * bit.unsqueeze(-1)
        w = from_rows + (g * word).unsqueeze(-1) * b
        if source is not None:
            w = w - word.unsqueeze(-1) * source
        return self._live(w), self._live(b)

    def _ends(self, v_row: Tensor, v_col: Tensor) -> Tensor:
        rows, cols = self.g.shape[1:]
        drivers = v_row.repeat(1, 1, self.steps.drivers // rows)
        senses = v_col.repeat(1, 1, (len(self.steps.order) - self.steps.drivers) // cols)
        return torch.cat([drivers, senses], dim=2).mT.contiguous()

    def _padded(self, values: Tensor) -> Tensor:
        """(arrays, inputs, rows, cols) → (arrays, padded rows, padded cols, inputs)."""
        arrays, inputs = values.shape[:2]
        return padded(values.flatten(0, 1), self.steps).unflatten(0, (arrays, inputs)).permute(0, 2, 3, 1)

    def _live(self, values: Tensor) -> Tensor:
        """(arrays, padded rows, padded cols, inputs) → (arrays, inputs, rows, cols)."""
        return unpadded(values, self.steps).permute(0, 3, 1, 2)

    @staticmethod
    def solution(
        word: Tensor, bit: Tensor, current: Tensor, v_row: Tensor, v_col: Tensor, batch: torch.Size
    ) -> Solution:
        """Everything that follows from voltages and device currents, (arrays, inputs, rows, cols)."""
        column = current.sum(dim=2)
        # Σ v·i over all ends; a line's currents are those of its devices
        power = (current.sum(dim=3) * v_row).sum(dim=2) - (column * v_col).sum(dim=2)
        device = (current * (word - bit)).sum(dim=(2, 3))

        def back(x: Tensor) -> Tensor:
            return x.reshape(*batch, *x.shape[1:])

        return Solution(*(back(x) for x in (word, bit, current, column, power, device)))
