"""Where a matrix lies on tiles."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

from neurosim.devices import Array, tile_grid


@dataclass(frozen=True)
class Layout:
    """Where a matrix lies on tiles.

    Attributes:
        rows: inputs of one group.
        columns: outputs of all groups.
        groups: number of blocks on the diagonal.
        row_slices: the parts of the rows; each is digitised on its own, the parts are then added.
        col_ranges: (left, right) columns of each tile.
        capacity: pairs of devices in a tile.
    """

    rows: int
    columns: int
    groups: int
    row_slices: tuple[slice, ...]
    col_ranges: tuple[tuple[int, int], ...]
    capacity: int

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return len(self.row_slices) * len(self.col_ranges)

    @property
    def pairs(self) -> int:
        """Pairs of devices in use."""
        return self.rows * self.columns

    @property
    def utilisation(self) -> float:
        """Used fraction of the pairs on all tiles."""
        return self.pairs / (self.tiles * self.capacity)


def layout(rows: int, columns: int, groups: int, array: Array, spare_columns: int = 0) -> Layout:
    """Split a block-diagonal matrix into as few, as equal tiles as possible.

    Several whole groups share a tile while they fit on its diagonal; a group larger than a tile is
    split like any matrix.  Reference and spare columns of each group on a tile take their place.

    >>> layout(784, 512, 1, Array(rows=512, cols=512)).tiles
    2
    >>> layout(9, 64, 64, Array(rows=256, cols=256)).col_ranges  # depthwise 3x3: 28 groups fit
    ((0, 22), (22, 43), (43, 64))
    """
    per_group = columns // groups
    reserved = int(array.mapping == "unit-column") + spare_columns
    grid = tile_grid(rows, per_group, array.with_cols(array.cols - reserved))
    together = min(array.rows // rows, array.cols // (per_group + reserved))
    if together >= 1:
        packed = tile_grid(1, groups, Array(rows=1, cols=together))
        ranges = [(s.start * per_group, s.stop * per_group) for s in packed.col_slices]
    else:
        ranges = [
            (g * per_group + s.start, g * per_group + s.stop) for g in range(groups) for s in grid.col_slices
        ]
    return Layout(rows, columns, groups, grid.row_slices, tuple(ranges), array.rows * array.cols)


@dataclass(frozen=True)
class Referenced:
    """A layout with a reference column after the columns of each group on each tile.

    Attributes:
        layout: of all columns, outputs and references.
        references: the layout of the reference columns alone.
        outputs: for each output its place among all columns.
        own: for each reference column its place among all columns.
        of_outputs: for each output the place of its reference.
    """

    layout: Layout
    references: Layout
    outputs: tuple[int, ...]
    own: tuple[int, ...]
    of_outputs: tuple[int, ...]


def with_references(lies: Layout) -> Referenced:
    """Add the reference columns of the mapping ``"unit-column"``.

    Every group on a tile has its own: it takes the sum of that group's inputs.

    >>> found = with_references(layout(2, 3, 1, Array(rows=4, cols=3, mapping="unit-column")))
    >>> found.layout.col_ranges, found.outputs, found.of_outputs
    (((0, 3), (3, 5)), (0, 1, 3), (2, 2, 4))
    """
    width = lies.columns // lies.groups
    outputs: list[int] = []
    own: list[int] = []
    of_outputs: list[int] = []
    ranges, of_references = [], []
    place = 0
    for left, right in lies.col_ranges:
        start, first = place, len(own)
        edges = [left, *range(left + width - left % width, right, width), right]
        for one, other in itertools.pairwise(edges):
            outputs += range(place, place + other - one)
            place += other - one
            of_outputs += [place] * (other - one)
            own.append(place)
            place += 1
        ranges.append((start, place))
        of_references.append((first, len(own)))
    whole = dataclasses.replace(lies, columns=place, col_ranges=tuple(ranges))
    alone = dataclasses.replace(lies, columns=len(own), col_ranges=tuple(of_references))
    return Referenced(whole, alone, tuple(outputs), tuple(own), tuple(of_outputs))
