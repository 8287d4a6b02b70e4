"""Weights to pairs of conductances and back, and the split of a large matrix into tiles."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from neurosim.devices.device import Device
from neurosim.devices.hardware import Array
from neurosim.errors import UsageError

SCALINGS = ("per-layer", "per-column")
# beyond it, weight per siemens overflows float32
LARGEST_WEIGHT = 1e22


class Mapped(NamedTuple):
    """The two legs of the pairs that hold a weight, and the scale that leads back."""

    g_plus: Tensor
    g_minus: Tensor
    scale: Tensor


def to_conductances(weight: Tensor, device: Device, scaling: Literal["per-layer", "per-column"]) -> Mapped:
    """A one-sided differential pair: one leg carries the weight, the other rests at ``g_min``.

        g± = g_min + (g_max − g_min)·max(±w/scale, 0)

    Args:
        weight: (out, ...) floating point; the first axis is the output.
        device: gives ``g_min_siemens`` and ``g_max_siemens``.
        scaling: scale = max|w|, of the whole weight (a tensor without axes), or of each output
            (shape (out, 1, ..., 1)).  It is 1 where every weight is 0.

    Returns:
        Legs of the shape of ``weight``, in siemens, and the scale in units of the weight, float32 or
        float64 (a half-precision weight is widened: microsiemens underflow in half).  The scale is a
        calibration constant: no gradient flows through it.  Where w = 0 each leg takes half the
        gradient, so that the pair together passes it on whole.

    Raises:
        UsageError: weight is not floating point, has no axes, or holds NaN, infinity
            or values beyond 1e22.

    >>> from neurosim.devices import Ideal
    >>> pair = to_conductances(torch.tensor([[1.0, -0.5]]), Ideal(), "per-layer")
    >>> (pair.g_plus * 1e6).tolist(), (pair.g_minus * 1e6).tolist(), pair.scale.item()
    ([[25.0, 0.0]], [[0.0, 12.5]], 1.0)
    """
    x, scale = to_fractions(weight, scaling)
    span = device.g_max_siemens - device.g_min_siemens
    zero = x.new_zeros(())
    # torch.maximum and not clamp: at a tie it shares the gradient, clamp would give both legs all of it
    plus, minus = torch.maximum(x, zero), torch.maximum(-x, zero)
    return Mapped(device.g_min_siemens + span * plus, device.g_min_siemens + span * minus, scale)


def to_fractions(
    weight: Tensor, scaling: Literal["per-layer", "per-column"], percentile: float = 100.0
) -> tuple[Tensor, Tensor]:
    """Weights as fractions of full conductance, −1 to 1, and the scale that leads back.

    Arguments, scale and errors are those of :func:`to_conductances`.

    Args:
        percentile: scale from this percentile of the magnitudes, in percent, of all weights or of those of
            each output, by linear interpolation; weights beyond it saturate and have no gradient.  Where it
            is 0 because most weights are, the largest counts.

    >>> to_fractions(torch.tensor([[1.0, -0.5]]), "per-layer")
    (tensor([[ 1.0000, -0.5000]]), tensor(1.))
    >>> to_fractions(torch.tensor([[4.0, -2.0, 1.0]]), "per-layer", 50.0)
    (tensor([[ 1.0000, -1.0000,  0.5000]]), tensor(2.))
    """
    _check(weight, scaling)
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    scale = _scale(weight.detach(), scaling)
    if not bool((scale <= LARGEST_WEIGHT).all()):  # NaN is not <= anything
        raise UsageError(
            f"expected finite weights of at most {LARGEST_WEIGHT:g}; got NaN, infinity or a larger one in a "
            f"weight of shape {_show(weight)}"
        )
    if percentile == 100.0:
        return weight / scale, scale
    scale = _percentile_scale(weight.detach(), scale, percentile)
    return (weight / scale).clamp(-1.0, 1.0), scale


def to_weights(g_plus: Tensor, g_minus: Tensor, scale: Tensor, device: Device) -> Tensor:
    """The weight a pair of conductances stands for: scale·(g+ − g−)/(g_max − g_min).

    Args:
        g_plus: (..., *shape) siemens, any leading axes, such as one of chips.
        g_minus: as ``g_plus``.
        scale: as returned by :func:`to_conductances`; broadcast from the right.
        device: the device the conductances were mapped for.

    >>> from neurosim.devices import Ideal
    >>> w = torch.tensor([[1.0, -0.5], [0.0, 3.0]])
    >>> bool(torch.allclose(to_weights(*to_conductances(w, Ideal(), "per-column"), Ideal()), w))
    True
    """
    return (g_plus - g_minus) * (scale / (device.g_max_siemens - device.g_min_siemens))


def _check(weight: Tensor, scaling: str) -> None:
    if scaling not in SCALINGS:
        raise UsageError(f"expected scaling 'per-layer' or 'per-column'; got {scaling!r}")
    if not weight.is_floating_point():
        raise UsageError(f"expected a floating-point weight; got {weight.dtype}")
    if weight.dim() == 0:
        raise UsageError("expected a weight of shape (out, ...); got one without axes")


def _scale(weight: Tensor, scaling: str) -> Tensor:
    magnitude = weight.abs()
    if weight.numel() == 0:
        largest = weight.new_zeros(())
    elif scaling == "per-layer":
        largest = magnitude.amax()
    else:
        # one axis: every output has a single weight, its own scale
        axes = tuple(range(1, weight.dim()))
        largest = magnitude.amax(dim=axes, keepdim=True) if axes else magnitude
    return torch.where(largest == 0, torch.ones_like(largest), largest)


def _percentile_scale(weight: Tensor, largest: Tensor, percentile: float) -> Tensor:
    """That of each of the scales in ``largest``, which stays where the percentile is 0."""
    if weight.numel() == 0:
        return largest
    # by selection and not torch.quantile, which refuses more than 16 million values
    magnitudes = weight.abs().reshape(largest.numel(), -1)
    position = percentile / 100 * (magnitudes.shape[1] - 1)
    below = math.floor(position)
    low = magnitudes.kthvalue(below + 1, dim=1).values
    high = magnitudes.kthvalue(min(below + 2, magnitudes.shape[1]), dim=1).values
    found = (low + (high - low) * (position - below)).reshape(largest.shape)
    return torch.where(found > 0, found, largest)


def _show(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape)


@dataclass(frozen=True)
class TileGrid:
    """How a (rows × cols) matrix lies on tiles: every pair of a row and a column slice is one tile.

    Attributes:
        row_slices: of the inputs.
        col_slices: of the outputs.
        capacity: pairs of devices in one tile, used or not.
    """

    row_slices: tuple[slice, ...]
    col_slices: tuple[slice, ...]
    capacity: int

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.row_slices) * len(self.col_slices)

    @property
    def utilisation(self) -> float:
        """Used fraction of the pairs on all tiles; 0 for an empty matrix."""
        if self.count == 0:
            return 0.0
        return self.row_slices[-1].stop * self.col_slices[-1].stop / (self.count * self.capacity)


def tile_grid(rows: int, cols: int, array: Array) -> TileGrid:
    """Split a matrix of ``rows`` inputs and ``cols`` outputs into as few, as equal tiles as possible.

    Raises:
        UsageError: a negative size.

    >>> grid = tile_grid(784, 512, Array(rows=256, cols=256))
    >>> [s.stop - s.start for s in grid.row_slices], grid.count, round(grid.utilisation, 3)
    ([196, 196, 196, 196], 8, 0.766)
    """
    return TileGrid(_balanced(rows, array.rows), _balanced(cols, array.cols), array.rows * array.cols)


def tiles(rows: int, cols: int, array: Array) -> list[slice]:
    """The row slices of :func:`tile_grid`: partial sums are digitised per slice, then added.

    >>> tiles(5, 1, Array(rows=3))
    [slice(0, 3, None), slice(3, 5, None)]
    """
    return list(tile_grid(rows, cols, array).row_slices)


def _balanced(total: int, largest: int) -> tuple[slice, ...]:
    """``total`` items in as few slices of at most ``largest`` as possible; sizes differ by at most one."""
    if total < 0:
        raise UsageError(f"expected a matrix size of 0 or more; got {total}")
    count = math.ceil(total / largest)
    if count == 0:
        return ()
    size, longer = divmod(total, count)
    starts = [index * size + min(index, longer) for index in range(count + 1)]
    return tuple(slice(start, stop) for start, stop in itertools.pairwise(starts))
