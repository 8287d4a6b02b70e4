"""``neurosim evaluate``, ``compare`` and ``merge``: accuracy across chips."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurosim import console, interrupts
from neurosim.commands import on_chips, opening
from neurosim.commands.options import (
    AgainEvaluate,
    Also,
    BatchNorm,
    Bound,
    Chips,
    DataDir,
    EngineName,
    Exclude,
    HardwareName,
    Include,
    Json,
    Limit,
    Out,
    OwnData,
    OwnNames,
    OwnWeights,
    Products,
    Runs,
    Seed,
    Set,
    Strict,
    Times,
    Workers,
)
from neurosim.errors import UsageError, unknown

if TYPE_CHECKING:
    from neurosim.evaluation import Table
    from neurosim.runs import Evaluation, Shard

REQUIRABLE = ("mean", "mean_low", "std", "p05", "p05_low", "min", "yield", "yield_low")


class Missed(Exception):
    """A bound of --require was missed: exit code 3."""


def evaluate(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders made by neurosim train.")
    ] = None,
    model: OwnNames = None,
    data: OwnData = None,
    weights: OwnWeights = None,
    hardware: HardwareName = None,
    chips: Chips = 100,
    times: Times = None,
    seed: Seed = 0,
    out: Out = None,
    resume: AgainEvaluate = False,
    bound: Bound = None,
    limit: Limit = None,
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="'NAME>=X'", help="Exit with 3 if a column misses X at any age."),
    ] = None,
    workers: Workers = None,
    engine: EngineName = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Every N-th chip from the I-th, into a ledger to merge."),
    ] = None,
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
    """Put trained networks on sampled chips, age them, and report accuracy across the chips.

    Every chip goes into the RUN's chips.sqlite as it is done; then chips.csv and chips.svg are written.
    Without a RUN, [bold]--model[/bold] module:callable [bold]--data[/bold] NAME evaluates your own trained
    network, by default into runs/DATA-MODEL; --set model.x=... are arguments of the callable.
    """
    bounds = [_requirement(text, bound) for text in require or []]
    placed = on_chips.placement(include, exclude, strict, also, batchnorm, products)
    if shard is not None and not runs:
        raise UsageError("--shard needs a RUN, into which neurosim merge can put the chips of all shards")
    subjects, changes = on_chips.subjects(runs or [], model, data, weights, out, changes, data_dir)
    folders = [subject.folder for subject in subjects.values()]
    if shard is not None:
        part = _shard(shard, folders, out, bool(bounds))
        fixed = workers if engine == "ray" else workers or 1  # one thread: shards equal the whole bit by bit
        study = on_chips.study_of(
            subjects, hardware, chips, times, seed, limit, data_dir, changes, fixed, engine, part, out, placed
        )
        _emit_shard(part, study, folders, out, as_json)
        return
    study = on_chips.study_of(
        subjects, hardware, chips, times, seed, limit, data_dir, changes, workers, engine, placement=placed
    )
    summaries = {label: on_chips.summary_of(found.table, bound) for label, found in study.items()}
    missed = [sentence for check in bounds for sentence in check(summaries)]
    files = on_chips.write(study, folders, out)
    value = {**on_chips.facts(study, summaries), "missed": missed, "files": files}
    console.emit(value, f"{on_chips.text(study, summaries)}\n\n{on_chips.listed(files)}", as_json)
    if missed:
        raise Missed("; ".join(missed))


def compare(
    runs: Runs,
    model: OwnNames = None,
    hardware: HardwareName = None,
    chips: Chips = 100,
    times: Times = None,
    seed: Seed = 0,
    out: Out = None,
    resume: AgainEvaluate = False,
    bound: Bound = None,
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
    """Put several networks on the same chips and report the paired differences.

    Chips that a RUN's ledger already holds are taken from there.
    """
    from neurosim import evaluation

    if len(runs) < 2:
        raise UsageError("compare needs at least two runs; got one (neurosim evaluate takes one)")
    study = on_chips.study_of(
        opening.opened(runs, model),
        hardware,
        chips,
        times,
        seed,
        limit,
        data_dir,
        changes,
        workers,
        engine,
        placement=on_chips.placement(include, exclude, strict, also, batchnorm, products),
    )
    summaries = {label: on_chips.summary_of(found.table, bound) for label, found in study.items()}
    differences = evaluation.compare({label: found.table for label, found in study.items()})
    files = on_chips.write(study, runs, out)
    value = {**on_chips.facts(study, summaries), "differences": differences.rows(), "files": files}
    paired = console.readable_differences(differences)
    heading = "the same chips under each network, differences in points of %"
    text = f"{on_chips.text(study, summaries)}\n\n{heading}\n{paired}\n\n{on_chips.listed(files)}"
    console.emit(value, text, as_json)


def merge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder made by neurosim train.")],
    ledgers: Annotated[
        list[Path], typer.Argument(metavar="LEDGER...", help="Files made by neurosim evaluate --shard.")
    ],
    model: OwnNames = None,
    as_json: Json = False,
) -> None:
    """Take the chips of shards into the RUN's own ledger, in any order, all or none.

    Then neurosim evaluate, with the options of the shards, reports all chips without computing any.
    """
    from neurosim.runs import merge_ledgers

    (opened,) = opening.opened([run], model).values()
    with interrupts.held_back():
        new = merge_ledgers(opened, ledgers)
    merged = [str(path) for path in ledgers]
    value = {"run": str(run), "ledger": str(opened.ledger), "merged": merged, "new": new}
    console.emit(value, f"{opened.ledger}: {new} new rows (chips x ages) of {len(merged)} ledgers", as_json)


def _shard(text: str, runs: list[Path], out: Path | None, required: bool) -> Shard:
    from neurosim.runs import Shard

    if required:
        raise UsageError("--require needs all chips: merge the shards, then evaluate without --shard")
    if out is not None and len(runs) > 1:
        raise UsageError("--shard with --out takes one run: a ledger for merging holds chips of one network")
    return Shard.parse(text)


def _emit_shard(
    shard: Shard, study: Mapping[str, Evaluation], runs: list[Path], out: Path | None, as_json: bool
) -> None:
    """What a shard has done, and how it goes on; a table and a picture wait for all chips."""
    rows, lines = [], []
    for (label, found), folder in zip(study.items(), runs, strict=True):
        ledger = (out or folder) / shard.ledger
        all_of_them = ledger.with_name(f"chips-shard-*-of-{shard.count}.sqlite")
        chips = sorted(set(found.table.column("chip").tolist()))
        rows.append({"network": label, "shard": str(shard), "chips": chips, "ledger": str(ledger)})
        lines += [
            f"{label}: shard {shard}, {len(chips)} chips on {found.hardware.name}, in {ledger}",
            f"when all are done: neurosim merge {folder} {all_of_them}",
        ]
    console.emit(rows, "\n".join(lines), as_json)


def _requirement(text: str, good: float | None) -> Callable[[Mapping[str, Table]], list[str]]:
    """``accuracy_p05>=0.9`` as a check of summaries: a sentence for each network and age that misses it."""
    match = re.fullmatch(r"\s*(?:accuracy_)?(\w+)\s*(>=|<=)\s*([0-9.eE+-]+)\s*", text)
    try:
        column, sign, bound = match[1], match[2], float(match[3])  # type: ignore[index]
    except (TypeError, ValueError):
        raise UsageError(f"cannot read --require {text!r}: expected such as accuracy_p05>=0.9") from None
    if column not in REQUIRABLE:
        raise unknown(
            "column of --require", f"accuracy_{column}", [f"accuracy_{name}" for name in REQUIRABLE]
        )

    if column.startswith("yield") and good is None:
        raise UsageError(f"--require {text!r} needs --bound, the accuracy that a good chip has")

    def check(summaries: Mapping[str, Table]) -> list[str]:
        from neurosim.evaluation import format_duration

        missed = []
        for label, table in summaries.items():
            for row in table.rows():
                value = row[column]
                if not (value >= bound if sign == ">=" else value <= bound):  # NaN misses too
                    age = format_duration(row["time_s"])
                    missed.append(f"{label} at {age}: accuracy_{column} is {value:.4g}, not {sign} {bound:g}")
        return missed

    return check
