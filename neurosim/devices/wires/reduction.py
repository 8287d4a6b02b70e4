"""Kron reduction of a crossbar to its terminals, by nested dissection.

A crossbar is a planar network of conductors.  Cut into blocks of cells, a block touches the rest of the
array only where wires cross its edge: it *is* the matrix C of mutual conductances between those ports.
Two neighbouring blocks become one by eliminating the nodes that they share, I, from the ports that stay, E:

    C'_EE = C_EE + C_EI Λ⁻¹ C_IE,     Λ = diag(Σ_all C_I·) − C_II

(star-mesh transform, or Schur complement of the network's Laplacian).  A block of s×s cells has 4s ports,
so joining n×n cells pairwise, from single cells up, costs O(n³) and O(n² log n) memory, where eliminating
row after row costs O(n⁴).  Only mutual conductances are stored and only positive numbers are added: nothing
cancels, so small conductances between good wires keep their digits in float32, and wires of almost no
resistance are no special case.

The gradient is the adjoint method, block by block.  With W = [1; X], X = Λ⁻¹ C_IE the voltages inside for
unit voltages at the ports, and K_ab = ∂f/∂C'_ab,

    ∂f/∂C_cd = −½ (W_c − W_d) K (W_c − W_d)ᵀ

which is the voltage across c–d times the adjoint voltage across it, summed over all drives.  One sweep down
the same blocks gives it for every device and wire, from the X of the way up; nothing is solved again or
unrolled.

Sources: nested dissection, A. George, SIAM J. Numer. Anal. 10(2), 1973 (doi:10.1137/0710032); Kron reduction,
F. Dörfler & F. Bullo, IEEE Trans. Circuits Syst. I 60(1), 2013 (doi:10.1109/TCSI.2012.2215780); elimination
without subtraction, W. Grassmann, M. Taksar, D. Heyman, Oper. Res. 33(5), 1985 (doi:10.1287/opre.33.5.1107).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

# below this many shared nodes LAPACK's call costs more than eliminating by hand over all blocks at once
_LAPACK_FROM = 8

Side = str  # "left", "right", "top" or "bottom"
SIDES: tuple[Side, ...] = ("top", "left", "bottom", "right")
# the whole: drivers, then senses
_ENDS: tuple[Side, ...] = ("left", "right", "bottom", "top")


class Port(NamedTuple):
    """A wire across the edge of a block: on which side of it, and in which of its rows or columns."""

    side: Side
    place: int


class Run(NamedTuple):
    """A range of ports that lie next to each other both in a block and in the block made from it."""

    into: slice
    source: slice


@dataclass(frozen=True)
class Child:
    """Where the ports of one of two joined blocks go.

    Attributes:
        inner: its ports that are eliminated.
        outer: runs of its ports that stay.
    """

    inner: slice
    outer: tuple[Run, ...]


@dataclass(frozen=True)
class Join:
    """Two neighbouring blocks become one.

    Attributes:
        along_columns: the second block lies to the right of the first (else below it).
        nodes: number of shared nodes, p.
        ports: number of ports of the result, E.
        first, second: the two blocks.
        dropped: whether some ports of the two neither stay nor are shared (open ends).
    """

    along_columns: bool
    nodes: int
    ports: int
    first: Child
    second: Child
    dropped: bool


@dataclass(frozen=True, eq=False)
class Plan:
    """How to reduce every array of one size; :func:`plan` makes one of each.

    Attributes:
        rows, cols: cells of the padded grid → row and column of the array, −1 for padding.
        joins: from single cells to the whole array.
        drivers: number of ports of the whole that are word-line ends; they come first.
        order: ports of the whole.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    joins: tuple[Join, ...]
    drivers: int
    order: tuple[Port, ...]

    def grid(self, done: int) -> tuple[int, int]:
        """Rows and columns of blocks when so many joins are made."""
        across = sum(join.along_columns for join in self.joins[:done])
        return len(self.rows) >> (done - across), len(self.cols) >> across

    def ports(self, done: int) -> int:
        """Ports of a block when so many joins are made."""
        return self.joins[done - 1].ports if done else len(CELL_PORTS)


def _sizes(count: int) -> list[int]:
    """Rows (or columns) of a block at each level, the whole first: halves, rounded up.

    >>> _sizes(12)
    [12, 6, 3, 2, 1]
    """
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def _cells(first: int, live: int, sizes: Sequence[int]) -> list[int]:
    """Which row (or column) each cell of the padded grid is; every block has its padding at its end."""
    if len(sizes) == 1:
        return [first if live else -1]
    half = min(live, sizes[1])
    return _cells(first, half, sizes[1:]) + _cells(first + half, live - half, sizes[1:])


# Ports of a block stand side by side, each side ascending: what stays of two blocks is then in four runs.
CELL_PORTS = tuple(Port(side, 0) for side in SIDES)


@cache
def plan(rows: int, cols: int, ends: frozenset[Side]) -> Plan:
    """The joins for arrays of ``rows`` × ``cols`` cells whose wires lead out at the sides ``ends``.

    >>> [(join.nodes, join.ports) for join in plan(4, 4, frozenset({"left", "bottom"})).joins]
    [(1, 6), (2, 8), (2, 10), (4, 8)]
    """
    heights, widths = _sizes(rows), _sizes(cols)
    row_map, col_map = _cells(0, rows, heights), _cells(0, cols, widths)
    order: Sequence[Port] = CELL_PORTS
    joins = []
    up, across = len(heights) - 1, len(widths) - 1  # levels left
    while up or across:
        along_columns = across > 0 and (up == 0 or widths[across] <= heights[up])
        if along_columns:
            child, size, across = widths[across], widths[across - 1], across - 1
        else:
            child, size, up = heights[up], heights[up - 1], up - 1
        # open ends of wires at the edge of the whole carry nothing
        closed = {"left", "right"} if across == 0 else set()
        closed |= {"top", "bottom"} if up == 0 else set()
        keep = [side for side in SIDES if side in ends or side not in closed]
        last = not (up or across)
        join, order = _join(tuple(order), along_columns, child, size, keep, last)
        joins.append(join)
    if not joins:  # a single cell
        order = [Port(side, 0) for side in _ENDS if side in ends]
    drivers = sum(port.side in ("left", "right") for port in order)
    return Plan(tuple(row_map), tuple(col_map), tuple(joins), drivers, tuple(order))


def _join(
    order: tuple[Port, ...], along_columns: bool, child: int, size: int, keep: list[Side], last: bool
) -> tuple[Join, list[Port]]:
    """Join two blocks of ports ``order``; ``child`` and ``size``: columns (or rows) before and after."""
    out, back = ("right", "left") if along_columns else ("bottom", "top")
    across = ("top", "bottom") if along_columns else ("left", "right")

    def named(which: int, port: Port) -> Port:
        """The port's name in the joined block."""
        return Port(port.side, port.place + which * child) if port.side in across else port

    entries = []  # (name in the result, block, place in the block)
    for which, shared in ((0, out), (1, back)):
        for place, port in enumerate(order):
            name = named(which, port)
            if port.side != shared and name.side in keep and not (name.side in across and name.place >= size):
                entries.append((name, which, place))
    walk = _ENDS if last else SIDES
    entries.sort(key=lambda entry: (walk.index(entry[0].side), entry[0].place))
    sides = [port.side for port in order]
    children = []
    for which, shared in ((0, out), (1, back)):
        inner = slice(sides.index(shared), sides.index(shared) + sides.count(shared))
        outer = _runs((d, place) for d, (_, block, place) in enumerate(entries) if block == which)
        children.append(Child(inner, outer))
    nodes = sum(port.side == out for port in order)
    dropped = len(entries) < 2 * (len(order) - nodes)
    join = Join(along_columns, nodes, len(entries), children[0], children[1], dropped)
    return join, [name for name, _, _ in entries]


def _runs(pairs: Iterable[tuple[int, int]]) -> tuple[Run, ...]:
    """(into, source) pairs as maximal runs."""
    runs: list[list[int]] = []
    for into, source in pairs:
        if runs and runs[-1][0] + runs[-1][2] == into and runs[-1][1] + runs[-1][2] == source:
            runs[-1][2] += 1
        else:
            runs.append([into, source, 1])
    return tuple(Run(slice(d, d + n), slice(s, s + n)) for d, s, n in runs)


@dataclass(frozen=True)
class Level:
    """What one join leaves for the way down.

    Attributes:
        inside: X, (blocks, nodes, ports): voltages of the shared nodes for unit voltages at the ports.
        inverse: Λ⁻¹, (blocks, nodes, nodes): those voltages for unit currents into the nodes, or None.
    """

    inside: Tensor
    inverse: Tensor | None


def reduce(
    blocks: Tensor, plan: Plan, *, done: int = 0, keep_levels: bool = False, keep_inverses: bool = False
) -> tuple[Tensor, list[Level]]:
    """Reduce arrays to the mutual conductances between their drivers and their sense nodes.

    Args:
        blocks: (arrays, rows, cols, 4, 4), mutual conductances of each cell of the padded grid between the
            ports :data:`CELL_PORTS`, with zero diagonals; or those of the blocks that the first joins made.
        plan: for this size.
        done: how many joins have been made.
        keep_levels: keep what :func:`gradient` and :func:`voltages` need.
        keep_inverses: and what :func:`inject` needs.

    Returns:
        (arrays, drivers, senses) in the order of ``plan.order``; and the levels of the joins made here.
    """
    arrays = blocks.shape[0]
    levels = []
    for k, join in enumerate(plan.joins[done:], done):
        first, second = _pair(blocks, join)
        shared = _shared(first, second, join)
        coupling, inverse = _eliminate(first, second, shared, join)
        inside = torch.bmm(inverse, coupling) if join.nodes > 1 else inverse * coupling
        if keep_levels or keep_inverses:
            levels.append(Level(inside, inverse if keep_inverses else None))
        if k == len(plan.joins) - 1:
            return _ends(first, second, coupling, inside, join, plan.drivers).reshape(
                arrays, plan.drivers, -1
            ), levels
        joined = torch.bmm(coupling.mT, inside) if join.nodes > 1 else coupling.mT * inside
        _add_outer(joined.view(*first.shape[:2], join.ports, join.ports), first, second, join)
        joined.diagonal(dim1=1, dim2=2).zero_()
        rows, cols = _grid(blocks, join)
        blocks = joined.view(arrays, rows, cols, join.ports, join.ports)
    # a single cell: nothing to join
    places = [CELL_PORTS.index(port) for port in plan.order]
    return blocks[:, 0, 0][:, places[: plan.drivers]][:, :, places[plan.drivers :]], levels


def _grid(blocks: Tensor, join: Join) -> tuple[int, int]:
    """Rows and columns of blocks after the join."""
    rows, cols = blocks.shape[1], blocks.shape[2]
    return (rows, cols // 2) if join.along_columns else (rows // 2, cols)


def _pair(blocks: Tensor, join: Join) -> tuple[Tensor, Tensor]:
    """The first and the second of each pair of neighbours, two views (outer, inner, ports, ports)."""
    arrays, rows, cols, ports, _ = blocks.shape
    if join.along_columns:
        pairs = blocks.view(arrays * rows * (cols // 2), 2, 1, ports, ports)
    else:
        pairs = blocks.view(arrays * (rows // 2), 2, cols, ports, ports)
    return pairs[:, 0], pairs[:, 1]


def _shared(first: Tensor, second: Tensor, join: Join) -> Tensor:
    """C_II, (blocks, nodes, nodes): what the two blocks connect between the shared nodes."""
    nodes = first[..., join.first.inner, join.first.inner] + second[..., join.second.inner, join.second.inner]
    return nodes.reshape(-1, join.nodes, join.nodes)


def _eliminate(first: Tensor, second: Tensor, shared: Tensor, join: Join) -> tuple[Tensor, Tensor]:
    """C_IE, (blocks, nodes, ports), and Λ⁻¹, (blocks, nodes, nodes)."""
    coupling = first.new_empty(*first.shape[:2], join.nodes, join.ports)
    for block, child in ((first, join.first), (second, join.second)):
        for run in child.outer:
            coupling[..., run.into] = block[..., child.inner, run.source]
    coupling = coupling.view(-1, join.nodes, join.ports)
    return coupling, _inverse(shared, coupling.sum(dim=2))


def _inverse(shared: Tensor, outward: Tensor) -> Tensor:
    """(diag(outward + Σ shared) − shared)⁻¹ of each block; ``shared`` is symmetric with a zero diagonal."""
    nodes = shared.shape[-1]
    if nodes == 1:
        return outward.reciprocal().unsqueeze(-1)
    if nodes == 2:
        return _inverse_of_two(shared[:, 0, 1], outward)
    laplacian = torch.diag_embed(outward + shared.sum(dim=2)) - shared
    if nodes >= _LAPACK_FROM:
        return torch.linalg.inv_ex(laplacian).inverse
    return _gauss_jordan(laplacian)


def _inverse_of_two(between: Tensor, outward: Tensor) -> Tensor:
    """In closed form, without subtraction."""
    a, b = outward[:, 0], outward[:, 1]
    # (a + c)(b + c) − c², a product of two factors that is never formed: in float32 it would overflow
    total = a + b
    scale = between + a * (b / total)
    inverse = torch.stack([b + between, between, between, a + between], dim=-1)
    return (inverse / total.unsqueeze(-1) / scale.unsqueeze(-1)).view(-1, 2, 2)


def _gauss_jordan(matrix: Tensor) -> Tensor:
    """Inverse in place without pivoting, all blocks at once; right for the Laplacians above (M-matrices)."""
    for k in range(matrix.shape[-1]):
        pivot = matrix[:, k, k].reciprocal()
        row = matrix[:, k] * pivot[:, None]
        row[:, k] = pivot
        column = matrix[:, :, k].clone()
        column[:, k] = 0
        matrix[:, :, k] = 0
        matrix.baddbmm_(column.unsqueeze(2), row.unsqueeze(1), alpha=-1)
        matrix[:, k] = row
    return matrix


def _add_outer(joined: Tensor, first: Tensor, second: Tensor, join: Join) -> None:
    """Add what each block already connects between the ports that stay."""
    for block, child in ((first, join.first), (second, join.second)):
        for a in child.outer:
            for b in child.outer:
                joined[..., a.into, b.into] += block[..., a.source, b.source]


def _ends(
    first: Tensor, second: Tensor, coupling: Tensor, inside: Tensor, join: Join, drivers: int
) -> Tensor:
    """The last join: only the conductances between drivers and senses."""
    ends = coupling[:, :, :drivers].mT @ inside[:, :, drivers:]
    grid = ends.view(*first.shape[:2], drivers, -1)
    for block, child in ((first, join.first), (second, join.second)):
        for a, b in itertools.product(child.outer, child.outer):
            rows = _within(a, 0, drivers)
            cols = _within(b, drivers, join.ports)
            if rows is not None and cols is not None:
                grid[..., rows.into, cols.into] += block[..., rows.source, cols.source]
    return ends


def _within(run: Run, start: int, stop: int) -> Run | None:
    """The part of a run that goes to start … stop, numbered from start."""
    low, high = max(run.into.start, start), min(run.into.stop, stop)
    if low >= high:
        return None
    shift = run.source.start - run.into.start
    return Run(slice(low - start, high - start), slice(low + shift, high + shift))


def gradient(ends: Tensor, levels: list[Level], plan: Plan, *, done: int = 0) -> Tensor:
    """The adjoint of :func:`reduce`: ∂f/∂C of each unordered pair of ports of each cell, or block.

    Args:
        ends: (arrays, drivers, senses), ∂f/∂(what :func:`reduce` returned).
        levels, done: of :func:`reduce`.

    Returns:
        Of the shape of the blocks given to :func:`reduce`, symmetric with zero diagonals.
    """
    arrays = ends.shape[0]
    if not plan.joins:
        return _gradient_of_cell(ends, plan)
    down = ends.new_zeros(arrays, plan.joins[-1].ports, plan.joins[-1].ports)
    down[:, : plan.drivers, plan.drivers :] = ends
    down[:, plan.drivers :, : plan.drivers] = ends.mT
    for k in reversed(range(done, len(plan.joins))):
        join, ports = plan.joins[k], plan.ports(k)
        make = down.new_zeros if join.dropped else down.new_empty
        below = make(arrays, *plan.grid(k), ports, ports)
        _descend(down, below, levels[k - done].inside, join)
        down = below.view(-1, ports, ports)
    down = down.view(arrays, *plan.grid(done), *down.shape[1:])
    down.diagonal(dim1=3, dim2=4).zero_()
    return down


def _descend(down: Tensor, below: Tensor, inside: Tensor, join: Join) -> None:
    """From ∂f/∂C' of joined blocks to ∂f/∂C of the pairs they were."""
    outer = torch.bmm(inside, down)  # Σ_b W_cb K_ba
    inner = torch.bmm(outer, inside.mT)
    half = inner.diagonal(dim1=1, dim2=2) * 0.5
    outer = outer - half.unsqueeze(2)
    inner = inner - half.unsqueeze(2) - half.unsqueeze(1)
    first, second = _pair(below, join)
    shape = first.shape[:2]
    down = down.view(*shape, join.ports, join.ports)
    outer = outer.view(*shape, join.nodes, join.ports)
    inner = inner.view(*shape, join.nodes, join.nodes)
    for block, child in ((first, join.first), (second, join.second)):
        for a in child.outer:
            for b in child.outer:
                block[..., a.source, b.source] = down[..., a.into, b.into]
        for run in child.outer:
            part = outer[..., run.into]
            block[..., child.inner, run.source] = part
            block[..., run.source, child.inner] = part.mT
        block[..., child.inner, child.inner] = inner


def inject(sources: Tensor, levels: list[Level], plan: Plan) -> list[Tensor]:
    """Currents fed into the ports of cells, carried up to the nodes where they are needed on the way down.

    Args:
        sources: (arrays, rows, cols, 4, inputs), current into each port of each cell of the padded grid.

    Returns:
        For each join, (blocks, nodes, inputs): the current into its shared nodes.
    """
    blocks, found = sources, []
    for join, level in zip(plan.joins, levels, strict=True):
        first, second = _pair_of(blocks, join)
        nodes = (first[..., join.first.inner, :] + second[..., join.second.inner, :]).flatten(0, 1)
        found.append(nodes)
        joined = torch.bmm(level.inside.mT, nodes).view(*first.shape[:2], join.ports, -1)
        for block, child in ((first, join.first), (second, join.second)):
            for run in child.outer:
                joined[..., run.into, :] += block[..., run.source, :]
        blocks = joined.view(blocks.shape[0], *_grid(blocks, join), join.ports, -1)
    return found


def voltages(ends: Tensor, levels: list[Level], plan: Plan, injected: list[Tensor] | None = None) -> Tensor:
    """Voltages of the ports of every cell, from those of the ends of the lines.

    Args:
        ends: (arrays, ends, inputs), in the order of ``plan.order``.
        injected: from :func:`inject`; the levels then need their inverses.

    Returns:
        (arrays, rows, cols, 4, inputs) on the padded grid; open ends at its edge read 0.
    """
    arrays, _, inputs = ends.shape
    if not plan.joins:
        return _ends_of_cell(ends, plan)
    down = ends
    for k in reversed(range(len(plan.joins))):
        join = plan.joins[k]
        nodes = torch.bmm(levels[k].inside, down)
        inverse = levels[k].inverse
        if injected is not None and inverse is not None:
            nodes = nodes + torch.bmm(inverse, injected[k])
        ports = plan.ports(k)
        make = down.new_zeros if join.dropped else down.new_empty
        below = make(arrays, *plan.grid(k), ports, inputs)
        first, second = _pair_of(below, join)
        nodes = nodes.view(*first.shape[:2], join.nodes, inputs)
        down = down.view(*first.shape[:2], join.ports, inputs)
        for block, child in ((first, join.first), (second, join.second)):
            block[..., child.inner, :] = nodes
            for run in child.outer:
                block[..., run.source, :] = down[..., run.into, :]
        down = below.view(-1, ports, inputs)
    return down.view(arrays, *plan.grid(0), 4, inputs)


def _pair_of(values: Tensor, join: Join) -> tuple[Tensor, Tensor]:
    """As :func:`_pair`, for values (arrays, rows, cols, ports, inputs)."""
    arrays, rows, cols, ports, inputs = values.shape
    if join.along_columns:
        pairs = values.view(arrays * rows * (cols // 2), 2, 1, ports, inputs)
    else:
        pairs = values.view(arrays * (rows // 2), 2, cols, ports, inputs)
    return pairs[:, 0], pairs[:, 1]


def _ends_of_cell(ends: Tensor, plan: Plan) -> Tensor:
    cell = ends.new_zeros(ends.shape[0], 1, 1, 4, ends.shape[2])
    for k, port in enumerate(plan.order):
        cell[:, 0, 0, CELL_PORTS.index(port)] = ends[:, k]
    return cell


def _gradient_of_cell(ends: Tensor, plan: Plan) -> Tensor:
    cell = ends.new_zeros(ends.shape[0], 1, 1, 4, 4)
    places = [CELL_PORTS.index(port) for port in plan.order]
    for i, a in enumerate(places[: plan.drivers]):
        for j, b in enumerate(places[plan.drivers :]):
            cell[:, 0, 0, a, b] = cell[:, 0, 0, b, a] = ends[:, i, j]
    return cell
