"""Where a matrix lies on tiles."""

from __future__ import annotations

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


def layout(rows: int, columns: int, groups: int, array: Array) -> Layout:
    """Split a block-diagonal matrix into as few, as equal tiles as possible.

    Several whole groups share a tile while they fit on its diagonal; a group larger than a tile is
    split like any matrix.

    >>> layout(784, 512, 1, Array(rows=512, cols=512)).tiles
    2
    >>> layout(9, 64, 64, Array(rows=256, cols=256)).col_ranges  # depthwise 3x3: 28 groups fit
    ((0, 22), (22, 43), (43, 64))
    """
    per_group = columns // groups
    grid = tile_grid(rows, per_group, array)
    together = min(array.rows // rows, array.cols // per_group)
    if together >= 1:
        packed = tile_grid(1, groups, Array(rows=1, cols=together))
        ranges = [(s.start * per_group, s.stop * per_group) for s in packed.col_slices]
    else:
        ranges = [
            (g * per_group + s.start, g * per_group + s.stop) for g in range(groups) for s in grid.col_slices
        ]
    return Layout(rows, columns, groups, grid.row_slices, tuple(ranges), grid.capacity)
