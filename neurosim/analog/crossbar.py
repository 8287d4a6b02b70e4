"""One weight on crossbar tiles: what every chip that is on the bench holds of it.

How it is read is :mod:`neurosim.analog.reading`.  Wires act when a chip is programmed or aged: what they
leave of its conductances is a matrix like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from neurosim.analog.bench import Active, Bench
from neurosim.analog.cells import Cells, Held, only
from neurosim.analog.compensation import fitted, global_gain, per_column_gain, ratio, total
from neurosim.analog.diagonal import without_diagonal
from neurosim.analog.fused import Reader
from neurosim.analog.operators import Layout, Operator, Referenced
from neurosim.analog.periphery import with_periphery
from neurosim.analog.reading import Occasion, bit_planes, linear, offset_of, read, read_lookup
from neurosim.analog.realised import Ranges, Realised
from neurosim.analog.wiring import MODELS, Reused, gains, through_wires
from neurosim.devices import Hardware, calibrate_range, quantise
from neurosim.devices.converters import bowed
from neurosim.devices.mappings import Mapping
from neurosim.devices.ranges import learned_step, refined
from neurosim.devices.spread import Spread
from neurosim.errors import UsageError
from neurosim.random import Draws

_OBSERVED = 64  # vectors on which ranges are calibrated where each is solved on its own
_FITTED = 512  # vectors that a compensation is fitted on
_LEARNED = 1024  # vectors that ranges are learned on
_FIT = -1  # the use of a layer that names the noise of those reads
_GAINS = {"global": global_gain, "per-column": per_column_gain}
Reads = Callable[["Crossbar", Tensor, Realised, Occasion], Tensor]


class ContractError(RuntimeError):
    """The network does not treat the leading axis as an ordinary batch; caught by ``OnChips``."""


@dataclass
class Crossbar:
    """The crossbars behind one layer, or behind one of its weights.

    Attributes:
        name: of the layer, or of the parameter where a layer has several crossbars.
        noise_name: names the white noise.
        operator, layout: what it computes, and how that lies on tiles, columns of references included.
        cells: the devices that hold the weight.
        referenced: where the columns of references lie, if the mapping has any.
        references: the devices of those columns.
        bias_spread: how a digital bias differs from chip to chip, if it does.
        outputs: which outputs of the weight this crossbar reads; None reads all.
        bias: the devices that hold the bias where the hardware has them do so.
        diagonal: whether a square weight has devices on its diagonal.
    """

    name: str
    noise_name: str
    hardware: Hardware
    operator: Operator
    layout: Layout
    bench: Bench
    cells: Cells
    bias: Cells
    referenced: Referenced | None = None
    references: Cells | None = None
    outputs: slice | None = None
    bias_spread: Spread | None = None
    diagonal: bool = True
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
        """With every stage: (chips · vectors, outputs)."""
        # realised for this forward alone: so are its readers
        readers = None if self._realised is None else self._readers
        at = Occasion(active, self._use, self.vectors_read[self._use], readers)
        return self._reads(self, x, realised, at)

    @property
    def _reads(self) -> Reads:
        """How it is read."""
        return read

    @property
    def mapping(self) -> Mapping:
        """How the weight lies on devices."""
        return self.cells.mapping

    @property
    def slices(self) -> int:
        """How many digits of the weight are digitised on their own."""
        return len(self.mapping.digital)

    @property
    def parts(self) -> int:
        """Conversions that one output takes: slices times row parts."""
        return self.slices * len(self.layout.row_slices)

    @cached_property
    def offset(self) -> float:
        """What is subtracted digitally, per unit of input, in units of the sum over slices."""
        return 0.0 if self.mapping.reference else self.mapping.offset

    @property
    def offsets(self) -> bool:
        """Whether something is subtracted after the sum: an offset, or columns of references."""
        return self.mapping.offset != 0.0

    @property
    def columns(self) -> int:
        """Outputs, without columns of references."""
        return self.layout.columns if self.referenced is None else len(self.referenced.outputs)

    @property
    def devices(self) -> int:
        """Devices in use, those of references included."""
        own = 0 if self.referenced is None else len(self.referenced.own)
        planes = self.mapping.planes * self.mapping.legs
        return planes * self.layout.rows * self.columns + self.mapping.legs * self.layout.rows * own

    def shape(self, weight: Tensor) -> tuple[int, ...]:
        """Shape of what it reads of a weight."""
        return tuple(weight.shape) if self.outputs is None else (self.columns, *weight.shape[1:])

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
        for cells in (self.cells, self.bias, self.references):
            if cells is not None:
                cells.reset(keep_devices)
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
        make = self._realise_wired if self.hardware.wires.act else self._realise_plain
        held = make(weight, biases, active, keep)
        found = self._with_periphery(held if self.diagonal else without_diagonal(self, held), active)
        if self.hardware.compensation != "gain-and-offset":
            return found
        return found.corrected(*self._fit(weight.detach(), found, active))

    def _with_periphery(self, realised: Realised, active: Active) -> Realised:
        """Behind drivers and in front of amplifiers and converters that differ from chip to chip."""
        hw = self.hardware
        if not (hw.periphery.act or hw.adc.mismatched):
            return realised
        place = str(realised.gain.device)
        draws = Draws(active.chips.lot.seed, active.chips.numbers, self.noise_name, place)
        unit = self.calibrated().dac if hw.periphery.column_offset_std else 1.0
        return with_periphery(realised, hw, self.layout, draws, unit)

    def _realise_plain(self, weight: Tensor, biases: Tensor | None, active: Active, keep: bool) -> Realised:
        held = self.cells.hold(self.operator.cells(weight), active, keep)
        held = held if self.outputs is None else held.only(self.outputs)
        references = self._reference_cells(active, keep)
        compensates = self._compensates(active)
        now, fresh = [], []
        for s in range(self.slices):
            now.append(self._beside(self._turned(held.now[s]), references and references.now[s]))
            if compensates:
                fresh.append(self._beside(self._turned(held.fresh[s]), references and references.fresh[s]))
        return self._realised_of(now, fresh, held.scale, biases)

    def _realise_wired(self, weight: Tensor, biases: Tensor | None, active: Active, keep: bool) -> Realised:
        """The same through wires, which join the devices of a tile."""
        states = self._states if keep else {}
        legs, fresh, scale = self._legs(weight, active, keep)
        now = list(self.cells.slices(self._through_wires(legs)))
        reference = self._fresh_through_wires(fresh, states) if self._compensates(active) else []
        columns, rows = self._wire_gains(weight, states)
        found = self._realised_of(now, reference, scale, biases)
        kept = (legs[0][0], legs[0][1]) if self.hardware.wires.nonlinear else None
        matrices = tuple(m * row for m, row in zip(found.matrices, rows, strict=True))
        return dataclasses.replace(found, matrices=matrices, gain=found.gain * columns, legs=kept)

    def _realised_of(
        self, now: list[Tensor], fresh: list[Tensor], scale: Tensor, biases: Tensor | None
    ) -> Realised:
        """From what the slices deliver, now and, where drift is compensated, right after programming."""
        correct = _GAINS.get(self.hardware.compensation)
        each = []
        for s, (d, m) in enumerate(zip(self.mapping.digital, now, strict=True)):
            plain = m.new_ones(m.shape[0], len(self.layout.row_slices), self.layout.columns)
            gain = correct(m, fresh[s], self.layout) if correct is not None and fresh else plain
            each.append(gain if d == 1.0 else gain * d)
        gain = each[0] if len(each) == 1 else torch.cat(each, dim=1)
        of_columns, of_rows = self._scales(scale)
        of_columns = of_columns.to(gain.dtype)
        if not self.offsets:
            return Realised(tuple(now), gain * of_columns, biases, row_scale=of_rows)
        scales = of_columns.expand(len(gain), self.columns)
        return Realised(tuple(now), gain, biases, row_scale=of_rows, scale=scales)

    def _reference_cells(self, active: Active, keep: bool) -> Held | None:
        """What the columns of references hold, (chips, references, rows)."""
        if self.references is None:
            return None
        return self.references.hold(self._reference_targets(), active, keep)

    def every_cells(self) -> Iterator[Cells]:
        """The devices of everything it may read."""
        yield from (cells for cells in (self.cells, self.references, self.bias) if cells is not None)

    def all_cells(self, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[Cells, Tensor]]:
        """The devices of everything it reads, and what they should hold, (outputs, rest)."""
        yield self.cells, self.operator.cells(weight)
        if self.references is not None:
            yield self.references, self._reference_targets()
        if bias is not None and self.hardware.array.bias == "device":
            yield self.bias, bias[:, None]

    def _reference_targets(self) -> Tensor:
        """Zeros: the middle of the range."""
        assert self.referenced is not None
        return torch.zeros(len(self.referenced.own), self.layout.rows)

    def _beside(self, outputs: Tensor, references: Tensor | None) -> Tensor:
        """Columns of outputs and of references, (…, columns, rows) each, in their places on the tiles."""
        if self.referenced is None or references is None:
            return outputs
        places = [*self.referenced.outputs, *self.referenced.own]
        order = torch.tensor(places, device=outputs.device).argsort()
        return torch.cat([outputs, references.to(outputs)], dim=-2).index_select(-2, order)

    def _compensates(self, active: Active) -> bool:
        return self.hardware.compensation in _GAINS and active.time_s > 0

    def _fit(self, weight: Tensor, realised: Realised, active: Active) -> tuple[Tensor, Tensor]:
        """Gain and offset of each output on each chip, from reads of calibration inputs."""
        inputs = self.calibrated().inputs
        if inputs is None:
            raise UsageError(
                f"layer {self.name!r} was calibrated without the inputs that compensation 'gain-and-offset' "
                "is fitted on: calibrate it again"
            )
        with torch.no_grad(), self.bench.uncounted():
            x = self.operator.prepare(inputs.to(weight.device))
            matrix = self.operator.matrix(weight)
            matrix = matrix if self.outputs is None else matrix[self.outputs]
            wanted = self.operator.partial(x, matrix.to(realised.gain), slice(0, self.layout.rows))
            # an offset that is a number is subtracted after the gain: a line is fitted to what comes before
            offset = offset_of(self, x, realised)
            found = []
            for k in range(len(realised.gain)):  # chip by chip: as few numbers at once as a chip has
                one = dataclasses.replace(realised.part(slice(k, k + 1)).detached(), bias=None)
                alone = dataclasses.replace(active, part=slice(k, k + 1))
                y = self._reads(self, x, one, Occasion(alone, _FIT, 0))
                found.append(fitted((y + offset).unsqueeze(0), wanted + offset))
        return torch.cat([gain for gain, _ in found]), torch.cat([shift for _, shift in found])

    def _legs(
        self, weight: Tensor, active: Active, keep: bool
    ) -> tuple[list[list[Tensor]], list[list[Tensor]], Tensor]:
        """Legs of all planes now and fresh, (chips, columns, rows) each, and their scale."""
        now, fresh, scale = self.cells.planes(self.operator.cells(weight), active, keep)
        if self.outputs is not None:
            now, fresh = ([[leg[:, self.outputs] for leg in legs] for legs in p] for p in (now, fresh))
            scale = only(scale, self.outputs)
        now, fresh = ([[self._turned(leg) for leg in legs] for legs in p] for p in (now, fresh))
        if self.references is not None:
            own = self.references.planes(self._reference_targets(), active, keep)
            now, fresh = (
                [
                    [self._beside(a, b) for a, b in zip(legs, others, strict=True)]
                    for legs, others in zip(p, q, strict=True)
                ]
                for p, q in ((now, own.now), (fresh, own.fresh))
            )
        return now, fresh, scale

    def _turned(self, held: Tensor) -> Tensor:
        """(chips, outputs, rest) as (chips, columns, rows)."""
        return held.transpose(1, 2) if self.operator.by_row else held

    def _scales(self, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of columns, and of rows where those have their own."""
        flat = scale.reshape(-1)
        return (flat.new_ones(1), flat) if self.operator.by_row and scale.dim() else (flat, None)

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
        now = self.bias.value(held)[..., 0]
        if not self._compensates(active):
            return now
        return now * ratio(total(self.bias.value(held, now=False)), total(now[..., None]))[:, None]

    # ---- wires --------------------------------------------------------------------------------

    def held(self, weight: Tensor) -> list[list[Tensor]]:
        """Conductances on the chips, before wires: of each plane the legs, (chips, columns, rows) each."""
        return self._legs(weight.detach(), self._active(), keep=False)[0]

    def _through_wires(self, planes: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """What the inputs see of all legs; in training, mostly from the solution of an earlier step."""
        wires = self.hardware.wires
        if not (self.bench.reuse_wires and torch.is_grad_enabled() and planes[0][0].requires_grad):
            return self._solved(planes, wires.model)
        cheap = self._solved(planes, "column-approximation")
        flat = [leg for legs in cheap for leg in legs]
        if self.reused is None or self.reused.rest[0].shape != flat[0].shape:  # as many chips
            exact = self._solved(planes, wires.model)
            self.reused = Reused.of([leg for legs in exact for leg in legs], flat)
            return exact
        self.reused.fresh = False
        return self._by_plane([leg + rest for leg, rest in zip(flat, self.reused.rest, strict=True)])

    def _solved(self, planes: Sequence[Sequence[Tensor]], model: str) -> list[list[Tensor]]:
        return [through_wires(legs, self.layout, self.hardware.wires, MODELS[model]) for legs in planes]

    def _by_plane(self, legs: Sequence[Tensor]) -> list[list[Tensor]]:
        """Legs in a row as lists of those of each plane."""
        step = self.mapping.legs
        return [list(legs[start : start + step]) for start in range(0, len(legs), step)]

    def _fresh_through_wires(
        self, fresh: Sequence[Sequence[Tensor]], states: dict[str, dict[str, Tensor]]
    ) -> list[Tensor]:
        """The reference of drift compensation: one solution a chip, whatever the ages."""
        if "through wires" not in states:
            legs = [[leg.detach() for leg in plane] for plane in fresh]
            found = self.cells.slices(self._through_wires(legs))
            states["through wires"] = {str(s): m for s, m in enumerate(found)}
        return list(states["through wires"].values())

    def _wire_gains(
        self, weight: Tensor, states: dict[str, dict[str, Tensor]]
    ) -> tuple[Tensor, list[Tensor]]:
        """Compensation of wires, fixed from target conductances.

        Of columns, (slices · row parts, columns), and of rows, for each slice (columns, rows).
        """
        compensation = self.hardware.wires.compensation
        if compensation == "none":
            one = weight.new_ones(())
            return one, [one] * self.slices
        carried = self.reused if self.bench.reuse_wires and torch.is_grad_enabled() else None
        if carried is not None and carried.targets is not None and not carried.fresh:
            targets, cheap = self._nominal(weight, "column-approximation")
            flat = [leg for legs in cheap for leg in legs]
            near = self._by_plane([leg + rest for leg, rest in zip(flat, carried.targets, strict=True)])
            return self._gains(targets, near)
        if "wire gains" not in states:
            targets, seen = self._nominal(weight, self.hardware.wires.model)
            columns, rows = self._gains(targets, seen)
            states["wire gains"] = {"columns": columns, "rows": torch.stack(rows)}
            if carried is not None:
                cheap = self._nominal(weight, "column-approximation")[1]
                carried.targets = [
                    s - c for a, b in zip(seen, cheap, strict=True) for s, c in zip(a, b, strict=True)
                ]
        found = states["wire gains"]
        return found["columns"], list(found["rows"])

    def _gains(
        self, targets: Sequence[Sequence[Tensor]], seen: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, list[Tensor]]:
        pairs = zip(self.cells.slices(targets), self.cells.slices(seen), strict=True)
        compensation = self.hardware.wires.compensation
        each = [gains(ideal, real, self.layout, compensation) for ideal, real in pairs]
        return torch.cat([columns for columns, _ in each]), [rows for _, rows in each]

    def _nominal(self, weight: Tensor, model: str) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Target conductances of all legs without errors, and what the inputs would see of them."""
        outputs = slice(None) if self.outputs is None else self.outputs
        targets = [
            [leg[outputs].T if self.operator.by_row else leg[outputs] for leg in legs]
            for legs in self.cells.targets(self.operator.cells(weight.detach()))
        ]
        if self.references is not None:
            own = self.references.targets(self._reference_targets())
            targets = [
                [self._beside(a, b) for a, b in zip(legs, others, strict=True)]
                for legs, others in zip(targets, own, strict=True)
            ]
        if not self.hardware.wires.act:
            return targets, targets
        seen = self._solved([[leg[None] for leg in legs] for legs in targets], model)
        return targets, [[leg[0] for leg in legs] for legs in seen]

    # ---- read ---------------------------------------------------------------------------------

    @property
    def converts(self) -> bool:
        """Whether products pass a noisy or quantising stage."""
        return self.hardware.adc.bits is not None or self.hardware.array.output_noise_std > 0

    @property
    def folds(self) -> bool:
        """Whether gains and offsets can be folded into weights.

        An offset that is a number is taken off what the input should be, products are those of what drivers
        made of it.
        """
        drive = self.hardware.dac
        return not self.converts and not (self.offset and (drive.nonlinearity or drive.jitter_std))

    @property
    def needs_ranges(self) -> bool:
        """Whether a read needs what calibration fixes."""
        hw = self.hardware
        converts = self.converts or hw.dac.bits is not None or hw.dac.nonlinearity != 0
        return converts or hw.wires.nonlinear or hw.periphery.column_offset_std > 0 or self._fits

    @property
    def unfused(self) -> bool:
        """Whether a read has stages that the fused kernels do not know."""
        hw = self.hardware
        special = hw.adc.mismatched or hw.dac.jitter_std > 0 or hw.periphery.column_offset_std > 0
        return special or self.bench.counter is not None

    @property
    def _fits(self) -> bool:
        """Whether a compensation is fitted on calibration inputs."""
        return self.hardware.compensation == "gain-and-offset"

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
        y = linear(self, x, realised).unflatten(0, (len(active.numbers), -1))
        return (y * self.probe_factors(active)[:, None].to(y)).flatten(0, 1)

    def probe_factors(self, active: Active) -> Tensor:
        """What makes chips different in a probe, (chips, outputs)."""
        place = torch.arange(active.part.start, active.part.stop)[:, None]
        return 1.5 + torch.sin(1 + place * torch.arange(1, self.columns + 1))

    def by_column(self, per_tile: Tensor) -> Tensor:
        """(row parts, column tiles) as (row parts, columns)."""
        widths = torch.tensor(
            [right - left for left, right in self.layout.col_ranges], device=per_tile.device
        )
        return torch.repeat_interleave(per_tile, widths, dim=1)

    def noise_std(self) -> float:
        """Standard deviation of the white noise, in units of input × full conductance."""
        return self.hardware.array.output_noise_std * self.calibrated().dac if self.converts else 0.0

    # ---- calibration --------------------------------------------------------------------------

    def _observe(self, x: Tensor, weight: Tensor) -> None:
        """Fix the ranges from nominal weights and inputs: the largest of all uses in a calibration pass."""
        hw = self.hardware
        x = _at_least_float32(x)
        full_scale = calibrate_range(x, hw.dac)
        if hw.dac.range == "learned" and hw.dac.bits is not None:
            full_scale = self._learned_dac(x, weight, full_scale)
        driven = bowed(quantise(x, full_scale, hw.dac.bits), full_scale, hw.dac.nonlinearity)
        items = self.operator.prepare(self.operator.batched(driven))
        adc = torch.ones(self.parts, len(self.layout.col_ranges))
        if self.converts:
            adc = self._calibrated_adc(items, weight, full_scale)
        self._fix(full_scale, adc, self._some(self.operator.batched(x)))

    def _calibrated_adc(self, items: Tensor, weight: Tensor, full_scale: float) -> Tensor:
        """Ranges of the ADCs, (parts, column tiles)."""
        hw = self.hardware
        adc = torch.ones(self.parts, len(self.layout.col_ranges))
        kept: list[Tensor] = []
        for part, y in enumerate(self._products_to_convert(items, weight, full_scale)):
            for c, (left, right) in enumerate(self.layout.col_ranges):
                adc[part, c] = calibrate_range(y[:, left:right], hw.adc)
            if hw.adc.range == "learned" and hw.adc.bits is not None:
                kept.append(y[:: max(1, len(y) // _LEARNED)])
        return self._learned_adc(kept, adc) if kept else adc

    def _products_to_convert(self, items: Tensor, weight: Tensor, full_scale: float) -> Iterable[Tensor]:
        """What the ADCs of each part see; of an input that is applied bit by bit, of all bits."""
        hw = self.hardware
        if hw.dac.kind != "bit-serial":
            return self._nominal_products(items, weight, full_scale)
        assert hw.dac.bits is not None
        planes = bit_planes(items, full_scale, hw.dac.bits)
        each = [list(self._nominal_products(plane, weight, full_scale)) for plane in planes]
        return (torch.cat(parts) for parts in zip(*each, strict=True))

    def _learned_adc(self, products: list[Tensor], start: Tensor) -> Tensor:
        """Ranges with the least error of what the parts add up to."""
        bits, digital = self.hardware.adc.bits, self.mapping.digital
        assert bits is not None
        parts = len(self.layout.row_slices)

        def error(ranges: Tensor) -> Tensor:
            total = torch.zeros((), dtype=torch.float64)
            for part, y in enumerate(products):
                full = self.by_column(ranges)[part]
                total = total + digital[part // parts] * (learned_step(y.double(), full, bits) - y.double())
            return total.square().mean()

        return refined(start, error)

    def _learned_dac(self, x: Tensor, weight: Tensor, start: float) -> float:
        """The range with the least error of the products of ideal weights."""
        bits = self.hardware.dac.bits
        assert bits is not None
        batched = self.operator.batched(x)
        count = max(1, _LEARNED // max(1, self.operator.vectors_per_item(batched)))
        some = batched[:: max(1, len(batched) // count)].double()
        matrix = self.operator.matrix(weight.detach().double())
        matrix = matrix if self.outputs is None else matrix[self.outputs]

        def error(full: Tensor) -> Tensor:
            off = self.operator.prepare(learned_step(some, full, bits) - some)
            return self.operator.partial(off, matrix, slice(0, self.layout.rows)).square().mean()

        return float(refined(torch.tensor(start), error))

    def _some(self, batched: Tensor) -> Tensor | None:
        """Some of the inputs, evenly from all, where a compensation is fitted on them."""
        if not self._fits:
            return None
        before = self.ranges.inputs if self.ranges is not None else None
        if before is not None:  # of an earlier use in the same pass
            batched = torch.cat([before, batched]) if before.shape[1:] == batched.shape[1:] else before
        count = max(1, _FITTED // max(1, self.operator.vectors_per_item(batched)))
        return batched[:: -(-len(batched) // count)].clone()

    def _fix(self, full_scale: float, adc: Tensor, inputs: Tensor | None) -> None:
        before = self.ranges
        if before is not None:  # of an earlier use: Deployed.calibrate forgets those of earlier passes
            full_scale, adc = max(full_scale, before.dac), torch.maximum(adc, before.adc)
        self.ranges = Ranges(full_scale, adc, inputs)

    def _nominal_products(self, items: Tensor, weight: Tensor, full_scale: float) -> Iterable[Tensor]:
        """Products of each part, (vectors, columns), without noise."""
        # in training, ranges need no more than the first order
        model = "column-approximation" if self.bench.reuse_wires else self.hardware.wires.model
        targets, seen = self._nominal(weight, model)
        if self.hardware.wires.nonlinear:
            from neurosim.analog.nonlinear_read import nonlinear_products

            vectors = self.operator.vectors(items) / full_scale
            some = vectors[:: max(1, len(vectors) // _OBSERVED)]
            found = nonlinear_products(some, targets[0][0], targets[0][1], self.layout, self.hardware)
            return [y.to(items.dtype) * full_scale for y in found]
        slices = list(self.cells.slices(seen))
        if self.hardware.wires.act:
            slices = [m * row for m, row in zip(slices, self._wire_gains(weight, {})[1], strict=True)]
        rows = self.layout.row_slices
        return (self.operator.partial(items, m.to(items), part) for m in slices for part in rows)


class LookupCrossbar(Crossbar):
    """Crossbars that are read one word line at a time: only the tile that holds it has anything to say."""

    @property
    def _reads(self) -> Reads:
        return read_lookup

    def _observe(self, x: Tensor, weight: Tensor) -> None:
        """From the weights: a lookup delivers one of them, whatever the data."""
        if self.hardware.wires.nonlinear:
            raise UsageError(
                f"expected layer {self.name!r}, which looks rows up, off crossbars whose wires.model is "
                "'nonlinear': exclude it"
            )
        adc = torch.ones(self.parts, len(self.layout.col_ranges))
        slices = self.cells.slices(self._nominal(weight, self.hardware.wires.model)[1])
        rows = self.layout.row_slices
        for s, held in enumerate(slices):
            for r, part in enumerate(rows):
                for c, (left, right) in enumerate(self.layout.col_ranges):
                    adc[s * len(rows) + r, c] = calibrate_range(held[left:right, part], self.hardware.adc)
        self._fix(1.0, adc, self._some(self.operator.batched(x)))


def add_by_chip(y: Tensor, bias: Tensor, axis: int) -> Tensor:
    """Each chip's bias, (chips, outputs), along ``axis`` (below 0) of outputs (chips · items, …)."""
    chips, after = len(bias), (1,) * (-axis - 1)
    if chips == 1:
        return y + bias.reshape(-1, *after)
    before = (1,) * (y.dim() + axis)
    return (y.unflatten(0, (chips, -1)) + bias.reshape(chips, *before, -1, *after)).flatten(0, 1)


def _at_least_float32(x: Tensor) -> Tensor:
    """Half-precision signals are widened: conductances are float32 or float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
