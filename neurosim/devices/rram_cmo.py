"""Analogue filamentary CMO/HfOx RRAM (Falcone 2025): program-and-verify, relaxation, slow read noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from neurosim.devices.device import Device, Effect, Real, check_target, check_time, percent
from neurosim.devices.fit_range import FitRange
from neurosim.devices.fits import slow_noise_growth

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

# aihwkit 1.1, inference/noise/reram.py: σ = a + b·g in µS, by the acceptance range of the verify loop
_PROGRAMMING = {"0.2%": (0.00081107, 0.00106879), "2%": (0.0112185391, 0.01129027418)}
# relaxation in µS: mean a·ln t, standard deviation b·ln t + c, t in seconds
_MEAN, _STD_SLOPE, _STD_OFFSET = -0.08900206, 0.04201137, 0.41183342
# read noise: σ = K·log10(g in µS)·√ln((t + t_r)/(2 t_r)) in µS
_READ, _READ_TIME_S = 0.0277316483, 1e-6


class RramCmo(Device):
    r"""CMO/HfOx RRAM after Falcone et al. 2025; conductances in µS, each n ~ N(0, 1) with a draw of its own.

    Programming, once per chip, with a, b by the acceptance range of the closed loop::

        g_prog = max(g_target + (a + b·g_target)·n, 0)
        acceptance 0.2 %:  a = 0.00081107, b = 0.00106879
        acceptance 2 %:    a = 0.01121854, b = 0.01129027

    Ageing, for t > 0, with t₁ = max(t, 1 s).  The relaxation has one n per chip and device for all ages (the
    distribution at each time is measured, that a device keeps its place in it is assumed); the read noise has
    one per chip and age, which holds for the whole read window::

        g_r  = g_prog − 0.08900206·ln t₁ + (0.04201137·ln t₁ + 0.41183342)·n_relaxation
        g(t) = max(g_r + K·log10(max(g_r, 1))·√ln((t + t_r)/(2 t_r))·n_read, 0)    K = 0.02773, t_r = 1 µs

    The relaxation starts at 1 s, the first time of the measurement: the fit in ln t has no earlier one, and
    below 55 µs its standard deviation would be negative.  At t = 0 the devices hold g_prog.

    Sources: D. F. Falcone et al., "All-in-one analog AI hardware: on-chip training and inference with
    conductive-metal-oxide/HfOx ReRAM devices", 2025, doi:10.48550/arXiv.2502.04524 (programming and
    relaxation, the latter measured for one hour, its fit at 50 µS); D. G. F. Lombardo et al., "Read noise
    analysis in analog conductive-metal-oxide/HfOx ReRAM devices", DRC 2024,
    doi:10.1109/DRC61706.2024.10643760 (read noise); digits of IBM's aihwkit 1.1,
    ``aihwkit/inference/noise/reram.py``.

    Differences from aihwkit, all on purpose: it redraws the relaxation at every age; it clamps to
    [g_min, g_max], which hides half of what befalls devices at the ends of the range; an acceptance range it
    does not know, its own default included, becomes 0.2 % without a word.

    ``programming_scale``, ``relaxation_scale`` and ``read_scale`` multiply the effects; 0 turns one off.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> device, draws = RramCmo(), Draws(0, (0,), "w+")
    >>> state = device.program(torch.full((10_000,), 50e-6), draws)
    >>> hour = device.age(state, 3600.0, draws) - state["g_siemens"]
    >>> round(float(hour.mean()) * 1e6, 1), round(float(hour.std()) * 1e6, 1)
    (-0.7, 0.8)
    """

    kind: Literal["rram-cmo"] = "rram-cmo"
    g_min_siemens: Real = Field(default=9e-6, ge=0.0, le=1.0)
    g_max_siemens: Real = Field(default=88.2e-6, ge=1e-15, le=1.0)
    acceptance: Literal["0.2%", "2%"] = "0.2%"
    programming_scale: Real = Field(default=1.0, ge=0.0, le=100.0)
    relaxation_scale: Real = Field(default=1.0, ge=0.0, le=100.0)
    read_scale: Real = Field(default=1.0, ge=0.0, le=100.0)

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        shape = tuple(g_target_siemens.shape)
        n = draws.normal("programming", shape).to(g_target_siemens)
        g = (g_target_siemens + self.programming_std(g_target_siemens) * n).clamp(min=0.0)
        return {"g_siemens": g, "relaxation": draws.normal("relaxation", shape).to(g_target_siemens)}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        time_s = check_time(time_s)
        g = state["g_siemens"]
        if time_s == 0.0:
            return g
        mean, std = self.relaxation_moments(time_s)
        relaxed = g + (state["relaxation"] * std + mean)
        n = draws.normal(f"read-noise@{time_s!r}", tuple(g.shape[1:])).to(g)
        return (relaxed + self.read_std(relaxed, time_s) * n).clamp(min=0.0)

    def programming_std(self, g_target_siemens: Tensor) -> Tensor:
        """σ of programming in siemens, same shape as its argument."""
        offset, slope = _PROGRAMMING[self.acceptance]
        scale = self.programming_scale
        return g_target_siemens * (slope * scale) + offset * 1e-6 * scale

    def relaxation_moments(self, time_s: float) -> tuple[float, float]:
        """Mean and standard deviation of the change since programming, in siemens."""
        log_time = math.log(max(time_s, 1.0))
        scale = self.relaxation_scale * 1e-6
        return _MEAN * log_time * scale, (_STD_SLOPE * log_time + _STD_OFFSET) * scale

    def read_std(self, g_siemens: Tensor, time_s: float) -> Tensor:
        """σ of the slow read noise in siemens, same shape as its first argument; 0 up to 1 µS."""
        size = self.read_scale * 1e-6 * _READ / math.log(10) * slow_noise_growth(time_s, _READ_TIME_S)
        return (g_siemens * 1e6).clamp(min=1.0).log() * size

    def fit_range(self) -> FitRange:
        """9 to 88.2 µS (Falcone's and aihwkit's bounds), 1 s to one hour (Falcone, fig. 3c and d)."""
        return FitRange((9e-6, 88.2e-6), (1.0, 3600.0))

    def effects(self) -> list[Effect]:
        offset, slope = _PROGRAMMING[self.acceptance]
        low, high = (
            (offset + slope * g * 1e6) * self.programming_scale
            for g in (self.g_min_siemens, self.g_max_siemens)
        )
        mean, std = (1e6 * moment for moment in self.relaxation_moments(3600.0))
        log_g = math.log10(max(self.g_max_siemens * 1e6, 1.0))
        read = self.read_scale * _READ * log_g * slow_noise_growth(3600.0, _READ_TIME_S)
        return [
            Effect(
                "programming error",
                high > 0,
                "once per chip",
                f"{low:.3g} to {high:.3g} µS (standard deviation; accepted within {self.acceptance})",
            ),
            Effect(
                "relaxation",
                std > 0,
                "once per chip",
                f"{mean:.3g} ± {std:.3g} µS after an hour, whatever the state; none at t = 0",
            ),
            Effect(
                "slow read noise (1/f)",
                read > 0,
                "once per chip and age",
                f"{percent(read / (self.g_max_siemens * 1e6))} of a fully-on conductance after an hour",
            ),
        ]
