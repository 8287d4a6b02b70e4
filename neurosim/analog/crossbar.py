"""One weight on crossbar tiles: read it on every chip that is on the bench.

A crossbar is a pipeline of small stages, each of which maps tensors to tensors:
DAC → products of each row part → white noise → ADC → gain → sum → bias.  Wires act when a chip is programmed:
what they leave of its conductances is a matrix like any other.  On the CPU and without
gradients the stages run fused (:mod:`neurosim.analog.fused`); otherwise as torch operations that
autograd can follow.  Both give the same numbers, from the same streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neurosim.analog.bench import Active, Bench
from neurosim.analog.cells import Cells, only
from neurosim.analog.fused import Reader, aligned, dac, magnitudes, noise_effect, read_fused
from neurosim.analog.operators import Layout, Operator
from neurosim.analog.realised import Ranges, Realised
from neurosim.analog.wiring import MODELS, Reused, gains, through_wires
from neurosim.devices import Hardware, calibrate_range, quantise, to_conductances
from neurosim.devices.kernels import pitch
from neurosim.devices.pairs import difference
from neurosim.devices.spread import Spread
from neurosim.errors import UsageError
from neurosim.random import Draws, stream

_OBSERVED = 64  # vectors on which ranges are calibrated where each is solved on its own


class ContractError(RuntimeError):
    """The network does not treat the leading axis as an ordinary batch; caught by ``OnChips``."""


@dataclass
class Crossbar:
    """The crossbars behind one layer, or behind one of its weights.

    Attributes:
        name: of the layer, or of the parameter where a layer has several crossbars.
        noise_name: names the white noise.
        operator, layout: what it computes, and how that lies on tiles.
        cells: the devices that hold the weight.
        bias_spread: how a digital bias differs from chip to chip, if it does.
        outputs: which outputs of the weight this crossbar reads; None reads all.
        bias: the devices that hold the bias where the hardware has them do so.
    """

    name: str
    noise_name: str
    hardware: Hardware
    operator: Operator
    layout: Layout
    bench: Bench
    cells: Cells
    bias: Cells
    outputs: slice | None = None
    bias_spread: Spread | None = None
    ranges: Ranges | None = None
    # calibration never came here: so will no read, or it is refused
    unreached: bool = False
    # by use: a layer that a forward pass uses twice has two rows of white noise, so that neither depends
    # on how many vectors the other has read
    vectors_read: list[int] = field(default_factory=list)
    _pass: int = -1
    _use: int = 0
    # what is solved for wires once per chip, whatever the ages
    _states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    _realised: Realised | None = None
    _readers: dict[int, Reader] = field(default_factory=dict)
    # of wires, while the bench reuses solutions from one training step to the next
    reused: Reused | None = None

    # ---- the layer's forward ------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether a layer may compute as if there were no crossbar."""
        return self.bench.active is None and not self.bench.observing

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer returns: ideal off the bench, per chip on it."""
        if self.bench.active is not None:
            return self.read(x, weight, self.hold(weight, bias))
        if self.bench.observing:
            self._observe(x, weight)
        return self.operator.ideal(x, weight if self.outputs is None else weight[self.outputs], bias)

    def hold(self, weight: Tensor, bias: Tensor | None) -> Realised:
        """What the chips of the present forward pass hold; with gradients, realised for this call alone."""
        active = self._active()
        return self._on(active, weight, bias).part(active.part)

    def read(self, x: Tensor, weight: Tensor, realised: Realised) -> Tensor:
        """Products of every chip with its share of ``x``; ``weight`` gives the layer's shape and order."""
        active = self._active()
        self._count_use()
        chips = len(active.numbers)
        if active.samples > 0 and x.dim() > 1 and x.shape[0] == 1:
            # the same for all samples, such as positions in a text: every chip reads it for every sample
            x = x.expand(chips * active.samples, *x.shape[1:])
        signal = x if not x.is_floating_point() else _at_least_float32(x)
        batch = self.operator.batched(signal)
        if batch.shape[0] % chips or x.shape[0] % chips:
            raise ContractError(f"{self.name} read {batch.shape[0]} vectors on {chips} chips")
        prepared = self.operator.prepare(batch)
        y = (
            self._probed(prepared, realised, active)
            if active.linear
            else self._read(prepared, realised, active)
        )
        if not active.linear:
            self.vectors_read[self._use] += y.shape[0] // chips
        restored = self.operator.restore(y, x, weight)
        return restored.to(x.dtype) if x.is_floating_point() else restored.to(weight.dtype)

    def _read(self, x: Tensor, realised: Realised, active: Active) -> Tensor:
        """With every stage: (chips · vectors, columns)."""
        needs_grad = torch.is_grad_enabled() and (x.requires_grad or realised.requires_grad)
        if self.hardware.wires.nonlinear:
            if needs_grad:
                raise UsageError(
                    "wires.model 'nonlinear' has no gradient: train with 'exact', read under torch.no_grad()"
                )
            return self._read_nonlinear(x, realised, active)
        if needs_grad or x.device.type != "cpu" or x.dtype != torch.float32:
            return self._read_torch(x, realised, active)
        if not self.converts:
            return self._linear(dac(self, x), realised)
        readers = [self._reader(k, realised, chip) for k, chip in enumerate(active.numbers)]
        return read_fused(self, x, readers, active, self._use, self.vectors_read[self._use])

    def _reader(self, k: int, realised: Realised, chip: int) -> Reader:
        if self._realised is None:  # realised for this forward alone
            return Reader(self, realised, k, chip)
        if chip not in self._readers:
            self._readers[chip] = Reader(self, realised, k, chip)
        return self._readers[chip]

    def shape(self, weight: Tensor) -> tuple[int, ...]:
        """Shape of what it reads of a weight."""
        return tuple(weight.shape) if self.outputs is None else (self.layout.columns, *weight.shape[1:])

    def _active(self) -> Active:
        active = self.bench.active
        assert active is not None  # asked only inside Deployed.on
        return active

    def _count_use(self) -> None:
        """Which use of this layer in the present forward pass of the network this is: 0, 1, …"""
        self._use = self._use + 1 if self._pass == self.bench.passes else 0
        self._pass = self.bench.passes
        if self._use == len(self.vectors_read):
            self.vectors_read.append(0)

    # ---- what chips hold ----------------------------------------------------------------------

    def reset(self, keep_devices: bool = False) -> None:
        """Forget what was realised; with ``keep_devices`` what was programmed stays."""
        self._realised = None
        self._readers = {}
        self.vectors_read = []
        self._pass = -1
        self.cells.reset(keep_devices)
        self.bias.reset(keep_devices)
        if not keep_devices:
            self._states = {}

    def _on(self, active: Active, weight: Tensor, bias: Tensor | None) -> Realised:
        if torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad)):
            return self._realise(weight, bias, active, keep=False)  # gradients must reach the present weights
        if self._realised is None:
            self._realised = self._realise(weight.detach(), _detached(bias), active, keep=True)
        return self._realised

    def _realise(self, weight: Tensor, bias: Tensor | None, active: Active, keep: bool) -> Realised:
        biases = self._bias(bias, active, keep)
        if self.hardware.wires.act:
            return self._realise_wired(weight, biases, active, keep)
        held = self.cells.hold(self.operator.cells(weight), active, keep)
        held = held if self.outputs is None else held.only(self.outputs)
        now = self._turned(held.now)
        gain = self._compensation(now, self._turned(held.fresh) if self._compensates(active) else None)
        scale, row_scale = self._scales(held.scale)
        return Realised(now, gain * scale.to(now.dtype), biases, row_scale=row_scale)

    def _realise_wired(self, weight: Tensor, biases: Tensor | None, active: Active, keep: bool) -> Realised:
        """The same through wires, which join the legs of all devices of a tile."""
        states = self._states if keep else {}
        legs, fresh, scale = self._legs(weight, active, keep)
        now = self._difference(self._through_wires(legs))
        reference = self._fresh_through_wires(fresh, states) if self._compensates(active) else None
        columns, rows = self._wire_gains(weight, states)
        of_columns, of_rows = self._scales(scale)
        gain = self._compensation(now, reference) * columns * of_columns.to(now.dtype)
        kept = (legs[0], legs[1]) if self.hardware.wires.nonlinear else None
        return Realised(now * rows, gain, biases, kept, of_rows)

    def _compensates(self, active: Active) -> bool:
        return self.hardware.compensation == "global" and active.time_s > 0

    def _legs(self, weight: Tensor, active: Active, keep: bool) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Both legs now and fresh, (chips, columns, rows) each, and their scale."""
        now, fresh, scale = self.cells.legs(self.operator.cells(weight), active, keep)
        if self.outputs is not None:
            now, fresh = ([leg[:, self.outputs] for leg in legs] for legs in (now, fresh))
            scale = only(scale, self.outputs)
        return [self._turned(leg) for leg in now], [self._turned(leg) for leg in fresh], scale

    def _turned(self, held: Tensor) -> Tensor:
        """(chips, outputs, rest) as (chips, columns, rows)."""
        return held.transpose(1, 2) if self.operator.by_row else held

    def _scales(self, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of columns, and of rows where those have their own."""
        flat = scale.reshape(-1)
        return (flat.new_ones(1), flat) if self.operator.by_row and scale.dim() else (flat, None)

    def _difference(self, legs: Sequence[Tensor]) -> Tensor:
        return difference(self.hardware.device, legs[0], legs[1])

    def _compensation(self, held: Tensor, fresh: Tensor | None) -> Tensor:
        """Global drift compensation, (chips, row parts, columns): one factor a chip and tile.

        α = mean|w(just programmed)| / mean|w(now)| over the devices of a tile, as a periodic readout
        of the tile's total conductance would measure it (Joshi et al. 2020).  No gradient through α.
        """
        parts = self.layout.row_slices
        gain = held.new_ones(held.shape[0], len(parts), self.layout.columns)
        if fresh is None:
            return gain
        reference, present = (magnitudes(matrix.detach(), parts) for matrix in (fresh, held))
        for left, right in self.layout.col_ranges:
            tiles = (totals[:, :, left:right].sum(dim=2) for totals in (reference, present))
            gain[:, :, left:right] = _ratio(*tiles)[:, :, None]
        return gain

    def _bias(self, bias: Tensor | None, active: Active, keep: bool) -> Tensor | None:
        if bias is None:
            return None
        if self.hardware.array.bias == "digital":
            if self.bias_spread is None:
                return _at_least_float32(bias).expand(len(active.chips), -1)
            seed, numbers = active.chips.lot.seed, active.chips.numbers
            draws = Draws(seed, numbers, self.bias.name, str(bias.device))
            return self.bias_spread.sample(_at_least_float32(bias), draws)
        held = self.bias.hold(bias[:, None], active, keep)
        scale = held.scale.to(held.now.dtype)
        now = held.now[..., 0] * scale
        if not self._compensates(active):
            return now
        return now * _ratio(_total(held.fresh * scale), _total(now[..., None]))[:, None]

    # ---- wires --------------------------------------------------------------------------------

    def held(self, weight: Tensor) -> list[Tensor]:
        """Conductances of both legs of the chips on the bench, before wires: (chips, columns, rows) each."""
        return self._legs(weight.detach(), self._active(), keep=False)[0]

    def _through_wires(self, legs: Sequence[Tensor]) -> list[Tensor]:
        """What the inputs see of both legs; in training, mostly from the solution of an earlier step."""
        wires = self.hardware.wires
        solve = MODELS[wires.model]
        if not (self.bench.reuse_wires and torch.is_grad_enabled() and legs[0].requires_grad):
            return through_wires(legs[0], legs[1], self.layout, wires, solve)
        cheap = through_wires(legs[0], legs[1], self.layout, wires, MODELS["column-approximation"])
        if self.reused is None or self.reused.rest[0].shape != cheap[0].shape:  # as many chips
            exact = through_wires(legs[0], legs[1], self.layout, wires, solve)
            self.reused = Reused.of(exact, cheap)
            return exact
        self.reused.fresh = False
        return [leg + rest for leg, rest in zip(cheap, self.reused.rest, strict=True)]

    def _fresh_through_wires(self, fresh: Sequence[Tensor], states: dict[str, dict[str, Tensor]]) -> Tensor:
        """The reference of drift compensation: one solution a chip, whatever the ages."""
        if "through wires" not in states:
            legs = [leg.detach() for leg in fresh]
            states["through wires"] = {"fresh": self._difference(self._through_wires(legs))}
        return states["through wires"]["fresh"]

    def _wire_gains(self, weight: Tensor, states: dict[str, dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """Compensation of wires, (row parts, columns) and (columns, rows): fixed from target conductances."""
        compensation = self.hardware.wires.compensation
        if compensation == "none":
            one = weight.new_ones(())
            return one, one
        carried = self.reused if self.bench.reuse_wires and torch.is_grad_enabled() else None
        if carried is not None and carried.targets is not None and not carried.fresh:
            targets, cheap = self._nominal(weight, "column-approximation")
            near = [leg + rest for leg, rest in zip(cheap, carried.targets, strict=True)]
            return gains(self._difference(targets), self._difference(near), self.layout, compensation)
        if "wire gains" not in states:
            targets, seen = self._nominal(weight, self.hardware.wires.model)
            columns, rows = gains(
                self._difference(targets), self._difference(seen), self.layout, compensation
            )
            states["wire gains"] = {"columns": columns, "rows": rows}
            if carried is not None:
                cheap = self._nominal(weight, "column-approximation")[1]
                carried.targets = [s - c for s, c in zip(seen, cheap, strict=True)]
        return states["wire gains"]["columns"], states["wire gains"]["rows"]

    def _nominal(self, weight: Tensor, model: str) -> tuple[list[Tensor], list[Tensor]]:
        """Target conductances of both legs without noise, and what the inputs would see of them."""
        hw, outputs = self.hardware, slice(None) if self.outputs is None else self.outputs
        mapped = to_conductances(self.operator.cells(weight.detach()), hw.device, self.cells.scaling)
        legs = mapped.g_plus[outputs], mapped.g_minus[outputs]
        targets = [leg.T if self.operator.by_row else leg for leg in legs]
        if not hw.wires.act:
            return targets, targets
        seen = through_wires(targets[0][None], targets[1][None], self.layout, hw.wires, MODELS[model])
        return targets, [leg[0] for leg in seen]

    # ---- read ---------------------------------------------------------------------------------

    @property
    def converts(self) -> bool:
        """Whether products pass a noisy or quantising stage (else gains can be folded into weights)."""
        return self.hardware.adc.bits is not None or self.hardware.array.output_noise_std > 0

    @property
    def needs_ranges(self) -> bool:
        """Whether a read needs calibrated ranges."""
        return self.converts or self.hardware.dac.bits is not None or self.hardware.wires.nonlinear

    def calibrated(self) -> Ranges:
        """The ranges; UsageError where they are not fixed yet."""
        if self.unreached:
            raise UsageError(
                f"the calibration inputs never reached layer {self.name!r}: its converters have no ranges"
            )
        if self.ranges is None:
            raise UsageError(
                f"layer {self.name!r} is not calibrated: converter ranges are fixed once on training data, "
                "call net.calibrate(inputs) first (or deploy(model, hardware, calibration=inputs))"
            )
        return self.ranges

    def _probed(self, x: Tensor, realised: Realised, active: Active) -> Tensor:
        """Without noise and converters, and chips made as different as can be: a mix of them must be seen."""
        y = self._linear(x, realised).unflatten(0, (len(active.numbers), -1))
        place = torch.arange(active.part.start, active.part.stop, device=y.device)[:, None, None]
        column = torch.arange(1, y.shape[2] + 1, device=y.device)
        return (y * (1.5 + torch.sin(1 + place * column)).to(y.dtype)).flatten(0, 1)

    def _linear(self, x: Tensor, realised: Realised) -> Tensor:
        """Programmed weights and nothing else: (chips · vectors, columns)."""
        y = self._products(x, self._folded(realised), slice(0, self.layout.rows))
        return self._with_bias(y, realised).flatten(0, 1)

    def _products(self, x: Tensor, matrices: Tensor, rows: slice) -> Tensor:
        """Products of some rows on every chip, (chips, vectors, columns)."""
        if len(matrices) > 1 and (torch.is_grad_enabled() or x.device.type != "cpu"):
            return self.operator.products(x, matrices, rows)
        # chip by chip: its numbers must not depend on which chips run beside it, to the last bit
        each = zip(torch.chunk(x, len(matrices)), matrices, strict=True)
        found = [self.operator.partial(aligned(items), aligned(matrix), rows) for items, matrix in each]
        return found[0].unsqueeze(0) if len(found) == 1 else torch.stack(found)

    def _with_bias(self, y: Tensor, realised: Realised) -> Tensor:
        """Products (chips, vectors, columns) with the bias, where columns have one each."""
        if realised.bias is None or not self.operator.adds_bias:
            return y
        return y + realised.bias[:, None]

    def _folded(self, realised: Realised) -> Tensor:
        """Weights in units of the layer, (chips, columns, rows)."""
        parts = self.layout.row_slices
        if len(parts) == 1:
            folded = realised.matrix * realised.gain[:, 0, :, None]
        else:
            each = [
                realised.matrix[:, :, rows] * realised.gain[:, r, :, None] for r, rows in enumerate(parts)
            ]
            folded = torch.cat(each, dim=2)
        return folded if realised.row_scale is None else folded * realised.row_scale

    def _read_torch(self, x: Tensor, realised: Realised, active: Active) -> Tensor:
        """Every stage as torch operations on all chips; straight-through gradients; any device and type."""
        hw = self.hardware
        if hw.dac.bits is not None:
            x = quantise(x, self.calibrated().dac, hw.dac.bits)
        if not self.converts:
            return self._linear(x, realised)
        parts = (self._products(x, realised.matrix, rows) for rows in self.layout.row_slices)
        return self._digitised(parts, realised, active)

    def _read_nonlinear(self, x: Tensor, realised: Realised, active: Active) -> Tensor:
        """The same, with the products of devices that follow a law."""
        from neurosim.analog.nonlinear_read import nonlinear_products

        hw, full = self.hardware, self.calibrated().dac
        signal = x if hw.dac.bits is None else quantise(x, full, hw.dac.bits)
        assert realised.legs is not None
        found = [
            nonlinear_products(self.operator.vectors(items) / full, plus, minus, self.layout, hw)
            for items, plus, minus in zip(
                torch.chunk(signal, len(active.numbers)), *realised.legs, strict=True
            )
        ]
        parts = (torch.stack(part).to(x.dtype) * full for part in zip(*found, strict=True))
        return self._digitised(parts, realised, active)

    def _digitised(self, parts: Iterable[Tensor], realised: Realised, active: Active) -> Tensor:
        """White noise, ADC and gain of the products of each row part, and their sum with the bias.

        ``parts`` are (chips, vectors, columns); so is the sum, flattened to (chips · vectors, columns).
        """
        hw, total = self.hardware, None
        for r, y in enumerate(parts):
            if hw.array.output_noise_std:
                y = y + self._white_noise(r, y, active)
            if hw.adc.bits is not None:
                y = quantise(y, self.by_column(self.calibrated().adc)[r].to(y), hw.adc.bits)
            y = y * realised.gain[:, r, None]
            total = y if total is None else total + y
        assert total is not None  # a matrix has at least one row part
        return self._with_bias(total, realised).flatten(0, 1)

    def by_column(self, per_tile: Tensor) -> Tensor:
        """(row parts, column tiles) as (row parts, columns)."""
        widths = torch.tensor(
            [right - left for left, right in self.layout.col_ranges], device=per_tile.device
        )
        return torch.repeat_interleave(per_tile, widths, dim=1)

    def _white_noise(self, r: int | str, y: Tensor, active: Active) -> Tensor:
        """White output noise of one row part, (chips, vectors, columns)."""
        pieces = []
        for c, (left, right) in enumerate(self.layout.col_ranges):
            width = pitch(right - left)
            effect = noise_effect(r, c, self._use, active.time_s)
            source = stream(active.chips.lot.seed, 0, self.noise_name, effect)
            first = self.vectors_read[self._use] * width
            n = source.normals((y.shape[1], width), active.numbers, first, str(y.device))
            pieces.append(n[..., : right - left])
        return torch.cat(pieces, dim=2).to(y) * self.noise_std()

    def noise_std(self) -> float:
        """Standard deviation of the white noise, in units of input × full conductance."""
        return self.hardware.array.output_noise_std * self.calibrated().dac if self.converts else 0.0

    # ---- calibration --------------------------------------------------------------------------

    def _observe(self, x: Tensor, weight: Tensor) -> None:
        """Fix the ranges from nominal weights and inputs: the largest of all uses in a calibration pass."""
        hw = self.hardware
        x = _at_least_float32(x)
        full_scale = calibrate_range(x, hw.dac)
        items = self.operator.prepare(self.operator.batched(quantise(x, full_scale, hw.dac.bits)))
        adc = torch.ones(len(self.layout.row_slices), len(self.layout.col_ranges))
        if self.converts:
            for r, y in enumerate(self._nominal_products(items, weight, full_scale)):
                for c, (left, right) in enumerate(self.layout.col_ranges):
                    adc[r, c] = calibrate_range(y[:, left:right], hw.adc)
        self._widen(full_scale, adc)

    def _widen(self, full_scale: float, adc: Tensor) -> None:
        before = self.ranges
        if before is not None:  # of an earlier use: Deployed.calibrate forgets those of earlier passes
            full_scale, adc = max(full_scale, before.dac), torch.maximum(adc, before.adc)
        self.ranges = Ranges(full_scale, adc)

    def _nominal_products(self, items: Tensor, weight: Tensor, full_scale: float) -> Iterable[Tensor]:
        """Products of each row part, (vectors, columns), without noise."""
        # in training, ranges need no more than the first order
        model = "column-approximation" if self.bench.reuse_wires else self.hardware.wires.model
        targets, seen = self._nominal(weight, model)
        if self.hardware.wires.nonlinear:
            from neurosim.analog.nonlinear_read import nonlinear_products

            vectors = self.operator.vectors(items) / full_scale
            some = vectors[:: max(1, len(vectors) // _OBSERVED)]
            found = nonlinear_products(some, targets[0], targets[1], self.layout, self.hardware)
            return [y.to(items.dtype) * full_scale for y in found]
        held = self._difference(seen)
        if self.hardware.wires.act:
            held = held * self._wire_gains(weight, {})[1]
        return (self.operator.partial(items, held, rows) for rows in self.layout.row_slices)


class LookupCrossbar(Crossbar):
    """Crossbars that are read one word line at a time: only the tile that holds it has anything to say."""

    def _read(self, x: Tensor, realised: Realised, active: Active) -> Tensor:
        hw, chips = self.hardware, len(active.numbers)
        stops = torch.tensor([rows.stop for rows in self.layout.row_slices], device=x.device)
        entries = x.reshape(chips, -1)
        if x.numel() and not (int(x.min()) >= 0 and int(x.max()) < self.layout.rows):
            raise IndexError(f"index out of range in {self.name}")  # as torch; negative ones would wrap
        part, chip = (
            torch.searchsorted(stops, entries, right=True),
            torch.arange(chips, device=x.device)[:, None],
        )
        y = realised.matrix.transpose(1, 2)[chip, entries]
        if hw.array.output_noise_std:
            # a row of noise for each entry, whichever tile answers
            y = y + self._white_noise("*", y, active)
        if hw.adc.bits is not None:
            y = quantise(y, self.by_column(self.calibrated().adc).to(y)[part], hw.adc.bits)
        y = y * realised.gain[chip, part]
        scaled = y if realised.row_scale is None else y * realised.row_scale[entries][..., None].to(y)
        return scaled.flatten(0, 1)

    def _observe(self, x: Tensor, weight: Tensor) -> None:
        """From the weights: a lookup delivers one of them, whatever the data."""
        if self.hardware.wires.nonlinear:
            raise UsageError(
                f"expected layer {self.name!r}, which looks rows up, off crossbars whose wires.model is "
                "'nonlinear': exclude it"
            )
        held = self._difference(self._nominal(weight, self.hardware.wires.model)[1])
        adc = torch.ones(len(self.layout.row_slices), len(self.layout.col_ranges))
        for r, rows in enumerate(self.layout.row_slices):
            for c, (left, right) in enumerate(self.layout.col_ranges):
                adc[r, c] = calibrate_range(held[left:right, rows], self.hardware.adc)
        self._widen(1.0, adc)


def add_by_chip(y: Tensor, bias: Tensor, axis: int) -> Tensor:
    """Each chip's bias, (chips, outputs), along ``axis`` (below 0) of outputs (chips · items, …)."""
    chips, after = len(bias), (1,) * (-axis - 1)
    if chips == 1:
        return y + bias.reshape(-1, *after)
    before = (1,) * (y.dim() + axis)
    return (y.unflatten(0, (chips, -1)) + bias.reshape(chips, *before, -1, *after)).flatten(0, 1)


def _total(matrix: Tensor) -> Tensor:
    """Σ|w| of each chip, (chips,): one pass, no copy.

    In two steps, because torch splits a sum over everything among its threads, but not one of many sums:
    a chip's total must not depend on whether it is the only one.
    """
    return torch.linalg.vector_norm(matrix.detach(), ord=1, dim=2).sum(dim=1)


def _ratio(reference: Tensor, present: Tensor) -> Tensor:
    return torch.where(present > 0, reference / present, torch.ones_like(present))


def _at_least_float32(x: Tensor) -> Tensor:
    """Half-precision signals are widened: conductances are float32 or float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
