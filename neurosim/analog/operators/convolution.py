"""Convolutions in one, two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurosim.analog.operators.operator import Operator
from neurosim.pointwise import pointwise

_CONVOLVE = {2: F.conv2d, 3: F.conv3d}
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@dataclass(frozen=True)
class Convolution(Operator):
    """Cross-correlation with any stride, padding, dilation and groups: ``nn.Conv1d``, ``2d`` and ``3d``.

    One dimension is computed as images of height one: torch has fast channels-last kernels for those.
    ``pads`` is in the order of ``F.pad`` (last axis first); it is applied first, so that the asymmetric
    padding of ``"same"`` and the modes other than zeros need no cases of their own.

    Attributes:
        dims: axes of the layer's images; ``kernel`` and the rest have an axis more where it is 1.
        channels: of the input.
    """

    dims: int
    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    pads: tuple[int, ...]
    mode: str

    @classmethod
    def of(cls, layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Convolution:
        """The operator of a layer."""
        shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
        return cls.with_settings(
            shape, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode
        )

    @classmethod
    def with_settings(
        cls,
        shape: tuple[int, ...],
        stride: Sequence[int],
        padding: str | Sequence[int],
        dilation: Sequence[int],
        groups: int,
        mode: str = "zeros",
    ) -> Convolution:
        """The operator of a weight of this shape."""
        kernel, dims = shape[2:], len(shape) - 2
        return cls(
            dims=dims,
            channels=shape[1] * groups,
            kernel=lifted(kernel, 1),
            stride=lifted(tuple(stride), 1),
            dilation=lifted(tuple(dilation), 1),
            groups=groups,
            pads=_pads(padding, kernel, tuple(dilation)) + (0, 0) * (dims == 1),
            mode=mode,
        )

    def cells_signature(self) -> object:
        return self.groups

    @property
    def _axes(self) -> int:
        return len(self.kernel)

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        before, after = self.pads[-2::-2], self.pads[-1::-2]  # first axis first
        if self.mode == "zeros" and before == after:
            return x, before  # the convolution pads as it goes
        zeros = (0,) * self._axes
        if self.mode == "zeros":
            return F.pad(x, self.pads), zeros
        # as torch: circular, reflected and replicated padding know the axes of the layer only
        flat = x.squeeze(-2) if self.dims == 1 else x
        padded = F.pad(flat, self.pads[: 2 * self.dims], mode=self.mode)
        return (padded.unsqueeze(-2) if self.dims == 1 else padded), zeros

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        padded, padding = self._padded(x)
        if self.kernel == self.stride == (1, 1) and padding == (0, 0):
            return pointwise(padded, weight, bias, groups)
        return _CONVOLVE[self._axes](padded, weight, bias, self.stride, padding, self.dilation, groups)

    def ideal(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = self._convolve(
            self.batched(x), weight.reshape(*weight.shape[:2], *self.kernel), bias, self.groups
        )
        y = y.squeeze(-2) if self.dims == 1 else y
        return y if x.dim() == self.dims + 2 else y[0]

    def batched(self, x: Tensor) -> Tensor:
        images = x if x.dim() == self.dims + 2 else x.unsqueeze(0)
        return images.unsqueeze(-2) if self.dims == 1 else images

    def prepare(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=_CHANNELS_LAST[self._axes])

    def partial(self, x: Tensor, matrix: Tensor, rows: slice) -> Tensor:
        area = math.prod(self.kernel)
        per_group = self.channels // self.groups
        if rows.start == 0 and rows.stop == matrix.shape[1]:
            y = self._convolve(x, self._weight(matrix, per_group), None, self.groups)
        elif self.groups == 1:
            # only the channels this part touches; the first and last may be touched in part
            first, last = rows.start // area, -(-rows.stop // area)
            part = self._masked(matrix, rows)[:, first * area : last * area]
            y = self._convolve(x[:, first:last], self._weight(part, last - first), None, 1)
        else:
            y = self._convolve(x, self._weight(self._masked(matrix, rows), per_group), None, self.groups)
        return y.movedim(1, -1).reshape(-1, matrix.shape[0])

    def vectors(self, x: Tensor) -> Tensor:
        padded, padding = self._padded(x)
        both = tuple(n for p in reversed(padding) for n in (p, p))
        windows = F.pad(padded, both)
        for axis, (k, s, d) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            windows = windows.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
        # (items, channels, *outputs, *kernel) → a vector an output, channels before kernel
        outputs = range(2, 2 + self._axes)
        patches = windows.permute(0, *outputs, 1, *range(2 + self._axes, windows.dim()))
        return patches.reshape(-1, self.groups, self.channels // self.groups * math.prod(self.kernel))

    def _weight(self, matrix: Tensor, channels: int) -> Tensor:
        # Channels-last weights make the result channels-last too.  With one channel torch cannot tell
        # the two orders apart and .contiguous() would leave the other, hence the explicit strides.
        shape = (matrix.shape[0], channels, *self.kernel)
        if self._axes == 3 and channels == 1:
            return matrix.reshape(shape)  # oneDNN takes those strides for others, and is wrong
        dense = matrix.reshape(shape).movedim(1, -1).contiguous()
        inner = [math.prod(self.kernel[axis + 1 :]) * channels for axis in range(self._axes)]
        return dense.as_strided(shape, (channels * math.prod(self.kernel), 1, *inner))

    def _masked(self, matrix: Tensor, rows: slice) -> Tensor:
        area = math.prod(self.kernel)
        if rows.start % area == 0 and rows.stop % area == 0 and self.groups == 1:
            return matrix
        kept = torch.zeros(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        kept[rows] = 1
        return matrix * kept

    def _size(self, batched: Tensor) -> list[int]:
        """Sizes of the output of a batched input, first axis first."""
        pads = [before + after for before, after in zip(self.pads[-2::-2], self.pads[-1::-2], strict=True)]
        given = [n + p for n, p in zip(batched.shape[2:], pads, strict=True)]
        each = zip(given, self.kernel, self.stride, self.dilation, strict=True)
        return [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in each]

    def vectors_per_item(self, x: Tensor) -> int:
        return math.prod(self._size(x))

    def restore(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        batched = self.batched(x)
        image = y.reshape(batched.shape[0], *self._size(batched), y.shape[-1]).movedim(-1, 1)
        if not (channels_last(weight) or channels_last(x)):
            image = image.contiguous()  # networks may .view() what torch returns
        image = image.squeeze(-2) if self.dims == 1 else image
        return image if x.dim() == self.dims + 2 else image[0]


def lifted(sizes: tuple[int, ...], one: int) -> tuple[int, ...]:
    """Sizes of one axis as those of two, the first of which is ``one``; others as they are."""
    return (one, *sizes) if len(sizes) == 1 else sizes


def _pads(
    padding: str | Sequence[int], kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...]:
    """As ``F.pad`` takes them: (before, after) of the last axis first."""
    if padding == "valid":
        pairs = [(0, 0) for _ in kernel]
    elif padding == "same":
        # by torch's rule the odd pixel goes after
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(int(p), int(p)) for p in padding]
    return tuple(n for pair in reversed(pairs) for n in pair)


def channels_last(x: Tensor) -> bool:
    """Whether torch would take (N, C, *sizes) as channels-last; told apart by strides even for C = 1."""
    if x.dim() not in (4, 5):
        return False
    channels, sizes = x.shape[1], x.shape[2:]
    inner = tuple(math.prod(sizes[axis + 1 :]) * channels for axis in range(len(sizes)))
    return x.stride()[1:] == (1, *inner) and any(stride != 1 for stride in inner)
