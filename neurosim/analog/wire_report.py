"""What wires do to the tiles of a network, and how far the quick model of them is off."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from neurosim.analog.crossbar import Crossbar
from neurosim.analog.explain import aligned
from neurosim.analog.wiring import MODELS, blocks_of, gains, through_wires

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


def wire_row(crossbar: Crossbar, plus: Tensor, minus: Tensor) -> WireRow:
    """Both models of the wires on what devices hold, (chips, columns, rows) siemens each."""
    wires, layout = crossbar.hardware.wires, crossbar.layout
    held = (plus.clamp_min(0.0), minus.clamp_min(0.0))
    seen = through_wires(*held, layout, wires, MODELS["exact"])
    cheap = through_wires(*held, layout, wires, MODELS["column-approximation"])
    weight, exact, quick = (legs[0] - legs[1] for legs in (held, seen, cheap))
    norm = weight.norm().clamp_min(torch.finfo(weight.dtype).tiny)
    largest = max(float(leg.amax()) for leg in held)
    loss = [(1 - s / h)[h >= _TELLING * largest] for s, h in zip(seen, held, strict=True)]
    found = torch.cat(loss)
    total = sum(float(leg.sum()) for leg in held)
    interleaved = wires.legs == "interleaved"
    shapes = [(b.rows.stop - b.rows.start, b.cols.stop - b.cols.start) for p in blocks_of(layout) for b in p]
    rows, cols = max(shapes, key=lambda shape: shape[0] * shape[1])
    return WireRow(
        name=crossbar.name,
        arrays=len(shapes) * (1 if interleaved else 2),
        rows=rows,
        cols=cols * (2 if interleaved else 1),
        lost=1 - sum(float(leg.sum()) for leg in seen) / total if total else 0.0,
        worst=float(found.amax()) if found.numel() else 0.0,
        error=float((exact - weight).norm() / norm),
        approximation=float((quick - exact).norm() / norm),
        approximation_worst=max(float((q - s).abs().amax()) for q, s in zip(cheap, seen, strict=True))
        / largest
        if largest
        else 0.0,
        columns=float(_left(weight, exact, crossbar, "columns") / norm),
        rows_and_columns=float(_left(weight, exact, crossbar, "rows-and-columns") / norm),
    )


def _left(weight: Tensor, seen: Tensor, crossbar: Crossbar, compensation: str) -> Tensor:
    """Norm of the error that gains leave, over all chips."""
    left = []
    for ideal, real in zip(weight, seen, strict=True):
        columns, rows = gains(ideal, real, crossbar.layout, compensation)
        for part, row_slice in enumerate(crossbar.layout.row_slices):
            corrected = real[:, row_slice] * rows[:, row_slice] * columns[part, :, None]
            left.append((corrected - ideal[:, row_slice]).norm())
    return torch.stack(left).norm()


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"
