"""Spin-transfer-torque MRAM: a magnetic tunnel junction holds one of two resistances, and nothing between."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from neurosim.devices.conditions import BOLTZMANN_EV
from neurosim.devices.device import Device, Effect, Real, check_target, check_time, percent

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

_LARGEST_NORMAL = 7.0  # streams draw no normal beyond 6.8
_FINEST_CHANCE = 2.0**-25  # half the step of a uniform draw


class SttMram(Device):
    r"""Two states: parallel, R_P = 1/g_max, and antiparallel, R_AP = 1/g_min; TMR = R_AP/R_P − 1.

    A target becomes the nearer state: parallel where g_target > (g_min + g_max)/2.  With a one-sided pair a
    weight is thus one of −scale, 0, +scale.  The resistance of the state has a spread, n ~ N(0, 1) once per
    chip, the same n for both states of a junction; its *mean* is that of the state::

        normal      R·(1 + σ·n)
        lognormal   R·exp(s·n − s²/2)                s² = ln(1 + σ²)

    A write fails with probability ``write_error_rate`` and leaves the other state.  Heat turns a state over
    (Néel and Arrhenius); a junction that has turned stays turned, however old it gets::

        P(turned by t) = ½·(1 − e^(−2t/τ))           τ = 1 ns·e^Δ,  Δ = ``thermal_stability``

    The choice of a state has no useful derivative: backwards, a target passes its gradient to the conductance
    as if it had been stored exactly (straight-through, as in binary networks).

    Sources: R_P = 3 kΩ, R_AP = 6 kΩ are the cell of published cost models; σ(R_P) of at most TMR/15,
    here 6.7 %, from "TMR > 15 σ(R_P)" in "A statistical study of magnetic tunnel junctions for high-density
    spin torque transfer-MRAM", IEDM 2008.  σ(R_AP) = σ(R_P), Δ = 60 and writes without errors are
    assumptions.

    Raises:
        UsageError: g_min of 0, or a normal spread of more than 1/7, which would reach negative resistances.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> exact = SttMram(parallel_std=0.0, antiparallel_std=0.0)
    >>> state = exact.program(torch.tensor([200e-6, 300e-6]), Draws(0, (0,), "w+"))
    >>> (1 / state["g_siemens"]).round().tolist()
    [[6000.0, 3000.0]]
    """

    written_apart: ClassVar[bool] = False
    kind: Literal["stt-mram"] = "stt-mram"
    g_min_siemens: Real = Field(default=1 / 6000, ge=0.0, le=1.0)
    g_max_siemens: Real = Field(default=1 / 3000, ge=1e-15, le=1.0)
    distribution: Literal["normal", "lognormal"] = "lognormal"
    parallel_std: Real = Field(default=0.067, ge=0.0, le=1.0)
    antiparallel_std: Real = Field(default=0.067, ge=0.0, le=1.0)
    write_error_rate: Real = Field(default=0.0, ge=0.0, le=1.0)
    thermal_stability: Real = Field(default=60.0, ge=0.0, le=700.0)

    @model_validator(mode="after")
    def _possible(self) -> SttMram:
        if self.g_min_siemens == 0:
            raise ValueError("expected g_min_siemens > 0, as an antiparallel junction conducts; got 0.0")
        most = max(self.parallel_std, self.antiparallel_std)
        if self.distribution == "normal" and most > 1 / _LARGEST_NORMAL:
            raise ValueError(
                "expected parallel_std and antiparallel_std of at most 1/7 with distribution 'normal', or "
                f"distribution 'lognormal'; got {most!r}"
            )
        return self

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        shape = tuple(g_target_siemens.shape)
        middle = 0.5 * (self.g_min_siemens + self.g_max_siemens)
        parallel = (g_target_siemens > middle).expand(len(draws.chips), *shape)
        if self.write_error_rate:
            parallel = parallel ^ (draws.uniform("write error", shape) < self.write_error_rate)
        g = self._conductance(parallel, g_target_siemens, draws)
        return {"g_siemens": g, "parallel": parallel.to(g_target_siemens)}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        chance = self.turned(check_time(time_s))
        g = state["g_siemens"]
        if chance < _FINEST_CHANCE:
            return g
        turned = draws.uniform("retention", tuple(g.shape[1:])) + _FINEST_CHANCE < chance
        fresh = state["parallel"] > 0.5
        # from g to the turned state by a factor, so that gradients pass as they did when it was written
        other, own = (self._conductance(side, g[0].detach(), draws) for side in (~fresh, fresh))
        return (g * (other / own).where(turned, g.new_ones(()))).to(g.dtype)

    def activation_energy_ev(self, reference_kelvin: float) -> float | None:
        """Δ·k·T: the barrier is what it is, Δ is in units of kT."""
        return self.thermal_stability * BOLTZMANN_EV * reference_kelvin

    def turned(self, time_s: float) -> float:
        """The probability that heat has turned a state over."""
        return -0.5 * math.expm1(-2.0 * (time_s / (1e-9 * math.exp(self.thermal_stability))))

    def _conductance(self, parallel: Tensor, target: Tensor, draws: Draws) -> Tensor:
        """Of states (chips, *shape); straight through to ``target``."""
        low, high = target.new_tensor(self.g_min_siemens), target.new_tensor(self.g_max_siemens)
        g = high.where(parallel, low) + (target - target.detach())
        if not self.parallel_std and not self.antiparallel_std:
            return g
        n = draws.normal("programming", tuple(target.shape)).to(target)
        stds = [self.parallel_std, self.antiparallel_std]
        if self.distribution == "normal":
            factors = [1.0 + std * n for std in stds]
        else:
            factors = [(s2**0.5 * n - 0.5 * s2).exp() for s2 in (math.log1p(std**2) for std in stds)]
        return g / factors[0].where(parallel, factors[1])

    def effects(self) -> list[Effect]:
        ohm = f"{1 / self.g_max_siemens:.4g} or {1 / self.g_min_siemens:.4g} Ω"
        year = 3.15576e7
        return [
            Effect("two states", True, "-", f"{ohm}: a weight is -1, 0 or 1 of its scale"),
            Effect(
                "resistance spread",
                self.parallel_std > 0 or self.antiparallel_std > 0,
                "once per chip",
                f"{self.distribution}, {percent(self.parallel_std)} parallel, "
                f"{percent(self.antiparallel_std)} antiparallel (standard deviation)",
            ),
            Effect(
                "write errors", self.write_error_rate > 0, "once per chip", percent(self.write_error_rate)
            ),
            Effect(
                "thermal reversal",
                self.turned(10 * year) >= _FINEST_CHANCE,
                "once per chip",
                f"{self.turned(10 * year):.2g} of the states within ten years",
            ),
        ]
