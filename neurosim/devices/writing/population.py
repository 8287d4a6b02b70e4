"""From physics to a programming model: many devices of a switching model, written by pulses and reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from neurosim.devices.device import Frozen, Real, Whole
from neurosim.devices.hardware import Hardware
from neurosim.devices.measured import Measured
from neurosim.devices.writing.switching import Array, StanfordPku, Switching, Vteam, pulsed
from neurosim.random import stream


class Pulses(Frozen):
    """How a population is written.

    Attributes:
        targets: how many, evenly over the range.
        device_std, cycle_std: relative, lognormal, of the effective width of the pulses of each device, and
            of each pulse: whatever makes a device or a pulse faster.
        acceptance: half width, as a fraction of the range.
        max_pulses: after these a device is left.
        share: of the range that the first pulse would cross from the middle; sets the first widths.
        aim: part of the distance that is left that a pulse aims at: its width is that of the last one in the
            same direction times aim·left/moved, at most ten times longer and a hundred times shorter.  In
            these models conductance moves up to a million times faster near one end than near the other.
        set_volt, reset_volt: towards more and less conductance; None takes the model's own.
    """

    targets: Whole = 9
    device_std: Real = 0.1
    cycle_std: Real = 0.1
    acceptance: Real = 0.02
    max_pulses: Whole = 100
    share: Real = 0.02
    aim: Real = 0.7
    set_volt: Real | None = None
    reset_volt: Real | None = None


class Population(NamedTuple):
    """What was reached: (targets,) and (targets, devices)."""

    target: Array
    reached: Array
    pulses: np.ndarray[Any, np.dtype[np.int64]]
    accepted: np.ndarray[Any, np.dtype[np.bool_]]


def voltages(model: Switching) -> tuple[float, float]:
    """(set, reset) voltages at which a model moves: of MemTorch's constants."""
    if isinstance(model, Vteam):
        return 1.5 * model.v_on_volt, 2.0 * model.v_off_volt
    return (1.5, -1.5) if isinstance(model, StanfordPku) else (1.0, -1.0)


def range_of(model: Switching) -> tuple[float, float]:
    """Conductances of the two bounds, in siemens, the lower first."""
    ends = model.conductance_siemens(np.array(model.bounds))
    return float(ends.min()), float(ends.max())


def widths(model: Switching, settings: Pulses) -> tuple[float, float]:
    """Pulse widths, of set and reset, that move the conductance by ``share`` of the range from the middle.

    By bisection on the logarithm of the width; the two may differ by orders of magnitude.
    """
    low, high = range_of(model)
    middle = _state_at(model, 0.5 * (low + high))
    found = []
    for volt in _volts(model, settings):
        least, most = -15.0, 3.0
        for _ in range(60):
            between = 0.5 * (least + most)
            after = pulsed(model, np.array([middle]), volt, 10.0**between)
            moved = abs(float(model.conductance_siemens(after)[0]) - 0.5 * (low + high)) / (high - low)
            least, most = (between, most) if moved < settings.share else (least, between)
        found.append(10.0 ** (0.5 * (least + most)))
    return found[0], found[1]


def write_population(model: Switching, settings: Pulses, devices: int = 200, seed: int = 0) -> Population:
    """Program-and-verify of ``devices`` devices for each target, from the state of least conductance.

    A pulse lasts the model's width times exp(σ_d·m + σ_c·n): the device's own factor and the pulse's.

    >>> from neurosim.devices.writing.switching import LinearIonDrift
    >>> found = write_population(LinearIonDrift(), Pulses(targets=3, max_pulses=60), devices=20)
    >>> bool(found.accepted.mean() > 0.9)
    True
    """
    low, high = range_of(model)
    set_width, reset_width = widths(model, settings)
    set_volt, reset_volt = _volts(model, settings)
    # not the very ends, which pulses in one direction reach by running into the bound
    target = low + (high - low) * np.linspace(0.05, 0.95, settings.targets)
    shape = (settings.targets, devices)
    wanted = np.broadcast_to(target[:, None], shape)
    state = np.full(shape, _state_at(model, low))
    own = np.exp(settings.device_std * _normal(seed, "device", shape))
    pulses = np.zeros(shape, np.int64)
    # of set and of reset pulses: the last width in units of the first, and what it moved
    stretch = {way: np.ones(shape) for way in (True, False)}
    moved = {way: np.full(shape, settings.share * (high - low)) for way in (True, False)}
    for k in range(settings.max_pulses):
        g = model.conductance_siemens(state)
        left = np.abs(g - wanted)
        open_ = left > settings.acceptance * (high - low)
        if not open_.any():
            break
        noise = own * np.exp(settings.cycle_std * _normal(seed, f"pulse {k}", shape))
        up = g < wanted
        for way, chosen, volt, width in (
            (True, open_ & up, set_volt, set_width),
            (False, open_ & ~up, reset_volt, reset_width),
        ):
            if not chosen.any():
                continue
            wish = settings.aim * left[chosen] / np.maximum(moved[way][chosen], 1e-3 * left[chosen])
            stretch[way][chosen] *= np.clip(wish, 0.01, 10.0)
            factor = stretch[way][chosen] * noise[chosen]
            state[chosen] = pulsed(model, state[chosen], volt, width * factor)
            moved[way][chosen] = np.abs(model.conductance_siemens(state[chosen]) - g[chosen])
        pulses += open_
    reached = model.conductance_siemens(state)
    accepted = np.abs(reached - wanted) <= settings.acceptance * (high - low)
    return Population(target, reached, pulses, accepted)


def described(model: Switching, settings: Pulses, found: Population) -> Hardware:
    """A hardware description whose device has the mean error and the spread that the population has.

    A ``measured`` device: error and spread as polynomials of the target, by least squares; no ageing.
    """
    low, high = range_of(model)
    x = found.target / high
    error = found.reached - found.target[:, None]
    degree = min(3, len(x) - 1)
    mean, spread = (
        np.polynomial.polynomial.polyfit(x, values, degree) for values in (error.mean(1), error.std(1))
    )
    kind = str(getattr(model, "kind", "switching"))
    return Hardware(
        name=f"{kind}-written",
        description=f"Devices of the {kind} model, written by pulses and reads.",
        device=Measured(
            g_min_siemens=low,
            g_max_siemens=high,
            reference_siemens=high,
            bias_siemens=tuple(float(c) for c in mean),
            spread_siemens=tuple(float(c) for c in spread),
            measured_siemens=(float(found.target[0]), float(found.target[-1])),
        ),
    )


def _volts(model: Switching, settings: Pulses) -> tuple[float, float]:
    own = voltages(model)
    return (
        own[0] if settings.set_volt is None else settings.set_volt,
        own[1] if settings.reset_volt is None else settings.reset_volt,
    )


def _state_at(model: Switching, g_siemens: float) -> float:
    """The state of a conductance, by bisection: conductance is monotone in it."""
    low, high = model.bounds
    rising = float(model.conductance_siemens(np.array(high))) > float(
        model.conductance_siemens(np.array(low))
    )
    for _ in range(200):
        middle = 0.5 * (low + high)
        above = float(model.conductance_siemens(np.array(middle))) > g_siemens
        low, high = (low, middle) if above == rising else (middle, high)
    return 0.5 * (low + high)


def _normal(seed: int, effect: str, shape: tuple[int, ...]) -> Array:
    return stream(seed, 0, "population", effect).normal(shape).double().numpy()
