"""The devices that hold one parameter: programmed once per chip, whichever layers read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from neurosim.analog.bench import Active
from neurosim.devices import Hardware
from neurosim.devices.pairs import Pair, age_pair, program_difference, program_pair
from neurosim.random import Draws


class Held(NamedTuple):
    """What pairs of devices hold.

    Attributes:
        now: (g₊ − g₋)/(g_max − g_min) at the chips' age, (chips, outputs, rest).
        fresh: the same right after programming.
        scale: from there to units of the parameter, () or (outputs, 1).
    """

    now: Tensor
    fresh: Tensor
    scale: Tensor

    def only(self, outputs: slice) -> Held:
        """Some of the outputs."""
        return Held(self.now[:, outputs], self.fresh[:, outputs], only(self.scale, outputs))


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
    _pair: Pair | None = None
    _held: tuple[float, Held] | None = None

    def reset(self, keep_devices: bool = False) -> None:
        """Forget ages; without ``keep_devices`` also what was programmed."""
        self._held = None
        if not keep_devices:
            self._pair = None

    def hold(self, weight: Tensor, active: Active, keep: bool) -> Held:
        """Program, unless that is done, and age.

        Args:
            weight: (outputs, rest), what the devices should hold.
            active: the chips, and how old they are.
            keep: whether what was programmed stays for the next reader and the next age; not with gradients,
                which belong to one forward pass.
        """
        if keep and self._held is not None and self._held[0] == active.time_s:
            return self._held[1]
        if not keep and active.time_s == 0:
            found = program_difference(
                self.hardware.device, weight, self.scaling, self._draws(active, weight)
            )
            if found is not None:
                return Held(found[0], *found)
        pair = self._programmed(weight, active, keep)
        now = age_pair(self.hardware.device, pair, active.time_s, self._draws(active, weight))
        held = Held(now, pair.fresh, pair.scale)
        if keep and self.readers > 1:
            self._held = active.time_s, held
        return held

    def legs(self, weight: Tensor, active: Active, keep: bool) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """For those who need both legs: conductances now and fresh, (chips, outputs, rest), and scale."""
        pair, device = self._programmed(weight, active, keep), self.hardware.device
        draws = self._draws(active, weight)
        now = [device.age(leg, active.time_s, draw) for leg, draw in zip(pair.legs, draws, strict=True)]
        return now, [leg["g_siemens"] for leg in pair.legs], pair.scale

    def _programmed(self, weight: Tensor, active: Active, keep: bool) -> Pair:
        if keep and self._pair is not None:
            return self._pair
        pair = program_pair(self.hardware.device, weight, self.scaling, self._draws(active, weight))
        if keep:
            self._pair = pair
        return pair

    def _draws(self, active: Active, weight: Tensor) -> tuple[Draws, Draws]:
        seed, chips, place = active.chips.lot.seed, active.chips.numbers, str(weight.device)
        return Draws(seed, chips, f"{self.name}+", place), Draws(seed, chips, f"{self.name}-", place)


def only(scale: Tensor, outputs: slice) -> Tensor:
    """The scale of some outputs."""
    return scale[outputs] if scale.dim() else scale
