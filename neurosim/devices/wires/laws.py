"""Current-voltage laws of devices that are not linear: i(v; g), g the device's conductance.

A law is a frozen dataclass of its constants with two pure tensor functions, ``current`` and ``slope``; v and
g broadcast.  Every law here vanishes at v = 0 and rises strictly with v where g > 0, so that a crossbar of
such devices has exactly one state; :mod:`neurosim.devices.wires.nonlinear` finds it.  An open device (g = 0)
carries nothing and has no slope.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from neurosim.errors import UsageError, unknown

# sinh continues as its tangent from this multiple of v0 on: float32 ends at 88
_STEEPEST = 40.0
_ROOT_STEPS = 60


class Law(ABC):
    """One current-voltage law, of any tensors v in volt and g in siemens that broadcast.

    Attributes:
        odd: whether i(−v) = −i(v).
    """

    odd: ClassVar[bool] = True

    @abstractmethod
    def current(self, v_volt: Tensor, g_siemens: Tensor) -> Tensor:
        """i(v; g) in ampere."""

    @abstractmethod
    def slope(self, v_volt: Tensor, g_siemens: Tensor) -> Tensor:
        """∂i/∂v in siemens, more than 0 where g is."""

    def both(self, v_volt: Tensor, g_siemens: Tensor) -> tuple[Tensor, Tensor]:
        """Current and slope, for laws that find them together."""
        return self.current(v_volt, g_siemens), self.slope(v_volt, g_siemens)


@dataclass(frozen=True)
class Linear(Law):
    """i = g·v.

    >>> Linear().current(torch.tensor([0.5, -2.0]), torch.tensor(0.25)).tolist()
    [0.125, -0.5]
    """

    def current(self, v_volt: Tensor, g_siemens: Tensor) -> Tensor:
        return g_siemens * v_volt

    def slope(self, v_volt: Tensor, g_siemens: Tensor) -> Tensor:
        return g_siemens.expand(torch.broadcast_shapes(v_volt.shape, g_siemens.shape))


class _Polynomial(Law):
    """i = g·(v + a1·v² + a2·v³) for |v| ≤ v_limit; beyond, the tangent at that end."""

    @abstractmethod
    def _coefficients(self, g: Tensor) -> tuple[Tensor | float, Tensor | float, float]:
        """a1 in 1/V, a2 in 1/V², v_limit in V."""

    def both(self, v_volt: Tensor, g_siemens: Tensor) -> tuple[Tensor, Tensor]:
        a1, a2, limit = self._coefficients(g_siemens)
        v = v_volt.clamp(-limit, limit)
        slope = g_siemens * (1.0 + v * (2.0 * a1 + 3.0 * a2 * v))
        inside = g_siemens * v * (1.0 + v * (a1 + a2 * v))
        return inside + slope * (v_volt - v), slope

    def current(self, v_volt: Tensor, g_siemens: Tensor) -> Tensor:
        return self.both(v_volt, g_siemens)[0]

    def slope(self, v_volt: Tensor, g_siemens: Tensor) -> Tensor:
        return self.both(v_volt, g_siemens)[1]


@dataclass(frozen=True)
class Cubic(_Polynomial):
    """i = g·(v + a1·v² + a2·v³) for |v| ≤ v_limit; beyond, the tangent at that end.

    The general form of a fit of a measured curve; the default constants are an illustration (twice the
    low-field conductance at 1 V, odd), not a device.

    Args:
        a1_per_volt: the even term; 0 makes the law odd.
        a2_per_volt2: the cubic term.
        v_limit_volt: where the fit ends.

    Raises:
        UsageError: where the current would fall with the voltage somewhere within ±v_limit.

    >>> volts = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    >>> Cubic(a2_per_volt2=1.0).current(volts, torch.tensor(1e-4, dtype=torch.float64)).mul(1e6).tolist()
    [62.5, 200.0, 600.0]
    """

    a1_per_volt: float = 0.0
    a2_per_volt2: float = 1.0
    v_limit_volt: float = 1.0

    def __post_init__(self) -> None:
        _check("v_limit_volt", self.v_limit_volt, least=0.0, open_end=True)
        for name in ("a1_per_volt", "a2_per_volt2"):
            _check(name, getattr(self, name))
        lowest = min(1.0 + v * (2.0 * self.a1_per_volt + 3.0 * self.a2_per_volt2 * v) for v in self._turns())
        if lowest <= 0.0:
            raise UsageError(
                f"expected a current that rises within ±v_limit_volt={self.v_limit_volt:g}; with "
                f"a1_per_volt={self.a1_per_volt:g} and a2_per_volt2={self.a2_per_volt2:g} "
                f"its slope falls to {lowest:.3g} of g"
            )

    def _turns(self) -> list[float]:
        """Where the slope may be lowest."""
        ends = [-self.v_limit_volt, self.v_limit_volt]
        if self.a2_per_volt2 > 0.0:
            turn = -self.a1_per_volt / (3.0 * self.a2_per_volt2)
            ends += [turn] if abs(turn) < self.v_limit_volt else []
        return ends

    @property
    def odd(self) -> bool:  # type: ignore[override]
        return self.a1_per_volt == 0.0

    def _coefficients(self, g: Tensor) -> tuple[float, float, float]:
        return self.a1_per_volt, self.a2_per_volt2, self.v_limit_volt


@dataclass(frozen=True)
class MiloRram(_Polynomial):
    """HfO2 RRAM: i = G·v + N2(G)·v² + N3(G)·v³ for |v| ≤ 0.5 V; beyond, the tangent at that end.

    With x = log10(G / 1 S)::

        N2 = 0.0001388·x³ + 0.001541·x² + 0.005711·x + 0.007063      (A/V²)
        N3 = 8.8710e-5·x² + 6.7919e-4·x + 1.2968e-3                  (A/V³)

    Measured curves: V. Milo et al., "Optimized programming algorithms for multilevel RRAM in hardware neural
    networks", IRPS 2021, fig. 1, doi:10.1109/IRPS46558.2021.9405119.  Form and digits are those of Sandia's
    CrossSim (``simulator/devices/custom/RRAM_Milo.py``), which fitted four states from 62.5 to 110 µS of that
    figure and supposed N2 = N3 = 0 at 225 µS: from 110 to 225 µS it rests on that supposition, and from 50 to
    62.5 µS it extrapolates.  Outside 50 … 225 µS, N2/G and N3/G stay what they are at the nearer end (ours;
    CrossSim refuses).  The even term makes it asymmetric.

    >>> g = torch.tensor([62.5e-6, 110e-6], dtype=torch.float64)
    >>> forth, back = (MiloRram().current(torch.full_like(g, v), g) / g for v in (0.5, -0.5))
    >>> forth.numpy().round(4), back.numpy().round(4)
    (array([0.4233, 0.4832]), array([-0.614 , -0.5129]))
    """

    odd: ClassVar[bool] = False
    g_range_siemens: ClassVar[tuple[float, float]] = (50e-6, 225e-6)
    v_limit_volt: ClassVar[float] = 0.5

    def _coefficients(self, g: Tensor) -> tuple[Tensor, Tensor, float]:
        inside = g.to(torch.float64).clamp(*self.g_range_siemens)  # the digits cancel
        x = inside.log10()
        n2 = ((0.0001388 * x + 0.001541) * x + 0.005711) * x + 0.007063
        n3 = (8.8710e-5 * x + 6.7919e-4) * x + 1.2968e-3
        return (n2 / inside).to(g.dtype), (n3 / inside).to(g.dtype), self.v_limit_volt


@dataclass(frozen=True)
class Sinh(Law):
    """i = g·v0·sinh(v/v0): hopping and tunnelling through a thin oxide; linear where |v| ≪ v0.

    The default is that of MemTorch's data-driven ReRAM model, i = 0.24·G·sinh(3·V) (its
    ``memtorch/bh/memristor/Data_Driven.py``, after I. Messaris et al., "A data-driven Verilog-A ReRAM model",
    https://eprints.soton.ac.uk/411693/): v0 = 1/3 V and g = 0.72·G, for its G is not the low-field
    conductance.

    Beyond |v| = 40·v0, where no device lives, the law goes on as its tangent, so that nothing overflows.

    >>> g = torch.tensor(1e-4, dtype=torch.float64)
    >>> print(f"{Sinh().current(torch.tensor(1.0, dtype=torch.float64), g).item() * 1e6:.1f} µA")
    333.9 µA
    """

    v0_volt: float = 1.0 / 3.0

    def __post_init__(self) -> None:
        _check("v0_volt", self.v0_volt, least=0.0, open_end=True)

    def current(self, v_volt: Tensor, g_siemens: Tensor) -> Tensor:
        u = v_volt / self.v0_volt
        inside = u.clamp(-_STEEPEST, _STEEPEST)
        return g_siemens * (self.v0_volt * (inside.sinh() + inside.cosh() * (u - inside)))

    def slope(self, v_volt: Tensor, g_siemens: Tensor) -> Tensor:
        return g_siemens * (v_volt / self.v0_volt).clamp(-_STEEPEST, _STEEPEST).cosh()


@dataclass(frozen=True)
class Selector(Law):
    """A memory device, g, in series with a symmetric exponential selector (1S1R).

    The voltage y of the selector solves::

        g·(v − y) = i0·sinh(y/v0)

    It is convex in y > 0 and starts above the root, at min(v, v0·asinh(g·v/i0)), so that Newton's method
    falls to the root from there; it stops at rounding.  At |v| ≪ v0 the cell conducts g in series with i0/v0.

    The form is that of bipolar selectors governed by a barrier, e.g. J.-J. Huang et al., "Bipolar nonlinear
    Ni/TiO2/Ni selector for 1S1R crossbar array applications", IEEE Electron Device Lett. 32(10), 1427–1429,
    2011; the default constants are an illustration (80 times less current at half of 1 V), not that device.

    Args:
        i0_ampere, v0_volt: of the selector.

    >>> g = torch.tensor(1e-4, dtype=torch.float64)
    >>> full, half = (Selector().current(torch.tensor(v, dtype=torch.float64), g).item() for v in (1.0, 0.5))
    >>> print(f"{full * 1e6:.2f} µA, {full / half:.0f} times that at half")
    6.03 µA, 82 times that at half
    """

    i0_ampere: float = 1e-9
    v0_volt: float = 0.1

    def __post_init__(self) -> None:
        _check("i0_ampere", self.i0_ampere, least=0.0, open_end=True)
        _check("v0_volt", self.v0_volt, least=0.0, open_end=True)

    def both(self, v_volt: Tensor, g_siemens: Tensor) -> tuple[Tensor, Tensor]:
        volts, g = torch.broadcast_tensors(v_volt, g_siemens)
        v = volts.abs() / self.v0_volt  # in units of v0 and i0 from here
        g_unit = self.i0_ampere / self.v0_volt
        ratio = g / g_unit
        y = self._selector(v, ratio)
        # of two ways to the same current, the one that does not subtract near-equal numbers
        current = torch.where(v - y < 1.0, y.sinh(), ratio * (v - y)) * (g > 0)
        inner = y.cosh()
        slope = ratio * (inner / (ratio + inner))
        return current * self.i0_ampere * volts.sign(), slope * g_unit

    @staticmethod
    def _selector(v: Tensor, ratio: Tensor) -> Tensor:
        """y ≥ 0 with ratio·(v − y) = sinh y."""
        y = torch.minimum(v, (ratio * v).asinh())
        enough = 4.0 * torch.finfo(v.dtype).eps
        for _ in range(_ROOT_STEPS):
            step = (y.sinh() - ratio * (v - y)) / (y.cosh() + ratio)
            moves = step.abs() > enough * y
            if not bool(moves.any()):
                break
            # what has arrived stays, so that no device depends on its neighbours
            y = torch.where(moves, (y - step).clamp_min(0.0), y)
        return y

    def current(self, v_volt: Tensor, g_siemens: Tensor) -> Tensor:
        return self.both(v_volt, g_siemens)[0]

    def slope(self, v_volt: Tensor, g_siemens: Tensor) -> Tensor:
        return self.both(v_volt, g_siemens)[1]


@dataclass(frozen=True)
class OneTransistor(Law):
    """A memory device, g, in series with a square-law transistor (1T1R), seen as one device of two terminals.

    The voltage y of the transistor and its current, with overdrive V = V_G − V_T and g_o = λ·β·V²/2::

        y ≤ V (triode):      i = β·(V − y/2)·y + g_o·y
        y > V (saturation):  i = β·V²/2 + g_o·y                  = g·(v − y)

    so y is the root of a quadratic in triode, of a linear equation in saturation.  Assumptions: the source of
    the transistor is on the bit line, and its overdrive counts from there as if it were at 0 V (right while
    the bit line's own voltage is small against V); the law is continued oddly to v < 0, where in a real
    transistor source and drain change places; the body effect is left out; g_o, there for a slope above 0 in
    saturation, is that of level 1 in saturation, where level 1 multiplies the triode current by 1 + λ·y.

    Source: H. Shichman & D. A. Hodges, "Modeling and simulation of insulated-gate field-effect transistor
    switching circuits", IEEE J. Solid-State Circuits 3(3), 285–289, 1968, doi:10.1109/JSSC.1968.1049902
    (SPICE level 1).  The default constants are an illustration.

    Args:
        beta_ampere_per_volt2: β, transconductance parameter times width over length.
        overdrive_volt: V.
        lambda_per_volt: λ, more than 0.

    >>> law = OneTransistor(beta_ampere_per_volt2=1e-3, overdrive_volt=0.5, lambda_per_volt=1e-6)
    >>> volts = torch.tensor([0.1, 0.3, 3.0], dtype=torch.float64)
    >>> (law.current(volts, torch.tensor(1e-3, dtype=torch.float64)) * 1e6).numpy().round(2)
    array([ 31.78,  84.52, 125.  ])
    """

    beta_ampere_per_volt2: float = 1e-3
    overdrive_volt: float = 1.0
    lambda_per_volt: float = 0.01

    def __post_init__(self) -> None:
        for name in ("beta_ampere_per_volt2", "overdrive_volt", "lambda_per_volt"):
            _check(name, getattr(self, name), least=0.0, open_end=True)

    def _transistor(self, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Current and slope di/dy of the transistor, for v ≥ 0."""
        beta, over = self.beta_ampere_per_volt2, self.overdrive_volt
        flat = 0.5 * beta * over * over
        out = self.lambda_per_volt * flat
        b = beta * over + out + g
        root = (b * b - 2.0 * beta * g * v).clamp_min(0.0).sqrt()
        triode = torch.minimum(2.0 * g * v / (b + root), torch.full_like(v, over))
        saturated = g * (v - over) > flat + out * over
        y = torch.where(saturated, (g * v - flat) / (g + out), triode)
        current = torch.where(saturated, flat + out * y, (beta * (over - 0.5 * triode) + out) * triode)
        return current, torch.where(saturated, torch.zeros_like(v), beta * (over - triode)) + out

    def both(self, v_volt: Tensor, g_siemens: Tensor) -> tuple[Tensor, Tensor]:
        volts, g = torch.broadcast_tensors(v_volt, g_siemens)
        current, inner = self._transistor(volts.abs(), g)
        return current * volts.sign(), g * (inner / (g + inner))

    def current(self, v_volt: Tensor, g_siemens: Tensor) -> Tensor:
        return self.both(v_volt, g_siemens)[0]

    def slope(self, v_volt: Tensor, g_siemens: Tensor) -> Tensor:
        return self.both(v_volt, g_siemens)[1]


LINEAR = Linear()

# the name of each law → its class; every class works with its defaults
LAWS: dict[str, type[Law]] = {
    "linear": Linear,
    "cubic": Cubic,
    "milo-rram": MiloRram,
    "sinh": Sinh,
    "selector": Selector,
    "1T1R": OneTransistor,
}


def law_from(text: str) -> Law:
    """A law by name, with constants if need be: ``"sinh"``, ``"sinh(v0_volt=0.25)"``.

    Raises:
        UsageError: another form, an unknown law or constant, or a constant that the law refuses.

    >>> law_from("sinh(v0_volt=0.25)")
    Sinh(v0_volt=0.25)
    >>> law_from("sine")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    neurosim.errors.UsageError: unknown law 'sine': did you mean 'sinh'? (known: ...)
    """
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\(([^()]*)\))?\s*", text)
    if match is None:
        raise UsageError(f"expected a law such as 'sinh' or 'sinh(v0_volt=0.25)'; got {text!r}")
    name, constants = match[1], [part.strip() for part in (match[2] or "").split(",") if part.strip()]
    if name not in LAWS:
        raise unknown("law", name, LAWS)
    known = [field.name for field in fields(LAWS[name])]  # type: ignore[arg-type]
    values = {}
    for constant in constants:
        key, _, value = (part.strip() for part in constant.partition("="))
        if key not in known:
            raise unknown(f"constant of law {name!r}", key, known)
        try:
            values[key] = float(value)
        except ValueError:
            raise UsageError(f"expected a number for {key} of law {name!r}; got {value!r}") from None
    return LAWS[name](**values)


def _check(name: str, value: float, least: float = -math.inf, open_end: bool = False) -> None:
    """UsageError unless it is a finite number above (or at) ``least``."""
    number = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    if not number or value < least or (open_end and value == least):
        bound = f" {'above' if open_end else 'of at least'} {least:g}" if least > -math.inf else ""
        raise UsageError(f"expected a finite number{bound}; got {name}={value!r}")
