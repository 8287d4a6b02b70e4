"""Both legs together: equal to leg by leg, and a gradient equal to the one autograd finds there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neurosim.devices import Device, Gaussian, Ideal, Pcm, to_conductances
from neurosim.devices.mapping import to_fractions
from neurosim.devices.pairs import age_pair, difference, program_difference, program_pair
from neurosim.random import Draws, stream

DRAWS = Draws(0, (3, 17), "w+"), Draws(0, (3, 17), "w-")
DEVICES = [
    Ideal(),
    Gaussian(),
    Pcm(),
    Pcm(g_min_siemens=1e-6, g_max_siemens=20e-6, programming_scale=2.0),
    Pcm(programming_scale=0.0),
    Pcm(programming_siemens=(-0.5e-6, 1.0e-6, 0.5e-6)),  # negative for small targets: clipped
]
SHAPES = [(3, 5), (7, 64), (1, 1), (70, 65)]


def weight(*shape: int) -> Tensor:
    w = stream(5, 0, "weight", "test").normal(shape)
    w.reshape(-1)[:: max(1, w.numel() // 3)] = 0.0  # zeros belong to neither leg
    w.reshape(-1)[-1] = 1.0
    return w


def by_leg(device: Device, w: Tensor, scaling: str, time_s: float) -> Tensor:
    """The definition."""
    mapped = to_conductances(w, device, scaling)  # type: ignore[arg-type]
    legs = (mapped.g_plus, mapped.g_minus)
    states = [device.program(leg, draw) for leg, draw in zip(legs, DRAWS, strict=True)]
    return difference(device, *(device.age(s, time_s, d) for s, d in zip(states, DRAWS, strict=True)))


@pytest.mark.parametrize("device", DEVICES, ids=repr)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scaling", ["per-layer", "per-column"])
def test_pairs_equal_leg_by_leg(device: Device, shape: tuple[int, ...], scaling: str) -> None:
    w = weight(*shape)
    pair = program_pair(device, w, scaling, DRAWS)  # type: ignore[arg-type]
    for time_s in (0.0, 1.0, 3e7):
        expected = by_leg(device, w, scaling, time_s)
        torch.testing.assert_close(age_pair(device, pair, time_s, DRAWS), expected, rtol=1e-5, atol=1e-6)
    assert pair.scale.shape == to_conductances(w, device, scaling).scale.shape  # type: ignore[arg-type]


@pytest.mark.parametrize("device", [d for d in DEVICES if isinstance(d, Pcm)], ids=repr)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scaling", ["per-layer", "per-column"])
def test_the_difference_for_training_has_the_gradient_of_the_definition(
    device: Device, shape: tuple[int, ...], scaling: str
) -> None:
    ours, torchs = weight(*shape).requires_grad_(), weight(*shape).requires_grad_()
    found = program_difference(device, to_fractions(ours, scaling)[0], DRAWS)  # type: ignore[arg-type]
    assert found is not None
    assert torch.equal(found, program_pair(device, ours.detach(), scaling, DRAWS).fresh)  # type: ignore[arg-type]
    expected = by_leg(device, torchs, scaling, 0.0)
    weighting = stream(6, 0, "weighting", "test").normal(tuple(expected.shape))
    (found * weighting).sum().backward()
    (expected * weighting).sum().backward()
    torch.testing.assert_close(ours.grad, torchs.grad, rtol=1e-4, atol=1e-5)


def test_there_is_no_such_kernel_for_other_types_and_devices() -> None:
    assert program_difference(Gaussian(), weight(3, 5), DRAWS) is None
    assert program_difference(Pcm(), weight(3, 5).double(), DRAWS) is None
    assert program_difference(Pcm(), torch.empty(0, 5), DRAWS) is None
