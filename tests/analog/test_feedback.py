"""Recurrent spiking layers on chips: all steps at once where the read is a matrix, else a step at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn

import neurosim as ns
from neurosim.devices.mappings import MAPPINGS
from neurosim.errors import UsageError
from neurosim.feedback import OffDiagonal, feedback_of
from neurosim.models.spiking import AdEx, Alif, CubaLif, Lif, Neuron, Recurrent

SIZE, CHIPS = 40, 3
# what a recurrent layer may meet, and whether its read is a matrix
HARDWARE: dict[str, tuple[ns.Hardware, bool]] = {
    "mismatch": (ns.hardware("gaussian-mismatch"), True),
    "neurons and weights": (ns.hardware("dynapse-se2"), True),
    "dac": (ns.hardware("gaussian-mismatch").with_("dac.bits", 3), True),
    "drift": (ns.hardware("pcm-joshi-2020").with_("adc.bits", None), True),
    "offsets of amplifiers": (
        ns.hardware("gaussian-mismatch").with_("periphery.column_offset_std", 0.1),
        True,
    ),
    "wires": (ns.hardware("gaussian-mismatch").with_("wires.r_row_ohm", 50.0), True),
    "adc": (ns.hardware("pcm-joshi-2020"), False),
    "adc, neurons differ": (ns.hardware("dynapse-se2").with_("adc.bits", 7), False),
    "noise": (ns.hardware("gaussian-mismatch").with_("array.output_noise_std", 0.01), False),
    **{
        name: (ns.hardware("gaussian-mismatch", array={"mapping": name, "rows": 16}), True)
        for name in MAPPINGS
    },
    **{
        f"{name}, adc": (
            ns.hardware("gaussian-mismatch", array={"mapping": name, "rows": 16}, adc={"bits": 9}),
            False,
        )
        for name in MAPPINGS
    },
}
each_hardware = pytest.mark.parametrize("name", HARDWARE)


def network(neuron: Neuron | None = None, delayed: bool = False) -> nn.Module:
    torch.manual_seed(0)
    delay = torch.randint(1, 6, (SIZE,)) * 1e-3 if delayed else None
    layer = Recurrent(5, SIZE, neuron or Alif(v_threshold=0.3), delay_s=delay)
    with torch.no_grad():
        layer.input.weight.mul_(6)
        layer.recurrent.weight.mul_(3)
    return nn.Sequential(layer)


def deployed(hardware: ns.Hardware, neuron: Neuron | None = None, delayed: bool = False) -> ns.Deployed:
    return ns.deploy(network(neuron, delayed), hardware, calibration=inputs())


def inputs() -> Tensor:
    return torch.rand(4, 50, 5, generator=torch.Generator().manual_seed(1))


@contextmanager
def a_step_at_a_time(net: nn.Module) -> Iterator[None]:
    """Whoever listens to the layer has it called once a step."""
    hook = net[0].recurrent.register_forward_hook(lambda *_: None)  # type: ignore[index]
    try:
        yield
    finally:
        hook.remove()


def on_chips(net: ns.Deployed, count: int = CHIPS, first: int = 0) -> Tensor:
    with torch.no_grad(), net.on(ns.Lot(net.hardware)[first : first + count], 3600.0) as chips:
        found: Tensor = chips(inputs())
    return found


@each_hardware
@pytest.mark.parametrize("delayed", [False, True], ids=["at once", "delayed"])
def test_all_steps_at_once_are_the_steps_one_by_one(name: str, delayed: bool) -> None:
    hardware, is_matrix = HARDWARE[name]
    net = deployed(hardware, delayed=delayed)
    found = on_chips(net)
    assert 0.02 < float(found.mean()) < 0.5
    assert not torch.equal(found[0], found[1])
    with a_step_at_a_time(net):
        assert torch.equal(on_chips(net), found)
    assert torch.equal(on_chips(net, 1, first=2)[0], found[2]), "a chip is the same alone"
    with torch.no_grad(), net.on(ns.Lot(hardware)[0:2]):
        feedback = net[0].feedback
    assert (feedback.matrix is not None) == is_matrix


@pytest.mark.parametrize("neuron", [Lif(v_threshold=0.4), CubaLif(v_threshold=0.3), AdEx()], ids=type)
@pytest.mark.parametrize("name", ["neurons and weights", "adc, neurons differ"])
def test_every_neuron_rides(name: str, neuron: Neuron, recwarn: pytest.WarningsRecorder) -> None:
    net = deployed(HARDWARE[name][0], neuron)
    found = on_chips(net)
    assert not [one for one in recwarn if "one at a time" in str(one.message)]
    for chip in range(CHIPS):
        assert torch.equal(on_chips(net, 1, first=chip)[0], found[chip])


def test_delays_differ_from_chip_to_chip() -> None:
    spread = {"*delay_s": {"relative_std": 0.5}}
    net = deployed(ns.hardware("gaussian-mismatch", parameters=spread), delayed=True)
    found = on_chips(net)
    for chip in range(CHIPS):
        assert torch.equal(on_chips(net, 1, first=chip)[0], found[chip])
    with a_step_at_a_time(net):
        assert torch.equal(on_chips(net), found)


@each_hardware
def test_neurons_do_not_drive_themselves(name: str) -> None:
    """Whatever the diagonal of the weight holds, and whatever mismatch and offsets would make of it."""
    net = deployed(HARDWARE[name][0].with_("array.output_noise_std", 0.0))
    layer = net[0].recurrent
    before = on_chips(net)
    with torch.no_grad():
        layer.weight.fill_diagonal_(9.0)
    assert torch.equal(on_chips(net), before)
    net.calibrate(inputs())
    assert torch.equal(on_chips(net), before)
    with torch.no_grad(), net.on(ns.Lot(net.hardware)[0:CHIPS], 3600.0):
        silent = layer(torch.zeros(CHIPS, 1, SIZE))
        own = (layer(torch.eye(SIZE).repeat(CHIPS, 1, 1)) - silent).diagonal(dim1=1, dim2=2)
        matrix = feedback_of(layer).matrix
    assert matrix is None or not matrix.diagonal(dim1=1, dim2=2).any()
    # an ADC's offsets are taken off in codes
    assert float(own.abs().max()) <= (1e-5 if net.hardware.adc.bits is None else 0.05)


def test_gradients_reach_what_crossbars_hold() -> None:
    x, grads = inputs(), []
    net = deployed(HARDWARE["neurons and weights"][0])
    for listen in (False, True):
        net.zero_grad()
        listening = a_step_at_a_time(net) if listen else nullcontext()
        with net.on(ns.Lot(net.hardware)[0:2]) as chips, listening:
            chips(x).sum().backward()
        layer = net[0]
        grads.append([layer.input.weight.grad.clone(), layer.recurrent.weight.grad.clone()])
    for fast, slow in zip(*grads, strict=True):
        assert fast.any()
        torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-3 * float(slow.abs().max()))
    assert not grads[0][1].diagonal().any()


def test_a_layer_that_is_not_square_is_no_feedback() -> None:
    with pytest.raises(UsageError, match="from as many neurons as to; got 3 and 2"):
        feedback_of(nn.Linear(3, 2))


def test_a_bias_counts_at_every_step_but_the_first() -> None:
    torch.manual_seed(3)
    layer = Recurrent(2, 4, Lif(v_threshold=0.2))
    layer.recurrent = OffDiagonal(4, bias=True)
    x = torch.rand(3, 30, 2)
    with torch.no_grad():
        found = layer(x)
        with a_step_at_a_time(nn.Sequential(layer)):
            assert torch.equal(layer(x), found)
        layer.recurrent.bias.zero_()
        assert not torch.equal(layer(x), found)
