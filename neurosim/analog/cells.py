"""The devices that hold one parameter: programmed once per chip, whichever layers read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from neurosim.analog.bench import Active
from neurosim.analog.operators import Layout, layout
from neurosim.devices import Hardware
from neurosim.devices.fault_map import fault_map, states_of
from neurosim.devices.faults import Defects, concatenated, defects, spare_defects
from neurosim.devices.mapping import to_fractions
from neurosim.devices.mappings import Mapping, OneSidedPair, SignificancePairs, mapping_of
from neurosim.devices.pairs import Pair, age_pair, program_difference, program_fractions
from neurosim.devices.remapping import Broken, healed, remapped
from neurosim.devices.writing.verify import Cost, written
from neurosim.errors import UsageError
from neurosim.random import Draws

State = dict[str, Tensor]


class Held(NamedTuple):
    """What devices hold: for each slice what its bit lines deliver, see :mod:`neurosim.devices.mappings`.

    Attributes:
        now: at the chips' age, (chips, outputs, rest) each.
        fresh: the same right after programming.
        scale: from fractions of full scale to units of the parameter, () or (outputs, 1).
    """

    now: tuple[Tensor, ...]
    fresh: tuple[Tensor, ...]
    scale: Tensor

    def only(self, outputs: slice) -> Held:
        """Some of the outputs."""
        now, fresh = (tuple(m[:, outputs] for m in slices) for slices in (self.now, self.fresh))
        return Held(now, fresh, only(self.scale, outputs))


class Planes(NamedTuple):
    """Conductances of all legs of all planes, (chips, outputs, rest) siemens each, and the scale."""

    now: list[list[Tensor]]
    fresh: list[list[Tensor]]
    scale: Tensor


class Plane(NamedTuple):
    """Programmed devices of one plane: the states of its legs, and what they deliver at first."""

    legs: tuple[State, ...]
    fresh: Tensor


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
    # (outputs, rest): which weights are verified when they are written, where only some are
    verified: Tensor | None = None
    # of all that was written since reset
    cost: Cost = field(default_factory=Cost)
    # from which output on which layout holds, and whether that is of the transposed: where faults lie
    _tiles: dict[int, tuple[Layout, bool]] = field(default_factory=dict)
    _defects: list[tuple[Defects, ...]] | None = None
    _programmed_planes: tuple[list[Plane], Tensor] | None = None
    _held: tuple[float, Held] | None = None

    @cached_property
    def mapping(self) -> Mapping:
        """How the parameter lies on devices."""
        return mapping_of(self.hardware.array, self.hardware.device)

    @property
    def devices_per_entry(self) -> int:
        """Devices that one number of the parameter has."""
        return self.mapping.planes * self.mapping.legs

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
            self._programmed_planes = self._defects = None
            self.cost = Cost()

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
        hw = self.hardware
        each = hw.faults.act or hw.endurance.act or hw.read_noise.act
        read = self._leg_by_leg if each else self._whole
        held = read(weight, active, keep)
        if keep and self.readers > 1:
            self._held = active.time_s, held
        return held

    def value(self, held: Held, now: bool = True) -> Tensor:
        """The parameter that devices stand for, (chips, outputs, rest), where no converter is between."""
        m = self.mapping.value(held.now if now else held.fresh)
        return m * held.scale.to(m.dtype)

    def _leg_by_leg(self, weight: Tensor, active: Active, keep: bool) -> Held:
        """From the legs, as each has its own faults, wear and noise."""
        planes = self.planes(weight, active, keep)
        return Held(self.slices(planes.now), self.slices(planes.fresh), planes.scale)

    def slices(self, planes: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """What the bit lines of each slice deliver, from conductances of the legs of all planes."""
        device = self.hardware.device
        return self._sums([self.mapping.held(legs, device) for legs in planes])

    def _sums(self, planes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The planes of each slice, added as their currents are."""
        shares = self.mapping.analog
        if len(shares) == 1:
            return tuple(planes)
        return tuple(
            torch.stack([m * a for m, a in zip(planes[s : s + len(shares)], shares, strict=True)]).sum(0)
            for s in range(0, len(planes), len(shares))
        )

    def _whole(self, weight: Tensor, active: Active, keep: bool) -> Held:
        """Without faults: both legs in one pass over memory, where the device has such a kernel."""
        device = self.hardware.device
        if not keep and active.time_s == 0 and self.mapping.plain and not self.hardware.writing.act:
            x, scale = self._fractions(weight)
            found = program_difference(device, x, self._draws(active, weight, 0))
            if found is not None:
                return Held((found,), (found,), scale)
        planes, scale = self._programmed(weight, active, keep)
        now = [self._aged(plane, p, active, weight) for p, plane in enumerate(planes)]
        return Held(self._sums(now), self._sums([plane.fresh for plane in planes]), scale)

    def _aged(self, plane: Plane, p: int, active: Active, weight: Tensor) -> Tensor:
        """What a plane delivers at the chips' age."""
        device, draws = self.hardware.device, self._draws(active, weight, p)
        if active.time_s == 0:
            return plane.fresh
        if len(plane.legs) == 2:
            pair = Pair((plane.legs[0], plane.legs[1]), plane.fresh, plane.fresh)
            return age_pair(device, pair, self.hardware.equivalent_s(active.time_s), draws)
        age_s = self.hardware.equivalent_s(active.time_s)
        return self.mapping.held([device.age(plane.legs[0], age_s, draws[0])], device)

    def planes(self, weight: Tensor, active: Active, keep: bool) -> Planes:
        """For those who need every leg: conductances after wear, noise and faults, now and fresh."""
        planes, scale = self._programmed(weight, active, keep)
        device, age_s = self.hardware.device, self.hardware.equivalent_s(active.time_s)
        now, fresh = [], []
        for p, plane in enumerate(planes):
            legs = list(zip(plane.legs, self._draws(active, weight, p), strict=False))
            aged = [device.age(leg, age_s, draw) for leg, draw in legs]
            now.append([self._seen(g, active.time_s, draw) for g, (_, draw) in zip(aged, legs, strict=True)])
            fresh.append([self._seen(leg["g_siemens"], 0.0, draw) for leg, draw in legs])
        if self.hardware.faults.act:
            broken = self._broken(weight, active, keep)
            now, fresh = (
                [
                    [b.apply(g, device) for b, g in zip(states, legs, strict=True)]
                    for states, legs in zip(broken, planes_of, strict=True)
                ]
                for planes_of in (now, fresh)
            )
        return Planes(now, fresh, scale)

    def _seen(self, g_siemens: Tensor, time_s: float, draws: Draws) -> Tensor:
        """Conductances after wear, and with the slow noise of reads."""
        hw = self.hardware
        g = hw.endurance.apply(g_siemens) if hw.endurance.act else g_siemens
        return hw.read_noise.apply(g, time_s, draws) if hw.read_noise.act else g

    def _broken(self, weight: Tensor, active: Active, keep: bool) -> list[tuple[Defects, ...]]:
        """The faults of the legs of every plane: of a chip, whatever its age and its weights."""
        if keep and self._defects is not None:
            return self._defects
        targets = self.targets(weight.detach()) if self.hardware.faults.heal else None
        found = [
            self._plane_faults(
                tuple(weight.shape),
                self._draws(active, weight, p)[: self.mapping.legs],
                None if targets is None else targets[p],
            )
            for p in range(self.mapping.planes)
        ]
        if keep:
            self._defects = found
        return found

    def leg_names(self) -> Iterator[str]:
        """What a fault map calls the legs of its planes."""
        for p in range(self.mapping.planes):
            suffix = f"[{p}]" if p else ""
            yield from (f"{self.name}{suffix}{sign}" for sign in "+-"[: self.mapping.legs])

    def broken_legs(self, weight: Tensor, active: Active) -> Iterator[tuple[str, str, Tensor]]:
        """(parameter, leg, states as a map has them) of every leg."""
        for p in range(self.mapping.planes):
            draws = self._draws(active, weight, p)[: self.mapping.legs]
            plane = self._plane_faults(tuple(weight.shape), draws, None)
            suffix = f"[{p}]" if p else ""
            for sign, leg in zip("+-", plane, strict=False):
                if leg.state is not None:
                    yield self.name, f"{suffix}{sign}", leg.state

    def _plane_faults(
        self, shape: tuple[int, ...], draws: tuple[Draws, ...], targets: list[Tensor] | None
    ) -> tuple[Defects, ...]:
        """Of the legs of one plane; with ``targets``, (outputs, rest) each, in the order of least error."""
        hw, found = self.hardware, []
        full = (hw.array.rows, hw.array.cols)
        shared = hw.wires.legs == "interleaved"
        for start, lying, by_row in self._everywhere(*shape):
            stop = start + _outputs(lying, by_row)
            parts = [
                defects(hw.faults, lying, leg, draws[0] if shared else leg, full, start) for leg in draws
            ]
            if hw.faults.map_file:
                known = [self._mapped(leg, shape)[:, start:stop] for leg in draws]
                parts = [
                    part._replace(state=state.transpose(1, 2) if by_row else state)
                    for part, state in zip(parts, known, strict=True)
                ]
            if targets is not None:
                here = [g[start:stop].T if by_row else g[start:stop] for g in targets]
                parts = self._in_order(here, parts, lying, draws, start)
            found.append([part.turned() if by_row else part for part in parts])
        return tuple(concatenated(list(leg)) for leg in zip(*found, strict=True))

    def _mapped(self, leg: Draws, shape: tuple[int, ...]) -> Tensor:
        """States that the map of the hardware gives the devices of a leg, (chips, outputs, rest)."""
        faults = self.hardware.faults
        known = fault_map(faults.map_file, faults.map_sha256)
        return states_of(known, faults.map_file, leg.chips, leg.name, (shape[0], shape[1])).to(leg.device)

    def _in_order(
        self, targets: list[Tensor], parts: list[Defects], lying: Layout, draws: tuple[Draws, ...], start: int
    ) -> list[Defects]:
        """The faults that each weight meets after remapping."""
        faults = self.hardware.faults
        if faults.remapping == "none" and not faults.spare_columns:
            return parts
        spares = [spare_defects(faults, lying, leg, start).cpu() for leg in draws]
        states = [part.state.cpu() for part in parts if part.state is not None]
        here = [g.cpu() for g in targets]
        found = remapped(
            here, states, spares if faults.spare_columns else None, lying, self.hardware.device, faults
        )
        pairs = zip(parts, found, strict=True)
        return [part._replace(state=state.to(targets[0].device)) for part, state in pairs]

    def _everywhere(self, outputs: int, rest: int) -> Iterator[tuple[int, Layout, bool]]:
        """Where all outputs lie, in order; those that nobody reads lie on tiles of their own."""
        reached = 0
        for start, (lying, by_row) in [*sorted(self._tiles.items()), (outputs, (None, False))]:
            if start > reached:
                spare = self.hardware.faults.spare_columns
                yield reached, layout(rest, start - reached, 1, self.hardware.array, spare), False
            if lying is not None:
                yield start, lying, by_row
                reached = start + _outputs(lying, by_row)

    # ---- programming --------------------------------------------------------------------------

    def _programmed(self, weight: Tensor, active: Active, keep: bool) -> tuple[list[Plane], Tensor]:
        if keep and self._programmed_planes is not None:
            return self._programmed_planes
        x, scale = self._fractions(weight)
        mapping = self.mapping
        program = (
            self._closed_loop
            if isinstance(mapping, SignificancePairs) and mapping.closed_loop
            else self._open_loop
        )
        faults = self.hardware.faults
        heals = faults.pair_compensation and faults.heal and mapping.legs == 2
        broken = self._broken(weight, active, keep) if heals else None
        found = program(x, active, weight, broken), scale
        if keep:
            self._programmed_planes = found
        return found

    def _fractions(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return to_fractions(weight, self.scaling, self.hardware.array.clip_percentile)

    def scale(self, weight: Tensor) -> Tensor:
        """From fractions of full scale to units of the parameter, () or (outputs, 1)."""
        return self._fractions(weight)[1]

    def targets(self, weight: Tensor) -> list[list[Tensor]]:
        """Conductances that the legs of all planes should have, (outputs, rest) each: without errors."""
        x, device = self._fractions(weight)[0], self.hardware.device
        per_slice = len(self.mapping.analog)
        return [
            self.mapping.targets(fraction, device)
            for fraction in self.mapping.fractions(x)
            for _ in range(per_slice)
        ]

    def _open_loop(
        self, x: Tensor, active: Active, weight: Tensor, broken: list[tuple[Defects, ...]] | None
    ) -> list[Plane]:
        """Every plane written with what it should hold."""
        per_slice = len(self.mapping.analog)
        planes = [
            (s * per_slice + n, fraction)
            for s, fraction in enumerate(self.mapping.fractions(x))
            for n in range(per_slice)
        ]
        if broken is None:
            return [self._program(fraction, self._draws(active, weight, p)) for p, fraction in planes]
        everyone = range(len(active.chips.numbers))
        return [self._each([fraction] * len(everyone), active, weight, p, broken) for p, fraction in planes]

    def _closed_loop(
        self, x: Tensor, active: Active, weight: Tensor, broken: list[tuple[Defects, ...]] | None
    ) -> list[Plane]:
        """Each plane written with what those before it left open, chip by chip: it differs on each."""
        assert isinstance(self.mapping, SignificancePairs)
        planes: list[Plane] = []
        for p in range(self.mapping.planes):
            rest = self.mapping.rest(x, [plane.fresh for plane in planes])
            if planes or broken is not None:
                chips = list(rest) if planes else [rest] * len(active.chips.numbers)
                planes.append(self._each(chips, active, weight, p, broken))
            else:
                planes.append(self._program(rest, self._draws(active, weight, p)))
        return planes

    def _each(
        self,
        fractions: Sequence[Tensor],
        active: Active,
        weight: Tensor,
        p: int,
        broken: list[tuple[Defects, ...]] | None,
    ) -> Plane:
        """A plane that should hold something else on each chip."""
        chips = []
        for k, fraction in enumerate(fractions):
            draws = self._draws(active, weight, p, slice(k, k + 1))
            states = None if broken is None else [leg.state for leg in broken[p]]
            if states is None or any(state is None for state in states):
                chips.append(self._program(fraction, draws))
                continue
            here = Broken(tuple(state[k] for state in states if state is not None))
            targets = healed(self.mapping.targets(fraction, self.hardware.device), here, self.hardware.device)
            chips.append(self._write(targets, draws))
        return _beside(chips)

    def _program(self, fraction: Tensor, draws: tuple[Draws, Draws]) -> Plane:
        """The devices of one plane, written once."""
        if isinstance(self.mapping, OneSidedPair) and not self.hardware.writing.act:
            return Plane(*program_fractions(self.hardware.device, fraction, draws))
        return self._write(self.mapping.targets(fraction, self.hardware.device), draws)

    def _write(self, targets: Sequence[Tensor], draws: tuple[Draws, Draws]) -> Plane:
        device, writing = self.hardware.device, self.hardware.writing
        pairs = zip(targets, draws, strict=False)
        if writing.act:
            found = [written(device, writing, g, draw, self._verified(g)) for g, draw in pairs]
            legs = tuple(state for state, _ in found)
            self.cost = sum((cost for _, cost in found), self.cost)
        else:
            legs = tuple(device.program(g, draw) for g, draw in pairs)
        return Plane(legs, self.mapping.held([leg["g_siemens"] for leg in legs], device))

    def blind_variance(self, weight: Tensor) -> Tensor:
        """Of blind writing, in units of the parameter squared, (outputs, rest): as if one leg moved."""
        x, scale = self._fractions(weight)
        writing, share = self.hardware.writing, x.abs()
        spread = (writing.device_std * share).square() + writing.cycle_std**2 * writing.step * share
        return spread * scale.square()

    def _verified(self, target: Tensor) -> Tensor | None:
        """Which devices of a plane are verified; None for all."""
        if not self.hardware.writing.selective:
            return None
        if self.verified is None:
            raise UsageError(
                f"{self.name!r} is verified in part, and nothing says in which: call "
                "net.select_verified(inputs) first"
            )
        return self.verified.to(target.device)

    def _draws(
        self, active: Active, weight: Tensor, plane: int, chips: slice = slice(None)
    ) -> tuple[Draws, Draws]:
        seed, numbers, place = active.chips.lot.seed, active.chips.numbers[chips], str(weight.device)
        name = f"{self.name}[{plane}]" if plane else self.name
        return Draws(seed, numbers, f"{name}+", place), Draws(seed, numbers, f"{name}-", place)


def _beside(chips: Sequence[Plane]) -> Plane:
    """The same plane of several chips."""
    legs = tuple(
        {key: torch.cat([state[key] for state in states]) for key in states[0]}
        for states in zip(*(chip.legs for chip in chips), strict=True)
    )
    return Plane(legs, torch.cat([chip.fresh for chip in chips]))


def _outputs(tiles: Layout, by_row: bool) -> int:
    return tiles.rows if by_row else tiles.columns


def only(scale: Tensor, outputs: slice) -> Tensor:
    """The scale of some outputs."""
    return scale[outputs] if scale.dim() else scale
