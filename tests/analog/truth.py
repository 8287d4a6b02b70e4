"""How outputs of chips are compared with plain torch, whatever the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from neurosim.analog import Deployed, Lot
from neurosim.analog.inputs import tensors_in
from neurosim.devices import to_conductances, to_weights
from neurosim.random import Draws

from .zoo import Call


def read(net: Deployed, call: Call, chips: int = 2) -> list[Tensor]:
    """Outputs of the chips without gradients: the fused path."""
    with torch.no_grad(), net.on(Lot(net.hardware)[0:chips]) as on_chips:
        return tensors_in(call.of(on_chips))


def check_equal(
    found: list[Tensor], wanted: list[Tensor], relative: float = 1e-5, floor: float = 1.0
) -> None:
    """The same tensors: numbers within ``relative`` of the largest, or of ``floor``."""
    assert len(found) == len(wanted) > 0
    for a, b in zip(found, wanted, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if b.is_floating_point():
            assert bool(torch.isfinite(b).all())
            off, largest = float((a - b).detach().abs().max()), float(b.detach().abs().max())
            assert off <= relative * max(floor, largest)
        else:
            assert torch.equal(a, b)


def of_chip(outputs: list[Tensor], chip: int) -> list[Tensor]:
    """Outputs of one chip."""
    return [y[chip].detach() for y in outputs]


def weighted(outputs: list[Tensor], of_chips: bool = False) -> Tensor:
    """One number that depends on every output, each with a weight of its own, the same for every chip."""
    total = torch.zeros((), dtype=torch.float64)
    for y in outputs:
        if y.is_floating_point() and y.requires_grad:
            one = y[0] if of_chips else y
            total = total + (y * torch.linspace(-1, 1, one.numel()).to(y).reshape(one.shape)).sum()
    return total


def hold(plain: nn.Module, net: Deployed, chip: int) -> None:
    """Give a network the weights that one chip of lot 0 holds, each parameter programmed once."""
    fix(plain)
    names = {crossbar.cells.name: crossbar.operator for crossbar in net._all_crossbars()}
    device = net.hardware.device
    for name, operator in names.items():
        weight = plain.get_parameter(name.removeprefix("root."))
        order = operator.cells(torch.arange(weight.numel()).reshape(weight.shape))
        mapped = to_conductances(weight.flatten()[order], device, "per-layer")
        legs = [
            device.program(target, Draws(0, (chip,), f"{name}{sign}"))["g_siemens"][0]
            for target, sign in ((mapped.g_plus, "+"), (mapped.g_minus, "-"))
        ]
        weight.view(-1)[order] = to_weights(legs[0], legs[1], mapped.scale, device)


def fix(plain: nn.Module) -> None:
    """Weights that are computed from others become parameters themselves."""
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            # not by torch's function, which changes the class, that a deep copy shares with its original
            values = {key: getattr(module, key).detach().clone() for key in module.parametrizations}  # type: ignore[union-attr]
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for key, value in values.items():
                setattr(module, key, nn.Parameter(value))
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
