"""The ascent stays in its region, and finds maxima that can be computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from neurosim.errors import UsageError
from neurosim.landscape.ascent import NORMS, SCALES, Region, climb, length, moved
from neurosim.random import stream


def normals(name: str, *shape: int) -> Tensor:
    return stream(0, 0, name, "test").normal(shape)


def rms(x: Tensor) -> float:
    return math.sqrt(float(x.double().square().mean()))


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return {"w": normals("w", 4, 3), "b": 5 * normals("b", 4), "zero": torch.zeros(2)}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [0.0, 1e-3, 0.3, 2.0])
def test_no_place_that_is_asked_about_lies_outside(weights, norm, scale, size):
    region = Region(size, norm, scale)
    scales = dict(zip(weights, region.scales(list(weights.values())), strict=True))
    measure = (lambda d: float(d.abs().max())) if norm == "box" else rms

    asked = []

    def gradient(at):
        asked.append(at)
        return {name: normals(f"{name}{len(asked)}", *place.shape) for name, place in at.items()}

    start = {name: 0.5 * size * torch.ones_like(w) for name, w in weights.items()}
    delta = climb(weights, region, start, gradient, steps=7, step_size=0.7 * size)
    assert len(asked) == 7
    for found in delta.values():
        assert measure(found) <= size * (1 + 1e-6)
    for at in asked:
        for name, place in at.items():
            s = scales[name].expand_as(weights[name])
            moved_by = (place - weights[name]).double()
            assert bool((moved_by[s == 0] == 0).all())  # a weight of 0 has no size to move by
            d = torch.where(s > 0, moved_by / torch.where(s > 0, s, 1.0), 0.0)
            assert measure(d) <= size * (1 + 1e-3) + 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_a_start_outside_is_brought_in_by_the_first_step(norm):
    w = {"w": torch.ones(3)}
    delta = climb(
        w, Region(0.1, norm), {"w": torch.full((3,), 9.0)}, lambda at: {"w": torch.zeros(3)}, steps=1
    )
    assert float(delta["w"].abs().max()) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("weight", [3.0, -4.0, 0.0]),  # |Θ| of each
        ("layer-rms", [math.sqrt(25 / 3)] * 3),
        ("layer-max", [4.0] * 3),
        ("one", [1.0] * 3),
    ],
)
def test_the_maximum_of_a_linear_function_in_a_box_is_a_corner(scale, expected):
    theta = torch.tensor([3.0, -4.0, 0.0])
    slope = torch.tensor([2.0, -0.5, 1e-6])
    region = Region(0.25, scale=scale)
    delta = climb({"w": theta}, region, {"w": torch.zeros(3)}, lambda at: {"w": slope}, steps=4)
    (top,) = moved([theta], region.scales([theta]), [delta["w"]])
    # c·Θ* ≤ c·Θ + ζ·Σ s|c|, reached where each weight moves by ζ·s·sign(c)
    by_hand = theta + 0.25 * torch.tensor(expected).abs() * slope.sign()
    assert torch.allclose(top, by_hand)


def test_the_maximum_of_a_linear_function_in_a_ball_is_along_its_slope():
    theta, slope, size = normals("theta", 5, 2), normals("slope", 5, 2), 0.3
    start = {"w": 0.1 * normals("start", 5, 2)}
    found = climb(
        {"w": theta}, Region(size, "l2", "one"), start, lambda at: {"w": slope}, steps=200, step_size=0.05
    )
    # argmax c·δ with √mean δ² = ζ is δ = ζ·√n·c/‖c‖
    expected = size * math.sqrt(slope.numel()) * slope / slope.norm()
    assert torch.allclose(found["w"], expected, atol=1e-4)


def test_the_layer_wise_ball_is_that_of_awp():
    theta, slope = normals("theta", 6, 4), normals("slope", 6, 4)
    region = Region(0.2, "l2", "layer-rms")
    delta = climb({"w": theta}, region, {"w": torch.zeros_like(theta)}, lambda at: {"w": slope}, steps=5)
    (top,) = moved([theta], region.scales([theta]), [delta["w"]])
    assert float((top - theta).norm()) == pytest.approx(0.2 * float(theta.norm()), rel=1e-5)
    cosine = float(((top - theta) * slope).sum() / (top - theta).norm() / slope.norm())
    assert cosine == pytest.approx(1.0, abs=1e-5)


def test_the_maximum_of_a_quadratic_function_is_inside_or_on_the_wall():
    theta = torch.tensor([1.0, 1.0, -2.0])
    top = torch.tensor([1.1, 9.0, -2.05])  # of −(w − top)²: inside, far outside, inside
    region, step = Region(0.2), 0.001
    delta = climb(
        {"w": theta},
        region,
        {"w": torch.zeros(3)},
        lambda at: {"w": 2 * (top - at["w"])},
        steps=400,
        step_size=step,
    )
    expected = torch.tensor([0.1, 0.2, -0.025])  # (top − Θ)/|Θ|, at most ζ
    assert torch.allclose(delta["w"], expected, atol=2 * step)


def test_the_default_step_just_reaches_the_wall():
    w, up = {"w": torch.ones(1)}, {"w": torch.ones(1)}
    reached = [
        float(climb(w, Region(0.6), {"w": torch.zeros(1)}, lambda at: up, steps=n)["w"]) for n in (1, 3, 10)
    ]
    assert reached == pytest.approx([0.6] * 3)
    half = climb(w, Region(0.6), {"w": torch.zeros(1)}, lambda at: up, steps=3, step_size=0.1)
    assert float(half["w"]) == pytest.approx(0.3)


def test_layouts_are_kept():
    kernel = normals("kernel", 8, 3, 4, 4).to(memory_format=torch.channels_last)
    seen = []

    def gradient(at):
        seen.append(at["w"].stride())
        return {"w": at["w"].contiguous()}

    delta = climb({"w": kernel}, Region(0.1), {"w": torch.zeros_like(kernel)}, gradient, steps=2)
    assert seen == [kernel.stride()] * 2
    assert delta["w"].stride() == kernel.stride()


@pytest.mark.parametrize("norm", NORMS)
def test_without_slopes_nothing_moves(norm):
    w = {"flat": torch.ones(3), "unneeded": torch.ones(2)}
    start = {"flat": torch.full((3,), 0.05), "unneeded": torch.full((2,), 0.01)}
    for slopes in ({"flat": torch.zeros(3), "unneeded": None}, {"flat": None, "unneeded": None}):
        found = climb(w, Region(0.1, norm), start, lambda at, slopes=slopes: slopes, steps=3)
        assert all(torch.equal(found[name], start[name]) for name in w)


def test_what_is_given_is_not_changed(weights):
    before = {name: w.clone() for name, w in weights.items()}
    start = {name: torch.zeros_like(w) for name, w in weights.items()}
    climb(
        weights, Region(0.5), start, lambda at: {name: torch.ones_like(w) for name, w in at.items()}, steps=2
    )
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    assert all(not bool(d.any()) for d in start.values())


def test_weights_that_want_gradients_get_no_graph():
    w = torch.ones(2, requires_grad=True)
    found = climb({"w": w}, Region(0.1), {"w": torch.zeros(2)}, lambda at: {"w": torch.ones(2)}, steps=1)
    assert not found["w"].requires_grad and w.grad is None


def test_length_is_over_all_parameters():
    assert length({"a": torch.tensor([3.0]), "b": torch.tensor([[0.0, 4.0]])}) == pytest.approx(5.0)


@pytest.mark.parametrize("size", [-0.1, 11, math.nan, True, "0.1", None])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(UsageError, match="expected 0 <= size of an attack on weights <= 10; got"):
        Region(size)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"norm": "l1"}, "unknown norm of an attack on weights, 'l1': did you mean 'l2'?"),
        ({"scale": "layer"}, "unknown scale of an attack on weights, 'layer': did you mean 'layer-"),
    ],
)
def test_unknown_names_are_refused_with_a_hint(names, said):
    with pytest.raises(UsageError) as refused:
        Region(0.1, **names)
    assert str(refused.value).startswith(said)
