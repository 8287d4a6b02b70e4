"""What every device must do: a new row of the catalogue inherits every test here."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosim.devices import DEVICES, Device, Effect
from neurosim.errors import UsageError
from neurosim.random import Draws

CHIPS = (0, 1, 17, 4_000_000_000)
HOUR = 3600.0

# constants that turn every imperfection of a device off; a device without such a setting has None
WITHOUT_NOISE: dict[str, dict[str, Any] | None] = {
    "ideal": {},
    "gaussian": {"relative_std": 0.0},
    "generic": {"std": 0.0},
    "measured": {"programming_scale": 0.0, "drift_scale": 0.0},
    "pcm": {"programming_scale": 0.0, "drift_scale": 0.0, "read_scale": 0.0},
    "pcm-hermes": {"programming_scale": 0.0, "drift_scale": 0.0, "read_scale": 0.0},
    "rram-wan": {"deviation_scale": 0.0},
    "rram-cmo": {"programming_scale": 0.0, "relaxation_scale": 0.0, "read_scale": 0.0},
    "rram-milo": {"programming_scale": 0.0},
    "sonos": {"programming_scale": 0.0, "drift_scale": 0.0, "read_scale": 0.0},
    "flash": {"tuning_std": 0.0, "retention_loss": 0.0},
    "fefet": {"vth_std": 0.0},
    "ecram": {"device_std": 0.0, "cycle_std": 0.0},
    "subthreshold": {"relative_std": 0.0},
    "aihwkit": None,  # computes in float32 and microsiemens; its models without noise: tests/test_aihwkit.py
    "stt-mram": None,  # holds two states whatever the target
}
# what they hold is a step function of the target, which gradients cross as if it were not
STRAIGHT_THROUGH = ("stt-mram", "aihwkit")


def made(kind: str, **constants: Any) -> Device:
    """A device of the kind, if what it wraps is installed."""
    if kind == "aihwkit":
        pytest.importorskip(
            "aihwkit", reason="NOT CHECKED: aihwkit is not installed (pip install --no-deps aihwkit==1.1.0)"
        )
        constants = {"options": {"g_max": 25}, **constants}
    return DEVICES[kind](**constants)


@pytest.fixture(params=sorted(DEVICES))
def device(request: pytest.FixtureRequest) -> Device:
    return made(request.param)


def targets(device: Device, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Conductances over the whole range of the device, both ends included."""
    count = math.prod(shape)
    x = (
        torch.linspace(0.0, 1.0, count, dtype=dtype).reshape(shape)
        if count
        else torch.empty(shape, dtype=dtype)
    )
    return device.g_min_siemens + (device.g_max_siemens - device.g_min_siemens) * x


def draws(chips: tuple[int, ...] = CHIPS) -> Draws:
    return Draws(3, chips, "fc1.weight+")


def test_table_of_noise_free_constants_is_complete() -> None:
    assert set(WITHOUT_NOISE) == set(DEVICES)


def test_kind_is_the_name_in_the_catalogue() -> None:
    assert all(cls().kind == kind for kind, cls in DEVICES.items())


@pytest.mark.parametrize("shape", [(), (1,), (5, 7), (2, 3, 4, 5), (0, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_and_age_have_a_chip_axis_and_the_type_of_the_target(
    device: Device, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    state = device.program(targets(device, *shape, dtype=dtype), draws())
    assert "g_siemens" in state
    for entry in (*state.values(), device.age(state, HOUR, draws())):
        assert entry.shape == (len(CHIPS), *shape)
        assert entry.dtype == dtype


def test_moments_are_those_of_what_is_programmed(device: Device) -> None:
    """Mean and standard deviation of 40,000 devices at nine targets; five standard errors."""
    g = targets(device, 9, dtype=torch.float64)
    moments = device.moments(g)
    if moments is None:
        assert device.kind not in ("ideal", "gaussian", "subthreshold")
        return
    held = device.program(g.expand(10_000, 9).clone(), draws())["g_siemens"].flatten(0, 1)
    mean, std = moments
    assert mean.dtype == std.dtype == g.dtype and mean.shape == std.shape == g.shape
    n, tiny = len(held), 1e-9 * device.g_max_siemens
    assert bool(((held.mean(0) - mean).abs() <= 5 * std / n**0.5 + tiny).all())
    # lognormals of up to 30 % have a kurtosis below 6
    assert bool(((held.std(0) - std).abs() <= 5 * std * (5 / (4 * n)) ** 0.5 + tiny).all())


@pytest.mark.parametrize("shape", [(5, 7), (1001,), (64,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_chips_equal_one_by_one_to_the_bit(
    device: Device, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    g = targets(device, *shape, dtype=dtype)
    together = device.program(g, draws())
    aged = device.age(together, HOUR, draws())
    for row, chip in enumerate(CHIPS):
        alone = device.program(g, draws((chip,)))
        for key in together:
            assert torch.equal(together[key][row], alone[key][0])
        assert torch.equal(aged[row], device.age(alone, HOUR, draws((chip,)))[0])


def test_same_draws_same_bits(device: Device) -> None:
    g = targets(device, 9, 11)
    first, second = device.program(g, draws()), device.program(g, draws())
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(device.age(first, HOUR, draws()), device.age(second, HOUR, draws()))


def test_nothing_is_mutated_and_ages_do_not_depend_on_order(device: Device) -> None:
    g = targets(device, 9, 11)
    before = g.clone()
    state = device.program(g, draws())
    kept = {key: value.clone() for key, value in state.items()}
    day_first = device.age(state, 24 * HOUR, draws())
    device.age(state, HOUR, draws())
    assert torch.equal(device.age(state, 24 * HOUR, draws()), day_first)
    assert torch.equal(g, before)
    assert all(torch.equal(state[key], kept[key]) for key in kept)


def test_at_age_zero_devices_hold_what_was_programmed(device: Device) -> None:
    state = device.program(targets(device, 6, 6), draws())
    assert torch.equal(device.age(state, 0.0, draws()), state["g_siemens"])


def test_layout_in_memory_does_not_matter(device: Device) -> None:
    g = targets(device, 40, 30).T
    state, dense = device.program(g, draws()), device.program(g.contiguous(), draws())
    assert all(torch.equal(state[key], dense[key]) for key in state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [kind for kind, constants in WITHOUT_NOISE.items() if constants is not None])
def test_without_noise_a_device_is_exact_at_every_age(kind: str, dtype: torch.dtype) -> None:
    device = made(kind, **(WITHOUT_NOISE[kind] or {}))
    g = targets(device, 8, 9, dtype=dtype)
    state = device.program(g, draws())
    for time_s in (0.0, 1.0, HOUR, 3e8):
        assert torch.equal(device.age(state, time_s, draws()), g.expand(len(CHIPS), 8, 9))
    assert not any(effect.acts for effect in device.effects())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_everywhere_even_at_zero(device: Device, dtype: torch.dtype) -> None:
    g = targets(device, 500, dtype=dtype).requires_grad_()
    state = device.program(g, draws())
    sum(value.sum() for value in [*state.values(), device.age(state, HOUR, draws())]).backward()  # type: ignore[union-attr]
    assert g.grad is not None
    assert bool(torch.isfinite(g.grad).all())


@pytest.mark.parametrize("low,high", [(0.03, 0.15), (0.25, 0.95)])
def test_gradient_matches_finite_differences(device: Device, low: float, high: float) -> None:
    # in units of g_max, where the step of gradcheck is small; the intervals avoid the corners of clips
    if device.kind in STRAIGHT_THROUGH:
        pytest.skip("its gradient is by definition not that of what it computes: tested with the device")

    def aged(x: Tensor) -> Tensor:
        state = device.program(x * device.g_max_siemens, draws((0, 1)))
        return device.age(state, HOUR, draws((0, 1))) / device.g_max_siemens

    x = torch.linspace(low, high, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(aged, (x,))


def test_gradient_reaches_the_target_from_every_chip(device: Device) -> None:
    g = targets(device, 50)[10:].clone().requires_grad_()
    device.program(g, draws())["g_siemens"].sum().backward()
    assert g.grad is not None
    assert bool((g.grad.abs() > 0).all())


def test_effects_are_for_people(device: Device) -> None:
    effects = device.effects()
    assert effects
    for effect in effects:
        assert isinstance(effect, Effect)
        assert effect.name
        assert effect.size
        assert effect.drawn in ("once per chip", "once per chip and age", "per read", "-")


@pytest.mark.parametrize("time_s", [-1.0, math.nan, math.inf, "soon", None])
def test_a_wrong_age_is_refused(device: Device, time_s: float) -> None:
    state = device.program(targets(device, 3), draws())
    with pytest.raises(UsageError, match=r"expected an age of 0 seconds or more; got time_s="):
        device.age(state, time_s, draws())


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16])
def test_targets_of_too_little_precision_are_refused(device: Device, dtype: torch.dtype) -> None:
    with pytest.raises(UsageError, match=rf"expected float32 or float64 conductances; got {dtype}"):
        device.program(torch.ones(3, dtype=dtype), draws())


def test_the_end_of_time_is_finite(device: Device) -> None:
    state = device.program(targets(device, 100), draws())
    assert bool(torch.isfinite(device.age(state, 1e308, draws())).all())


@pytest.mark.parametrize("kind", sorted(DEVICES))
def test_wrong_constants_are_refused_by_name(kind: str) -> None:
    with pytest.raises(
        UsageError, match=r"expected g_min_siemens < 0\.999 \* g_max_siemens; got g_min_siemens=2e-05"
    ):
        DEVICES[kind](g_min_siemens=2e-5, g_max_siemens=1e-5)
    with pytest.raises(UsageError, match=r"g_max_siemen'?.*did you mean 'g_max_siemens'\?"):
        DEVICES[kind](g_max_siemen=1e-5)
    with pytest.raises(UsageError, match=r"finite number; got g_max_siemens=nan"):
        DEVICES[kind](g_max_siemens=math.nan)
