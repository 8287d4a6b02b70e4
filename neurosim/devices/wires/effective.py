"""The exact effective conductance of a crossbar with resistive wires."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neurosim.devices.wires.leaves import device_gradient, leaves_of, reduced
from neurosim.devices.wires.reduction import Level, Plan, Side, gradient, plan, reduce
from neurosim.errors import UsageError, unknown

# which ends of the word lines are driven, and which ends of the bit lines are sensed
TOPOLOGIES: dict[str, frozenset[Side]] = {
    "opposite": frozenset({"left", "bottom"}),
    "same": frozenset({"left", "top"}),
    "both-ends": frozenset({"left", "right", "top", "bottom"}),
    "driven-both-ends": frozenset({"left", "right", "bottom"}),
}

# Ideal wires are wires of this resistance, in units of 1 / (largest conductance × rows × columns); the
# gradient is a product of differences of voltages, and needs a drop that float64 can see.
FLOOR = {torch.float64: 1e-14, torch.float32: 1e-9}
FLOOR_WITH_GRADIENT = 1e-8
# the wire across a cell of padding, in units of the best other wire
_PASS = {torch.float64: 1e13, torch.float32: 1e7}
# Arrays are reduced together while the conductances of their cells stay below this (measured).
_BLOCK_BYTES = 8 << 20


Halves = tuple[Tensor, Tensor, Tensor, Tensor]


class Resistances(NamedTuple):
    """Of the wires of each array, in ohm; shapes broadcast against the arrays.

    Attributes:
        row, col: one segment of a word line, of a bit line.
        left, right: in series with the end segment of a word line, towards its driver.
        bottom, top: in series with the end segment of a bit line, towards its sense node.
    """

    row: Tensor
    col: Tensor
    left: Tensor
    right: Tensor
    bottom: Tensor
    top: Tensor

    def of(self, index: int) -> Resistances:
        """Those of one entry of the first axis."""
        return Resistances(*(x[index] for x in self))


def effective_conductance(
    g_siemens: Tensor,
    *,
    r_row_ohm: float | Tensor,
    r_col_ohm: float | Tensor,
    r_source_ohm: float | Tensor = 0.0,
    r_sink_ohm: float | Tensor = 0.0,
    topology: str = "opposite",
) -> Tensor:
    """What a crossbar of linear devices computes through its wires: column currents are ``v @ g_eff``.

    Device (i, j) joins word line i and bit line j.  Along a line, ``r_row_ohm`` (``r_col_ohm``) lies between
    neighbouring cells, and once more between an end cell and its driver (sense node), in series with
    ``r_source_ohm`` (``r_sink_ohm``).  Drivers are ideal voltage sources, sense nodes virtual grounds.  The
    nodal equations of this network are linear: g_eff is the block of their Kron reduction between drivers and
    sense nodes, exact up to rounding (:mod:`neurosim.devices.wires.reduction`), at O(n³) for n × n cells.

    Args:
        g_siemens: (..., rows, cols) float32 or float64, each 0 (an open device) or more.
        r_row_ohm: of one segment of a word line: a number, or a tensor that broadcasts against ``...``.
        r_col_ohm: of one segment of a bit line.
        r_source_ohm: of each driver.
        r_sink_ohm: of each sense node.
        topology: where lines are connected.  ``"opposite"``: word lines driven before column 0, bit lines
            sensed after the last row (badcrossbar's convention); ``"same"``: driven before column 0, sensed
            before row 0; ``"both-ends"``: driven and sensed at both ends (a column's two currents add up);
            ``"driven-both-ends"``: driven at both ends, sensed after the last row.

    Returns:
        Shape and type of ``g_siemens``.  With no resistance anywhere, ``g_siemens`` itself.  Gradients with
        respect to conductances and resistances are those of the adjoint network, once differentiable; with a
        resistance that requires one, everything is computed in float64, and a resistance of 0 counts as
        1e-8 of the array's.

    Raises:
        UsageError: wrong type or shape, a conductance or resistance that is negative, NaN or infinite, or an
            unknown topology.

    >>> g = torch.full((2, 2), 1e-3, dtype=torch.float64)
    >>> print((effective_conductance(g, r_row_ohm=10.0, r_col_ohm=10.0) * 1e3).numpy().round(4))
    [[0.9524 0.9432]
     [0.9617 0.9524]]
    """
    resistances = checked(g_siemens, r_row_ohm, r_col_ohm, r_source_ohm, r_sink_ohm)
    check_topology(topology)
    return effective(g_siemens, resistances, topology)


def effective(g_siemens: Tensor, resistances: Resistances, topology: str) -> Tensor:
    """:func:`effective_conductance` of checked arguments, with a resistance of its own at each end."""
    if g_siemens.numel() == 0 or ideal(resistances):
        return g_siemens
    rows, cols = g_siemens.shape[-2:]
    g = g_siemens.reshape(-1, rows, cols)
    dtype = torch.float64 if any(r.requires_grad for r in resistances) else g.dtype
    r = flat(resistances, g_siemens, dtype)
    parts = [
        _Reduced.apply(g[part].to(dtype), *(x[part] for x in r), topology)
        for part in _parts(g.shape[0], rows, cols, g.element_size())
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(g.dtype).reshape(g_siemens.shape)


def ideal(resistances: Resistances) -> bool:
    """Whether wires neither resist nor wait for a gradient."""
    return not any(r.requires_grad or bool((r > 0).any()) for r in resistances)


def flat(resistances: Resistances, g: Tensor, dtype: torch.dtype) -> Resistances:
    """Resistances of every array of ``g`` (..., rows, cols): each (arrays,)."""
    return Resistances(*(x.to(dtype).expand(g.shape[:-2]).reshape(-1) for x in resistances))


def _parts(arrays: int, rows: int, cols: int, item_bytes: int) -> list[slice]:
    step = max(1, _BLOCK_BYTES // (16 * rows * cols * item_bytes))
    return [slice(start, start + step) for start in range(0, arrays, step)]


def check_topology(topology: str) -> None:
    """UsageError unless it is one of :data:`TOPOLOGIES`."""
    if topology not in TOPOLOGIES:
        raise unknown("topology", topology, TOPOLOGIES)


def checked(g: Tensor, *resistances: float | Tensor) -> Resistances:
    """Conductances checked, and the resistances as tensors; or UsageError."""
    check_conductances(g)
    names = ("r_row_ohm", "r_col_ohm", "r_source_ohm", "r_sink_ohm")
    row, col, source, sink = [check_resistance(n, r, g) for n, r in zip(names, resistances, strict=True)]
    return Resistances(row, col, source, source, sink, sink)


def check_conductances(g: Tensor) -> None:
    """UsageError unless these are the conductances of arrays: (..., rows, cols), finite, 0 or more."""
    if not isinstance(g, Tensor) or g.dtype not in FLOOR:
        kind = g.dtype if isinstance(g, Tensor) else type(g).__name__
        raise UsageError(f"expected g_siemens as a float32 or float64 tensor; got {kind}")
    if g.dim() < 2:
        raise UsageError(f"expected g_siemens of shape (..., rows, cols); got {tuple(g.shape)}")
    if g.numel() and not bool((g.detach() >= 0).all() & g.detach().isfinite().all()):
        worst = g.detach().nan_to_num(nan=-torch.inf, posinf=-torch.inf).amin()
        found = f"{worst.item():g}" if worst.isfinite() else "NaN or infinity"
        raise UsageError(f"expected finite conductances of 0 S or more in g_siemens; got {found}")


def check_resistance(name: str, value: float | Tensor, g: Tensor) -> Tensor:
    """A resistance as a tensor that broadcasts against the arrays ``g``, or UsageError."""
    counts = isinstance(value, Tensor) and value.dtype != torch.bool and not value.is_complex()
    if not counts and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise UsageError(f"expected {name} as a number or a tensor of numbers; got {value!r}")
    if isinstance(value, Tensor):
        r = value.to(g.device) if value.is_floating_point() else value.to(g.device, torch.float64)
    else:  # in float64: 0.1 is not what float32 makes of it
        number = float(value) if value <= sys.float_info.max else math.inf
        r = torch.tensor(number, dtype=torch.float64, device=g.device)
    if not bool((r.detach() >= 0).all() & r.detach().isfinite().all()):
        raise UsageError(f"expected a finite resistance of 0 ohm or more; got {name}={value!r}")
    batch = g.shape[:-2]
    try:
        fits = torch.broadcast_shapes(r.shape, batch) == batch
    except RuntimeError:
        fits = False
    if not fits:
        raise UsageError(f"expected {name} to broadcast against arrays {tuple(batch)}; got {tuple(r.shape)}")
    return r


class _Reduced(torch.autograd.Function):
    """Effective conductances of arrays (arrays, rows, cols); arguments 1 to 6: resistances, (arrays,)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, *rest: Any) -> Tensor:
        r, topology = Resistances(*rest[:6]), rest[6]
        unit = unit_of(g)
        steps = plan(*g.shape[1:], TOPOLOGIES[topology])
        floor = FLOOR_WITH_GRADIENT if any(ctx.needs_input_grad[1:7]) else FLOOR[g.dtype]
        keep = any(ctx.needs_input_grad)
        leaves = None if any(ctx.needs_input_grad[1:7]) else leaves_of(steps, g.device)
        halves = half_segments(g, r, unit, floor, topology, steps)
        if leaves is None:
            ends, levels = reduce(
                cells(padded(g / unit[:, None, None], steps), halves), steps, keep_levels=keep
            )
        else:
            blocks = reduced(padded(g / unit[:, None, None], steps), halves, leaves)
            ends, levels = reduce(blocks, steps, done=leaves.joins, keep_levels=keep)
        if keep:
            ctx.save_for_backward(g, *r, unit, *(level.inside for level in levels))
        ctx.topology, ctx.floor, ctx.leaves = topology, floor, leaves
        return _summed(ends, *g.shape[1:]) * unit[:, None, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        g, *rest = ctx.saved_tensors
        r, unit = rest[:6], rest[6]
        levels = [Level(inside, None) for inside in rest[7:]]
        steps = plan(*g.shape[1:], TOPOLOGIES[ctx.topology])
        ends = _spread(grads[0] * unit[:, None, None], steps)
        if ctx.leaves is not None:
            down = gradient(ends, levels, steps, done=ctx.leaves.joins)
            halves = half_segments(g, Resistances(*r), unit, ctx.floor, ctx.topology, steps)
            found_g = device_gradient(padded(g / unit[:, None, None], steps), halves, ctx.leaves, down)
            return (unpadded(found_g, steps) / unit[:, None, None], *[None] * 7)
        down = gradient(ends, levels, steps)
        wanted = [k for k, needed in enumerate(ctx.needs_input_grad[:7]) if needed]
        inputs = [x.detach().requires_grad_(k in wanted) for k, x in enumerate((g, *r))]
        with torch.enable_grad():
            halves = half_segments(g, Resistances(*inputs[1:]), unit, ctx.floor, ctx.topology, steps)
            out = cells(padded(inputs[0] / unit[:, None, None], steps), halves)
            # a pair of ports stands twice in the symmetric matrix of a cell
            # resistances of ends that are open are not used
            found = torch.autograd.grad(out, [inputs[k] for k in wanted], 0.5 * down, allow_unused=True)
        result: list[Tensor | None] = [None] * 8
        for k, value in zip(wanted, found, strict=True):
            result[k] = value
        return tuple(result)


def unit_of(g: Tensor) -> Tensor:
    """The largest conductance of each array, (arrays,), in whose units it is reduced; 1 S if all are open."""
    largest = g.detach().amax(dim=(1, 2))
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def _summed(ends: Tensor, rows: int, cols: int) -> Tensor:
    """Currents of all ends of a line together: (arrays, rows, cols)."""
    if ends.shape[1] > rows:
        ends = ends[:, :rows] + ends[:, rows:]
    return ends if ends.shape[2] == cols else ends[..., :cols] + ends[..., cols:]


def _spread(grad: Tensor, steps: Plan) -> Tensor:
    """The adjoint of :func:`_summed`."""
    rows, cols = grad.shape[1:]
    return grad.repeat(1, steps.drivers // rows, (len(steps.order) - steps.drivers) // cols)


def cells(g: Tensor, halves: Halves) -> Tensor:
    """Mutual conductances between the four ports of each cell, from padded devices and half segments.

    A cell is the device between its word-line node w and its bit-line node b, with half a segment of wire to
    each neighbour (a whole one, and the driver or sense node, at a connected end; nothing at an open end).
    Eliminating w, then b, by the star-mesh transform:

        s_w = g_left + g_right + g
        s_b = g_top + g_bottom + (g_left + g_right)·g/s_w

    Returns:
        (arrays, padded rows, padded cols, 4, 4) in the order of ``CELL_PORTS``, zero diagonals.
    """
    left, right, top, bottom = halves
    word = (left + right + g).reciprocal()
    to_left, to_right = left * word * g, right * word * g
    bit = (top + bottom + to_left + to_right).reciprocal()
    t, b = top * bit, bottom * bit
    top_left, top_right, bottom_left, bottom_right = t * to_left, t * to_right, b * to_left, b * to_right
    top_bottom = t * bottom
    left_right = left * word * right + to_left * (to_right * bit)
    none = torch.zeros_like(g)
    pairs = (
        none, top_left, top_bottom.expand_as(g), top_right,
        top_left, none, bottom_left, left_right,
        top_bottom.expand_as(g), bottom_left, none, bottom_right,
        top_right, left_right, bottom_right, none,
    )  # fmt: skip
    return torch.stack(pairs, dim=-1).unflatten(-1, (4, 4))


def connected(r: Resistances, topology: str) -> dict[Side, Tensor | None]:
    """What lies in series with each end of the lines; None where that end is open."""
    ends = TOPOLOGIES[topology]
    series = {"left": r.left, "right": r.right, "bottom": r.bottom, "top": r.top}
    return {side: value if side in ends else None for side, value in series.items()}


def half_segments(
    g: Tensor, r: Resistances, unit: Tensor, floor: float, topology: str, steps: Plan
) -> Halves:
    """Conductances of the wire from each cell's nodes to the left, to the right, up and down.

    In units of ``unit``; the first two are (arrays, 1, padded cols), the others (arrays, padded rows, 1).
    """
    floor_ohm = floor / (g.shape[1] * g.shape[2])
    end = connected(r, topology)
    row, col = r.row * unit, r.col * unit
    at = {side: None if series is None else series * unit for side, series in end.items()}
    left, right = _halves(row, at["left"], at["right"], steps.cols, floor_ohm, g)
    top, bottom = _halves(col, at["top"], at["bottom"], steps.rows, floor_ohm, g)
    return left.unsqueeze(1), right.unsqueeze(1), top.unsqueeze(2), bottom.unsqueeze(2)


def _halves(
    segment: Tensor,
    first: Tensor | None,
    final: Tensor | None,
    cells: tuple[int, ...],
    floor_ohm: float,
    g: Tensor,
) -> tuple[Tensor, Tensor]:
    """Conductances from the node of each cell along a line towards its start and towards its stop.

    ``segment`` and the ends are (arrays,), in ohm × unit; an end that is None is open.  Returns two tensors
    (arrays, cells of the line).
    """
    places = torch.tensor(cells, device=g.device)
    last = int(places.amax())
    half = (2.0 / _at_least(segment, floor_ohm)).unsqueeze(1)
    across = _PASS[g.dtype] * torch.maximum(half.detach(), 1 / half.detach())
    usual = torch.where(places < 0, across, half)

    def end(series: Tensor | None) -> Tensor:
        if series is None:
            return torch.zeros_like(half)
        return _at_least(segment + series, floor_ohm).reciprocal().unsqueeze(1)

    return torch.where(places == 0, end(first), usual), torch.where(places == last, end(final), usual)


def _at_least(resistance: Tensor, floor_ohm: float) -> Tensor:
    """max(resistance, floor), with gradient 1 everywhere."""
    return resistance + (floor_ohm - resistance.detach()).clamp_min(0.0)


def padded(g: Tensor, steps: Plan) -> Tensor:
    """Values (arrays, rows, cols) of cells on the padded grid; padding holds 0."""
    for dim, cells in ((1, steps.rows), (2, steps.cols)):
        if len(cells) > g.shape[dim]:
            places = torch.tensor(cells, device=g.device)
            live = (places >= 0).to(g.dtype)
            g = g.index_select(dim, places.clamp_min(0)) * (live[:, None] if dim == 1 else live)
    return g


def unpadded(values: Tensor, steps: Plan) -> Tensor:
    """The cells (arrays, rows, cols) of values on the padded grid."""
    for dim, cells in ((1, steps.rows), (2, steps.cols)):
        live = [k for k, place in enumerate(cells) if place >= 0]
        if len(live) < len(cells):
            values = values.index_select(dim, torch.tensor(live, device=values.device))
    return values
