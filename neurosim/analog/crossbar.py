"""One weight on crossbar tiles: program, age and read it, on every chip that is on the bench.

A crossbar is a pipeline of small stages, each of which maps tensors to tensors:
DAC → products of each row part → white noise → ADC → gain → sum → bias.  Wires act when a chip is programmed:
what they leave of its conductances is a matrix like any other.  On the CPU and without
gradients the stages run fused (:mod:`neurosim.devices.kernels`); otherwise as torch operations that
autograd can follow.  Both give the same numbers, from the same streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from neurosim.analog.bench import Active, Bench
from neurosim.analog.operators import Layout, Operator, layout
from neurosim.analog.wiring import MODELS, Reused, gains, through_wires
from neurosim.devices import Hardware, calibrate_range, quantise, to_conductances
from neurosim.devices.kernels import pitch, quantise_rows, read_tile
from neurosim.errors import UsageError
from neurosim.random import Draws, follow_torch_threads, key_words, stream

_OBSERVED = 64  # vectors on which ranges are calibrated where each is solved on its own
_ALIGNMENT = 64  # bytes; what torch's own allocator gives a fresh tensor on the CPU


class ContractError(RuntimeError):
    """The network does not treat the leading axis as an ordinary batch; caught by ``OnChips``."""


@dataclass(frozen=True)
class Realised:
    """A weight as chips hold it.

    Attributes:
        matrix: (chips, columns, rows), (g+ − g−)/(g_max − g_min), through the wires: between −1 and 1 before
            noise.
        gain: (chips, row parts, columns), from matrix products back to units of the layer: weight
            scale times drift compensation.
        bias: (chips, columns), or None.
        legs: conductances of both legs before wires, (chips, columns, rows) siemens, where products need
            them.
    """

    matrix: Tensor
    gain: Tensor
    bias: Tensor | None
    legs: tuple[Tensor, Tensor] | None = None

    @property
    def requires_grad(self) -> bool:
        """Whether autograd follows what chips hold."""
        return self.matrix.requires_grad or (self.bias is not None and self.bias.requires_grad)

    def part(self, chips: slice) -> Realised:
        """The same on some of the chips."""
        bias = None if self.bias is None else self.bias[chips]
        legs = None if self.legs is None else (self.legs[0][chips], self.legs[1][chips])
        return Realised(self.matrix[chips], self.gain[chips], bias, legs)


@dataclass
class Ranges:
    """Full scales of the converters, fixed by calibration.

    Attributes:
        dac: largest input, in units of the layer's input.
        adc: (row parts, column tiles), largest product in units of input × full conductance.
    """

    dac: float
    adc: Tensor


@dataclass
class Crossbar:
    """The crossbars behind one layer."""

    name: str
    hardware: Hardware
    operator: Operator
    layout: Layout
    bench: Bench
    ranges: Ranges | None = None
    # by use: a layer that a forward pass uses twice has two rows of white noise, so that neither depends
    # on how many vectors the other has read
    vectors_read: list[int] = field(default_factory=list)
    _pass: int = -1
    _use: int = 0
    _states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    _realised: Realised | None = None
    _readers: dict[tuple[int, int], _Reader] = field(default_factory=dict)
    # of wires, while the bench reuses solutions from one training step to the next
    reused: Reused | None = None

    @classmethod
    def of(
        cls, name: str, weight: Tensor, groups: int, operator: Operator, hw: Hardware, bench: Bench
    ) -> Crossbar:
        """Lay out a weight of shape (columns, …) on tiles."""
        columns = weight.shape[0]
        return cls(name, hw, operator, layout(weight[0].numel(), columns, groups, hw.array), bench)

    # ---- the layer's forward ------------------------------------------------------------------

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer returns: ideal off the bench, per chip on it."""
        active = self.bench.active
        if active is None:
            if self.bench.observing:
                self._observe(x, weight)
            return self.operator.ideal(x, weight, bias)
        self._count_use()
        realised = self._on(active, weight, bias).part(active.part)
        batch = self.operator.batched(_at_least_float32(x))
        chips = len(active.numbers)
        if batch.shape[0] % chips:
            raise ContractError(f"{self.name} read {batch.shape[0]} vectors on {chips} chips")
        if active.linear:
            return self.operator.restore(self._linear(batch, realised), x, weight).to(x.dtype)
        needs_grad = torch.is_grad_enabled() and (x.requires_grad or realised.requires_grad)
        fused = not needs_grad and x.device.type == "cpu" and batch.dtype == torch.float32
        read = self._read_fused if fused else self._read_torch
        if self.hardware.wires.nonlinear:
            read = self._read_nonlinear
            if needs_grad:
                raise UsageError(
                    "wires.model 'nonlinear' has no gradient: train with 'exact', read under torch.no_grad()"
                )
        y = read(self.operator.prepare(batch), realised, active)
        self.vectors_read[self._use] += y.shape[0] // chips
        return self.operator.restore(y, x, weight).to(x.dtype)

    def _count_use(self) -> None:
        """Which use of this layer in the present forward pass of the network this is: 0, 1, …"""
        self._use = self._use + 1 if self._pass == self.bench.passes else 0
        self._pass = self.bench.passes
        if self._use == len(self.vectors_read):
            self.vectors_read.append(0)

    # ---- program and age ----------------------------------------------------------------------

    def reset(self, keep_states: bool = False) -> None:
        """Forget what was realised; with ``keep_states`` the programmed devices stay."""
        self._realised = None
        self._readers = {}
        self.vectors_read = []
        self._pass = -1
        if not keep_states:
            self._states = {}

    def _on(self, active: Active, weight: Tensor, bias: Tensor | None) -> Realised:
        if torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad)):
            return self._realise(weight, bias, active, {})  # gradients must reach the present weights
        if self._realised is None:
            self._realised = self._realise(weight.detach(), _detached(bias), active, self._states)
        return self._realised

    def _realise(
        self, weight: Tensor, bias: Tensor | None, active: Active, states: dict[str, dict[str, Tensor]]
    ) -> Realised:
        matrix = weight.reshape(self.layout.columns, self.layout.rows)
        now, fresh, scale = self._hold(matrix, "weight", self.hardware.array.scaling, active, states)
        if not self.hardware.wires.act:
            held = self._difference(now)
            gain = self._compensation(held, None if fresh is None else self._difference(fresh))
            return Realised(held, gain * scale.reshape(-1).to(held.dtype), self._bias(bias, active, states))
        held = self._difference(self._through_wires(now))
        reference = None if fresh is None else self._fresh_through_wires(fresh, states)
        columns, rows = self._wire_gains(matrix, states)
        gain = self._compensation(held, reference) * columns * scale.reshape(-1).to(held.dtype)
        legs = (now[0], now[1]) if self.hardware.wires.nonlinear else None
        return Realised(held * rows, gain, self._bias(bias, active, states), legs)

    def _hold(
        self, weight: Tensor, what: str, scaling: str, active: Active, states: dict[str, dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor] | None, Tensor]:
        """Program and age both legs: (now, right after programming or None if never needed, scale)."""
        device, chips = self.hardware.device, active.chips
        mapped = to_conductances(weight, device, scaling)  # type: ignore[arg-type]
        now: list[Tensor] = []
        fresh: list[Tensor] = []
        for leg, target in (("+", mapped.g_plus), ("-", mapped.g_minus)):
            name = f"{self.name}.{what}{leg}"
            draws = Draws(chips.lot.seed, chips.numbers, name, str(target.device))
            if name not in states:
                states[name] = device.program(target, draws)
            now.append(device.age(states[name], active.time_s, draws))
            fresh.append(states[name]["g_siemens"])
        compensated = self.hardware.compensation == "global" and active.time_s > 0
        return now, fresh if compensated else None, mapped.scale

    def _difference(self, legs: Sequence[Tensor]) -> Tensor:
        device = self.hardware.device
        return (legs[0] - legs[1]) * (1.0 / (device.g_max_siemens - device.g_min_siemens))

    # ---- wires --------------------------------------------------------------------------------

    def held(self, weight: Tensor) -> list[Tensor]:
        """Conductances of both legs of the chips on the bench, before wires: (chips, columns, rows) each."""
        active = self.bench.active
        assert active is not None  # asked only inside Deployed.on
        matrix = weight.detach().reshape(self.layout.columns, self.layout.rows)
        return self._hold(matrix, "weight", self.hardware.array.scaling, active, {})[0]

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
        name = f"{self.name}.weight, through wires"
        if name not in states:
            legs = [leg.detach() for leg in fresh]
            states[name] = {"fresh": self._difference(self._through_wires(legs))}
        return states[name]["fresh"]

    def _wire_gains(self, matrix: Tensor, states: dict[str, dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """Compensation of wires, (row parts, columns) and (columns, rows): fixed from target conductances."""
        compensation = self.hardware.wires.compensation
        if compensation == "none":
            one = matrix.new_ones(())
            return one, one
        carried = self.reused if self.bench.reuse_wires and torch.is_grad_enabled() else None
        if carried is not None and carried.targets is not None and not carried.fresh:
            targets, cheap = self._nominal(matrix, "column-approximation")
            near = [leg + rest for leg, rest in zip(cheap, carried.targets, strict=True)]
            return gains(self._difference(targets), self._difference(near), self.layout, compensation)
        name = f"{self.name}.weight, wire gains"
        if name not in states:
            targets, seen = self._nominal(matrix, self.hardware.wires.model)
            columns, rows = gains(
                self._difference(targets), self._difference(seen), self.layout, compensation
            )
            states[name] = {"columns": columns, "rows": rows}
            if carried is not None:
                cheap = self._nominal(matrix, "column-approximation")[1]
                carried.targets = [s - c for s, c in zip(seen, cheap, strict=True)]
        return states[name]["columns"], states[name]["rows"]

    def _nominal(self, matrix: Tensor, model: str) -> tuple[list[Tensor], list[Tensor]]:
        """Target conductances of both legs without noise, and what the inputs would see of them."""
        hw = self.hardware
        mapped = to_conductances(matrix.detach(), hw.device, hw.array.scaling)
        targets = [mapped.g_plus, mapped.g_minus]
        if not hw.wires.act:
            return targets, targets
        seen = through_wires(targets[0][None], targets[1][None], self.layout, hw.wires, MODELS[model])
        return targets, [leg[0] for leg in seen]

    def _compensation(self, held: Tensor, fresh: Tensor | None) -> Tensor:
        """Global drift compensation, (chips, row parts, columns): one factor a chip and tile.

        α = mean|w(just programmed)| / mean|w(now)| over the devices of a tile, as a periodic readout
        of the tile's total conductance would measure it (Joshi et al. 2020).  No gradient through α.
        """
        parts = self.layout.row_slices
        gain = held.new_ones(held.shape[0], len(parts), self.layout.columns)
        if fresh is None:
            return gain
        for r, rows in enumerate(parts):
            for left, right in self.layout.col_ranges:
                reference = _total(fresh[:, left:right, rows])
                gain[:, r, left:right] = _ratio(reference, _total(held[:, left:right, rows]))[:, None]
        return gain

    def _bias(
        self, bias: Tensor | None, active: Active, states: dict[str, dict[str, Tensor]]
    ) -> Tensor | None:
        if bias is None:
            return None
        if self.hardware.array.bias == "digital":
            return _at_least_float32(bias).expand(len(active.chips), -1)
        now, fresh, scale = self._hold(bias[:, None], "bias", "per-layer", active, states)
        held = self._difference(now)[..., 0] * scale.to(now[0].dtype)
        if fresh is None:
            return held
        return held * _ratio(_total(self._difference(fresh)) * scale, _total(held[..., None]))[:, None]

    # ---- read ---------------------------------------------------------------------------------

    @property
    def converts(self) -> bool:
        """Whether products pass a noisy or quantising stage (else gains can be folded into weights)."""
        return self.hardware.adc.bits is not None or self.hardware.array.output_noise_std > 0

    @property
    def needs_ranges(self) -> bool:
        """Whether a read needs calibrated ranges."""
        return self.converts or self.hardware.dac.bits is not None or self.hardware.wires.nonlinear

    def _ranges(self) -> Ranges:
        if self.ranges is None:
            raise UsageError(
                f"layer {self.name!r} is not calibrated: converter ranges are fixed once on training data, "
                "call net.calibrate(inputs) first (or deploy(model, hardware, calibration=inputs))"
            )
        return self.ranges

    def _linear(self, x: Tensor, realised: Realised) -> Tensor:
        """Programmed weights and nothing else: (chips · vectors, columns)."""
        folded = self._folded(realised)
        outputs = []
        for k, items in enumerate(torch.chunk(self.operator.prepare(x), folded.shape[0])):
            y = self.operator.partial(_aligned(items), _aligned(folded[k]), slice(0, self.layout.rows))
            outputs.append(y if realised.bias is None else y + realised.bias[k])
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _folded(self, realised: Realised) -> Tensor:
        """Weights in units of the layer, (chips, columns, rows)."""
        parts = self.layout.row_slices
        if len(parts) == 1:
            return realised.matrix * realised.gain[:, 0, :, None]
        return torch.cat(
            [realised.matrix[:, :, rows] * realised.gain[:, r, :, None] for r, rows in enumerate(parts)],
            dim=2,
        )

    def _read_torch(self, x: Tensor, realised: Realised, active: Active) -> Tensor:
        """Every stage as torch operations; straight-through gradients; any device and type."""
        hw = self.hardware
        if hw.dac.bits is not None:
            x = quantise(x, self._ranges().dac, hw.dac.bits)
        if not self.converts:
            return self._linear(x, realised)
        outputs = []
        for k, items in enumerate(torch.chunk(x, len(active.numbers))):
            parts = (
                self.operator.partial(items, realised.matrix[k], rows) for rows in self.layout.row_slices
            )
            outputs.append(self._digitised(parts, k, realised, active))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _read_nonlinear(self, x: Tensor, realised: Realised, active: Active) -> Tensor:
        """The same, with the products of devices that follow a law."""
        from neurosim.analog.nonlinear_read import nonlinear_products

        hw, full = self.hardware, self._ranges().dac
        signal = x if hw.dac.bits is None else quantise(x, full, hw.dac.bits)
        assert realised.legs is not None
        outputs = []
        for k, items in enumerate(torch.chunk(signal, len(active.numbers))):
            legs = realised.legs[0][k], realised.legs[1][k]
            found = nonlinear_products(self.operator.vectors(items) / full, *legs, self.layout, hw)
            parts = (y.to(x.dtype) * full for y in found)
            outputs.append(self._digitised(parts, k, realised, active))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _digitised(self, parts: Iterable[Tensor], k: int, realised: Realised, active: Active) -> Tensor:
        """White noise, ADC and gain of the products of each row part, and their sum with the bias."""
        hw, total = self.hardware, None
        for r, y in enumerate(parts):
            if hw.array.output_noise_std:
                y = y + self._white_noise(r, y, active.numbers[k], active)
            if hw.adc.bits is not None:
                y = quantise(y, self._by_column(self._ranges().adc[r]).to(y), hw.adc.bits)
            y = y * realised.gain[k, r]
            total = y if total is None else total + y
        assert total is not None  # a matrix has at least one row part
        return total if realised.bias is None else total + realised.bias[k]

    def _by_column(self, per_tile: Tensor) -> Tensor:
        widths = torch.tensor([right - left for left, right in self.layout.col_ranges])
        return torch.repeat_interleave(per_tile, widths)

    def _by_column_rows(self, per_tile: Tensor) -> Tensor:
        return torch.stack([self._by_column(row) for row in per_tile])

    def _effect(self, r: int, c: int, time_s: float) -> str:
        use = f"#{self._use}" if self._use else ""
        return f"output-noise[{r},{c}]{use}@{time_s!r}"

    def _white_noise(self, r: int, y: Tensor, chip: int, active: Active) -> Tensor:
        """White output noise of one row part, (vectors, columns)."""
        pieces = []
        for c, (left, right) in enumerate(self.layout.col_ranges):
            width = pitch(right - left)
            source = stream(
                active.chips.lot.seed, chip, f"{self.name}.weight", self._effect(r, c, active.time_s)
            )
            first = self.vectors_read[self._use] * width
            n = source.normal((y.shape[0], width), first, str(y.device))
            pieces.append(n[:, : right - left])
        return torch.cat(pieces, dim=1).to(y) * self._noise_std()

    def _noise_std(self) -> float:
        return self.hardware.array.output_noise_std * self._ranges().dac

    def _read_fused(self, x: Tensor, realised: Realised, active: Active) -> Tensor:
        """The same stages, piece by piece while the piece is in cache."""
        if not self.converts:
            dac = self.hardware.dac.bits
            folded_input = x if dac is None else quantise(x, self._ranges().dac, dac)
            return self._linear(folded_input, realised)
        follow_torch_threads()
        per_item = self.operator.vectors_per_item(x)
        out = torch.empty(x.shape[0] * per_item, self.layout.columns)
        items = x.shape[0] // len(active.numbers)
        step = self.operator.items_per_piece(x, self.layout.columns)
        for k in range(len(active.numbers)):
            reader = self._reader(k, realised, active)
            for start in range(k * items, (k + 1) * items, step):
                stop = min(start + step, (k + 1) * items)
                piece = self._dac(x[start:stop])
                target = out[start * per_item : stop * per_item]
                reader.read(piece, target, self.vectors_read[self._use] + (start - k * items) * per_item)
        return out

    def _dac(self, x: Tensor) -> Tensor:
        bits = self.hardware.dac.bits
        if bits is None:
            return _aligned(x)
        levels = 2 ** (bits - 1) - 1
        out = torch.empty_like(x)
        full_scale = self._ranges().dac
        source, target = _flat(x), _flat(out)
        quantise_rows(
            source,
            target,
            np.float32(levels / full_scale),
            np.float32(levels),
            np.float32(full_scale / levels),
        )
        return out

    def _reader(self, k: int, realised: Realised, active: Active) -> _Reader:
        if self._realised is None:  # realised for this forward alone
            return _Reader(self, k, realised, active)
        key = active.numbers[k], self._use
        if key not in self._readers:
            self._readers[key] = _Reader(self, k, realised, active)
        return self._readers[key]

    # ---- calibration --------------------------------------------------------------------------

    def _observe(self, x: Tensor, weight: Tensor) -> None:
        """Fix the ranges from nominal weights and inputs: the largest of all uses in a calibration pass."""
        hw = self.hardware
        x = _at_least_float32(x)
        full_scale = calibrate_range(x, hw.dac)
        items = self.operator.prepare(self.operator.batched(quantise(x, full_scale, hw.dac.bits)))
        adc = torch.ones(len(self.layout.row_slices), len(self.layout.col_ranges))
        if self.converts:
            for r, y in enumerate(
                self._nominal_products(items, weight.reshape(self.layout.columns, -1), full_scale)
            ):
                for c, (left, right) in enumerate(self.layout.col_ranges):
                    adc[r, c] = calibrate_range(y[:, left:right], hw.adc)
        before = self.ranges
        if before is not None:  # of an earlier use: Deployed.calibrate forgets those of earlier passes
            full_scale, adc = max(full_scale, before.dac), torch.maximum(adc, before.adc)
        self.ranges = Ranges(full_scale, adc)

    def _nominal_products(self, items: Tensor, matrix: Tensor, full_scale: float) -> Iterable[Tensor]:
        """Products of each row part, (vectors, columns), without noise."""
        # in training, ranges need no more than the first order
        model = "column-approximation" if self.bench.reuse_wires else self.hardware.wires.model
        targets, seen = self._nominal(matrix, model)
        if self.hardware.wires.nonlinear:
            from neurosim.analog.nonlinear_read import nonlinear_products

            vectors = self.operator.vectors(items) / full_scale
            some = vectors[:: max(1, len(vectors) // _OBSERVED)]
            found = nonlinear_products(some, targets[0], targets[1], self.layout, self.hardware)
            return [y.to(items.dtype) * full_scale for y in found]
        held = self._difference(seen)
        if self.hardware.wires.act:
            held = held * self._wire_gains(matrix, {})[1]
        return (self.operator.partial(items, held, rows) for rows in self.layout.row_slices)


class _Reader:
    """One layer on one chip, ready to read: kernel arguments that do not change between pieces."""

    def __init__(self, crossbar: Crossbar, k: int, realised: Realised, active: Active) -> None:
        hw, ranges = crossbar.hardware, crossbar._ranges()
        self.crossbar = crossbar
        self.matrix = _aligned(realised.matrix[k])
        self.chip = np.uint32(active.numbers[k])
        self.adc = hw.adc.bits is not None
        self.noise = hw.array.output_noise_std > 0
        self.sigma = np.float32(crossbar._noise_std())
        levels = 2 ** (hw.adc.bits - 1) - 1 if hw.adc.bits is not None else 1
        self.limit = np.float32(levels)
        steps = crossbar._by_column_rows(ranges.adc / levels) if self.adc else 1.0
        self.gain = (realised.gain[k] * steps).numpy()
        self.inv_step = (levels / ranges.adc.double()).float().numpy()
        bias = torch.zeros(crossbar.layout.columns) if realised.bias is None else realised.bias[k]
        self.bias = bias.contiguous().numpy()
        seed, name = active.chips.lot.seed, f"{crossbar.name}.weight"
        self.keys = {
            (r, c): tuple(np.uint32(w) for w in key_words(seed, name, crossbar._effect(r, c, active.time_s)))
            for r in range(len(crossbar.layout.row_slices))
            for c in range(len(crossbar.layout.col_ranges))
        }

    def read(self, piece: Tensor, target: Tensor, first: int) -> None:
        """Read the items of ``piece`` into ``target`` (vectors, columns); ``first`` numbers the vectors."""
        layout = self.crossbar.layout
        out = target.numpy()
        for r, rows in enumerate(layout.row_slices):
            y = self.crossbar.operator.partial(piece, self.matrix, rows).numpy()
            for c, (left, right) in enumerate(layout.col_ranges):
                k0, k1 = self.keys[r, c]
                read_tile(
                    y, out, left, right, self.sigma, self.inv_step[r, c], self.limit, self.gain[r], self.bias,
                    first, self.chip, k0, k1, pitch(right - left), r > 0, self.adc, self.noise,
                )  # fmt: skip


def _flat(x: Tensor) -> np.ndarray:
    """A view of the memory of a dense tensor as two-dimensional rows, whatever its axis order."""
    if x.is_contiguous():
        return x.reshape(x.shape[0], -1).numpy()
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1).numpy()


def _total(matrix: Tensor) -> Tensor:
    """Σ|w| of each chip, (chips,): one pass, no copy.

    In two steps, because torch splits a sum over everything among its threads, but not one of many sums:
    a chip's total must not depend on whether it is the only one.
    """
    return torch.linalg.vector_norm(matrix.detach(), ord=1, dim=2).sum(dim=1)


def _ratio(reference: Tensor, present: Tensor) -> Tensor:
    return torch.where(present > 0, reference / present, torch.ones_like(present))


def _aligned(x: Tensor) -> Tensor:
    """The same numbers at an address that suits vector units.

    Libraries choose kernels, and with them the order of sums, by alignment; the numbers of a chip must not
    depend on which chips lie before it in memory.
    """
    return x if x.data_ptr() % _ALIGNMENT == 0 else x.clone()


def _at_least_float32(x: Tensor) -> Tensor:
    """Half-precision signals are widened: conductances are float32 or float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
