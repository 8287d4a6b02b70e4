"""Reading layers whose devices follow a current-voltage law: `wires.model = "nonlinear"`."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from torch import Tensor

import neurosim as ns
from neurosim.analog import deploy
from neurosim.devices import Hardware
from neurosim.errors import UsageError

from .networks import LAYERS, filled, lot, read, samples, some

OHM = {
    "wires.r_row_ohm": 30.0,
    "wires.r_col_ohm": 20.0,
    "wires.r_source_ohm": 100.0,
    "wires.r_sink_ohm": 50.0,
}
CHIP = ns.hardware("gaussian-mismatch", array__rows=16, array__cols=12, array__bias="digital").with_all(
    {**OHM, "device.relative_std": 0.1, "device.g_max_siemens": 1e-4}
)
SOME = ["linear", "linear, N-D input", "conv, stride, padding, dilation", "conv, groups", "conv, depthwise"]


def close(a: Tensor, b: Tensor, relative: float) -> bool:
    return bool((a - b).abs().max() <= relative * b.abs().max())


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("legs", ["separate", "interleaved"])
@pytest.mark.parametrize("topology", ["opposite", "both-ends"])
def test_a_linear_law_reads_as_the_exact_model(name: str, legs: str, topology: str) -> None:
    row = LAYERS[name]
    net, x = filled(row.layer()), samples(row, 2)
    exact = CHIP.with_all({"wires.legs": legs, "wires.topology": topology})
    newton = exact.with_("wires.model", "nonlinear")
    expected = read(deploy(net, exact), lot(deploy(net, exact))[[3]], x)
    wired = deploy(net, newton, calibration=x)
    assert close(read(wired, lot(wired)[[3]], x), expected, 1e-5)


@pytest.mark.parametrize("name", ["linear", "conv, groups"])
def test_ideal_wires_leave_the_law_alone(name: str) -> None:
    """y = Σ (i(v; g+) − i(v; g−)) ÷ i(v_read; g_max), with sinh in closed form."""
    row, v0, read_volt = LAYERS[name], 0.15, 0.3
    hardware = ns.hardware("ideal", array__rows=7, array__cols=5).with_all(
        {"wires.model": "nonlinear", "wires.law": f"sinh(v0_volt={v0})", "wires.v_read_volt": read_volt}
    )
    layer, x = filled(row.layer()), samples(row, 2)
    net = deploy(layer, hardware, calibration=x)
    full = float(net.calibration_state()["root.dac"])
    volts = torch.sinh(read_volt * net._crossbars["weight"].operator.vectors(x).double() / full / v0)
    weight = layer.weight.detach().double().reshape(layer.weight.shape[0], -1)
    groups = volts.shape[1]
    by_group = weight.reshape(groups, -1, weight.shape[1])
    y = (
        torch.einsum("vgr,gor->vgo", volts, by_group).flatten(1)
        * full
        / torch.sinh(torch.tensor(read_volt / v0, dtype=torch.float64))
    )
    expected = net._crossbars["weight"].operator.restore(y.float() + layer.bias.detach(), x, layer.weight)
    found = read(net, lot(net)[[0]], x)[0]
    assert close(found, expected, 1e-5)
    assert not close(found, layer(x).detach(), 1e-2)


def test_one_transistor_holds_the_current_back() -> None:
    """A saturating cell carries less than its low-field conductance promises, most at full input."""
    layer = nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    law = "1T1R(beta_ampere_per_volt2=1e-3, overdrive_volt=0.1)"
    hardware = ns.hardware("ideal", device__g_max_siemens=1e-4).with_all(
        {"wires.model": "nonlinear", "wires.law": law, "wires.v_read_volt": 0.5}
    )
    x = torch.tensor([[1.0] * 8, [0.1] * 8])
    net = deploy(layer, hardware, calibration=x)
    full, tenth = read(net, lot(net)[[0]], x)[0][:, 0].tolist()
    assert full == pytest.approx(8.0, rel=1e-5)  # products are in units of a fully-on device at full input
    assert tenth > 1.5 * 0.8


def test_chips_and_pieces_do_not_matter() -> None:
    net = deploy(filled(nn.Linear(20, 9)), CHIP.with_all({"wires.model": "nonlinear", "wires.law": "sinh"}))
    x = some(6, 20)
    net.calibrate(x)
    together = read(net, lot(net)[[5, 2]], x)
    assert torch.equal(read(net, lot(net)[[2]], x)[0], together[1])
    assert close(read(net, lot(net)[[2]], x[3:4])[0], together[1, 3:4], 1e-5)


def test_converters_and_column_gains_act() -> None:
    hardware = CHIP.with_all(
        {"wires.model": "nonlinear", "dac.bits": 6, "adc.bits": 6, "wires.compensation": "columns"}
    )
    net, x = deploy(filled(nn.Linear(20, 9)), hardware), some(4, 20)
    net.calibrate(x)
    plain = CHIP.with_all({"dac.bits": 6, "adc.bits": 6, "wires.compensation": "columns"})
    linear = deploy(filled(nn.Linear(20, 9)), plain)
    linear.load_calibration_state(net.calibration_state())
    assert close(read(net, lot(net)[[1]], x), read(linear, lot(linear)[[1]], x), 1e-4)


def test_there_is_no_gradient() -> None:
    net = deploy(nn.Linear(5, 3), CHIP.with_("wires.model", "nonlinear"), calibration=some(4, 5))
    with net.on(lot(net)[0:1]) as chips, pytest.raises(UsageError, match="'nonlinear' has no gradient"):
        chips(some(2, 5))


def test_it_needs_ranges_and_says_its_law() -> None:
    hardware = CHIP.with_all({"wires.model": "nonlinear", "wires.law": "sinh(v0_volt=0.2)"})
    net = deploy(nn.Linear(5, 3), hardware)
    with pytest.raises(UsageError, match="is not calibrated"), net.on(lot(net)[0:1]):
        pass
    assert "law sinh(v0_volt=0.2) at up to 0.2 V" in str(net.explain())


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("law", "sine", "unknown law 'sine'"),
        ("law", "sinh(v=1)", "unknown constant of law 'sinh' 'v'"),
        ("law", "sinh(v0_volt=a)", "expected a number for v0_volt of law 'sinh'; got 'a'"),
        ("law", "sinh(v0_volt=-1)", "got v0_volt=-1"),
        ("law", "sinh(", "expected a law such as"),
        ("v_read_volt", 0.0, "wires.v_read_volt"),
    ],
)
def test_wrong_laws_are_named(field: str, value: object, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        CHIP.with_(f"wires.{field}", value)
    assert sentence in str(caught.value)


def test_rows_of_a_law_cannot_be_scaled() -> None:
    with pytest.raises(UsageError, match="expected compensation='none' or 'columns' with model='nonlinear'"):
        CHIP.with_all({"wires.model": "nonlinear", "wires.compensation": "rows-and-columns"})


def test_a_file_brings_its_law_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    hardware = CHIP.with_all({"wires.model": "nonlinear", "wires.law": "selector(v0_volt=0.05)"})
    (tmp_path / "chip.toml").write_text(hardware.to_toml())
    found: Hardware = ns.hardware(tmp_path / "chip.toml")
    assert found == hardware
