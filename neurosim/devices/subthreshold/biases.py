"""The generator of bias currents that the neurons of a core share: a coarse and a fine digital code each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neurosim.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

_PICO = 1e-12


@dataclass(frozen=True)
class BiasGenerator:
    r"""Currents that a chip can make, one for each pair of codes.

    Each coarse code c has a full scale F_c and a leakage L_c.  Its fine code f of B bits switches branches
    whose widths are doubled from bit to bit; the ``len(steps)`` upper ones are off, so that the current
    moves by ``steps`` (in steps of the fine code, mean size) where each first comes on instead of by +1::

        w_b = 2^b·u                    for the lower bits
        w_b = Σ_{k<b} w_k + step_b     for the upper bits             u such that Σ w_b = 2^B − 1
        I(c, f) = L_c + (F_c − L_c)·Σ_b f_b·w_b·(1 + ζ·n_b/√2^b)/(2^B − 1)

    A negative step makes the current fall where the code rises: the converter is not monotone.  n_b ~ N(0,
    1) once per chip, branch and coarse code, with ζ = ``unit_std`` of the smallest branch (Pelgrom: 2^b
    times the area).  All neurons of a core share the current; each copies it with its own mismatch.

    Attributes:
        full_ampere: F_c of every coarse code.
        leak_ampere: L_c.
        steps: of each coarse code, the steps at its upper bits, from the lowest of them on.
        fine_bits: B.
        unit_std: ζ.

    Raises:
        UsageError: lists of different lengths, or currents that are not positive.

    >>> ideal = BiasGenerator(full_ampere=(255e-12,), leak_ampere=(0.0,), steps=((),))
    >>> ideal.codes(20.2e-12), f"{ideal.nearest(20.2e-12):.3g}"
    ((0, 20), '2e-11')
    """

    full_ampere: tuple[float, ...]
    leak_ampere: tuple[float, ...]
    steps: tuple[tuple[float, ...], ...]
    fine_bits: int = 8
    unit_std: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.full_ampere) == len(self.leak_ampere) == len(self.steps) > 0:
            raise UsageError(
                "expected full_ampere, leak_ampere and steps of every coarse code; got "
                f"{len(self.full_ampere)}, {len(self.leak_ampere)} and {len(self.steps)}"
            )
        if not all(0 <= leak < full for leak, full in zip(self.leak_ampere, self.full_ampere, strict=True)):
            raise UsageError(
                "expected 0 <= leak_ampere < full_ampere; got "
                f"leak_ampere={self.leak_ampere!r}, full_ampere={self.full_ampere!r}"
            )

    def table(self, draws: Draws | None = None) -> Tensor:
        """I(c, f) in ampere, (chips, coarse codes, 2^B), float64; without ``draws`` as designed.

        Args:
            draws: of a core: "bias branches".

        >>> DYNAP_SE2.table().shape
        torch.Size([1, 6, 256])
        """
        import torch

        widths = torch.tensor([self._widths(steps) for steps in self.steps], dtype=torch.float64).unsqueeze(0)
        if draws is not None and self.unit_std:
            size = torch.tensor([2.0**-b for b in range(self.fine_bits)], dtype=torch.float64).sqrt()
            n = draws.normal("bias branches", tuple(widths.shape[1:])).double().cpu()
            widths = widths * (1.0 + self.unit_std * size * n)
        code = torch.arange(2**self.fine_bits)
        bits = torch.stack([(code >> b) & 1 for b in range(self.fine_bits)]).double()
        full, leak = (
            torch.tensor(one, dtype=torch.float64)[:, None] for one in (self.full_ampere, self.leak_ampere)
        )
        return leak + (full - leak) * (widths @ bits) / (2**self.fine_bits - 1)

    def codes(self, ampere: float, draws: Draws | None = None) -> tuple[int, int]:
        """(coarse, fine) of the current nearest to ``ampere`` on the first chip, in ratio.

        Raises:
            UsageError: a current that is not positive and finite.
        """
        if not 0 < ampere < math.inf:
            raise UsageError(f"expected a current of more than 0 ampere; got {ampere!r}")
        table = self.table(draws)[0]
        off = (table.clamp(min=1e-30).log() - math.log(ampere)).abs()
        coarse, fine = divmod(int(off.argmin()), table.shape[1])
        return coarse, fine

    def nearest(self, ampere: float, draws: Draws | None = None) -> float:
        """The current of :meth:`codes`."""
        coarse, fine = self.codes(ampere, draws)
        return float(self.table(draws)[0, coarse, fine])

    def quantise(self, ampere: Tensor) -> Tensor:
        """Currents that the generator as designed makes, nearest in ratio; gradients pass straight through.

        Args:
            ampere: (\\*shape), positive.

        >>> import torch
        >>> wanted = torch.tensor([5.5e-12, 1e-9])
        >>> [f"{float(i):.3g}" for i in DYNAP_SE2.quantise(wanted)]
        ['5.51e-12', '9.92e-10']
        """
        import torch

        known = self.table()[0].flatten().sort().values.to(ampere)
        log, wanted = known.clamp(min=1e-30).log(), ampere.detach().clamp(min=1e-30).log()
        above = torch.searchsorted(log, wanted.contiguous()).clamp(1, len(log) - 1)
        lower = (wanted - log[above - 1]).abs() <= (log[above] - wanted).abs()
        made = torch.where(lower, known[above - 1], known[above])
        return ampere + (made - ampere).detach()

    def _widths(self, steps: tuple[float, ...]) -> list[float]:
        """w_b of one coarse code: linear in u, which makes their sum 2^B − 1."""
        lower = self.fine_bits - len(steps)
        scale, offset = [2.0**b for b in range(lower)], [0.0] * lower
        for step in steps:
            scale.append(sum(scale))
            offset.append(sum(offset) + step)
        u = (2**self.fine_bits - 1 - sum(offset)) / sum(scale)
        return [s * u + o for s, o in zip(scale, offset, strict=True)]


DYNAP_SE2 = BiasGenerator(
    full_ampere=(71.77 * _PICO, 572.8 * _PICO, 4.568e-9, 36.42e-9, 290.4e-9, 2.276e-6),
    leak_ampere=(0.494 * _PICO, 0.935 * _PICO, 1.06 * _PICO, 1.08 * _PICO, 1.08 * _PICO, 1.08 * _PICO),
    steps=(
        (-0.12, -1.28, -3.62), (-0.10, -1.40, -4.04), (-0.28, -1.88, -5.22),
        (-0.70, -2.82, -7.19), (-1.18, -3.39, -6.92), (-0.51, -0.94, -0.41),
    ),
)  # fmt: skip
"""6 coarse codes of 256 fine ones, 0.5 pA to 2.3 µA, n-channel; it falls seven times in every range.

Full scales, leakages and steps as read off the currents that rockpool 3 lists for DYNAP-SE2
(lookup/paramgen.py), within 0.6 % of them at half of each range; scale factors of single biases are left out.
The list is of one generator; how much chips differ was not found published.
"""
