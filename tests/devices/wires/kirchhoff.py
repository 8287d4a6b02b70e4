"""Crossbars with resistive wires, by Kirchhoff's current law: three plain methods that share only a netlist.

`effective` and `solve` stamp a dense nodal matrix and solve it; `star_mesh` eliminates one node after another
by the star-mesh transform, which only adds, multiplies and divides positive numbers, so every entry is right
to a few hundred roundings whatever the spread of conductances; `effective_exact` is the same in fractions.
`newton` is for devices that are not linear.  Zero resistances merge the nodes at their ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Required, TypeAlias, TypedDict, Unpack, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]
Nodes: TypeAlias = NDArray[np.intp]
Topology = Literal["opposite", "same", "both-ends", "driven-both-ends"]
TOPOLOGIES: tuple[Topology, ...] = get_args(Topology)

#: (device voltages) -> (device currents, their derivatives), each (rows, cols)
Device: TypeAlias = Callable[[Array], tuple[Array, Array]]

DRIVEN_RIGHT_TOO = ("both-ends", "driven-both-ends")
SENSED_TOP = ("same", "both-ends")
SENSED_BOTTOM = ("opposite", "both-ends", "driven-both-ends")


class Solution(NamedTuple):
    """Node voltages of word and bit lines, (rows, cols) each, and the current out of each column, (cols,)."""

    w: Array
    b: Array
    currents: Array


class Wires(TypedDict, total=False):
    """The keywords that every function here takes."""

    r_row_ohm: Required[float]
    r_col_ohm: Required[float]
    r_source_ohm: float
    r_sink_ohm: float
    topology: Topology


class Net:
    """The nodes of an array, numbered after merging what zero ohms join: unknown ones, sources, senses."""

    def __init__(self, rows: int, cols: int, **wires: Unpack[Wires]) -> None:
        cells = rows * cols
        w = np.arange(cells).reshape(rows, cols)
        b = w + cells
        sources = 2 * cells + np.arange(rows)
        senses = 2 * cells + rows + np.arange(cols)
        segments = list(wire_segments(w, b, sources, senses, **wires))
        number = merged(2 * cells + rows + cols, [(m, n) for m, n, ohms in segments if not any(ohms)])
        self.w, self.b, self.sources, self.senses = (number[n] for n in (w, b, sources, senses))
        self.nodes = int(number.max()) + 1
        self.unknown = self.nodes - rows - cols  # they come first, then the sources, then the senses
        self.wires = [(int(number[m]), int(number[n]), ohms) for m, n, ohms in segments if any(ohms)]

    def branches(self, g: NDArray[Any]) -> Iterable[tuple[int, int, Any]]:
        """(one node, another, conductance) of each wire and each device, in the numbers of `g`."""
        number = Fraction if g.dtype == object else g.dtype.type
        for m, n, ohms in self.wires:
            yield m, n, 1 / sum((number(ohm) for ohm in ohms), start=number(0))
        for m, n, siemens in zip(self.w.flat, self.b.flat, g.flat, strict=True):
            yield int(m), int(n), siemens

    def laplacian(self, g: Array) -> Array:
        """Current out of each node per volt on each node."""
        out = np.zeros((self.nodes, self.nodes))
        for m, n, siemens in self.branches(g):
            out[m, m] += siemens
            out[n, n] += siemens
            out[m, n] -= siemens
            out[n, m] -= siemens
        return out


def wire_segments(
    w: Nodes,
    b: Nodes,
    sources: Nodes,
    senses: Nodes,
    *,
    r_row_ohm: float,
    r_col_ohm: float,
    r_source_ohm: float = 0.0,
    r_sink_ohm: float = 0.0,
    topology: Topology = "opposite",
) -> Iterable[tuple[int, int, tuple[float, ...]]]:
    """(one node, another, the ohms in series between them) of all wires."""
    if topology not in TOPOLOGIES:
        raise ValueError(f"topology {topology!r}: expected one of {', '.join(TOPOLOGIES)}")
    if not all(0 <= ohm < float("inf") for ohm in (r_row_ohm, r_col_ohm, r_source_ohm, r_sink_ohm)):
        raise ValueError("a resistance of a wire is 0 or more, and finite")
    joined = [
        (w[:, :-1], w[:, 1:], (r_row_ohm,)),
        (b[:-1], b[1:], (r_col_ohm,)),
        (sources, w[:, 0], (r_row_ohm, r_source_ohm)),
    ]
    if topology in DRIVEN_RIGHT_TOO:
        joined.append((sources, w[:, -1], (r_row_ohm, r_source_ohm)))
    if topology in SENSED_BOTTOM:
        joined.append((b[-1], senses, (r_col_ohm, r_sink_ohm)))
    if topology in SENSED_TOP:
        joined.append((b[0], senses, (r_col_ohm, r_sink_ohm)))
    for ones, others, ohms in joined:
        for m, n in zip(ones.flat, others.flat, strict=True):
            yield int(m), int(n), ohms


def merged(nodes: int, pairs: Iterable[tuple[int, int]]) -> Nodes:
    """New numbers of the nodes, equal for those that pairs connect, in the order of each set's last node.

    Sources and senses are the last nodes and never connect to one another, so they stay last and in order.
    """
    parent = list(range(nodes))

    def last(n: int) -> int:
        while parent[n] != n:
            n = parent[n]
        return n

    for m, n in pairs:
        low, high = sorted((last(m), last(n)))
        parent[low] = high
    return np.unique([last(n) for n in range(nodes)], return_inverse=True)[1]


def checked(g: ArrayLike) -> Array:
    """Conductances as float64 (rows, cols)."""
    out = np.asarray(g, dtype=np.float64)
    if out.ndim != 2 or not out.size or not ((out >= 0) & np.isfinite(out)).all():
        raise ValueError(f"conductances of shape {out.shape}: expected (rows, cols), 0 or more, and finite")
    return out


def nodal(g: Array, v: Array, net: Net) -> tuple[Array, Array]:
    """All node voltages and the currents out of the columns for each column of v (rows, cases)."""
    k = net.unknown
    a = net.laplacian(g)
    volts = np.zeros((net.nodes, v.shape[1]))
    volts[net.sources] = v
    if k:
        volts[:k] = np.linalg.solve(a[:k, :k], -a[:k, k:] @ volts[k:])
    return volts, -a[net.senses] @ volts  # of one sign for v of one sign: the senses are at 0 V


def effective(g: ArrayLike, **wires: Unpack[Wires]) -> Array:
    """The matrix (rows, cols) that takes row voltages to column currents: I = v @ effective(g)."""
    g = checked(g)
    return nodal(g, np.eye(len(g)), Net(*g.shape, **wires))[1].T


def solve(g: ArrayLike, v: ArrayLike, **wires: Unpack[Wires]) -> Solution:
    """Node voltages and column currents for one vector of row voltages; `wires` as in `effective`."""
    g = checked(g)
    net = Net(*g.shape, **wires)
    volts, currents = nodal(g, np.asarray(v, dtype=np.float64)[:, None], net)
    return Solution(volts[net.w, 0], volts[net.b, 0], currents[:, 0])


def star_mesh(g: ArrayLike, *, number: Any = np.float64, **wires: Unpack[Wires]) -> NDArray[Any]:
    """As `effective`, without a subtraction; `number` may be np.longdouble or Fraction."""
    cells = checked(g)
    net = Net(*cells.shape, **wires)
    if number is Fraction:
        values = np.array([Fraction(float(x)) for x in cells.flat], dtype=object).reshape(cells.shape)
        between = np.full((net.nodes, net.nodes), Fraction(0), dtype=object)
    else:
        values, between = cells.astype(number), np.zeros((net.nodes, net.nodes), dtype=number)
    for m, n, siemens in net.branches(values):
        between[m, n] += siemens
        between[n, m] += siemens
    eliminate(between, elimination_order(net))
    return between[np.ix_(net.sources, net.senses)]


def elimination_order(net: Net) -> list[int]:
    """The unknown nodes, column by column: each has few neighbours when its turn comes."""
    by_column = np.stack([net.w, net.b], axis=-1).transpose(1, 0, 2).reshape(-1)
    return [n for n in dict.fromkeys(by_column.tolist()) if n < net.unknown]


def eliminate(between: NDArray[Any], order: list[int]) -> None:
    """Star-mesh transforms in place: a node with branches g_a, g_b, ... becomes g_a * g_b / sum of g."""
    for k in order:
        star = between[k].copy()
        star[k] = 0
        near = np.flatnonzero(star)
        between[k, :] = between[:, k] = 0
        if len(near):
            between[np.ix_(near, near)] += np.multiply.outer(star[near], star[near] / star[near].sum())


def effective_exact(g: ArrayLike, **wires: Unpack[Wires]) -> Array:
    """As `effective`, from fractions, rounded once at the end: for arrays of a few cells."""
    return star_mesh(g, number=Fraction, **wires).astype(np.float64)


def newton(
    device: Device,
    v: ArrayLike,
    cols: int,
    *,
    tolerance: float = 1e-11,
    limit: int = 200,
    **wires: Unpack[Wires],
) -> Solution:
    """Node voltages and column currents of devices whose current rises with their voltage.

    Newton's method from zero volts, halving a step while it does not lessen the net current into the nodes;
    the last step moved no voltage by more than `tolerance` of the largest source; the next would move none.
    """
    v = np.asarray(v, dtype=np.float64)
    net = Net(len(v), cols, **wires)
    k, wire = net.unknown, net.laplacian(np.zeros((len(v), cols)))
    volts = np.zeros(net.nodes)
    volts[net.sources] = v

    def leaving(volts: Array) -> Array:
        """The current out of each node."""
        out, current = wire @ volts, device(volts[net.w] - volts[net.b])[0]
        np.add.at(out, net.w, current)
        np.subtract.at(out, net.b, current)
        return out

    for _ in range(limit if k else 0):
        slopes = device(volts[net.w] - volts[net.b])[1]
        out, step = leaving(volts)[:k], np.zeros_like(volts)
        step[:k] = np.linalg.solve(net.laplacian(slopes)[:k, :k], -out)
        moved = abs(step).max() > tolerance * abs(v).max()
        while moved and np.linalg.norm(leaving(volts + step)[:k]) > np.linalg.norm(out):
            step /= 2
        volts += step
        if not moved:
            break
    else:
        if k:
            raise ArithmeticError(f"Newton's method has not converged in {limit} steps")
    return Solution(volts[net.w], volts[net.b], -leaving(volts)[net.senses])
