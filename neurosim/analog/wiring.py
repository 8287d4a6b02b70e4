"""The wires of a layer's tiles: from the conductances that devices hold to those that inputs see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        rest: exact − approximate effective conductances of the legs of all planes, (chips, columns, rows).
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
        state = {_leg_name(number): leg for number, leg in enumerate(self.rest)}
        for number, leg in enumerate(self.targets or ()):
            state[f"target-{_leg_name(number)}"] = leg
        return state

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Reused:
        """The inverse of :meth:`state`."""
        rest, targets = (
            [state[name] for number in range(len(state)) if (name := start + _leg_name(number)) in state]
            for start in ("", "target-")
        )
        return cls(rest, targets or None, fresh=False)


def _leg_name(number: int) -> str:
    plane, side = divmod(number, 2)
    return ("plus", "minus")[side] + (f"-{plane}" if plane else "")


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


def through_wires(legs: Sequence[Tensor], layout: Layout, wires: Wires, model: Model) -> list[Tensor]:
    """Effective conductances of the legs of one plane, (chips, columns, rows) siemens each.

    Args:
        legs: (chips, columns, rows) each, what devices hold: two, or one where no pairs are.  Wires join
            passive devices: a negative conductance, which only unphysical noise makes, counts as open.
        model: :data:`MODELS`.
    """
    passive = [leg.clamp_min(0.0) for leg in legs]
    # one chip at a time: its numbers must not depend on where in a batch of matrices it lies
    chips = [_chip([leg[k] for leg in passive], layout, wires, model) for k in range(len(passive[0]))]
    return [torch.stack([chip[leg] for chip in chips]) for leg in range(len(legs))]


def _chip(legs: list[Tensor], layout: Layout, wires: Wires, model: Model) -> list[Tensor]:
    grid = blocks_of(layout)
    blocks = [block for parts in grid for block in parts]
    same: dict[tuple[int, int], list[int]] = {}
    for number, block in enumerate(blocks):
        shape = block.rows.stop - block.rows.start, block.cols.stop - block.cols.start
        same.setdefault(shape, []).append(number)
    found: dict[int, list[Tensor]] = {}
    side_by_side = interleaved(wires, len(legs))
    for numbers in same.values():
        devices = torch.stack([array_of(legs, blocks[number], wires) for number in numbers])
        resistances = resistances_of([blocks[n] for n in numbers], wires, devices, side_by_side)
        seen = model(devices, resistances, wires.topology)
        found.update((number, legs_of(one, side_by_side)) for number, one in zip(numbers, seen, strict=True))
    parts = len(layout.row_slices)
    lines = [range(start, start + parts) for start in range(0, len(blocks), parts)]
    return [
        torch.cat([torch.cat([found[n][leg] for n in line], dim=1) for line in lines])
        for leg in range(len(legs))
    ]


def interleaved(wires: Wires, legs: int) -> bool:
    """Whether the legs of a plane share an array."""
    return wires.legs == "interleaved" and legs == 2


def array_of(legs: Sequence[Tensor], block: Block, wires: Wires) -> Tensor:
    """The devices of a block as arrays (arrays, rows, device columns)."""
    parts = [leg[block.cols, block.rows].T for leg in legs]
    if interleaved(wires, len(parts)):
        return torch.stack(parts, dim=-1).flatten(1).unsqueeze(0)
    return torch.stack(parts)


def legs_of(arrays: Tensor, side_by_side: bool) -> list[Tensor]:
    """The inverse of :func:`array_of`: each (columns, rows)."""
    if side_by_side:
        pairs = arrays[0].unflatten(1, (-1, 2))
        return [pairs[..., 0].T, pairs[..., 1].T]
    return [array.T for array in arrays]


def resistances_of(blocks: list[Block], wires: Wires, arrays: Tensor, side_by_side: bool) -> Resistances:
    """For arrays (blocks, legs, rows, cols); in float64, so that a sum of segments is exact."""
    per_output = 2 if side_by_side else 1
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
