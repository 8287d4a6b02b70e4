"""Effective conductances against circuits solved by others, their gradients, laws of circuits, and wrong use.

Tolerances are about three times what was measured; "of the largest" means of the matrix's largest entry.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neurosim.devices.wires import TOPOLOGIES, effective_conductance
from neurosim.errors import UsageError

from . import kirchhoff, peers, spice

F64 = torch.float64
NAMES = ("r_row_ohm", "r_col_ohm", "r_source_ohm", "r_sink_ohm")

WIRES: dict[str, dict[str, float]] = {
    "ordinary": {"r_row_ohm": 1.1, "r_col_ohm": 1.7},
    "all": {"r_row_ohm": 2.5, "r_col_ohm": 0.3, "r_source_ohm": 100.0, "r_sink_ohm": 30.0},
    "rows only": {"r_row_ohm": 2.3, "r_col_ohm": 0.0},
    "columns only": {"r_row_ohm": 0.0, "r_col_ohm": 2.3},
    "sources only": {"r_row_ohm": 0.0, "r_col_ohm": 0.0, "r_source_ohm": 50.0},
    "sinks only": {"r_row_ohm": 0.0, "r_col_ohm": 0.0, "r_sink_ohm": 50.0},
    "tiny": {"r_row_ohm": 1e-6, "r_col_ohm": 1e-6},
    "huge": {"r_row_ohm": 1e6, "r_col_ohm": 1e6},
    "unlike": {"r_row_ohm": 1e-6, "r_col_ohm": 1e6, "r_sink_ohm": 1e3},
    "huge rows alone": {"r_row_ohm": 1e6, "r_col_ohm": 0.0},
}
# where no wire is ideal beside others that are not, small entries keep their digits too
ENTRYWISE = ("ordinary", "all", "huge")
KINDS = ("uniform", "six decades", "opens", "shorts")

SMALL = [(1, 1), (1, 7), (5, 1), (2, 2), (3, 5), (13, 9)]
LARGE = [(32, 32), (20, 33)]
CASES = [(shape, wires) for shape in SMALL for wires in WIRES]
CASES += [(shape, wires) for shape in LARGE for wires in ("all", "columns only", "unlike")]


def drawn(kind: str, rows: int, cols: int) -> np.ndarray:
    """Conductances that float32 can hold, so that both types are asked the same question."""
    draw = np.random.default_rng(7)
    if kind == "uniform":
        g = draw.uniform(1e-6, 1e-4, (rows, cols))
    else:
        g = 10 ** draw.uniform(-9, -3, (rows, cols))
    g[draw.random((rows, cols)) < 0.2] *= {"opens": 0.0, "shorts": np.inf}.get(kind, 1.0)
    return np.where(np.isinf(g), 1e3, g).astype(np.float32).astype(np.float64)


@cache
def reference(kind: str, rows: int, cols: int, wires: str, topology: kirchhoff.Topology) -> np.ndarray:
    return kirchhoff.star_mesh(drawn(kind, rows, cols), topology=topology, **WIRES[wires])


def kinds(rows: int) -> tuple[str, ...]:
    return KINDS if rows < 16 else ("six decades", "shorts")


def some(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Conductances of order 1 S, to go with wires of order 0.1 Ω."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype) + 0.1


def worst(found: Tensor, expected: Any) -> float:
    """Largest error, of the largest entry."""
    expected = torch.as_tensor(expected, dtype=F64)
    return float((found.detach().double() - expected).abs().max() / expected.abs().max())


# ---- against what is not our code ----


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(("shape", "wires"), CASES)
def test_star_mesh_agrees(shape: tuple[int, int], wires: str, topology: kirchhoff.Topology) -> None:
    """6e-14 of the largest (measured 2.0e-14), and 1e-12 entry by entry between good wires (3.1e-13)."""
    g = torch.tensor(np.stack([drawn(kind, *shape) for kind in kinds(shape[0])]))
    found = effective_conductance(g, topology=topology, **WIRES[wires])
    assert found.shape == g.shape
    assert found.dtype == F64
    for kind, one in zip(kinds(shape[0]), found.numpy(), strict=True):
        expected = reference(kind, *shape, wires, topology)
        np.testing.assert_allclose(one, expected, rtol=0, atol=6e-14 * expected.max())
        if wires in ENTRYWISE:
            np.testing.assert_allclose(one, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(("shape", "wires"), CASES)
def test_star_mesh_agrees_in_float32(
    shape: tuple[int, int], wires: str, topology: kirchhoff.Topology
) -> None:
    """2e-6 of the largest (measured 6.7e-7), and 5e-6 entry by entry between good wires (1.6e-6)."""
    g = torch.tensor(np.stack([drawn(kind, *shape) for kind in kinds(shape[0])]), dtype=torch.float32)
    found = effective_conductance(g, topology=topology, **WIRES[wires])
    assert found.dtype == torch.float32
    for kind, one in zip(kinds(shape[0]), found.double().numpy(), strict=True):
        expected = reference(kind, *shape, wires, topology)
        np.testing.assert_allclose(one, expected, rtol=0, atol=2e-6 * expected.max())
        if wires in ENTRYWISE:
            np.testing.assert_allclose(one, expected, rtol=5e-6, atol=0)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(("shape", "wires"), [((32, 32), "all"), ((9, 14), "columns only"), ((6, 1), "all")])
def test_ngspice_agrees(shape: tuple[int, int], wires: str, topology: str) -> None:
    if not spice.available():
        pytest.skip(spice.ABSENT)
    g = drawn("opens", *shape)
    found = effective_conductance(torch.tensor(g), topology=topology, **WIRES[wires])
    assert worst(found, spice.effective(g, topology=topology, **WIRES[wires])) < 1e-11


@pytest.mark.parametrize(("r_row_ohm", "r_col_ohm"), [(2.5, 0.3), (0.0, 1.5), (1e5, 1e6)])
def test_badcrossbar_agrees(r_row_ohm: float, r_col_ohm: float) -> None:
    if not peers.available():
        pytest.skip(peers.ABSENT)
    g = drawn("six decades", 48, 40)
    found = effective_conductance(torch.tensor(g), r_row_ohm=r_row_ohm, r_col_ohm=r_col_ohm)
    assert worst(found, peers.badcrossbar_effective(g, r_row_ohm, r_col_ohm)) < 1e-10


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_one_cell_is_resistors_in_series(topology: str) -> None:
    """And so wires of two ends are two in parallel."""
    row, col = 3.0 + 7.0, 2.0 + 6.0
    row = row / 2 if topology in ("both-ends", "driven-both-ends") else row
    col = col / 2 if topology == "both-ends" else col
    found = effective_conductance(
        torch.full((1, 1), 0.01, dtype=F64), r_row_ohm=3.0, r_source_ohm=7.0, r_col_ohm=2.0, r_sink_ohm=6.0,
        topology=topology,
    )  # fmt: skip
    assert found.item() == pytest.approx(1 / (100 + row + col), rel=1e-15)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("shape", [(48, 48), (100, 100), (97, 130), (5, 300)])
@pytest.mark.parametrize("wires", ["rows only", "columns only", "sources only", "ordinary"])
def test_float32_keeps_up_where_the_grid_is_padded_and_wires_are_ideal(
    shape: tuple[int, int], wires: str, topology: str
) -> None:
    """Wires across padding are 1e7 times better than ideal ones, and a product of two is beyond float32.

    5e-6 of the largest (measured 1.6e-6).
    """
    g = torch.tensor(drawn("uniform", *shape))
    exact = effective_conductance(g, topology=topology, **WIRES[wires])
    assert worst(effective_conductance(g.float(), topology=topology, **WIRES[wires]), exact) < 5e-6


def test_numbers_are_not_rounded_to_float32_on_their_way() -> None:
    g = torch.full((1, 1), 1.0, dtype=F64)
    for third in (1 / 3, torch.tensor(1 / 3, dtype=F64)):
        found = effective_conductance(g, r_row_ohm=third, r_col_ohm=0.1, r_source_ohm=0.7, r_sink_ohm=0.3)
        assert found.item() == pytest.approx(1 / (1 + 1 / 3 + 0.1 + 0.7 + 0.3), rel=1e-15)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_on_each_device(device: str, dtype: torch.dtype) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch.cuda.is_available() is False: no GPU, or a build of torch without CUDA")
    g = torch.tensor(np.stack([drawn(kind, 13, 9) for kind in KINDS]), device=device, dtype=dtype)
    g.requires_grad_()
    r = torch.tensor(2.5, dtype=F64, requires_grad=True)  # stays on the CPU: moved like a number
    for topology in kirchhoff.TOPOLOGIES:
        found = effective_conductance(g, topology=topology, **{**WIRES["all"], "r_row_ohm": r})
        assert found.device == g.device
        for kind, one in zip(KINDS, found.cpu(), strict=True):
            assert worst(one, reference(kind, 13, 9, "all", topology)) < (1e-13 if dtype == F64 else 3e-6)
        found.sum().backward()
    assert g.grad is not None
    assert g.grad.device == g.device
    assert r.grad is not None
    assert bool(r.grad < 0)


# ---- no resistance ----


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("zero", [0, 0.0, -0.0, torch.zeros(()), torch.zeros(2, 3)])
def test_without_resistance_nothing_changes(zero: Any, dtype: torch.dtype, topology: str) -> None:
    g = some(2, 3, 5, 4, dtype=dtype).requires_grad_()
    found = effective_conductance(
        g, r_row_ohm=zero, r_col_ohm=zero, r_source_ohm=zero, r_sink_ohm=0.0, topology=topology
    )
    assert torch.equal(found, g)
    found.sum().backward()
    assert torch.equal(g.grad, torch.ones_like(g))  # type: ignore[arg-type]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_arrays_without_resistance_among_others_keep_their_conductances(topology: str) -> None:
    """A floor of 1e-14 of the array's resistance stands for none."""
    g, ohm = some(3, 13, 9), torch.tensor([0.0, 0.01, 0.0])
    found = effective_conductance(g, r_row_ohm=ohm, r_col_ohm=ohm, topology=topology)
    torch.testing.assert_close(found[[0, 2]], g[[0, 2]], rtol=1e-13, atol=0)
    assert not torch.allclose(found[1], g[1], rtol=1e-2)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_it_is_continuous_where_resistance_ends(topology: str) -> None:
    """The change is in proportion to a small resistance, down to where float64 sees no change."""
    g = some(6, 5)
    change = [
        (g - effective_conductance(g, r_row_ohm=r, r_col_ohm=2 * r, topology=topology)) / r
        for r in (1e-5, 1e-7)
    ]
    torch.testing.assert_close(change[0], change[1], rtol=1e-3, atol=1e-7)
    for r in (1e-12, 1e-16, 1e-30, 1e-300, 5e-324):
        found = effective_conductance(g, r_row_ohm=r, r_col_ohm=2 * r, topology=topology)
        torch.testing.assert_close(found, g, rtol=1e-13 + 1e3 * r, atol=0)


# ---- batches ----


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("shape", [(1, 1), (6, 1), (5, 7), (33, 20)])
def test_arrays_of_a_batch_are_solved_apart(shape: tuple[int, int], topology: str) -> None:
    """Each with its own wires, as one by one: up to the last bit, which libraries give by place in memory."""
    g = some(2, 3, *shape)
    g[1, 2] *= 1e-6  # its neighbours' scale must not matter
    ohms = {
        "r_row_ohm": torch.tensor([0.01, 0.02, 0.5], dtype=F64),
        "r_col_ohm": torch.tensor([[0.03], [0.0]], dtype=F64),
        "r_source_ohm": torch.arange(6, dtype=F64).reshape(2, 3) / 10,
        "r_sink_ohm": 0.07,
    }
    found = effective_conductance(g, topology=topology, **ohms)
    assert found.shape == g.shape
    for i, j in np.ndindex(2, 3):
        own = {name: torch.as_tensor(r, dtype=F64).expand(2, 3)[i, j].item() for name, r in ohms.items()}
        alone = effective_conductance(g[i, j], topology=topology, **own)
        torch.testing.assert_close(found[i, j], alone, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_how_arrays_are_split_does_not_matter(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """In one go, one array at a time, and in parts that do not divide the number of arrays."""
    room = sys.modules["neurosim.devices.wires.effective"]
    g, weight = some(7, 12, 9, dtype=dtype), some(7, 12, 9, seed=1, dtype=dtype)
    r = torch.linspace(0.01, 0.05, 7, dtype=F64, requires_grad=True)

    def run() -> tuple[Tensor, Tensor, Tensor]:
        leaf = g.clone().requires_grad_()
        found = effective_conductance(leaf, r_row_ohm=r, r_col_ohm=0.02)
        plain = effective_conductance(g, r_row_ohm=r.detach(), r_col_ohm=0.02)
        return plain, *torch.autograd.grad((found * weight).sum(), [leaf, r])

    whole = run()
    itemsize = g.element_size()
    counts = []
    for budget in (1, 3 * 16 * 12 * 9 * itemsize, 1 << 40):
        monkeypatch.setattr(room, "_BLOCK_BYTES", budget)
        counts.append(len(room._parts(7, 12, 9, itemsize)))
        tolerance = 1e-13 if dtype == F64 else 1e-5
        for one, other in zip(run(), whole, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    assert counts == [7, 3, 1]


def test_the_same_question_has_the_same_answer() -> None:
    g = some(3, 33, 20, dtype=torch.float32)
    first = effective_conductance(g, r_row_ohm=0.01, r_col_ohm=0.02)
    for _ in range(3):
        assert torch.equal(effective_conductance(g, r_row_ohm=0.01, r_col_ohm=0.02), first)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 3, 4), (0, 4), (3, 0), (2, 0, 4), (0, 0)])
def test_nothing_has_no_wires(shape: tuple[int, ...]) -> None:
    g = torch.zeros(shape, dtype=F64, requires_grad=True)
    found = effective_conductance(g, r_row_ohm=1.0, r_col_ohm=1.0)
    assert found.shape == shape
    found.sum().backward()


def test_any_order_in_memory_is_read_and_nothing_is_written() -> None:
    dense, r = some(3, 13, 9), torch.tensor([0.01, 0.02, 0.03], dtype=F64)
    expected = effective_conductance(dense, r_row_ohm=r, r_col_ohm=0.01)
    strided = torch.zeros(6, 26, 27, dtype=F64)[::2, ::2, ::3]
    strided.copy_(dense)
    views = {
        "turned": dense.mT.contiguous().mT,
        "axes in another order": dense.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "strided": strided,
    }
    for name, view in views.items():
        assert not view.is_contiguous(), name
        before = view.clone()
        found = effective_conductance(view, r_row_ohm=r, r_col_ohm=0.01)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
        assert torch.equal(view, before)
    one = dense[:1].expand(3, 13, 9)
    found = effective_conductance(one, r_row_ohm=r, r_col_ohm=0.01)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-14, atol=0)
    assert torch.equal(r, torch.tensor([0.01, 0.02, 0.03], dtype=F64))
    leaf = dense.clone().requires_grad_()
    effective_conductance(leaf, r_row_ohm=r, r_col_ohm=0.01).sum().backward()
    assert torch.equal(leaf, dense)


# ---- gradients ----


def of_everything(topology: str) -> Callable[..., Tensor]:
    def run(g: Tensor, *ohms: Tensor) -> Tensor:
        return effective_conductance(g, topology=topology, **dict(zip(NAMES, ohms, strict=True)))

    return run


def leaves(*ohms: float) -> list[Tensor]:
    return [torch.tensor(ohm, dtype=F64, requires_grad=True) for ohm in ohms]


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (2, 2), (3, 5), (5, 3), (2, 3, 4)])
def test_gradients_are_finite_differences(shape: tuple[int, ...], topology: str) -> None:
    g, ohms, run = some(*shape).requires_grad_(), leaves(0.11, 0.07, 0.3, 0.2), of_everything(topology)
    assert torch.autograd.gradcheck(run, (g, *ohms))
    fixed = [r.detach() for r in ohms]  # computed by other means
    assert torch.autograd.gradcheck(lambda g: run(g, *fixed), (g,))


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("shape", [(9, 10), (20, 17)])
def test_gradients_of_larger_arrays(shape: tuple[int, int], topology: str) -> None:
    """Where LAPACK eliminates: directional derivatives, for all inputs at once."""
    g, ohms = some(*shape).requires_grad_(), leaves(0.011, 0.007, 0.3, 0.2)
    run = of_everything(topology)
    assert torch.autograd.gradcheck(run, (g, *ohms), fast_mode=True)
    fixed = [r.detach() for r in ohms]
    assert torch.autograd.gradcheck(lambda g: run(g, *fixed), (g,), fast_mode=True)
    weight = some(*shape, seed=1)
    grads = torch.autograd.grad((run(g, *ohms) * weight).sum(), [g, *ohms])
    for seed in range(2):
        way = [some(*shape, seed=seed + 5) - 0.6, *(some(1, seed=seed + 9)[0] * r.detach() for r in ohms)]
        step = 1e-5
        ends = [
            run(*(x.detach() + sign * step * d for x, d in zip((g, *ohms), way, strict=True)))
            for sign in (1, -1)
        ]
        measured = ((ends[0] - ends[1]) * weight).sum() / (2 * step)
        along = sum((a * d).sum() for a, d in zip(grads, way, strict=True))
        assert float(along) == pytest.approx(float(measured), rel=1e-7)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_resistances_of_a_batch_each_have_their_gradient(topology: str) -> None:
    """Broadcast ones add up; and each needs a gradient without the others."""
    g = some(2, 3, 4, 3)
    whole = leaves(0.11, 0.07, 0.3, 0.2)
    ohms = [
        torch.tensor([0.1, 0.2, 0.3], dtype=F64, requires_grad=True),
        torch.tensor([[0.3], [0.1]], dtype=F64, requires_grad=True),
        torch.full((2, 3), 0.4, dtype=F64, requires_grad=True),
        torch.tensor(0.5, dtype=F64, requires_grad=True),
    ]
    assert torch.autograd.gradcheck(of_everything(topology), (g, *ohms))
    run = of_everything(topology)
    together = torch.autograd.grad(run(g, *whole).sum(), whole)
    for k in range(4):
        own = [r if n == k else r.detach() for n, r in enumerate(whole)]
        (alone,) = torch.autograd.grad(run(g, *own).sum(), whole[k])
        torch.testing.assert_close(alone, together[k], rtol=1e-12, atol=0)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_an_open_device_has_the_gradient_of_closing_it(topology: str) -> None:
    g, weight = some(6, 5), some(6, 5, seed=1)
    g[1, 2] = g[4, 0] = g[:, 3] = 0.0
    ohms = {"r_row_ohm": 0.1, "r_col_ohm": 0.2, "topology": topology}
    leaf = g.clone().requires_grad_()
    before = effective_conductance(leaf, **ohms)  # type: ignore[arg-type]
    (grad,) = torch.autograd.grad((before * weight).sum(), leaf)
    for i, j in [(1, 2), (4, 0), (0, 3), (5, 3)]:
        change = []
        for step in (2e-5, 1e-5):
            closed = g.clone()
            closed[i, j] = step
            after = effective_conductance(closed, **ohms)  # type: ignore[arg-type]
            change.append(((after - before.detach()) * weight).sum() / step)
        assert float(grad[i, j]) == pytest.approx(float(2 * change[1] - change[0]), rel=1e-6)  # Richardson


def shared(cells: int, two_ends: bool) -> Tensor:
    """Segments that the currents of two cells of a line share on their way to its ends, (cells, cells)."""
    place = torch.arange(1, cells + 1, dtype=F64)
    near, far = torch.minimum(place[:, None], place), torch.maximum(place[:, None], place)
    return near * (cells + 1 - far) / (cells + 1) if two_ends else near


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (4, 1), (5, 7), (12, 9)])
def test_the_gradient_where_there_is_no_resistance(shape: tuple[int, int], topology: str) -> None:
    """In closed form: ∂g_ij/∂r_row = −g_ij Σ_k S_jk g_ik, S the shared segments; likewise along columns."""
    g, weight = some(*shape), some(*shape, seed=1)
    rows, cols = shape
    words = shared(cols, topology in ("both-ends", "driven-both-ends"))
    bits = shared(rows, topology == "both-ends")
    if topology != "same" and topology != "both-ends":
        bits = bits.flip(0, 1)  # sensed after the last row
    slopes = [-g * (g @ words), -g * (bits @ g)]
    ohms = leaves(0.0, 0.0)
    run = effective_conductance(g, r_row_ohm=ohms[0], r_col_ohm=ohms[1], topology=topology)
    torch.testing.assert_close(run, g, rtol=1e-6, atol=0)
    for found, slope in zip(torch.autograd.grad((run * weight).sum(), ohms), slopes, strict=True):
        assert float(found) == pytest.approx(float((slope * weight).sum()), rel=1e-6)
    if topology in ("opposite", "same"):  # with two ends it depends on how segments and ends near 0
        ends = leaves(0.0, 0.0)
        run = effective_conductance(
            g, r_row_ohm=0.0, r_col_ohm=0.0, r_source_ohm=ends[0], r_sink_ohm=ends[1], topology=topology
        )
        slopes = [-g * g.sum(1, keepdim=True), -g * g.sum(0)]
        for found, slope in zip(torch.autograd.grad((run * weight).sum(), ends), slopes, strict=True):
            assert float(found) == pytest.approx(float((slope * weight).sum()), rel=1e-6)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("name", NAMES)
def test_the_one_sided_gradient_at_a_resistance_of_zero_among_others(name: str, topology: str) -> None:
    g, weight = some(6, 5), some(6, 5, seed=1)
    ohms: dict[str, Any] = {"r_row_ohm": 0.05, "r_col_ohm": 0.03, "r_source_ohm": 0.2, "r_sink_ohm": 0.1}

    def run(r: Any) -> Tensor:
        return (effective_conductance(g, topology=topology, **{**ohms, name: r}) * weight).sum()

    (leaf,) = leaves(0.0)
    (found,) = torch.autograd.grad(run(leaf), leaf)
    change = [(run(step) - run(0.0)) / step for step in (2e-5, 1e-5)]
    assert float(found) == pytest.approx(float(2 * change[1] - change[0]), rel=1e-6)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("wires", ["ordinary", "all", "rows only", "tiny"])
def test_gradients_in_float32_are_those_of_float64(wires: str, topology: str) -> None:
    """3e-6 of the largest (measured 9.1e-7)."""
    plain = torch.tensor(drawn("uniform", 20, 33))
    weight = some(20, 33, seed=1)
    grads = []
    for dtype in (F64, torch.float32):
        g = plain.to(dtype).requires_grad_()
        found = effective_conductance(g, topology=topology, **WIRES[wires])
        grads.append(torch.autograd.grad(found, g, weight.to(dtype))[0])
    assert grads[1].dtype == torch.float32
    assert worst(grads[1], grads[0]) < 3e-6


def test_a_resistance_that_learns_among_float32_conductances() -> None:
    """It keeps its type, the conductances theirs, and everything between is float64."""
    g = some(9, 7, dtype=torch.float32).requires_grad_()
    exact = some(9, 7, dtype=torch.float32).double().requires_grad_()
    for dtype in (F64, torch.float32):
        r, wide = (torch.tensor(0.25, dtype=d, requires_grad=True) for d in (dtype, F64))
        found = effective_conductance(g, r_row_ohm=r, r_col_ohm=0.1)
        assert found.dtype == torch.float32
        of_g, of_r = torch.autograd.grad(found.sum(), [g, r])
        assert (of_g.dtype, of_r.dtype) == (torch.float32, dtype)
        total = effective_conductance(exact, r_row_ohm=wide, r_col_ohm=0.1).sum()
        for narrow, expected in zip((of_g, of_r), torch.autograd.grad(total, [exact, wide]), strict=True):
            torch.testing.assert_close(narrow.double(), expected, rtol=3e-7, atol=0)


def test_gradients_are_taken_once() -> None:
    g = some(3, 4).requires_grad_()
    found = effective_conductance(g, r_row_ohm=0.1, r_col_ohm=0.1)
    (grad,) = torch.autograd.grad(found.square().sum(), g, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_nothing_is_kept_for_a_gradient_that_nobody_wants() -> None:
    g = some(3, 4)
    assert not effective_conductance(g, r_row_ohm=0.1, r_col_ohm=0.1).requires_grad
    with torch.no_grad():
        assert not effective_conductance(g.requires_grad_(), r_row_ohm=0.1, r_col_ohm=0.1).requires_grad


# ---- the kernels of small blocks, and the torch operations that define them ----


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 2), (3, 1), (1, 40), (2, 2), (5, 3), (8, 8), (9, 17), (16, 16), (33, 20), (50, 7), (48, 48)],
)
def test_kernels_are_their_definition(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], dtype: torch.dtype, topology: str
) -> None:
    """Values and gradients, 5 arrays at once: to 2e-14 and 8e-6 of the largest (measured 4e-15, 2.4e-6)."""
    room = sys.modules["neurosim.devices.wires.effective"]
    g, weight = some(5, *shape, dtype=dtype), some(5, *shape, seed=1, dtype=dtype)
    g[1, ::2, 1::2] = 0.0
    ohms = {
        "r_row_ohm": torch.tensor([0.05, 0.0, 1e-6, 0.05, 0.0], dtype=F64),
        "r_col_ohm": torch.tensor([0.02, 0.03, 30.0, 0.0, 0.0], dtype=F64),
        "r_sink_ohm": 0.1,
    }

    def run() -> tuple[Tensor, Tensor]:
        leaf = g.clone().requires_grad_()
        found = effective_conductance(leaf, topology=topology, **ohms)
        return found.detach(), torch.autograd.grad((found * weight).sum(), leaf)[0]

    quick = run()
    monkeypatch.setattr(room, "leaves_of", lambda *_: None)
    for found, expected in zip(quick, run(), strict=True):
        for k in range(5):
            assert worst(found[k], expected[k]) < (2e-14 if dtype == F64 else 8e-6)


# ---- laws of circuits ----

seeds = st.integers(0, 2**31)
lengths = st.integers(1, 9)
ohms = st.sampled_from([0.0, 1e-3, 0.1, 1.0, 30.0])
wires_of = st.fixed_dictionaries(dict.fromkeys(NAMES, ohms))
topologies = st.sampled_from(list(TOPOLOGIES))


def cells(rows: int, cols: int, seed: int) -> Tensor:
    """Three decades around 0.1 S, some cells open."""
    draw = torch.Generator().manual_seed(seed)
    g = 10 ** (3 * torch.rand(rows, cols, generator=draw, dtype=F64) - 2.5)
    return torch.where(torch.rand(rows, cols, generator=draw, dtype=F64) < 0.2, 0.0, g)


@given(lengths, lengths, seeds, wires_of, topologies)
@settings(max_examples=60)
def test_wires_give_nothing(rows: int, cols: int, seed: int, wires: dict[str, float], topology: str) -> None:
    """No negative conductance, and no line carries more than its devices would without wires.

    Single entries may: a sneak path conducts where a device is open.
    """
    g = cells(rows, cols, seed)
    found = effective_conductance(g, topology=topology, **wires)
    margin = 1 + 1e-12
    assert bool((found >= 0).all())
    assert bool((found.sum(1) <= g.sum(1) * margin).all())
    assert bool((found.sum(0) <= g.sum(0) * margin).all())
    # nor more than the wires at its ends let through
    ends = {"opposite": (1, 1), "same": (1, 1), "both-ends": (2, 2), "driven-both-ends": (2, 1)}[topology]
    for total, lines, names in ((found.sum(1), 0, NAMES[0::2]), (found.sum(0), 1, NAMES[1::2])):
        series = sum(wires[name] for name in names)
        if series:
            assert float(total.max()) <= ends[lines] / series * margin


@given(lengths, lengths, seeds, wires_of, topologies, st.sampled_from(NAMES), st.sampled_from([0.01, 5.0]))
@settings(max_examples=60)
def test_more_resistance_never_carries_more(
    rows: int, cols: int, seed: int, wires: dict[str, float], topology: str, name: str, more: float
) -> None:
    """Rayleigh: the whole current at equal inputs falls with every resistance and rises with every device."""
    g = cells(rows, cols, seed)
    before = effective_conductance(g, topology=topology, **wires).sum()
    worse = {**wires, name: wires[name] + more}
    assert float(effective_conductance(g, topology=topology, **worse).sum()) <= float(before) * (1 + 1e-12)
    better = g.clone()
    better[seed % rows, seed % cols] += 0.5
    after = effective_conductance(better, topology=topology, **wires).sum()
    assert float(after) >= float(before) * (1 - 1e-12)


@given(lengths, lengths, seeds, wires_of, topologies, st.floats(1e-6, 1e6))
@settings(max_examples=60)
def test_only_the_product_of_ohms_and_siemens_matters(
    rows: int, cols: int, seed: int, wires: dict[str, float], topology: str, factor: float
) -> None:
    g = cells(rows, cols, seed)
    found = effective_conductance(g, topology=topology, **wires)

    def scaled(by: float) -> Tensor:
        return effective_conductance(g * by, topology=topology, **{name: r / by for name, r in wires.items()})

    assert torch.equal(scaled(2.0**-15), found * 2.0**-15)  # powers of two change no rounding
    torch.testing.assert_close(scaled(factor), found * factor, rtol=1e-9, atol=1e-13 * factor)


@given(lengths, lengths, seeds, wires_of, topologies)
@settings(max_examples=60)
def test_what_drives_may_sense(
    rows: int, cols: int, seed: int, wires: dict[str, float], topology: str
) -> None:
    """Reciprocity: word and bit lines change places, and with them rows and columns, sources and sinks."""
    g = cells(rows, cols, seed)
    found = effective_conductance(g, topology=topology, **wires)
    row, col, source, sink = (wires[name] for name in NAMES)
    swapped = {"r_row_ohm": col, "r_col_ohm": row, "r_source_ohm": sink, "r_sink_ohm": source}
    if topology == "driven-both-ends":
        # its mirror image is another arrangement: only upside down it stays itself
        turned = effective_conductance(g.flip(1), topology=topology, **wires).flip(1)
    elif topology == "opposite":  # driven before column 0, sensed after the last row
        turned = effective_conductance(g.flip(0, 1).mT, topology=topology, **swapped).mT.flip(0, 1)
    else:
        turned = effective_conductance(g.mT, topology=topology, **swapped).mT
    torch.testing.assert_close(turned, found, rtol=1e-9, atol=1e-13)


@given(lengths, lengths, seeds, wires_of)
@settings(max_examples=30)
def test_topologies_are_mirror_images(rows: int, cols: int, seed: int, wires: dict[str, float]) -> None:
    g = cells(rows, cols, seed)
    opposite = effective_conductance(g, topology="opposite", **wires)
    same = effective_conductance(g.flip(0), topology="same", **wires).flip(0)
    torch.testing.assert_close(same, opposite, rtol=1e-9, atol=1e-13)


# ---- wrong use ----

G = torch.full((2, 3, 4), 1e-3)
ONE = {"r_row_ohm": 1.0, "r_col_ohm": 1.0}

WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (G.half(), {}, r"expected g_siemens as a float32 or float64 tensor; got torch\.float16"),
    (G.long(), {}, r"as a float32 or float64 tensor; got torch\.int64"),
    (G.numpy(), {}, r"as a float32 or float64 tensor; got ndarray"),
    (1e-3, {}, r"as a float32 or float64 tensor; got float"),
    (G[0, 0], {}, r"expected g_siemens of shape \(\.\.\., rows, cols\); got \(4,\)"),
    (G[0, 0, 0], {}, r"of shape \(\.\.\., rows, cols\); got \(\)"),
    (G - 2e-3, {}, r"expected finite conductances of 0 S or more in g_siemens; got -0\.001"),
    (torch.where(G > 1, G, torch.nan), {}, r"of 0 S or more in g_siemens; got NaN or infinity"),
    (G / 0, {}, r"of 0 S or more in g_siemens; got NaN or infinity"),
    (G, {"r_row_ohm": -1.0}, r"expected a finite resistance of 0 ohm or more; got r_row_ohm=-1\.0"),
    (G, {"r_col_ohm": float("nan")}, r"of 0 ohm or more; got r_col_ohm=nan"),
    (G, {"r_source_ohm": float("inf")}, r"of 0 ohm or more; got r_source_ohm=inf"),
    (G, {"r_sink_ohm": -1e-30}, r"of 0 ohm or more; got r_sink_ohm=-1e-30"),
    (G, {"r_row_ohm": 10**400}, r"of 0 ohm or more; got r_row_ohm=1000"),
    (G, {"r_row_ohm": torch.tensor([1.0, -1.0, 1.0])}, r"0 ohm or more; got r_row_ohm=tensor"),
    (G, {"r_row_ohm": torch.tensor([[1.0], [torch.nan]])}, r"0 ohm or more; got r_row_ohm=tensor"),
    (G, {"r_row_ohm": True}, r"expected r_row_ohm as a number or a tensor of numbers; got True"),
    (
        G,
        {"r_col_ohm": torch.tensor(True)},
        r"expected r_col_ohm as a number or a tensor of numbers; got tens",
    ),
    (G, {"r_col_ohm": torch.tensor(1j)}, r"expected r_col_ohm as a number or a tensor of numbers; got tens"),
    (G, {"r_sink_ohm": "1"}, r"expected r_sink_ohm as a number or a tensor of numbers; got '1'"),
    (G, {"r_source_ohm": None}, r"expected r_source_ohm as a number or a tensor of numbers; got None"),
    (G, {"r_row_ohm": torch.ones(3)}, r"expected r_row_ohm to broadcast against arrays \(2,\); got \(3,\)"),
    (G, {"r_col_ohm": torch.ones(2, 1)}, r"expected r_col_ohm to broadcast against .*\(2,\); got \(2, 1\)"),
    (G[0], {"r_sink_ohm": torch.ones(1)}, r"expected r_sink_ohm to broadcast against .*\(\); got \(1,\)"),
    (G, {"topology": "oposite"}, r"unknown topology 'oposite': did you mean 'opposite'\?"),
    (G, {"topology": ""}, r"unknown topology '': \(known: both-ends, driven-both-ends, opposite, same\)"),
]


@pytest.mark.parametrize(("g", "changes", "sentence"), WRONG)
def test_wrong_use_is_one_sentence(g: Any, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        effective_conductance(g, **{**ONE, **changes})


def test_wrong_conductances_are_refused_even_between_ideal_wires() -> None:
    with pytest.raises(UsageError, match="of 0 S or more"):
        effective_conductance(-G, r_row_ohm=0.0, r_col_ohm=0.0)
    with pytest.raises(UsageError, match="unknown topology"):
        effective_conductance(G, r_row_ohm=0.0, r_col_ohm=0.0, topology="x")
