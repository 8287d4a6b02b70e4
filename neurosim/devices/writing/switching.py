"""Memristors as differential equations: state, current, and how fast the state moves.

    i = i(v, x)        dx/dt = rate(v, x)        x between two bounds

Each is a frozen value with its published constants; :func:`simulate` solves it for any voltage.  One row of
:data:`SWITCHING` a model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from neurosim.devices.conditions import BOLTZMANN_EV
from neurosim.devices.device import Frozen, Real
from neurosim.errors import RunError, UsageError, unknown

Array = np.ndarray[Any, np.dtype[np.float64]]


class Switching(Frozen, ABC):
    """A two-terminal device with one state variable.

    Attributes:
        state_unit: of x, for tables and axes.
    """

    state_unit: ClassVar[str]

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Least and greatest state."""

    @abstractmethod
    def current(self, volt: Array, state: Array) -> Array:
        """Current in ampere."""

    @abstractmethod
    def drift(self, volt: Array, state: Array) -> Array:
        """dx/dt between the bounds, in units of the state per second."""

    def rate(self, volt: Array, state: Array) -> Array:
        """dx/dt: none out of the bounds."""
        low, high = self.bounds
        drift = self.drift(volt, state)
        stuck = ((state <= low) & (drift < 0)) | ((state >= high) & (drift > 0))
        return np.where(stuck, 0.0, drift)

    def conductance_siemens(self, state: Array, read_volt: float = 0.1) -> Array:
        """i/v at a read voltage."""
        volt = np.full_like(np.asarray(state, float), read_volt)
        return self.current(volt, np.asarray(state, float)) / read_volt


class Vteam(Switching):
    r"""Voltage threshold adaptive memristor (S. Kvatinsky et al., IEEE TCAS-II 62, 786, 2015).

        dx/dt = k_off·(v/v_off − 1)^α_off   for v > v_off > 0
                k_on·(v/v_on − 1)^α_on      for v < v_on < 0,  else 0
        i     = v/(R_on + (R_off − R_on)·x/d)

    x goes from 0 (on) to d (off).  Constants are the defaults of MemTorch 1.1 (rectangular window).

    >>> model = Vteam()
    >>> float(model.drift(np.array(0.04), np.array(0.0)))
    0.0005
    """

    state_unit: ClassVar[str] = "m"
    kind: Literal["vteam"] = "vteam"
    r_on_ohm: Real = Field(default=50.0, gt=0.0)
    r_off_ohm: Real = Field(default=1000.0, gt=0.0)
    d_m: Real = Field(default=3e-9, gt=0.0)
    k_on_m_per_s: Real = Field(default=-10.0, lt=0.0)
    k_off_m_per_s: Real = Field(default=5e-4, gt=0.0)
    alpha_on: Real = Field(default=3.0, ge=0.0, le=20.0)
    alpha_off: Real = Field(default=1.0, ge=0.0, le=20.0)
    v_on_volt: Real = Field(default=-0.2, lt=0.0)
    v_off_volt: Real = Field(default=0.02, gt=0.0)

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, self.d_m

    def current(self, volt: Array, state: Array) -> Array:
        return volt / (self.r_on_ohm + (self.r_off_ohm - self.r_on_ohm) * state / self.d_m)

    def drift(self, volt: Array, state: Array) -> Array:
        off = self.k_off_m_per_s * np.maximum(volt / self.v_off_volt - 1.0, 0.0) ** self.alpha_off
        on = self.k_on_m_per_s * np.maximum(volt / self.v_on_volt - 1.0, 0.0) ** self.alpha_on
        return np.where(volt > self.v_off_volt, off, np.where(volt < self.v_on_volt, on, 0.0)) + 0.0 * state


class LinearIonDrift(Switching):
    r"""The memristor of D. B. Strukov et al., Nature 453, 80 (2008).

        dx/dt = μ·R_on/d²·i·w(x)        i = v/(R_on·x + R_off·(1 − x))

    x from 0 to 1 is the doped part of the film.  With the window w = 1 the square of the resistance is linear
    in the flux, until a bound.  Windows: Y. N. Joglekar and S. J. Wolf, 1 − (2x − 1)^2p; Z. Biolek et al.,
    1 − (x − [i < 0])^2p.  Constants are the defaults of MemTorch 1.1.

    >>> round(float(LinearIonDrift().current(np.array(1.0), np.array(0.5))) * 1e6, 2)
    124.22
    """

    state_unit: ClassVar[str] = ""
    kind: Literal["linear-ion-drift"] = "linear-ion-drift"
    mobility_m2_per_vs: Real = Field(default=1e-14, gt=0.0)
    d_m: Real = Field(default=10e-9, gt=0.0)
    r_on_ohm: Real = Field(default=100.0, gt=0.0)
    r_off_ohm: Real = Field(default=16e3, gt=0.0)
    window: Literal["none", "joglekar", "biolek"] = "none"
    window_power: Real = Field(default=2.0, gt=0.0, le=100.0)

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    def current(self, volt: Array, state: Array) -> Array:
        return volt / (self.r_on_ohm * state + self.r_off_ohm * (1.0 - state))

    def drift(self, volt: Array, state: Array) -> Array:
        i = self.current(volt, state)
        return self.mobility_m2_per_vs * self.r_on_ohm / self.d_m**2 * i * self._window(i, state)

    def _window(self, i: Array, state: Array) -> Array:
        if self.window == "joglekar":
            return 1.0 - np.abs(2.0 * state - 1.0) ** (2 * self.window_power)
        if self.window == "biolek":
            return 1.0 - np.abs(state - (i < 0)) ** (2 * self.window_power)
        return np.ones_like(state)


class StanfordPku(Switching):
    r"""Filamentary RRAM with a tunnelling gap and heat (Z. Jiang et al., SISPAD 2014, Stanford-PKU model).

        i     = I0·e^(−g/g0)·sinh(v/V0)
        dg/dt = −ν·e^(−E/kT)·sinh(γ·a·v/(t_ox·kT/q))      γ = γ0 − β·(g/1 nm)³
        T     = T0 + |v·i|·R_th

    g is the gap.  Stiff: the current heats, heat moves the gap, the gap sets the current.  Constants are the
    defaults of MemTorch 1.1.6, and so are the bounds of the gap, g0·ln(I0·sinh(0.1 V/V0)·R/0.1 V) for its
    resistances of 542 Ω and 218,586 Ω.  Its least field is left out: MemTorch has γ = 0 where γ·|v|/t_ox is
    below 1.4e9 V/m, so that nothing moves below 1.05 V (closed) to 1.39 V (open); here small voltages move
    the gap too, slowly.

    >>> model, gap = StanfordPku(), np.array(1e-9)
    >>> bool(model.drift(np.array(1.5), gap) < 0 < model.drift(np.array(-1.5), gap))
    True
    """

    state_unit: ClassVar[str] = "m"
    kind: Literal["stanford-pku"] = "stanford-pku"
    i0_ampere: Real = Field(default=1e-3, gt=0.0)
    g0_m: Real = Field(default=0.25e-9, gt=0.0)
    v0_volt: Real = Field(default=0.25, gt=0.0)
    velocity_m_per_s: Real = Field(default=10.0, gt=0.0)
    activation_energy_ev: Real = Field(default=0.6, gt=0.0, le=5.0)
    a0_m: Real = Field(default=0.25e-9, gt=0.0)
    t_ox_m: Real = Field(default=12e-9, gt=0.0)
    gamma0: Real = Field(default=16.0, gt=0.0)
    beta: Real = Field(default=0.8, ge=0.0)
    t0_kelvin: Real = Field(default=298.0, gt=0.0)
    r_th_kelvin_per_watt: Real = Field(default=2100.0, ge=0.0)
    gap_min_m: Real = Field(default=0.2e-9, gt=0.0)
    gap_max_m: Real = Field(default=1.7e-9, gt=0.0)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.gap_min_m, self.gap_max_m

    def current(self, volt: Array, state: Array) -> Array:
        return self.i0_ampere * np.exp(-state / self.g0_m) * np.sinh(volt / self.v0_volt)

    def temperature_kelvin(self, volt: Array, state: Array) -> Array:
        """T."""
        return self.t0_kelvin + np.abs(volt * self.current(volt, state)) * self.r_th_kelvin_per_watt

    def drift(self, volt: Array, state: Array) -> Array:
        thermal = BOLTZMANN_EV * self.temperature_kelvin(volt, state)
        gamma = self.gamma0 - self.beta * (state * 1e9) ** 3
        field = np.clip(gamma * self.a0_m * volt / (self.t_ox_m * thermal), -600.0, 600.0)
        return -self.velocity_m_per_s * np.exp(-self.activation_energy_ev / thermal) * np.sinh(field)


SWITCHING: dict[str, type[Switching]] = {
    "vteam": Vteam,
    "linear-ion-drift": LinearIonDrift,
    "stanford-pku": StanfordPku,
}
"""Every switching model, by its kind."""


def switching(kind: str, **constants: object) -> Switching:
    """A model by its kind, with changed constants.

    Raises:
        UsageError: no such model, constant or value.

    >>> switching("vteam", r_on_ohm=100).r_on_ohm
    100.0
    """
    if kind not in SWITCHING:
        raise unknown("switching model", kind, SWITCHING)
    return SWITCHING[kind](**constants)


class Trace(NamedTuple):
    """A simulation: arrays of one length."""

    time_s: Array
    volt: Array
    ampere: Array
    state: Array


def simulate(
    model: Switching,
    volt: Callable[[float], float],
    until_s: float,
    state: float,
    *,
    points: int = 2001,
    rtol: float = 1e-7,
) -> Trace:
    """Solve a model from t = 0 for a voltage over time, by LSODA (stiff or not, as it finds).

    Args:
        model: what to solve.
        volt: the voltage at a time in seconds.
        until_s: when to stop.
        state: at the start; taken into the bounds.
        points: how many equally spaced times come back; no step of the solver is longer.
        rtol: relative tolerance of the state.

    Raises:
        UsageError: a time that is not above 0, or fewer than 2 points.
        RunError: the solver gave up.
    """
    if not 0.0 < until_s < math.inf or points < 2:
        raise UsageError(f"expected a time above 0 and at least 2 points; got {until_s!r} s, {points} points")
    times = np.linspace(0.0, until_s, points)
    volts = np.array([volt(float(t)) for t in times])
    low, high = model.bounds
    states = np.empty(points)
    states[0] = min(max(state, low), high)
    at = 0
    while at < points - 1:
        # at a bound that the voltage pushes against the state waits for another voltage
        if model.rate(volts[at : at + 1], states[at : at + 1])[0] == 0.0:
            states[at + 1] = states[at]
            at += 1
            continue
        at = _until_a_bound(model, volt, times, states, at, rtol)
    return Trace(times, volts, model.current(volts, states), states)


def _until_a_bound(
    model: Switching, volt: Callable[[float], float], times: Array, states: Array, at: int, rtol: float
) -> int:
    """Solve from ``times[at]`` until the state meets a bound or the end; fills in ``states``.

    Returns the last time that is known.
    """
    from scipy.integrate import solve_ivp

    low, high = model.bounds
    scale = high - low

    def slope(t: float, y: Array) -> Array:
        x = np.clip(low + scale * y, low, high)
        return model.drift(np.asarray([volt(t)], float), x) / scale

    def top(t: float, y: Array) -> float:
        return float(y[0]) - 1.0

    def bottom(t: float, y: Array) -> float:
        return float(y[0])

    for event, direction in ((top, 1.0), (bottom, -1.0)):
        event.terminal, event.direction = True, direction  # type: ignore[attr-defined]
    found = solve_ivp(
        slope, (times[at], times[-1]), [(states[at] - low) / scale], "LSODA", times[at:],
        events=(top, bottom), rtol=rtol, atol=1e-10, max_step=float(times[1] - times[0]),
    )  # fmt: skip
    if not found.success:
        raise RunError(f"the equations of {type(model).__name__} could not be solved: {found.message}")
    known = len(found.t)
    states[at : at + known] = np.clip(low + scale * found.y[0], low, high)
    last = at + known - 1
    if found.status == 1 and last < len(times) - 1:  # it met a bound between two times
        states[last + 1] = high if len(found.t_events[0]) else low
        last += 1
    return last


def hysteresis(
    model: Switching, amplitude_volt: float, frequency_hz: float, *, cycles: int = 2, points: int = 2001
) -> Trace:
    """The current-voltage loop under a sinusoidal voltage, from the middle of the state; its last cycle.

    Raises:
        UsageError: amplitude or frequency not above 0, or fewer than 1 cycle.

    >>> trace = hysteresis(LinearIonDrift(), 1.0, 1.0, points=401)
    >>> bool(abs(trace.ampere[np.abs(trace.volt) < 1e-9]).max() < 1e-12)
    True
    """
    if not (amplitude_volt > 0 and frequency_hz > 0 and cycles >= 1):
        raise UsageError(
            "expected an amplitude and a frequency above 0, and at least 1 cycle; got "
            f"{amplitude_volt!r} V, {frequency_hz!r} Hz, {cycles} cycles"
        )
    low, high = model.bounds
    whole = simulate(
        model,
        lambda t: amplitude_volt * math.sin(2.0 * math.pi * frequency_hz * t),
        cycles / frequency_hz,
        0.5 * (low + high),
        points=cycles * (points - 1) + 1,
    )
    last = slice((cycles - 1) * (points - 1), None)
    return Trace(*(part[last] for part in whole))


def loop_area_watt(trace: Trace) -> float:
    """∮ i dv of a cycle by the trapezoidal rule, without sign: of both lobes.

    A resistor has none; that of a memristor falls with the frequency.
    """
    half = len(trace.volt) // 2
    lobes = (slice(0, half + 1), slice(half, None))
    return math.fsum(abs(float(np.trapezoid(trace.ampere[lobe], trace.volt[lobe]))) for lobe in lobes)


def pulsed(
    model: Switching, state: Array, volt: float, width_s: float | Array, *, relative: float = 0.02
) -> Array:
    """States of many devices after a rectangular pulse, all at once, each in steps of its own.

    The midpoint rule, in steps that change neither the conductance by more than ``relative`` nor the state by
    more than that part of its range; a device that reaches a bound stays there.

    Args:
        model: of the devices.
        state: (devices,) before.
        volt: of the pulse.
        width_s: of the pulse, or of that of each device.

    >>> drift = LinearIonDrift()
    >>> float(pulsed(drift, np.array([0.0]), 1.0, 1e6)[0])
    1.0
    """
    low, high = model.bounds
    x, volts = np.array(state, float), np.full_like(state, volt, float)
    left = np.broadcast_to(np.asarray(width_s, float), x.shape).copy()
    nudge = 1e-6 * (high - low)
    for _ in range(_MOST_STEPS):
        rate = model.rate(volts, x)
        running = (left > 0) & (rate != 0)
        if not running.any():
            return x
        g = model.conductance_siemens(x)
        slope = (
            np.abs(model.conductance_siemens(np.where(x + nudge > high, x - nudge, x + nudge)) - g) / nudge
        )
        reach = relative * np.minimum(high - low, g / np.maximum(slope, 1e-300))
        with np.errstate(divide="ignore"):
            step = np.where(running, np.minimum(left, reach / np.abs(rate)), 0.0)
        halfway = np.clip(x + 0.5 * step * rate, low, high)
        # at a bound the rate is 0: what leads there is that of the start
        inner = model.drift(volts, halfway)
        x = np.clip(x + step * np.where(running, inner, 0.0), low, high)
        left = left - step
    return x


_MOST_STEPS = 20_000
