"""What every deployed network can do besides what its own class can."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neurosim.analog.bench import Active, Bench
from neurosim.analog.cells import Cells
from neurosim.analog.conversions import ConversionReport, report_of
from neurosim.analog.counting import Counter
from neurosim.analog.crossbar import Crossbar
from neurosim.analog.explain import (
    DigitalRow,
    Explanation,
    LayerRow,
    Variant,
    effects_of,
    wires_in_words,
)
from neurosim.analog.folding import Folded
from neurosim.analog.inputs import Inputs, tensors_in
from neurosim.analog.layers import OnCrossbars
from neurosim.analog.layers.base import look
from neurosim.analog.limits import heed_age
from neurosim.analog.lot import Chips
from neurosim.analog.mixing import mix, mixed_in, original_class, unmix
from neurosim.analog.on_chips import PIECE_BYTES, OnChips
from neurosim.analog.realised import Ranges
from neurosim.analog.sampled import SampledModule, SampledRow
from neurosim.analog.sensitivity import fisher_diagonal, most_sensitive
from neurosim.analog.statistics import check_norms, forget_statistics
from neurosim.analog.wire_report import WireReport, wire_row
from neurosim.analog.wiring import Reused
from neurosim.devices import Hardware
from neurosim.devices.device import check_time
from neurosim.devices.fault_map import check_names, fault_map, rows_of
from neurosim.devices.writing.verify import Cost
from neurosim.errors import UsageError
from neurosim.memory import keep_freed_memory

# Programmed devices of one weight: two legs, each a conductance and about one more number, the
# difference, the reference of the compensation, and temporaries while programming.
_STATE_BYTES_PER_WEIGHT = 4 * 10
_MEMORY_BUDGET_BYTES = 1 << 30
# Chips share a forward while the activations of all are below this; beyond, more chips gain nothing.
_ACTIVATION_BUDGET_BYTES = 16 << 20


class Deployed(nn.Module):
    """What every deployed network can do besides what its own class can.

    Not constructed: :func:`neurosim.deploy` mixes it into the class of the copied network.
    """

    _bench: Bench
    _hardware: Hardware
    _options: dict[str, Any]
    _reasons: dict[str, str]
    _sampled: tuple[SampledRow, ...]
    _statistics: Inputs | None

    @staticmethod
    def made_of(
        net: nn.Module,
        hardware: Hardware,
        bench: Bench,
        options: dict[str, Any],
        reasons: dict[str, str],
        sampled: tuple[SampledRow, ...],
    ) -> Deployed:
        """The network whose layers are on crossbars already, with what is below."""
        mix(
            net,
            Deployed,
            "Deployed",
            _bench=bench,
            _hardware=hardware,
            _options=options,
            _reasons=reasons,
            _sampled=sampled,
            _statistics=None,
        )
        assert isinstance(net, Deployed)
        return net

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._bench.passes += 1
        active = self._bench.active
        if not self._bench.sharing or active is None or active.split:
            return super().__call__(*args, **kwargs)
        # as many of the chips as divide the batch evenly: the last batch of an epoch may be a small one
        samples = Inputs.of(args, kwargs).samples
        count = max(n for n in range(1, len(active.chips) + 1) if samples % n == 0)
        with self._bench.use(slice(0, count)):
            return super().__call__(*args, **kwargs)

    @property
    def hardware(self) -> Hardware:
        """The hardware this network is deployed on."""
        return self._hardware

    @property
    def options(self) -> dict[str, Any]:
        """How it was deployed: keyword arguments of :func:`neurosim.deploy`, without the calibration."""
        return dict(self._options)

    def plain(self) -> nn.Module:
        """The network as it was before it was deployed, with the present parameters: a copy."""
        net = copy.deepcopy(self)
        for module in net.modules():
            while mixed_in(module):
                unmix(module)
        return net

    def products_error(self, chips: Chips, *args: Any, time_s: float = 0.0, **kwargs: Any) -> float:
        """How far the outputs are off for the type of the products, on these inputs and chips.

        √(Σ (y − y₃₂)²/Σ y₃₂²) over all outputs y, where y₃₂ are those of float32 products: the same devices,
        the same noise.
        """
        kept, outputs = self._bench.products, []
        try:
            for products in (kept, torch.float32):
                self._bench.products = products
                with torch.no_grad(), _eval_mode(self), self.on(chips, time_s) as on_chips:
                    outputs.append(tensors_in(on_chips(*args, **kwargs)))
        finally:
            self._bench.products = kept
        pairs = list(zip(*outputs, strict=True))
        off = sum(float((y.double() - y32.double()).square().sum()) for y, y32 in pairs)
        return math.sqrt(off / max(sum(float(y32.double().square().sum()) for _, y32 in pairs), 1e-300))

    @property
    def calibrated(self) -> bool:
        """Whether every converter that needs a range has one."""
        return all(c.ranges is not None or c.unreached or not c.needs_ranges for c in self._all_crossbars())

    def calibrate(self, *args: Any, **kwargs: Any) -> None:
        """Fix the ranges of all converters on data, once, with nominal weights.

        A layer that a forward pass uses several times takes the largest range of its uses.  Ranges of an
        earlier calibration are forgotten; when this one fails they stay.  A layer that the inputs do not
        reach has none: chips refuse to read it.

        Args:
            args, kwargs: inputs of the network (samples, …), from the training data: never the data under
                test.

        Raises:
            UsageError: empty or non-finite inputs, inputs that reach no layer, or chips are on the bench.
        """
        if self._bench.active is not None:
            raise UsageError("expected to calibrate off the bench; leave net.on(...) first")
        if not any(t.dim() > 0 and len(t) > 0 for t in tensors_in((args, kwargs))):
            raise UsageError("expected a tensor of calibration inputs with at least one sample")
        crossbars = self._all_crossbars()
        before = [(crossbar.ranges, crossbar.unreached) for crossbar in crossbars]
        self._bench.observing = True
        try:
            for crossbar in crossbars:
                crossbar.ranges, crossbar.unreached = None, False
            with torch.no_grad(), _eval_mode(self), _through_forwards(self):
                self(*args, **kwargs)
            self._check_reached(self._all_crossbars())
        except BaseException:
            for crossbar, (ranges, unreached) in zip(crossbars, before, strict=True):
                crossbar.ranges, crossbar.unreached = ranges, unreached
            raise
        finally:
            self._bench.observing = False

    @staticmethod
    def _check_reached(crossbars: list[Crossbar]) -> None:
        missed = [c for c in crossbars if c.needs_ranges and c.ranges is None]
        if missed and len(missed) == len(crossbars):
            raise UsageError(
                f"the calibration inputs never reached layer {missed[0].name!r}, nor any other: "
                "cannot fix ranges"
            )
        for crossbar in missed:
            crossbar.unreached = True

    def reestimate_batchnorm(self, *args: Any, **kwargs: Any) -> None:
        """From now on give every batch normalisation the statistics that these inputs have on each chip.

        Whenever chips are put on the bench or age, as by :meth:`OnChips.reestimate_batchnorm`.

        Args:
            args, kwargs: inputs of the network (samples, …), from the training data; a few hundred.

        Raises:
            UsageError: the network has no batch normalisation that is not folded.
        """
        inputs = Inputs.of(args, kwargs)
        check_norms(self)
        self._statistics = inputs.each(lambda x: x.detach().clone())

    @property
    def statistics_inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What :meth:`reestimate_batchnorm` was given, or None."""
        return None if self._statistics is None else self._statistics.arguments()

    def conversion_report(
        self, chips: Chips, *args: Any, time_s: float = 0.0, **kwargs: Any
    ) -> ConversionReport:
        """How well the converters' ranges fit these inputs on these chips: what saturates, what is used.

        Raises:
            UsageError: this hardware converts exactly everywhere; or as :meth:`on`.
        """
        found = [c for c in self._all_crossbars() if c.converts or c.hardware.dac.bits is not None]
        crossbars = {crossbar.name: crossbar for crossbar in found}
        if not crossbars:
            raise UsageError(f"{self._hardware.name!r} has ideal converters: set dac.bits or adc.bits")
        self._bench.counter = counter = Counter()
        try:
            with torch.no_grad(), _eval_mode(self), self.on(chips, time_s) as on_chips:
                on_chips(*args, **kwargs)
        finally:
            self._bench.counter = None
        ideal = {
            name: (c.hardware.dac.bits is None, c.hardware.adc.bits is None) for name, c in crossbars.items()
        }
        samples = Inputs.of(args, kwargs).samples
        return report_of(self._hardware.name, counter, len(chips), samples, ideal)

    def select_verified(self, *args: Any, probes: int = 64, **kwargs: Any) -> None:
        """Choose the weights that are verified when they are written: ``writing.verified_fraction`` of all.

        Ranked over all layers that have the same fraction; columns of references, and biases on devices, are
        verified anyway.  Chosen are those whose blind errors would raise the loss most, ½·F·σ²(w) with F the
        Fisher information of a classifier (:func:`neurosim.analog.sensitivity.fisher_diagonal` of the ideal
        network), as Z. Yan et al. choose by second derivatives (SWIM, DAC 2022,
        doi:10.1145/3489517.3530459).

        Args:
            args, kwargs: inputs of the network, from the training data; it gives logits (samples, classes,
                …).
            probes: of the estimate.

        Raises:
            UsageError: this hardware verifies all weights, or none; a weight is no parameter.
        """
        placed = self._selective_cells()
        if not placed:
            raise UsageError(
                f"{self._hardware.name!r} does not choose weights: set writing.verified_fraction below 1"
            )
        parameters = {
            id(weight): weight for weight, _, _ in placed.values() if isinstance(weight, nn.Parameter)
        }
        if any(id(weight) not in parameters for weight, _, _ in placed.values()):
            raise UsageError("expected parameters as weights to verify in part; got one that is computed")
        with _eval_mode(self), _off_bench(self._bench):
            found = fisher_diagonal(lambda: self(*args, **kwargs), list(parameters.values()), probes)
        curvature = dict(zip(parameters, found, strict=True))
        scores = {
            name: crossbar.operator.cells(curvature[id(weight)])
            * cells.blind_variance(crossbar.operator.cells(weight.detach()))
            for name, (weight, crossbar, cells) in placed.items()
        }
        fractions = {name: cells.hardware.writing.verified_fraction for name, (_, _, cells) in placed.items()}
        for fraction in set(fractions.values()):
            alike = {name: score for name, score in scores.items() if fractions[name] == fraction}
            for name, mask in most_sensitive(alike, fraction).items():
                placed[name][2].verified = mask

    def _selective_cells(self) -> dict[str, tuple[Tensor, Crossbar, Cells]]:
        """Weight, a reader and devices of every parameter that is verified in part, by name of the latter."""
        found: dict[str, tuple[Tensor, Crossbar, Cells]] = {}
        for module in self.modules():
            for key, crossbar in module._crossbars.items() if isinstance(module, OnCrossbars) else ():
                if crossbar.cells.hardware.writing.selective:
                    weight = module._weight_of(key)  # type: ignore[operator]
                    found.setdefault(crossbar.cells.name, (weight, crossbar, crossbar.cells))
        return found

    def writing_cost(self, chips: Chips) -> dict[str, Cost]:
        """What writing these chips takes, by layer.

        Raises:
            UsageError: this hardware does not write by pulses; or as :meth:`on`.
        """
        if not any(crossbar.hardware.writing.act for crossbar in self._all_crossbars()):
            raise UsageError(f"{self._hardware.name!r} does not write by pulses: set writing.scheme")
        found: dict[str, Cost] = {}
        with torch.no_grad(), self.on(chips):
            active = self._bench.active
            assert active is not None
            for module in self.modules():
                if not isinstance(module, OnCrossbars):
                    continue
                for key, crossbar in module._crossbars.items():
                    weight, bias = module._weight_of(key).detach(), module._bias_of(key)
                    for cells, wanted in crossbar.all_cells(weight, bias):
                        if cells.hardware.writing.act and cells.name not in found:
                            cells.hold(wanted.detach(), active, keep=True)
                            found[cells.name] = cells.cost
        return found

    def calibration_state(self) -> dict[str, Tensor]:
        """The fixed ranges, by layer.

        ``<name>.dac`` is a scalar in units of the layer's input; ``<name>.adc``, (slices · row parts, column
        tiles), is in units of that input × one fully-on device.  ``<name>.inputs`` is there where a
        compensation is fitted on inputs of the layer.
        """
        state = {}
        for crossbar in self._all_crossbars():
            if crossbar.ranges is not None:
                state[f"{crossbar.name}.dac"] = torch.tensor(crossbar.ranges.dac, dtype=torch.float64)
                state[f"{crossbar.name}.adc"] = crossbar.ranges.adc.clone()
                if crossbar.ranges.inputs is not None:
                    state[f"{crossbar.name}.inputs"] = crossbar.ranges.inputs.clone()
            if crossbar.cells.verified is not None:
                state[f"{crossbar.name}.verified"] = crossbar.cells.verified.clone()
        return state

    def load_calibration_state(self, state: Mapping[str, Tensor]) -> None:
        """Take ranges saved by :meth:`calibration_state`; layers it does not name keep theirs.

        Raises:
            UsageError: a layer or shape that this network does not have, or a range that is not finite and
                above 0.  Nothing is taken then.
        """
        known = {c.name: c for c in self._all_crossbars()}
        names = {key.rpartition(".")[0] for key in state}
        if missing := sorted(names - set(known)):
            raise UsageError(
                f"calibration names layer {missing[0]!r}, which is not on a crossbar of this network"
            )
        masks = {key.rpartition(".")[0]: mask for key, mask in state.items() if key.endswith(".verified")}
        ranged = {key.rpartition(".")[0] for key in state if not key.endswith(".verified")}
        taken = {name: _ranges_of(known[name], state) for name in names if name in ranged}
        self._check_masks(masks)
        for name, mask in masks.items():
            known[name].cells.verified = mask.detach().clone()
        for name, ranges in taken.items():
            known[name].ranges, known[name].unreached = ranges, False
        for crossbar in known.values():
            crossbar.unreached = bool(taken) and crossbar.needs_ranges and crossbar.ranges is None

    def _check_masks(self, masks: Mapping[str, Tensor]) -> None:
        """UsageError unless each says of every weight of its layer whether it is verified."""
        for module in self.modules():
            for key, crossbar in module._crossbars.items() if isinstance(module, OnCrossbars) else ():
                mask = masks.get(crossbar.name)
                shape = tuple(crossbar.operator.cells(module._weight_of(key)).shape)  # type: ignore[operator]
                if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != shape):
                    raise UsageError(
                        f"calibration of layer {crossbar.name!r} does not fit: expected {shape} booleans as "
                        f"verified; got {tuple(mask.shape)} of {mask.dtype}"
                    )

    def reuse_wires(self) -> None:
        """From now on, with gradients, solve the wires in the first forward and carry that solution on.

        The forwards after it add to the first-order approximation, at the present weights, what the exact
        solution differed by; :meth:`forget_wires` has the next forward solve anew.
        """
        self._bench.reuse_wires = True

    def share_batches(self) -> None:
        """From now on a batch is split among the chips on the bench, each of which takes its share.

        For training: ``net(x)`` inside :meth:`on` then runs sample after sample on as many chips as divide
        the batch evenly, and returns what a network returns for ``x``.
        """
        self._bench.sharing = True

    def forget_wires(self) -> None:
        """Solve the wires anew in the next forward."""
        for crossbar in self._all_crossbars():
            crossbar.reused = None

    def wire_state(self) -> dict[str, Tensor]:
        """What :meth:`reuse_wires` carries from step to step, by layer."""
        return {
            f"{crossbar.name}.{key}": tensor
            for crossbar in self._all_crossbars()
            if crossbar.reused is not None
            for key, tensor in crossbar.reused.state().items()
        }

    def load_wire_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what :meth:`wire_state` gave."""
        for crossbar in self._all_crossbars():
            start = f"{crossbar.name}."
            own = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
            crossbar.reused = Reused.from_state(own) if "plus" in own else None

    @contextlib.contextmanager
    def on(self, chips: Chips, time_s: float = 0.0) -> Iterator[OnChips]:
        """Put the network on chips: programmed once, then ``time_s`` seconds old.

        Yields an :class:`OnChips`.  Nothing is redrawn inside; everything is forgotten at the end.

        Raises:
            UsageError: ``chips`` are not from a lot of this network's hardware; a converter is not
                calibrated; chips are on the bench already; ``time_s`` is negative or not finite.
        """
        self._check_ready(chips)
        keep_freed_memory()
        active = Active(chips, check_time(time_s) + 0.0, slice(0, len(chips)))
        heed_age(self._hardware, active.time_s, self._bench.told)
        self._reset()  # a copy made while chips were on still holds their devices
        try:
            with _through_forwards(self):
                self._bench.active = active
                yield OnChips(self)._with_statistics()
        finally:
            self._bench.active = None
            forget_statistics(self)
            self._reset()
            for module in self.modules():
                if isinstance(module, SampledModule):
                    module._sampling.reset()

    def _reset(self, keep_devices: bool = False) -> None:
        for crossbar in self._all_crossbars():
            crossbar.reset(keep_devices)

    def _vectors_read(self) -> list[list[int]]:
        return [list(crossbar.vectors_read) for crossbar in self._all_crossbars()]

    def _set_vectors_read(self, counts: list[list[int]]) -> None:
        # a weight that the user named gets its crossbar when it is first used: none read before
        for number, crossbar in enumerate(self._all_crossbars()):
            crossbar.vectors_read = list(counts[number]) if number < len(counts) else []

    def _check_ready(self, chips: Chips) -> None:
        if not isinstance(chips, Chips):
            raise UsageError(f"expected chips of a lot, such as Lot(hardware)[0:16]; got {chips!r}")
        same = chips.lot.hardware is self._hardware
        if not same and chips.lot.hardware.digest() != self._hardware.digest():
            raise UsageError(
                f"the chips are of hardware {chips.lot.hardware.name!r}, the network is deployed on "
                f"{self._hardware.name!r}: deploy it on the hardware of the lot"
            )
        if self._bench.active is not None:
            raise UsageError("chips are on the bench already: leave the first net.on(...) before the next")
        for crossbar in self._all_crossbars():
            if crossbar.needs_ranges and not crossbar.unreached:
                crossbar.calibrated()
        self._check_fault_maps()

    def _check_fault_maps(self) -> None:
        """UsageError if a map names devices that are not there."""
        mapped: dict[tuple[str, str], list[str]] = {}
        for crossbar in self._all_crossbars():
            faults = crossbar.hardware.faults
            if faults.map_file:
                names = mapped.setdefault((faults.map_file, faults.map_sha256), [])
                names += [name for cells in crossbar.every_cells() for name in cells.leg_names()]
        for (path, sha256), names in mapped.items():
            check_names(fault_map(path, sha256), path, names)

    def chip_block(self, *args: Any, budget_bytes: int = _MEMORY_BUDGET_BYTES, **kwargs: Any) -> int:
        """How many chips to put on at once so that their state and activations stay within memory.

        Few chips when activations are large (more would only leave the cache), many when small.

        Args:
            args, kwargs: inputs of the network, as it will be called.
            budget_bytes: of memory.
        """
        inputs = Inputs.of(args, kwargs)
        weights = sum(c.layout.pairs * c.mapping.planes for c in self._all_crossbars())
        state = max(1, weights * _STATE_BYTES_PER_WEIGHT)
        activations = self._activation_bytes(inputs) * max(1, inputs.samples)
        piece = min(activations, PIECE_BYTES)  # of which about four are alive at a time
        return max(1, min(budget_bytes // (state + 4 * piece), _ACTIVATION_BUDGET_BYTES // activations))

    def _activation_bytes(self, inputs: Inputs) -> int:
        """Bytes of the largest tensor that one sample becomes on its way through the network."""
        sizes = self._bench.activation_bytes
        signature = inputs.signature()
        if signature not in sizes:
            try:
                sizes[signature] = self._measured_activation_bytes(inputs.only(slice(0, 1)))
            except Exception:  # a network that takes no single sample may say so in any way
                sizes[signature] = -(-self._measured_activation_bytes(inputs) // max(1, inputs.samples))
        return sizes[signature]

    def _measured_activation_bytes(self, inputs: Inputs) -> int:
        largest = [1, inputs.sample_bytes()]

        def note(module: nn.Module, args: Any, output: Any) -> None:
            largest.extend(t.numel() * t.element_size() for t in tensors_in(output))

        hooks = [m.register_forward_hook(note) for m in self.modules()]
        try:
            with torch.no_grad(), _eval_mode(self), _off_bench(self._bench):
                inputs.call(self)
        finally:
            for hook in hooks:
                hook.remove()
        return max(largest)

    def explain(self) -> Explanation:
        """What is on crossbars, what is not, and which effects act when."""
        layers: list[LayerRow] = []
        digital = []
        for name, module in self.named_modules():
            if isinstance(module, OnCrossbars):
                layers += _layer_rows(module, layers)
            left = [key for key, _ in module.named_parameters(recurse=False) if not _held(module, key)]
            own = sum(module.get_parameter(key).numel() for key in left)
            leaf = next(module.children(), None) is None
            listed = own if isinstance(module, OnCrossbars) else own or (leaf and name)
            if listed and not _inside(name):
                why = (
                    "done by the layer before it"
                    if isinstance(module, Folded)
                    else self._reasons.get(name, "")
                )
                digital.append(DigitalRow(name or "root", _kind_of(module), own, why))
        variants = self._hardware.variants()[1:]
        return Explanation(
            self._hardware.name,
            tuple(layers),
            tuple(digital),
            tuple(effects_of(self._hardware)),
            self._sampled,
            tuple(
                Variant(pattern, tuple(effects_of(variant)))
                for pattern, variant in zip(self._hardware.layers, variants, strict=True)
            ),
        )

    def digital_parameters(self) -> list[str]:
        """Names of the parameters that chips do not change; biases go with the weights of their layer."""
        placed = {
            id(parameter)
            for module in self.modules()
            if isinstance(module, (OnCrossbars, Folded))
            for key, parameter in module.named_parameters()
            if _held(module, key)
        }
        varied = {row.name for row in self._sampled}
        return [
            name
            for name, parameter in self.named_parameters()
            if id(parameter) not in placed and name not in varied
        ]

    def fault_map(self, chips: Chips) -> list[dict[str, object]]:
        """What is broken on these chips, as rows of :mod:`neurosim.devices.fault_map`.

        Where the devices are: before any remapping, and without spare columns.

        Raises:
            UsageError: nothing can be broken on this hardware; or as :meth:`on`.
        """
        found: dict[int, Cells] = {}
        weights: dict[int, Tensor] = {}
        for module in self.modules():
            if not isinstance(module, OnCrossbars):
                continue
            for key, crossbar in module._crossbars.items():
                for cells, weight in crossbar.all_cells(module._weight_of(key), module._bias_of(key)):
                    found[id(cells)], weights[id(cells)] = cells, weight
        faulty = {key: cells for key, cells in found.items() if cells.hardware.faults.breaks}
        if not faulty:
            raise UsageError(f"nothing can be broken on {self._hardware.name!r}: set rates of faults first")
        with torch.no_grad(), self.on(chips):
            active = self._bench.active
            assert active is not None
            states = [
                state
                for key, cells in faulty.items()
                for state in cells.broken_legs(weights[key].detach(), active)
            ]
        return rows_of(chips.numbers, states)

    def explain_wires(self, chips: Chips, time_s: float = 0.0) -> WireReport:
        """What the wires do to this network's own programmed tiles, exactly and by the column approximation.

        Raises:
            UsageError: the wires of this hardware have no resistance; or as :meth:`on`.
        """
        if not any(crossbar.hardware.wires.act for crossbar in self._all_crossbars()):
            raise UsageError(
                f"the wires of {self._hardware.name!r} have no resistance: set wires.r_row_ohm, "
                "wires.r_col_ohm, wires.r_source_ohm or wires.r_sink_ohm"
            )
        with torch.no_grad(), self.on(chips, time_s):
            found = [
                wire_row(crossbar, crossbar.held(module._weight_of(key)))
                for module in self.modules()
                if isinstance(module, OnCrossbars)
                for key, crossbar in module._crossbars.items()
                if crossbar.hardware.wires.act
            ]
        return WireReport(self._hardware.name, wires_in_words(self._hardware), len(chips), tuple(found))

    def _all_crossbars(self) -> list[Crossbar]:
        return [
            crossbar
            for module in self.modules()
            if isinstance(module, OnCrossbars)
            for crossbar in module._crossbars.values()
        ]


@contextlib.contextmanager
def _off_bench(bench: Bench) -> Iterator[None]:
    active, bench.active = bench.active, None
    try:
        yield
    finally:
        bench.active = active


@contextlib.contextmanager
def _eval_mode(net: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and each back in its own afterwards (a frozen batch-norm stays frozen)."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _through_forwards(net: nn.Module) -> Iterator[None]:
    """Have torch call every layer's forward.

    ``nn.TransformerEncoderLayer`` hands its weights to one fused kernel when nobody looks, past the forward
    of its linear layers, and with it past the crossbars.  It does not while a layer has a hook;
    ``nn.TransformerEncoder`` packs padded batches for that kernel unless it is told not to.
    """
    layers = [m for m in net.modules() if isinstance(m, (OnCrossbars, SampledModule))]
    encoders = [m for m in net.modules() if isinstance(m, nn.TransformerEncoder)]
    packs = [encoder.use_nested_tensor for encoder in encoders]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        for encoder in encoders:
            encoder.use_nested_tensor = False
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for encoder, packed in zip(encoders, packs, strict=True):
            encoder.use_nested_tensor = packed


def _held(module: nn.Module, key: str) -> bool:
    """Whether crossbars hold this parameter of the module (a digital bias counts: it goes with them)."""
    if isinstance(module, OnCrossbars):
        return module._holds(key)
    return isinstance(module, Folded)


def _inside(name: str) -> bool:
    """Whether a module only computes a parameter of another."""
    return ".parametrizations." in f".{name}."


def _layer_kind(module: OnCrossbars) -> str:
    """The type in the table of layers; of a module that is not there, its own."""
    row = next(kind for kind in mixed_in(module) if issubclass(kind, OnCrossbars))
    return (original_class(module) if row.kind is nn.Module else row.kind).__name__


def _kind_of(module: nn.Module) -> str:
    return original_class(module).__name__


def _layer_rows(module: OnCrossbars, before: list[LayerRow]) -> list[LayerRow]:
    rows = []
    for key, crossbar in module._crossbars.items():
        layout = crossbar.layout
        bias = module._bias_of(key) if crossbar.hardware.array.bias == "device" else None
        biases = 0 if bias is None else bias.numel()
        owner = crossbar.cells.name.removesuffix(".weight")
        shared = crossbar.outputs is None and any(row.name == owner for row in before)
        rows.append(
            LayerRow(
                name=crossbar.name,
                kind=_layer_kind(module),
                shape=crossbar.shape(module._weight_of(key)),
                tiles=0 if shared else layout.tiles * crossbar.mapping.planes,
                devices=(0 if shared else crossbar.devices) + biases * crossbar.bias.devices_per_entry,
                utilisation=layout.utilisation,
                shares=owner if shared else "",
            )
        )
    return rows


def _ranges_of(crossbar: Crossbar, state: Mapping[str, Tensor]) -> Ranges:
    name = crossbar.name
    dac, adc = state.get(f"{name}.dac"), state.get(f"{name}.adc")
    shape = (crossbar.parts, len(crossbar.layout.col_ranges))
    if dac is None or adc is None or dac.numel() != 1 or tuple(adc.shape) != shape:
        raise UsageError(
            f"calibration of layer {name!r} does not fit: expected a DAC range and {shape} ADC ranges"
        )
    inputs = state.get(f"{name}.inputs")
    ranges = Ranges(
        float(dac), adc.detach().clone().float(), None if inputs is None else inputs.detach().clone()
    )
    if not bool(((ranges.adc > 0) & ranges.adc.isfinite()).all()) or not 0 < ranges.dac < float("inf"):
        raise UsageError(f"calibration of layer {name!r} holds a range that is not finite and above 0")
    return ranges
