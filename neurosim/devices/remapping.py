"""Weights around broken devices: columns and rows of a tile in another order, spares, and the other leg.

What is broken is known after test.  Within a tile the order of bit lines, and of word lines, is a matter of
routing; so is which columns lie on spare ones.  The order with the least square error of the weights is an
assignment problem, solved by ``scipy.optimize.linear_sum_assignment``, where moving a column costs a part in
10⁹ (L. Chen et al., DATE 2017, doi:10.23919/DATE.2017.7926952, keep large weights off abnormal devices in
their way).  Here the faults change places and the devices stay: a weight keeps its draws of programming and
drift wherever it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from neurosim.devices.device import Device
from neurosim.devices.faults import Faults, OnTiles, line_ranges


class Broken(NamedTuple):
    """States of the legs of a plane on one chip, uint8 (columns, rows): 0 works, 1 low, 2 high, 3 open."""

    legs: tuple[Tensor, ...]

    def __getitem__(self, index: object) -> Broken:  # type: ignore[override]
        return Broken(tuple(leg[index] for leg in self.legs))  # type: ignore[index]

    @property
    def anywhere(self) -> Tensor:
        """Where a leg is broken."""
        return torch.stack([leg > 0 for leg in self.legs]).any(0)


def levels(device: Device) -> Tensor:
    """What a device of each state holds, in siemens; NaN where it works."""
    low, high = device.g_min_siemens, device.g_max_siemens
    return torch.tensor([torch.nan, low, high, 0.0], dtype=torch.float64)


def healed(targets: Sequence[Tensor], broken: Broken, device: Device) -> list[Tensor]:
    """Targets of the two legs of pairs where a healthy leg makes up for a broken one, as far as it reaches.

        g₊ ← clip(h₋ + (t₊ − t₋))        g₋ ← clip(h₊ − (t₊ − t₋))

    with t what the legs should hold and h what a broken one does.

    Args:
        targets: siemens, (columns, rows) each.
        broken: of the same devices.
        device: gives the range.
    """
    plus, minus = targets
    low, high = device.g_min_siemens, device.g_max_siemens
    held = levels(device).to(plus)
    states = [leg.int() for leg in broken.legs]
    one, other = (torch.where(state > 0, held[state], g) for state, g in zip(states, targets, strict=True))
    wanted = plus - minus
    only_plus, only_minus = (states[0] > 0) & (states[1] == 0), (states[1] > 0) & (states[0] == 0)
    return [
        torch.where(only_minus, (other + wanted).clamp(low, high), plus),
        torch.where(only_plus, (one - wanted).clamp(low, high), minus),
    ]


def left_over(targets: Sequence[Tensor], broken: Broken, device: Device, heal: bool) -> Tensor:
    """What broken devices leave of a weight's error, in siemens: of the difference of two legs, or of one.

    Arguments broadcast; works for any shape.
    """
    aimed = healed(targets, broken, device) if heal and len(targets) == 2 else list(targets)
    held = levels(device).to(targets[0])
    got = [torch.where(state > 0, held[state.int()], g) for state, g in zip(broken.legs, aimed, strict=True)]
    if len(targets) == 1:
        return got[0] - targets[0]
    return (got[0] - got[1]) - (targets[0] - targets[1])


def costs(targets: Sequence[Tensor], broken: Broken, device: Device, heal: bool) -> Tensor:
    """Σ over rows of the square error of column j on the devices of column p, (columns, places), in siemens².

    Only broken devices cost: work grows with their number.
    """
    columns, places = targets[0].shape[0], broken.legs[0].shape[0]
    found = torch.zeros(columns, places, dtype=torch.float64)
    place, row = torch.nonzero(broken.anywhere, as_tuple=True)
    step = max(1, _ENTRIES // max(1, columns))
    for p, r in zip(place.split(step), row.split(step), strict=True):
        aimed = [g.double()[:, r] for g in targets]
        there = Broken(tuple(leg[p, r].expand(columns, -1) for leg in broken.legs))
        found.index_add_(1, p, left_over(aimed, there, device, heal).square())
    return found


_ENTRIES = 1 << 20  # of a temporary array: a few of 8 MB


def assigned(cost: Tensor, movable: bool) -> np.ndarray:
    """For each column its place: the cheapest; only from its own place to a spare unless ``movable``.

    Among equally cheap orders one in which fewer columns move.

    >>> assigned(torch.tensor([[4.0, 0.0], [0.0, 0.0]]), movable=True)
    array([1, 0])
    >>> assigned(torch.tensor([[4.0, 0.0, 1.0], [0.0, 0.0, 0.5]]), movable=False)
    array([2, 1])
    """
    matrix = cost.numpy().copy()
    columns = matrix.shape[0]
    stay = np.arange(columns)
    # moving costs next to nothing, but not nothing
    matrix += 1e-9 * max(float(matrix.max()), 1e-300)
    matrix[stay, stay] = cost.numpy()[stay, stay]
    if not movable:
        banned = np.ones(matrix.shape, dtype=bool)
        banned[stay, stay] = False
        banned[:, columns:] = False
        matrix[banned] = (float(matrix.max()) + 1e-30) * 1e3 * columns
    _, places = linear_sum_assignment(matrix)
    return np.asarray(places)


def remapped(
    targets: Sequence[Tensor],
    broken: Sequence[Tensor],
    spares: Sequence[Tensor] | None,
    tiles: OnTiles,
    device: Device,
    faults: Faults,
) -> list[Tensor]:
    """States of the devices that each weight meets, once its tile is in the order of least error.

    Args:
        targets: of the legs, (columns, rows) siemens each, the same on every chip.
        broken: states of the legs, uint8 (chips, columns, rows) each.
        spares: the same of the spare columns, (chips, spare columns, rows): ``faults.spare_columns`` for each
            range of columns of :func:`neurosim.devices.faults.line_ranges`, in order.
        tiles: where the matrix lies.
        device, faults: of the hardware.

    Returns:
        As ``broken``.
    """
    found = [leg.clone() for leg in broken]
    aimed = [g.detach() for g in targets]
    for number, columns, rows in _blocks(tiles):
        here = [g[columns, rows] for g in aimed]
        for chip in range(len(found[0])):
            one = Broken(tuple(leg[chip, columns, rows] for leg in found))
            extra = None
            if spares is not None:
                own = slice(number * faults.spare_columns, (number + 1) * faults.spare_columns)
                extra = Broken(tuple(leg[chip, own, rows] for leg in spares))
            placed = _placed(here, one, extra, device, faults)
            for leg, state in zip(found, placed.legs, strict=True):
                leg[chip, columns, rows] = state
    return found


def _placed(
    targets: list[Tensor], broken: Broken, spares: Broken | None, device: Device, faults: Faults
) -> Broken:
    """One tile of one chip."""
    if not bool(broken.anywhere.any()):
        return broken
    heal, order = faults.pair_compensation, faults.remapping
    if "rows" in order:
        turned = Broken(tuple(leg.T for leg in broken.legs))
        places = assigned(costs([g.T for g in targets], turned, device, heal), movable=True)
        broken = Broken(tuple(leg[:, torch.from_numpy(places)] for leg in broken.legs))
    if "columns" not in order and spares is None:
        return broken
    everywhere = broken
    if spares is not None:
        pairs = zip(broken.legs, spares.legs, strict=True)
        everywhere = Broken(tuple(torch.cat([leg, extra]) for leg, extra in pairs))
    places = assigned(costs(targets, everywhere, device, heal), movable="columns" in order)
    return Broken(tuple(leg[torch.from_numpy(places)] for leg in everywhere.legs))


def _blocks(tiles: OnTiles) -> Iterator[tuple[int, slice, slice]]:
    """(number of the range of columns, columns, rows) of each rectangle of devices of one group on a tile."""
    for number, (left, right) in enumerate(line_ranges(tiles)):
        for rows in tiles.row_slices:
            yield number, slice(left, right), rows
