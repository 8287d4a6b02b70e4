"""HfOx RRAM of the NeuRRAM chip (Wan 2022): one deviation per device, measured at a few times."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from neurosim.devices.device import Device, Effect, Real, check_target, check_time
from neurosim.devices.fit_range import FitRange, in_words
from neurosim.devices.fits import extremes, in_log_time, polynomial

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

_Coefficient = Annotated[Real, Field(ge=-1.0, le=1.0)]
_Time = Annotated[Real, Field(ge=1e-15, le=1e12)]


class RramWan(Device):
    r"""RRAM after Wan et al. 2022: write-verify, then relaxation, seen as one deviation that grows.

    With x = g_target/g_ref and one n ~ N(0, 1) per chip and device, for ever::

        g(t)    = max(g_target + σ(x, t)·n, 0)
        σ(x, t) = max(c0(t) + c1(t)·x + c2(t)·x² + c3(t)·x³ + c4(t)·x⁴, 0)

    The coefficients are known at ``fit_times_s``; in between, they are interpolated linearly in ln t.  Before
    the first time σ is that of the first (what was measured then holds programming error and early relaxation
    together), after the last it stays that of the last.

    **What is measured and what is assumed.**  The distribution at each of the times is measured, the way from
    one to the next is not: with one n per device, a device that lies high after a second lies higher after a
    day, in proportion.  Ageing never redraws.  Independent steps instead are impossible with these fits: at
    0.3·g_ref, σ is 3.90 µS after a day and 3.85 µS after two.

    x counts from the conductance of the fit and not from ``g_max_siemens``: using less of the range does not
    make a device better.

    Source of the measurement: W. Wan et al., "A compute-in-memory chip based on resistive random-access
    memory", Nature 608, 504 (2022), extended data fig. 3d, doi:10.1038/s41586-022-04992-8; devices from 1 to
    40 µS.  Two groups have fitted that figure, and they differ:

    * IBM's aihwkit (``aihwkit/inference/noise/reram.py``, the defaults here): quartics at 1 s, 1 day and
      2 days.  aihwkit takes x = g/g_max without rescaling σ, redraws n at every age, and refuses other ages;
      at g_max = 40 µS and these three ages its distributions are ours.
    * Sandia's CrossSim (``simulator/devices/custom/RRAM_Wan.py``; preset ``rram-wan-2022-crosssim``): a cubic
      at 1 s, up to 39.26 µS, without ageing.  From 4 µS on it is 7 to 46 % above aihwkit's, at 1 µS 77 %.

    ``deviation_scale`` multiplies σ; 0 turns it off.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> device, draws = RramWan(), Draws(0, (0,), "w+")
    >>> state = device.program(torch.full((10_000,), 20e-6), draws)
    >>> [round(float(device.age(state, t, draws).std() * 1e6), 1) for t in (0.0, 86400.0)]
    [2.0, 3.9]
    """

    written_apart: ClassVar[bool] = False
    kind: Literal["rram-wan"] = "rram-wan"
    g_min_siemens: Real = Field(default=1e-6, ge=0.0, le=1.0)
    g_max_siemens: Real = Field(default=40e-6, ge=1e-15, le=1.0)

    # aihwkit 1.1: (c0, …, c4) in siemens, at 1 s, 1 day, 2 days
    fit_times_s: tuple[_Time, ...] = (1.0, 86400.0, 172800.0)
    fit_siemens: tuple[tuple[_Coefficient, ...], ...] = (
        (0.348e-6, 16.030e-6, -43.853e-6, 45.393e-6, -16.815e-6),
        (0.701e-6, 22.086e-6, -50.773e-6, 47.095e-6, -16.458e-6),
        (0.782e-6, 20.274e-6, -43.507e-6, 37.062e-6, -11.934e-6),
    )
    reference_siemens: Real = Field(default=40e-6, ge=1e-15, le=1.0)
    deviation_scale: Real = Field(default=1.0, ge=0.0, le=100.0)

    @model_validator(mode="after")
    def _one_polynomial_a_time(self) -> RramWan:
        lengths = {len(coefficients) for coefficients in self.fit_siemens}
        rising = all(a < b for a, b in itertools.pairwise(self.fit_times_s))
        if not self.fit_times_s or len(self.fit_times_s) != len(self.fit_siemens) or not rising:
            raise ValueError(
                "expected rising fit_times_s and one polynomial in fit_siemens for each; got "
                f"fit_times_s={self.fit_times_s!r} and {len(self.fit_siemens)} polynomials"
            )
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                "expected polynomials of one and the same length; "
                f"got fit_siemens of lengths {[len(coefficients) for coefficients in self.fit_siemens]}"
            )
        return self

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        shape = tuple(g_target_siemens.shape)
        n = draws.normal("programming", shape).to(g_target_siemens)
        return {
            "g_siemens": self._at(g_target_siemens, n, 0.0),
            "g_target_siemens": g_target_siemens.expand(len(draws.chips), *shape),
            "deviation": n,
        }

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        time_s = check_time(time_s)
        if time_s <= self.fit_times_s[0]:
            return state["g_siemens"]
        return self._at(state["g_target_siemens"], state["deviation"], time_s)

    def _at(self, g_target_siemens: Tensor, n: Tensor, time_s: float) -> Tensor:
        return (g_target_siemens + self.deviation_std(g_target_siemens, time_s) * n).clamp(min=0.0)

    def deviation_std(self, g_target_siemens: Tensor, time_s: float) -> Tensor:
        """σ in siemens, ``time_s`` after programming; same shape as its first argument, never negative."""
        coefficients = [c * self.deviation_scale for c in self._coefficients(time_s)]
        return polynomial(coefficients, g_target_siemens / self.reference_siemens).clamp(min=0.0)

    def _coefficients(self, time_s: float) -> list[float]:
        return in_log_time(self.fit_times_s, self.fit_siemens, time_s)

    def fit_range(self) -> FitRange:
        """1 µS (where the chip's devices start) to the end of the fit; its first and last time."""
        return FitRange((1e-6, self.reference_siemens), (self.fit_times_s[0], self.fit_times_s[-1]))

    def effects(self) -> list[Effect]:
        sizes = [(time_s, *self._extremes(time_s)) for time_s in self.fit_times_s]
        words = (f"{low:.3g} to {high:.3g} µS after {in_words(time_s)}" for time_s, low, high in sizes)
        acts = any(high > 0 for _, _, high in sizes)
        return [
            Effect(
                "programming error and relaxation",
                acts,
                "once per chip",
                f"standard deviation {', '.join(words)}",
            )
        ]

    def _extremes(self, time_s: float) -> tuple[float, float]:
        """Least and greatest σ between g_min and g_max, in µS."""
        coefficients = [c * self.deviation_scale * 1e6 for c in self._coefficients(time_s)]
        ends = (self.g_min_siemens / self.reference_siemens, self.g_max_siemens / self.reference_siemens)
        return extremes(lambda x: max(polynomial(coefficients, x), 0.0), *ends)
