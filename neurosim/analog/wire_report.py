"""What wires do to the tiles of a network, and how far the quick model of them is off."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from neurosim.analog.crossbar import Crossbar
from neurosim.analog.explain import aligned
from neurosim.analog.wiring import MODELS, blocks_of, gains, interleaved, through_wires

# a conductance below this fraction of the largest says nothing about its own loss: sneak paths hide it
_TELLING = 0.1

_HEAD = (
    "layer", "arrays", "largest", "current lost", "worst device", "weight error", "after column gains",
    "after row and column gains", "approximation off by", "at most",
)  # fmt: skip


@dataclass(frozen=True)
class WireRow:
    """One layer on the chips asked for; errors are root mean squares over all weights and chips.

    Attributes:
        name: of the layer.
        arrays: device arrays, both legs.
        rows, cols: of the largest array.
        lost: fraction of the current that all devices would carry without wires, at equal inputs.
        worst: largest fraction that one device loses, among those above a tenth of the largest conductance.
        error: of the weights that inputs see, relative to the rms of the programmed weights.
        approximation: error of the column approximation against exact, relative to the same.
        approximation_worst: its largest error, as a fraction of the largest conductance.
        columns, rows_and_columns: ``error`` left after the digital gains of that compensation, fitted to
            these very weights.
    """

    name: str
    arrays: int
    rows: int
    cols: int
    lost: float
    worst: float
    error: float
    approximation: float
    approximation_worst: float
    columns: float
    rows_and_columns: float


@dataclass(frozen=True)
class WireReport:
    """A row a layer; ``str`` is a table for people, ``to_dict`` for programs."""

    hardware: str
    wires: str
    chips: int
    layers: tuple[WireRow, ...]

    def to_dict(self) -> dict[str, object]:
        """Plain lists and dictionaries, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [_HEAD]
        for row in self.layers:
            shares = (row.lost, row.worst, row.error, row.columns, row.rows_and_columns, row.approximation)
            cells = [_percent(share) for share in (*shares, row.approximation_worst)]
            rows.append((row.name, f"{row.arrays:,}", f"{row.rows}x{row.cols}", *cells))
        chips = "1 chip" if self.chips == 1 else f"{self.chips} chips"
        return f"Wires of {self.hardware!r} ({self.wires}), {chips}:\n{aligned(rows)}"


def wire_row(crossbar: Crossbar, planes: list[list[Tensor]]) -> WireRow:
    """Both models of the wires on what devices hold: ``Crossbar.held``."""
    wires, layout, cells = crossbar.hardware.wires, crossbar.layout, crossbar.cells
    held = [[leg.clamp_min(0.0) for leg in legs] for legs in planes]
    seen = [through_wires(legs, layout, wires, MODELS["exact"]) for legs in held]
    cheap = [through_wires(legs, layout, wires, MODELS["column-approximation"]) for legs in held]
    ideal, real = cells.slices(held), cells.slices(seen)
    weight, exact, quick = (cells.mapping.value(cells.slices(legs)) for legs in (held, seen, cheap))
    norm = weight.norm().clamp_min(torch.finfo(weight.dtype).tiny)
    before, after, near = ([leg for legs in all_of for leg in legs] for all_of in (held, seen, cheap))
    largest = max(float(leg.amax()) for leg in before)
    loss = [(1 - s / h)[h >= _TELLING * largest] for s, h in zip(after, before, strict=True)]
    found = torch.cat(loss)
    total = sum(float(leg.sum()) for leg in before)
    side_by_side = interleaved(wires, cells.mapping.legs)
    arrays = cells.mapping.planes * (1 if side_by_side else cells.mapping.legs)
    shapes = [(b.rows.stop - b.rows.start, b.cols.stop - b.cols.start) for p in blocks_of(layout) for b in p]
    rows, cols = max(shapes, key=lambda shape: shape[0] * shape[1])
    worst = max(float((q - s).abs().amax()) for q, s in zip(near, after, strict=True))
    return WireRow(
        name=crossbar.name,
        arrays=len(shapes) * arrays,
        rows=rows,
        cols=cols * (2 if side_by_side else 1),
        lost=1 - sum(float(leg.sum()) for leg in after) / total if total else 0.0,
        worst=float(found.amax()) if found.numel() else 0.0,
        error=float((exact - weight).norm() / norm),
        approximation=float((quick - exact).norm() / norm),
        approximation_worst=worst / largest if largest else 0.0,
        columns=float(_left(ideal, real, crossbar, "columns") / norm),
        rows_and_columns=float(_left(ideal, real, crossbar, "rows-and-columns") / norm),
    )


def _left(
    ideal: tuple[Tensor, ...], real: tuple[Tensor, ...], crossbar: Crossbar, compensation: str
) -> Tensor:
    """Norm of the error of the weight that gains of each slice leave, over all chips."""
    left = torch.zeros_like(ideal[0])
    for share, wanted, seen in zip(crossbar.mapping.digital, ideal, real, strict=True):
        for chip in range(len(wanted)):
            columns, rows = gains(wanted[chip], seen[chip], crossbar.layout, compensation)
            for part, row_slice in enumerate(crossbar.layout.row_slices):
                corrected = seen[chip][:, row_slice] * rows[:, row_slice] * columns[part, :, None]
                left[chip][:, row_slice] += share * (corrected - wanted[chip][:, row_slice])
    return left.norm()


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"
