"""Voltages and currents inside an array: against Kirchhoff's laws, written down once more."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neurosim.devices.wires import TOPOLOGIES, Solution, effective_conductance, solve
from neurosim.errors import UsageError

from . import kirchhoff, spice

F64 = torch.float64
WIRES: dict[str, dict[str, float]] = {
    "ordinary": {"r_row_ohm": 1.1, "r_col_ohm": 1.7},
    "all": {"r_row_ohm": 2.5, "r_col_ohm": 0.3, "r_source_ohm": 100.0, "r_sink_ohm": 30.0},
    "rows only": {"r_row_ohm": 2.3, "r_col_ohm": 0.0},
    "columns only": {"r_row_ohm": 0.0, "r_col_ohm": 2.3},
    "ends only": {"r_row_ohm": 0.0, "r_col_ohm": 0.0, "r_source_ohm": 50.0, "r_sink_ohm": 20.0},
    "tiny": {"r_row_ohm": 1e-6, "r_col_ohm": 1e-6},
    "huge": {"r_row_ohm": 1e6, "r_col_ohm": 1e5},
    "ideal": {"r_row_ohm": 0.0, "r_col_ohm": 0.0},
}
SHAPES = [(1, 1), (1, 6), (5, 1), (3, 5), (13, 9)]
DRIVEN_RIGHT = ("both-ends", "driven-both-ends")


def drawn(*shape: int, seed: int = 3) -> Tensor:
    """Five decades up to 1 mS, some cells open."""
    draw = np.random.default_rng(seed)
    g = 10 ** draw.uniform(-8, -3, shape)
    return torch.tensor(np.where(draw.random(shape) < 0.15, 0.0, g))


def volts(*shape: int, seed: int = 4) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).uniform(-1, 1, shape))


def near(found: Tensor, expected: Any, relative: float, scale: float | None = None) -> None:
    """To a part of the largest value, or of ``scale``."""
    expected = torch.as_tensor(np.asarray(expected), dtype=F64)
    assert found.shape == expected.shape
    scale = float(expected.abs().max()) if scale is None else scale
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=relative * scale)


@cache
def by_hand(
    rows: int, cols: int, wires: str, topology: kirchhoff.Topology, v_row: tuple[float, ...], v_col: Any
) -> kirchhoff.Solution:
    """A dense solve with a voltage at each sense node, too, which ``kirchhoff.solve`` holds at 0."""
    g, net = drawn(rows, cols).numpy(), kirchhoff.Net(rows, cols, topology=topology, **WIRES[wires])
    a, k = net.laplacian(g), net.unknown
    all_volts = np.zeros(net.nodes)
    all_volts[net.sources], all_volts[net.senses] = v_row, v_col
    if k:
        all_volts[:k] = np.linalg.solve(a[:k, :k], -a[:k, k:] @ all_volts[k:])
    w, b = all_volts[net.w], all_volts[net.b]
    return kirchhoff.Solution(w, b, (g * (w - b)).sum(0))


# ---- against what is not our code ----


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("wires", WIRES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kirchhoff_agrees(shape: tuple[int, int], wires: str, topology: kirchhoff.Topology) -> None:
    """1e-12 of the largest (measured 2.1e-13, most of it of the dense solve)."""
    g, v = drawn(*shape), volts(3, shape[0])
    found = solve(g, v, topology=topology, **WIRES[wires])
    expected = [kirchhoff.solve(g.numpy(), one, topology=topology, **WIRES[wires]) for one in v.numpy()]
    near(found.word_line_volt, [one.w for one in expected], 1e-12, scale=1.0)
    near(found.bit_line_volt, [one.b for one in expected], 1e-12, scale=1.0)
    near(found.column_ampere, [one.currents for one in expected], 1e-12)
    near(found.device_ampere, [g.numpy() * (one.w - one.b) for one in expected], 1e-12)
    ohmic = v @ effective_conductance(g, topology=topology, **WIRES[wires])
    near(found.column_ampere, ohmic, 1e-12)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("wires", WIRES)
@pytest.mark.parametrize("shape", SHAPES)
def test_voltages_at_the_sense_nodes(
    shape: tuple[int, int], wires: str, topology: kirchhoff.Topology
) -> None:
    g, v, u = drawn(*shape), volts(2, shape[0]), volts(2, shape[1], seed=5)
    found = solve(g, v, v_col_volt=u, topology=topology, **WIRES[wires])
    expected = [
        by_hand(*shape, wires, topology, tuple(a), tuple(b))
        for a, b in zip(v.numpy(), u.numpy(), strict=True)
    ]
    near(found.word_line_volt, [one.w for one in expected], 1e-12, scale=1.0)
    near(found.bit_line_volt, [one.b for one in expected], 1e-12, scale=1.0)
    near(found.column_ampere, [one.currents for one in expected], 1e-12)
    zero = solve(g, v, v_col_volt=torch.zeros_like(u), topology=topology, **WIRES[wires])
    plain = solve(g, v, topology=topology, **WIRES[wires])
    assert torch.equal(zero.word_line_volt, plain.word_line_volt)
    # only differences count: with one voltage everywhere nothing flows
    level = solve(g, torch.full_like(v, 0.7), v_col_volt=torch.full_like(u, 0.7), topology=topology,
                  **WIRES[wires])  # fmt: skip
    near(level.word_line_volt, torch.full((2, *shape), 0.7, dtype=F64), 1e-13)
    assert float(level.column_ampere.abs().max()) < 1e-13 * float(g.sum())


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_ngspice_agrees(topology: str) -> None:
    if not spice.available():
        pytest.skip(spice.ABSENT)
    g, v = drawn(13, 9), volts(13)
    found = solve(g, v[None], topology=topology, **WIRES["all"])
    expected = spice.currents(g.numpy(), v.numpy(), topology=topology, **WIRES["all"])
    near(found.word_line_volt[0], expected.w, 1e-11, scale=1.0)
    near(found.bit_line_volt[0], expected.b, 1e-11, scale=1.0)
    near(found.column_ampere[0], expected.currents, 1e-11)


# ---- Kirchhoff's laws at every node, for sizes that nobody solves densely ----


def leaving(found: Solution, v: Tensor, u: Tensor, ohm: dict[str, float], topology: str) -> list[Tensor]:
    """Net current out of each word-line node and of each bit-line node, and the largest current of a wire."""
    w, b = found.word_line_volt, found.bit_line_volt
    end = ohm["r_row_ohm"] + ohm.get("r_source_ohm", 0.0)
    out_w, out_b = found.device_ampere.clone(), -found.device_ampere
    along = (w[..., 1:] - w[..., :-1]) / ohm["r_row_ohm"]
    out_w[..., 1:] += along
    out_w[..., :-1] -= along
    out_w[..., 0] += (w[..., 0] - v) / end
    if topology in DRIVEN_RIGHT:
        out_w[..., -1] += (w[..., -1] - v) / end
    end = ohm["r_col_ohm"] + ohm.get("r_sink_ohm", 0.0)
    down = (b[..., 1:, :] - b[..., :-1, :]) / ohm["r_col_ohm"]
    out_b[..., 1:, :] += down
    out_b[..., :-1, :] -= down
    sensed = torch.zeros_like(u)
    for row, tops in ((0, ("same", "both-ends")), (-1, ("opposite", "both-ends", "driven-both-ends"))):
        if topology in tops:
            flow = (b[..., row, :] - u) / end
            out_b[..., row, :] += flow
            sensed = sensed + flow
    return [out_w, out_b, sensed]


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("wires", ["ordinary", "all", "huge"])
@pytest.mark.parametrize("shape", [(1, 1), (13, 9), (70, 45), (128, 64)])
def test_currents_at_every_node_add_up_to_nothing(shape: tuple[int, int], wires: str, topology: str) -> None:
    """Wires carry the differences of voltages: 1e-12 of the largest current at most is lost to rounding."""
    g, v, u = drawn(*shape), volts(2, shape[0]), 0.1 * volts(2, shape[1], seed=5)
    ohm = WIRES[wires]
    found = solve(g, v, v_col_volt=u, topology=topology, **ohm)
    torch.testing.assert_close(
        found.device_ampere, g * (found.word_line_volt - found.bit_line_volt), rtol=1e-14, atol=0
    )
    out_w, out_b, sensed = leaving(found, v, u, ohm, topology)
    # a voltage of order 1 is right to 1e-16 of itself, a current through a wire to that over its resistance
    wire = 1e-15 * sum(shape) / min(ohm["r_row_ohm"], ohm["r_col_ohm"])
    assert float(out_w.abs().max()) < wire
    assert float(out_b.abs().max()) < wire
    assert float((found.column_ampere - sensed).abs().max()) < wire
    assert wire < 0.02 * float(found.column_ampere.abs().max())


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("wires", ["ordinary", "all", "huge"])
def test_what_goes_in_is_lost_in_devices_and_wires(wires: str, topology: str) -> None:
    """Tellegen: power from the ends = Σ i²·R of the wires, summed here, + Σ g·u² of the devices."""
    g, v, u = drawn(13, 9), volts(3, 13), 0.3 * volts(3, 9, seed=5)
    ohm = WIRES[wires]
    found = solve(g, v, v_col_volt=u, topology=topology, **ohm)
    w, b = found.word_line_volt, found.bit_line_volt
    row, col = ohm["r_row_ohm"], ohm["r_col_ohm"]
    first, last = row + ohm.get("r_source_ohm", 0.0), col + ohm.get("r_sink_ohm", 0.0)
    heat = ((w[..., 1:] - w[..., :-1]) ** 2 / row).sum((1, 2))
    heat += ((b[..., 1:, :] - b[..., :-1, :]) ** 2 / col).sum((1, 2))
    heat += ((w[..., 0] - v) ** 2 / first).sum(1)
    if topology in DRIVEN_RIGHT:
        heat += ((w[..., -1] - v) ** 2 / first).sum(1)
    if topology in ("same", "both-ends"):
        heat += ((b[..., 0, :] - u) ** 2 / last).sum(1)
    if topology != "same":
        heat += ((b[..., -1, :] - u) ** 2 / last).sum(1)
    device = (g * (w - b) ** 2).sum((1, 2))
    torch.testing.assert_close(found.device_watt, device, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.power_watt, heat + device, rtol=1e-9, atol=0)
    assert bool((found.power_watt > found.device_watt).all())


def test_between_ideal_wires_all_power_is_lost_in_devices() -> None:
    g, v = drawn(6, 5), volts(2, 6)
    found = solve(g, v, r_row_ohm=0.0, r_col_ohm=0.0)
    near(found.power_watt, (v**2 @ g).sum(1), 1e-13)
    near(found.device_watt, (v**2 @ g).sum(1), 1e-13)
    near(found.column_ampere, v @ g, 1e-13)


# ---- inputs and batches ----


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_inputs_superpose(topology: str) -> None:
    """The state of a sum of inputs is the sum of states; power is not."""
    g, v, u = drawn(9, 12), volts(2, 9), volts(2, 12, seed=5)
    each = solve(g, v, v_col_volt=u, topology=topology, **WIRES["all"])
    both = solve(g, v.sum(0)[None], v_col_volt=u.sum(0)[None], topology=topology, **WIRES["all"])
    for field in ("word_line_volt", "bit_line_volt", "device_ampere", "column_ampere"):
        near(getattr(both, field)[0], getattr(each, field).sum(0), 1e-13)
    twice = solve(g, 2 * v, v_col_volt=2 * u, topology=topology, **WIRES["all"])
    torch.testing.assert_close(twice.power_watt, 4 * each.power_watt, rtol=1e-13, atol=0)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_arrays_of_a_batch_have_wires_of_their_own(topology: str) -> None:
    g, v = drawn(2, 3, 7, 5), volts(2, 3, 4, 7)
    r_row = torch.tensor([[1.0], [20.0]], dtype=F64)
    r_sink = torch.tensor([0.0, 5.0, 100.0], dtype=F64)
    found = solve(g, v, r_row_ohm=r_row, r_col_ohm=0.3, r_sink_ohm=r_sink, topology=topology)
    shapes = {"word_line_volt": (7, 5), "bit_line_volt": (7, 5), "device_ampere": (7, 5)}
    shapes |= {"column_ampere": (5,), "power_watt": (), "device_watt": ()}
    for field, shape in shapes.items():
        assert getattr(found, field).shape == (2, 3, 4, *shape)
    for i, j in np.ndindex(2, 3):
        alone = solve(
            g[i, j], v[i, j], r_row_ohm=r_row[i, 0], r_col_ohm=0.3, r_sink_ohm=r_sink[j], topology=topology
        )
        for field in shapes:
            near(getattr(found, field)[i, j], getattr(alone, field), 1e-13)


@pytest.mark.parametrize("wires", WIRES)
def test_float32_is_close(wires: str) -> None:
    """Voltages to 2e-6 of 1 V (measured 4.9e-7), currents to 1e-6 of the largest (3.1e-7).

    A device's current is its conductance times a difference of voltages: between wires that resist far more
    than devices do it is the smaller.
    """
    g, v = drawn(20, 33).float(), volts(3, 20).float()
    found = solve(g, v, **WIRES[wires])
    exact = solve(g.double(), v.double(), **WIRES[wires])
    for field in ("word_line_volt", "bit_line_volt"):
        near(getattr(found, field), getattr(exact, field), 2e-6, scale=1.0)
    for field in ("device_ampere", "column_ampere", "power_watt"):
        assert getattr(found, field).dtype == torch.float32
        near(getattr(found, field), getattr(exact, field), 1e-4 if wires == "huge" else 1e-6)


def test_it_is_for_looking_at_and_changes_nothing() -> None:
    g, v = drawn(6, 5).requires_grad_(), volts(2, 6)
    before = g.detach().clone(), v.clone()
    found = solve(g.mT.contiguous().mT, v, r_row_ohm=torch.tensor(1.0, requires_grad=True), r_col_ohm=1.0)
    assert not found.column_ampere.requires_grad
    assert torch.equal(g, before[0])
    assert torch.equal(v, before[1])


@pytest.mark.parametrize(
    ("batch", "inputs", "rows", "cols"), [((0,), 2, 3, 4), ((2,), 0, 3, 4), ((2,), 3, 0, 4), ((), 3, 2, 0)]
)
def test_nothing_has_no_state(batch: tuple[int, ...], inputs: int, rows: int, cols: int) -> None:
    g, v = torch.ones(*batch, rows, cols), torch.ones(*batch, inputs, rows)
    found = solve(g, v, r_row_ohm=1.0, r_col_ohm=1.0)
    assert found.word_line_volt.shape == found.device_ampere.shape == (*batch, inputs, rows, cols)
    assert found.column_ampere.shape == (*batch, inputs, cols)
    assert found.power_watt.shape == found.device_watt.shape == (*batch, inputs)
    assert float(found.column_ampere.sum()) == 0.0


# ---- wrong use ----

G, V = torch.full((2, 5, 4), 1e-3), torch.ones(2, 3, 5)

WRONG: list[tuple[Any, Any, dict[str, Any], str]] = [
    (G, V.double(), {}, r"expected v_row_volt as a tensor of torch\.float32; got torch\.float64"),
    (G, [[1.0] * 5], {}, r"expected v_row_volt as a tensor of torch\.float32; got list"),
    (G, V, {"v_col_volt": 0.0}, r"expected v_col_volt as a tensor of torch\.float32; got float"),
    (G, V[0], {}, r"expected v_row_volt of shape \(2, inputs, 5\); got \(3, 5\)"),
    (G, V[..., :4], {}, r"expected v_row_volt of shape \(2, inputs, 5\); got \(2, 3, 4\)"),
    (G, V[:1], {}, r"expected v_row_volt of shape \(2, inputs, 5\); got \(1, 3, 5\)"),
    (G[0], torch.ones(5), {}, r"expected v_row_volt of shape \(inputs, 5\); got \(5,\)"),
    (G[0], torch.tensor(1.0), {}, r"expected v_row_volt of shape \(inputs, 5\); got \(\)"),
    (G, V, {"v_col_volt": V}, r"expected v_col_volt of shape \(2, inputs, 4\); got \(2, 3, 5\)"),
    (
        G,
        V,
        {"v_col_volt": torch.ones(2, 1, 4)},
        r"as many inputs in v_col_volt as in v_row_volt; got 1 and 3",
    ),
    (G, V / 0, {}, r"expected finite voltages in v_row_volt; got NaN or infinity"),
    (G, V, {"v_col_volt": torch.full((2, 3, 4), torch.nan)}, r"finite voltages in v_col_volt; got NaN"),
    (-G, V, {}, r"expected finite conductances of 0 S or more in g_siemens; got -0\.001"),
    (G, V, {"r_row_ohm": -1.0}, r"expected a finite resistance of 0 ohm or more; got r_row_ohm=-1\.0"),
    (G, V, {"r_sink_ohm": torch.ones(3)}, r"expected r_sink_ohm to broadcast against arrays \(2,\)"),
    (G, V, {"topology": "opposit"}, r"unknown topology 'opposit': did you mean 'opposite'\?"),
]


@pytest.mark.parametrize(("g", "v", "changes", "sentence"), WRONG)
def test_wrong_use_is_one_sentence(g: Any, v: Any, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        solve(g, v, **{"r_row_ohm": 1.0, "r_col_ohm": 1.0, **changes})
