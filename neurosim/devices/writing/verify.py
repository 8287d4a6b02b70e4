"""Program-and-verify as a process: pulses towards a target until a read accepts, and what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neurosim.devices.device import Device, check_target
from neurosim.devices.writing.description import Writing
from neurosim.random import Draws


@dataclass(frozen=True)
class Cost:
    """What writing devices took.

    Attributes:
        devices: how many were written, over all chips.
        pulses, reads: of all of them.
        accepted: how many a read accepted.
        joule: Σ V²·g·t over pulses and reads, with g at that moment; without drivers and lines.
        longest: pulses of the device that took most.
    """

    devices: int = 0
    pulses: int = 0
    reads: int = 0
    accepted: int = 0
    joule: float = 0.0
    longest: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.devices + other.devices,
            self.pulses + other.pulses,
            self.reads + other.reads,
            self.accepted + other.accepted,
            self.joule + other.joule,
            max(self.longest, other.longest),
        )

    def seconds(self, writing: Writing) -> float:
        """If devices were written one after the other; those of a row written together take less."""
        return self.pulses * writing.pulse_s + self.reads * writing.read_s


def written(
    device: Device,
    writing: Writing,
    g_target_siemens: Tensor,
    draws: Draws,
    verified: Tensor | None = None,
) -> tuple[dict[str, Tensor], Cost]:
    """Write devices by pulses; the state is that of ``device.program`` but for the conductance.

    One pulse moves a device by ±step·e^(s·m − s²/2)·(1 + σ_c·n_k), s² = ln(1 + σ_d²), so that no device's own
    factor is ever negative and σ_d is its standard deviation, towards where the last read says the target
    is, but not below g_min nor above g_max, with m ~ N(0, 1) once per chip and device and n_k ~ N(0, 1) a
    pulse.  A read adds σ_v·N(0, 1) of its own.  No gradient passes through the process: it passes from the
    conductance to the target as if the device had been written exactly (straight-through).

    Args:
        device: what is written; gives the range, and the state that ages.
        writing: the process, which acts.
        g_target_siemens: (*shape), the same for every chip.
        draws: of this tensor on the chips wanted.
        verified: (*shape), where devices are verified; None verifies all.  Others are written blindly.

    Raises:
        UsageError: as ``device.program``.

    >>> from neurosim.devices import Ideal
    >>> exact = Writing(scheme="program-and-verify", step=0.01, acceptance=0.01, device_std=0, cycle_std=0)
    >>> state, cost = written(Ideal(), exact, torch.tensor([5e-6, 0.0]), Draws(0, (0,), "w+"))
    >>> (state["g_siemens"] * 1e6).round(decimals=2).tolist(), cost.pulses, cost.accepted
    ([[4.75, 0.0]], 19, 2)
    """
    check_target(g_target_siemens)
    state = dict(device.program(g_target_siemens, draws))
    target = g_target_siemens.detach()
    run = _Process(device, writing, target, draws)
    chosen = torch.ones_like(target, dtype=torch.bool) if verified is None else verified.to(target.device)
    if writing.scheme == "blind":
        chosen = torch.zeros_like(chosen)
    reached, cost = run.verify(chosen)
    blind, blind_cost = run.blind(~chosen)
    g = torch.where(chosen, reached, blind)
    state["g_siemens"] = g + (g_target_siemens - target) if g_target_siemens.requires_grad else g
    return state, cost + blind_cost


class _Process:
    """The writing of one tensor of devices on some chips, (chips, devices)."""

    def __init__(self, device: Device, writing: Writing, target: Tensor, draws: Draws) -> None:
        self.writing, self.draws, self.target = writing, draws, target
        self.low, self.high = device.g_min_siemens, device.g_max_siemens
        self.range = self.high - self.low
        self.shape = (len(draws.chips), *target.shape)
        m = draws.normal("writing, step", tuple(target.shape)).to(target)
        log_variance = math.log1p(writing.device_std**2)
        self.step = writing.step * self.range * (math.sqrt(log_variance) * m - 0.5 * log_variance).exp()

    def verify(self, chosen: Tensor) -> tuple[Tensor, Cost]:
        """Pulses and reads until every chosen device is accepted, or has had its pulses."""
        hw, target = self.writing, self.target.expand(self.shape)
        g = torch.full(self.shape, self.low, dtype=target.dtype, device=target.device)
        if not bool(chosen.any()):
            return g, Cost()
        of = target.abs() if hw.acceptance_of == "target" else torch.full_like(g, self.range)
        allowed = hw.acceptance * of
        open_ = chosen.expand(self.shape).clone()
        pulses = reads = longest = 0
        joule = 0.0
        for k in range(hw.max_pulses + 1):
            seen = self._read(g, k)
            reads += int(open_.sum())
            joule += float((g * open_).sum(dtype=torch.float64)) * hw.read_volt**2 * hw.read_s
            open_ &= (seen - target).abs() > allowed
            count = int(open_.sum())
            if count == 0 or k == hw.max_pulses:
                break
            move = torch.sign(target - seen) * self._pulse(k)
            g = torch.where(open_, (g + move).clamp(self.low, self.high), g)
            joule += float((g * open_).sum(dtype=torch.float64)) * hw.pulse_volt**2 * hw.pulse_s
            pulses, longest = pulses + count, k + 1
        devices = int(chosen.sum()) * self.shape[0]
        return g, Cost(devices, pulses, reads, devices - int(open_.sum()), joule, longest)

    def blind(self, chosen: Tensor) -> tuple[Tensor, Cost]:
        """As many pulses as the average step says, in one go: their errors add up to one normal."""
        hw, target = self.writing, self.target.expand(self.shape)
        if not bool(chosen.any()):
            return target, Cost()
        count = ((target - self.low) / (hw.step * self.range)).round().clamp(0, hw.max_pulses)
        n = self.draws.normal("writing, blind", tuple(self.target.shape)).to(target)
        moved = self.step * (count + hw.cycle_std * count.sqrt() * n)
        g = (self.low + moved).clamp(self.low, self.high)
        counted = count * chosen
        joule = (
            float((0.5 * (g + self.low) * counted).sum(dtype=torch.float64)) * hw.pulse_volt**2 * hw.pulse_s
        )
        devices = int(chosen.sum()) * self.shape[0]
        return g, Cost(devices, int(counted.sum()), 0, 0, joule, int(counted.max()))

    def _read(self, g: Tensor, k: int) -> Tensor:
        if not self.writing.verify_std:
            return g
        n = self.draws.normal(f"writing, read {k}", tuple(self.target.shape)).to(g)
        return g + self.writing.verify_std * self.range * n

    def _pulse(self, k: int) -> Tensor:
        if not self.writing.cycle_std:
            return self.step
        n = self.draws.normal(f"writing, pulse {k}", tuple(self.target.shape)).to(self.step)
        return self.step * (1.0 + self.writing.cycle_std * n)
