"""The linear operators that a crossbar can compute: how each becomes a matrix, tiles and vectors.

An operator knows shapes only.  Rows of the matrix are the inputs of one vector, columns its outputs;
a convolution reads one vector per output pixel.  Groups lie block-diagonally: ``rows`` counts the
inputs of one group, ``columns`` the outputs of all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from neurosim.devices import Array, tile_grid

# A piece of work (products of a few vectors) should stay in a core's cache between its stages.
_PIECE_BYTES = 2 << 20


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


class Operator(ABC):
    """A linear operator with a weight of shape (columns, rows) once flattened."""

    @abstractmethod
    def ideal(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What plain torch computes."""

    @abstractmethod
    def batched(self, x: Tensor) -> Tensor:
        """The input with exactly one leading axis, which carries chips and samples."""

    @abstractmethod
    def prepare(self, x: Tensor) -> Tensor:
        """A batched input in the memory order that :meth:`partial` reads fastest."""

    @abstractmethod
    def partial(self, x: Tensor, matrix: Tensor, rows: slice) -> Tensor:
        """Products of some rows, (vectors, columns), contiguous; ``matrix`` is (columns, all rows)."""

    @abstractmethod
    def vectors(self, x: Tensor) -> Tensor:
        """The vectors that word lines carry, (vectors, groups, rows), of a batched input."""

    @abstractmethod
    def vectors_per_item(self, x: Tensor) -> int:
        """Vectors that one entry of the leading axis of a batched input is read as."""

    @abstractmethod
    def restore(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Products (vectors, columns) back in the shape, and order in memory, that torch would return."""

    def items_per_piece(self, x: Tensor, columns: int) -> int:
        """Entries of the leading axis whose products fill about one cache."""
        return max(1, _PIECE_BYTES // (4 * columns * max(1, self.vectors_per_item(x))))


@dataclass(frozen=True)
class Matmul(Operator):
    """y = x Wᵀ + b on the last axis: ``nn.Linear``."""

    def ideal(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def batched(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])

    def prepare(self, x: Tensor) -> Tensor:
        return x.contiguous()

    def partial(self, x: Tensor, matrix: Tensor, rows: slice) -> Tensor:
        return torch.mm(x[:, rows], matrix[:, rows].t())

    def vectors(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1)

    def vectors_per_item(self, x: Tensor) -> int:
        return 1

    def restore(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return y.reshape(*x.shape[:-1], y.shape[-1])


@dataclass(frozen=True)
class Convolution2d(Operator):
    """Two-dimensional cross-correlation: ``nn.Conv2d`` with any stride, padding, dilation and groups.

    ``pads`` is in the order of ``F.pad`` (left, right, top, bottom); it is applied first, so that the
    asymmetric padding of ``"same"`` and the modes other than zeros need no cases of their own.
    """

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    pads: tuple[int, int, int, int]
    mode: str

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        left, right, top, bottom = self.pads
        if self.mode == "zeros" and left == right and top == bottom:
            return x, (top, left)  # the convolution pads as it goes
        mode = "constant" if self.mode == "zeros" else self.mode
        return F.pad(x, self.pads, mode=mode), (0, 0)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        padded, padding = self._padded(x)
        return F.conv2d(padded, weight, bias, self.stride, padding, self.dilation, groups)

    def ideal(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._convolve(x, weight, bias, self.groups)

    def batched(self, x: Tensor) -> Tensor:
        return x if x.dim() == 4 else x.unsqueeze(0)

    def prepare(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    def partial(self, x: Tensor, matrix: Tensor, rows: slice) -> Tensor:
        area = self.kernel[0] * self.kernel[1]
        per_group = self.channels // self.groups
        shape = (matrix.shape[0], per_group, *self.kernel)
        if rows.start == 0 and rows.stop == matrix.shape[1]:
            y = self._convolve(x, self._weight(matrix, shape), None, self.groups)
        elif self.groups == 1:
            # only the channels this part touches; the first and last may be touched in part
            first, last = rows.start // area, -(-rows.stop // area)
            part = self._masked(matrix, rows)[:, first * area : last * area]
            weight = self._weight(part, (shape[0], last - first, *self.kernel))
            y = self._convolve(x[:, first:last], weight, None, 1)
        else:
            y = self._convolve(x, self._weight(self._masked(matrix, rows), shape), None, self.groups)
        return y.permute(0, 2, 3, 1).reshape(-1, matrix.shape[0])

    def vectors(self, x: Tensor) -> Tensor:
        padded, padding = self._padded(x)
        patches = F.unfold(padded, self.kernel, self.dilation, padding, self.stride)
        return patches.transpose(1, 2).reshape(-1, self.groups, patches.shape[1] // self.groups)

    @staticmethod
    def _weight(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
        # Channels-last weights make the result channels-last too.  With one channel torch cannot tell
        # the two orders apart and .contiguous() would leave the other, hence the explicit strides.
        columns, channels, height, width = shape
        dense = matrix.reshape(shape).permute(0, 2, 3, 1).contiguous()
        strides = (channels * height * width, 1, width * channels, channels)
        return dense.as_strided((columns, channels, height, width), strides)

    def _masked(self, matrix: Tensor, rows: slice) -> Tensor:
        area = self.kernel[0] * self.kernel[1]
        if rows.start % area == 0 and rows.stop % area == 0 and self.groups == 1:
            return matrix
        kept = torch.zeros(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        kept[rows] = 1
        return matrix * kept

    def size(self, x: Tensor) -> tuple[int, int]:
        """Height and width of the output."""
        left, right, top, bottom = self.pads
        padded = (x.shape[-2] + top + bottom, x.shape[-1] + left + right)
        sizes = [
            (n - d * (k - 1) - 1) // s + 1
            for n, k, s, d in zip(padded, self.kernel, self.stride, self.dilation, strict=True)
        ]
        return sizes[0], sizes[1]

    def vectors_per_item(self, x: Tensor) -> int:
        return math.prod(self.size(x))

    def restore(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        height, width = self.size(x)
        items = 1 if x.dim() == 3 else x.shape[0]
        image = y.reshape(items, height, width, y.shape[-1]).permute(0, 3, 1, 2)
        if not (_channels_last(weight) or (x.dim() == 4 and _channels_last(x))):
            image = image.contiguous()  # networks may .view() what torch returns
        return image[0] if x.dim() == 3 else image


def _channels_last(x: Tensor) -> bool:
    """Whether torch would take (N, C, H, W) as channels-last; told apart by strides even for C = 1."""
    _, channels, _, width = x.shape
    return x.stride()[1:] == (1, width * channels, channels) and x.stride()[1:] != (1, 1, 1)
