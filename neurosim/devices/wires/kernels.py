"""CPU kernels that join the smallest blocks of a crossbar, for which torch would call a library each.

The fused twins of :func:`neurosim.devices.wires.effective.cells` with the first joins of
:func:`neurosim.devices.wires.reduction.reduce`, and of their adjoint; the torch operations remain the
definition, and tests compare the two.  A *leaf* is the block that these joins make (8×8 cells as a rule).
Sixteen leaves lie side by side in the last axis of every scratch array, so that each operation is one vector
instruction or two and a leaf's numbers do not depend on the leaves beside it; the scratch of a task stays in
the second-level cache.

Shapes: leaves of height × width padded cells; g (arrays, R, C) and the half segments left, right (arrays, C),
top, bottom (arrays, R) in units of the array.  ``table`` (joins, 6) holds along_columns, child ports, nodes,
ports, and the first shared port of either child; ``origin`` (joins, ports, 2) which child and which of its
ports each port was; ``offsets`` and ``x_offsets`` where the blocks and the X of each level begin.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from neurosim.philox import kernel, parallel_kernel

LANES = 16
TOP, LEFT, BOTTOM, RIGHT = 0, 1, 2, 3  # CELL_PORTS of reduction.py


@kernel
def _cell(block, g, left, right, top, bottom):  # type: ignore[no-untyped-def]
    """Mutual conductances between the four ports of a cell: block (4, 4, LANES), the others (LANES,)."""
    for v in range(LANES):
        word = 1 / (left[v] + right[v] + g[v])
        to_left, to_right = left[v] * word * g[v], right[v] * word * g[v]
        bit = 1 / (top[v] + bottom[v] + to_left + to_right)
        t, b = top[v] * bit, bottom[v] * bit
        block[TOP, TOP, v] = block[LEFT, LEFT, v] = block[BOTTOM, BOTTOM, v] = block[RIGHT, RIGHT, v] = 0
        block[TOP, LEFT, v] = block[LEFT, TOP, v] = t * to_left
        block[TOP, RIGHT, v] = block[RIGHT, TOP, v] = t * to_right
        block[BOTTOM, LEFT, v] = block[LEFT, BOTTOM, v] = b * to_left
        block[BOTTOM, RIGHT, v] = block[RIGHT, BOTTOM, v] = b * to_right
        block[TOP, BOTTOM, v] = block[BOTTOM, TOP, v] = t * bottom[v]
        block[LEFT, RIGHT, v] = block[RIGHT, LEFT, v] = left[v] * word * right[v] + to_left * (to_right * bit)


@kernel
def _cell_gradient(block, g, left, right, top, bottom, out):  # type: ignore[no-untyped-def]
    """∂f/∂g = −Σ_{a<b} K_ab·d_a·d_b, d_a the device's voltage for one volt at port a; K in block."""
    for v in range(LANES):
        across = left[v] + right[v]
        word = 1 / (across + g[v])
        bit = 1 / (top[v] + bottom[v] + across * word * g[v])
        at_rows, at_cols = word * (top[v] + bottom[v]) * bit, -across * word * bit
        d_left, d_right = left[v] * at_rows, right[v] * at_rows
        d_top, d_bottom = top[v] * at_cols, bottom[v] * at_cols
        total = block[LEFT, RIGHT, v] * d_left * d_right + block[TOP, BOTTOM, v] * d_top * d_bottom
        total += (block[TOP, LEFT, v] * d_top + block[BOTTOM, LEFT, v] * d_bottom) * d_left
        total += (block[TOP, RIGHT, v] * d_top + block[BOTTOM, RIGHT, v] * d_bottom) * d_right
        out[v] = -total


# Arithmetic of sixteen leaves at once; inlined, so that each is the loop it looks like.


@njit(inline="always")
def _zero(target):  # type: ignore[no-untyped-def]
    for v in range(LANES):
        target[v] = 0


@njit(inline="always")
def _copy(target, source):  # type: ignore[no-untyped-def]
    for v in range(LANES):
        target[v] = source[v]


@njit(inline="always")
def _add(target, source):  # type: ignore[no-untyped-def]
    for v in range(LANES):
        target[v] += source[v]


@njit(inline="always")
def _add_product(target, a, b):  # type: ignore[no-untyped-def]
    for v in range(LANES):
        target[v] += a[v] * b[v]


@njit(inline="always")
def _subtract_product(target, a, b):  # type: ignore[no-untyped-def]
    for v in range(LANES):
        target[v] -= a[v] * b[v]


@kernel
def _invert(matrix, nodes):  # type: ignore[no-untyped-def]
    """Gauss-Jordan in place, matrix (nodes, nodes, LANES)."""
    for k in range(nodes):
        pivot = matrix[k, k]
        for v in range(LANES):
            pivot[v] = 1 / pivot[v]
        for j in range(nodes):
            if j != k:
                for v in range(LANES):
                    matrix[k, j, v] *= pivot[v]
        for i in range(nodes):
            if i != k:
                _eliminate_row(matrix, nodes, i, k)


@kernel
def _eliminate_row(matrix, nodes, i, k):  # type: ignore[no-untyped-def]
    for j in range(nodes):
        if j != k:
            _subtract_product(matrix[i, j], matrix[i, k], matrix[k, j])
    for v in range(LANES):
        matrix[i, k, v] *= -matrix[k, k, v]


@kernel
def _laplacian(first, second, shared, coupling, nodes, ports, a0, b0):  # type: ignore[no-untyped-def]
    """Λ of the shared nodes, into shared (nodes, nodes, LANES)."""
    for i in range(nodes):
        total = shared[i, i]
        _zero(total)
        for e in range(ports):
            _add(total, coupling[i, e])
        for j in range(nodes):
            if j != i:
                for v in range(LANES):
                    between = first[a0 + i, a0 + j, v] + second[b0 + i, b0 + j, v]
                    total[v] += between
                    shared[i, j, v] = -between


@kernel
def _join(first, second, out, inside, shared, coupling, row, origin):  # type: ignore[no-untyped-def]
    """One join: out (ports, ports, LANES) and X in inside (nodes, ports, LANES)."""
    nodes, ports, a0, b0 = row[2], row[3], row[4], row[5]
    for i in range(nodes):
        for e in range(ports):
            if origin[e, 0] == 0:
                _copy(coupling[i, e], first[a0 + i, origin[e, 1]])
            else:
                _copy(coupling[i, e], second[b0 + i, origin[e, 1]])
    _laplacian(first, second, shared, coupling, nodes, ports, a0, b0)
    _invert(shared, nodes)
    for i in range(nodes):
        for e in range(ports):
            _zero(inside[i, e])
            for j in range(nodes):
                _add_product(inside[i, e], shared[i, j], coupling[j, e])
    _joined(first, second, out, inside, coupling, nodes, ports, origin)


@kernel
def _joined(first, second, out, inside, coupling, nodes, ports, origin):  # type: ignore[no-untyped-def]
    """C'_EE = C_EE + C_EI X."""
    for e in range(ports):
        _zero(out[e, e])
        for f in range(e + 1, ports):
            entry = out[e, f]
            if origin[e, 0] != origin[f, 0]:
                _zero(entry)
            elif origin[e, 0] == 0:
                _copy(entry, first[origin[e, 1], origin[f, 1]])
            else:
                _copy(entry, second[origin[e, 1], origin[f, 1]])
            for i in range(nodes):
                _add_product(entry, coupling[i, e], inside[i, f])
            _copy(out[f, e], entry)


@kernel
def _descend(down, first, second, inside, inner, outer, row, origin):  # type: ignore[no-untyped-def]
    """The adjoint of :func:`_join`: from K of the joined block, down, to K of both children."""
    child, nodes, ports, a0, b0 = row[1], row[2], row[3], row[4], row[5]
    for i in range(nodes):
        for e in range(ports):
            _zero(outer[i, e])
            for f in range(ports):
                _add_product(outer[i, e], inside[i, f], down[f, e])
        for j in range(i + 1):
            _zero(inner[i, j])
            for e in range(ports):
                _add_product(inner[i, j], outer[i, e], inside[j, e])
    first[:child, :child] = 0  # ports that were dropped carry nothing
    second[:child, :child] = 0
    _descend_nodes(first, second, inner, outer, nodes, ports, a0, b0, origin)
    for e in range(ports):
        for f in range(ports):
            if origin[e, 0] == origin[f, 0] == 0:
                _copy(first[origin[e, 1], origin[f, 1]], down[e, f])
            elif origin[e, 0] == origin[f, 0]:
                _copy(second[origin[e, 1], origin[f, 1]], down[e, f])


@kernel
def _descend_nodes(first, second, inner, outer, nodes, ports, a0, b0, origin):  # type: ignore[no-untyped-def]
    """K of pairs with a shared node: W_c K W_d − ½(W_c K W_c + W_d K W_d)."""
    half = first.dtype.type(0.5)
    for i in range(nodes):
        for j in range(i):
            for v in range(LANES):
                value = inner[i, j, v] - half * (inner[i, i, v] + inner[j, j, v])
                first[a0 + i, a0 + j, v] = first[a0 + j, a0 + i, v] = value
                second[b0 + i, b0 + j, v] = second[b0 + j, b0 + i, v] = value
        for e in range(ports):
            for v in range(LANES):
                outer[i, e, v] -= half * inner[i, i, v]
            if origin[e, 0] == 0:
                _copy(first[a0 + i, origin[e, 1]], outer[i, e])
                _copy(first[origin[e, 1], a0 + i], outer[i, e])
            else:
                _copy(second[b0 + i, origin[e, 1]], outer[i, e])
                _copy(second[origin[e, 1], b0 + i], outer[i, e])


@kernel
def _gather(g, left, right, top, bottom, cell, r, c, height, width, start, leaves):  # type: ignore[no-untyped-def]
    """One cell of sixteen leaves: cell (5, LANES) receives g and its half segments; the last leaf repeats."""
    up, across = g.shape[1] // height, g.shape[2] // width
    for v in range(LANES):
        leaf = min(start + v, leaves - 1)
        array, rest = leaf // (up * across), leaf % (up * across)
        i, j = rest // across * height + r, rest % across * width + c
        cell[0, v] = g[array, i, j]
        cell[1, v], cell[2, v] = left[array, j], right[array, j]
        cell[3, v], cell[4, v] = top[array, i], bottom[array, i]


@kernel
def _pair(k, along_columns, cols):  # type: ignore[no-untyped-def]
    """The two blocks that become block k of a grid of so many columns."""
    if along_columns:
        return 2 * k, 2 * k + 1
    row, col = k // cols, k % cols
    return 2 * row * cols + col, (2 * row + 1) * cols + col


@kernel
def _climb(blocks, offsets, insides, x_offsets, shared, coupling, table, origin, height, width):  # type: ignore[no-untyped-def]
    """All joins of sixteen leaves, level after level; every level is kept."""
    rows, cols = height, width
    for level in range(table.shape[0]):
        row = table[level]
        if row[0]:
            cols //= 2
        else:
            rows //= 2
        child, nodes, ports = row[1], row[2], row[3]
        below, above, x = offsets[level], offsets[level + 1], x_offsets[level]
        for k in range(rows * cols):
            a, b = _pair(k, row[0], cols)
            first = blocks[below + a * child * child : below + (a + 1) * child * child].reshape(
                child, child, LANES
            )
            second = blocks[below + b * child * child : below + (b + 1) * child * child].reshape(
                child, child, LANES
            )
            out = blocks[above + k * ports * ports : above + (k + 1) * ports * ports].reshape(
                ports, ports, LANES
            )
            inside = insides[x + k * nodes * ports : x + (k + 1) * nodes * ports].reshape(nodes, ports, LANES)
            _join(first, second, out, inside, shared, coupling, row, origin[level])


# What a task does is a function of its own, compiled once without prange: that takes a third of the time.


@kernel
def _leaves_of_task(  # type: ignore[no-untyped-def]
    g,
    left,
    right,
    top,
    bottom,
    table,
    origin,
    offsets,
    x_offsets,
    height,
    width,
    start,
    leaves,
    blocks,
    insides,
):
    """Blocks of every level and X of every join of sixteen leaves."""
    nodes, ports = table[:, 2].max(), table[:, 3].max()
    shared, coupling = np.empty((nodes, nodes, LANES), g.dtype), np.empty((nodes, ports, LANES), g.dtype)
    cell = np.empty((5, LANES), g.dtype)
    for r in range(height):
        for c in range(width):
            k = (r * width + c) * 16
            _gather(g, left, right, top, bottom, cell, r, c, height, width, start, leaves)
            _cell(blocks[k : k + 16].reshape(4, 4, LANES), cell[0], cell[1], cell[2], cell[3], cell[4])
    _climb(blocks, offsets, insides, x_offsets, shared, coupling, table, origin, height, width)


@kernel
def _fall(blocks, offsets, insides, x_offsets, table, origin):  # type: ignore[no-untyped-def]
    """The adjoint of :func:`_climb`, level after level, in place of the blocks."""
    nodes, ports = table[:, 2].max(), table[:, 3].max()
    shared, coupling = (
        np.empty((nodes, nodes, LANES), blocks.dtype),
        np.empty((nodes, ports, LANES), blocks.dtype),
    )
    rows, cols = 1, 1
    for level in range(table.shape[0] - 1, -1, -1):
        row = table[level]
        child, n, p = row[1], row[2], row[3]
        below, above, x = offsets[level], offsets[level + 1], x_offsets[level]
        for k in range(rows * cols):
            a, b = _pair(k, row[0], cols)
            first = blocks[below + a * child * child : below + (a + 1) * child * child].reshape(
                child, child, LANES
            )
            second = blocks[below + b * child * child : below + (b + 1) * child * child].reshape(
                child, child, LANES
            )
            down = blocks[above + k * p * p : above + (k + 1) * p * p].reshape(p, p, LANES)
            inside = insides[x + k * n * p : x + (k + 1) * n * p].reshape(n, p, LANES)
            _descend(down, first, second, inside, shared, coupling, row, origin[level])
        if row[0]:
            cols *= 2
        else:
            rows *= 2


@kernel
def _reduce_task(  # type: ignore[no-untyped-def]
    g, left, right, top, bottom, table, origin, offsets, x_offsets, height, width, out, start
):
    leaves, ports = out.shape[0], out.shape[1]
    blocks, insides = np.empty((offsets[-1], LANES), g.dtype), np.empty((x_offsets[-1], LANES), g.dtype)
    _leaves_of_task(
        g,
        left,
        right,
        top,
        bottom,
        table,
        origin,
        offsets,
        x_offsets,
        height,
        width,
        start,
        leaves,
        blocks,
        insides,
    )
    done = blocks[offsets[-2] : offsets[-1]].reshape(ports, ports, LANES)
    for v in range(min(LANES, leaves - start)):
        for e in range(ports):
            for f in range(ports):
                out[start + v, e, f] = done[e, f, v]


@kernel
def _gradient_task(  # type: ignore[no-untyped-def]
    g, left, right, top, bottom, table, origin, offsets, x_offsets, height, width, down, out, start
):
    leaves, ports = down.shape[0], down.shape[1]
    up, across = g.shape[1] // height, g.shape[2] // width
    blocks, insides = np.empty((offsets[-1], LANES), g.dtype), np.empty((x_offsets[-1], LANES), g.dtype)
    _leaves_of_task(
        g,
        left,
        right,
        top,
        bottom,
        table,
        origin,
        offsets,
        x_offsets,
        height,
        width,
        start,
        leaves,
        blocks,
        insides,
    )
    whole = blocks[offsets[-2] : offsets[-1]].reshape(ports, ports, LANES)
    for v in range(LANES):
        leaf = min(start + v, leaves - 1)
        for e in range(ports):
            for f in range(ports):
                whole[e, f, v] = down[leaf, e, f]
    _fall(blocks, offsets, insides, x_offsets, table, origin)
    cell, found = np.empty((5, LANES), g.dtype), np.empty(LANES, g.dtype)
    for r in range(height):
        for c in range(width):
            k = (r * width + c) * 16
            _gather(g, left, right, top, bottom, cell, r, c, height, width, start, leaves)
            block = blocks[k : k + 16].reshape(4, 4, LANES)
            _cell_gradient(block, cell[0], cell[1], cell[2], cell[3], cell[4], found)
            for v in range(min(LANES, leaves - start)):
                leaf = start + v
                rest = leaf % (up * across)
                out[leaf // (up * across), rest // across * height + r, rest % across * width + c] = found[v]


@parallel_kernel
def reduce_leaves(  # type: ignore[no-untyped-def]
    g, left, right, top, bottom, table, origin, offsets, x_offsets, height, width, out
):
    """Mutual conductances of every leaf between its ports, into out (leaves, ports, ports)."""
    for task in prange((out.shape[0] + LANES - 1) // LANES):
        _reduce_task(
            g, left, right, top, bottom, table, origin, offsets, x_offsets, height, width, out, task * LANES
        )


@parallel_kernel
def gradient_leaves(  # type: ignore[no-untyped-def]
    g, left, right, top, bottom, table, origin, offsets, x_offsets, height, width, down, out
):
    """From ∂f/∂C of leaves, down (leaves, ports, ports), to ∂f/∂g of their devices, out (arrays, R, C)."""
    for task in prange((down.shape[0] + LANES - 1) // LANES):
        _gradient_task(
            g,
            left,
            right,
            top,
            bottom,
            table,
            origin,
            offsets,
            x_offsets,
            height,
            width,
            down,
            out,
            task * LANES,
        )
