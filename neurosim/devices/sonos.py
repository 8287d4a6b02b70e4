"""SONOS charge-trap memory, 40 nm, read in weak inversion: write error, drift over days, read noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field, model_validator

from neurosim.devices.device import Device, Effect, Real, check_target, check_time
from neurosim.devices.fit_range import FitRange

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

DAY_S = 86400.0
LARGEST_AMPERE = 1.8e-6
"""Where the published drift polynomials end."""

_UNIT_AMPERE = 1e-6  # the polynomials are evaluated in microamperes, which float32 does well
_SMALLEST_VARIANCE = 1e-18  # (microampere)², so that a square root has a gradient


class _Day(NamedTuple):
    """Statistics of 128,000 cells on one day: σ = a·(1 − e^(−I/b)), and the mean shift's coefficients."""

    a_nanoampere: float
    b_nanoampere: float
    shift: tuple[float, ...]  # nanoampere as a polynomial of nanoampere, lowest power first


# Agrawal et al., IEDM 2022, figures 10(a) and (b), as fitted in CrossSim 3.2 (devices/custom/SONOS.py)
DAYS = (
    _Day(19.88665, 176.3115, (0.0,) * 11),
    _Day(25.59102, 186.85544, (
        1.72684e-01, 5.72552e-02, -6.85715e-04, 3.50271e-06, -9.37682e-09, 1.40575e-11,
        -1.19803e-14, 5.41293e-18, -8.85448e-22, -1.66869e-25, 5.95180e-29)),
    _Day(28.72753, 193.56834, (
        2.50712e-01, 6.62195e-02, -6.83218e-04, 2.99442e-06, -6.78255e-09, 7.70482e-12,
        -3.04983e-15, -2.15919e-18, 2.94617e-21, -1.23359e-24, 1.85329e-28)),
    _Day(31.04318, 198.90332, (
        -1.75300e-02, 9.76883e-02, -9.63791e-04, 4.55551e-06, -1.22391e-08, 1.93786e-11,
        -1.85899e-14, 1.07659e-17, -3.58211e-21, 5.96785e-25, -3.30410e-29)),
    _Day(33.76214, 204.77023, (
        4.03338e-02, 1.03111e-01, -1.04740e-03, 4.83961e-06, -1.28132e-08, 1.99484e-11,
        -1.85139e-14, 1.00008e-17, -2.84944e-21, 3.01008e-25, 1.18747e-29)),
    _Day(34.57909, 207.34309, (
        3.19927e-01, 1.06596e-01, -1.04054e-03, 4.50290e-06, -1.10352e-08, 1.56477e-11,
        -1.27592e-14, 5.45513e-18, -7.26841e-22, -2.43893e-25, 7.14608e-29)),
)  # fmt: skip
READ_NANOAMPERE = (12.58037, 215.36557)
"""(a, b) of the read noise, figure 11(b): the same on every day."""


class Sonos(Device):
    r"""Currents I = g·v_read; a day's σ is a·(1 − e^(−I/b)).

    Programming, once per chip (n ~ N(0, 1), its own draw in each line)::

        I(0) = max(I_target + σ₀(I_target)·n, 0)             a, b = 19.89, 176.3 nA

    Ageing, t > 0, m the measured mean shift, a polynomial of degree 10 in the target for each day::

        Ī    = I_target + m_t(I_target)
        I(t) = max(I(0) + m_t(I_target) + √(σ_t²(Ī) − σ₀²(I_target))·n, 0)     a, b → 34.58, 207.3 nA on day 5
        read = max(I(t) + σ_r(I(t))·n, 0)                    a, b = 12.58, 215.4 nA

    so that mean and standard deviation are those measured at t.  Which part of σ_t belongs to the same
    devices' write error was not published: here all of σ₀ stays with a device and the rest is drawn once
    more, one draw for all ages.  Between days, a, b and m are interpolated linearly; after day 5, the mean
    shift and the root of the added variance grow as ln(1 + t/day), an extrapolation; the growth of a over the
    five days follows that course within 5 %.  Read noise is drawn once per chip and age; none at t = 0.

    Source: V. Agrawal et al., "Subthreshold operation of SONOS analog memory to enable accurate low-power
    neural network inference", IEDM 2022, doi:10.1109/IEDM45625.2022.10019564; digits as in Sandia's CrossSim
    3.2.

    Attributes:
        v_read_volt: turns currents into conductances: 1.6 µA at the default range, and at most 1.8 µA.
        programming_scale, drift_scale, read_scale: multiply the three effects; 0 turns one off.

    Raises:
        UsageError: g_max·v_read above 1.8 µA, where the polynomials end.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> device, draws = Sonos(), Draws(0, (0,), "w+")
    >>> state = device.program(torch.full((10_000,), 8e-6), draws)       # 800 nA
    >>> [round(float(device.age(state, t, draws).mean()) * 1e8) for t in (0.0, 5 * 86400.0)]
    [800, 786]
    """

    kind: Literal["sonos"] = "sonos"
    g_max_siemens: Real = Field(default=16e-6, ge=1e-15, le=1.0)
    v_read_volt: Real = Field(default=0.1, gt=0.0, le=100.0)
    programming_scale: Real = Field(default=1.0, ge=0.0, le=100.0)
    drift_scale: Real = Field(default=1.0, ge=0.0, le=100.0)
    read_scale: Real = Field(default=1.0, ge=0.0, le=100.0)

    @model_validator(mode="after")
    def _measured(self) -> Sonos:
        if self.g_max_siemens * self.v_read_volt > LARGEST_AMPERE * (1 + 1e-9):
            raise ValueError(
                "expected g_max_siemens * v_read_volt of at most 1.8e-06 A, where the measured drift ends; "
                f"got g_max_siemens={self.g_max_siemens!r}, v_read_volt={self.v_read_volt!r}"
            )
        return self

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        shape = tuple(g_target_siemens.shape)
        target = g_target_siemens.expand(len(draws.chips), *shape)
        g = target
        if self.programming_scale:
            n = draws.normal("programming", shape).to(g_target_siemens)
            sigma = self._std(g_target_siemens * self._per_siemens, DAYS[0][:2], self.programming_scale)
            g = (g_target_siemens + sigma * n / self._per_siemens).clamp(min=0.0)
        return {"g_siemens": g, "g_target_siemens": target}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        time_s = check_time(time_s)
        g = state["g_siemens"]
        if time_s == 0.0:
            return g
        shape = tuple(g.shape[1:])
        if self.drift_scale:
            shift, added = self.drift(state["g_target_siemens"], time_s)
            g = (g + shift + added * draws.normal("drift", shape).to(g)).clamp(min=0.0)
        if self.read_scale:
            sigma = self._std(g * self._per_siemens, READ_NANOAMPERE, self.read_scale)
            n = draws.normal(f"read-noise@{time_s!r}", shape).to(g)
            g = (g + sigma * n / self._per_siemens).clamp(min=0.0)
        return g

    def drift(self, g_target_siemens: Tensor, time_s: float) -> tuple[Tensor, Tensor]:
        """Mean shift, and standard deviation of what comes on top of the write error, both in siemens."""
        current = g_target_siemens * self._per_siemens
        day, growth = at_age(time_s)
        shift = _polynomial(current, day.shift)
        written = self._std(current, DAYS[0][:2], 1.0)
        now = self._std((current + shift).clamp(min=0.0), day[:2], 1.0)
        added = (now * now - written * written).clamp(min=_SMALLEST_VARIANCE).sqrt()
        scale = self.drift_scale * growth / self._per_siemens
        return shift * scale, added * scale

    @property
    def _per_siemens(self) -> float:
        """Microamperes per siemens."""
        return self.v_read_volt / _UNIT_AMPERE

    def _std(self, microampere: Tensor, ab_nanoampere: tuple[float, float], scale: float) -> Tensor:
        """a·(1 − e^(−I/b)), microampere."""
        a, b = (value * 1e-3 for value in ab_nanoampere)
        return (1.0 - (microampere * (-1.0 / b)).exp()) * (a * scale)

    def fit_range(self) -> FitRange:
        """0 to 1.8 µA at ``v_read_volt``, 0 to 5 days."""
        return FitRange((0.0, LARGEST_AMPERE / self.v_read_volt), (0.0, 5 * DAY_S))

    def effects(self) -> list[Effect]:
        full = self.g_max_siemens * self.v_read_volt * 1e9
        write, later, read = (
            a * (1 - math.exp(-full / b)) for a, b in (DAYS[0][:2], DAYS[5][:2], READ_NANOAMPERE)
        )
        shift = sum(c * full**k for k, c in enumerate(DAYS[5].shift))
        return [
            Effect(
                "programming noise",
                self.programming_scale > 0,
                "once per chip",
                f"{write * self.programming_scale:.3g} nA (standard deviation) at {full:.4g} nA, less below",
            ),
            Effect(
                "drift",
                self.drift_scale > 0,
                "once per chip",
                f"after 5 days {shift * self.drift_scale:+.3g} nA on average at {full:.4g} nA, and "
                f"{math.sqrt(later**2 - write**2) * self.drift_scale:.3g} nA of spread on top",
            ),
            Effect(
                "read noise",
                self.read_scale > 0,
                "once per chip and age",
                f"{read * self.read_scale:.3g} nA (standard deviation) at {full:.4g} nA; none at t = 0",
            ),
        ]


def at_age(time_s: float) -> tuple[_Day, float]:
    """The day whose statistics hold at an age, and what multiplies its mean shift and its added deviation.

    >>> at_age(1.5 * DAY_S)[0].a_nanoampere == (DAYS[1].a_nanoampere + DAYS[2].a_nanoampere) / 2
    True
    >>> at_age(35 * DAY_S)[1]    # ln(36)/ln(6)
    2.0
    """
    days = time_s / DAY_S
    last = len(DAYS) - 1
    if days >= last:
        return DAYS[last], math.log1p(days) / math.log1p(last)
    before, part = int(days), days - int(days)
    old, new = DAYS[before], DAYS[before + 1]
    shift = tuple((1 - part) * c + part * d for c, d in zip(old.shift, new.shift, strict=True))
    a, b = ((1 - part) * c + part * d for c, d in zip(old[:2], new[:2], strict=True))
    return _Day(a, b, shift), 1.0


def _polynomial(microampere: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """A polynomial of nanoamperes, in microamperes of microamperes."""
    total = microampere * 0.0
    for power in reversed(range(len(coefficients))):
        total = total * microampere + coefficients[power] * 1e3**power * 1e-3
    return total
