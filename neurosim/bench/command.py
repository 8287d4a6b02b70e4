"""``neurosim bench-robust``: training methods compared on the same chips."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurosim import console, interrupts
from neurosim.errors import RunError, UsageError

if TYPE_CHECKING:
    from neurosim.bench.recipe import Recipe
    from neurosim.bench.running import Bench
    from neurosim.report.robust import Comparison


def bench_robust(
    name: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="A packaged recipe, or a TOML file.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="By default runs/RECIPE.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="LABEL", help="Work on this row only; may be given again."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="0,1,2", help="Training seeds, instead of the recipe's.")
    ] = None,
    chips: Annotated[int | None, typer.Option("--chips", min=1, help="Chips at each level.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Test chips on the first N samples.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: train.epochs=2, ..."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes for the chips, one thread each.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Folder with the data sets; else NEUROSIM_DATA.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="The packaged recipes.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after a stop; what is done is never done twice.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")] = False,
) -> None:
    """Train methods with several seeds, put all networks on the same chips, and compare.

    A recipe says which methods, on which data, on which chips. Stopped at any moment, the same command goes
    on. DIR then holds table.csv, table.md, costs.csv, differences.csv, summary.json, accuracy.svg and
    cost.svg.
    """
    with interrupts.held_back():
        from neurosim import runs
        from neurosim.bench.recipe import recipe, recipe_names

        if listed:
            _emit_list([recipe(one) for one in recipe_names()], as_json)
            return
        if name is None:
            raise UsageError("expected a RECIPE: a packaged one (see --list) or a TOML file")
        given = runs.parse_changes(changes or [])
        told = {"evaluate.chips": chips, "evaluate.limit": limit}
        given |= {key: value for key, value in told.items() if value is not None}
        given |= {} if seeds is None else {"seeds": _seeds(seeds)}
        found = recipe(name, given)
        from neurosim.bench.running import Bench, in_words
        from neurosim.report import robust  # noqa: F401

    bench = Bench(found, out or Path("runs") / found.name, tuple(only or ()), device, data_dir, workers)
    if dry_run:
        plan = bench.plan()
        rows = [vars(item) for item in plan]
        value = {"recipe": found.name, "out": str(bench.out), "trainings": rows, **_chips(found)}
        console.emit(value, "\n".join([_about(found), "", *in_words(plan), _chips_in_words(found)]), as_json)
        return
    comparison = bench.run()
    with interrupts.held_back():
        value, text = _report(bench, comparison)
    console.emit(value, text, as_json)
    if bench.failures:
        told_of = "; ".join(f"{row}: {why}" for row, why in bench.failures.items())
        raise RunError(f"{len(bench.failures)} of {len(bench.work)} trainings could not be done: {told_of}")


def _seeds(text: str) -> list[int]:
    """``0,1,2`` as numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 19 for part in parts):
        raise UsageError(f"expected --seeds, whole numbers such as 0,1,2; got {text!r}")
    return [int(part) for part in parts]


def _emit_list(found: list[Recipe], as_json: bool) -> None:
    from neurosim.bench.recipe import passes_of

    rows: list[dict[str, Any]] = [
        {
            "name": one.name,
            "title": one.title,
            "rows": len(one.methods),
            "seeds": len(one.seeds),
            "passes": len(one.seeds) * sum(passes_of(one, label) for label in one.methods),
            "changes": list(one.changes),
        }
        for one in found
    ]
    cells = [
        (row["name"], f"{row['rows']}", f"{row['seeds']}", f"{row['passes']:,.0f}", row["title"])
        for row in rows
    ]
    console.emit(rows, console.aligned([("recipe", "rows", "seeds", "passes", "title"), *cells]), as_json)


def _about(found: Recipe) -> str:
    parts = [f"{found.name}: {found.title}", found.about, found.source and f"source: {found.source}"]
    parts += [f"changed: {change}" for change in found.changes]
    return "\n".join(part for part in parts if part)


def _chips(found: Recipe) -> dict[str, Any]:
    from neurosim.bench.running import all_equal
    from neurosim.devices import hardware

    choice = found.evaluate
    given = hardware(choice.hardware)
    each = [1 if all_equal(given.with_all({choice.vary: level})) else choice.chips for level in choice.levels]
    return {"levels": list(choice.levels), "chips_a_network": sum(each)}


def _chips_in_words(found: Recipe) -> str:
    choice = found.evaluate
    some = "" if choice.limit is None else f"the first {choice.limit} samples of "
    levels = ", ".join(f"{level:g}" for level in choice.levels)
    return (
        f"then {_chips(found)['chips_a_network']} chips a network: {choice.chips} of {choice.hardware} at "
        f"each {choice.vary} of {levels}, on {some}the {choice.part} part"
    )


def _report(bench: Bench, comparison: Comparison) -> tuple[dict[str, Any], str]:
    """Write all files; the value for --json and the text for people."""
    import json
    from dataclasses import replace

    from neurosim.report import robust
    from neurosim.storage import write_text

    comparison = replace(comparison, missing=bench.missing())
    folder = bench.out
    told, paired = robust.summary(comparison), robust.differences(comparison)
    page = robust.markdown(comparison, told, paired)
    files = {kind: str(folder / file) for kind, file in _FILES.items()}
    told.to_csv(files["table"])
    comparison.costs.to_csv(files["costs"])
    if paired is None:
        files.pop("differences")
    else:
        paired.to_csv(files["differences"])
    write_text(files["page"], page)
    if importlib.util.find_spec("matplotlib") is None:
        console.say("no pictures: matplotlib is missing (pip install 'neurosim[report]')")
        for kind in ("accuracy", "cost"):
            files.pop(kind)
    else:
        robust.accuracy_figure(comparison, path=files["accuracy"])
        robust.cost_figure(comparison, path=files["cost"])
    value = {
        "recipe": bench.recipe.model_dump(mode="json", exclude_none=True),
        "summary": told.rows(),
        "differences": [] if paired is None else paired.rows(),
        "costs": comparison.costs.rows(),
        "missing": list(comparison.missing),
        "failures": bench.failures,
        "files": files,
    }
    write_text(files["summary"], json.dumps(console.plain(value), indent=1, allow_nan=False) + "\n")
    listed = "\n".join(f"{kind}: {path}" for kind, path in files.items())
    return value, f"{page}\n{listed}"


_FILES = {
    "page": "table.md",
    "table": "table.csv",
    "costs": "costs.csv",
    "differences": "differences.csv",
    "summary": "summary.json",
    "accuracy": "accuracy.svg",
    "cost": "cost.svg",
}
