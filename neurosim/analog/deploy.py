"""Turn a network into the same network with its weights on crossbars."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils import _pytree as pytree

from neurosim.analog.bench import Active, Bench
from neurosim.analog.crossbar import ContractError, Crossbar, Ranges
from neurosim.analog.explain import DigitalRow, Explanation, LayerRow, effects_of, wires_in_words
from neurosim.analog.layers import LAYERS, CrossbarConv2d, CrossbarLinear
from neurosim.analog.lot import Chips
from neurosim.analog.wire_report import WireReport, wire_row
from neurosim.analog.wiring import Reused
from neurosim.devices import Hardware
from neurosim.errors import UsageError

# Programmed devices of one weight: two legs, each a conductance and about one more number, the
# difference, the reference of the compensation, and temporaries while programming.
_STATE_BYTES_PER_WEIGHT = 4 * 10
_MEMORY_BUDGET_BYTES = 1 << 30
# Chips share a forward while the activations of all are below this; beyond, more chips gain nothing.
_ACTIVATION_BUDGET_BYTES = 16 << 20
# Samples are split so that one activation stays below this (measured, benchmarks/chips.py).
_PIECE_BYTES = 8 << 20


def deploy(model: nn.Module, hardware: Hardware, *, calibration: Tensor | None = None) -> Deployed:
    """A deep copy of ``model`` whose Linear and Conv2d weights are on crossbars of ``hardware``.

    Same class tree, same ``state_dict`` keys, still trainable.  Outside ``net.on(...)`` it computes
    exactly what ``model`` does.

    Args:
        model: any module; other layers stay digital (``net.explain()`` names them).
        hardware: from :func:`neurosim.hardware`.
        calibration: inputs on which converter ranges are fixed, as by ``net.calibrate``.

    Raises:
        UsageError: not a module, not a Hardware, deployed already (or with such a part), or a weight that
            is empty or holds NaN or infinity.

    >>> import neurosim as ns
    >>> plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> net = deploy(plain, ns.hardware("gaussian-mismatch"))
    >>> with net.on(ns.Lot(net.hardware, seed=0)[0:16]) as chips:
    ...     chips(torch.ones(5, 4)).shape
    torch.Size([16, 5, 2])
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"expected a torch module to deploy; got {type(model).__name__}")
    if not isinstance(hardware, Hardware):
        raise UsageError(f"expected a Hardware, from neurosim.hardware(name); got {hardware!r}")
    if any(isinstance(module, Deployed) for module in model.modules()):
        raise UsageError("expected a network that is not deployed yet; deploy the original instead")
    net = copy.deepcopy(model)
    bench = Bench()
    for name, module in list(net.named_modules()):
        build = LAYERS.get(type(module))
        if build is not None:
            _check_finite(name, module)
            build(name or "root", module, hardware, bench)
    net.__class__ = type(f"Deployed{type(net).__name__}", (Deployed, type(net)), {})
    assert isinstance(net, Deployed)
    net._bench = bench
    net._hardware = hardware
    if calibration is not None:
        net.calibrate(calibration)
    return net


def _check_finite(name: str, module: nn.Module) -> None:
    for key, parameter in module.named_parameters(recurse=False):
        if parameter.numel() == 0:
            raise UsageError(f"expected weights to put on crossbars; {name or 'root'}.{key} is empty")
        if not bool(torch.isfinite(parameter).all()):
            raise UsageError(
                f"expected finite weights; got NaN or infinity in {name + '.' if name else ''}{key}"
            )


class Deployed(nn.Module):
    """What every deployed network can do besides what its own class can.

    Not constructed: :func:`deploy` mixes it into the class of the copied network.
    """

    _bench: Bench
    _hardware: Hardware

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._bench.passes += 1
        return super().__call__(*args, **kwargs)

    @property
    def hardware(self) -> Hardware:
        """The hardware this network is deployed on."""
        return self._hardware

    @property
    def calibrated(self) -> bool:
        """Whether every converter that needs a range has one."""
        return all(c.ranges is not None or not c.needs_ranges for c in self._crossbars())

    def calibrate(self, inputs: Tensor) -> None:
        """Fix the ranges of all converters on data, once, with nominal weights.

        A layer that a forward pass uses several times takes the largest range of its uses.  Ranges of an
        earlier calibration are forgotten; when this one fails they stay.

        Args:
            inputs: (samples, …), from the training data: never the data under test.

        Raises:
            UsageError: empty or non-finite inputs, inputs that never reach a layer, or chips are on the
                bench.
        """
        if self._bench.active is not None:
            raise UsageError("expected to calibrate off the bench; leave net.on(...) first")
        if not isinstance(inputs, Tensor) or inputs.dim() == 0 or len(inputs) == 0:
            raise UsageError("expected a tensor of calibration inputs with at least one sample")
        crossbars = self._crossbars()
        before = [crossbar.ranges for crossbar in crossbars]
        self._bench.observing = True
        try:
            for crossbar in crossbars:
                crossbar.ranges = None
            with torch.no_grad(), _eval_mode(self), _through_forwards(self):
                self(inputs)
            self._check_reached(crossbars)
        except BaseException:
            for crossbar, ranges in zip(crossbars, before, strict=True):
                crossbar.ranges = ranges
            raise
        finally:
            self._bench.observing = False

    @staticmethod
    def _check_reached(crossbars: list[Crossbar]) -> None:
        missed = [c.name for c in crossbars if c.needs_ranges and c.ranges is None]
        if missed:
            raise UsageError(
                f"the calibration inputs never reached layer {missed[0]!r}: cannot fix its ranges"
            )

    def calibration_state(self) -> dict[str, Tensor]:
        """The fixed ranges, by layer.

        ``<name>.dac`` is a scalar in units of the layer's input; ``<name>.adc``, (row parts, column tiles),
        is in units of that input × one fully-on device.
        """
        state = {}
        for crossbar in self._crossbars():
            if crossbar.ranges is not None:
                state[f"{crossbar.name}.dac"] = torch.tensor(crossbar.ranges.dac, dtype=torch.float64)
                state[f"{crossbar.name}.adc"] = crossbar.ranges.adc.clone()
        return state

    def load_calibration_state(self, state: Mapping[str, Tensor]) -> None:
        """Take ranges saved by :meth:`calibration_state`; layers it does not name keep theirs.

        Raises:
            UsageError: a layer or shape that this network does not have, or a range that is not finite and
                above 0.  Nothing is taken then.
        """
        known = {c.name: c for c in self._crossbars()}
        names = {key.rpartition(".")[0] for key in state}
        if missing := sorted(names - set(known)):
            raise UsageError(
                f"calibration names layer {missing[0]!r}, which is not on a crossbar of this network"
            )
        taken = {name: _ranges_of(known[name], state) for name in names}
        for name, ranges in taken.items():
            known[name].ranges = ranges

    def reuse_wires(self) -> None:
        """From now on, with gradients, solve the wires in the first forward and carry that solution on.

        The forwards after it add to the first-order approximation, at the present weights, what the exact
        solution differed by; :meth:`forget_wires` has the next forward solve anew.
        """
        self._bench.reuse_wires = True

    def forget_wires(self) -> None:
        """Solve the wires anew in the next forward."""
        for crossbar in self._crossbars():
            crossbar.reused = None

    def wire_state(self) -> dict[str, Tensor]:
        """What :meth:`reuse_wires` carries from step to step, by layer."""
        return {
            f"{crossbar.name}.{key}": tensor
            for crossbar in self._crossbars()
            if crossbar.reused is not None
            for key, tensor in crossbar.reused.state().items()
        }

    def load_wire_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what :meth:`wire_state` gave."""
        for crossbar in self._crossbars():
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
        crossbars = self._crossbars()
        active = Active(chips, _time(time_s), slice(0, len(chips)))
        for crossbar in crossbars:
            crossbar.reset()  # a copy made while chips were on still holds their devices
        try:
            with _through_forwards(self):
                self._bench.active = active
                yield OnChips(self, crossbars)
        finally:
            self._bench.active = None
            for crossbar in crossbars:
                crossbar.reset()

    def _check_ready(self, chips: Chips) -> None:
        if not isinstance(chips, Chips):
            raise UsageError(f"expected chips of a lot, such as Lot(hardware)[0:16]; got {chips!r}")
        if chips.lot.hardware.digest() != self._hardware.digest():
            raise UsageError(
                f"the chips are of hardware {chips.lot.hardware.name!r}, the network is deployed on "
                f"{self._hardware.name!r}: deploy it on the hardware of the lot"
            )
        if self._bench.active is not None:
            raise UsageError("chips are on the bench already: leave the first net.on(...) before the next")
        for crossbar in self._crossbars():
            if crossbar.needs_ranges:
                crossbar._ranges()

    def chip_block(self, inputs: Tensor, budget_bytes: int = _MEMORY_BUDGET_BYTES) -> int:
        """How many chips to put on at once so that their state and activations stay within memory.

        Few chips when activations are large (more would only leave the cache), many when small.
        """
        weights = sum(c.layout.pairs for c in self._crossbars())
        state = max(1, weights * _STATE_BYTES_PER_WEIGHT)
        activations = self._activation_bytes(inputs) * max(1, inputs.shape[0])
        return max(
            1, min(budget_bytes // (state + 4 * _PIECE_BYTES), _ACTIVATION_BUDGET_BYTES // activations)
        )

    def _activation_bytes(self, inputs: Tensor) -> int:
        """Bytes of the largest tensor that one sample becomes on its way through the network."""
        sizes = self._bench.activation_bytes
        signature = (tuple(inputs.shape[1:]), inputs.dtype)
        if signature not in sizes:
            try:
                sizes[signature] = self._measured_activation_bytes(inputs[:1])
            except (RuntimeError, ValueError, IndexError):  # a network that takes no single sample
                sizes[signature] = -(-self._measured_activation_bytes(inputs) // max(1, len(inputs)))
        return sizes[signature]

    def _measured_activation_bytes(self, sample: Tensor) -> int:
        largest = [1, sample.numel() * sample.element_size()]

        def note(module: nn.Module, args: Any, output: Any) -> None:
            tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
            largest.extend(t.numel() * t.element_size() for t in tensors)

        hooks = [m.register_forward_hook(note) for m in self.modules()]
        try:
            with torch.no_grad(), _eval_mode(self), _off_bench(self._bench):
                self(sample)
        finally:
            for hook in hooks:
                hook.remove()
        return max(largest)

    def explain(self) -> Explanation:
        """What is on crossbars, what is not, and which effects act when."""
        layers, digital = [], []
        for name, module in self.named_modules():
            if isinstance(module, (CrossbarLinear, CrossbarConv2d)):
                layers.append(_layer_row(name or "root", module))
                continue
            own = sum(p.numel() for p in module.parameters(recurse=False))
            leaf = next(module.children(), None) is None
            if own or (leaf and name):
                digital.append(DigitalRow(name or "root", type(module).__name__, own))
        return Explanation(
            self._hardware.name, tuple(layers), tuple(digital), tuple(effects_of(self._hardware))
        )

    def explain_wires(self, chips: Chips, time_s: float = 0.0) -> WireReport:
        """What the wires do to this network's own programmed tiles, exactly and by the column approximation.

        Raises:
            UsageError: the wires of this hardware have no resistance; or as :meth:`on`.
        """
        if not self._hardware.wires.act:
            raise UsageError(
                f"the wires of {self._hardware.name!r} have no resistance: set wires.r_row_ohm, "
                "wires.r_col_ohm, wires.r_source_ohm or wires.r_sink_ohm"
            )
        with torch.no_grad(), self.on(chips, time_s):
            layers = [m for m in self.modules() if isinstance(m, (CrossbarLinear, CrossbarConv2d))]
            rows = [wire_row(m.crossbar, *m.crossbar.held(m.weight)) for m in layers]
        return WireReport(self._hardware.name, wires_in_words(self._hardware), len(chips), tuple(rows))

    def _crossbars(self) -> list[Crossbar]:
        return [m.crossbar for m in self.modules() if isinstance(m, (CrossbarLinear, CrossbarConv2d))]


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
    of its linear layers, and with it past the crossbars.  It does not while a layer has a hook.
    """
    layers = [m for m in net.modules() if isinstance(m, (CrossbarLinear, CrossbarConv2d))]
    hooks = [layer.register_forward_pre_hook(_look) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _look(module: nn.Module, args: Any) -> None:
    """A hook that does nothing."""


def _ranges_of(crossbar: Crossbar, state: Mapping[str, Tensor]) -> Ranges:
    name = crossbar.name
    dac, adc = state.get(f"{name}.dac"), state.get(f"{name}.adc")
    shape = (len(crossbar.layout.row_slices), len(crossbar.layout.col_ranges))
    if dac is None or adc is None or dac.numel() != 1 or tuple(adc.shape) != shape:
        raise UsageError(
            f"calibration of layer {name!r} does not fit: expected a DAC range and {shape} ADC ranges"
        )
    ranges = Ranges(float(dac), adc.detach().clone().float())
    if not bool(((ranges.adc > 0) & ranges.adc.isfinite()).all()) or not 0 < ranges.dac < float("inf"):
        raise UsageError(f"calibration of layer {name!r} holds a range that is not finite and above 0")
    return ranges


def _layer_row(name: str, layer: CrossbarLinear | CrossbarConv2d) -> LayerRow:
    layout = layer.crossbar.layout
    biases = (
        layout.columns if layer.bias is not None and layer.crossbar.hardware.array.bias == "device" else 0
    )
    kind = next(base.__name__ for base in type(layer).__mro__ if base in LAYERS)
    return LayerRow(
        name, kind, tuple(layer.weight.shape), layout.tiles, 2 * (layout.pairs + biases), layout.utilisation
    )


def _time(time_s: float) -> float:
    try:
        seconds = float(time_s)
    except (TypeError, ValueError):
        seconds = float("nan")
    if not 0.0 <= seconds < float("inf"):
        raise UsageError(f"expected an age of 0 seconds or more; got time_s={time_s!r}")
    return seconds + 0.0  # -0.0 is the same age as 0.0


class OnChips:
    """A network on chips, inside ``with net.on(chips) as on_chips``.

    ``on_chips(x)`` runs a shared batch (batch, …) on every chip and returns (chips, batch, …) for
    every tensor the network returns, alone or in tuples, lists and dictionaries; numbers, text and None
    among them are passed on.  Chips ride the batch axis when the network treats that axis as an ordinary
    batch (checked once on two samples); else, and always in training mode, whose batch statistics would
    mix the chips, they run one at a time, with equal numbers.

    White noise is indexed by the vectors that a layer has read since the last :meth:`age`, each of its
    uses in one forward pass apart: results do not depend on batch size as long as that does not change
    how often a layer is used.
    """

    def __init__(self, net: Deployed, crossbars: list[Crossbar]) -> None:
        self._net = net
        self._crossbars = crossbars

    @property
    def chips(self) -> Chips:
        """The chips that are on."""
        return self._active.chips

    @property
    def time_s(self) -> float:
        """Their age in seconds."""
        return self._active.time_s

    @property
    def _active(self) -> Active:
        active = self._net._bench.active
        if active is None:
            raise UsageError("the chips are off the bench: use them inside their with block")
        return active

    def age(self, time_s: float) -> None:
        """Move the same programmed chips to another age; white noise starts anew."""
        self._active.time_s = _time(time_s)
        for crossbar in self._crossbars:
            crossbar.reset(keep_states=True)

    def __call__(self, inputs: Tensor) -> Any:
        """Outputs of every chip for the shared batch ``inputs`` (batch, …).

        Raises:
            UsageError: the network returns something other than the above, or holds NaN weights.
        """
        if not self._rides(inputs):
            return self._one_by_one(inputs)
        step = self._samples_per_piece(inputs)
        if len(inputs) <= step:
            return self._together(inputs)
        # Pieces whose activations stay in cache, and in memory that the allocator can use again.
        outputs = [self._together(inputs[start : start + step]) for start in range(0, len(inputs), step)]
        return _joined(lambda ys: torch.cat(ys, dim=1), outputs)

    def _samples_per_piece(self, inputs: Tensor) -> int:
        if torch.is_grad_enabled():
            return max(1, len(inputs))  # the graph keeps every activation: nothing would be gained
        # Not a function of how many chips are on: a chip's products must keep their shapes, and with them
        # their rounding, whatever chips run beside it.
        return max(1, _PIECE_BYTES // self._net._activation_bytes(inputs))

    def _together(self, inputs: Tensor) -> Any:
        count = len(self._active.numbers)
        repeated = inputs if count == 1 else inputs.repeat(count, *([1] * (inputs.dim() - 1)))
        return _joined(lambda ys: ys[0].unflatten(0, (count, ys[0].shape[0] // count)), [self._net(repeated)])

    def _one_by_one(self, inputs: Tensor) -> Any:
        part = self._active.part
        before = self._vectors_read()
        outputs = []
        for k in range(part.start, part.stop):
            self._set_vectors_read(before)  # every chip reads the same vectors
            with self._net._bench.use(slice(k, k + 1), self._active.linear):
                outputs.append(self._net(inputs))
        return _joined(torch.stack, outputs)

    def _vectors_read(self) -> list[list[int]]:
        return [list(crossbar.vectors_read) for crossbar in self._crossbars]

    def _set_vectors_read(self, counts: list[list[int]]) -> None:
        for crossbar, count in zip(self._crossbars, counts, strict=True):
            crossbar.vectors_read = list(count)

    def _rides(self, inputs: Tensor) -> bool:
        """Whether chips and samples may share and split axis 0."""
        if self._net.training:
            return False  # batch statistics and dropout would couple chips and samples
        rides = self._net._bench.rides
        chips, samples = min(2, len(self._active.numbers)), min(2, len(inputs))
        signature = (chips, samples, tuple(inputs.shape[1:]), inputs.dtype, inputs.device)
        if chips * samples < 2:
            return False  # one sample on one chip: nothing to split
        if signature not in rides:
            warned = not all(rides.values())
            rides[signature] = self._probe(inputs[:2], chips)
            if not rides[signature] and not warned:
                warnings.warn(
                    "this network does not treat axis 0 as an ordinary batch: chips run one at a time",
                    stacklevel=3,
                )
        return rides[signature]

    def _probe(self, inputs: Tensor, chips: int) -> bool:
        """Do two chips and samples together give what they give apart, without noise and converters?"""
        before = self._vectors_read()
        start = self._active.part.start
        try:
            with torch.no_grad(), self._net._bench.use(slice(start, start + chips), linear=True):
                together = self._together(inputs)
                apart = [self._one_by_one(sample) for sample in inputs.split(1)]
                return _equal(together, _joined(lambda ys: torch.cat(ys, dim=1), apart))
        except UsageError:
            raise
        except (ContractError, RuntimeError, ValueError, IndexError):
            return False
        finally:
            self._set_vectors_read(before)


def _equal(a: Any, b: Any) -> bool:
    left, left_spec = pytree.tree_flatten(a)
    right, right_spec = pytree.tree_flatten(b)
    if left_spec != right_spec:
        return False
    return all(
        x.shape == y.shape and _close(x, y) if isinstance(x, Tensor) else x == y
        for x, y in zip(left, right, strict=True)
    )


def _close(x: Tensor, y: Tensor) -> bool:
    if not (x.is_floating_point() or x.is_complex()):
        return torch.equal(x, y)
    return torch.allclose(x, y, rtol=1e-3, atol=1e-4, equal_nan=True)


def _joined(join: Callable[[list[Tensor]], Tensor], outputs: list[Any]) -> Any:
    """Outputs of several passes as one: tensors joined, what else a network may return from the first."""

    def leaf(*ys: Any) -> Any:
        if isinstance(ys[0], Tensor):
            return join(list(ys))
        if ys[0] is None or isinstance(ys[0], (bool, int, float, str)):
            return ys[0]
        raise UsageError(
            "expected a network that returns tensors, alone or in tuples, lists or dictionaries; "
            f"got {type(ys[0]).__name__}"
        )

    return pytree.tree_map(leaf, *outputs)
