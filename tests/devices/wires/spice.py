"""The same arrays in ngspice, which shares nothing with kirchhoff.py: not even the way wires are joined.

ngspice takes no resistor of zero ohms, so a wire without resistance is one node with one name.
Results come from its binary raw file: the doubles that it computed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]

#: (row, column, ngspice's name of the device voltage) -> the device current as an ngspice expression, or None
Current: TypeAlias = Callable[[int, int, str], str | None]

ABSENT = "ngspice is not on the PATH: apt-get install ngspice (Debian package ngspice)"
OPTIONS = ".options gmin=1e-30 reltol=1e-10 abstol=1e-17 vntol=1e-15 itl1=1000 pivtol=1e-60 noacct"
LITERAL = re.compile(r"(?<![\w.])(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.])")
POWER = re.compile(r"\^|\*\*|\bpow\(")
DRIVEN = {"opposite": "L", "same": "L", "both-ends": "LR", "driven-both-ends": "LR"}
SENSED = {"opposite": "B", "same": "T", "both-ends": "TB", "driven-both-ends": "B"}


class Solution(NamedTuple):
    """Node voltages of word and bit lines, (rows, cols) each, and the current out of each column, (cols,)."""

    w: Array
    b: Array
    currents: Array


def available() -> bool:
    return shutil.which("ngspice") is not None


def exact(expression: str) -> str:
    """The expression with long numbers as sums: ngspice keeps 11 digits of a number in an expression."""
    if POWER.search(expression):
        raise ValueError(f"{expression}: ngspice's powers are of |x|; write products")

    def whole(found: re.Match[str]) -> str:
        value = float(found[0])
        high = f"{value:.10e}"
        return found[0] if float(high) == value else f"({high}{value - float(high):+.10e})"

    return LITERAL.sub(whole, expression)


class Netlist:
    """The wires and senses of an array; `lines` grows by the sources and devices that are added."""

    def __init__(
        self,
        rows: int,
        cols: int,
        *,
        r_row_ohm: float,
        r_col_ohm: float,
        r_source_ohm: float = 0.0,
        r_sink_ohm: float = 0.0,
        topology: str = "opposite",
    ) -> None:
        self.rows, self.cols = rows, cols
        ohms = {"w": r_row_ohm, "b": r_col_ohm, "s": r_row_ohm + r_source_ohm, "t": r_col_ohm + r_sink_ohm}
        self.ohms = {name: float(ohm) for name, ohm in ohms.items()}
        self.lines = [f"vt{j} t{j} 0 dc 0" for j in range(cols)]
        if r_row_ohm:
            for i in range(rows):
                self.lines += [f"rw{i}_{j} w{i}_{j} w{i}_{j + 1} {self.ohms['w']!r}" for j in range(cols - 1)]
        if r_col_ohm:
            for j in range(cols):
                self.lines += [f"rb{i}_{j} b{i}_{j} b{i + 1}_{j} {self.ohms['b']!r}" for i in range(rows - 1)]
        for end in DRIVEN[topology] if self.ohms["s"] else "":
            j = {"L": 0, "R": cols - 1}[end]
            self.lines += [f"rs{i}{end} s{i} {self.word(i, j)} {self.ohms['s']!r}" for i in range(rows)]
        for end in SENSED[topology] if self.ohms["t"] else "":
            i = {"T": 0, "B": rows - 1}[end]
            self.lines += [f"rt{j}{end} {self.bit(i, j)} t{j} {self.ohms['t']!r}" for j in range(cols)]

    def word(self, i: int, j: int) -> str:
        """The node of row i at column j: its own, its row's, or the source's."""
        return f"w{i}_{j}" if self.ohms["w"] else f"w{i}" if self.ohms["s"] else f"s{i}"

    def bit(self, i: int, j: int) -> str:
        """The node of column j at row i: its own, its column's, or the sense's."""
        return f"b{i}_{j}" if self.ohms["b"] else f"b{j}" if self.ohms["t"] else f"t{j}"

    def add_sources(self, v: Sequence[float]) -> None:
        self.lines += [f"vs{i} s{i} 0 dc {float(x)!r}" for i, x in enumerate(v)]

    def add_one_hot_sources(self) -> None:
        """One volt on row i when the source `vk` gives i volts, none on the others."""
        self.lines.append("vk k 0 dc 0")
        for i in range(self.rows):
            self.lines.append(f"bs{i} s{i} 0 v = (v(k) > {i - 0.5}) && (v(k) < {i + 0.5}) ? 1 : 0")

    def add_resistors(self, g: Array) -> None:
        for (i, j), siemens in np.ndenumerate(g):
            if siemens:
                self.lines.append(f"rd{i}_{j} {self.word(i, j)} {self.bit(i, j)} {1 / float(siemens)!r}")

    def add_currents(self, current: Current) -> None:
        for i, j in np.ndindex(self.rows, self.cols):
            w, b = self.word(i, j), self.bit(i, j)
            expression = current(i, j, f"v({w},{b})")
            if expression is not None:
                self.lines.append(f"bd{i}_{j} {w} {b} i={exact(expression)}")

    def read(self, plot: dict[str, Array]) -> Solution:
        def grid(name: Callable[[int, int], str]) -> Array:
            names = [[name(i, j) for j in range(self.cols)] for i in range(self.rows)]
            return np.array([[plot[f"v({n})"][0] for n in row] for row in names])

        out = np.array([plot[f"i(vt{j})"][0] for j in range(self.cols)])
        return Solution(grid(self.word), grid(self.bit), out)


def run(lines: Sequence[str], commands: Sequence[str], timeout_s: float = 120.0) -> dict[str, Array]:
    """The vectors of the plot that ngspice's commands leave: {name: a value for each point}."""
    control = [".control", "set filetype=binary", *commands, "write out.raw", "quit 0", ".endc"]
    with tempfile.TemporaryDirectory(prefix="ngspice-") as folder:
        Path(folder, "net.cir").write_text("\n".join(["* crossbar", *lines, OPTIONS, *control, ".end", ""]))
        # -n: no .spiceinit of the user's
        ran = subprocess.run(
            ["ngspice", "-b", "-n", "net.cir"], cwd=folder, capture_output=True, text=True, timeout=timeout_s
        )
        raw = Path(folder, "out.raw")
        said = f"{ran.stdout}\n{ran.stderr}".splitlines()
        bad = [line for line in said if re.search("error|singular|failed|unable", line.lower())]
        if ran.returncode or bad or not raw.exists():
            raise RuntimeError(f"ngspice ended with {ran.returncode}: " + "; ".join((bad or said)[:5]))
        return read_raw(raw.read_bytes())


def read_raw(raw: bytes) -> dict[str, Array]:
    """What a binary raw file of one plot of real numbers holds."""
    head, _, body = raw.partition(b"Binary:\n")
    lines = head.decode().splitlines()
    if "Flags: real" not in lines:
        raise RuntimeError(f"an unexpected plot from ngspice: {lines[:6]}")
    names = [line.split()[1] for line in lines if line[:1] == "\t"]
    return dict(zip(names, np.frombuffer(body).reshape(-1, len(names)).T.copy(), strict=True))


def currents(device: ArrayLike | Current, v: ArrayLike, cols: int | None = None, **wires: Any) -> Solution:
    """Node voltages and column currents, for conductances (rows, cols) or for `cols` columns of a Current."""
    volts = np.asarray(v, dtype=np.float64).tolist()
    if callable(device):
        if cols is None:
            raise ValueError("devices of an expression need the number of columns")
        net = Netlist(len(volts), cols, **wires)
        net.add_currents(device)
    else:
        g = np.asarray(device, dtype=np.float64)
        net = Netlist(len(volts), g.shape[1], **wires)
        net.add_resistors(g)
    net.add_sources(volts)
    return net.read(run(net.lines, ["op"]))


def effective(g: ArrayLike, **wires: Any) -> Array:
    """The matrix (rows, cols) that takes row voltages to column currents: one sweep over the driven row."""
    g = np.asarray(g, dtype=np.float64)
    rows, cols = g.shape
    net = Netlist(rows, cols, **wires)
    net.add_resistors(g)
    net.add_one_hot_sources()
    senses = [f"i(vt{j})" for j in range(cols)]
    plot = run(net.lines, ["save " + " ".join(senses), f"dc vk 0 {rows - 1} 1"])
    return np.stack([plot[name] for name in senses], axis=1)
