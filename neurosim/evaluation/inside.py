"""Inside a spiking network on one sample: spikes, potentials, rates and scores, on chips and off."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from neurosim.analog import Chips, Deployed
from neurosim.analog.mismatch import Varied, varied
from neurosim.errors import UsageError
from neurosim.models.spiking import Neurons, Record

Array = npt.NDArray[np.float64]

_HOLDS_SOMETHING = 0.05
"""Weights below this part of the largest have no relative deviation worth a number."""


@dataclass(frozen=True, eq=False)
class Activity:
    """What one layer of neurons did on one sample.

    Attributes:
        name: of the layer, dotted.
        kind: of its neurons, such as ``"Alif"``.
        dt_s: length of a step.
        record: each (steps, N).
    """

    name: str
    kind: str
    dt_s: float
    record: Record

    @property
    def neurons(self) -> int:
        """N."""
        return self.record.spikes.shape[1]

    @property
    def spikes(self) -> int:
        """Of all neurons at all steps."""
        return int(self.record.spikes.sum())

    @property
    def rates_hz(self) -> Tensor:
        """Spikes a second of each neuron, (N,)."""
        return self.record.spikes.double().mean(0) / self.dt_s

    @property
    def silent(self) -> float:
        """Fraction of the neurons that never spike, in [0, 1]."""
        return float((self.record.spikes.sum(0) == 0).double().mean())

    def most_active(self, count: int) -> list[int]:
        """The neurons with most spikes, most first; of equal ones the first."""
        order = self.record.spikes.sum(0).argsort(descending=True, stable=True)
        return [int(one) for one in order[:count]]


@dataclass(frozen=True, eq=False)
class Look:
    """A network on one sample.

    Attributes:
        layers: its layers of neurons, in the order in which they computed.
        scores: its outputs, (classes,).
    """

    layers: tuple[Activity, ...]
    scores: Tensor

    @property
    def predicted(self) -> int:
        """The class of the largest score."""
        return int(self.scores.argmax())

    def layer(self, name: str | None = None) -> Activity:
        """The layer of that name; the first where None.

        Raises:
            UsageError: there is no such layer.
        """
        names = [layer.name for layer in self.layers]
        if name is not None and name not in names:
            raise UsageError(f"expected a layer of neurons, {' or '.join(names)}; got {name!r}")
        return self.layers[0 if name is None else names.index(name)]


@dataclass(frozen=True, eq=False)
class OnChips:
    """A network on one sample and some chips.

    Attributes:
        numbers: of the chips in their lot.
        looks: one a chip.
        parameters: everything that differs from chip to chip.
    """

    numbers: tuple[int, ...]
    looks: tuple[Look, ...]
    parameters: tuple[Varied, ...]


def spiking_layers(net: nn.Module) -> dict[str, Neurons]:
    """Layers of spiking neurons by name.

    Raises:
        UsageError: there is none.

    >>> from neurosim.models.spiking import Lif, Recurrent
    >>> list(spiking_layers(nn.Sequential(Recurrent(2, 4, Lif()))))
    ['0.neurons']
    """
    found = {name: module for name, module in net.named_modules() if isinstance(module, Neurons)}
    if not found:
        leaves = [type(module).__name__ for module in net.modules() if not any(module.children())]
        kinds = ", ".join(dict.fromkeys(leaves)) or type(net).__name__
        raise UsageError(
            f"expected a network with spiking neurons (such as lsnn-ecg, or with Neurons of "
            f"neurosim.models.spiking); got one of {kinds}"
        )
    return found


def look(net: nn.Module, x: Tensor) -> Look:
    """Run a network on one sample and keep what its neurons do.

    Args:
        net: with layers of :class:`neurosim.models.spiking.Neurons`; in evaluation mode.
        x: one sample, (1, …).

    Raises:
        UsageError: no spiking neurons, neurons without a record, more than a sample, or outputs other than
            (1, classes).

    >>> from neurosim import models
    >>> net = models.create("lsnn-ecg", num_classes=4, in_chans=2, image_size=100)
    >>> found = look(net, torch.randn(1, 100, 2))
    >>> found.layer().neurons, found.layer().record.potentials.shape, found.scores.shape
    (256, torch.Size([100, 256]), torch.Size([4]))
    """
    _check_one(x)
    with torch.no_grad(), _recorded(net, {}) as layers:
        outputs = net(x)
    return Look(tuple(layers), _scores(outputs))


def look_on(
    net: Deployed,
    x: Tensor,
    chips: Chips,
    *,
    time_s: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> OnChips:
    """The same on each of some chips, and what mismatch made of every parameter on them.

    Chips run one at a time; the scores of each come from the very spikes that are kept.

    Args:
        net: a deployed network.
        x: one sample, (1, …).
        chips: of a lot of its hardware.
        time_s: their age.
        progress: called with chips done and chips in all.

    Raises:
        UsageError: as :func:`look`; or as :meth:`Deployed.on`.
    """
    _check_one(x)
    parameters, looks = varied(net, chips, time_s), []
    for place, number in enumerate(chips.numbers):
        own = {one.name: one.values[place] for one in parameters if not one.held}
        with torch.no_grad(), net.on(chips.lot[number], time_s) as on_chip, _recorded(net, own) as layers:
            outputs = on_chip(x)
        looks.append(Look(tuple(layers), _scores(outputs[0] if isinstance(outputs, Tensor) else outputs)))
        if progress is not None:
            progress(place + 1, len(chips))
    return OnChips(chips.numbers, tuple(looks), parameters)


def _check_one(x: Tensor) -> None:
    if not x.dim() or len(x) != 1:
        raise UsageError(f"expected one sample (1, ...); got {tuple(x.shape)}")


def _scores(outputs: object) -> Tensor:
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UsageError(f"expected a network with one score for each class, (1, classes); got {shape}")
    return outputs[0].detach()


class _Record(nn.Module):
    """The record of a layer as a forward: what ``functional_call`` gives other parameters."""

    def __init__(self, layer: Neurons) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Record:
        return self.layer.record(*args, **kwargs)


@contextlib.contextmanager
def _recorded(net: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[list[Activity]]:
    """While inside, every layer of neurons leaves its activity in a list, and computes with what it left.

    Args:
        net: whatever runs it is inside too.
        parameters: by full name, those that differ from the layers' own: a chip's.
    """
    found: list[Activity] = []

    def note(name: str, layer: Neurons) -> Callable[..., Tensor]:
        keys = {f"layer.{own}": f"{name}.{own}" for own, _ in layer.named_parameters(recurse=False)}
        own = {key: parameters[full] for key, full in keys.items() if full in parameters}

        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> Tensor:
            record = torch.func.functional_call(_Record(layer), own, args, kwargs, tie_weights=False)
            uses = sum(one.name.partition(" ")[0] == name for one in found)
            label = name if not uses else f"{name} ({uses + 1})"
            kind = type(layer.description).__name__
            found.append(Activity(label, kind, layer.description.dt_s, _first(record)))
            return record.spikes.to(output.dtype)

        return hook

    layers = spiking_layers(net)
    hooks = [
        layer.register_forward_hook(note(name, layer), with_kwargs=True) for name, layer in layers.items()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _first(record: Record) -> Record:
    return Record(
        record.spikes[0], record.potentials[0], record.inputs[0], record.currents[0], record.thresholds[0]
    )


# ---------------------------------------------------------------- numbers


def changed(before: Activity, after: Activity) -> tuple[int, int]:
    """Spikes that are missing after, and spikes that are new, at the same neuron and step."""
    old, new = before.record.spikes > 0, after.record.spikes > 0
    return int((old & ~new).sum()), int((new & ~old).sum())


def deviations(parameter: Varied) -> Array:
    """By how much values differ from what was asked for, of all elements and chips, flat.

    Relative to the value of each element; of weights on devices relative to the largest weight, as most are
    small; in units of the parameter where all of it is 0.
    """
    nominal = parameter.nominal.double().expand(parameter.values.shape)
    off = parameter.values.double() - nominal
    if parameter.held:
        return _flat(off / max(float(nominal.abs().max()), 1e-300))
    there = nominal != 0
    return _flat(off[there] / nominal[there].abs() if bool(there.any()) else off)


def measured_cv(parameter: Varied) -> float:
    """Standard deviation over mean of the values on the chips; NaN where there is none.

    Over neurons or weights and chips, each value divided by what was asked for; a weight by what its device
    holds on average, for rounding is no mismatch, and only weights above 5 % of the largest count.  Where no
    law gives that average, it is that of the chips, and the CVs of the weights make a root of a mean square.
    """
    values = parameter.values.double()
    if parameter.held and parameter.moments is None:
        return _rms_cv(values.mean(0), values.std(0)) if len(values) > 1 else math.nan
    reference = (parameter.nominal if parameter.moments is None else parameter.moments[0]).double()
    some = _holding(reference) if parameter.held else reference != 0
    ratios = values[:, some] / reference[some]
    return float(ratios.std() / ratios.mean()) if ratios.numel() > 1 else math.nan


def stated_cv(parameter: Varied) -> float:
    """The same as the description of the hardware has it; NaN where it says no number, and of zeros."""
    if parameter.moments is not None:
        mean, std = parameter.moments
        return _rms_cv(mean.double(), std.double())
    there = parameter.nominal[parameter.nominal != 0].double()
    if parameter.spread is None or not there.numel():
        return math.nan
    # of a normal or uniform parameter the absolute part is another part of each value
    absolute = parameter.spread.absolute_std * float(there.pow(-2).mean().sqrt())
    return math.hypot(parameter.spread.cv(tuple(parameter.nominal.shape)), absolute)


def _rms_cv(mean: Tensor, std: Tensor) -> float:
    some = _holding(mean)
    return float((std[some] / mean[some]).square().mean().sqrt()) if bool(some.any()) else math.nan


def _holding(weights: Tensor) -> Tensor:
    return weights.abs() > _HOLDS_SOMETHING * float(weights.abs().max())


def _flat(x: Tensor) -> Array:
    found: Array = x.flatten().cpu().numpy()
    return found
