"""``neurosim flatness``: how flat the loss is around the weights of trained networks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurosim import console, interrupts
from neurosim.commands import opening
from neurosim.commands.options import DataDir, Json, Out
from neurosim.errors import UsageError, unknown

if TYPE_CHECKING:
    from torch import nn

    from neurosim.data import Batches, Splits
    from neurosim.landscape.curvature import Eigen, Estimate
    from neurosim.landscape.losses import Score
    from neurosim.landscape.plane import Plane
    from neurosim.landscape.slopes import Lines
    from neurosim.runs import Run

PARTS = ("train", "validation", "test")
MOST = 6  # networks in a figure
ZETA = 0.1
"""Mismatch at which the rise of the loss is sampled, beside what the curvature predicts."""


@dataclass(frozen=True)
class Asked:
    """What is measured on every network, beyond the data."""

    repeats: int
    draws: int
    plane: int | None
    parameters: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Curved:
    """The second derivative in one measure of the weights."""

    top: Eigen
    trace: Estimate


@dataclass(frozen=True)
class Flatness:
    """What was found of one network."""

    score: Score
    lines: Lines
    absolute: Curved
    relative: Curved
    rise: Estimate
    plane: Plane | None


def flatness(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders made by neurosim train.")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="MODULE:CALLABLE", help="Your own network that a RUN records."),
    ] = None,
    part: Annotated[
        str, typer.Option("--part", metavar="train|validation|test", help="Whose loss.")
    ] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N samples.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Random lines; 50 passes each.")] = 5,
    draws: Annotated[
        int, typer.Option("--draws", min=2, help="Random vectors for each trace, and of mismatch.")
    ] = 20,
    plane: Annotated[
        int | None,
        typer.Option("--plane", min=2, metavar="N", help="Also draw the loss on a plane of N x N points."),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameters", metavar="PATTERN", help="Move these parameters too; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Other random lines and vectors.")] = 0,
    out: Out = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Measure how flat the loss is around trained weights: slope along random lines, and curvature.

    Writes flatness.csv, lines.csv and flatness.svg (with --plane also landscape.csv and .svg).
    """
    if part not in PARTS:
        raise unknown("part of the data,", part, PARTS)
    if len(runs) > MOST:
        raise UsageError(f"expected 1 to {MOST} runs, as many as a figure shows; got {len(runs)}")
    opened = opening.opened(runs, model)
    asked = Asked(repeats, draws, plane, tuple(parameters or ()), seed)
    found = {}
    with interrupts.remembered() as check:
        for label, run in opened.items():
            with run.at_work():
                found[label] = _measured(label, run.model(), _data(run, part, limit, data_dir), asked, check)
    folder = out or (runs[0] if len(runs) == 1 else runs[0].parent / "-vs-".join(opened))
    rows = [_row(label, part, of, asked) for label, of in found.items()]
    files = _write(folder, rows, found)
    networks = {
        label: {
            **{key: value for key, value in row.items() if key != "network"},
            "alphas": of.lines.alphas.tolist(),
            "losses": of.lines.losses.tolist(),
        }
        for row, (label, of) in zip(rows, found.items(), strict=True)
    }
    listed = "\n".join(f"{kind}: {path}" for kind, path in files.items())
    console.emit({"networks": networks, "files": files}, f"{_text(rows)}\n\n{listed}", as_json)


def _data(run: Run, part: str, limit: int | None, data_dir: Path | None) -> Batches:
    from neurosim.data import Batches
    from neurosim.runs import batch_size_for

    splits: Splits = run.splits(data_dir)
    examples = {"train": splits.train, "validation": splits.validation, "test": splits.test}[part]
    return Batches(examples if limit is None else examples[:limit], batch_size_for(splits))


def _measured(
    label: str, model: nn.Module, data: Batches, asked: Asked, check: Callable[[], None]
) -> Flatness:
    from dataclasses import replace

    from neurosim.landscape.curvature import rise_under_mismatch
    from neurosim.landscape.losses import score_at
    from neurosim.landscape.plane import loss_over_plane
    from neurosim.landscape.slopes import TABLE_S1, loss_along_lines

    def steps(
        what: str, unit: str = "passes over the data"
    ) -> tuple[console.Progress, Callable[[int, int | None], None]]:
        progress = console.Progress(f"{label}: {what}", unit)

        def told(done: int, total: int | None) -> None:
            check()
            progress.show(done, total)

        return progress, told

    progress, told = steps("lines")
    with progress:
        protocol = replace(TABLE_S1, repeats=asked.repeats)
        lines = loss_along_lines(
            model, data, protocol, parameters=asked.parameters, seed=asked.seed, progress=told
        )
    curved = []
    for relative in (False, True):
        progress, told = steps("relative curvature" if relative else "curvature", "products with it")
        with progress:
            curved.append(_curved(model, data, asked, relative, told))
    progress, told = steps("mismatch", "draws")
    with progress:
        rise = rise_under_mismatch(
            model,
            data,
            ZETA,
            parameters=asked.parameters,
            draws=asked.draws,
            seed=asked.seed,
            progress=lambda done: told(done, asked.draws),
        )
    drawn = None
    if asked.plane is not None:
        progress, told = steps("plane")
        with progress:
            drawn = loss_over_plane(
                model,
                data,
                points=asked.plane,
                parameters=asked.parameters,
                seed=asked.seed,
                progress=told,
            )
    return Flatness(score_at(model, data), lines, curved[0], curved[1], rise, drawn)


def _curved(
    model: nn.Module, data: Batches, asked: Asked, relative: bool, told: Callable[[int, int | None], None]
) -> Curved:
    from neurosim.landscape.curvature import Curvature, top_eigenvalue, trace

    curvature = Curvature(model, data, relative=relative, parameters=asked.parameters)
    top = top_eigenvalue(curvature, seed=asked.seed, progress=lambda done: told(done, None))
    total = top.products + asked.draws
    found = trace(
        curvature,
        draws=asked.draws,
        seed=asked.seed,
        progress=lambda done: told(top.products + done, total),
    )
    return Curved(top, found)


def _row(label: str, part: str, found: Flatness, asked: Asked) -> dict[str, Any]:
    """One row of flatness.csv."""
    row: dict[str, Any] = {"network": label, "part": part, "targets": found.score.targets}
    row |= {"loss": found.score.loss, "accuracy": found.score.accuracy}
    row |= {"slope": found.lines.slope, "slope_std": found.lines.slope_std, "repeats": asked.repeats}
    for prefix, of in (("", found.absolute), ("relative_", found.relative)):
        row |= {
            f"{prefix}top_eigenvalue": of.top.value,
            f"{prefix}top_residual": of.top.residual,
            f"{prefix}trace": of.trace.value,
            f"{prefix}trace_se": of.trace.standard_error,
        }
    row |= {"zeta": ZETA, "rise": found.rise.value, "rise_se": found.rise.standard_error}
    row["rise_predicted"] = 0.5 * ZETA**2 * found.relative.trace.value
    return row | {"draws": asked.draws, "seed": asked.seed}


def _text(rows: list[dict[str, Any]]) -> str:
    """The same for people."""
    heading = (
        "network", "loss", "accuracy", "slope", "top eigenvalue", "trace", "relative top", "relative trace",
        f"rise at {ZETA:g}", "predicted",
    )  # fmt: skip
    lines: list[tuple[str, ...]] = [heading]
    for row in rows:
        cells = [row["network"], f"{row['loss']:.4f}", console.percent(row["accuracy"])]
        cells.append(_pair(row["slope"], row["slope_std"]))
        for prefix in ("", "relative_"):
            trace = _pair(row[f"{prefix}trace"], row[f"{prefix}trace_se"])
            cells += [f"{row[f'{prefix}top_eigenvalue']:.4g}", trace]
        lines.append((*cells, _pair(row["rise"], row["rise_se"]), f"{row['rise_predicted']:.2g}"))
    first = rows[0]
    notes = (
        f"over {first['targets']:,} targets of the {first['part']} part; slope: mean |slope| of the loss"
        f" along {first['repeats']} lines Θ + α·v, v = 0.2·|Θ|·n, α from -2 to 2, ± standard deviation;\n"
        "top eigenvalue and trace (± standard error) of the Hessian H of the loss, relative: of |Θ|H|Θ|,"
        " which mismatch feels;\n"
        f"rise: of the loss under mismatch ζ = {ZETA:g}, sampled, ± standard error; predicted:"
        " ½·ζ²·(relative trace)"
    )
    return f"{console.aligned(lines)}\n{notes}"


def _pair(value: float, spread: float) -> str:
    return f"{value:.4g}" if spread != spread else f"{value:.4g} ± {spread:.2g}"


def _write(folder: Path, rows: list[dict[str, Any]], found: Mapping[str, Flatness]) -> dict[str, str]:
    from neurosim.evaluation import Table

    planes = {label: of.plane for label, of in found.items() if of.plane is not None}
    tables = {"flatness": rows, "lines": _line_rows(found)} | (
        {"landscape": _plane_rows(planes)} if planes else {}
    )
    files = {}
    for name, table in tables.items():
        files[f"{name}.csv"] = str(folder / f"{name}.csv")
        Table.from_rows(table).to_csv(files[f"{name}.csv"])
    if importlib.util.find_spec("matplotlib") is None:
        console.say("no picture: matplotlib is missing (pip install 'neurosim[report]')")
        return files
    from neurosim.report.landscape import loss_lines, loss_planes

    files["flatness.svg"] = str(folder / "flatness.svg")
    loss_lines({label: of.lines for label, of in found.items()}, path=files["flatness.svg"])
    if planes:
        files["landscape.svg"] = str(folder / "landscape.svg")
        names = ("relative change along n₁", "relative change along n₂")
        loss_planes(planes, path=files["landscape.svg"], axes_names=names)
    return files


def _line_rows(found: Mapping[str, Flatness]) -> list[dict[str, Any]]:
    return [
        {
            "network": label,
            "line": line,
            "alpha": float(alpha),
            "loss": float(of.lines.losses[line, k]),
            "accuracy": float(of.lines.accuracies[line, k]),
        }
        for label, of in found.items()
        for line in range(len(of.lines.losses))
        for k, alpha in enumerate(of.lines.alphas)
    ]


def _plane_rows(planes: Mapping[str, Plane]) -> list[dict[str, Any]]:
    return [
        {
            "network": label,
            "first": float(a),
            "second": float(b),
            "loss": float(plane.losses[row, column]),
            "accuracy": float(plane.accuracies[row, column]),
        }
        for label, plane in planes.items()
        for row, b in enumerate(plane.at)
        for column, a in enumerate(plane.at)
    ]
