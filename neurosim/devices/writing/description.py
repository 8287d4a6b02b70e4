"""How the devices of a chip are written: a table of the hardware description."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from neurosim.devices.device import Effect, Frozen, Real, Whole, percent


class Writing(Frozen):
    r"""Pulses and reads instead of the device's own error of writing.

    A device starts at g_min.  A pulse moves it towards the target by one step, each device's step and each
    pulse differing; a read then says where it is; it is accepted within the acceptance range, or pulsed again
    until ``max_pulses`` (the process of :mod:`neurosim.devices.writing.verify`).  What the device's model
    says of programming is replaced; drift, retention and read noise stay.

    Attributes:
        scheme: ``"none"``, the device's own error; ``"program-and-verify"``; ``"blind"``: as many pulses as
            the distance takes by the average step, without a read.
        acceptance: half width of the acceptance range, as a fraction of ``acceptance_of``.
        acceptance_of: the range g_max − g_min, or the target itself.
        step: average move of a pulse, as a fraction of the range.
        device_std: relative standard deviation of the devices' steps, lognormal.
        cycle_std: relative standard deviation of one device's pulses.
        verify_std: standard deviation of a read, as a fraction of the range.
        max_pulses: after these a device is left as it is.
        verified_fraction: of the weights that are verified, those to which the loss is most sensitive; the
            others are written blindly (selective write-verify, Z. Yan et al., DAC 2022,
            doi:10.1145/3489517.3530459).
        pulse_volt, pulse_s, read_volt, read_s: what pulses and reads take, for time and energy.
    """

    scheme: Literal["none", "program-and-verify", "blind"] = "none"
    acceptance: Real = Field(default=0.01, gt=0.0, le=1.0)
    acceptance_of: Literal["range", "target"] = "range"
    step: Real = Field(default=0.01, gt=0.0, le=1.0)
    device_std: Real = Field(default=0.1, ge=0.0, le=10.0)
    cycle_std: Real = Field(default=0.3, ge=0.0, le=100.0)
    verify_std: Real = Field(default=0.0, ge=0.0, le=1.0)
    max_pulses: Whole = Field(default=500, ge=1, le=100_000)
    verified_fraction: Real = Field(default=1.0, ge=0.0, le=1.0)
    pulse_volt: Real = Field(default=2.0, gt=0.0, le=100.0)
    pulse_s: Real = Field(default=100e-9, gt=0.0, le=10.0)
    read_volt: Real = Field(default=0.2, gt=0.0, le=100.0)
    read_s: Real = Field(default=100e-9, gt=0.0, le=10.0)

    @model_validator(mode="after")
    def _belong(self) -> Writing:
        if self.verified_fraction < 1.0 and self.scheme != "program-and-verify":
            raise ValueError(
                "expected verified_fraction only with scheme='program-and-verify'; got "
                f"verified_fraction={self.verified_fraction:g} with scheme={self.scheme!r}"
            )
        return self

    @model_validator(mode="after")
    def _possible(self) -> Writing:
        if self.acceptance_of == "target" and self.verify_std:
            raise ValueError(
                "expected verify_std=0 with acceptance_of='target', where a noisy read never accepts a "
                f"target of 0; got verify_std={self.verify_std:g}"
            )
        return self

    @property
    def act(self) -> bool:
        """Whether it replaces the device's own error."""
        return self.scheme != "none"

    @property
    def selective(self) -> bool:
        """Whether only some weights are verified."""
        return self.act and self.verified_fraction < 1.0

    def effects(self) -> list[Effect]:
        """A row if it acts."""
        if not self.act:
            return []
        steps = (
            f"steps of {percent(self.step)} of the range, {percent(self.device_std)} from device to device, "
            f"{percent(self.cycle_std)} from pulse to pulse"
        )
        if self.scheme == "blind":
            return [Effect("writing, blind", True, "once per chip", steps)]
        of = "the range" if self.acceptance_of == "range" else "the target"
        share = f", {percent(self.verified_fraction)} of the weights" if self.selective else ""
        size = f"within {percent(self.acceptance)} of {of}{share}; {steps}"
        return [Effect("writing, verified", True, "once per chip", size)]
