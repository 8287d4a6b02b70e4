"""Reads without gradients on the CPU: every stage on a piece of the products while that is in cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from neurosim.analog.realised import Realised
from neurosim.devices.converters import bowed
from neurosim.devices.kernels import pitch, quantise_rows, read_tile, sum_magnitudes
from neurosim.random import follow_torch_threads, key_words

if TYPE_CHECKING:
    from neurosim.analog.bench import Active
    from neurosim.analog.crossbar import Crossbar

_ALIGNMENT = 64  # bytes; what torch's own allocator gives a fresh tensor on the CPU


Use = int | str
"""Which use of a layer in a forward pass: a number, with more behind it where a use has several reads."""


def read_fused(
    crossbar: Crossbar, x: Tensor, readers: list[Reader], active: Active, use: Use, first: int
) -> Tensor:
    """Sums of a batched, prepared float32 input, (chips · vectors, columns).

    With the bias, unless offsets are still to be subtracted.

    Args:
        crossbar: what to read.
        x: (chips · items, …), the items of each chip together.
        readers: one a chip.
        active: chips and age, which name the noise.
        use: which use of the layer in this forward pass.
        first: number of the first vector in the noise of each tile.
    """
    follow_torch_threads()
    operator, columns = crossbar.operator, crossbar.layout.columns
    per_item = operator.vectors_per_item(x)
    out = torch.empty(x.shape[0] * per_item, columns)
    items = x.shape[0] // len(readers)
    step = operator.items_per_piece(x, columns)
    for k, reader in enumerate(readers):
        keys = reader.keys(use, active)
        for start in range(k * items, (k + 1) * items, step):
            stop = min(start + step, (k + 1) * items)
            target = out[start * per_item : stop * per_item]
            piece = dac(crossbar, x[start:stop], reader.unit)
            reader.read(piece, target, first + (start - k * items) * per_item, keys)
    return out


def dac(crossbar: Crossbar, x: Tensor, unit: float = 1.0) -> Tensor:
    """The input as the word lines carry it, in units of ``unit``, contiguous and aligned."""
    bits = crossbar.hardware.dac.bits
    if bits is None:
        return aligned(bowed(x, full_scale_of(crossbar), crossbar.hardware.dac.nonlinearity))
    levels = 2 ** (bits - 1) - 1
    out = torch.empty_like(x)
    full_scale = crossbar.calibrated().dac
    quantise_rows(
        _flat(x),
        _flat(out),
        np.float32(levels / full_scale),
        np.float32(levels),
        np.float32(full_scale / levels / unit),
    )
    return bowed(out, full_scale / unit, crossbar.hardware.dac.nonlinearity)


def full_scale_of(crossbar: Crossbar) -> float:
    """That of the DAC; anything where nothing depends on it."""
    return crossbar.calibrated().dac if crossbar.hardware.dac.nonlinearity else 1.0


def code(crossbar: Crossbar) -> float:
    """What one code of the DAC stands for; 1 where it is ideal, or its codes are no multiples of one."""
    bits, bow = crossbar.hardware.dac.bits, crossbar.hardware.dac.nonlinearity
    return 1.0 if bits is None or bow else crossbar.calibrated().dac / (2 ** (bits - 1) - 1)


class Reader:
    """One crossbar on one chip, ready to read: kernel arguments that do not change between pieces."""

    def __init__(self, crossbar: Crossbar, realised: Realised, k: int, chip: int) -> None:
        hw, ranges = crossbar.hardware, crossbar.calibrated()
        self.crossbar = crossbar
        self.products = crossbar.bench.products
        # codes of up to 8 bits are exact in bfloat16, multiples of a step would not be
        self.unit = code(crossbar) if self.products == torch.bfloat16 else 1.0
        self.matrices = [aligned(matrix[k].to(self.products)) for matrix in realised.matrices]
        self.chip = np.uint32(chip)
        self.adc = hw.adc.bits is not None
        self.noise = hw.array.output_noise_std > 0
        self.sigma = np.float32(crossbar.noise_std() / self.unit)
        levels = 2 ** (hw.adc.bits - 1) - 1 if hw.adc.bits is not None else 1
        self.limit = np.float32(levels)
        steps = crossbar.by_column(ranges.adc / levels) if self.adc else self.unit
        self.gain = (realised.gain[k] * steps).numpy()
        self.inv_step = (levels * self.unit / ranges.adc.double()).float().numpy()
        self.bias = _added(crossbar, realised, k).contiguous().numpy()
        self._keys: dict[tuple[Use, float], _Keys] = {}

    def keys(self, use: Use, active: Active) -> _Keys:
        """Key words of the white noise of every tile."""
        if (use, active.time_s) not in self._keys:
            seed, name, layout = active.chips.lot.seed, self.crossbar.noise_name, self.crossbar.layout
            self._keys[use, active.time_s] = {
                (part, c): tuple(
                    np.uint32(w) for w in key_words(seed, name, noise_effect(part, c, use, active.time_s))
                )
                for part in (part_names(len(self.matrices), len(layout.row_slices)) if self.noise else ())
                for c in range(len(layout.col_ranges))
            }
        return self._keys[use, active.time_s]

    def read(self, piece: Tensor, target: Tensor, first: int, keys: _Keys) -> None:
        """Read the items of ``piece`` into ``target`` (vectors, columns); ``first`` numbers the vectors."""
        layout = self.crossbar.layout
        out, driven = target.numpy(), piece.to(self.products)
        rows = layout.row_slices
        for part, name in enumerate(part_names(len(self.matrices), len(rows))):
            matrix = self.matrices[part // len(rows)]
            y = self.crossbar.operator.partial(driven, matrix, rows[part % len(rows)]).float().numpy()
            for c, (left, right) in enumerate(layout.col_ranges):
                k0, k1 = keys.get((name, c), _NO_KEY)
                read_tile(
                    y, out, left, right, self.sigma, self.inv_step[part, c], self.limit, self.gain[part],
                    self.bias, first, self.chip, k0, k1, pitch(right - left), part > 0, self.adc, self.noise,
                )  # fmt: skip


_Keys = dict[tuple[int | str, int], tuple[np.uint32, ...]]
_NO_KEY = (np.uint32(0), np.uint32(0))


def _added(crossbar: Crossbar, realised: Realised, k: int) -> Tensor:
    """What is added to each column, (columns,): bias and shift, where nothing comes between."""
    added = torch.zeros(crossbar.layout.columns)
    if crossbar.offsets:
        return added
    if realised.shift is not None:
        added = added + realised.shift[k]
    if realised.bias is not None and crossbar.operator.adds_bias:
        added = added + realised.bias[k]
    return added


def part_names(slices: int, row_parts: int) -> Iterator[int | str]:
    """The name of each part in the white noise of its tiles: slice by slice, the row parts of each."""
    for s in range(slices):
        for r in range(row_parts):
            yield f"{r}/{s}" if s else r


def noise_effect(r: int | str, c: int, use: Use, time_s: float) -> str:
    """Name of the white noise of one tile, row part ``r`` and columns ``c``, in one use of its layer."""
    return f"output-noise[{r},{c}]{f'#{use}' if use else ''}@{time_s!r}"


def aligned(x: Tensor) -> Tensor:
    """The same numbers at an address that suits vector units.

    Libraries choose kernels, and with them the order of sums, by alignment; the numbers of a chip must not
    depend on which chips lie before it in memory.
    """
    return x if x.data_ptr() % _ALIGNMENT == 0 else x.clone()


def magnitudes(matrix: Tensor, parts: tuple[slice, ...]) -> Tensor:
    """Σ|w| over the rows of each part, (chips, row parts, columns), of (chips, columns, rows).

    In two steps, columns here and tiles by the caller, because torch splits a sum over everything among its
    threads, but not one of many sums: a chip's total must not depend on whether it is the only one.
    """
    if matrix.device.type == "cpu" and matrix.dtype == torch.float32 and matrix.is_contiguous():
        out = torch.empty(matrix.shape[0], len(parts), matrix.shape[1])
        edges = np.array([[part.start, part.stop] for part in parts], np.int64)
        follow_torch_threads()
        sum_magnitudes(matrix.numpy(), edges, out.numpy())
        return out
    return torch.stack([torch.linalg.vector_norm(matrix[..., part], ord=1, dim=2) for part in parts], dim=1)


def _flat(x: Tensor) -> np.ndarray:
    """A view of the memory of a dense tensor as two-dimensional rows, whatever its axis order."""
    dense = x if x.is_contiguous() else x.movedim(1, -1)
    return dense.reshape(x.shape[0], -1).numpy()
