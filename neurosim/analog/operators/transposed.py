"""Transposed convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurosim.analog.operators.convolution import channels_last, lifted
from neurosim.analog.operators.operator import Operator

_CONVOLVE = {2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@dataclass(frozen=True)
class TransposedConvolution(Operator):
    """Transposed convolution: ``nn.ConvTranspose1d``, ``2d`` and ``3d``.

    A crossbar reads one vector an *input* pixel: its rows are the input channels of a group, its columns
    every output channel at every place of the kernel.  What the columns deliver is added up digitally
    where kernels overlap::

        y[o, p·stride + j·dilation − padding] += Σ_c W[c, o, j] x[c, p]

    One dimension is computed as images of height one.

    Attributes:
        dims: axes of the layer's images; ``kernel`` and the rest have an axis more where it is 1.
        channels, outputs: channels of input and output.
    """

    adds_bias: ClassVar[bool] = False

    dims: int
    channels: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]

    @classmethod
    def of(cls, layer: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) -> TransposedConvolution:
        """The operator of a layer."""
        assert isinstance(layer.padding, tuple)
        return cls(
            dims=len(layer.kernel_size),
            channels=layer.in_channels,
            outputs=layer.out_channels,
            kernel=lifted(tuple(layer.kernel_size), 1),
            stride=lifted(tuple(layer.stride), 1),
            dilation=lifted(tuple(layer.dilation), 1),
            groups=layer.groups,
            padding=lifted(layer.padding, 0),
            output_padding=lifted(tuple(layer.output_padding), 0),
        )

    @property
    def _axes(self) -> int:
        return len(self.kernel)

    def _transposed(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        settings = (self.stride, self.padding, self.output_padding, groups, self.dilation)
        return _TRANSPOSED[self._axes](x, weight, bias, *settings)

    def ideal(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kernels = weight.reshape(*weight.shape[:2], *self.kernel)
        return self._as_given(self._transposed(self.batched(x), kernels, bias, self.groups), x)

    def _as_given(self, image: Tensor, x: Tensor) -> Tensor:
        image = image.squeeze(-2) if self.dims == 1 else image
        return image if x.dim() == self.dims + 2 else image[0]

    def matrix(self, weight: Tensor) -> Tensor:
        # (channels, outputs a group, *kernel) → columns by group, output, place; rows by channel of the group
        by_group = weight.reshape(self.groups, self.channels // self.groups, -1)
        return by_group.transpose(1, 2).reshape(-1, self.channels // self.groups)

    def batched(self, x: Tensor) -> Tensor:
        images = x if x.dim() == self.dims + 2 else x.unsqueeze(0)
        return images.unsqueeze(-2) if self.dims == 1 else images

    def prepare(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=_CHANNELS_LAST[self._axes])

    def partial(self, x: Tensor, matrix: Tensor, rows: slice) -> Tensor:
        columns = matrix.shape[0]
        if self.groups == 1:
            pixels = x.movedim(1, -1).reshape(-1, self.channels)
            return torch.mm(pixels[:, rows], matrix[:, rows].t())
        kept = matrix
        if rows.stop - rows.start < matrix.shape[1]:
            mask = torch.zeros(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
            mask[rows] = 1
            kept = matrix * mask
        ones = (1,) * self._axes
        y = _CONVOLVE[self._axes](x, kept.reshape(*kept.shape, *ones), groups=self.groups)
        return y.movedim(1, -1).reshape(-1, columns)

    def vectors(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).reshape(-1, self.groups, self.channels // self.groups)

    def vectors_per_item(self, x: Tensor) -> int:
        return math.prod(x.shape[2:])

    def restore(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        batched = self.batched(x)
        patches = y.reshape(batched.shape[0], *batched.shape[2:], -1).movedim(-1, 1)
        # F.fold knows no output padding, but finds as many places as long as that is below a stride
        folds = all(o < s for o, s in zip(self.output_padding, self.stride, strict=True))
        if self._axes == 2 and folds:
            size = self._size(batched)
            image = F.fold(patches.flatten(2), size, self.kernel, self.dilation, self.padding, self.stride)
        else:
            image = self._overlapped(patches)
        last = channels_last(weight) or channels_last(x)
        image = image.contiguous(
            memory_format=_CHANNELS_LAST[self._axes] if last else torch.contiguous_format
        )
        return self._as_given(image, x)

    def _overlapped(self, patches: Tensor) -> Tensor:
        """The same sum, as a transposed convolution whose kernels of a single one put each place right."""
        places = math.prod(self.kernel)
        ones = torch.eye(places, dtype=patches.dtype, device=patches.device).reshape(places, 1, *self.kernel)
        return self._transposed(
            patches, ones.repeat(self.outputs, *(1,) * (self._axes + 1)), None, self.outputs
        )

    def _size(self, batched: Tensor) -> tuple[int, ...]:
        each = zip(
            batched.shape[2:],
            self.stride,
            self.padding,
            self.dilation,
            self.kernel,
            self.output_padding,
            strict=True,
        )
        return tuple((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, s, p, d, k, o in each)
