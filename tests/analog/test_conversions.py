"""Converters and periphery around crossbars: restated from the definitions, tile by tile."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import Deployed, deploy
from neurosim.devices import quantise
from neurosim.devices.adc import ADCS, columns_of, convert
from neurosim.errors import UsageError
from neurosim.random import Draws

from .networks import HOUR, filled, lot, read, small, some

CHIP = 5


def linear(rows: int = 17, cols: int = 11, bias: bool = True) -> nn.Linear:
    return filled(nn.Linear(rows, cols, bias=bias))  # type: ignore[return-value]


def fraction(layer: nn.Linear) -> tuple[Tensor, float]:
    weight = layer.weight.detach()
    return weight / weight.abs().max(), float(weight.abs().max())


def on_chip(layer: nn.Linear, x: Tensor, **changes: Any) -> tuple[Deployed, Tensor]:
    net = deploy(layer, ns.hardware("ideal", **changes), calibration=x)
    return net, read(net, lot(net)[[CHIP]], x, 0.0)[0]


def draws() -> Draws:
    return Draws(0, (CHIP,), "root.weight")


# ---- what word lines carry ----


@pytest.mark.parametrize("kind", ["voltage", "pulse-width", "bit-serial"])
def test_without_errors_every_dac_gives_the_product_of_the_quantised_input(kind: str) -> None:
    layer, x = linear(), some(9, 17)
    net, out = on_chip(layer, x, dac__kind=kind, dac__bits=6)
    full = net._all_crossbars()[0].calibrated().dac
    torch.testing.assert_close(out, layer(quantise(x, full, 6)).detach(), rtol=1e-5, atol=1e-5)


def test_bits_are_converted_one_by_one() -> None:
    layer, x = linear(bias=False), some(9, 17)
    net, out = on_chip(layer, x, dac__kind="bit-serial", dac__bits=5, adc__bits=6, **small(7, 16))
    crossbar, (w, scale) = net._all_crossbars()[0], fraction(layer)
    ranges, full = crossbar.calibrated().adc, crossbar.calibrated().dac
    codes = (x / full * 15).round().clamp(-15, 15)
    total = torch.zeros(9, 11)
    largest = torch.zeros(3)
    for part, rows in enumerate(crossbar.layout.row_slices):
        for b in range(4):
            bits = torch.sign(codes) * (codes.abs().int() // 2**b % 2)
            y = full * bits[:, rows] @ w[:, rows].T
            largest[part] = torch.maximum(largest[part], y.abs().max())
            total += 2**b / 15 * quantise(y, float(ranges[part, 0]), 6)
    torch.testing.assert_close(ranges[:, 0], largest, rtol=1e-5, atol=0)  # the ranges are those of bits
    torch.testing.assert_close(out, total * scale, rtol=1e-4, atol=1e-4)


def test_gradients_through_bits_are_straight_through() -> None:
    layer, x = linear(), some(9, 17).requires_grad_()
    net = deploy(
        layer, ns.hardware("ideal", dac__kind="bit-serial", dac__bits=5, adc__bits=12), calibration=x
    )
    with net.on(lot(net)[0:1]) as chips:
        chips(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.weight.detach().sum(0).expand(9, -1), rtol=1e-5, atol=1e-6)


def test_jitter_has_the_stated_variance() -> None:
    layer = linear(30, 8, bias=False)
    x = torch.ones(2000, 30)
    x[:, 20:] = 0.0  # no pulse, no jitter
    net, out = on_chip(layer, x, dac__kind="pulse-width", dac__bits=6, dac__jitter_std=0.5)
    off = (out - layer(x).detach()).double()
    step = net._all_crossbars()[0].calibrated().dac / 31
    expected = 0.5 * step * layer.weight.detach()[:, :20].double().norm(dim=1)
    for column in range(8):
        assert stats.kstest(off[:, column] / expected[column], "norm").pvalue > 1e-5
    again = read(net, lot(net)[[CHIP]], x, 0.0)[0]
    assert torch.equal(again, out)
    assert not torch.equal(read(net, lot(net)[[CHIP]], x, HOUR)[0], out)


def test_a_bowed_dac_drives_what_it_says() -> None:
    layer, x = linear(), some(9, 17)
    _, out = on_chip(layer, x, dac__nonlinearity=0.1, dac__bits=8)
    full = float(x.abs().max())
    v = quantise(x, full, 8)
    bent = v + 0.1 * 1.5 * math.sqrt(3) * v * (1 - (v / full) ** 2)
    torch.testing.assert_close(out, layer(bent).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [None, 14])
def test_an_offset_that_is_a_number_is_taken_off_the_codes(bits: int | None) -> None:
    """The digital side knows the codes, not what drivers make of them: the difference reaches the outputs."""
    layer, x = linear(bias=False), some(9, 17)
    changes = {"dac__nonlinearity": 0.1, "dac__bits": 8, "adc__bits": bits}
    net, out = on_chip(layer, x, array__mapping="offset-column", **changes)
    (w, scale), crossbar = fraction(layer), net._all_crossbars()[0]
    full = crossbar.calibrated().dac
    v = quantise(x, full, 8)
    bent = v + 0.1 * 1.5 * math.sqrt(3) * v * (1 - (v / full) ** 2)
    device = net.hardware.device
    low, high = device.g_min_siemens, device.g_max_siemens
    on = (low + (high - low) * (1 + w) / 2) / (high - low)  # one device a weight
    middle = (low + high) / (high - low)
    expected = (2 * bent @ on.T - middle * v.sum(1, keepdim=True)) * scale
    off = 1e-4 if bits is None else 3 * 2 * float(crossbar.calibrated().adc.max()) * scale / 2**13
    assert float((out - expected).abs().max()) < off
    _, reference = on_chip(layer, x, array__mapping="unit-column", **changes)
    product = layer(bent).detach()  # a column of devices sees what the others see
    assert float((reference - product).abs().max()) < 2 * off
    assert float((out - product).abs().max()) > 10 * off
    with net.on(lot(net)[[CHIP]]) as chips:  # with gradients: not the fused path
        torch.testing.assert_close(chips(x)[0].detach(), out, rtol=1e-4, atol=off)


def test_an_offset_that_is_a_number_does_not_undo_jitter() -> None:
    layer, x = linear(30, 8, bias=False), torch.ones(2000, 30)
    pulses = {"dac__kind": "pulse-width", "dac__bits": 6, "dac__jitter_std": 0.5}
    net, out = on_chip(layer, x, array__mapping="offset-column", **pulses)
    off, device = (out - layer(x).detach()).double(), net.hardware.device
    (w, scale), step = fraction(layer), net._all_crossbars()[0].calibrated().dac / 31
    low, high = device.g_min_siemens, device.g_max_siemens
    on = 2 * (low / (high - low) + (1 + w.double()) / 2)
    expected = 0.5 * step * scale * on.norm(dim=1)
    for column in range(8):
        assert stats.kstest(off[:, column] / expected[column], "norm").pvalue > 1e-5


# ---- what is behind the columns ----


@pytest.mark.parametrize(
    ("kind", "mismatch"),
    [
        ("sar", {"adc__capacitor_std": 0.1}),
        ("ramp", {"adc__gain_std": 0.1, "adc__offset_std": 1.0}),
        ("pipeline", {"adc__gain_std": 0.05, "adc__offset_std": 1.0}),
    ],
)
def test_converters_are_those_of_their_tile(kind: str, mismatch: dict[str, float]) -> None:
    layer, x = linear(bias=False), some(40, 17)
    net, out = on_chip(
        layer, x, adc__kind=kind, adc__bits=6, adc__columns_per_adc=2, **mismatch, **small(7, 5)
    )
    crossbar, (w, scale) = net._all_crossbars()[0], fraction(layer)
    ranges, layout = crossbar.calibrated().adc, crossbar.layout
    adc, total = net.hardware.adc, torch.zeros(40, 11)
    columns = columns_of(layout.col_ranges, adc)
    assert columns.adc.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]  # tiles of 4, 4 and 3 columns
    for part, rows in enumerate(layout.row_slices):
        state = ADCS[kind].drawn(adc, columns, draws(), part)
        y = (x[:, rows] @ w[:, rows].T)[None]
        total += convert(y, crossbar.by_column(ranges)[part], adc, state)[0]
    torch.testing.assert_close(out, total * scale, rtol=1e-4, atol=1e-4)
    uniform = deploy(layer, ns.hardware("ideal", adc__bits=6, **small(7, 5)), calibration=x)
    assert not torch.equal(read(uniform, lot(uniform)[[CHIP]], x, 0.0)[0], out)


@pytest.mark.parametrize("bits", [None, 12])
def test_gains_and_offsets_of_lines(bits: int | None) -> None:
    layer, x = linear(), some(9, 17)
    std = {"row_gain_std": 0.1, "column_gain_std": 0.2, "column_offset_std": 0.03}
    # ranges of louder inputs: offsets and gains need room
    net = deploy(layer, ns.hardware("ideal", periphery=std, adc__bits=bits, **small(7, 5)), calibration=4 * x)
    out = read(net, lot(net)[[CHIP]], x, 0.0)[0]
    (w, scale), layout = fraction(layer), net._all_crossbars()[0].layout
    total, full = torch.zeros(9, 11), float(4 * x.abs().max())
    offsets = draws().normal("column offsets", (3, 11))[0] * 0.03 * full
    for part, rows in enumerate(layout.row_slices):
        drivers = draws().normal(f"row gains[{part}]", (3, rows.stop - rows.start))[0]
        amplifiers = draws().normal(f"column gains[{part}]", (11,))[0]
        for tile, (left, right) in enumerate(layout.col_ranges):
            driven = x[:, rows] * (1 + 0.1 * drivers[tile])
            y = driven @ w[left:right, rows].T * (1 + 0.2 * amplifiers[left:right])
            total[:, left:right] += y + offsets[part, left:right]
    expected = total * scale + layer.bias.detach()
    off = 1e-4 if bits is None else 3 * float(net._all_crossbars()[0].calibrated().adc.max()) * scale / 2**11
    assert float((out - expected).abs().max()) < off


def test_fitted_gains_and_offsets_undo_those_of_amplifiers() -> None:
    layer, x = linear(40, 12), some(300, 40)
    std = {"column_gain_std": 0.2, "column_offset_std": 0.1}
    errors = []
    for compensation in ("none", "gain-and-offset"):
        hardware = ns.hardware("ideal", periphery=std, compensation=compensation, adc__bits=12)
        net = deploy(layer, hardware, calibration=4 * x)  # offsets and gains need room
        errors.append(float((read(net, lot(net)[0:10], x, 0.0) - layer(x).detach()).std()))
    assert errors[1] < 0.03 * errors[0]


# ---- ranges ----


def test_a_learned_range_has_less_error_than_that_of_each_tile_alone() -> None:
    layer, x = linear(40, 12, bias=False), some(600, 40)
    errors = {}
    for name in ("max", "min-error", "learned"):
        _, out = on_chip(layer, x, adc__bits=4, adc__range=name, **small(10, 16))
        errors[name] = float((out - layer(x).detach()).square().mean())
    assert errors["learned"] <= errors["min-error"] * (1 + 1e-6) < errors["max"]
    for name in ("max", "min-error", "learned"):
        _, out = on_chip(layer, x, dac__bits=3, dac__range=name)
        errors[name] = float((out - layer(x).detach()).square().mean())
    assert errors["learned"] <= errors["min-error"] * (1 + 1e-6) < errors["max"]


def test_calibrating_twice_gives_the_same_ranges() -> None:
    layer, x = linear(), some(100, 17)
    hardware = ns.hardware("ideal", adc__bits=4, adc__range="learned", dac__bits=4, dac__range="learned")
    states = [deploy(layer, hardware, calibration=x).calibration_state() for _ in range(2)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


# ---- what saturates ----


def test_the_report_counts_what_saturates() -> None:
    layer, x = linear(bias=False), some(50, 17)
    net = deploy(layer, ns.hardware("ideal", dac__bits=8, adc__bits=8, **small(7, 5)), calibration=x)
    louder = 2 * x
    report = net.conversion_report(lot(net)[0:3], louder)
    crossbar, (w, _) = net._all_crossbars()[0], fraction(layer)
    ranges = crossbar.calibrated()
    v = quantise(louder, ranges.dac, 8)
    beyond = total = 0
    squares = 0.0
    for part, rows in enumerate(crossbar.layout.row_slices):
        share = v[:, rows] @ w[:, rows].T / crossbar.by_column(ranges.adc)[part]
        beyond += int((share.abs() > 1).sum())
        squares += float(share.abs().clamp(max=1).square().sum())
        total += share.numel()
    (row,) = report.layers
    assert row.inputs_clipped == pytest.approx(float((louder.abs() > ranges.dac).double().mean()))
    assert row.outputs_clipped == pytest.approx(beyond / total, abs=2e-3)
    assert row.use == pytest.approx(math.sqrt(squares / total), rel=1e-4)
    assert row.conversions == 3 * 11  # three row parts
    assert beyond > 0
    assert "outputs clipped" in str(report)
    assert report.to_dict()["samples"] == 50
    assert net.conversion_report(lot(net)[0:1], x).layers[0].inputs_clipped == 0


@pytest.mark.parametrize("kind", ["voltage", "pulse-width", "bit-serial"])
def test_inputs_saturate_alike_however_they_are_driven(kind: str) -> None:
    layer, x = linear(bias=False), some(50, 17)
    hw = ns.hardware("ideal", dac__bits=6, dac__kind=kind, adc__bits=8, **small(7, 5))
    net = deploy(layer, hw, calibration=x)
    (row,) = net.conversion_report(lot(net)[0:3], 2 * x).layers
    full = net._all_crossbars()[0].calibrated().dac
    assert row.inputs_clipped == pytest.approx(float((2 * x.abs() > full).double().mean()))
    assert row.inputs_clipped > 0


def test_a_report_needs_converters_and_leaves_reads_as_they_were() -> None:
    layer, x = linear(), some(50, 17)
    with pytest.raises(UsageError, match="ideal converters: set dac"):
        net = deploy(layer, ns.hardware("ideal"))
        net.conversion_report(lot(net)[0:1], x)
    net = deploy(layer, ns.hardware("pcm-joshi-2020"), calibration=x)
    before = read(net, lot(net)[0:2], x)
    net.conversion_report(lot(net)[0:2], x)
    assert torch.equal(read(net, lot(net)[0:2], x), before)


def test_reads_that_fit_a_compensation_are_not_counted() -> None:
    layer, x = linear(), some(50, 17)
    rows = []
    for compensation in ("none", "gain-and-offset"):
        hardware = ns.hardware("ideal", dac__bits=8, adc__bits=8, compensation=compensation)
        net = deploy(layer, hardware, calibration=x)
        rows += net.conversion_report(lot(net)[0:3], 2 * x).layers
    assert rows[0] == rows[1]


def test_layers_that_convert_exactly_are_not_in_the_report() -> None:
    net = nn.Sequential(linear(), nn.ReLU(), linear(11, 5))
    exact = {"2": {"adc": {"bits": None}}}
    for changes in ({"dac__nonlinearity": 0.1}, {"compensation": "gain-and-offset"}):
        hardware = ns.hardware("ideal", adc__bits=8, layers=exact, **changes)
        deployed = deploy(net, hardware, calibration=some(50, 17))
        report = deployed.conversion_report(lot(deployed)[0:2], some(50, 17))
        assert [(row.name, row.conversions) for row in report.layers] == [("0", 11)]


# ---- words ----


def test_explain_names_what_acts() -> None:
    hardware = ns.hardware(
        "ideal", adc={"bits": 8, "kind": "sar", "capacitor_std": 0.01, "columns_per_adc": 8},
        dac={"bits": 8, "kind": "pulse-width", "jitter_std": 0.1}, periphery={"column_offset_std": 0.1},
    )  # fmt: skip
    text = str(deploy(linear(), hardware).explain())
    for words in ("ADC capacitors (sar)", "one for 8 columns", "pulse jitter", "offset of amplifiers"):
        assert words in text


@pytest.mark.parametrize(
    "changes", [{"dac": {"bits": 8, "kind": "pulse-width"}}, {"periphery": {"row_gain_std": 0.1}}]
)
def test_what_a_law_does_not_go_with(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"with wires\.model='nonlinear'"):
        ns.hardware("ideal", wires__model="nonlinear", **changes)
