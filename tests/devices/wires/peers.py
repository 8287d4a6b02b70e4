"""Published simulators of the same circuit.

badcrossbar 1.1.0 (MIT; Joksas and Mehonic, SoftwareX 12, 100617, 2020, doi:10.1016/j.softx.2020.100617)
is the topology "opposite" with neither source nor sink resistance.  It declares pycairo, which its plots need
and which has to be compiled; its solver needs numpy, scipy and pathvalidate, so it is installed without its
dependencies.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ABSENT = "badcrossbar is not installed: pip install --no-deps badcrossbar==1.1.0 pathvalidate"


def available() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("badcrossbar", "pathvalidate"))


def badcrossbar() -> Any:
    """The package, without what its import does to everybody else: a warning filter and a log on stdout."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)  # logging.basicConfig leaves a root with a handler alone
    try:
        with warnings.catch_warnings(record=True):  # "Could not import `badcrossbar.plot`": no pycairo
            import badcrossbar
    finally:
        root.removeHandler(silent)
    return badcrossbar


def badcrossbar_effective(g: ArrayLike, r_row_ohm: float, r_col_ohm: float) -> NDArray[np.float64]:
    """The matrix (rows, cols) that takes row voltages to column currents, with 0 for an open cell."""
    g = np.asarray(g, dtype=np.float64)
    ohms = np.divide(1.0, g, out=np.full(g.shape, np.inf), where=g > 0)
    solution = badcrossbar().compute(
        np.eye(len(g)),
        ohms,
        r_i_word_line=float(r_row_ohm),
        r_i_bit_line=float(r_col_ohm),
        node_voltages=False,
        all_currents=False,
    )
    return np.asarray(solution.currents.output)
