"""How a parameter that no crossbar holds differs from chip to chip: time constants, thresholds, gains."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from neurosim.devices.device import Frozen, Real, percent
from neurosim.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws


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

    Attributes:
        distribution: one of the three above.
        relative_std: standard deviation as a fraction of the value.
        absolute_std: standard deviation in units of the parameter; not with ``"lognormal"``, which scales.

    Raises:
        UsageError: a number out of bounds, or an absolute part of a lognormal.

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

    @model_validator(mode="after")
    def _possible(self) -> Spread:
        if self.distribution == "lognormal" and self.absolute_std:
            raise ValueError(
                "expected absolute_std = 0 with distribution 'lognormal', which scales a parameter; "
                f"got absolute_std={self.absolute_std!r}"
            )
        return self

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return self.relative_std > 0 or self.absolute_std > 0

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
        if self.relative_std > 0:
            sampled = sampled * self._factor(draws, shape).to(wide)
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
        parts = [f"{percent(self.relative_std)} of the value"] if self.relative_std else []
        parts += [f"{self.absolute_std:g}"] if self.absolute_std else []
        return f"{self.distribution}, standard deviation {' and '.join(parts) or '0'}"
