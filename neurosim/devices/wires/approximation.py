"""IR drop to first order in the wire resistance, at the price of a few cumulative sums."""

from __future__ import annotations

import torch
from torch import Tensor

from neurosim.devices.wires.effective import Resistances, check_topology, checked, connected


def approximate_conductance(
    g_siemens: Tensor,
    *,
    r_row_ohm: float | Tensor,
    r_col_ohm: float | Tensor,
    r_source_ohm: float | Tensor = 0.0,
    r_sink_ohm: float | Tensor = 0.0,
    topology: str = "opposite",
) -> Tensor:
    """Every device sees its own word line and its own bit line, each alone: O(n²) instead of O(n³).

        g_eff = g / ((1 + δ_row)·(1 + δ_col))

    δ_row is the relative voltage drop from the driver to the cell if every device of the word line took its
    current at full voltage with bit lines grounded; δ_col is the same for the bit line in the adjoint
    network.  Exact to first order in the resistances; there are no sneak paths: an open device stays open.
    What is commonly done (aihwkit's polynomial, one column at a time) is of this kind; ``neurosim explain
    --wires`` measures the error on a user's own tiles.

    Args, shapes, errors: as :func:`neurosim.devices.wires.effective_conductance`; differentiable by autograd.

    >>> g = torch.full((2, 2), 1e-3, dtype=torch.float64)
    >>> print((approximate_conductance(g, r_row_ohm=10.0, r_col_ohm=10.0) * 1e3).numpy().round(4))
    [[0.9518 0.9426]
     [0.9612 0.9518]]
    """
    resistances = checked(g_siemens, r_row_ohm, r_col_ohm, r_source_ohm, r_sink_ohm)
    check_topology(topology)
    return approximate(g_siemens, resistances, topology)


def approximate(g: Tensor, resistances: Resistances, topology: str) -> Tensor:
    """:func:`approximate_conductance` of checked arguments, with a resistance of its own at each end."""
    if g.numel() == 0:
        return g
    r = Resistances(*(x.to(g.dtype).unsqueeze(-1) for x in resistances))
    end = connected(r, topology)
    row = _drop(g, r.row, end["left"], end["right"])
    col = _drop(g.mT, r.col, end["top"], end["bottom"]).mT
    return g / ((1.0 + row) * (1.0 + col))


def _drop(g: Tensor, segment: Tensor, first: Tensor | None, final: Tensor | None) -> Tensor:
    """Relative voltage drop at each cell of lines (..., lines, cells), if devices take full current."""
    if first is None:
        assert final is not None  # every line has an end
        return _drop(g.flip(-1), segment, final, None).flip(-1)
    cells = g.shape[-1]
    passed = g.cumsum(-1)  # current taken up to and with each cell
    total = passed[..., -1:]
    # Σ over the segments up to a cell of the current that earlier cells have taken from the wire
    taken = (passed.cumsum(-1) - passed) * segment.unsqueeze(-1)
    place = torch.arange(1, cells + 1, dtype=g.dtype, device=g.device)
    along = place * segment.unsqueeze(-1) + first.unsqueeze(-1)
    if final is None:
        return along * total - taken
    # driven at both ends: the current from the start is the one that leaves no drop from end to end; without
    # any resistance, the one of equal segments
    ohm = torch.where(segment + first + final > 0, segment, torch.ones_like(segment)).unsqueeze(-1)
    last = ohm + final.unsqueeze(-1)
    lost = (passed.cumsum(-1) - passed)[..., -1:] * ohm
    from_start = (lost + total * last) / (cells * ohm + first.unsqueeze(-1) + last)
    return along * from_start - taken
