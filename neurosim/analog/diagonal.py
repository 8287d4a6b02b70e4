"""A square weight without devices on its diagonal: outputs that get nothing from the row of their number."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neurosim.analog.realised import Realised

if TYPE_CHECKING:
    from neurosim.analog.crossbar import Crossbar


def without_diagonal(crossbar: Crossbar, realised: Realised) -> Realised:
    """What chips hold where nothing is on the diagonal.

    A pair has no devices there.  Where an offset is taken off, nothing is what the offset takes: a number's
    share, or what the column of references has in that row.
    """
    rows = torch.arange(crossbar.columns, device=realised.gain.device)
    columns = rows
    if crossbar.referenced is not None:
        columns = torch.tensor(crossbar.referenced.outputs, device=rows.device)
    matrices = [
        _with(matrix, columns, rows, _nothing(crossbar, s, realised, columns, rows))
        for s, matrix in enumerate(realised.matrices)
    ]
    legs = realised.legs
    if legs is not None:
        none = legs[0].new_zeros(())
        legs = _with(legs[0], columns, rows, none), _with(legs[1], columns, rows, none)
    return replace(realised, matrices=tuple(matrices), legs=legs)


def _with(matrix: Tensor, columns: Tensor, rows: Tensor, entries: Tensor) -> Tensor:
    """A copy with these entries, (chips, N) or a number, at (columns, rows)."""
    found = matrix.clone()
    found[:, columns, rows] = entries.to(found)
    return found


def _nothing(crossbar: Crossbar, s: int, realised: Realised, columns: Tensor, rows: Tensor) -> Tensor:
    """What a slice holds where it adds nothing, (chips, N) or a number: gains come after it."""
    parts = crossbar.layout.row_slices
    stops = torch.tensor([part.stop for part in parts], device=rows.device)
    part = s * len(parts) + torch.searchsorted(stops, rows, right=True)
    if crossbar.referenced is not None:
        references = torch.tensor(crossbar.referenced.of_outputs, device=rows.device)
        held = realised.matrices[s][:, references, rows]
        return held * realised.gain[:, part, references] / realised.gain[:, part, columns]
    if not crossbar.offset:
        return realised.gain.new_zeros(())
    return crossbar.offset / crossbar.slices / realised.gain[:, part, columns]
