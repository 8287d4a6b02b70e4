"""A device that holds exactly what was written, forever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from neurosim.devices.device import Device, Effect, check_target, check_time

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws


class Ideal(Device):
    """g(t) = g_target, on every chip.

    The baseline: a network on ideal devices and ideal converters computes what plain torch does.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> state = Ideal().program(torch.tensor([5e-6]), Draws(0, (0, 1), "w+"))
    >>> state["g_siemens"].shape
    torch.Size([2, 1])
    """

    kind: Literal["ideal"] = "ideal"

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        # a view: chips of an ideal device differ in nothing and need no memory of their own
        return {"g_siemens": g_target_siemens.expand(len(draws.chips), *g_target_siemens.shape)}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        check_time(time_s)
        return state["g_siemens"]

    def moments(self, g_target_siemens: Tensor) -> tuple[Tensor, Tensor]:
        return g_target_siemens, 0.0 * g_target_siemens

    def effects(self) -> list[Effect]:
        return [Effect("device noise", False, "-", "none: conductances are exact")]
