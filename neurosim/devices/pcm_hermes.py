"""Phase-change memory of IBM's HERMES chip: one or two devices a conductance, fits in two pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from neurosim.devices.device import Device, Effect, Real, Whole, check_target, check_time, percent
from neurosim.devices.fit_range import FitRange
from neurosim.devices.fits import (
    clipped_line,
    extremes,
    log_elapsed,
    pieces,
    polynomial,
    slow_noise_growth,
)

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

_READ_TIME_S = 512e-9
# Below it the logarithms of the fits are cut; every clip of the fits has long been reached there.
_SMALLEST_FRACTION = 1e-7
_DAY_S = 86400.0


@dataclass(frozen=True)
class _TwoPieces:
    """clip(slope·ln x + offset, low, high) below ``split``; from there the polynomial ``above``, c0 first."""

    split: float
    slope: float
    offset: float
    low: float
    high: float
    above: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        line = clipped_line(
            x.clamp(min=_SMALLEST_FRACTION).log(), self.slope, self.offset, self.low, self.high
        )
        return pieces(x, self.split, line, polynomial(self.above, x))

    def on(self) -> float:
        """Its value at x = 1."""
        return sum(self.above)


@dataclass(frozen=True)
class _Fit:
    """Published constants of one way to hold a conductance; x = g/g_ref."""

    g_ref_us: float
    t0_s: float
    programming_us: tuple[float, ...]
    drift_mean: _TwoPieces
    drift_std: _TwoPieces
    read: _TwoPieces


_DRIFT_MEAN = _TwoPieces(0.0945, -0.0387, -0.0182, 0.0720, 0.13, (0.0736, -0.0126, -0.0436))
_FITS = {
    1: _Fit(
        g_ref_us=10.35,
        t0_s=200.0,
        programming_us=(0.15781817, 2.32443916, -2.16310839, 0.68841818),
        drift_mean=_DRIFT_MEAN,
        drift_std=_TwoPieces(0.3039, -0.0120, -0.0023, 0.0124, 0.04, (0.0104, 0.0116, -0.0165)),
        read=_TwoPieces(0.1591, -0.0078, 0.0038, 0.0179, 0.04, (0.0088, 0.0768, -0.1352, 0.0664)),
    ),
    2: _Fit(
        g_ref_us=20.7,
        t0_s=300.0,
        programming_us=(0.16603222, 4.71806468, -8.48101252, 4.68961419),
        drift_mean=_DRIFT_MEAN,
        drift_std=_TwoPieces(0.3055, -0.0117, -0.0057, 0.0091, 0.04, (0.0073, 0.0093, -0.0118)),
        read=_TwoPieces(0.16, -0.0117, -0.0069, 0.015, 0.04, (0.0123, 0.0211, -0.0280, 0.0069)),
    ),
}


class PcmHermes(Device):
    r"""PCM of the HERMES chip; the physics of :class:`neurosim.devices.Pcm` with fits of other forms.

    ``devices`` PCM devices in parallel hold one conductance: 1, up to g_ref = 10.35 µS with t0 = 200 s, or 2,
    up to 20.7 µS with 300 s.  Each n is N(0, 1) with a draw of its own, x = g/g_ref, t_r = 512 ns::

        g_prog = max(g_target + σ_p(g_target)·n, 0)                            once per chip
        ν      = |μ_ν(g_target) + σ_ν(g_target)·n|                              once per chip
        g_d    = g_prog·((t + t0)/t0)^−ν                                        t > 0
        g(t)   = max(g_d + g_d·q(g_prog)·√ln((t + t0 + t_r)/(2 t_r))·n, 0)      once per chip and age

    The fits, where [A | s | B] is A below x = s and B from there::

        both:        μ_ν    = [clip(−.0387 ln x − .0182, .072, .13) | .0945 | .0736 − .0126x − .0436x²]
        one device:  σ_p/µS = .15782 + 2.32444x − 2.16311x² + .68842x³
                     σ_ν    = [clip(−.0120 ln x − .0023, .0124, .04) | .3039 | .0104 + .0116x − .0165x²]
                     q      = [clip(−.0078 ln x + .0038, .0179, .04) | .1591 |
                               .0088 + .0768x − .1352x² + .0664x³]
        two devices: σ_p/µS = .16603 + 4.71806x − 8.48101x² + 4.68961x³
                     σ_ν    = [clip(−.0117 ln x − .0057, .0091, .04) | .3055 | .0073 + .0093x − .0118x²]
                     q      = [clip(−.0117 ln x − .0069, .015, .04) | .16 |
                               .0123 + .0211x − .0280x² + .0069x³]

    At t = 0 the devices hold g_prog.  The pieces do not meet exactly (μ_ν steps by 0.001), as published.

    x counts from the conductance of the fit and not from ``g_max_siemens``: using less of the range does not
    make a device better.  (aihwkit takes x = g/g_max and scales σ_p with g_max; at g_max = g_ref both agree,
    except that aihwkit also applies read noise when asked for t = 0.)

    Two devices follow the optimised programming of Vasilopoulos et al., IEEE Trans. Electron Devices (2023,
    https://ieeexplore.ieee.org/document/10281389), but drift as if both held the same conductance: worse than
    was measured on the chip, as aihwkit says.

    Sources: M. Le Gallo et al., "A 64-core mixed-signal in-memory compute chip based on phase-change memory
    for deep neural network inference", Nature Electronics (2023), doi:10.1038/s41928-023-01010-1;
    R. Khaddam-Aljameh et al., IEEE J. Solid-State Circuits (2022),
    https://ieeexplore.ieee.org/document/9696185; digits of IBM's aihwkit 1.1,
    ``aihwkit/inference/noise/hermes.py``.

    ``programming_scale``, ``drift_scale`` (of ν) and ``read_scale`` multiply the effects; 0 turns one off.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> device, draws = PcmHermes(), Draws(0, (0, 1), "w+")
    >>> state = device.program(torch.full((1000,), 20e-6), draws)
    >>> day = device.age(state, 86400.0, draws)
    >>> bool(0.85 < day.mean() / state["g_siemens"].mean() < 0.95)
    True
    """

    kind: Literal["pcm-hermes"] = "pcm-hermes"
    g_max_siemens: Real = Field(default=20.7e-6, ge=1e-15, le=1.0)
    devices: Whole = Field(default=2, ge=1, le=2)
    programming_scale: Real = Field(default=1.0, ge=0.0, le=100.0)
    drift_scale: Real = Field(default=1.0, ge=0.0, le=100.0)
    read_scale: Real = Field(default=1.0, ge=0.0, le=100.0)

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        shape = tuple(g_target_siemens.shape)
        n = draws.normal("programming", shape).to(g_target_siemens)
        g = (g_target_siemens + self.programming_std(g_target_siemens) * n).clamp(min=0.0)
        mean, std = self.drift_moments(g_target_siemens)
        n = draws.normal("drift", shape).to(g_target_siemens)
        return {"g_siemens": g, "drift_exponent": (mean + std * n).abs() * self.drift_scale}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        time_s = check_time(time_s)
        g = state["g_siemens"]
        if time_s == 0.0:
            return g
        drifted = g * (state["drift_exponent"] * -log_elapsed(time_s, self._fit.t0_s)).exp()
        n = draws.normal(f"read-noise@{time_s!r}", tuple(g.shape[1:])).to(g)
        return (drifted + drifted * self.read_fraction(g) * self.read_growth(time_s) * n).clamp(min=0.0)

    @property
    def _fit(self) -> _Fit:
        return _FITS[self.devices]

    def _x(self, g_siemens: Tensor) -> Tensor:
        return g_siemens * (1e6 / self._fit.g_ref_us)

    def programming_std(self, g_target_siemens: Tensor) -> Tensor:
        """σ_p in siemens, same shape as its argument; never negative."""
        coefficients = [c * 1e-6 * self.programming_scale for c in self._fit.programming_us]
        return polynomial(coefficients, self._x(g_target_siemens)).clamp(min=0.0)

    def drift_moments(self, g_target_siemens: Tensor) -> tuple[Tensor, Tensor]:
        """(μ_ν, σ_ν), same shape as the argument."""
        x = self._x(g_target_siemens)
        return self._fit.drift_mean(x), self._fit.drift_std(x)

    def read_fraction(self, g_programmed_siemens: Tensor) -> Tensor:
        """q, the 1/f noise as a fraction of the conductance, same shape as the argument."""
        return self._fit.read(self._x(g_programmed_siemens))

    def read_growth(self, time_s: float) -> float:
        """√ln((t + t0 + t_r)/(2 t_r)) times ``read_scale``."""
        return self.read_scale * slow_noise_growth(time_s + self._fit.t0_s, _READ_TIME_S)

    def fit_range(self) -> FitRange:
        """0 to g_ref (aihwkit's bounds), t0 to one day.

        No source at hand says how long the drift was followed; a day is the span over which Joshi et al.
        (2020) followed networks on the same group's earlier devices.
        """
        return FitRange((0.0, self._fit.g_ref_us * 1e-6), (self._fit.t0_s, _DAY_S))

    def effects(self) -> list[Effect]:
        ends = (self.g_min_siemens * 1e6 / self._fit.g_ref_us, self.g_max_siemens * 1e6 / self._fit.g_ref_us)
        low, high = (
            size * self.programming_scale
            for size in extremes(lambda x: max(polynomial(self._fit.programming_us, x), 0.0), *ends)
        )
        nu = self._fit.drift_mean
        read = self._fit.read.on() * self.read_growth(_DAY_S)
        return [
            Effect(
                "programming noise",
                high > 0,
                "once per chip",
                f"{low:.3g} to {high:.3g} µS (standard deviation; at most "
                f"{percent(high * 1e-6 / self.g_max_siemens)} of g_max)",
            ),
            Effect(
                "drift",
                self.drift_scale > 0,
                "once per chip",
                f"(1 + t/{self._fit.t0_s:g} s)^-ν, mean ν {nu.on() * self.drift_scale:.3g} (fully on) to "
                f"{nu.high * self.drift_scale:.3g}",
            ),
            Effect(
                "slow read noise (1/f)",
                read > 0,
                "once per chip and age",
                f"{percent(read)} of a fully-on conductance after a day; none at t = 0",
            ),
        ]
