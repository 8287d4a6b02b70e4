"""Relative Gaussian mismatch: every device is off by a random fraction of what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from neurosim.devices.device import Device, Effect, Real, check_target, check_time, percent

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws


class Gaussian(Device):
    """g = g_target·(1 + ζ·n), n ~ N(0, 1), drawn once per chip and device, constant in time.

    With ``g_min_siemens = 0`` and a one-sided differential pair, one leg of each weight is exactly
    zero, and the weight read back is Θ(1 + ζ·n): the mismatch of Büchel, Faber and Muir, "Network
    insensitivity to parameter noise via adversarial regularization", ICLR 2022
    (doi:10.48550/arXiv.2106.05009), who used ζ (``relative_std``) from 0 to 0.7.

    Nothing is clamped, as in the paper: for n < −1/ζ the conductance, and with it the weight, changes
    sign.  At ζ = 0.3 that is 4 devices in 10,000; read results at ζ > 0.3 as those of the paper's
    arithmetic, not of a real device.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> draws = Draws(0, (0, 1, 2), "w+")
    >>> g = Gaussian(relative_std=0.1).program(torch.full((1000,), 1e-5), draws)["g_siemens"]
    >>> [round(float(s), 2) for s in (g / 1e-5).std(dim=1)]
    [0.1, 0.1, 0.1]
    """

    kind: Literal["gaussian"] = "gaussian"
    relative_std: Real = Field(default=0.3, ge=0.0, le=10.0)

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        n = draws.normal("programming", tuple(g_target_siemens.shape)).to(g_target_siemens)
        return {"g_siemens": g_target_siemens * (1.0 + self.relative_std * n)}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        check_time(time_s)
        return state["g_siemens"]

    def moments(self, g_target_siemens: Tensor) -> tuple[Tensor, Tensor]:
        return g_target_siemens, self.relative_std * g_target_siemens

    def effects(self) -> list[Effect]:
        size = f"{percent(self.relative_std)} of each conductance (standard deviation)"
        return [Effect("mismatch", self.relative_std > 0, "once per chip", size)]
