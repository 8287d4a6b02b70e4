"""``neurosim sweep``: the same chips over the values of one setting of the hardware."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurosim import console
from neurosim.commands import on_chips, opening
from neurosim.commands.options import (
    AgainEvaluate,
    Also,
    BatchNorm,
    Chips,
    DataDir,
    EngineName,
    Exclude,
    HardwareName,
    Include,
    Json,
    Limit,
    Out,
    OwnNames,
    Products,
    Runs,
    Seed,
    Set,
    Strict,
    Workers,
)
from neurosim.errors import UsageError

if TYPE_CHECKING:
    from neurosim.runs import Evaluation


def sweep(
    runs: Runs,
    over: Annotated[
        str,
        typer.Option(
            "--over",
            metavar="KEY=V1,V2,...",
            help="A setting of the hardware and its values, such as device.relative_std=0,0.1,0.3.",
        ),
    ],
    model: OwnNames = None,
    hardware: HardwareName = None,
    chips: Chips = 100,
    at: Annotated[
        str, typer.Option("--at", metavar="1d", help="The age at which all chips are read.")
    ] = "0s",
    seed: Seed = 0,
    out: Out = None,
    resume: AgainEvaluate = False,
    limit: Limit = None,
    workers: Workers = None,
    engine: EngineName = None,
    include: Include = None,
    exclude: Exclude = None,
    strict: Strict = False,
    also: Also = None,
    batchnorm: BatchNorm = "kept",
    products: Products = "float32",
    data_dir: DataDir = None,
    changes: Set = None,
    as_json: Json = False,
) -> None:
    """Put networks on chips of one hardware after another, different in one setting: how do they degrade?

    The same chip numbers everywhere; chips that a RUN's ledger already holds are taken from there.
    """
    key, values = _over(over)
    placed = on_chips.placement(include, exclude, strict, also, batchnorm, products)
    subjects = opening.opened(runs, model)
    studies = {
        value: on_chips.study_of(
            subjects,
            hardware,
            chips,
            at,
            seed,
            limit,
            data_dir,
            [*(changes or []), f"{key}={value!r}"],
            workers,
            engine,
            placement=placed,
        )
        for value in values
    }
    folder = out or (runs[0] if len(runs) == 1 else runs[0].parent / "-vs-".join(subjects))
    rows, text = _swept(key, studies)
    files = _write_sweep(key, studies, folder)
    console.emit(
        {"over": key, "at": at, "rows": rows, "files": files}, f"{text}\n\n{on_chips.listed(files)}", as_json
    )


def _over(text: str) -> tuple[str, list[float]]:
    """``device.relative_std=0,0.1`` as the key and its values."""
    from neurosim.runs import parse_changes

    key, equals, listed = text.partition("=")
    wrong = f"cannot read --over {text!r}: expected KEY=V1,V2,... such as device.relative_std=0,0.1,0.3"
    if not equals or not listed.strip():
        raise UsageError(wrong)
    try:
        ((name, values),) = parse_changes([f"{key}=[{listed}]"]).items()
    except UsageError:
        raise UsageError(wrong) from None
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        raise UsageError(f"{wrong}: the values must be numbers")
    if len(set(values)) < max(2, len(values)):
        raise UsageError(f"{wrong}: at least two values, each once")
    return name, sorted(values)


def _swept(key: str, studies: Mapping[float, Mapping[str, Evaluation]]) -> tuple[list[dict[str, Any]], str]:
    """A row for each network and value, and the same for people, in per cent."""
    from neurosim.evaluation import Table

    rows: list[dict[str, Any]] = [
        {"network": label, key: value, "digital_accuracy": found.digital_accuracy}
        | on_chips.summary_of(found.table, None).rows()[0]
        for value, study in studies.items()
        for label, found in study.items()
    ]
    shown = [
        {
            "network": row["network"],
            key: f"{row[key]:g}",
            "off chip": console.percent(row["digital_accuracy"]),
        }
        | {name: console.percent(row[name]) for name in ("mean", "std", "p05", "min")}
        for row in rows
    ]
    first = next(iter(next(iter(studies.values())).values()))
    chips = len(set(first.table.column("chip").tolist()))
    title = f"accuracy in % over {chips} chips of {first.hardware.name} at each {key}"
    return rows, f"{title}\n{Table.from_rows(shown)}"


def _write_sweep(key: str, studies: Mapping[float, Mapping[str, Evaluation]], folder: Path) -> dict[str, str]:
    """sweep.csv and sweep.svg, named after the last part of the key."""
    from neurosim.evaluation import Table

    first = next(iter(studies.values()))
    tables = {
        label: Table.from_rows(
            [{key: value, **row} for value, study in studies.items() for row in study[label].table.rows()]
        )
        for label in first
    }
    name = f"sweep-{key.rpartition('.')[2]}"
    files = {"csv": str(folder / f"{name}.csv")}
    on_chips.together(tables).to_csv(files["csv"])
    if importlib.util.find_spec("matplotlib") is None:
        console.say("no picture: matplotlib is missing (pip install 'neurosim[report]')")
        return files
    from neurosim.report import accuracy_over_setting

    files["svg"] = str(folder / f"{name}.svg")
    digital = {label: found.digital_accuracy for label, found in first.items()}
    title = f"Accuracy across chips of {next(iter(first.values())).hardware.name}"
    accuracy_over_setting(tables, key, path=files["svg"], digital=digital, title=title)
    return files
