"""The oracles of this folder against each other: what they agree on, nobody has tuned to agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from . import kirchhoff, peers, spice
from .kirchhoff import TOPOLOGIES, Array, Topology

SHAPES = [(1, 1), (1, 4), (5, 1), (3, 4), (4, 3)]
WIRES: dict[str, dict[str, float]] = {
    "ideal": {"r_row_ohm": 0.0, "r_col_ohm": 0.0},
    "ends only": {"r_row_ohm": 0.0, "r_col_ohm": 0.0, "r_source_ohm": 50.0, "r_sink_ohm": 20.0},
    "source only": {"r_row_ohm": 0.0, "r_col_ohm": 0.0, "r_source_ohm": 50.0},
    "rows only": {"r_row_ohm": 2.5, "r_col_ohm": 0.0},
    "columns only": {"r_row_ohm": 0.0, "r_col_ohm": 1.5, "r_sink_ohm": 7.0},
    "ordinary": {"r_row_ohm": 1.0, "r_col_ohm": 1.5},
    "all": {"r_row_ohm": 2.5, "r_col_ohm": 0.3, "r_source_ohm": 100.0, "r_sink_ohm": 30.0},
    "large": {"r_row_ohm": 1e6, "r_col_ohm": 1e5},
    "unlike": {"r_row_ohm": 1e-6, "r_col_ohm": 1e6, "r_sink_ohm": 1e3},
}


def needs_ngspice() -> None:
    if not spice.available():
        pytest.skip(spice.ABSENT)


def needs_badcrossbar() -> None:
    if not peers.available():
        pytest.skip(peers.ABSENT)


def conductances(*shape: int, seed: int = 0, opens: float = 0.2, lowest: float = -8.0) -> Array:
    """Six decades, up to 10 mS, and some cells open."""
    draw = np.random.default_rng(seed)
    g = 10 ** draw.uniform(lowest, lowest + 6, shape)
    return np.where(draw.random(shape) < opens, 0.0, g)


def voltages(rows: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, rows)


def close(one: Any, other: Any, relative: float) -> None:
    np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), relative, 0)


def same_solution(one: Any, other: Any, relative: float) -> None:
    """Voltages to a part of the largest voltage, currents to a part of the largest current."""
    for field in ("w", "b", "currents"):
        a, b = getattr(one, field), getattr(other, field)
        scale = abs(other.currents).max() if field == "currents" else abs(other.w).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * scale)


# ---- our own, against fractions and against arithmetic done by hand ----


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("wires", WIRES.values(), ids=WIRES)
@pytest.mark.parametrize("shape", SHAPES)
def test_floats_agree_with_fractions(
    shape: tuple[int, int], wires: dict[str, float], topology: Topology
) -> None:
    g = conductances(*shape)
    exact = kirchhoff.effective_exact(g, topology=topology, **wires)
    close(kirchhoff.star_mesh(g, topology=topology, **wires), exact, 1e-14)
    close(kirchhoff.star_mesh(g, number=np.longdouble, topology=topology, **wires), exact, 1e-15)
    close(kirchhoff.effective(g, topology=topology, **wires), exact, 1e-11)


@pytest.mark.parametrize(
    ("topology", "ohms"),
    [("opposite", 10 + 8), ("same", 10 + 8), ("both-ends", 5 + 4), ("driven-both-ends", 5 + 8)],
)
def test_one_cell_is_resistors_in_series(topology: Topology, ohms: float) -> None:
    wires = {"r_row_ohm": 3.0, "r_source_ohm": 7.0, "r_col_ohm": 2.0, "r_sink_ohm": 6.0}
    close(kirchhoff.effective([[0.01]], topology=topology, **wires), [[1 / (100 + ohms)]], 1e-15)


@pytest.mark.parametrize(
    ("topology", "segments"), [("opposite", 2 + 4), ("same", 2 + 3), ("both-ends", 2 * 3 / 5 + 3 * 4 / 7)]
)
def test_a_lone_device_sees_the_segments_on_its_way(topology: Topology, segments: float) -> None:
    g = np.zeros((6, 4))
    g[2, 1] = 0.01
    got = kirchhoff.effective(g, r_row_ohm=1.0, r_col_ohm=1.0, topology=topology)
    assert np.count_nonzero(got) == 1
    close(got[2, 1], 1 / (100 + segments), 1e-14)


def test_ideal_wires_give_the_conductances_themselves() -> None:
    g = conductances(5, 4)
    for topology in TOPOLOGIES:
        assert (kirchhoff.star_mesh(g, r_row_ohm=0.0, r_col_ohm=0.0, topology=topology) == g).all()
        assert (kirchhoff.effective(g, r_row_ohm=0.0, r_col_ohm=0.0, topology=topology) == g).all()


def test_topologies_are_mirror_images() -> None:
    g, wires = conductances(5, 4), WIRES["all"]
    made = {t: kirchhoff.star_mesh(g, topology=t, **wires) for t in TOPOLOGIES}
    close(kirchhoff.star_mesh(g[::-1], topology="opposite", **wires)[::-1], made["same"], 1e-14)
    close(
        kirchhoff.star_mesh(g[::-1, ::-1], topology="both-ends", **wires)[::-1, ::-1],
        made["both-ends"],
        1e-14,
    )
    turned = kirchhoff.star_mesh(g[:, ::-1], topology="driven-both-ends", **wires)[:, ::-1]
    close(turned, made["driven-both-ends"], 1e-14)


def test_newton_on_linear_devices_is_the_linear_solution() -> None:
    g, v = conductances(5, 4), voltages(5)
    for topology in TOPOLOGIES:
        for wires in WIRES.values():
            linear = kirchhoff.solve(g, v, topology=topology, **wires)
            close(linear.currents, v @ kirchhoff.star_mesh(g, topology=topology, **wires), 1e-10)
            got = kirchhoff.newton(lambda u: (g * u, g), v, 4, topology=topology, **wires)
            same_solution(got, linear, 1e-11)


# ---- ngspice ----


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("wires", WIRES.values(), ids=WIRES)
def test_ngspice_agrees(wires: dict[str, float], topology: Topology) -> None:
    needs_ngspice()
    g, v = conductances(4, 3), voltages(4)
    close(
        spice.effective(g, topology=topology, **wires),
        kirchhoff.star_mesh(g, topology=topology, **wires),
        1e-11,
    )
    same_solution(
        spice.currents(g, v, topology=topology, **wires),
        kirchhoff.solve(g, v, topology=topology, **wires),
        1e-11,
    )


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_ngspice_agrees_on_large_arrays(topology: Topology) -> None:
    needs_ngspice()
    g = conductances(32, 28)
    made = kirchhoff.star_mesh(g, topology=topology, **WIRES["all"])
    close(spice.effective(g, topology=topology, **WIRES["all"]), made, 1e-12)
    close(kirchhoff.effective(g, topology=topology, **WIRES["all"]), made, 1e-12)


NONLINEAR: dict[str, tuple[Any, Any]] = {
    "sinh": (lambda u: (np.sinh(4 * u) / 4, np.cosh(4 * u)), "sinh(4*{u})/4"),
    "steep sinh": (lambda u: (np.sinh(20 * u) / 20, np.cosh(20 * u)), "sinh(20*{u})/20"),
    "cubic": (lambda u: (u + u**3, 1 + 3 * u**2), "({u} + {u}*{u}*{u})"),
    "diode": (lambda u: (0.1 * np.expm1(u / 0.1), np.exp(u / 0.1)), "0.1*(exp({u}/0.1) - 1)"),
}


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("law", NONLINEAR)
@pytest.mark.parametrize("wires", ["ideal", "columns only", "all"])
def test_ngspice_agrees_on_nonlinear_devices(wires: str, law: str, topology: Topology) -> None:
    needs_ngspice()
    g, v = conductances(8, 6, lowest=-9), voltages(8)
    of, text = NONLINEAR[law]

    def expression(i: int, j: int, u: str) -> str | None:
        return f"{float(g[i, j])!r}*{text.format(u=u)}" if g[i, j] else None

    made = kirchhoff.newton(lambda u: tuple(g * x for x in of(u)), v, 6, topology=topology, **WIRES[wires])
    got = spice.currents(expression, v, 6, topology=topology, **WIRES[wires])
    same_solution(got, made, 1e-12)


def test_ngspice_refuses_its_own_powers() -> None:
    needs_ngspice()
    with pytest.raises(ValueError, match="write products"):
        spice.currents(lambda i, j, u: f"1e-6*{u}^3", [1.0], 1, r_row_ohm=1.0, r_col_ohm=1.0)


def test_a_failure_of_ngspice_is_said() -> None:
    needs_ngspice()
    with pytest.raises(RuntimeError, match="ngspice ended with"):
        spice.currents(lambda i, j, u: f"nothing({u})", [1.0], 1, r_row_ohm=1.0, r_col_ohm=1.0)


# ---- badcrossbar ----


@pytest.mark.parametrize("shape", [*SHAPES, (32, 28)])
@pytest.mark.parametrize(
    ("r_row_ohm", "r_col_ohm"), [(0, 0), (0, 1.5), (2.5, 0), (1, 1), (2.5, 0.3), (1e-4, 1e-3), (1e5, 1e6)]
)
def test_badcrossbar_agrees(shape: tuple[int, int], r_row_ohm: float, r_col_ohm: float) -> None:
    needs_badcrossbar()
    g = conductances(*shape)
    made = kirchhoff.star_mesh(g, r_row_ohm=r_row_ohm, r_col_ohm=r_col_ohm)
    close(peers.badcrossbar_effective(g, r_row_ohm, r_col_ohm), made, 1e-9)
