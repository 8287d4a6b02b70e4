"""How a parameter that no crossbar holds differs from chip to chip: time constants, thresholds, gains."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from neurosim.devices.device import Frozen, Real, percent, without_defaults
from neurosim.devices.frozen import FrozenDict
from neurosim.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

WORDS = ("optional", "origin")
"""Fields that change no result."""
_LARGEST_LOG_STD = 5.0


class Spread(Frozen):
    """Mismatch of a parameter θ, drawn once per chip and element and constant in time.

    With n, m ~ N(0, 1) and u, v ~ U[0, 1), all independent, σ = ``relative_std`` and σₐ = ``absolute_std``:

    * ``"normal"``: θ·(1 + σ·n) + σₐ·m.  The relative part is the mismatch of Büchel, Faber and Muir, ICLR
      2022 (doi:10.48550/arXiv.2106.05009), as in :class:`neurosim.devices.Gaussian`; nothing is clamped: for
      n < −1/σ a parameter changes its sign.
    * ``"lognormal"``: θ·exp(s·n − s²/2) with s² = ln(1 + σ²).  Never changes a sign.
    * ``"uniform"``: θ·(1 + σ·√12·(u − ½)) + σₐ·√12·(v − ½): between θ ± √3·(σ·\\|θ\\| + σₐ).

    In all three the *arithmetic mean* over chips is θ, and the standard deviations of its parts, σ·\\|θ\\|
    and σₐ, add in squares: distributions of the same ``relative_std`` differ in shape only.

    A current of a transistor in weak inversion is lognormal, as its threshold voltage is Gaussian (Pelgrom,
    Duinmaijer and Welbers 1989, doi:10.1109/JSSC.1989.572629) and the current exponential in it:
    I·exp(−ΔV/(n·U_T)).  There s = σ_V/(n·U_T), so ``relative_std`` = √(exp(s²) − 1).  What that physics
    keeps is the *median*, which lies below the mean by the factor exp(−s²/2): one factor for every device,
    which a bias current set for the right mean takes up.

    A parameter made of several currents, such as a gain I_a/I_b, names their ``transistors``, with signs of
    their exponents (:mod:`neurosim.devices.subthreshold.circuits` derives them from geometry)::

        θ·factor·exp(Σ_t e_t·(\\|s_t\\|·n_t + d·m_t + g·(a·x + b·y)) − ½·variance)        e_t = sign(s_t)

    n_t ~ N(0, 1) per element, m_t per bias current, a and b per gradient; parameters of one module that
    name the same transistor share n_t and m_t, and all of them share a and b: a time constant and a gain
    that hang on one current move together, and a gradient leaves a ratio of two currents alone.  Elements
    lie on a square grid, x and y from −1 to 1.  d and g belong to ``die_std`` and ``gradient_std`` as s
    does to ``relative_std``.  A lognormal without ``transistors`` has one of its own.

    Attributes:
        distribution: one of the three above.
        relative_std: standard deviation as a fraction of the value.
        absolute_std: standard deviation in units of the parameter; not with ``"lognormal"``, which scales.
        transistors: of a lognormal, instead of ``relative_std``: name of a transistor → s_t, the standard
            deviation of ln I, negative where the parameter falls with the current.
        die_std: of a lognormal: relative standard deviation, from chip to chip, of each bias current that all
            elements of a parameter share.
        gradient_std: of a lognormal: relative standard deviation of currents at the middle of an edge of the
            grid, from a linear gradient of thresholds over the die.
        factor: every chip multiplies the parameter by it: U_T/U_T,ref of a time constant in the heat.
        optional: a pattern with this spread may match no parameter of a network.
        origin: where the numbers come from, for people.

    Raises:
        UsageError: a number out of bounds, an absolute part of a lognormal, or a part that only lognormals
            have.

    >>> import torch
    >>> from neurosim.random import Draws
    >>> spread = Spread(distribution="lognormal", relative_std=0.2)
    >>> tau = spread.sample(torch.full((10_000,), 20.0), Draws(0, (0,), "tau"))
    >>> tau.shape, round(float(tau.mean()), 1), round(float(tau.std()), 1)
    (torch.Size([1, 10000]), 20.0, 4.0)
    """

    distribution: Literal["normal", "lognormal", "uniform"] = "normal"
    relative_std: Real = Field(default=0.0, ge=0.0, le=10.0)
    absolute_std: Real = Field(default=0.0, ge=0.0, le=1e30)
    transistors: dict[str, Real] = FrozenDict()
    die_std: Real = Field(default=0.0, ge=0.0, le=1.0)
    gradient_std: Real = Field(default=0.0, ge=0.0, le=1.0)
    factor: Real = Field(default=1.0, gt=0.0, le=1e6)
    optional: bool = False
    origin: str = ""

    @field_validator("transistors")
    @classmethod
    def _frozen_transistors(cls, value: dict[str, float]) -> dict[str, float]:
        for name, log_std in value.items():
            if not abs(log_std) <= _LARGEST_LOG_STD:
                raise ValueError(
                    f"expected a standard deviation of ln I of at most {_LARGEST_LOG_STD:g}, with a sign; "
                    f"got transistors.{name}={log_std!r}"
                )
        return FrozenDict(value)

    @model_validator(mode="after")
    def _possible(self) -> Spread:
        if self.distribution == "lognormal" and self.absolute_std:
            raise ValueError(
                "expected absolute_std = 0 with distribution 'lognormal', which scales a parameter; "
                f"got absolute_std={self.absolute_std!r}"
            )
        for field in ("transistors", "die_std", "gradient_std"):
            if self.distribution != "lognormal" and getattr(self, field):
                raise ValueError(
                    f"expected {field} only with distribution 'lognormal'; got {self.distribution!r}"
                )
        if self.transistors and self.relative_std:
            raise ValueError(
                f"expected transistors or relative_std, which follows from them; got relative_std="
                f"{self.relative_std!r} with both"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Spreads that leave the later fields alone look, and digest, as they did before there were any."""
        return without_defaults(self, handler(self), set(type(self).model_fields) - set(_ALWAYS))

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return any((self.relative_std, self.absolute_std, self._shared)) or self.factor != 1.0

    @property
    def local_std(self) -> float:
        """Relative standard deviation from element to element: √(exp(Σ s_t²) − 1) of transistors.

        >>> round(Spread(distribution="lognormal", transistors={"i_a": 0.2, "i_b": -0.2}).local_std, 3)
        0.289
        """
        if not self.transistors:
            return self.relative_std
        return math.sqrt(math.expm1(sum(s**2 for s in self.transistors.values())))

    @property
    def _shared(self) -> bool:
        """Whether the parameter has parts beyond those of a plain distribution."""
        return any(self.transistors.values()) or self.die_std > 0 or self.gradient_std > 0

    def sample(self, value: Tensor, draws: Draws) -> Tensor:
        """The parameter on every chip of ``draws``, differentiable in ``value``.

        A zero spread gives ``value`` to the bit.  Draws are float32, named "spread" and, for the absolute
        part, "spread, absolute"; float16 and bfloat16 are computed in float32 and rounded once, at the end.

        Args:
            value: (\\*shape), in units of the parameter.
            draws: the named draws of this parameter on the chips wanted.

        Returns:
            (chips, \\*shape), of the type and on the device of ``value``, in memory of its own.

        Raises:
            UsageError: ``value`` holds no real floating-point numbers.
        """
        if not value.is_floating_point():
            raise UsageError(f"expected real floating-point numbers in {draws.name!r}; got {value.dtype}")
        wide = value if value.dtype.itemsize >= 4 else value.float()
        sampled = wide.expand(len(draws.chips), *wide.shape)
        shape = tuple(value.shape)
        if self._shared:
            sampled = sampled * self._of_currents(draws, shape).to(wide)
        elif self.relative_std > 0:
            sampled = sampled * self._factor(draws, shape).to(wide)
        if self.factor != 1.0:
            sampled = sampled * self.factor
        if self.absolute_std > 0:
            unit = self._unit(draws, "spread, absolute", shape).to(wide)
            sampled = sampled + self.absolute_std * unit
        return sampled.to(value.dtype) if self.acts else sampled.clone().to(value.dtype)

    def _factor(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        """What multiplies the parameter, (chips, \\*shape), of mean 1."""
        unit = self._unit(draws, "spread", shape).double()
        if self.distribution != "lognormal":
            return 1.0 + self.relative_std * unit
        variance = math.log1p(self.relative_std**2)
        return (math.sqrt(variance) * unit - 0.5 * variance).exp()

    def _of_currents(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        """What multiplies a parameter that is a product of currents, (chips, \\*shape), of mean 1."""
        import torch

        from neurosim.devices.subthreshold.fields import gradient_shape

        module = type(draws)(draws.lot, draws.chips, draws.name.rpartition(".")[0], draws.device)
        die, slope = self._die_and_slope
        total = torch.zeros(len(draws.chips), *shape, dtype=torch.float64, device=draws.device)
        for name, log_std in self._log_stds.items():
            # one of its own: its draws are those of a plain lognormal
            places = module if self.transistors else draws
            label = f"spread, {name}" if name else "spread"
            total = total + log_std * places.normal(label, shape).double()
            if die:
                shared = places.normal(f"{label}, die", (1,) * len(shape)).double()
                total = total + math.copysign(1.0, log_std) * die * shared
        if slope:
            x, y = gradient_shape(shape, draws.device)
            a, b = (slope * module.normal("gradient", (2,)).double()).unbind(1)
            along = [-1, *(1 for _ in shape)]
            total = total + a.reshape(along) * x + b.reshape(along) * y
        return (total - 0.5 * self._log_variance(shape, draws.device)).exp()

    @property
    def _log_stds(self) -> dict[str, float]:
        """s_t by transistor; of one without a name, where none is named."""
        return dict(self.transistors) or {"": math.sqrt(math.log1p(self.relative_std**2))}

    @property
    def _die_and_slope(self) -> tuple[float, float]:
        """Standard deviations of ln θ that a bias current and, at the edge, a gradient cause."""
        die, slope = (math.sqrt(math.log1p(std**2)) for std in (self.die_std, self.gradient_std))
        return die, slope * sum(math.copysign(1.0, log_std) for log_std in self._log_stds.values())

    def _log_variance(self, shape: tuple[int, ...], device: str) -> Tensor:
        """Variance of ln θ of each element over all chips."""
        import torch

        from neurosim.devices.subthreshold.fields import gradient_shape

        die, slope = self._die_and_slope
        variance = torch.zeros(shape, dtype=torch.float64, device=device)
        for log_std in self._log_stds.values():
            variance = variance + log_std**2 + die**2
        if slope:
            x, y = gradient_shape(shape, device)
            variance = variance + slope**2 * (x**2 + y**2)
        return variance

    def cv(self, shape: tuple[int, ...]) -> float:
        """Relative standard deviation over the elements of a parameter and over chips, of the relative parts.

        >>> round(Spread(distribution="lognormal", relative_std=0.2, die_std=0.1).cv((256,)), 4)
        0.2245
        """
        if self.distribution != "lognormal":
            return self.relative_std
        return float(self._log_variance(shape, "cpu").expm1().mean().sqrt())

    def _unit(self, draws: Draws, effect: str, shape: tuple[int, ...]) -> Tensor:
        """Draws of mean 0 and standard deviation 1, (chips, \\*shape): uniform, or else normal."""
        if self.distribution == "uniform":
            return (draws.uniform(effect, shape) - 0.5) * math.sqrt(12.0)
        return draws.normal(effect, shape)

    def in_words(self) -> str:
        """The spread for tables.

        >>> Spread(relative_std=0.1, absolute_std=0.02).in_words()
        'normal, standard deviation 10 % of the value and 0.02'
        """
        parts = [f"{percent(self.local_std)} of the value"] if self.local_std else []
        parts += [f"{self.absolute_std:g}"] if self.absolute_std else []
        words = f"{self.distribution}, standard deviation {' and '.join(parts) or '0'}"
        if self.transistors:
            each = (
                f"{'1/' if s < 0 else ''}{name} {percent(math.sqrt(math.expm1(s**2)))}"
                for name, s in self.transistors.items()
            )
            words += f" ({', '.join(each)})"
        for std, of in ((self.die_std, "from chip to chip"), (self.gradient_std, "at the edges, a gradient")):
            words += f", {percent(std)} {of}" if std else ""
        words += f", times {self.factor:.4g}" if self.factor != 1.0 else ""
        return f"{words}; {self.origin}" if self.origin else words


_ALWAYS = ("distribution", "relative_std", "absolute_std")  # what descriptions of spreads always say
