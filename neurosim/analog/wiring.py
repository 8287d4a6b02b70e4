"""The wires of a layer's tiles: from the conductances that devices hold to those that inputs see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from neurosim.analog.operators import Layout
from neurosim.devices import Wires
from neurosim.devices.wires.approximation import approximate
from neurosim.devices.wires.effective import Resistances, effective

Model = Callable[[Tensor, Resistances, str], Tensor]
# of devices that are linear; those of a law are calibrated and compensated at their low-field conductances
MODELS: dict[str, Model] = {
    "exact": effective,
    "column-approximation": approximate,
    "nonlinear": effective,
}


@dataclass
class Reused:
    """What training carries from a step with an exact solution of the wires to the steps after it.

    Attributes:
        rest: exact − approximate effective conductances of both legs, (chips, columns, rows) each.
        targets: the same of the target conductances, (columns, rows) each, where gains are fitted to them.
        fresh: whether the present forward is the one that solved.
    """

    rest: list[Tensor]
    targets: list[Tensor] | None = None
    fresh: bool = True

    @classmethod
    def of(cls, exact: list[Tensor], cheap: list[Tensor]) -> Reused:
        return cls([(e - c).detach() for e, c in zip(exact, cheap, strict=True)])

    def state(self) -> dict[str, Tensor]:
        """As named tensors, for a checkpoint."""
        state = {"plus": self.rest[0], "minus": self.rest[1]}
        if self.targets is not None:
            state |= {"target-plus": self.targets[0], "target-minus": self.targets[1]}
        return state

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Reused:
        """The inverse of :meth:`state`."""
        targets = [state["target-plus"], state["target-minus"]] if "target-plus" in state else None
        return cls([state["plus"], state["minus"]], targets, fresh=False)


@dataclass(frozen=True)
class Block:
    """A rectangle of devices that wires join: a tile, or one group's part of a tile.

    Groups share a tile block-diagonally.  Between the blocks are no devices, so that they are independent
    arrays whose lines pass other groups on their way.

    Attributes:
        rows, cols: of the layer's matrix.
        lead: cells of other groups on the way from the block's left, right, bottom and top edge to that of
            the tile.
    """

    rows: slice
    cols: slice
    lead: tuple[int, int, int, int]


def blocks_of(layout: Layout) -> list[list[Block]]:
    """The blocks of a layer, a list of row parts for each range of columns, left to right.

    >>> from neurosim.analog.operators import layout
    >>> from neurosim.devices import Array
    >>> [part[0].lead for part in blocks_of(layout(9, 4, 2, Array(rows=256, cols=256)))]
    [(0, 2, 9, 0), (2, 0, 0, 9)]
    """
    width = layout.columns // layout.groups
    found = []
    for left, right in layout.col_ranges:
        edges = [left, *range(left + width, right, width), right] if right - left > width else [left, right]
        groups = len(edges) - 1
        for k, (start, stop) in enumerate(pairwise(edges)):
            after = groups - 1 - k
            lead = (k * width, after * width, after * layout.rows, k * layout.rows)
            found.append([Block(rows, slice(start, stop), lead) for rows in layout.row_slices])
    return found


def through_wires(plus: Tensor, minus: Tensor, layout: Layout, wires: Wires, model: Model) -> list[Tensor]:
    """Effective conductances of both legs, (chips, columns, rows) siemens each.

    Args:
        plus, minus: (chips, columns, rows), what devices hold.  Wires join passive devices: a negative
            conductance, which only unphysical noise makes, counts as open.
        model: :data:`MODELS`.
    """
    legs = (plus.clamp_min(0.0), minus.clamp_min(0.0))
    # one chip at a time: its numbers must not depend on where in a batch of matrices it lies
    chips = [_chip(legs[0][k], legs[1][k], layout, wires, model) for k in range(len(plus))]
    return [torch.stack([chip[leg] for chip in chips]) for leg in (0, 1)]


def _chip(plus: Tensor, minus: Tensor, layout: Layout, wires: Wires, model: Model) -> list[Tensor]:
    grid = blocks_of(layout)
    blocks = [block for parts in grid for block in parts]
    same: dict[tuple[int, int], list[int]] = {}
    for number, block in enumerate(blocks):
        shape = block.rows.stop - block.rows.start, block.cols.stop - block.cols.start
        same.setdefault(shape, []).append(number)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for numbers in same.values():
        devices = torch.stack([array_of(plus, minus, blocks[number], wires) for number in numbers])
        seen = model(devices, resistances_of([blocks[n] for n in numbers], wires, devices), wires.topology)
        found.update((number, legs_of(one, wires)) for number, one in zip(numbers, seen, strict=True))
    parts = len(layout.row_slices)
    lines = [range(start, start + parts) for start in range(0, len(blocks), parts)]
    return [torch.cat([torch.cat([found[n][leg] for n in line], dim=1) for line in lines]) for leg in (0, 1)]


def array_of(plus: Tensor, minus: Tensor, block: Block, wires: Wires) -> Tensor:
    """The devices of a block as arrays (arrays, rows, device columns)."""
    legs = [leg[block.cols, block.rows].T for leg in (plus, minus)]
    return (
        torch.stack(legs, dim=-1).flatten(1).unsqueeze(0)
        if wires.legs == "interleaved"
        else torch.stack(legs)
    )


def legs_of(arrays: Tensor, wires: Wires) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`_array`: each (columns, rows)."""
    if wires.legs == "interleaved":
        pairs = arrays[0].unflatten(1, (-1, 2))
        return pairs[..., 0].T, pairs[..., 1].T
    return arrays[0].T, arrays[1].T


def resistances_of(blocks: list[Block], wires: Wires, arrays: Tensor) -> Resistances:
    """For arrays (blocks, legs, rows, cols); in float64, so that a sum of segments is exact."""
    per_output = 2 if wires.legs == "interleaved" else 1
    lead = torch.tensor([block.lead for block in blocks], dtype=torch.float64, device=arrays.device)
    left, right, bottom, top = lead.unsqueeze(-1).unbind(1)
    row, source = wires.r_row_ohm * per_output, wires.r_source_ohm
    col, sink = wires.r_col_ohm, wires.r_sink_ohm
    ends = (source + left * row, source + right * row, sink + bottom * col, sink + top * col)
    segments = (torch.full_like(left, wires.r_row_ohm), torch.full_like(left, col))
    return Resistances(*segments, *ends)


def gains(
    ideal: Tensor, real: Tensor, layout: Layout, compensation: str, sweeps: int = 3
) -> tuple[Tensor, Tensor]:
    """Digital gains that bring ``real`` closest to ``ideal`` in the least-squares sense.

        min Σ_ij (ideal_ji − c_j·r_i·real_ji)²  for each tile, by alternating over columns c and rows r

    Args:
        ideal, real: (columns, rows), differences of the legs.
        compensation: ``"columns"`` leaves r at 1.

    Returns:
        Of columns, (row parts, columns), and of rows, (columns, rows): one number a row and tile.  Lines
        without devices keep 1.
    """
    columns = ideal.new_ones(len(layout.row_slices), layout.columns)
    rows = torch.ones_like(ideal)
    for part, row_slice in enumerate(layout.row_slices):
        for left, right in layout.col_ranges:
            wanted, has = ideal[left:right, row_slice], real[left:right, row_slice]
            r = ideal.new_ones(wanted.shape[1])
            c = _fit(wanted, has, dim=1)
            for _ in range(sweeps if compensation == "rows-and-columns" else 0):
                r = _fit(wanted, has * c[:, None], dim=0)
                c = _fit(wanted, has * r, dim=1)
            columns[part, left:right] = c
            rows[left:right, row_slice] = r
    return columns, rows


def _fit(wanted: Tensor, has: Tensor, dim: int) -> Tensor:
    """argmin over x of Σ (wanted − x·has)² along ``dim``."""
    square = (has * has).sum(dim)
    return torch.where(square > 0, (wanted * has).sum(dim) / square, torch.ones_like(square))
