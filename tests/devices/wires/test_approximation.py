"""IR drop to first order: how it differs from the exact solution, and from nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neurosim.devices.wires import TOPOLOGIES, approximate_conductance, effective_conductance
from neurosim.errors import UsageError

F64 = torch.float64
NAMES = ("r_row_ohm", "r_col_ohm", "r_source_ohm", "r_sink_ohm")
WIRES: dict[str, dict[str, float]] = {
    "ordinary": {"r_row_ohm": 1.1, "r_col_ohm": 1.7},
    "all": {"r_row_ohm": 2.5, "r_col_ohm": 0.3, "r_source_ohm": 20.0, "r_sink_ohm": 30.0},
    "rows only": {"r_row_ohm": 2.3, "r_col_ohm": 0.0},
    "columns only": {"r_row_ohm": 0.0, "r_col_ohm": 2.3},
    "sources only": {"r_row_ohm": 0.0, "r_col_ohm": 0.0, "r_source_ohm": 5.0},
    "sinks only": {"r_row_ohm": 0.0, "r_col_ohm": 0.0, "r_sink_ohm": 5.0},
}
SHAPES = [(1, 1), (1, 6), (5, 1), (4, 7), (13, 9)]


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64) + 0.05


def both(g: Tensor, wires: dict[str, float], by: float, topology: str) -> tuple[Tensor, Tensor]:
    """(approximate, exact) with every resistance ``by`` as large."""
    ohms = {name: r * by for name, r in wires.items()}
    return (
        approximate_conductance(g, topology=topology, **ohms),
        effective_conductance(g, topology=topology, **ohms),
    )


# ---- the first order ----


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("wires", WIRES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_is_of_second_order(shape: tuple[int, int], wires: str, topology: str) -> None:
    """It falls to a quarter when resistances halve, where the loss itself halves."""
    g = some(*shape)
    by = 1e-4 / sum(shape)
    errors, losses = [], []
    for step in (by, by / 2, by / 4):
        quick, exact = both(g, WIRES[wires], step, topology)
        errors.append((quick - exact).abs().max())
        losses.append((g - exact).abs().max())
    for coarse, fine in ((0, 1), (1, 2)):
        assert float(losses[coarse] / losses[fine]) == pytest.approx(2.0, rel=0.01)
        if errors[fine] > 1e-13:  # a single row or column between ideal wires of the other kind is exact
            assert float(errors[coarse] / errors[fine]) == pytest.approx(4.0, rel=0.02)
    assert float(errors[0]) < 0.01 * float(losses[0])


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("wires", WIRES)
def test_its_first_order_is_that_of_the_exact_gradient(wires: str, topology: str) -> None:
    g, weight = some(6, 5), some(6, 5, seed=1)
    slopes = []
    for model in (approximate_conductance, effective_conductance):
        by = torch.tensor(1e-6, dtype=F64, requires_grad=True)
        found = model(g, topology=topology, **{name: by * r for name, r in WIRES[wires].items()})
        slopes.append(torch.autograd.grad((found * weight).sum(), by)[0])
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=0)
    assert bool(slopes[1] < 0)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_one_device_alone_loses_to_one_line_at_a_time(topology: str) -> None:
    """1 + δ_row and 1 + δ_col multiply where resistances in series would add: g·r² is what is missed."""
    g, ohms = torch.full((1, 1), 0.01, dtype=F64), {"r_row_ohm": 3.0, "r_source_ohm": 7.0, "r_col_ohm": 6.0}
    row = 10.0 / (2 if topology in ("both-ends", "driven-both-ends") else 1)
    col = 6.0 / (2 if topology == "both-ends" else 1)
    found = approximate_conductance(g, topology=topology, **ohms)
    assert found.item() == pytest.approx(0.01 / ((1 + 0.01 * row) * (1 + 0.01 * col)), rel=1e-14)


def test_two_ends_carry_what_leaves_no_drop_between_them() -> None:
    """Drops along a word line, added up segment by segment from either end, meet."""
    g, r, source = some(1, 7)[0], 0.013, 0.04
    found = approximate_conductance(
        g[None], r_row_ohm=r, r_col_ohm=0.0, r_source_ohm=source, topology="driven-both-ends"
    )[0]
    drop = g / found - 1
    left = float(drop[0] / (r + source))  # the current from the left end
    right = float(g.sum()) - left
    assert float(drop[-1]) == pytest.approx(right * (r + source), rel=1e-12)
    for k in range(6):
        left -= float(g[k])
        assert float(drop[k + 1] - drop[k]) == pytest.approx(left * r, rel=1e-9, abs=1e-15)


# ---- what always holds ----

seeds = st.integers(0, 2**31)
lengths = st.integers(1, 9)
ohms_of = st.fixed_dictionaries(dict.fromkeys(NAMES, st.sampled_from([0.0, 1e-3, 0.1, 3.0])))
topologies = st.sampled_from(list(TOPOLOGIES))


@given(lengths, lengths, seeds, ohms_of, topologies)
@settings(max_examples=60)
def test_it_lies_between_nothing_and_no_loss(
    rows: int, cols: int, seed: int, ohms: dict[str, float], topology: str
) -> None:
    g = some(rows, cols, seed=seed)
    g[seed % rows, seed % cols] = 0.0
    found = approximate_conductance(g, topology=topology, **ohms)
    assert found.shape == g.shape
    assert bool(found.isfinite().all())
    assert bool((found >= 0).all())
    assert bool((found <= g * (1 + 1e-12)).all())
    assert bool((found[g == 0] == 0).all())  # no sneak paths
    assert bool((found[g > 0] > 0).all())


@given(lengths, lengths, seeds, ohms_of, topologies)
@settings(max_examples=40)
def test_it_mirrors_as_the_exact_one_does(
    rows: int, cols: int, seed: int, ohms: dict[str, float], topology: str
) -> None:
    g = some(rows, cols, seed=seed)
    row, col, source, sink = (ohms[name] for name in NAMES)
    swapped = {"r_row_ohm": col, "r_col_ohm": row, "r_source_ohm": sink, "r_sink_ohm": source}
    found = approximate_conductance(g, topology=topology, **ohms)
    if topology == "opposite":
        turned = approximate_conductance(g.flip(0, 1).mT, topology=topology, **swapped).mT.flip(0, 1)
    elif topology == "driven-both-ends":
        turned = approximate_conductance(g.flip(1), topology=topology, **ohms).flip(1)
    else:
        turned = approximate_conductance(g.mT, topology=topology, **swapped).mT
    torch.testing.assert_close(turned, found, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_without_resistance_nothing_changes(topology: str, dtype: torch.dtype) -> None:
    """Also along one kind of line alone, where both ends of it are at one voltage."""
    g = some(3, 5, 4).to(dtype)
    assert torch.equal(approximate_conductance(g, r_row_ohm=0.0, r_col_ohm=0.0, topology=topology), g)
    for name, dim in (("r_row_ohm", 0), ("r_col_ohm", 1)):
        ohms = {"r_row_ohm": 0.0, "r_col_ohm": 0.0, name: 0.1}
        found = approximate_conductance(g[0], topology=topology, **ohms)
        assert bool(found.isfinite().all())
        alone = approximate_conductance(
            g[0].narrow(dim, 1, 1), topology=topology, **ohms
        )  # one line of the resistive kind knows nothing of the others
        torch.testing.assert_close(found.narrow(dim, 1, 1), alone, rtol=1e-6, atol=0)


def test_shapes_types_and_batches() -> None:
    g = some(2, 3, 6, 5)
    r = torch.tensor([[0.1], [0.0]], dtype=F64)
    for topology in TOPOLOGIES:
        found = approximate_conductance(
            g, r_row_ohm=r, r_col_ohm=0.2, r_source_ohm=torch.ones(3), topology=topology
        )
        assert found.shape == g.shape
        assert found.dtype == F64
        for i in range(2):
            for j in range(3):
                alone = approximate_conductance(
                    g[i, j], r_row_ohm=float(r[i, 0]), r_col_ohm=0.2, r_source_ohm=1.0, topology=topology
                )
                torch.testing.assert_close(found[i, j], alone, rtol=1e-14, atol=0)
        narrow = approximate_conductance(g.float(), r_row_ohm=0.1, r_col_ohm=0.2, topology=topology)
        assert narrow.dtype == torch.float32
        wide = approximate_conductance(g, r_row_ohm=0.1, r_col_ohm=0.2, topology=topology)
        torch.testing.assert_close(narrow.double(), wide, rtol=2e-6, atol=0)
    for shape in [(0, 3, 4), (2, 0, 4), (3, 0)]:
        assert approximate_conductance(torch.ones(shape), r_row_ohm=1.0, r_col_ohm=1.0).shape == shape


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_autograd_follows(topology: str) -> None:
    g = some(4, 3).requires_grad_()
    leaves = [torch.tensor(r, dtype=F64, requires_grad=True) for r in (0.11, 0.07, 0.3, 0.2)]

    def run(g: Tensor, *ohms: Tensor) -> Tensor:
        return approximate_conductance(g, topology=topology, **dict(zip(NAMES, ohms, strict=True)))

    assert torch.autograd.gradcheck(run, (g, *leaves))
    assert torch.autograd.gradgradcheck(run, (g, *leaves))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gradients_where_there_is_no_resistance(topology: str) -> None:
    """Finite, and those of the exact solution."""
    g, weight = some(6, 5), some(6, 5, seed=1)
    found = []
    for model in (approximate_conductance, effective_conductance):
        ohms = [torch.zeros((), dtype=F64, requires_grad=True) for _ in range(2)]
        run = model(g, r_row_ohm=ohms[0], r_col_ohm=ohms[1], topology=topology)
        found.append(torch.stack(torch.autograd.grad((run * weight).sum(), ohms)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=0)


# ---- wrong use ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"g_siemens": torch.ones(3)}, r"of shape \(\.\.\., rows, cols\); got \(3,\)"),
        ({"g_siemens": -torch.ones(3, 3)}, "expected finite conductances of 0 S or more"),
        ({"g_siemens": torch.ones(3, 3).int()}, "as a float32 or float64 tensor"),
        ({"r_row_ohm": -1.0}, r"got r_row_ohm=-1\.0"),
        ({"r_col_ohm": float("nan")}, "got r_col_ohm=nan"),
        ({"r_source_ohm": True}, "expected r_source_ohm as a number"),
        ({"r_sink_ohm": torch.ones(2)}, "expected r_sink_ohm to broadcast"),
        ({"topology": "both"}, "unknown topology 'both': did you mean 'both-ends'"),
    ],
)
def test_wrong_use_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    right = {"g_siemens": torch.ones(3, 3), "r_row_ohm": 1.0, "r_col_ohm": 1.0}
    with pytest.raises(UsageError, match=sentence):
        approximate_conductance(**{**right, **changes})
