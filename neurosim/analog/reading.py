"""The read of a crossbar: DAC → products of each part → white noise → ADC → gain → sum → offset → bias.

Every stage maps tensors to tensors.  A part is what one conversion sees: the products of one slice of the
weight with one part of the rows.  On the CPU and without gradients the stages run fused
(:mod:`neurosim.analog.fused`); otherwise as torch operations that autograd can follow.  Both give the same
numbers, from the same streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from neurosim.analog.bench import Active
from neurosim.analog.fused import Reader, Use, aligned, dac, noise_effect, part_names, read_fused
from neurosim.analog.realised import Realised
from neurosim.devices import Adc, quantise
from neurosim.devices.adc import convert
from neurosim.devices.converters import bowed
from neurosim.devices.kernels import pitch
from neurosim.errors import UsageError
from neurosim.random import stream

if TYPE_CHECKING:
    from neurosim.analog.crossbar import Crossbar


class Occasion(NamedTuple):
    """Which read of a layer: what names its noise.

    Attributes:
        active: chips and age.
        use: which use of the layer in this forward pass.
        first: number of the first vector in the noise of each tile.
        readers: those of earlier reads of the same devices, by chip; grows.  None where devices are
            realised for this read alone.
    """

    active: Active
    use: Use
    first: int
    readers: dict[int, Reader] | None = None


def read(crossbar: Crossbar, x: Tensor, realised: Realised, at: Occasion) -> Tensor:
    """With every stage: (chips · vectors, outputs).

    Args:
        crossbar: what to read.
        x: a batched and prepared input, the items of each chip together.
        realised: what the chips hold.
        at: chips and age, and which read of theirs.
    """
    hw = crossbar.hardware
    if crossbar.bench.counter is not None and hw.dac.bits is not None:
        # here and not where lines are driven: single bits never saturate
        crossbar.bench.counter.of(crossbar.name).drive(x, crossbar.calibrated().dac)
    if hw.dac.kind == "bit-serial" and (crossbar.converts or hw.wires.nonlinear):
        return _read_bits(crossbar, x, realised, at)
    return _read_whole(crossbar, x, realised, at)


def _read_bits(crossbar: Crossbar, x: Tensor, realised: Realised, at: Occasion) -> Tensor:
    """A read for each bit of the magnitudes at full drive, added with their weights.

        y = Σ_b 2^b/L·read(full_scale·sign(x)·bit_b)

    with L the largest code.
    """
    bits, full = crossbar.hardware.dac.bits, crossbar.calibrated().dac
    assert bits is not None
    levels, quantised = 2 ** (bits - 1) - 1, quantise(x, full, bits)
    bare, total = realised.without_additions(), None
    for b, plane in enumerate(bit_planes(quantised.detach(), full, bits)):
        # the weights add up to 1: with a slope of 1 each, the whole has the slope of the quantiser
        followed = plane + (quantised - quantised.detach()) if quantised.requires_grad else plane
        y = _read_whole(crossbar, followed, bare, at._replace(use=f"{at.use}~{b}")) * (2**b / levels)
        total = y if total is None else total + y
    assert total is not None
    by_chip = total.unflatten(0, (len(realised.gain), -1))
    return _with_bias(crossbar, by_chip, realised).flatten(0, 1)


def bit_planes(quantised: Tensor, full_scale: float, bits: int) -> Iterator[Tensor]:
    """Bits of the magnitudes of quantised numbers, the lowest first: −full_scale, 0 or full_scale.

    >>> [plane.tolist() for plane in bit_planes(torch.tensor([-3.0, 1.0]), 3.0, 3)]
    [[-3.0, 3.0], [-3.0, 0.0]]
    """
    levels = 2 ** (bits - 1) - 1
    codes = (quantised.abs() * (levels / full_scale)).round()
    drive = torch.sign(quantised) * full_scale
    for b in range(bits - 1):
        yield drive * (torch.div(codes, 2**b, rounding_mode="floor") % 2)


def _read_whole(crossbar: Crossbar, x: Tensor, realised: Realised, at: Occasion) -> Tensor:
    """A read with the input as it is."""
    needs_grad = torch.is_grad_enabled() and (x.requires_grad or realised.requires_grad)
    if crossbar.hardware.wires.nonlinear:
        if needs_grad:
            raise UsageError(
                "wires.model 'nonlinear' has no gradient: train with 'exact', read under torch.no_grad()"
            )
        return _read_nonlinear(crossbar, x, realised, at)
    if needs_grad or x.device.type != "cpu" or x.dtype != torch.float32 or crossbar.unfused:
        return _read_torch(crossbar, x, realised, at)
    if crossbar.folds:
        return linear(crossbar, dac(crossbar, x), realised)
    found = [_reader(crossbar, k, realised, chip, at.readers) for k, chip in enumerate(at.active.numbers)]
    y = read_fused(crossbar, x, found, at.active, at.use, at.first)
    if not crossbar.offsets:
        return y
    return _finished(crossbar, y, x, realised).flatten(0, 1)


def _reader(
    crossbar: Crossbar, k: int, realised: Realised, chip: int, readers: dict[int, Reader] | None
) -> Reader:
    if readers is None:
        return Reader(crossbar, realised, k, chip)
    if chip not in readers:
        readers[chip] = Reader(crossbar, realised, k, chip)
    return readers[chip]


def linear(crossbar: Crossbar, x: Tensor, realised: Realised) -> Tensor:
    """Programmed weights and offsets, nothing else: (chips · vectors, outputs)."""
    y = _products(crossbar, x, weights(crossbar, realised), slice(0, crossbar.layout.rows))
    if realised.offsets is not None:
        y = y + _amplified(crossbar, realised, realised.offsets)[:, None].to(y)
    return _with_bias(crossbar, y, realised).flatten(0, 1)


def additions(crossbar: Crossbar, realised: Realised) -> Tensor | None:
    """What a read without noise and converters adds to the products, (chips, outputs); None for nothing."""
    each = [realised.shift, realised.bias if crossbar.operator.adds_bias else None]
    if realised.offsets is not None:
        each.append(_amplified(crossbar, realised, realised.offsets))
    there = [one for one in each if one is not None]
    return sum(there[1:], start=there[0]) if there else None


def _amplified(crossbar: Crossbar, realised: Realised, offsets: Tensor) -> Tensor:
    """The offsets of amplifiers in units of the output, (chips, outputs)."""
    total = without_references(crossbar, (realised.gain * offsets).sum(1), 1)
    return total if realised.scale is None else total * realised.scale


def weights(crossbar: Crossbar, realised: Realised) -> Tensor:
    """Weights in units of the layer, (chips, outputs, rows)."""
    parts = crossbar.layout.row_slices
    found = []
    for s, matrix in enumerate(realised.matrices):
        gain = realised.gain[:, s * len(parts) : (s + 1) * len(parts)]
        if len(parts) == 1:
            found.append(matrix * gain[:, 0, :, None])
        else:
            each = [matrix[:, :, rows] * gain[:, r, :, None] for r, rows in enumerate(parts)]
            found.append(torch.cat(each, dim=2))
    folded = found[0] if len(found) == 1 else torch.stack(found).sum(0)
    if crossbar.offsets:
        folded = without_references(crossbar, folded, 1) - crossbar.offset
        assert realised.scale is not None
        folded = folded * realised.scale[:, :, None].to(folded)
    return folded if realised.row_scale is None else folded * realised.row_scale


def _products(crossbar: Crossbar, x: Tensor, matrices: Tensor, rows: slice) -> Tensor:
    """Products of some rows on every chip, (chips, vectors, columns)."""
    operator = crossbar.operator
    if len(matrices) > 1 and (torch.is_grad_enabled() or x.device.type != "cpu"):
        return operator.products(x, matrices, rows)
    # chip by chip: its numbers must not depend on which chips run beside it, to the last bit
    each = zip(torch.chunk(x, len(matrices)), matrices, strict=True)
    found = [operator.partial(aligned(items), aligned(matrix), rows) for items, matrix in each]
    return found[0].unsqueeze(0) if len(found) == 1 else torch.stack(found)


def _with_bias(crossbar: Crossbar, y: Tensor, realised: Realised) -> Tensor:
    """Products (chips, vectors, outputs) with what is added digitally, where columns have a bias each."""
    if realised.shift is not None:
        y = y + realised.shift[:, None].to(y)
    if realised.bias is None or not crossbar.operator.adds_bias:
        return y
    return y + realised.bias[:, None]


def _read_torch(crossbar: Crossbar, x: Tensor, realised: Realised, at: Occasion) -> Tensor:
    """Every stage as torch operations on all chips; straight-through gradients; any device and type."""
    driven = _driven(crossbar, x, at)
    if crossbar.folds:
        return linear(crossbar, driven, realised)
    parts = (
        _products(crossbar, driven, matrix, rows)
        for matrix in realised.matrices
        for rows in crossbar.layout.row_slices
    )
    y = _digitised(crossbar, parts, realised, at)
    if not crossbar.offsets:
        return _with_bias(crossbar, y, realised).flatten(0, 1)
    return _finished(crossbar, y.flatten(0, 1), x, realised).flatten(0, 1)


def _driven(crossbar: Crossbar, x: Tensor, at: Occasion) -> Tensor:
    """The input as the word lines carry it."""
    conversion = crossbar.hardware.dac
    if conversion.bits is None and not conversion.nonlinearity:
        return x
    full = crossbar.calibrated().dac
    x = bowed(quantise(x, full, conversion.bits), full, conversion.nonlinearity)
    if not conversion.jitter_std:
        return x
    # one pulse for each number that the layer reads: a convolution uses that of a pixel in all its vectors
    chips, elements = len(at.active.numbers), x[0].numel() if len(x) else 0
    item = at.first // max(1, crossbar.operator.vectors_per_item(x))
    source = stream(
        at.active.chips.lot.seed, 0, crossbar.noise_name, f"dac-jitter#{at.use}@{at.active.time_s!r}"
    )
    n = source.normals((len(x) // chips, elements), at.active.numbers, item * elements, str(x.device))
    assert conversion.bits is not None  # a description with jitter has steps
    step = full / (2 ** (conversion.bits - 1) - 1)
    jitter = n.reshape(x.shape).to(x) * (conversion.jitter_std * step)
    return x + jitter * (x != 0)  # no pulse, no jitter


def _read_nonlinear(crossbar: Crossbar, x: Tensor, realised: Realised, at: Occasion) -> Tensor:
    """The same, with the products of devices that follow a law."""
    from neurosim.analog.nonlinear_read import nonlinear_products

    hw, full = crossbar.hardware, crossbar.calibrated().dac
    signal = _driven(crossbar, x, at)
    assert realised.legs is not None
    found = [
        nonlinear_products(crossbar.operator.vectors(items) / full, plus, minus, crossbar.layout, hw)
        for items, plus, minus in zip(
            torch.chunk(signal, len(at.active.numbers)), *realised.legs, strict=True
        )
    ]
    parts = (torch.stack(part).to(x.dtype) * full for part in zip(*found, strict=True))
    y = _digitised(crossbar, parts, realised, at)
    return _with_bias(crossbar, y, realised).flatten(0, 1)


def _digitised(crossbar: Crossbar, parts: Iterable[Tensor], realised: Realised, at: Occasion) -> Tensor:
    """White noise, ADC and gain of the products of each part, (chips, vectors, columns), and their sum."""
    hw, total = crossbar.hardware, None
    names = part_names(crossbar.slices, len(crossbar.layout.row_slices))
    for part, (name, y) in enumerate(zip(names, parts, strict=True)):
        if realised.offsets is not None:
            y = y + realised.offsets[:, part, None].to(y)
        if hw.array.output_noise_std:
            y = y + white_noise(crossbar, name, y, at)
        if hw.adc.bits is not None:
            y = _codes(crossbar, y, crossbar.by_column(crossbar.calibrated().adc)[part].to(y), realised, part)
        y = y * realised.gain[:, part, None]
        total = y if total is None else total + y
    assert total is not None  # a matrix has at least one row part
    return total


def _codes(crossbar: Crossbar, y: Tensor, full_scale: Tensor, realised: Realised, part: int) -> Tensor:
    """What the ADCs of a part make of its products, (chips, vectors, columns)."""
    if crossbar.bench.counter is not None:
        crossbar.bench.counter.of(crossbar.name).digitise(y, full_scale)
    return convert(
        y, full_scale, crossbar.hardware.adc, realised.converters[part] if realised.converters else {}
    )


def without_references(crossbar: Crossbar, y: Tensor, dim: int) -> Tensor:
    """Columns of outputs, less their reference's where they have one."""
    places = crossbar.referenced
    if places is None:
        return y
    outputs, references = (
        torch.tensor(numbers, device=y.device) for numbers in (places.outputs, places.of_outputs)
    )
    return y.index_select(dim, outputs) - y.index_select(dim, references)


def _finished(crossbar: Crossbar, y: Tensor, x: Tensor, realised: Realised) -> Tensor:
    """Sums of all columns, (chips · vectors, columns), less offsets, times scales, with the bias.

    ``x`` is the input of the layer.  The result is (chips, vectors, outputs).
    """
    y = without_references(crossbar, y, 1)
    if crossbar.offset:
        sums = _sums_of_inputs(crossbar, _coded(crossbar, x), len(realised.gain))
        y = (y.unflatten(1, (sums.shape[1], -1)) - crossbar.offset * sums.unsqueeze(2)).flatten(1)
    assert realised.scale is not None
    by_chip = y.unflatten(0, (len(realised.gain), -1)) * realised.scale[:, None].to(y)
    return _with_bias(crossbar, by_chip, realised)


def _coded(crossbar: Crossbar, x: Tensor) -> Tensor:
    """The input as the digital side knows it: codes, whatever drivers make of them."""
    bits = crossbar.hardware.dac.bits
    if bits is None or not x.is_floating_point():
        return x
    return quantise(x, crossbar.calibrated().dac, bits)


def _sums_of_inputs(crossbar: Crossbar, x: Tensor, chips: int) -> Tensor:
    """Σ of the inputs of each group, (chips · vectors, groups)."""
    groups, rows = crossbar.layout.groups, crossbar.layout.rows
    dtype = x.dtype if x.is_floating_point() else torch.float32
    ones = torch.ones(chips, groups, rows, dtype=dtype, device=x.device)
    return _products(crossbar, x, ones, slice(0, rows)).flatten(0, 1)


def offset_of(crossbar: Crossbar, x: Tensor, realised: Realised) -> Tensor:
    """What is subtracted digitally for inputs of one chip, in units of the layer: (vectors, outputs) or 0."""
    if not crossbar.offset:
        return torch.zeros((), device=x.device)
    assert realised.scale is not None  # the same on every chip
    sums = _sums_of_inputs(crossbar, _coded(crossbar, x), 1)
    columns = sums.repeat_interleave(realised.scale.shape[1] // sums.shape[1], dim=1)
    offset = crossbar.offset * columns * realised.scale[0].to(columns)
    return offset if realised.row_scale is None else offset * realised.row_scale[x][:, None]


def white_noise(crossbar: Crossbar, part: int | str, y: Tensor, at: Occasion) -> Tensor:
    """White output noise of one part, (chips, vectors, columns)."""
    pieces = []
    for c, (left, right) in enumerate(crossbar.layout.col_ranges):
        width = pitch(right - left)
        effect = noise_effect(part, c, at.use, at.active.time_s)
        source = stream(at.active.chips.lot.seed, 0, crossbar.noise_name, effect)
        n = source.normals((y.shape[1], width), at.active.numbers, at.first * width, str(y.device))
        pieces.append(n[..., : right - left])
    return torch.cat(pieces, dim=2).to(y) * crossbar.noise_std()


def read_lookup(crossbar: Crossbar, x: Tensor, realised: Realised, at: Occasion) -> Tensor:
    """Rows of a crossbar that is read one word line at a time: only the tile that holds it answers."""
    hw, chips = crossbar.hardware, len(at.active.numbers)
    parts = len(crossbar.layout.row_slices)
    stops = torch.tensor([rows.stop for rows in crossbar.layout.row_slices], device=x.device)
    entries = x.reshape(chips, -1)
    if x.numel() and not (int(x.min()) >= 0 and int(x.max()) < crossbar.layout.rows):
        raise IndexError(f"index out of range in {crossbar.name}")  # as torch; negative ones would wrap
    part = torch.searchsorted(stops, entries, right=True)
    chip = torch.arange(chips, device=x.device)[:, None]
    total = None
    for s, matrix in enumerate(realised.matrices):
        y = matrix.transpose(1, 2)[chip, entries]
        if realised.offsets is not None:
            y = y + realised.offsets[chip, part + s * parts].to(y)
        if hw.array.output_noise_std:
            # a row of noise for each entry, whichever tile answers
            y = y + white_noise(crossbar, f"*/{s}" if s else "*", y, at)
        if hw.adc.bits is not None:
            ranges = crossbar.by_column(crossbar.calibrated().adc).to(y)[part + s * parts]
            if crossbar.bench.counter is not None:
                crossbar.bench.counter.of(crossbar.name).digitise(y, ranges)
            y = _looked_up(y, ranges, part + s * parts, realised, hw.adc)
        y = y * realised.gain[chip, part + s * parts]
        total = y if total is None else total + y
    assert total is not None
    if crossbar.offsets:
        assert realised.scale is not None
        total = without_references(crossbar, total, 2) - crossbar.offset
        total = total * realised.scale[:, None].to(total)
    if realised.row_scale is not None:
        total = total * realised.row_scale[entries][..., None].to(total)
    return total.flatten(0, 1) if realised.shift is None else (total + realised.shift[:, None]).flatten(0, 1)


def _looked_up(y: Tensor, ranges: Tensor, part: Tensor, realised: Realised, adc: Adc) -> Tensor:
    """Codes of entries, (chips, entries, columns), each of which the tiles of its own part convert."""
    if not realised.converters:
        return quantise(y, ranges, adc.bits)
    found = torch.zeros_like(y)
    for number, state in enumerate(realised.converters):
        found = torch.where((part == number)[..., None], convert(y, ranges, adc, state), found)
    return found
