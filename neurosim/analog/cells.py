"""The devices that hold one parameter: programmed once per chip, whichever layers read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from neurosim.analog.bench import Active
from neurosim.analog.operators import Layout, layout
from neurosim.devices import Hardware
from neurosim.devices.faults import Defects, concatenated, defects
from neurosim.devices.pairs import Pair, age_pair, difference, program_difference, program_pair
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
    # from which output on which layout holds, and whether that is of the transposed: where faults lie
    _tiles: dict[int, tuple[Layout, bool]] = field(default_factory=dict)
    _defects: tuple[Defects, Defects] | None = None
    _pair: Pair | None = None
    _held: tuple[float, Held] | None = None

    def lie_on(self, tiles: Layout, start: int, by_row: bool) -> None:
        """Say where the outputs from ``start`` on lie; who reads them first decides for all."""
        stop = start + _outputs(tiles, by_row)
        taken = ((other, other + _outputs(*lying)) for other, lying in self._tiles.items())
        if all(stop <= left or right <= start for left, right in taken):
            self._tiles[start] = (tiles, by_row)

    def reset(self, keep_devices: bool = False) -> None:
        """Forget ages; without ``keep_devices`` also what was programmed."""
        self._held = None
        if not keep_devices:
            self._pair = self._defects = None

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
        read = self._faulty if self.hardware.faults.act else self._whole
        held = read(weight, active, keep)
        if keep and self.readers > 1:
            self._held = active.time_s, held
        return held

    def _faulty(self, weight: Tensor, active: Active, keep: bool) -> Held:
        """From both legs, as each has its own faults."""
        now, fresh, scale = self.legs(weight, active, keep)
        device = self.hardware.device
        return Held(difference(device, *now), difference(device, *fresh), scale)

    def _whole(self, weight: Tensor, active: Active, keep: bool) -> Held:
        """Without faults: both legs in one pass over memory, where the device has such a kernel."""
        if not keep and active.time_s == 0:
            found = program_difference(
                self.hardware.device, weight, self.scaling, self._draws(active, weight)
            )
            if found is not None:
                return Held(found[0], *found)
        pair = self._programmed(weight, active, keep)
        now = age_pair(self.hardware.device, pair, active.time_s, self._draws(active, weight))
        return Held(now, pair.fresh, pair.scale)

    def legs(self, weight: Tensor, active: Active, keep: bool) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """For those who need both legs: conductances now and fresh, (chips, outputs, rest), and scale."""
        pair, device = self._programmed(weight, active, keep), self.hardware.device
        draws = self._draws(active, weight)
        now = [device.age(leg, active.time_s, draw) for leg, draw in zip(pair.legs, draws, strict=True)]
        fresh = [leg["g_siemens"] for leg in pair.legs]
        if self.hardware.faults.act:
            broken = self._broken(weight, active, keep)
            now, fresh = (
                [b.apply(g, device) for b, g in zip(broken, legs, strict=True)] for legs in (now, fresh)
            )
        return now, fresh, pair.scale

    def _broken(self, weight: Tensor, active: Active, keep: bool) -> tuple[Defects, Defects]:
        """The faults of both legs: of a chip, whatever its age and its weights."""
        if keep and self._defects is not None:
            return self._defects
        draws = self._draws(active, weight)
        shared = self.hardware.wires.legs == "interleaved"
        plus, minus = (self._leg_faults(weight, leg, draws[0] if shared else leg) for leg in draws)
        if keep:
            self._defects = plus, minus
        return plus, minus

    def _leg_faults(self, weight: Tensor, draws: Draws, word_lines: Draws) -> Defects:
        hw, found = self.hardware, []
        full = (hw.array.rows, hw.array.cols)
        for start, lying, by_row in self._everywhere(*weight.shape):
            part = defects(hw.faults, lying, draws, word_lines, full, start)
            found.append(part.turned() if by_row else part)
        return concatenated(found)

    def _everywhere(self, outputs: int, rest: int) -> Iterator[tuple[int, Layout, bool]]:
        """Where all outputs lie, in order; those that nobody reads lie on tiles of their own."""
        reached = 0
        for start, (lying, by_row) in [*sorted(self._tiles.items()), (outputs, (None, False))]:
            if start > reached:
                yield reached, layout(rest, start - reached, 1, self.hardware.array), False
            if lying is not None:
                yield start, lying, by_row
                reached = start + _outputs(lying, by_row)

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


def _outputs(tiles: Layout, by_row: bool) -> int:
    return tiles.rows if by_row else tiles.columns


def only(scale: Tensor, outputs: slice) -> Tensor:
    """The scale of some outputs."""
    return scale[outputs] if scale.dim() else scale
