"""A device of a stated spread: three distributions × three laws of how the spread depends on the state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from neurosim.devices.device import Device, Effect, Real, check_target, check_time, percent

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

# a lognormal whose standard deviation is more than this many times its mean is 0 but for one draw in millions
_LARGEST_RATIO = 1e4


class Generic(Device):
    r"""g = g_target + σ(g_target)·unit, drawn once per chip and device, constant in time; x = g_target/g_max.

    The law gives the standard deviation σ::

        absolute        σ = std·g_max
        proportional    σ = std·g_target
        inverse         σ = g_max·min(std/x, std_max)      the weaker the state, the larger

    The distribution gives the shape around it::

        normal      g_target + σ·n                n ~ N(0, 1)
        uniform     g_target + σ·√12·(u − ½)      u ~ U[0, 1): between g_target ± √3·σ
        lognormal   g_target·exp(s·n − s²/2)      s² = ln(1 + (σ/g_target)²)

    In all three the *arithmetic mean* over chips is g_target and the standard deviation is σ, so that they
    differ in shape only; a lognormal's median lies below its mean by the factor exp(−s²/2), a device without
    conductance keeps none, and σ/g_target counts as at most 10⁴.  With ``below_zero = "cut"`` what is drawn
    below 0 becomes 0, which raises the mean where σ is not small against g_target; with ``"kept"`` it stays,
    and a normal, proportional spread is that of :class:`neurosim.devices.Gaussian` to the bit.

    Attributes:
        distribution: shape of the spread.
        law: how the standard deviation depends on the state.
        std: its size, as a fraction; 0 is exact.
        std_max: where an inverse law is cut, as a fraction of g_max.
        below_zero: what becomes of a negative conductance.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> device = Generic(distribution="uniform", law="absolute", std=0.02)
    >>> g = device.program(torch.full((10_000,), 1e-5), Draws(0, (0,), "w+"))["g_siemens"]
    >>> round(float(g.std()) / 25e-6, 3), round(float((g - 1e-5).abs().max()) / 25e-6, 3)
    (0.02, 0.035)
    """

    kind: Literal["generic"] = "generic"
    distribution: Literal["normal", "lognormal", "uniform"] = "normal"
    law: Literal["absolute", "proportional", "inverse"] = "proportional"
    std: Real = Field(default=0.1, ge=0.0, le=10.0)
    std_max: Real = Field(default=1.0, gt=0.0, le=10.0)
    below_zero: Literal["cut", "kept"] = "cut"

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        shape = tuple(g_target_siemens.shape)
        if self.std == 0:
            return {"g_siemens": g_target_siemens.expand(len(draws.chips), *shape)}
        if self.distribution == "uniform":
            unit = (draws.uniform("programming", shape) - 0.5) * math.sqrt(12.0)
        else:
            unit = draws.normal("programming", shape)
        g = self._spread(g_target_siemens, unit.to(g_target_siemens))
        return {"g_siemens": g if self.below_zero == "kept" else g.clamp(min=0.0)}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        check_time(time_s)
        return state["g_siemens"]

    def std_siemens(self, g_target_siemens: Tensor) -> Tensor:
        """σ, in siemens, of the shape of its argument."""
        import torch

        if self.law == "absolute":
            return torch.full_like(g_target_siemens, self.std * self.g_max_siemens)
        if self.law == "proportional":
            return self.std * g_target_siemens
        # beyond this state the law is not cut
        uncut = g_target_siemens.clamp(min=self.g_max_siemens * self.std / self.std_max)
        return self.std * self.g_max_siemens * (self.g_max_siemens / uncut)

    def _spread(self, g: Tensor, unit: Tensor) -> Tensor:
        if self.distribution == "lognormal":
            ratio = self._ratio(g).clamp(max=_LARGEST_RATIO)
            variance = (ratio * ratio).log1p()
            return g * (variance.sqrt() * unit - 0.5 * variance).exp()
        if self.law == "proportional":
            return g * (1.0 + self.std * unit)
        return g + self.std_siemens(g) * unit

    def _ratio(self, g: Tensor) -> Tensor:
        """σ/g_target."""
        if self.law == "proportional":
            return g.new_tensor(self.std)  # also of a device without conductance
        return self.std_siemens(g) / g.clamp(min=self.g_max_siemens * 1e-12)

    def effects(self) -> list[Effect]:
        of = {
            "absolute": f"{percent(self.std)} of g_max",
            "proportional": f"{percent(self.std)} of each conductance",
            "inverse": f"{percent(self.std)} of g_max at g_max, as 1/g, at most {percent(self.std_max)}",
        }[self.law]
        size = f"{self.distribution}, standard deviation {of}"
        return [Effect("programming spread", self.std > 0, "once per chip", size)]
