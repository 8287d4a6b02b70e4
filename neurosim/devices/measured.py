"""A device as its user measured it: polynomials fitted to one's own data, see `neurosim hardware fit`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from neurosim.devices.device import Device, Effect, Real, check_target, check_time
from neurosim.devices.fit_range import FitRange, in_words
from neurosim.devices.fits import extremes, polynomial

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

_Siemens = Annotated[Real, Field(ge=-1.0, le=1.0)]
_Number = Annotated[Real, Field(ge=-100.0, le=100.0)]
_Time = Annotated[Real, Field(ge=0.0, le=1e12)]


class Measured(Device):
    r"""Bias, spread and drift as polynomials in x = g_target/g_ref; n ~ N(0, 1), its own in each line.

    Once per chip and device::

        g_prog = max(g_target + b(x) + max(σ(x), 0)·n, 0)
        ν      = m(x) + max(s(x), 0)·n

    After the first measured time t0, for ever the same ν::

        g(t) = g_prog·(t/t0)^−ν        t > t0;  before, g_prog

    A negative ν is a conductance that grows.  b, σ are in siemens, lowest order first, ν has no unit.  What
    was measured is the user's own: :func:`neurosim.devices.fitting.fit` fills in all constants and the range.

    ``programming_scale`` multiplies b and σ, ``drift_scale`` ν; 0 turns them off.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> device = Measured(bias_siemens=(-1e-6,), spread_siemens=(0.0, 2e-6), drift_mean=(0.05,))
    >>> state = device.program(torch.full((10_000,), 25e-6), Draws(0, (0,), "w+"))
    >>> round(float(state["g_siemens"].mean()) * 1e6), round(float(state["g_siemens"].std()) * 1e6)
    (24, 2)
    """

    kind: Literal["measured"] = "measured"
    reference_siemens: Real = Field(default=25e-6, ge=1e-15, le=1.0)
    bias_siemens: tuple[_Siemens, ...] = Field(default=(0.0,), min_length=1, max_length=8)
    spread_siemens: tuple[_Siemens, ...] = Field(default=(1e-6,), min_length=1, max_length=8)
    programming_scale: Real = Field(default=1.0, ge=0.0, le=100.0)
    drift_mean: tuple[_Number, ...] = Field(default=(0.0,), min_length=1, max_length=8)
    drift_std: tuple[_Number, ...] = Field(default=(0.0,), min_length=1, max_length=8)
    drift_t0_s: Real = Field(default=1.0, ge=1e-15, le=1e12)
    drift_scale: Real = Field(default=1.0, ge=0.0, le=100.0)
    measured_siemens: tuple[_Siemens, _Siemens] | None = None
    measured_s: tuple[_Time, _Time] | None = None

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        shape = tuple(g_target_siemens.shape)
        x = g_target_siemens / self.reference_siemens
        spread = polynomial(self.spread_siemens, x).clamp(min=0.0) * self.programming_scale
        middle = g_target_siemens + polynomial(self.bias_siemens, x) * self.programming_scale
        g = (middle + spread * draws.normal("programming", shape).to(g_target_siemens)).clamp(min=0.0)
        n = draws.normal("drift", shape).to(g_target_siemens)
        exponent = polynomial(self.drift_mean, x) + polynomial(self.drift_std, x).clamp(min=0.0) * n
        return {"g_siemens": g, "drift_exponent": exponent * self.drift_scale}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        time_s = check_time(time_s)
        if time_s <= self.drift_t0_s:
            return state["g_siemens"]
        return state["g_siemens"] * (state["drift_exponent"] * -self._log_time(time_s)).exp()

    def _log_time(self, time_s: float) -> float:
        return math.log(time_s / self.drift_t0_s)

    def fit_range(self) -> FitRange:
        """The conductances and times measured by whoever fitted it."""
        return FitRange(self.measured_siemens, self.measured_s)

    def effects(self) -> list[Effect]:
        bias, spread = (self._range(c, 1e6) for c in (self.bias_siemens, self.spread_siemens))
        nu, nu_std = (self._range(c, 1.0) for c in (self.drift_mean, self.drift_std))
        scale = self.programming_scale
        return [
            Effect(
                "programming error",
                scale > 0 and (any(bias) or spread[1] > 0),
                "once per chip",
                f"mean {scale * bias[0]:.3g} to {scale * bias[1]:.3g} µS, standard deviation "
                f"{scale * max(spread[0], 0.0):.3g} to {scale * max(spread[1], 0.0):.3g} µS",
            ),
            Effect(
                "drift",
                self.drift_scale > 0 and (any(nu) or nu_std[1] > 0),
                "once per chip",
                f"(t/{in_words(self.drift_t0_s)})^-ν, mean ν {self.drift_scale * nu[0]:.3g} to "
                f"{self.drift_scale * nu[1]:.3g}",
            ),
        ]

    def _range(self, coefficients: tuple[float, ...], unit: float) -> tuple[float, float]:
        ends = (self.g_min_siemens / self.reference_siemens, self.g_max_siemens / self.reference_siemens)
        return extremes(lambda x: unit * polynomial(coefficients, x), *ends)
