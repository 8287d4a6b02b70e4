"""Phase-change memory: programming noise, drift and slow 1/f read noise, as fitted on real arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from neurosim.devices.device import Device, Effect, Real, check_target, check_time, fusable, percent
from neurosim.devices.fit_range import FitRange

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

# Below this fraction of g_max the logarithms of the fits are cut; every clamp of the fits has long
# been reached there (the last one, of the read noise, at 0.0082), so no value changes.
_SMALLEST_FRACTION = 1e-7
_CLIPPED_LINE = ("slope", "offset", "min", "max")


_Coefficient = Annotated[Real, Field(ge=-1.0, le=1.0)]


class Pcm(Device):
    r"""Phase-change memory after Nandakumar 2019 and Joshi 2020; x = g / g_max.

    Programming, once per chip (n ~ N(0, 1), its own draw in each line)::

        σ_p(x) = (c0 + c1·x + c2·x²)·g_max/g_ref        x = g_target/g_max
        g_prog = max(g_target + σ_p·n, 0)
        ν      = |μ_ν + σ_ν·n|
        μ_ν    = clip(−0.0155 ln x + 0.0244, 0.049, 0.1)
        σ_ν    = clip(−0.0125 ln x − 0.0059, 0.008, 0.045)

    Ageing, for t > 0, T = t + t0, t0 = 20 s the time from programming to the first read of the fit::

        g_drift = g_prog·(T/t0)^−ν
        q       = min(0.0088/x^0.65, 0.2)                x = g_prog/g_max
        g(t)    = max(g_drift + g_drift·q·√ln((T + t_r)/(2 t_r))·n, 0)

    The read noise is slow (1/f): its draw is made once per chip and age, and holds for the whole read
    window.  At t = 0 the devices hold g_prog: neither drift nor read noise acts.

    Sources of the constants:

    * form of all three effects, ν and read noise: Nandakumar et al., "Phase-change memory models for
      deep learning training and inference", ICECS 2019, doi:10.1109/ICECS46596.2019.8964852;
    * programming polynomial, and use of all for networks: Joshi et al., "Accurate deep neural network
      inference using computational phase-change memory", Nature Communications 11, 2473 (2020),
      doi:10.1038/s41467-020-16108-9;
    * digits as published in IBM's aihwkit 1.1, ``aihwkit/inference/noise/pcm.py``, which this model
      equals up to its random draws (aihwkit also applies read noise when asked for t = 0).

    ``programming_scale``, ``drift_scale`` (of ν) and ``read_scale`` multiply the effects; 0 turns one off.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> device, draws = Pcm(), Draws(0, (0, 1), "w+")
    >>> state = device.program(torch.full((1000,), 20e-6), draws)
    >>> year = device.age(state, 3.15e7, draws)
    >>> bool(0.4 < year.mean() / state["g_siemens"].mean() < 0.6)
    True
    """

    kind: Literal["pcm"] = "pcm"

    # Joshi 2020: σ = 0.26348 + 1.9650 x − 1.1731 x² µS, for devices of g_max 25 µS
    programming_siemens: tuple[_Coefficient, _Coefficient, _Coefficient] = (0.26348e-6, 1.9650e-6, -1.1731e-6)
    reference_g_max_siemens: Real = Field(default=25e-6, ge=1e-15, le=1.0)
    programming_scale: Real = Field(default=1.0, ge=0.0, le=100.0)

    # Nandakumar 2019: ν ~ |N(μ, σ)|, μ and σ linear in ln x, clipped
    drift_mean_slope: Real = Field(default=-0.0155, ge=-10.0, le=10.0)
    drift_mean_offset: Real = Field(default=0.0244, ge=-10.0, le=10.0)
    drift_mean_min: Real = Field(default=0.049, ge=0.0, le=10.0)
    drift_mean_max: Real = Field(default=0.1, ge=0.0, le=10.0)
    drift_std_slope: Real = Field(default=-0.0125, ge=-10.0, le=10.0)
    drift_std_offset: Real = Field(default=-0.0059, ge=-10.0, le=10.0)
    drift_std_min: Real = Field(default=0.008, ge=0.0, le=10.0)
    drift_std_max: Real = Field(default=0.045, ge=0.0, le=10.0)
    drift_t0_s: Real = Field(default=20.0, ge=1e-15, le=1e12)
    drift_scale: Real = Field(default=1.0, ge=0.0, le=100.0)

    # Nandakumar 2019: q = min(0.0088 / x^0.65, 0.2), t_r = 250 ns
    read_coefficient: Real = Field(default=0.0088, ge=0.0, le=10.0)
    read_power: Real = Field(default=0.65, ge=0.0, le=5.0)
    read_max: Real = Field(default=0.2, ge=0.0, le=10.0)
    read_time_s: Real = Field(default=250e-9, ge=1e-15, le=1e12)
    read_scale: Real = Field(default=1.0, ge=0.0, le=100.0)

    @model_validator(mode="after")
    def _clips_ordered(self) -> Pcm:
        for name in ("drift_mean", "drift_std"):
            low, high = f"{name}_min", f"{name}_max"
            if getattr(self, low) > getattr(self, high):
                got = ", ".join(f"{clip}={getattr(self, clip)!r}" for clip in (low, high))
                raise ValueError(f"expected {low} <= {high}; got {got}")
        return self

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        check_target(g_target_siemens)
        if fusable(g_target_siemens):
            return self._program_fused(g_target_siemens, draws)
        shape = tuple(g_target_siemens.shape)
        n = draws.normal("programming", shape).to(g_target_siemens)
        g = (g_target_siemens + self.programming_std(g_target_siemens) * n).clamp(min=0.0)
        mean, std = self.drift_moments(g_target_siemens)
        n = draws.normal("drift", shape).to(g_target_siemens)
        return {"g_siemens": g, "drift_exponent": (mean + std * n).abs() * self.drift_scale}

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        time_s = check_time(time_s)
        g = state["g_siemens"]
        if time_s == 0.0:
            return g
        if fusable(g, state["drift_exponent"]):
            return self._age_fused(g, state["drift_exponent"], time_s, draws)
        drifted = g * (state["drift_exponent"] * -self.log_time(time_s)).exp()
        n = draws.normal(f"read-noise@{time_s!r}", tuple(g.shape[1:])).to(g)
        return (drifted + drifted * self.read_fraction(g) * self.read_growth(time_s) * n).clamp(min=0.0)

    def _program_fused(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        """:meth:`program` in one pass over memory, equal to rounding."""
        import numpy as np
        import torch

        from neurosim.devices.kernels import program_pcm
        from neurosim.random import follow_torch_threads

        target = g_target_siemens.contiguous().reshape(-1)
        g = torch.empty(len(draws.chips), target.numel())
        nu = torch.empty_like(g)
        follow_torch_threads()
        program_pcm(
            target.numpy(), g.numpy(), nu.numpy(), np.array(draws.chips, np.int64),
            draws.keys("programming", "drift"), *self.programming_constants(),
        )  # fmt: skip
        shape = (len(draws.chips), *g_target_siemens.shape)
        return {"g_siemens": g.reshape(shape), "drift_exponent": nu.reshape(shape)}

    def _age_fused(self, g: Tensor, nu: Tensor, time_s: float, draws: Draws) -> Tensor:
        """:meth:`age` in one pass over memory, equal to rounding."""
        import numpy as np
        import torch

        from neurosim.devices.kernels import age_pcm
        from neurosim.random import follow_torch_threads

        chips = len(draws.chips)
        flat = g.contiguous().reshape(chips, -1)
        out = torch.empty_like(flat)
        follow_torch_threads()
        age_pcm(
            flat.numpy(), nu.contiguous().reshape(chips, -1).numpy(), out.numpy(),
            np.array(draws.chips, np.int64), draws.keys(f"read-noise@{time_s!r}"),
            *self.ageing_constants(time_s),
        )  # fmt: skip
        return out.reshape(g.shape)

    def programming_constants(self) -> tuple[Any, ...]:
        """What the programming kernels take after their arrays."""
        import numpy as np

        scale = self.programming_scale * self.g_max_siemens / self.reference_g_max_siemens
        moments = (
            np.array([getattr(self, f"drift_{name}_{part}") for part in _CLIPPED_LINE], np.float32)
            for name in ("mean", "std")
        )
        polynomial = (np.float32(c * scale) for c in self.programming_siemens)
        most, least = np.float32(1 / self.g_max_siemens), np.float32(_SMALLEST_FRACTION)
        return most, least, *polynomial, *moments, np.float32(self.drift_scale)

    def ageing_constants(self, time_s: float) -> tuple[Any, ...]:
        """What the ageing kernels take after their arrays."""
        import numpy as np

        numbers = (
            self.log_time(time_s),
            self.read_growth(time_s),
            1 / self.g_max_siemens,
            _SMALLEST_FRACTION,
            self.read_coefficient,
            self.read_power,
            self.read_max,
        )
        return tuple(np.float32(number) for number in numbers)

    def programming_std(self, g_target_siemens: Tensor) -> Tensor:
        """σ_p in siemens, same shape as its argument; never negative."""
        c0, c1, c2 = self.programming_siemens
        scale = self.programming_scale * self.g_max_siemens / self.reference_g_max_siemens
        x = g_target_siemens / self.g_max_siemens
        return (((c2 * x + c1) * x + c0) * scale).clamp(min=0.0)

    def drift_moments(self, g_target_siemens: Tensor) -> tuple[Tensor, Tensor]:
        """(μ_ν, σ_ν), same shape as the argument."""
        log_x = (g_target_siemens / self.g_max_siemens).clamp(min=_SMALLEST_FRACTION).log()
        mean = self.drift_mean_slope * log_x + self.drift_mean_offset
        std = self.drift_std_slope * log_x + self.drift_std_offset
        return (
            mean.clamp(self.drift_mean_min, self.drift_mean_max),
            std.clamp(self.drift_std_min, self.drift_std_max),
        )

    def read_fraction(self, g_programmed_siemens: Tensor) -> Tensor:
        """q, the 1/f noise as a fraction of the conductance, same shape as the argument."""
        # exp and log, not pow: torch's pow differs in the last bit between the vectorised body and the
        # tail of a tensor, and a chip must not depend on where in a batch it lies
        log_x = (g_programmed_siemens / self.g_max_siemens).clamp(min=_SMALLEST_FRACTION).log()
        return ((log_x * -self.read_power).exp() * self.read_coefficient).clamp(max=self.read_max)

    def log_time(self, time_s: float) -> float:
        """ln((t + t0)/t0): drift multiplies a conductance by exp(−ν·log_time)."""
        return math.log1p(time_s / self.drift_t0_s)

    def read_growth(self, time_s: float) -> float:
        """√ln((T + t_r)/(2 t_r)), T = t + t0, times ``read_scale``: how the 1/f noise grows with age."""
        total = time_s + self.drift_t0_s
        log_ratio = math.log(total + self.read_time_s) - math.log(2 * self.read_time_s)
        return self.read_scale * math.sqrt(max(log_ratio, 0.0))

    def fit_range(self) -> FitRange:
        """0 to 25 µS and one day: how far the fit and Joshi's networks on hardware go."""
        return FitRange((0.0, self.reference_g_max_siemens), (self.drift_t0_s, 86400.0))

    def effects(self) -> list[Effect]:
        day = 86400.0
        low, high = self._programming_extremes()
        most = percent(high / self.g_max_siemens)
        nu = f"ν {self.drift_mean_min * self.drift_scale:.3g} to {self.drift_mean_max * self.drift_scale:.3g}"
        read_on = min(self.read_coefficient, self.read_max) * self.read_growth(day)
        return [
            Effect(
                "programming noise",
                high > 0,
                "once per chip",
                f"{low * 1e6:.3g} to {high * 1e6:.3g} µS (standard deviation; at most {most} of g_max)",
            ),
            Effect(
                "drift",
                self.drift_scale > 0 and (self.drift_mean_max > 0 or self.drift_std_max > 0),
                "once per chip",
                f"(1 + t/{self.drift_t0_s:g} s)^-ν, mean {nu}",
            ),
            Effect(
                "slow read noise (1/f)",
                read_on > 0,
                "once per chip and age",
                f"{percent(read_on)} of a fully-on conductance after a day; none at t = 0",
            ),
        ]

    def _programming_extremes(self) -> tuple[float, float]:
        c0, c1, c2 = self.programming_siemens
        scale = self.programming_scale * self.g_max_siemens / self.reference_g_max_siemens
        xs = [self.g_min_siemens / self.g_max_siemens, 1.0]
        if c2 != 0 and xs[0] < -c1 / (2 * c2) < 1.0:
            xs.append(-c1 / (2 * c2))
        values = [max(((c2 * x + c1) * x + c0) * scale, 0.0) for x in xs]
        return min(values), max(values)
