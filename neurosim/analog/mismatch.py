"""What the parameters of a deployed network have become on chips, beside what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from neurosim.analog.bench import Active
from neurosim.analog.cells import Cells
from neurosim.analog.crossbar import Crossbar
from neurosim.analog.deployed import Deployed
from neurosim.analog.layers import OnCrossbars
from neurosim.analog.lot import Chips
from neurosim.analog.sampled import SampledModule
from neurosim.devices.spread import Spread
from neurosim.feedback import off_diagonal


@dataclass(frozen=True, eq=False)
class Varied:
    """One parameter on some chips.

    Attributes:
        name: full dotted name of the parameter.
        nominal: what was asked for, (\\*shape), in units of the parameter; of weights (outputs, rest).
        values: what the chips have, (chips, \\*shape).
        stated: how it differs from chip to chip, and where that comes from, as ``explain`` says it.
        spread: the same in numbers; None of what devices hold.
        moments: of those the mean and standard deviation of each number over chips, as the device's law has
            them right after programming; None where it has none, and where more than the device acts.
    """

    name: str
    nominal: Tensor
    values: Tensor
    stated: str
    spread: Spread | None
    moments: tuple[Tensor, Tensor] | None = None

    @property
    def held(self) -> bool:
        """Whether devices of a crossbar hold it."""
        return self.spread is None


def varied(net: Deployed, chips: Chips, time_s: float = 0.0) -> tuple[Varied, ...]:
    """Every parameter that differs from chip to chip: of neurons, weights and biases on devices.

    Weights are those of the devices, before wires, converters and compensation.  The chips have them in
    :meth:`Deployed.on` too, to the bit.

    Args:
        net: a deployed network.
        chips: of a lot of its hardware.
        time_s: their age.

    Raises:
        UsageError: as :meth:`Deployed.on`.

    >>> import neurosim as ns
    >>> from torch import nn
    >>> hw = ns.hardware("gaussian-mismatch").with_("device.relative_std", 0.1)
    >>> net = ns.deploy(nn.Sequential(nn.Linear(3, 2, bias=False)), hw)
    >>> [(one.name, tuple(one.values.shape)) for one in varied(net, ns.Lot(hw)[0:5])]
    [('0.weight', (5, 2, 3))]
    """
    with torch.no_grad(), net.on(chips, time_s):
        active = net._bench.active
        assert active is not None  # inside ``on``
        found: dict[str, Varied] = {}
        for module in net.modules():
            if isinstance(module, SampledModule):
                found |= {one.name: one for one in _sampled(module, active)}
            if isinstance(module, OnCrossbars):
                for key, crossbar in module._crossbars.items():
                    weight, bias = module._weight_of(key).detach(), module._bias_of(key)
                    of_layer = _held(crossbar, weight, None if bias is None else bias.detach(), active)
                    found |= {one.name: one for one in of_layer if one.name not in found}
        return tuple(found.values())


def _sampled(module: SampledModule, active: Active) -> Iterator[Varied]:
    values = module._sampling.parameters(module, active)
    for own, (full, spread) in module._sampling.spreads.items():
        yield Varied(full, getattr(module, own).detach(), values[own], spread.in_words(), spread)


def _held(crossbar: Crossbar, weight: Tensor, bias: Tensor | None, active: Active) -> Iterator[Varied]:
    """Weights and biases of a layer; columns of references hold nothing that was asked for."""
    device = crossbar.hardware.device
    stated = "; ".join(f"{one.name}: {one.size}" for one in device.effects() if one.acts) or "no effects"
    for cells, wanted in crossbar.all_cells(weight, bias):
        if cells is not crossbar.references:
            values = cells.value(cells.hold(wanted.detach(), active, keep=False))
            if cells is crossbar.cells and not crossbar.diagonal:
                values = off_diagonal(values)
            yield Varied(cells.name, wanted.detach(), values, stated, None, _moments(cells, wanted.detach()))
    if bias is not None and crossbar.bias_spread is not None and crossbar.hardware.array.bias == "digital":
        sampled = crossbar._bias(bias, active, keep=False)
        assert sampled is not None  # there is a bias
        yield Varied(crossbar.bias.name, bias, sampled, crossbar.bias_spread.in_words(), crossbar.bias_spread)


def _moments(cells: Cells, wanted: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation of each weight: both legs of a pair differ on their own."""
    hw = cells.hardware
    if not cells.mapping.plain or hw.writing.act or hw.faults.act or hw.endurance.act or hw.read_noise.act:
        return None
    (legs,) = cells.targets(wanted)
    both = [hw.device.moments(leg) for leg in legs]
    known = [one for one in both if one is not None]
    if len(known) < len(both):
        return None
    (plus, plus_std), (minus, minus_std) = known
    unit = cells.scale(wanted) / (hw.device.g_max_siemens - hw.device.g_min_siemens)
    return (plus - minus) * unit, torch.hypot(plus_std, minus_std) * unit
