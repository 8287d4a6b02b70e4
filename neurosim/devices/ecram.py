"""Electrochemical memory: many small, nearly equal steps; written by counting pulses, or verified."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from neurosim.devices.device import Device, Effect, Real, check_target, check_time, percent
from neurosim.devices.fit_range import FitRange

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws


class Ecram(Device):
    r"""Conductance moves from g_min in steps of Δ = ``step``·(g_max − g_min).

    Open loop: N = (g_target − g_min)/Δ pulses are counted out, blindly.  The step of each device differs by a
    factor (device to device), and each pulse by its own error (cycle to cycle); n, m ~ N(0, 1) once a chip::

        g = max(g_min + (g_target − g_min)·(1 + device_std·n) + √N·cycle_std·Δ·m, 0)

    (√N becomes N below one pulse, so that a device which gets none has no error.)

    Verified: pulses are given until the device is within half a step, u ~ U[0, 1)::

        g = max(g_target + Δ·(u − ½), 0)

    Steps are linear: their dependence on the state, which matters for training in place, is left out.
    Nothing ages and no read noise acts.

    Attributes:
        programming: open loop or verified.
        step: of one pulse, as a fraction of the range.
        device_std: spread of the devices' steps, as a fraction.
        cycle_std: spread of one device's steps, as a fraction of a step.

    Sources: lithium cell, J. Tang et al., IEDM 2018, doi:10.1109/IEDM.2018.8614551: 1,000 steps, 10 % from
    device to device, 30 % from cycle to cycle; metal oxide, S. Kim et al., IEDM 2019,
    doi:10.1109/IEDM19573.2019.8993463: 7,089 steps, 10 %, 200 %; both as fitted in IBM's aihwkit
    (EcRamPresetDevice, EcRamMOPresetDevice).

    >>> import torch
    >>> from neurosim.random import Draws
    >>> g, draws = torch.full((10_000,), 20e-6), Draws(0, (0,), "w+")
    >>> devices = Ecram(), Ecram(programming="verified")
    >>> [round(float((d.program(g, draws)["g_siemens"] - g).std()) * 1e9) for d in devices]   # nS
    [1995, 7]
    """

    kind: Literal["ecram"] = "ecram"
    programming: Literal["open-loop", "verified"] = "open-loop"
    step: Real = Field(default=0.001, gt=0.0, le=1.0)
    device_std: Real = Field(default=0.1, ge=0.0, le=10.0)
    cycle_std: Real = Field(default=0.3, ge=0.0, le=100.0)

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        g = self._verified if self.programming == "verified" else self._open_loop
        return {"g_siemens": g(g_target_siemens, draws).clamp(min=0.0)}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        check_time(time_s)
        return state["g_siemens"]

    @property
    def step_siemens(self) -> float:
        """Δ."""
        return self.step * (self.g_max_siemens - self.g_min_siemens)

    def _open_loop(self, g: Tensor, draws: Draws) -> Tensor:
        shape = tuple(g.shape)
        total = g.expand(len(draws.chips), *shape)
        moved = g - self.g_min_siemens
        if self.device_std:
            total = total + moved * (self.device_std * draws.normal("programming, device", shape).to(g))
        if self.cycle_std:
            pulses = (moved / self.step_siemens).clamp(min=0.0)
            walked = pulses.clamp(max=1.0) * pulses.clamp(min=1.0).sqrt()
            m = draws.normal("programming, cycles", shape).to(g)
            total = total + walked * (self.cycle_std * self.step_siemens) * m
        return total

    def _verified(self, g: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform("programming, verified", tuple(g.shape)).to(g)
        return g + self.step_siemens * (u - 0.5)

    def fit_range(self) -> FitRange:
        """Right after programming: no ageing is part of the fits."""
        return FitRange(time_s=(0.0, 0.0))

    def effects(self) -> list[Effect]:
        steps = 1.0 / self.step
        if self.programming == "verified":
            size = f"within half of one of {steps:.4g} steps of the range"
            return [Effect("programming error", True, "once per chip", size)]
        walk = self.cycle_std / math.sqrt(steps)
        return [
            Effect(
                "step of the device",
                self.device_std > 0,
                "once per chip",
                f"{percent(self.device_std)} of what is written (standard deviation)",
            ),
            Effect(
                "cycle to cycle",
                self.cycle_std > 0,
                "once per chip",
                f"{percent(self.cycle_std)} of each of {steps:.4g} steps: {percent(walk)} of the full range",
            ),
        ]
