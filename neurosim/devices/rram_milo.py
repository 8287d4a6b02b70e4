"""HfO2 RRAM, multilevel programming (Milo 2021): programming error; its I-V is a law of the wires."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from neurosim.devices.device import Device, Effect, Real, check_target, check_time
from neurosim.devices.fit_range import FitRange

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

# Sandia's CrossSim 3.2, simulator/devices/custom/RRAM_Milo.py: a line through Milo's fig. 4, in µS
_OFFSET, _SLOPE = 4.782321, -0.009107


class RramMilo(Device):
    r"""RRAM after Milo et al. 2021, algorithm IGVVA-100; n ~ N(0, 1), once per chip and device::

        g = max(g_target + max(4.782321 µS − 0.009107·g_target, 0)·n, 0)

    The measurement holds no ageing, and none is modelled.  The devices' measured current-voltage curves,
    I = G·V + N2(G)·V² + N3(G)·V³, act where a network is solved for every input: hardware with
    ``wires.model = "nonlinear"``, ``wires.law = "milo-rram"`` and ``wires.v_read_volt`` of at most 0.5 V, see
    :class:`neurosim.devices.wires.laws.MiloRram`.

    Sources: V. Milo et al., "Optimized programming algorithms for multilevel RRAM in hardware neural
    networks", IRPS 2021, fig. 4, doi:10.1109/IRPS46558.2021.9405119; line fitted by Sandia's CrossSim 3.2
    (``simulator/devices/custom/RRAM_Milo.py``), 50 to 225 µS.  CrossSim does not clamp at 0.

    ``programming_scale`` multiplies the error; 0 turns it off.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> g = RramMilo().program(torch.full((10_000,), 100e-6), Draws(0, (0,), "w+"))["g_siemens"]
    >>> round(float(g.std()) * 1e6, 1)
    3.9
    """

    kind: Literal["rram-milo"] = "rram-milo"
    g_min_siemens: Real = Field(default=50e-6, ge=0.0, le=1.0)
    g_max_siemens: Real = Field(default=225e-6, ge=1e-15, le=1.0)
    programming_scale: Real = Field(default=1.0, ge=0.0, le=100.0)

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        n = draws.normal("programming", tuple(g_target_siemens.shape)).to(g_target_siemens)
        return {"g_siemens": (g_target_siemens + self.programming_std(g_target_siemens) * n).clamp(min=0.0)}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        check_time(time_s)
        return state["g_siemens"]

    def programming_std(self, g_target_siemens: Tensor) -> Tensor:
        """σ in siemens, same shape as its argument; never negative."""
        scale = self.programming_scale
        return (g_target_siemens * (_SLOPE * scale) + _OFFSET * 1e-6 * scale).clamp(min=0.0)

    def fit_range(self) -> FitRange:
        """50 to 225 µS (CrossSim's bounds), right after programming."""
        return FitRange((50e-6, 225e-6), (0.0, 0.0))

    def effects(self) -> list[Effect]:
        ends = (g * 1e6 * _SLOPE + _OFFSET for g in (self.g_max_siemens, self.g_min_siemens))
        low, high = (max(end, 0.0) * self.programming_scale for end in ends)
        size = f"standard deviation {low:.3g} (at g_max) to {high:.3g} µS (at g_min)"
        return [Effect("programming error", high > 0, "once per chip", size)]
