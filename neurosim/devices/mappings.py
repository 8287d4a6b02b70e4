"""How a weight lies on devices: pairs, offset columns, bit slices, significance pairs.

A weight is first a fraction x of full scale, −1 to 1 (:func:`neurosim.devices.mapping.to_fractions`).  A
mapping says which devices hold it, as planes of devices that each have the shape of the weight, and how what
they deliver makes the weight again::

    x = Σ_s d_s·(Σ_n a_n·m_sn) − offset        m = (g₊ − g₋)/(g_max − g_min), or g/(g_max − g_min) alone

The inner sum is one of currents on a bit line; slices s are digitised each on its own and then added with
weights d_s.  One row of :data:`MAPPINGS` a mapping.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neurosim.devices.device import Device
from neurosim.devices.hardware import Array


@dataclass(frozen=True)
class Mapping(ABC):
    """Where the devices of a weight are and how they are added.

    Attributes:
        digital: d, weight of each slice, which is digitised on its own.
        analog: a, weight of each plane of a slice, summed as currents.
        offset: what is taken off the digital sum, in fractions of full scale per unit of input.
        reference: whether the offset is that of a column of devices on each tile, digitised like any other,
            and not a number.
        legs: devices that one entry of a plane has, 2 (a pair) or 1.
        closed_loop: whether a plane's target depends on what the planes before it have become.
    """

    digital: tuple[float, ...] = (1.0,)
    analog: tuple[float, ...] = (1.0,)
    offset: float = 0.0
    reference: bool = False
    legs: int = 2
    closed_loop: bool = False

    @property
    def plain(self) -> bool:
        """Whether a single plane of one-sided pairs is all there is: the layout with fused kernels."""
        return False

    @property
    def planes(self) -> int:
        """Planes of devices, over all slices."""
        return len(self.digital) * len(self.analog)

    @abstractmethod
    def fractions(self, x: Tensor) -> list[Tensor]:
        """What the planes of each slice should hold, for weights x as fractions of full scale."""

    @abstractmethod
    def targets(self, fraction: Tensor, device: Device) -> list[Tensor]:
        """Target conductances of the legs of a plane that should hold ``fraction``, in siemens."""

    def held(self, legs: Sequence[Tensor], device: Device) -> Tensor:
        """m of a plane, from conductances of its legs."""
        inverse = 1.0 / (device.g_max_siemens - device.g_min_siemens)
        return (legs[0] - legs[1]) * inverse if self.legs == 2 else legs[0] * inverse

    def value(self, slices: Sequence[Tensor]) -> Tensor:
        """x, from what the slices deliver."""
        total = sum(m if d == 1.0 else m * d for d, m in zip(self.digital, slices, strict=True))
        assert isinstance(total, Tensor)
        return total if self.offset == 0.0 else total - self.offset


@dataclass(frozen=True)
class OneSidedPair(Mapping):
    """One leg carries the weight, the other rests at ``g_min``.

        g± = g_min + (g_max − g_min)·max(±x, 0)

    >>> from neurosim.devices import Ideal
    >>> plus, minus = OneSidedPair().targets(torch.tensor([-0.5]), Ideal())
    >>> plus.tolist(), (minus * 1e6).tolist()
    ([0.0], [12.5])
    """

    @property
    def plain(self) -> bool:
        return type(self) is OneSidedPair

    def fractions(self, x: Tensor) -> list[Tensor]:
        return [x]

    def targets(self, fraction: Tensor, device: Device) -> list[Tensor]:
        low, span = _range(device)
        zero = fraction.new_zeros(())
        # torch.maximum and not clamp: at a tie it shares the gradient, clamp would give both legs all of it
        return [low + span * torch.maximum(one, zero) for one in (fraction, -fraction)]


@dataclass(frozen=True)
class TwoSidedPair(Mapping):
    """Both legs move, about the middle of the range: a zero is two equal conductances.

        g± = g_mid ± (g_max − g_min)·x/2

    >>> from neurosim.devices import Ideal
    >>> [round(leg.item() * 1e6, 3) for leg in TwoSidedPair().targets(torch.tensor([-0.5]), Ideal())]
    [6.25, 18.75]
    """

    def fractions(self, x: Tensor) -> list[Tensor]:
        return [x]

    def targets(self, fraction: Tensor, device: Device) -> list[Tensor]:
        low, span = _range(device)
        # from the low end, so that ±1 are the ends of the range to the bit
        return [low + span * (0.5 * (1.0 + one)) for one in (fraction, -fraction)]


@dataclass(frozen=True)
class OffsetColumn(Mapping):
    """One device a weight, and what the middle of the range would deliver is taken off.

        g = g_mid + (g_max − g_min)·x/2        x = 2·(g − g_mid)/(g_max − g_min)

    The offset is a number, g_mid times the sum of the inputs, subtracted after the ADC (``offset-column``);
    or a column of devices at g_mid on each tile, with their own errors, digitised and then subtracted
    (``unit-column``).

    >>> from neurosim.devices import Ideal
    >>> round(OffsetColumn().targets(torch.tensor([-0.5]), Ideal())[0].item() * 1e6, 3)
    6.25
    """

    def fractions(self, x: Tensor) -> list[Tensor]:
        return [x]

    def targets(self, fraction: Tensor, device: Device) -> list[Tensor]:
        low, span = _range(device)
        return [low + span * (0.5 * (1.0 + fraction))]


@dataclass(frozen=True)
class BitSliced(OneSidedPair):
    """The digits of |x| in a number system, one pair a digit, the most significant first.

        |x| → Σ_s digit_s·R^(S−1−s)/(R^S − 1)        each pair holds ±digit_s/(R − 1)

    The weight is rounded to R^S − 1 steps; each slice lies in arrays of its own and is digitised on its own.
    The gradient is straight through the rounding.

    Attributes:
        radix: R, number of levels of a device.

    >>> sliced = bit_sliced(3, 2)
    >>> [m.item() for m in sliced.fractions(torch.tensor(-5 / 7))], [round(7 * d) for d in sliced.digital]
    ([-1.0, -0.0, -1.0], [4, 2, 1])
    """

    radix: int = 2

    def fractions(self, x: Tensor) -> list[Tensor]:
        slices, magnitude, sign = len(self.digital), x.detach().abs(), torch.sign(x.detach())
        code = (magnitude * float(self.radix**slices - 1)).round_()
        found = []
        for s in range(slices):
            place = float(self.radix ** (slices - 1 - s))
            digit = torch.div(code, place, rounding_mode="floor")
            code = code - digit * place
            found.append(sign * digit * (1.0 / (self.radix - 1)))
        # the weights d add up to 1: with a slope of 1 each, the whole has a slope of 1
        return [m + (x - x.detach()) for m in found] if x.requires_grad else found


@dataclass(frozen=True)
class SignificancePairs(OneSidedPair):
    """Several pairs a weight, currents added with falling significance F^(−n).

        x = Σ_n a_n·m_n        a_n = F^(−n)/Σ F^(−n)

    Open loop, every pair holds x: errors average.  Closed loop, each pair is written after the ones before it
    were read, and holds what they left open, as far as it reaches (Mackin et al. 2022,
    doi:10.1038/s41467-022-31405-1)::

        m_n ← clip((x − Σ_{k<n} a_k·m_k)/Σ_{k≥n} a_k, −1, 1)

    >>> [round(a, 3) for a in significance_pairs(2, 3.0, False).analog]
    [0.75, 0.25]
    """

    def fractions(self, x: Tensor) -> list[Tensor]:
        return [x]

    def rest(self, x: Tensor, before: Sequence[Tensor]) -> Tensor:
        """What the next pair should hold, after pairs that have become ``before``."""
        done = sum(a * m for a, m in zip(self.analog, before, strict=False))
        left = sum(self.analog[len(before) :])
        return ((x - done) * (1.0 / left)).clamp(-1.0, 1.0)


def bit_sliced(slices: int, radix: int) -> BitSliced:
    """Of ``slices`` digits with ``radix`` levels each."""
    steps = radix**slices - 1
    digital = tuple((radix - 1) * radix ** (slices - 1 - s) / steps for s in range(slices))
    return BitSliced(digital=digital, radix=radix)


def significance_pairs(pairs: int, significance: float, closed_loop: bool) -> SignificancePairs:
    """Of ``pairs`` pairs, each ``significance`` times less than the one before."""
    shares = [significance**-n for n in range(pairs)]
    return SignificancePairs(analog=tuple(s / sum(shares) for s in shares), closed_loop=closed_loop)


def _offset(device: Device, reference: bool) -> OffsetColumn:
    low, high = device.g_min_siemens, device.g_max_siemens
    return OffsetColumn(digital=(2.0,), offset=(low + high) / (high - low), reference=reference, legs=1)


MAPPINGS: dict[str, Callable[[Array, Device], Mapping]] = {
    "differential-pair": lambda array, device: OneSidedPair(),
    "two-sided-pair": lambda array, device: TwoSidedPair(),
    "offset-column": lambda array, device: _offset(device, reference=False),
    "unit-column": lambda array, device: _offset(device, reference=True),
    "bit-sliced": lambda array, device: bit_sliced(array.slices, array.radix),
    "significance-pairs": lambda array, device: significance_pairs(
        array.pairs, array.significance, array.pair_programming == "closed-loop"
    ),
}
"""Every way to lay weights on devices, by the name that ``array.mapping`` takes."""


def mapping_of(array: Array, device: Device) -> Mapping:
    """The mapping of a description.

    >>> from neurosim.devices import Ideal
    >>> mapping_of(Array(), Ideal()).plain
    True
    """
    return MAPPINGS[array.mapping](array, device)


def _range(device: Device) -> tuple[float, float]:
    return device.g_min_siemens, device.g_max_siemens - device.g_min_siemens
