"""The devices that hold one parameter: programmed once per chip, whichever layers read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from neurosim.analog.bench import Active
from neurosim.devices import Device, Hardware, to_conductances
from neurosim.random import Draws


class Legs(NamedTuple):
    """What pairs of devices hold.

    Attributes:
        now: both legs at the chips' age, (chips, outputs, rest) siemens each.
        fresh: the same right after programming, or None where nothing needs it.
        scale: from full conductance to units of the parameter, () or (outputs, 1).
    """

    now: list[Tensor]
    fresh: list[Tensor] | None
    scale: Tensor

    def only(self, outputs: slice) -> Legs:
        """Some of the outputs."""
        fresh = None if self.fresh is None else [leg[:, outputs] for leg in self.fresh]
        scale = self.scale[outputs] if self.scale.dim() else self.scale
        return Legs([leg[:, outputs] for leg in self.now], fresh, scale)


@dataclass
class Cells:
    """One parameter on devices.

    Its name, that of the parameter's first use, names the streams: layers that share a parameter share
    its devices.
    """

    name: str
    hardware: Hardware
    scaling: Literal["per-layer", "per-column"]
    readers: int = 0
    _states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    _aged: tuple[float, Legs] | None = None

    def reset(self, keep_devices: bool = False) -> None:
        """Forget ages; without ``keep_devices`` also what was programmed."""
        self._aged = None
        if not keep_devices:
            self._states = {}

    def hold(self, weight: Tensor, active: Active, keep: bool) -> Legs:
        """Program, unless that is done, and age.

        Args:
            weight: (outputs, rest), what the devices should hold.
            active: the chips, and how old they are.
            keep: whether what was programmed stays for the next reader and the next age; not with gradients,
                which belong to one forward pass.
        """
        if keep and self._aged is not None and self._aged[0] == active.time_s:
            return self._aged[1]
        legs = self._hold(weight, active, self._states if keep else {})
        if keep and self.readers > 1:
            self._aged = active.time_s, legs
        return legs

    def _hold(self, weight: Tensor, active: Active, states: dict[str, dict[str, Tensor]]) -> Legs:
        device, chips = self.hardware.device, active.chips
        mapped = to_conductances(weight, device, self.scaling)
        now: list[Tensor] = []
        fresh: list[Tensor] = []
        for leg, target in (("+", mapped.g_plus), ("-", mapped.g_minus)):
            draws = Draws(chips.lot.seed, chips.numbers, f"{self.name}{leg}", str(target.device))
            if leg not in states:
                states[leg] = device.program(target, draws)
            now.append(device.age(states[leg], active.time_s, draws))
            fresh.append(states[leg]["g_siemens"])
        compensated = self.hardware.compensation == "global" and active.time_s > 0
        return Legs(now, fresh if compensated else None, mapped.scale)


def difference(legs: Sequence[Tensor], device: Device) -> Tensor:
    """(g₊ − g₋)/(g_max − g_min)."""
    return (legs[0] - legs[1]) * (1.0 / (device.g_max_siemens - device.g_min_siemens))
