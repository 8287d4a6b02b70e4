"""Floating-gate (NOR flash) cells read in weak inversion: tuning error and slow loss of charge."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from neurosim.devices.device import Device, Effect, Real, check_target, check_time, percent
from neurosim.devices.fit_range import FitRange

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

YEAR_S = 3.15576e7
_QUOTED_KELVIN = 398.15
_SMALLEST_FRACTION = 1e-7  # below it a cell is off, and its logarithm is cut


class Flash(Device):
    r"""A cell's current is exponential in its stored charge, so that a loss of charge acts on ln g.

    Programming, once per chip: tuned until within a tolerance of the target::

        g(0) = max(g_target·(1 + tuning_std·n), 0)            n ~ N(0, 1)

    Retention: with the fraction f of the charge gone, the distance of ln g to ln g_max (the state of an
    erased cell) shrinks by f; x = g(0)/g_max::

        g(t) = g(0)·x^−f       f(t) = retention_loss·ln(1 + t/t0)/ln(1 + t_ref/t0), at most 1

    with t0 = ``retention_t0_s`` and t_ref = ``retention_time_s``.  Cells drift *towards* full conductance,
    most of all where x = 1/e, by f/e of g_max.  The fraction has no spread of its own; neither read noise nor
    temperature acts.

    Sources: tuning to better than 1 % of any weak-inversion current, X. Guo et al., "Temperature-insensitive
    analog vector-by-matrix multiplier based on 55 nm NOR flash memory cells", 2016,
    doi:10.48550/arXiv.1611.03379, and F. Merrikh Bayat et al., 2014, doi:10.48550/arXiv.1410.4781 (180 nm,
    over almost three orders of magnitude of current).  Retention of "about 6 bits for 15 years", at more
    than 125 °C, of analog floating gates is quoted in IEEE Xplore 1465045 (2005): half a step of 6 bits,
    1/128, is f/e after 15 years at f = e/128 = 0.0212.  With heat, ``heat.reference_kelvin`` is 398.15 K.
    The logarithmic course and t0 are assumptions.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> device, draws = Flash(tuning_std=0.0), Draws(0, (0,), "w+")
    >>> state = device.program(torch.tensor([device.g_max_siemens / math.e]), draws)
    >>> gained = device.age(state, 15 * YEAR_S, draws) - state["g_siemens"]
    >>> round(float(gained) / device.g_max_siemens * 128, 2)
    1.01
    """

    kind: Literal["flash"] = "flash"
    tuning_std: Real = Field(default=0.01, ge=0.0, le=10.0)
    retention_loss: Real = Field(default=0.0212, ge=0.0, le=1.0)
    retention_time_s: Real = Field(default=15 * YEAR_S, ge=1.0, le=1e12)
    retention_t0_s: Real = Field(default=86400.0, ge=1e-9, le=1e12)

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        n = draws.normal("programming", tuple(g_target_siemens.shape)).to(g_target_siemens)
        return {"g_siemens": (g_target_siemens * (1.0 + self.tuning_std * n)).clamp(min=0.0)}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        lost = self.lost(check_time(time_s))
        g = state["g_siemens"]
        if lost == 0.0:
            return g
        log_x = (g / self.g_max_siemens).clamp(min=_SMALLEST_FRACTION).log()
        return g * (log_x * -lost).exp()

    def lost(self, time_s: float) -> float:
        """f, the fraction of the charge that is gone."""
        growth = math.log1p(time_s / self.retention_t0_s) / math.log1p(
            self.retention_time_s / self.retention_t0_s
        )
        return min(self.retention_loss * growth, 1.0)

    def fit_range(self) -> FitRange:
        """Up to the age, and at the temperature, for which the loss of charge is quoted."""
        return FitRange(time_s=(0.0, self.retention_time_s), kelvin=(_QUOTED_KELVIN, _QUOTED_KELVIN))

    def effects(self) -> list[Effect]:
        years = self.retention_time_s / YEAR_S
        return [
            Effect(
                "tuning error",
                self.tuning_std > 0,
                "once per chip",
                f"{percent(self.tuning_std)} of each conductance (standard deviation)",
            ),
            Effect(
                "loss of charge",
                self.retention_loss > 0,
                "once per chip and age",
                f"at most {percent(self.retention_loss / math.e)} of g_max after {years:.3g} years, "
                "the same on every chip",
            ),
        ]
