r"""Resistance of one wire segment, one cell long, from the geometry and the metal of the wire.

A wire of conducting width w and height h, in metres, at temperature T in kelvin::

    ρ  = ρ_b·{ 1/f(α) + [F(w/λ) − 1] + [F(h/λ) − 1] }                    Ω·m
    ρ_b = ρ_300·[1 + a·(T − 300 K)]                                       bulk, phonons
    λ  = (ρλ)/ρ_b                                                         mean free path, m
    f(α) = 1 − 3α/2 + 3α² − 3α³·ln(1 + 1/α),   α = (λ/d)·R/(1 − R)        grain boundaries
    1/F(κ) = 1 − (3/2κ)(1 − p)∫₀¹(u − u³)·(1 − e^(−κ/u))/(1 − p·e^(−κ/u)) du      surfaces

p is the share of electrons that a surface reflects specularly, R the share that a grain boundary reflects,
d = min(w, h) the grain size.  The product ρλ is a constant of the metal: temperature changes ρ_b and λ
together, so the surface and boundary terms hardly depend on it.

The increments of the three mechanisms add (Matthiessen).  Those of the two pairs of walls add to within
0.5 % of the exact solution for a rectangular wire (R. G. Chambers, Proc. R. Soc. Lond. A 202, 378 (1950),
doi:10.1098/rspa.1950.0107) when w, h ≥ λ, and 3 % when w, h ≥ λ/2.

Sources of the equations and of the rule for d:

* F: K. Fuchs, Proc. Cambridge Philos. Soc. 34, 100 (1938), doi:10.1017/S0305004100019952; E. H. Sondheimer,
  Adv. Phys. 1, 1 (1952), doi:10.1080/00018735200101151;
* f: A. F. Mayadas & M. Shatzkes, Phys. Rev. B 1, 1382 (1970), doi:10.1103/PhysRevB.1.1382;
* their sum, and d = min(w, h), for copper wires 40 to 800 nm wide: W. Steinhögl et al., Phys. Rev. B 66,
  075414 (2002), doi:10.1103/PhysRevB.66.075414;
* ρλ: D. Gall, J. Appl. Phys. 119, 085101 (2016), doi:10.1063/1.4942216.

How far to trust it.  Measurements of lines tell R and d only together, and p hardly at all; all three
change with the process, and published resistances of the same line differ by a factor of two.  The copper
below gives 9 to 22 % less than the lines of Steinhögl (which count 5 to 10 % of barrier as copper); its
segments are 1.1 to 1.7 times those of NeuroSim V1.4, and from 22 nm down 0.7 to 0.9 times those of imec's fit
(I. Ciofi et al., IEEE Trans. Electron Devices, 2016).  Where that matters, measure, or give a ``Metal`` of
your own.  Vias, contacts, the conduction of the barrier, tapered and rough lines, voids and self-heating are
not in it.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

from neurosim.errors import UsageError, unknown

ROOM_KELVIN = 300.0
# the resistivity of a metal is linear in T here to a few percent; semiclassical transport needs many atoms
_KELVIN = (200.0, 500.0)
_METRES = (1e-9, 1e-3)
_LONGEST_PATH = 1e-6
_STEPS = 256  # of Simpson's rule for F: 1e-5 relative from κ = 0.001 up
_SERIES_FROM = 10.0  # above this α the closed form of f cancels, and 1/α is small enough for its series


def _number(name: str, value: Any, low: float, high: float, unit: str = "") -> float:
    """``value`` as a float from low to high, or one sentence that says what was expected."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not low <= value <= high:
        raise UsageError(f"expected {low:g} to {high:g}{f' {unit}' if unit else ''}; got {name}={value!r}")
    return float(value)


@dataclass(frozen=True)
class Metal:
    """One conductor: ``resistivity_ohm_m`` ρ_300, ``scattering_ohm_m2`` ρλ, ``specularity`` p from 0 to 1,
    ``reflection`` R from 0 to below 1, ``per_kelvin`` a, and where they come from.

    >>> from dataclasses import replace
    >>> bamboo = replace(METALS["copper"], name="copper without boundaries", reflection=0.0)
    >>> round(1e8 * resistivity_ohm_m(40e-9, 80e-9, metal=bamboo), 2)   # µΩ·cm
    2.22
    """

    name: str
    resistivity_ohm_m: float
    scattering_ohm_m2: float
    specularity: float
    reflection: float
    per_kelvin: float
    source: str = ""

    def __post_init__(self) -> None:
        _number("resistivity_ohm_m", self.resistivity_ohm_m, 1e-9, 1e-4, "Ω·m")
        _number("scattering_ohm_m2", self.scattering_ohm_m2, 0.0, 1e-12, "Ω·m²")
        _number("specularity", self.specularity, 0.0, 1.0)
        if _number("reflection", self.reflection, 0.0, 1.0) == 1.0:
            raise UsageError("expected a reflection below 1; got reflection=1.0")
        _number("per_kelvin", self.per_kelvin, 0.0, 0.009, "per kelvin")  # the bulk stays above zero at 200 K
        if self.mean_free_path_m() > _LONGEST_PATH:
            raise UsageError(
                f"expected a mean free path of at most {_LONGEST_PATH:g} metres at 300 K; "
                f"got {self.mean_free_path_m():g} from resistivity_ohm_m={self.resistivity_ohm_m!r} and "
                f"scattering_ohm_m2={self.scattering_ohm_m2!r}"
            )

    def bulk_ohm_m(self, temperature_kelvin: float = ROOM_KELVIN) -> float:
        """ρ_b in Ω·m at 200 to 500 K; a UsageError elsewhere."""
        kelvin = _number("temperature_kelvin", temperature_kelvin, *_KELVIN, "kelvin")
        return self.resistivity_ohm_m * (1.0 + self.per_kelvin * (kelvin - ROOM_KELVIN))

    def mean_free_path_m(self, temperature_kelvin: float = ROOM_KELVIN) -> float:
        """λ in metres at 200 to 500 K; a UsageError elsewhere."""
        return self.scattering_ohm_m2 / self.bulk_ohm_m(temperature_kelvin)


# Where the digits were read, when this table was made.  ρ at 20 °C and ρλ: in a course text that quotes
# Gall's Table I (Cu 1.68 µΩ·cm and 6.7e-16 Ω·m²; Al 2.65, 5.0; Co 6.2, 7.3; Ru 7.8, 5.1; W 5.3, 8.2); the
# third digits of ρλ are from memory of that table.  Copper: the slope in notes on Yarimbiyik et al. 2009; p
# and R in a citation of Barmak et al.  Tungsten: ρ at 300 and 500 K as of the CRC Handbook; p in the abstract
# of Choi et al. 2012.  What is marked (memory) was not read again, nor were the papers themselves.
METALS: dict[str, Metal] = {
    metal.name: metal
    for metal in (
        Metal(
            name="copper",
            resistivity_ohm_m=1.725e-8,
            scattering_ohm_m2=6.70e-16,
            specularity=0.52,
            reflection=0.43,
            per_kelvin=3.9e-3,
            source="ρ, a: 1.678 µΩ·cm at 20 °C and 0.0067 µΩ·cm per kelvin (CRC Handbook); ρλ: Gall 2016; "
            "p, R: T. Sun et al., Phys. Rev. B 81, 155454 (2010), doi:10.1103/PhysRevB.81.155454, which K. "
            "Barmak et al., J. Vac. Sci. Technol. A 32, 061503 (2014) (memory), found to describe lines "
            "published from 2002 to 2010",
        ),
        Metal(
            name="tungsten",
            resistivity_ohm_m=5.44e-8,
            scattering_ohm_m2=8.20e-16,
            specularity=0.11,
            reflection=0.42,
            per_kelvin=4.5e-3,
            source="ρ, a: 5.44 and 10.3 µΩ·cm at 300 and 500 K (CRC Handbook); ρλ: Gall 2016; p: D. Choi et "
            "al., Phys. Rev. B 86, 045432 (2012), doi:10.1103/PhysRevB.86.045432, epitaxial films; R: D. "
            "Choi et al., J. Appl. Phys. 115, 104308 (2014) (memory)",
        ),
        Metal(
            name="ruthenium",
            resistivity_ohm_m=7.8e-8,
            scattering_ohm_m2=5.14e-16,
            specularity=0.0,
            reflection=0.43,
            per_kelvin=4.1e-3,
            source="ρ, ρλ: Gall 2016, average over directions; p: diffuse, as at TaN, where SiO2 is nearly "
            "specular (S. Dutta et al., J. Appl. Phys. 122, 025107 (2017), doi:10.1063/1.4992089); R: that "
            "of copper, an assumption; a: (memory)",
        ),
        Metal(
            name="cobalt",
            resistivity_ohm_m=6.2e-8,
            scattering_ohm_m2=7.31e-16,
            specularity=0.0,
            reflection=0.43,
            per_kelvin=6.0e-3,
            source="ρ, ρλ: Gall 2016, average over directions; p: diffuse, an assumption; R: that of copper, "
            "an assumption; a: (memory)",
        ),
        Metal(
            name="aluminium",
            resistivity_ohm_m=2.73e-8,
            scattering_ohm_m2=5.01e-16,
            specularity=0.0,
            reflection=0.17,
            per_kelvin=4.2e-3,
            source="ρ: 2.65 µΩ·cm at 20 °C; a: CRC Handbook (memory); ρλ: Gall 2016; p: diffuse, an "
            "assumption; R: Mayadas & Shatzkes 1970 (memory), where first principles say 0.6 to 0.7 for "
            "random boundaries (Gall's group), so for lines of 100 nm and more only",
        ),
    )
}


@dataclass(frozen=True)
class Node:
    """The narrowest metal line of a technology: F = ``width_m`` is half its pitch, not the name of the node.

    ``thickness_m`` is ``aspect_ratio`` times the width; both include the barrier, ``barrier_m`` thick on the
    bottom and the two sides.

    >>> NODES["22nm"].width_m, round(NODES["22nm"].thickness_m * 1e9), NODES["22nm"].metal
    (4e-08, 76, 'copper')
    """

    name: str
    width_m: float
    aspect_ratio: float
    barrier_m: float
    metal: str
    source: str

    @property
    def thickness_m(self) -> float:
        return self.width_m * self.aspect_ratio


# Widths, aspect ratios and barriers as NeuroSim V1.4 tabulates them, read in its Param.cpp (figures only).
# The widths are half the smallest metal pitches of foundries, so far as that could be checked: Intel's 160 nm
# at 45 nm (144 nm thick: an aspect ratio of 1.8 for the 1.7 here) and 80 nm at 22 nm, TSMC's 40 nm at 7 nm.
# Intel's "10 nm" has a pitch of 36 nm and cobalt in its lowest layers; the row here has 44 nm and copper.
_NEUROSIM = (
    "J. Lee et al., NeuroSim V1.4, IEEE Trans. Circuits Syst. I 71(4), 2024, doi:10.1109/TCSI.2024.3362822; "
    "file Inference_pytorch/NeuroSIM/Param.cpp"
)
NODES: dict[str, Node] = {
    name: Node(name, width_m, aspect_ratio, barrier_m, "copper", _NEUROSIM)
    for name, width_m, aspect_ratio, barrier_m in (
        ("130nm", 175e-9, 1.6, 10e-9),
        ("90nm", 110e-9, 1.6, 10e-9),
        ("65nm", 105e-9, 1.7, 7e-9),
        ("45nm", 80e-9, 1.7, 5e-9),
        ("32nm", 56e-9, 1.8, 4e-9),
        ("22nm", 40e-9, 1.9, 2.5e-9),
        ("14nm", 32e-9, 2.0, 2.5e-9),
        ("10nm", 22e-9, 2.0, 2e-9),
        ("7nm", 20e-9, 2.0, 2e-9),
    )
}


def resistivity_ohm_m(
    width_m: float,
    height_m: float,
    *,
    metal: str | Metal = "copper",
    temperature_kelvin: float = ROOM_KELVIN,
) -> float:
    """ρ of a wire in Ω·m: bulk, surfaces and grain boundaries, as at the top of this file.

    ``width_m`` and ``height_m``, 1 nm to 1 mm, are those of the conductor, without its barrier; ``metal``
    is a name in ``METALS`` or a ``Metal``; 200 to 500 K.  Anything else ends in a UsageError.

    >>> round(1e8 * resistivity_ohm_m(1e-4, 1e-4), 2)        # µΩ·cm: bulk
    1.73
    >>> round(1e8 * resistivity_ohm_m(40e-9, 76e-9), 2)
    3.98
    >>> round(1e8 * resistivity_ohm_m(40e-9, 76e-9, metal="ruthenium"), 2)
    9.98
    >>> resistivity_ohm_m(40.0, 76.0)
    Traceback (most recent call last):
        ...
    neurosim.errors.UsageError: expected 1e-09 to 0.001 metres; got width_m=40.0
    """
    width = _number("width_m", width_m, *_METRES, "metres")
    height = _number("height_m", height_m, *_METRES, "metres")
    conductor = _metal(metal)
    bulk = conductor.bulk_ohm_m(temperature_kelvin)
    path = conductor.mean_free_path_m(temperature_kelvin)
    if path == 0.0:
        return bulk
    alpha = path / min(width, height) * conductor.reflection / (1.0 - conductor.reflection)
    surfaces = sum(_surfaces(size / path, conductor.specularity) - 1.0 for size in (width, height))
    return bulk * (1.0 / _grain_boundaries(alpha) + surfaces)


def segment_resistance_ohm(
    pitch_m: float,
    width_m: float,
    thickness_m: float,
    *,
    metal: str | Metal = "copper",
    barrier_m: float = 0.0,
    temperature_kelvin: float = ROOM_KELVIN,
) -> float:
    """Resistance in Ω of ``pitch_m`` of a line: ρ·pitch/[(width − 2·barrier)·(thickness − barrier)].

    ``width_m`` and ``thickness_m`` are those of the trench; the barrier covers its bottom and its two sides
    and carries no current (TaN and Ta resist about a hundred times as much as copper).  ρ is that of the
    conductor left.  Lengths of 1 nm to 1 mm, a barrier of 0 or more that leaves at least 1 nm of conductor;
    else a UsageError.

    >>> round(segment_resistance_ohm(80e-9, 40e-9, 76e-9, barrier_m=2.5e-9), 2)
    1.33
    >>> round(segment_resistance_ohm(80e-9, 40e-9, 76e-9, metal="ruthenium"), 2)     # needs no barrier
    2.63
    """
    pitch = _number("pitch_m", pitch_m, *_METRES, "metres")
    width = _number("width_m", width_m, *_METRES, "metres")
    thickness = _number("thickness_m", thickness_m, *_METRES, "metres")
    barrier = _number("barrier_m", barrier_m, 0.0, _METRES[1], "metres")
    core_width, core_height = width - 2.0 * barrier, thickness - barrier
    if min(core_width, core_height) < _METRES[0]:
        raise UsageError(
            f"expected a barrier that leaves at least {_METRES[0]:g} metres of a line {width:g} metres wide "
            f"and {thickness:g} metres thick; got barrier_m={barrier_m!r}"
        )
    rho = resistivity_ohm_m(core_width, core_height, metal=metal, temperature_kelvin=temperature_kelvin)
    return rho * pitch / (core_width * core_height)


def node_segment_resistance_ohm(
    node: str, cell_pitch_f: float = 2.0, *, temperature_kelvin: float = ROOM_KELVIN
) -> float:
    """Resistance in Ω of the narrowest line of a node across one cell, ``cell_pitch_f`` times F long.

    F is ``NODES[node].width_m``, half the smallest metal pitch.  The pitch is that *along* the wire, 1 to
    1000: 2 for both wires of the smallest crossbar cell, 2F × 2F; 12 and 4 for the two wires of a 1T1R cell
    of 12F × 4F.  A UsageError for anything else.

    >>> round(node_segment_resistance_ohm("22nm"), 2)
    1.33
    >>> word_line, bit_line = (node_segment_resistance_ohm("22nm", pitch) for pitch in (12, 4))
    >>> round(word_line, 1), round(bit_line, 1)
    (8.0, 2.7)
    >>> node_segment_resistance_ohm("22 nm")
    Traceback (most recent call last):
        ...
    neurosim.errors.UsageError: unknown node '22 nm': did you mean '22nm'? (known: 10nm, 130nm, 14nm, 22nm,
    32nm, 45nm, 65nm, 7nm, 90nm)
    """
    if not isinstance(node, str):
        raise UsageError(f"expected the name of a node; got node={node!r}")
    if node not in NODES:
        raise unknown("node", node, NODES)
    line = NODES[node]
    pitch = _number("cell_pitch_f", cell_pitch_f, 1.0, 1000.0, "times F") * line.width_m
    return segment_resistance_ohm(
        pitch,
        line.width_m,
        line.thickness_m,
        metal=line.metal,
        barrier_m=line.barrier_m,
        temperature_kelvin=temperature_kelvin,
    )


def _surfaces(kappa: float, specularity: float) -> float:
    """F(κ) of Fuchs and Sondheimer, ρ/ρ_b of a film κ mean free paths thick, by Simpson's rule in √u."""
    if specularity == 1.0:
        return 1.0

    def integrand(root: float) -> float:
        u = root * root
        passed = math.exp(-kappa / u)
        return 2.0 * root * (u - u**3) * (1.0 - passed) / (1.0 - specularity * passed)

    step = 1.0 / _STEPS
    total = sum((4.0 if i % 2 else 2.0) * integrand(i * step) for i in range(1, _STEPS))  # both ends are zero
    return 1.0 / (1.0 - 1.5 / kappa * (1.0 - specularity) * total * step / 3.0)


def _grain_boundaries(alpha: float) -> float:
    """f(α) of Mayadas and Shatzkes, σ/σ_b of a metal of grains."""
    if alpha == 0.0:
        return 1.0
    if alpha > _SERIES_FROM:
        return -3.0 * sum((-1.0 / alpha) ** (k + 1) / (k + 4) for k in range(20))
    logarithm = math.log1p(alpha) - math.log(alpha)  # of 1 + 1/α, which may overflow
    return 1.0 - 1.5 * alpha + 3.0 * alpha**2 - 3.0 * alpha**3 * logarithm


def _metal(metal: object) -> Metal:
    if isinstance(metal, Metal):
        return metal
    if not isinstance(metal, str):
        raise UsageError(f"expected the name of a metal or a Metal; got metal={metal!r}")
    if metal not in METALS:
        raise unknown("metal", metal, METALS)
    return METALS[metal]
