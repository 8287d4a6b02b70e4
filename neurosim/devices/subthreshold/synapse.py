"""Weights held by currents of transistors below threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from neurosim.devices.device import (
    Device,
    Effect,
    Real,
    Whole,
    check_target,
    check_time,
    percent,
    without_defaults,
)
from neurosim.devices.subthreshold.pelgrom import PROCESSES, Transistor, cv_of, log_std_of
from neurosim.devices.subthreshold.physics import REFERENCE_KELVIN, thermal_voltage
from neurosim.errors import unknown

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws


class Subthreshold(Device):
    r"""A synapse whose weight is a current, I_w = g·1 V: ``g`` in siemens is the current in ampere.

    The current is lognormal, constant in time, its *mean* over chips the target (what physics keeps is the
    median, below it by e^(−s²/2): one factor for all, which the bias takes up)::

        continuous    g = g_target·exp(s·n − s²/2)
        of B bits     g = g_min + (g_max − g_min)·Σ_b c_b·2^b/(2^B − 1)·exp(s·n_b − s²/2)

    with n, n_b ~ N(0, 1) once per chip; c_b are the bits of the nearest code of the target.  Each bit
    switches a transistor of its own from one of B biases, so that all have the same s: a code with one bit
    has the full CV, the largest of four bits 0.61 of it, and a larger code may hold less current than a
    smaller one.  Gradients pass the rounding straight through, times the mismatch of the code.

    s comes from the transistor's geometry (:class:`~neurosim.devices.subthreshold.pelgrom.Transistor`), or
    from ``relative_std``, a CV at 300 K; either goes with 1/T.  The legs of a pair are an excitatory and an
    inhibitory source of current: a weight keeps its sign.

    Not modelled: what the B biases of a core share (``faults.die_std`` is a factor of a chip), gradients
    (``faults.gradient_std`` has them), noise of the currents, leakage, Early effect.

    Attributes:
        process, width_m, length_m: the transistor of a weight, or of each of its bits.
        relative_std: CV of one transistor's current at 300 K instead of geometry.
        bits: B; None holds any current.
        kelvin: temperature of the die; bias currents are held.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> weights = torch.full((10_000,), 8e-9)
    >>> g = Subthreshold(relative_std=0.2).program(weights, Draws(0, (0,), "w+"))["g_siemens"]
    >>> round(float(g.mean()) * 1e9, 1), round(float(g.std() / g.mean()), 2), bool((g > 0).all())
    (8.0, 0.2, True)
    """

    kind: Literal["subthreshold"] = "subthreshold"
    g_max_siemens: Real = Field(default=15e-9, ge=1e-15, le=1.0)
    process: str = "gf180-pfet-3v3"
    width_m: Real = Field(default=1e-6, gt=0.0, le=1e-2)
    length_m: Real = Field(default=1e-6, gt=0.0, le=1e-2)
    relative_std: Real | None = Field(default=None, ge=0.0, le=10.0)
    bits: Whole | None = Field(default=None, ge=1, le=12)
    kelvin: Real = Field(default=REFERENCE_KELVIN, ge=1.0, le=1000.0)

    @field_validator("process")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in PROCESSES:
            raise ValueError(str(unknown("process", value, PROCESSES)))
        return value

    @model_validator(mode="after")
    def _has_area(self) -> Subthreshold:
        # read here so that a device too small for its process is refused with the description
        Transistor(self.process, self.width_m, self.length_m)
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A geometry that nobody gave is not shown beside a stated CV."""
        silent = ("process", "width_m", "length_m") if self.relative_std is not None else ()
        return without_defaults(self, handler(self), silent)

    @property
    def transistor(self) -> Transistor:
        """The one whose area counts."""
        return Transistor(self.process, self.width_m, self.length_m)

    @property
    def log_std(self) -> float:
        """s, the standard deviation of ln I at this temperature.

        >>> round(Subthreshold(relative_std=0.2, kelvin=358.15).log_std, 3)
        0.166
        """
        if self.relative_std is None:
            return self.transistor.log_std(self.kelvin)
        return (
            log_std_of(self.relative_std) * thermal_voltage(REFERENCE_KELVIN) / thermal_voltage(self.kelvin)
        )

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        if self.bits is not None:
            return {"g_siemens": self._coded(g_target_siemens, self.bits, draws)}
        return {"g_siemens": g_target_siemens * self._factor("programming", g_target_siemens, draws)}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        check_time(time_s)
        return state["g_siemens"]

    def _factor(self, effect: str, like: Tensor, draws: Draws) -> Tensor:
        """Mismatch of one transistor of every synapse, (chips, \\*shape), of mean 1."""
        s = self.log_std
        if s == 0.0:
            return like.new_ones(len(draws.chips), *like.shape)
        return (s * draws.normal(effect, tuple(like.shape)).to(like) - 0.5 * s**2).exp()

    def _coded(self, target: Tensor, bits: int, draws: Draws) -> Tensor:
        low, step, code = self._code(target, bits)
        held = target.new_zeros(len(draws.chips), *target.shape)
        for b in range(bits):
            held = held + ((code >> b) & 1) * self._factor(f"programming, bit {b}", target, draws) * 2.0**b
        # straight through the rounding: the target moves the code, and this device says what a code is worth
        worth = (held / code.clamp(min=1)).where(code > 0, held.new_ones(()))
        return low + held * step + (target - target.detach()) * worth

    def _code(self, target: Tensor, bits: int) -> tuple[float, float, Tensor]:
        """Current of code 0, of a step, and the nearest code."""
        most, low = 2**bits - 1, self.g_min_siemens
        span = self.g_max_siemens - low
        code = ((target.detach() - low) * (most / span)).round().clamp(0, most).long()
        return low, span / most, code

    def moments(self, g_target_siemens: Tensor) -> tuple[Tensor, Tensor]:
        cv = cv_of(self.log_std)
        if self.bits is None:
            return g_target_siemens, cv * g_target_siemens
        low, step, code = self._code(g_target_siemens, self.bits)
        squares = sum(((code >> b) & 1).to(g_target_siemens) * 4.0**b for b in range(self.bits))
        assert not isinstance(squares, int)  # there is at least one bit
        return low + step * code.to(g_target_siemens), cv * step * squares.sqrt()

    def effects(self) -> list[Effect]:
        s = self.log_std
        from_what = (
            f"{self.transistor.in_words()}, κ {self.transistor.kind.kappa:g}"
            if self.relative_std is None
            else f"stated: {percent(self.relative_std)} at {REFERENCE_KELVIN:g} K"
        )
        of = "each current" if self.bits is None else f"each of {self.bits} currents of a weight"
        found = [
            Effect(
                "mismatch of currents",
                s > 0,
                "once per chip",
                f"lognormal, CV {percent(cv_of(s))} of {of} at {self.kelvin:g} K; {from_what}",
            )
        ]
        if self.bits is not None:
            size = f"{self.bits} bits a leg, {2**self.bits - 1} steps up to {self.g_max_siemens * 1e9:.3g} nA"
            found.append(Effect("rounding of weights", True, "-", size))
        return found
