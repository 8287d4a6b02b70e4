"""Mappings on crossbars: chips compute what a restatement from the devices' own draws says."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import Deployed, deploy
from neurosim.analog.operators import layout, with_references
from neurosim.devices import Array, Device, Hardware, quantise
from neurosim.devices.mappings import MAPPINGS, mapping_of
from neurosim.devices.wires import effective_conductance
from neurosim.random import Draws

from .networks import DAY, LAYERS, Row, filled, lot, read, samples, small, some

pytestmark = [
    pytest.mark.filterwarnings("ignore:this network does not treat axis 0"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]
YEAR = 365 * DAY
layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
names = pytest.mark.parametrize("name", MAPPINGS)
# as many digits as float32 counts: rounding stays below that of the products
FINE = {"bit-sliced": {"array__slices": 6, "array__radix": 16}}


def on(name: str, base: str = "ideal", **changes: object) -> Hardware:
    return ns.hardware(base, array__mapping=name, **FINE.get(name, {}), **changes)


# ---- without errors ----


@layers
@names
@pytest.mark.parametrize("bias", ["digital", "device"])
def test_exact_devices_equal_plain_torch(layer: Row, name: str, bias: str) -> None:
    plain, x = filled(layer.layer()).double(), samples(layer).double()
    low = {"device__g_min_siemens": 5e-6}
    net = deploy(plain, on(name, array__bias=bias, array__scaling="per-column", **low, **small(7, 5)))
    expected = plain(x).detach()
    for row in read(net, lot(net)[0:2], x):
        off = 1e-12 if name != "bit-sliced" else 16.0**-6 * 10
        assert float((row - expected).abs().max()) <= off * float(expected.abs().max())


# ---- with errors: a restatement ----


def conductances(
    weight: Tensor, hardware: Hardware, name: str, chip: int, time_s: float
) -> list[list[Tensor]]:
    """Legs of every plane of one chip, by each device's own draws: (outputs, inputs) each."""
    device, array = hardware.device, hardware.array
    mapping = mapping_of(array, device)
    scale = weight.abs().max()
    planes = []
    for s, fraction in enumerate(mapping.fractions(weight / scale)):
        for n in range(len(mapping.analog)):
            number = s * len(mapping.analog) + n
            stem = f"{name}[{number}]" if number else name
            planes.append(
                [
                    aged(device, target, f"{stem}{sign}", chip, time_s)
                    for target, sign in zip(mapping.targets(fraction, device), "+-", strict=False)
                ]
            )
    return planes


def aged(device: Device, target: Tensor, name: str, chip: int, time_s: float) -> Tensor:
    draws = Draws(0, (chip,), name)
    return device.age(device.program(target, draws), time_s, draws)[0]


def pieces(hardware: Hardware, rows: int, cols: int) -> tuple[Any, Any]:
    found = layout(rows, cols, 1, hardware.array)
    return found.row_slices, found.col_ranges


def converted(y: Tensor, net: Deployed, part: int, tile: int) -> Tensor:
    crossbar = net._all_crossbars()[0]
    bits, ranges = net.hardware.adc.bits, crossbar.calibrated().adc
    return quantise(y, float(ranges[part, tile]), bits)


def restated(net: Deployed, layer: nn.Linear, x: Tensor, chip: int, time_s: float) -> Tensor:
    """Tile by tile, slice by slice, with its converters, as one would write it down from the definition."""
    hw, weight = net.hardware, layer.weight.detach()
    device, kind = hw.device, hw.array.mapping
    span, low = device.g_max_siemens - device.g_min_siemens, device.g_min_siemens
    mapping = mapping_of(hw.array, device)
    planes = conductances(weight, hw, "root.weight", chip, time_s)
    crossbar = net._all_crossbars()[0]
    v = quantise(x, crossbar.calibrated().dac, hw.dac.bits)
    row_slices, col_ranges = pieces(hw, *weight.T.shape)
    references = None
    if kind == "unit-column":
        middle = torch.full((len(col_ranges), weight.shape[1]), low + span / 2)
        references = aged(device, middle, "root.weight[reference]+", chip, time_s)
    y = torch.zeros(len(x), len(weight))
    for s, digit in enumerate(mapping.digital):
        n = len(mapping.analog)
        for r, rows in enumerate(row_slices):
            part = s * len(row_slices) + r
            for c, (left, right) in enumerate(col_ranges):
                current = torch.zeros(len(x), right - left)
                for a, legs in zip(mapping.analog, planes[s * n : (s + 1) * n], strict=True):
                    g = legs[0] - legs[1] if len(legs) == 2 else legs[0]
                    current += a * v[:, rows] @ (g[left:right, rows] / span).T
                code = converted(current, net, part, c)
                if references is not None:
                    own = v[:, rows] @ (references[c, rows] / span)
                    code = code - converted(own, net, part, c)[:, None]
                y[:, left:right] += digit * code
    if kind == "offset-column":
        y -= (2 * low + span) / span * v.sum(1, keepdim=True)
    return y * weight.abs().max() + layer.bias.detach()


@names
@pytest.mark.parametrize("time_s", [0.0, YEAR])
@pytest.mark.parametrize("tile", [(64, 64), (7, 4)], ids=str)
def test_a_chip_computes_what_the_restatement_says(name: str, time_s: float, tile: tuple[int, int]) -> None:
    changes: dict[str, Any] = {"compensation": "none", **small(*tile)}
    if name == "bit-sliced":
        changes |= {"array__slices": 3, "array__radix": 4}
    hardware = ns.hardware("pcm-joshi-2020", array__mapping=name, **changes)
    hardware = hardware.with_("device.g_min_siemens", 2e-6)
    layer, x = filled(nn.Linear(17, 11)), some(9, 17)
    net = deploy(layer, hardware, calibration=x)
    out = read(net, lot(net)[[3]], x, time_s)[0]
    expected = restated(net, layer, x, 3, time_s)
    step = float(net._all_crossbars()[0].calibrated().adc.max()) / 127 * 2
    step *= float(layer.weight.detach().abs().max())
    off = (out - expected).abs()
    # a product within rounding of a tie of its converter may round the other way
    assert float(off.max()) <= 2 * step
    assert int((off > 1e-4 * expected.abs().max()).sum()) <= 2


@names
def test_ranges_are_of_what_the_bit_lines_carry(name: str) -> None:
    # one column of the offset mappings carries the currents of its offset too
    layer, x = filled(nn.Linear(16, 4)), some(20, 16).abs()
    hardware = on(name, adc__bits=8, **small(16, 16))
    crossbar = deploy(layer, hardware, calibration=x)._all_crossbars()[0]
    w = layer.weight.detach() / layer.weight.detach().abs().max()
    assert crossbar.ranges is not None
    found = crossbar.ranges.adc.flatten().tolist()
    if name == "unit-column":
        raw = x @ (0.5 * (1 + w)).T
        assert found == [pytest.approx(max(float(raw.max()), float(0.5 * x.sum(1).max())), rel=1e-5)]
    elif name == "offset-column":
        assert found == [pytest.approx(float((x @ (0.5 * (1 + w)).T).max()), rel=1e-5)]
    elif name == "bit-sliced":
        digits = mapping_of(hardware.array, hardware.device).fractions(w)
        assert found == [pytest.approx(float((x @ m.T).abs().max()), rel=1e-5) for m in digits]
    else:
        assert found == [pytest.approx(float((x @ w.T).abs().max()), rel=1e-5)]


# ---- what each is for ----


def weight_errors(hardware: Hardware, weight: Tensor, time_s: float = 0.0, chips: int = 100) -> Tensor:
    """Weights that chips deliver, less what they should, (chips, outputs, inputs)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    net = deploy(layer, hardware, calibration=torch.eye(weight.shape[1]))
    return read(net, lot(net)[0:chips], torch.eye(weight.shape[1]), time_s).transpose(1, 2) - weight


def test_equal_pairs_average_their_errors() -> None:
    # the ratio of two variances of normals is F-distributed
    weight = torch.full((40, 50), 0.5)
    weight[0, 0] = 1.0
    noisy = {"device__distribution": "normal", "device__law": "absolute", "device__std": 0.05}
    variances = []
    for pairs in (1, 4):
        hardware = ns.hardware(
            "generic", array__mapping="significance-pairs", array__pairs=pairs, **noisy, **small(64, 64)
        )
        errors = weight_errors(hardware, weight)[:, 1:]
        variances.append(float(errors.double().var(correction=1)))
    count = 100 * 39 * 50 - 1
    ratio = variances[0] / 4 / variances[1]
    assert stats.f.ppf(5e-6, count, count) < ratio < stats.f.ppf(1 - 5e-6, count, count)


def test_a_closed_loop_leaves_the_error_of_the_last_pair() -> None:
    weight = torch.linspace(-0.6, 0.6, 200).reshape(10, 20)
    weight[0, 0] = 1.0
    noisy = {"device__distribution": "normal", "device__law": "absolute", "device__std": 0.005}
    # far from 0, below which no conductance falls
    noisy |= {"device__g_min_siemens": 5e-6, "device__g_max_siemens": 25e-6}
    base = ns.hardware("generic", array__mapping="significance-pairs", **noisy, **small(64, 64))
    closed = base.with_all({"array.pair_programming": "closed-loop", "array.significance": 8.0})
    open_loop, left = (weight_errors(hw, weight)[:, 1:].std() for hw in (base, closed))
    share = 1 / 9  # of the last pair of two with a significance of 8
    single = 0.005 * 25 / 20 * math.sqrt(2)
    assert float(left) == pytest.approx(single * share, rel=0.05)
    assert float(open_loop) == pytest.approx(single / math.sqrt(2), rel=0.05)


def test_a_unit_column_drifts_with_what_it_is_subtracted_from() -> None:
    weight = some(16, 30) / 4
    off = {"device__programming_scale": 0.0, "device__read_scale": 0.0}
    errors = {
        name: weight_errors(
            ns.hardware("pcm-joshi-2020", array__mapping=name, compensation="none", dac__bits=None,
                        adc__bits=None, **off, **small(64, 64)),
            weight, YEAR, chips=20,
        )
        for name in ("offset-column", "unit-column")
    }  # fmt: skip
    # the digital offset stays while conductances fall: every weight is off in the same direction
    assert float(errors["offset-column"].mean()) < -0.2
    assert abs(float(errors["unit-column"].mean())) < 0.02


def test_devices_and_tiles_are_counted() -> None:
    layer = nn.Linear(100, 60)
    expected = {
        "differential-pair": (2 * 2, 2 * 6000),
        "two-sided-pair": (2 * 2, 2 * 6000),
        "offset-column": (2 * 2, 6000),
        "unit-column": (2 * 2, 6000 + 2 * 100),
        "bit-sliced": (4 * 4, 4 * 2 * 6000),
        "significance-pairs": (2 * 4, 2 * 2 * 6000),
    }
    assert set(expected) == set(MAPPINGS)
    for name, (tiles, devices) in expected.items():
        net = deploy(layer, ns.hardware("ideal", array__mapping=name, **small(64, 32)))
        row = net.explain().layers[0]
        assert (row.tiles, row.devices) == (tiles, devices), name


@pytest.mark.parametrize(
    ("rows", "columns", "groups", "tile"),
    [(9, 64, 64, (256, 256)), (5, 12, 3, (4, 3)), (2, 3, 1, (4, 3)), (7, 12, 4, (16, 9)), (4, 1, 1, (9, 2))],
)
def test_every_group_on_a_tile_has_a_reference_of_its_own(
    rows: int, columns: int, groups: int, tile: tuple[int, int]
) -> None:
    lies = layout(rows, columns, groups, Array(rows=tile[0], cols=tile[1], mapping="unit-column"))
    found = with_references(lies)
    assert sorted([*found.outputs, *found.own]) == list(range(found.layout.columns))
    assert found.layout.columns % groups == 0
    width, whole = columns // groups, found.layout.columns // groups
    for number, (place, reference) in enumerate(zip(found.outputs, found.of_outputs, strict=True)):
        assert place // whole == reference // whole == number // width  # of the same group
        tile_of = [left <= place < right for left, right in found.layout.col_ranges]
        reference_of = [left <= reference < right for left, right in found.layout.col_ranges]
        assert tile_of == reference_of
        assert sum(tile_of) == 1
    edges = [left for left, _ in found.layout.col_ranges]
    assert all(b > a for a, b in pairwise(edges))
    assert all(right - left <= tile[1] for left, right in found.layout.col_ranges)


# ---- wires ----


@names
@pytest.mark.parametrize("legs", ["separate", "interleaved"])
def test_the_arrays_of_a_mapping_are_wired(name: str, legs: str) -> None:
    """Every plane by the dense definition: the effective conductance of its own arrays."""
    resist = {"wires__r_row_ohm": 40.0, "wires__r_col_ohm": 25.0, "wires__legs": legs}
    low = {"device__g_min_siemens": 1e-6, "device__g_max_siemens": 40e-6}
    hardware = ns.hardware("ideal", array__mapping=name, **resist, **low, **small(32, 32))
    layer = filled(nn.Linear(6, 5, bias=False))
    net, x = deploy(layer, hardware), some(4, 6)
    weight = layer.weight.detach()
    scale, mapping = float(weight.abs().max()), mapping_of(hardware.array, hardware.device)
    span = hardware.device.g_max_siemens - hardware.device.g_min_siemens
    y = torch.zeros(4, 5, dtype=torch.float64)
    for digit, fraction in zip(mapping.digital, mapping.fractions(weight / scale), strict=True):
        targets = [g.double() for g in mapping.targets(fraction, hardware.device)]
        if name == "unit-column":
            middle = torch.full((1, 6), 20.5e-6, dtype=torch.float64)
            targets = [torch.cat([targets[0], middle])]
        seen = _seen(targets, hardware)
        m = (seen[0] - seen[1] if len(seen) == 2 else seen[0]) / span
        m = m[:5] - m[5:] if name == "unit-column" else m
        y += digit * x.double() @ m.T
    if name == "offset-column":
        y -= 2 * 20.5e-6 / span * x.double().sum(1, keepdim=True)
    out = read(net, lot(net)[0:1], x)[0].double()
    np.testing.assert_allclose(out, y * scale, rtol=0, atol=2e-5 * float(y.abs().max()) * scale)
    exact = x.double() @ weight.double().T
    assert float((out - exact).abs().max()) > 1e-3  # they do something


def _seen(targets: list[Tensor], hardware: Hardware) -> list[Tensor]:
    """What inputs see of (columns, rows) legs, one or two, in arrays of (rows, device columns)."""
    wires = hardware.wires
    ohm = {"r_row_ohm": wires.r_row_ohm, "r_col_ohm": wires.r_col_ohm}
    if len(targets) == 2 and wires.legs == "interleaved":
        array = torch.stack(targets, dim=1).flatten(0, 1).T  # columns: +, −, +, −, …
        pairs = effective_conductance(array, **ohm).T.unflatten(0, (-1, 2))
        return [pairs[:, 0], pairs[:, 1]]
    return [effective_conductance(g.T, **ohm).T for g in targets]


@names
def test_training_through_a_mapping_and_wires(name: str) -> None:
    hardware = ns.hardware(
        "pcm-joshi-2020", array__mapping=name, wires__r_row_ohm=2.0, wires__r_col_ohm=2.0,
        wires__compensation="columns", **small(16, 16),
    )  # fmt: skip
    layer, x = filled(nn.Linear(12, 8)), some(10, 12)
    net = deploy(layer, hardware, calibration=x)
    net.reuse_wires()
    for step in range(3):
        net.zero_grad()
        with net.on(lot(net)[[step]]) as chips:
            chips(x).square().sum().backward()
        for parameter in net.parameters():
            assert parameter.grad is not None
            assert bool(torch.isfinite(parameter.grad).all())
            assert float(parameter.grad.abs().max()) > 0
    state = net.wire_state()
    twin = deploy(layer, hardware, calibration=x)
    twin.reuse_wires()
    twin.load_wire_state(state)
    outputs = []
    for one in (net, twin):
        with one.on(lot(one)[[7]]) as chips:
            outputs.append(chips(x).detach())
    assert torch.equal(*outputs)


# ---- faults ----


def test_faults_act_on_every_plane() -> None:
    weight = torch.full((6, 8), 0.5)
    stuck = {"faults__stuck_low_rate": 1.0}
    for name, expected in {
        "two-sided-pair": 0.0,
        "offset-column": -0.5,
        "unit-column": 0.0,
        "bit-sliced": 0.0,
        "significance-pairs": 0.0,
    }.items():
        hardware = ns.hardware("ideal", array__mapping=name, **stuck, **small(16, 16))
        held = weight_errors(hardware, weight, chips=1) + weight
        torch.testing.assert_close(held[0], torch.full_like(weight, expected), rtol=0, atol=1e-6)


@names
def test_planes_have_faults_of_their_own(name: str) -> None:
    weight = torch.full((40, 50), 0.5)
    hardware = on(name, faults__stuck_low_rate=0.2, **small(64, 64))
    held = weight_errors(hardware, weight, chips=50) + weight
    whole = float((held.sub(0.5).abs() < 1e-5).double().mean())
    mapping = mapping_of(hardware.array, hardware.device)
    # devices that rest at g_min anyway do not mind: one leg of a one-sided pair, and digits that are 0
    if name == "bit-sliced":
        matter = sum(0.5 * d > 1e-5 for d in mapping.digital)  # 0.5, the largest weight, has them all
    else:
        matter = {"two-sided-pair": 1}.get(name, mapping.planes)
    if name == "unit-column":
        return  # its references break too: counted by the test of all stuck devices
    expected = 0.8**matter
    spread = math.sqrt(expected * (1 - expected) / held.numel())
    assert whole == pytest.approx(expected, abs=4.5 * spread)
