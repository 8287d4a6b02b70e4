"""What a chip has been through: heat, writing cycles; and the slow noise of its reads.

Tables of a hardware description that act on any device, beside what the device itself does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from neurosim.devices.device import Effect, Frozen, Real, percent

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

BOLTZMANN_EV = 8.617333262e-5
"""k in eV/K (CODATA 2018)."""


class Heat(Frozen):
    r"""Storage at another temperature than that of the measurement, by Arrhenius' law.

    A process of one activation energy E goes on faster by exp(E/k·(1/T_ref − 1/T)), so that an age of t is as
    an age of t_eff at the temperature of the measurement::

        t_eff = t·exp(E/k·(1/T_ref − 1/T))

    Everything in a device that depends on its age takes t_eff.  E belongs to a technology and a mechanism: a
    device that knows its own (magnetic tunnel junctions: E = Δ·k·T_ref) says so, for others it must be given.
    What temperature does to a conductance while it is read is not modelled.

    Attributes:
        storage_kelvin: T.
        reference_kelvin: T_ref, at which the device was measured.
        activation_energy_ev: E; None takes that of the device.

    >>> round(Heat(storage_kelvin=358.15, activation_energy_ev=1.1).acceleration(1.1), 1)
    1000.7
    """

    storage_kelvin: Real = Field(default=300.0, ge=1.0, le=2000.0)
    reference_kelvin: Real = Field(default=300.0, ge=1.0, le=2000.0)
    activation_energy_ev: Real | None = Field(default=None, ge=0.0, le=10.0)

    @property
    def act(self) -> bool:
        """Whether they change anything."""
        return self.storage_kelvin != self.reference_kelvin

    def acceleration(self, energy_ev: float) -> float:
        """t_eff/t; at most 1e300."""
        inverse = 1.0 / self.reference_kelvin - 1.0 / self.storage_kelvin
        return math.exp(min(energy_ev / BOLTZMANN_EV * inverse, 690.0))


class Endurance(Frozen):
    r"""The window of a filamentary RRAM closes with the number of times it was written.

    From a number of cycles on, the two resistances approach each other by power laws (C. Lammie, M. Rahimi
    Azghadi and D. Ielmini, Empirical metal-oxide RRAM device endurance and retention model for deep learning
    simulations, Semiconductor Science and Technology 36, 2021, doi:10.1088/1361-6641/abf29d)::

        R(N) = R·(N/N_th)^(p·d)   for N > N_th       N_th = p0·exp(p1·d)

    with d the cell's size in nm.  The constants, of gradual failure of TiN/Hf(Al)O/Hf/TiN cells of 10 and
    20 nm with 4.4 and 65 kΩ, are those with which the authors simulate (their fig. 6A): p = 0.01217 of the
    low and −0.01586 of the high resistance, p0 = 10, p1 = 0.6908, that is N_th = 1e4 and 1e7.

    Measured are the two ends.  Between them p goes over linearly in ln g, beyond them it stays: assumptions.

    Attributes:
        cycles: N, writes that every device has seen.
        cell_size_nm: d.
        threshold_cycles, threshold_per_nm: p0 and p1.
        low_exponent_per_nm, high_exponent_per_nm: p of the low and of the high resistance.
        low_ohm, high_ohm: the resistances that these belong to.

    >>> import torch
    >>> worn = Endurance(cycles=1e6).apply(torch.tensor([1 / 4400.0, 1 / 65e3]))
    >>> [round(float(1 / g)) for g in worn]
    [7707, 31319]
    """

    cycles: Real = Field(default=0.0, ge=0.0, le=1e18)
    cell_size_nm: Real = Field(default=10.0, gt=0.0, le=1000.0)
    threshold_cycles: Real = Field(default=10.0, gt=0.0, le=1e18)
    threshold_per_nm: Real = Field(default=0.6907755278982137, ge=0.0, le=10.0)
    low_exponent_per_nm: Real = Field(default=0.012171029136082496, ge=-1.0, le=1.0)
    high_exponent_per_nm: Real = Field(default=-0.015855563129903612, ge=-1.0, le=1.0)
    low_ohm: Real = Field(default=4400.0, gt=0.0, le=1e15)
    high_ohm: Real = Field(default=65e3, gt=0.0, le=1e15)

    @model_validator(mode="after")
    def _ordered(self) -> Endurance:
        if not self.low_ohm < self.high_ohm:
            raise ValueError(
                f"expected low_ohm < high_ohm; got low_ohm={self.low_ohm!r}, high_ohm={self.high_ohm!r}"
            )
        return self

    @property
    def excess(self) -> float:
        """N/N_th; at most 1 while nothing has happened."""
        threshold = self.threshold_cycles * math.exp(min(self.threshold_per_nm * self.cell_size_nm, 600.0))
        return self.cycles / threshold

    @property
    def act(self) -> bool:
        """Whether they change anything."""
        return self.excess > 1.0

    def apply(self, g_siemens: Tensor) -> Tensor:
        """What devices hold that should hold ``g_siemens``; gradients pass."""
        low, high = math.log(1.0 / self.high_ohm), math.log(1.0 / self.low_ohm)
        share = ((g_siemens.clamp(min=1e-15).log() - low) * (1.0 / (high - low))).clamp(0.0, 1.0)
        slope = self.low_exponent_per_nm - self.high_exponent_per_nm
        exponent = (self.high_exponent_per_nm + slope * share) * self.cell_size_nm
        return g_siemens * (exponent * -math.log(self.excess)).exp()


class ReadNoise(Frozen):
    r"""Slow noise of reads with a 1/f spectrum, for devices whose own model has none.

    Integrated from the age t to the length of a read t_r, its power grows with the logarithm of the age, as
    for PCM (S. R. Nandakumar et al., ICECS 2019, doi:10.1109/ICECS46596.2019.8964852)::

        g_read = max(g·(1 + q·√ln((t + t_r)/(2·t_r))·n), 0)

    with n ~ N(0, 1) once per chip, age and read window.

    q² is the noise power S_I·f/I² of one device.  No value is assumed: for flash, FeFET and ECRAM none was
    found published as a number for an analog state, so q is 0 until it is set.

    Attributes:
        relative_std: q.
        read_s: t_r.
    """

    relative_std: Real = Field(default=0.0, ge=0.0, le=1.0)
    read_s: Real = Field(default=250e-9, gt=0.0, le=1.0)

    @property
    def act(self) -> bool:
        """Whether it changes anything."""
        return self.relative_std > 0

    def std(self, time_s: float) -> float:
        """σ relative to the conductance at an age; 0 before t_r.

        >>> round(ReadNoise(relative_std=0.01).std(86400.0), 3)
        0.051
        """
        ratio = (time_s + self.read_s) / (2.0 * self.read_s)
        return self.relative_std * math.sqrt(math.log(ratio)) if ratio > 1.0 else 0.0

    def apply(self, g_siemens: Tensor, time_s: float, draws: Draws) -> Tensor:
        """Conductances, (chips, *shape), as a read window at an age sees them."""
        std = self.std(time_s)
        if std == 0.0:
            return g_siemens
        n = draws.normal(f"slow-noise@{time_s!r}", tuple(g_siemens.shape[1:])).to(g_siemens)
        return (g_siemens * (1.0 + std * n)).clamp(min=0.0)


def effects(heat: Heat, endurance: Endurance, noise: ReadNoise, energy_ev: float | None) -> list[Effect]:
    """A row for each that acts."""
    found = []
    if heat.act and energy_ev is not None:
        size = (
            f"{heat.storage_kelvin:g} K: ages {heat.acceleration(energy_ev):.3g} times as fast as at "
            f"{heat.reference_kelvin:g} K ({energy_ev:.3g} eV)"
        )
        found.append(Effect("heat", True, "-", size))
    if endurance.act:
        size = f"{endurance.cycles:.3g} cycles, {endurance.excess:.3g} times where the window starts to close"
        found.append(Effect("wear", True, "-", size))
    if noise.act:
        size = f"{percent(noise.std(86400.0))} of each conductance after a day (standard deviation)"
        found.append(Effect("slow noise of reads", True, "once per chip and age", size))
    return found
