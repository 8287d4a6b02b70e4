"""What others published of each preset's device, point by point, to lay under our own curve.

A point is a number somebody else stands for: read in a paper's text, or a peer simulator's fit of a
paper's figure, evaluated at one conductance.  ``published.csv`` says which, and where.  A peer's fit is not
the paper's data: agreement with it says that our formulas and constants are those, not that the fit is good.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, cast

Quantity = Literal["std", "mean", "nu_mean", "nu_std", "read_std", "std_other"]
QUANTITIES: tuple[Quantity, ...] = ("std", "mean", "nu_mean", "nu_std", "read_std", "std_other")


@dataclass(frozen=True)
class Point:
    """One published number.

    Attributes:
        preset: whose device it describes.
        quantity: ``std`` and ``mean``: standard deviation and mean of conductance minus target ``time_s``
            after programming, without read noise, in siemens; ``nu_mean``, ``nu_std``: drift exponent ν of
            g·((t + t₀)/t₀)^−ν, a number; ``read_std``: standard deviation from read to read, in siemens, of a
            device that does not drift; ``std_other``: as ``std``, of another fit than the preset's.
        target_siemens: what the devices should hold.
        time_s: seconds after programming.
        value: in the units above.
        t0_s: t₀ of a drift exponent; 0 for the others.
        how: ``"text"`` (a number the paper states) or ``"peer's fit"`` (a simulator's formula, evaluated).
        source: where it stands.
    """

    preset: str
    quantity: Quantity
    target_siemens: float
    time_s: float
    value: float
    t0_s: float
    how: str
    source: str


@cache
def published() -> tuple[Point, ...]:
    """Every point, in the order of the file.

    >>> sorted({point.how for point in published()})
    ["peer's fit", 'text']
    """
    text = files("neurosim.report").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(_point(row) for row in csv.DictReader(text.splitlines()))


def published_for(preset: str) -> tuple[Point, ...]:
    """The points of one preset; none where nothing was found.

    >>> [round(p.value * 1e6, 3) for p in published_for("rram-milo-2021")]
    [3.829, 3.53, 3.132, 2.733]
    """
    return tuple(point for point in published() if point.preset == preset)


def _point(row: dict[str, str]) -> Point:
    unit = 1.0 if row["quantity"].startswith("nu") else 1e-6
    return Point(
        preset=row["preset"],
        quantity=cast(Quantity, row["quantity"]),
        target_siemens=float(row["target_us"]) * 1e-6,
        time_s=float(row["time_s"]),
        value=float(row["value"]) * unit,
        t0_s=float(row["t0_s"] or 0.0),
        how=row["how"],
        source=row["source"],
    )
