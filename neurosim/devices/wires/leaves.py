"""The first joins of a reduction as one CPU kernel: which joins, and their tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from neurosim.devices.wires.reduction import CELL_PORTS, Plan

_MOST_PORTS = 32  # an 8x8 leaf: sixteen of them, all levels, fill half a megabyte in float32


@dataclass(frozen=True)
class Leaves:
    """The joins that make leaves of ``height`` × ``width`` padded cells, and the tables the kernels read."""

    joins: int
    height: int
    width: int
    ports: int
    table: np.ndarray
    origin: np.ndarray
    offsets: np.ndarray
    x_offsets: np.ndarray


def leaves_of(plan: Plan, device: torch.device) -> Leaves | None:
    """As many joins from the bottom as fit a leaf; None where there are none, or off the CPU."""
    return _leaves(plan) if device.type == "cpu" else None


@cache
def _leaves(plan: Plan) -> Leaves | None:
    count = 0
    while count + 1 < len(plan.joins) and plan.joins[count].ports <= _MOST_PORTS:
        count += 1
    if count == 0:
        return None
    joins = plan.joins[:count]
    height = 2 ** sum(not join.along_columns for join in joins)
    width = 2 ** sum(join.along_columns for join in joins)
    table, origin = np.zeros((count, 6), np.int64), np.zeros((count, _MOST_PORTS, 2), np.int64)
    offsets, x_offsets = [0], [0]
    blocks, child = height * width, len(CELL_PORTS)
    for k, join in enumerate(joins):
        starts = join.first.inner.start, join.second.inner.start
        table[k] = join.along_columns, child, join.nodes, join.ports, *starts
        for which, part in enumerate((join.first, join.second)):
            for run in part.outer:
                origin[k, run.into, 0] = which
                origin[k, run.into, 1] = np.arange(run.source.start, run.source.stop)
        offsets.append(offsets[-1] + blocks * child**2)
        blocks //= 2
        x_offsets.append(x_offsets[-1] + blocks * join.nodes * join.ports)
        child = join.ports
    offsets.append(offsets[-1] + child**2)
    return Leaves(count, height, width, child, table, origin, np.array(offsets), np.array(x_offsets))


Lines = tuple[Tensor, Tensor, Tensor, Tensor]


def reduced(g: Tensor, halves: Lines, leaves: Leaves) -> Tensor:
    """Blocks (arrays, rows, cols of leaves, ports, ports) of padded devices g, (arrays, R, C) in units."""
    from neurosim.devices.wires.kernels import reduce_leaves

    arrays, rows, cols = g.shape
    grid = rows // leaves.height, cols // leaves.width
    out = torch.empty(arrays * grid[0] * grid[1], leaves.ports, leaves.ports, dtype=g.dtype)
    reduce_leaves(*_arguments(g, halves, leaves), out.numpy())
    return out.view(arrays, *grid, leaves.ports, leaves.ports)


def device_gradient(g: Tensor, halves: Lines, leaves: Leaves, down: Tensor) -> Tensor:
    """∂f/∂g, (arrays, R, C) in units, from ∂f/∂C of the leaves (arrays, rows, cols, ports, ports)."""
    from neurosim.devices.wires.kernels import gradient_leaves

    out = torch.empty_like(g)
    blocks = down.reshape(-1, leaves.ports, leaves.ports).contiguous()
    gradient_leaves(*_arguments(g, halves, leaves), blocks.numpy(), out.numpy())
    return out


def _arguments(g: Tensor, halves: Lines, leaves: Leaves) -> tuple[object, ...]:
    from neurosim.random import follow_torch_threads

    follow_torch_threads()
    lines = (half.flatten(1).expand(g.shape[0], -1).contiguous().numpy() for half in halves)
    tables = leaves.table, leaves.origin, leaves.offsets, leaves.x_offsets
    return (g.contiguous().numpy(), *lines, *tables, leaves.height, leaves.width)
