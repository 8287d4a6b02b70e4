"""What a chip's digital part corrects: drift by a factor a tile or a column, or gain and offset by a fit."""

from __future__ import annotations

import torch
from torch import Tensor

from neurosim.analog.fused import magnitudes
from neurosim.analog.operators import Layout


def global_gain(held: Tensor, fresh: Tensor, layout: Layout) -> Tensor:
    """One factor a chip and tile, (chips, row parts, columns).

        α = Σ|w(just programmed)| / Σ|w(now)|

    over the devices of a tile, as a periodic readout of the tile's total conductance would measure it
    (Joshi et al. 2020, doi:10.1038/s41467-020-16108-9).  No gradient through α.

    Args:
        held, fresh: what bit lines deliver now and right after programming, (chips, columns, rows).
    """
    reference, present = (magnitudes(matrix.detach(), layout.row_slices) for matrix in (fresh, held))
    gain = held.new_ones(reference.shape)
    for left, right in layout.col_ranges:
        tiles = (totals[:, :, left:right].sum(dim=2) for totals in (reference, present))
        gain[:, :, left:right] = ratio(*tiles)[:, :, None]
    return gain


def per_column_gain(held: Tensor, fresh: Tensor, layout: Layout) -> Tensor:
    """The same with a factor a column of each tile: as many readouts as columns."""
    reference, present = (magnitudes(matrix.detach(), layout.row_slices) for matrix in (fresh, held))
    return ratio(reference, present)


def fitted(y: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset of each column by least squares, (chips, columns) each.

        min over a, b of Σ_v (wanted_vj − a_j·y_vj − b_j)²

    The same as a linear regression in closed form: a = cov(y, wanted)/var(y), b = mean(wanted) − a·mean(y).
    A column that always gives, or should always give, the same keeps a = 1.

    Args:
        y: what chips gave, (chips, vectors, columns).
        wanted: what they should have given, (vectors, columns).
    """
    y, wanted = y.double(), wanted.double()
    mean, target = y.mean(1), wanted.mean(0)
    centred = y - mean[:, None]
    variance = centred.square().sum(1)
    slope = (centred * (wanted - target)).sum(1) / variance
    tells = (variance > 0) & ((wanted - target).square().sum(0) > 0)
    gain = torch.where(tells, slope, torch.ones_like(slope))
    return gain.float(), (target - gain * mean).float()


def total(matrix: Tensor) -> Tensor:
    """Σ|w| of each chip, (chips,): one pass, no copy.

    In two steps, because torch splits a sum over everything among its threads, but not one of many sums:
    a chip's total must not depend on whether it is the only one.
    """
    return torch.linalg.vector_norm(matrix.detach(), ord=1, dim=2).sum(dim=1)


def ratio(reference: Tensor, present: Tensor) -> Tensor:
    """reference/present, 1 where nothing is left."""
    return torch.where(present > 0, reference / present, torch.ones_like(present))
