"""Ferroelectric transistors: analog threshold voltages with a spread, behind a series resistor if wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from neurosim.devices.device import Device, Effect, Real, check_target, check_time, percent
from neurosim.devices.fit_range import FitRange

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws


class Fefet(Device):
    r"""A transistor read above threshold conducts in proportion to V_H − V_T, V_H the high-threshold state.

    The polarisation sets V_T anywhere in the memory window, so a spread of V_T is an absolute spread of the
    transistor's conductance f.  The cell may have a resistor in series (1FeFET-1R), which limits the current
    of strong states and hides their spread; s = ``series_fraction`` = g_max·R::

        f_target = g_target/(1 − g_target·R)
        f        = max(f_target + vth_std·(f(g_max) − f(g_min))·n, 0)      n ~ N(0, 1), once per chip
        g        = f/(1 + f·R)

    ``vth_std`` is σ(V_T) as a fraction of the memory window.  Nothing ages.

    Source: σ(V_T) is "on average 4 % of the overall memory window" for devices of a 28 nm high-k metal-gate
    process, X. Yin et al., "Deep random forest with ferroelectric analog content addressable memory", Science
    Advances 10, eadk8471 (2024), doi:10.1126/sciadv.adk8471.  Series resistor and an on/off ratio above
    1,000: X. Yin et al., Nature Communications 15 (2024), doi:10.1038/s41467-024-46640-x.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> g = torch.full((10_000,), 10e-6)
    >>> cells = [Fefet(g_max_siemens=10e-6, series_fraction=s) for s in (0.0, 0.8)]
    >>> [round(float(c.program(g, Draws(0, (0,), "w+"))["g_siemens"].std()) * 1e6, 2) for c in cells]
    [0.4, 0.08]
    """

    kind: Literal["fefet"] = "fefet"
    vth_std: Real = Field(default=0.04, ge=0.0, le=10.0)
    series_fraction: Real = Field(default=0.0, ge=0.0, le=0.99)

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        shape = tuple(g_target_siemens.shape)
        if self.vth_std == 0:
            return {"g_siemens": g_target_siemens.expand(len(draws.chips), *shape)}
        n = draws.normal("programming", shape).to(g_target_siemens)
        ohm = self.series_fraction / self.g_max_siemens
        f = g_target_siemens / (1.0 - g_target_siemens * ohm)
        f = (f + self.transistor_std_siemens() * n).clamp(min=0.0)
        return {"g_siemens": f / (1.0 + f * ohm)}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        check_time(time_s)
        return state["g_siemens"]

    def transistor_std_siemens(self) -> float:
        """Standard deviation of the transistor's own conductance."""
        ohm = self.series_fraction / self.g_max_siemens
        low, high = (g / (1.0 - g * ohm) for g in (self.g_min_siemens, self.g_max_siemens))
        return self.vth_std * (high - low)

    def fit_range(self) -> FitRange:
        """Right after programming: no ageing was found published in numbers."""
        return FitRange(time_s=(0.0, 0.0))

    def effects(self) -> list[Effect]:
        strong = self.transistor_std_siemens() / self.g_max_siemens * (1.0 - self.series_fraction) ** 2
        size = f"{percent(self.vth_std)} of the memory window (standard deviation)"
        if self.series_fraction:
            size += f"; behind the resistor {percent(strong)} of g_max where fully on"
        return [Effect("threshold spread", self.vth_std > 0, "once per chip", size)]
