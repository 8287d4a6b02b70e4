"""The command line: names become objects, results go to stdout, everything else to stderr.

Exit codes: 0 done; 1 it could not be done; 2 wrong use; 3 done, but a bound of ``--require`` was
missed; 130 interrupted.  Heavy imports stay inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from neurosim import __version__, console, interrupts
from neurosim.bench import command as bench
from neurosim.commands import attack, export, flatness, opening, show, writing
from neurosim.errors import RunError, UsageError, unknown

if TYPE_CHECKING:
    from neurosim.analog.conversions import ConversionReport
    from neurosim.analog.explain import Explanation
    from neurosim.analog.wire_report import WireReport
    from neurosim.data import DataSet
    from neurosim.devices import Hardware
    from neurosim.devices.writing.verify import Cost
    from neurosim.evaluation import Table
    from neurosim.runs import Config, Evaluation, Placement, Shard, Subject

app = typer.Typer(
    name="neurosim",
    help="Put any torch network on analog chips, see how it degrades, and train it so that it does not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
hardware_app = typer.Typer(no_args_is_help=True, help="Chip technologies: list, show, check, fit.")
models_app = typer.Typer(no_args_is_help=True, help="The zoo of networks.")
data_app = typer.Typer(no_args_is_help=True, help="The data sets, and fetching them.")
app.add_typer(hardware_app, name="hardware")
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
app.add_typer(writing.app, name="write")
app.command("export")(export.export)
app.command("attack")(attack.attack)
app.command("bench-robust")(bench.bench_robust)
app.command("flatness")(flatness.flatness)
app.command("show")(show.show)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder with the data sets; else NEUROSIM_DATA.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be given again and again."),
]
HardwareName = Annotated[
    str | None, typer.Option("--hardware", metavar="NAME|FILE", help="A preset or a TOML file.")
]
Chips = Annotated[int, typer.Option("--chips", help="How many chips of the lot, from chip 0.")]
Times = Annotated[
    str | None, typer.Option("--times", metavar="1s,1h,1d,1y", help="Ages at which the chips are read.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the lot: other chips.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the results go.")]
Bound = Annotated[
    float | None, typer.Option("--bound", min=0, max=1, help="Accuracy that counts as a good chip (yield).")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N samples.")]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include", metavar="PATTERN", help="Only these layers go on crossbars, such as 'layer1.*'."
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="These stay digital; also :first and :last."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse to leave a parameter digital that --exclude does not name.")
]
Also = Annotated[
    list[str] | None,
    typer.Option("--also", metavar="PATTERN", help="Parameters of other modules that go on crossbars too."),
]
BatchNorm = Annotated[
    str,
    typer.Option("--batchnorm", metavar="kept|folded|re-estimated", help="What becomes of it on chips."),
]
Products = Annotated[
    str,
    typer.Option(
        "--products",
        metavar="float32|bfloat16",
        help="Type of the numbers multiplied; the error is reported.",
    ),
]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders made by neurosim train.")]
OwnNames = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="MODULE:CALLABLE",
        help="Your own network: alone with --data, or one that a RUN records.",
    ),
]
OwnData = Annotated[
    str | None,
    typer.Option("--data", metavar="NAME|FILE", help="Without a RUN: the data of your own network."),
]
OwnWeights = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="Without a RUN: safetensors to load into it.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes, one thread each; else one with all threads."),
]
EngineName = Annotated[
    str | None, typer.Option("--engine", metavar="local|ray", help="Who runs the workers; local is a pool.")
]
AgainEvaluate = Annotated[
    bool, typer.Option("--resume", help="Go on after a stop; chips in the ledger are never computed twice.")
]


DEFAULT_HARDWARE = "pcm-joshi-2020"
DEFAULT_TIMES = "25s,1h,1d,1y"
REQUIRABLE = ("mean", "mean_low", "std", "p05", "p05_low", "min", "yield", "yield_low")


class _Missed(Exception):
    """A bound of --require was missed: exit code 3."""


# ---------------------------------------------------------------- training


@app.command()
def train(
    robust: Annotated[
        bool, typer.Option("--robust", help="Noise that grows, weight attack, average of weights.")
    ] = False,
    method: Annotated[
        str | None, typer.Option("--method", help="See docs/train.md; several as noise+adversarial+ema.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="See neurosim models list; or your own module:callable.")
    ] = "mlp",
    data: Annotated[str, typer.Option("--data", help="See neurosim data list; or an .npz file.")] = "digits",
    data_dir: DataDir = None,
    hardware: HardwareName = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the training data.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Samples a step.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Initial weights, order, noise.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in DIR, or begin it.")] = False,
    limit: Limit = None,
    per_class: Annotated[
        int | None, typer.Option("--per-class", min=1, help="Only N training samples of each class.")
    ] = None,
    init: Annotated[
        list[str] | None,
        typer.Option(
            "--init",
            metavar="[PREFIX=]RUN",
            help="Begin from a run's weights: all of them, or those under a prefix such as trunk.",
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option("--freeze", metavar="PATTERN", help="These parameters stay as they are: 'trunk.*'."),
    ] = None,
    changes: Set = None,
    as_json: Json = False,
) -> None:
    """Train a network; [bold]--robust[/bold] makes it insensitive to its chip.

    The run folder DIR (by default runs/DATA-MODEL-METHOD) then holds config.toml, model.safetensors and
    metrics.jsonl. Settings: model.hidden=\\[64,64], method.beta=0.2, train.lr=1e-3, data.seed=1, ...
    and with --hardware those of the hardware: wires.r_row_ohm=2, array.rows=128, ...
    """
    if robust and method is not None:
        raise UsageError(f"--robust is a method of its own: leave out --method {method}, or --robust")
    own = opening.own_networks([model] if ":" in model else [])
    with interrupts.held_back():
        from neurosim import runs

        given = {"train.epochs": epochs, "train.batch_size": batch_size, "train.lr": lr, "train.seed": seed}
        given |= {"data.limit": limit, "data.per_class": per_class}
        chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        chosen |= {"train.freeze": freeze} if freeze else {}
        of_hardware, changed = _of_hardware(runs.parse_changes(changes or []), hardware)
        config = runs.new_config(
            model=model,
            data=data,
            method=method or "standard",
            robust=robust,
            hardware=None if hardware is None else _hardware(hardware, None).with_all(of_hardware),
            data_dir=data_dir,
            changes=chosen | changed,
            own=own,
        )
    folder = out or Path("runs") / _run_name(config, robust)
    if init:
        config = runs.with_init(config, _inits(init), folder if resume else None)
    with console.Progress("training", "batches") as progress:
        result = runs.train_run(
            config,
            folder,
            device=device,
            data_dir=data_dir,
            resume=resume,
            progress=progress.of_training,
            own=own,
        )
    best = result.history[result.best_epoch - 1]
    console.emit(
        {"run": str(folder), "best_epoch": result.best_epoch, "passes": result.passes, "metrics": best}
        | {"seconds": result.seconds},
        f"{folder}: {_described(config)}; best of {config.train.epochs} epochs is {result.best_epoch}, "
        f"validation accuracy {console.percent(result.best_validation_accuracy)} %{_dice(best)} "
        f"({result.seconds:.0f} s)",
        as_json,
    )


def _dice(row: Mapping[str, Any]) -> str:
    return f", Dice {console.percent(row['validation_dice'])} %" if "validation_dice" in row else ""


def _inits(texts: list[str]) -> dict[str, Path]:
    """Runs by prefix; a text that names a folder is one, whatever is in its name."""
    from neurosim.runs import WHOLE

    found: dict[str, Path] = {}
    for text in texts:
        prefix, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():
            prefix, folder = WHOLE, text
        elif not all(part.isidentifier() or part.isdecimal() for part in prefix.split(".")) or not folder:
            raise UsageError(f"cannot read --init {text!r}: expected RUN or PREFIX=RUN, such as trunk=runs/a")
        if prefix in found:
            what = "the whole network" if prefix == WHOLE else f"the part {prefix!r}"
            raise UsageError(f"--init gives {what} twice: {found[prefix]} and {folder}")
        found[prefix] = Path(folder)
    return found


@app.command()
def fuse(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder made by neurosim train.")],
    model: OwnNames = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The new run, by default RUN-fused.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write a run whose network is the final form of another's: the same function with fewer layers.

    For networks that train in one form and compute in another, such as repmlp-pure. The outputs of both on
    the validation data are compared before anything is written.
    """
    (opened,) = opening.opened([run], model).values()
    with interrupts.held_back():
        from neurosim.runs import fuse_run

    beside = (run if run.name == opened.name else run.resolve()).with_name(f"{opened.name}-fused")
    found = fuse_run(opened, out or beside, data_dir)
    value = {
        "run": str(found.folder),
        "largest_difference": found.largest,
        "relative_difference": found.relative,
        "changed": found.changed,
        "decisions": found.decisions,
    }
    console.emit(
        value,
        f"{found.folder}: {opened.config.model.name}, fused; on the validation data outputs differ by up to "
        f"{found.largest:.3g} ({found.relative:.2g} of the largest), {found.changed} of {found.decisions} "
        "decisions changed",
        as_json,
    )


def _of_hardware(changes: dict[str, Any], name: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Changes of the hardware trained through, and all others."""
    from neurosim.devices.hardware import TABLES, WHOLE

    tables = {*TABLES, *WHOLE, "compensation"}
    of_hardware = {key: value for key, value in changes.items() if key.partition(".")[0] in tables}
    if of_hardware and name is None:
        key = next(iter(of_hardware))
        raise UsageError(f"--set {key} changes the hardware: name one to train through with --hardware")
    return of_hardware, {key: value for key, value in changes.items() if key not in of_hardware}


def _run_name(config: Config, robust: bool) -> str:
    return f"{_pair_name(config.data.name, config.model.name)}-{'robust' if robust else config.method.name}"


def _pair_name(data: str, model: str) -> str:
    """Data and network as part of a folder's name."""
    return f"{Path(data).stem if data.endswith('.npz') else data}-{model.replace(':', '.')}"


def _described(config: Config) -> str:
    options = config.method.model_dump(exclude={"name"})
    listed = ", ".join(_setting(key, value) for key, value in options.items())
    return f"{config.model.name} on {config.data.name}, {config.method.name}" + (
        f" ({listed})" if listed else ""
    )


def _setting(key: str, value: Any) -> str:
    """``eta 0.3``, or the settings of a part of a method, ``noise: eta 0.3, ramp 0``."""
    if isinstance(value, dict):
        return f"{key}: " + ", ".join(_setting(name, inner) for name, inner in value.items())
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{key} {value:g}" if number else f"{key} {value}"


# ---------------------------------------------------------------- evaluation


@app.command()
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
    placed = _placement(include, exclude, strict, also, batchnorm, products)
    if shard is not None and not runs:
        raise UsageError("--shard needs a RUN, into which neurosim merge can put the chips of all shards")
    subjects, changes = _subjects(runs or [], model, data, weights, out, changes, data_dir)
    folders = [subject.folder for subject in subjects.values()]
    if shard is not None:
        part = _shard(shard, folders, out, bool(bounds))
        fixed = workers if engine == "ray" else workers or 1  # one thread: shards equal the whole bit by bit
        study = _study(
            subjects, hardware, chips, times, seed, limit, data_dir, changes, fixed, engine, part, out, placed
        )
        _emit_shard(part, study, folders, out, as_json)
        return
    study = _study(
        subjects, hardware, chips, times, seed, limit, data_dir, changes, workers, engine, placement=placed
    )
    summaries = {label: _summary(found.table, bound) for label, found in study.items()}
    missed = [sentence for check in bounds for sentence in check(summaries)]
    files = _write(study, folders, out)
    value = {**_facts(study, summaries), "missed": missed, "files": files}
    console.emit(value, f"{_text(study, summaries)}\n\n{_listed(files)}", as_json)
    if missed:
        raise _Missed("; ".join(missed))


@app.command()
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
    study = _study(
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
        placement=_placement(include, exclude, strict, also, batchnorm, products),
    )
    summaries = {label: _summary(found.table, bound) for label, found in study.items()}
    differences = evaluation.compare({label: found.table for label, found in study.items()})
    files = _write(study, runs, out)
    value = {**_facts(study, summaries), "differences": differences.rows(), "files": files}
    paired = console.readable_differences(differences)
    heading = "the same chips under each network, differences in points of %"
    text = f"{_text(study, summaries)}\n\n{heading}\n{paired}\n\n{_listed(files)}"
    console.emit(value, text, as_json)


@app.command()
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
    placed = _placement(include, exclude, strict, also, batchnorm, products)
    subjects = opening.opened(runs, model)
    studies = {
        value: _study(
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
        {"over": key, "at": at, "rows": rows, "files": files}, f"{text}\n\n{_listed(files)}", as_json
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
        | _summary(found.table, None).rows()[0]
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
    _together(tables).to_csv(files["csv"])
    if importlib.util.find_spec("matplotlib") is None:
        console.say("no picture: matplotlib is missing (pip install 'neurosim[report]')")
        return files
    from neurosim.report import accuracy_over_setting

    files["svg"] = str(folder / f"{name}.svg")
    digital = {label: found.digital_accuracy for label, found in first.items()}
    title = f"Accuracy across chips of {next(iter(first.values())).hardware.name}"
    accuracy_over_setting(tables, key, path=files["svg"], digital=digital, title=title)
    return files


@app.command()
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


@app.command()
def explain(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A folder made by neurosim train.")
    ] = None,
    model: OwnNames = None,
    data: OwnData = None,
    weights: OwnWeights = None,
    hardware: HardwareName = None,
    wires: Annotated[
        bool,
        typer.Option("--wires", help="What wires do to each layer's programmed tiles, and model errors."),
    ] = False,
    conversions: Annotated[
        bool,
        typer.Option(
            "--conversions",
            help="What saturates each layer's converters, on validation inputs, and their use.",
        ),
    ] = False,
    faults: Annotated[
        Path | None,
        typer.Option(
            "--faults", metavar="FILE", help="Write what is broken on the chips as a fault map (CSV)."
        ),
    ] = None,
    cost: Annotated[
        bool, typer.Option("--writing", help="Pulses, reads, time and energy of writing each layer.")
    ] = False,
    chips: Annotated[
        int, typer.Option("--chips", min=1, help="How many chips the options above look at.")
    ] = 1,
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
    """Say what of a network lies on crossbars, what stays digital, and which effects act when."""
    if sum((wires, conversions, cost, faults is not None)) > 1:
        raise UsageError("expected one of --wires, --conversions, --writing and --faults; got more")
    subjects, changes = _subjects([] if run is None else [run], model, data, weights, None, changes, data_dir)
    placement = _placement(include, exclude, strict, also, batchnorm, products)
    (opened,) = subjects.values()
    with interrupts.held_back(), opened.at_work():
        from neurosim.analog import Lot

        splits = opened.splits(data_dir)
        net = opened.deploy(_hardware(hardware, changes), splits, placement)
        lot = Lot(net.hardware)[0:chips]
        found: WireReport | ConversionReport | Explanation = net.explain()
        if wires:
            found = net.explain_wires(lot)
        if conversions:
            found = net.conversion_report(lot, splits.validation[:1000].inputs)
        if cost:
            console.emit(*_writing_cost(net.writing_cost(lot), net.hardware, chips), as_json)
            return
        if faults is not None:
            _write_fault_map(faults, net.fault_map(lot), chips, as_json)
            return
    console.emit(found.to_dict(), str(found), as_json)


def _writing_cost(
    costs: Mapping[str, Cost], hardware: Hardware, chips: int
) -> tuple[list[dict[str, object]], str]:
    """Of each parameter on devices, as rows and as a table; times as if devices were written one by one."""
    from neurosim.analog.explain import aligned

    rows: list[dict[str, object]] = []
    lines: list[tuple[str, ...]] = [
        ("parameter", "devices a chip", "pulses a device", "most", "accepted", "seconds", "joule")
    ]
    for name, cost in costs.items():
        seconds, devices = cost.seconds(hardware.writing) / chips, cost.devices // chips
        each, share, joule = cost.pulses / cost.devices, cost.accepted / cost.devices, cost.joule / chips
        rows.append(
            {
                "parameter": name, "devices": devices, "pulses_a_device": each, "longest": cost.longest,
                "accepted": share, "seconds": seconds, "joule": joule,
            }
        )  # fmt: skip
        lines.append(
            (
                name, f"{devices:,}", f"{each:.1f}", str(cost.longest), f"{100 * share:.2f} %",
                f"{seconds:.3g}", f"{joule:.3g}",
            )
        )  # fmt: skip
    return rows, f"Writing a chip of {hardware.name!r}:\n{aligned(lines)}"


def _write_fault_map(path: Path, rows: list[dict[str, object]], chips: int, as_json: bool) -> None:
    from neurosim.devices.fault_map import to_csv
    from neurosim.storage import write_text

    write_text(path, to_csv(rows))
    broken = sum(row["state"] != "" for row in rows)
    found = {"file": str(path), "chips": chips, "broken": broken}
    console.emit(found, f"{path}: {broken:,} broken devices of {chips} chips", as_json)


def _placement(
    include: list[str] | None,
    exclude: list[str] | None,
    strict: bool,
    also: list[str] | None,
    batchnorm: str,
    products: str,
) -> Placement:
    from neurosim.runs import Placement

    return Placement(
        tuple(include or ["*"]), tuple(exclude or ()), strict, tuple(also or ()), batchnorm, products
    )


def _subjects(
    folders: list[Path],
    names: list[str] | None,
    data: str | None,
    weights: Path | None,
    out: Path | None,
    changes: list[str] | None,
    data_dir: Path | None,
) -> tuple[Mapping[str, Subject], list[str]]:
    """The runs, or the user's own network, by label; and those changes that are the hardware's."""
    changes = changes or []
    if folders:
        for option, value in (("--data", data), ("--weights", weights)):
            if value is not None:
                raise UsageError(
                    f"{option} {value} is for a network of your own, without a RUN: a run has its own"
                )
        return opening.opened(folders, names), changes
    if not names:
        raise UsageError(
            "expected a RUN (a folder made by neurosim train), or --model module:callable and --data"
        )
    if len(names) > 1:
        raise UsageError(f"without a RUN, --model names one network; got {len(names)}")
    if data is None:
        raise UsageError(f"--model {names[0]} without a RUN needs --data, such as --data digits")
    (own,) = opening.own_networks(names)
    with interrupts.held_back():
        from neurosim import runs

        mine = [change for change in changes if change.strip().startswith("model.")]
        found = runs.own_network(
            own,
            data,
            out or Path("runs") / _pair_name(data, own.name),
            weights=weights,
            options={key.removeprefix("model."): value for key, value in runs.parse_changes(mine).items()},
            data_dir=data_dir,
        )
    return {found.name: found}, [change for change in changes if change not in mine]


def _study(
    subjects: Mapping[str, Subject],
    hardware_name: str | None,
    chips: int,
    times: str | None,
    seed: int,
    limit: int | None,
    data_dir: Path | None,
    changes: list[str] | None,
    workers: int | None = None,
    engine: str | None = None,
    shard: Shard | None = None,
    out: Path | None = None,
    placement: Placement | None = None,
) -> dict[str, Evaluation]:
    """Every run on the same chips, by the label it has in tables and figures."""
    hardware = _hardware(hardware_name, changes)
    times_s = _times(times, hardware)
    if chips < 1:
        raise UsageError(f"expected --chips of at least 1; got {chips}")
    with interrupts.held_back():
        from neurosim import evaluation, runs

        evaluation.evaluate, evaluation.summarise  # noqa: B018  both load what they need when first named

    study = {}
    with interrupts.remembered() as check:
        for label, run in subjects.items():
            with console.Progress(f"{label} on {hardware.name}", "chips x ages") as progress:

                def show(done: int, total: int, progress: console.Progress = progress) -> None:
                    check()
                    progress.show(done, total)

                study[label] = runs.evaluate_run(
                    run,
                    hardware,
                    chips=chips if shard is None else shard.chips(range(chips)),
                    times_s=times_s,
                    seed=seed,
                    limit=limit,
                    data_dir=data_dir,
                    progress=show,
                    workers=workers,
                    engine=engine,
                    ledger=None if shard is None else (out or run.folder) / shard.ledger,
                    placement=placement,
                )
    return study


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


def _hardware(name: str | None, changes: list[str] | None) -> Hardware:
    from neurosim.devices import hardware
    from neurosim.runs import parse_changes

    return hardware(name or DEFAULT_HARDWARE).with_all(parse_changes(changes or []))


def _times(text: str | None, hardware: Hardware) -> list[float]:
    """The ages asked for; where none are, a few up to a year if the device ages, else none."""
    from neurosim.evaluation import parse_times

    if text is not None:
        return parse_times(text)
    devices = [variant.device for variant in hardware.variants()]
    ages = any(effect.acts and "age" in effect.drawn for device in devices for effect in device.effects())
    return parse_times(DEFAULT_TIMES if ages else "0s")


def _summary(table: Table, bound: float | None) -> Table:
    from neurosim.evaluation import summarise

    return summarise(table, bound)


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


def _write(study: Mapping[str, Evaluation], folders: list[Path], out: Path | None) -> dict[str, str]:
    """chips.csv and chips.svg, in the folder of a single run, or beside several."""
    folder = out or (folders[0] if len(folders) == 1 else folders[0].parent / "-vs-".join(study))
    tables = {label: found.table for label, found in study.items()}
    digital = {label: found.digital_accuracy for label, found in study.items()}
    name = next(iter(study.values())).hardware.name
    files = {"csv": str(folder / "chips.csv")}
    _together(tables).to_csv(files["csv"])
    if importlib.util.find_spec("matplotlib") is None:
        console.say("no picture: matplotlib is missing (pip install 'neurosim[report]')")
    else:
        from neurosim.report import accuracy_over_time

        files["svg"] = str(folder / "chips.svg")
        title = f"Accuracy across chips of {name}"
        accuracy_over_time(tables, path=files["svg"], digital=digital, title=title)
    return files


def _together(tables: Mapping[str, Table]) -> Table:
    """One table with a column that names the network, where there are several."""
    from neurosim.evaluation import Table

    if len(tables) == 1:
        return next(iter(tables.values()))
    return Table.from_rows([{"network": label, **row} for label, t in tables.items() for row in t.rows()])


def _facts(study: Mapping[str, Evaluation], summaries: Mapping[str, Table]) -> dict[str, Any]:
    return {
        "networks": {
            label: {
                "hardware": found.hardware.name,
                "digital_accuracy": found.digital_accuracy,
                "products_error": found.products_error,
                "summary": summaries[label].rows(),
                "chips": found.table.rows(),
            }
            for label, found in study.items()
        }
    }


def _text(study: Mapping[str, Evaluation], summaries: Mapping[str, Table]) -> str:
    first = next(iter(study.values()))
    chips, samples = len(set(first.table.column("chip").tolist())), first.table.column("samples")[0]
    digital = {label: found.digital_accuracy for label, found in study.items()}
    title = f"accuracy in % over {chips} chips of {first.hardware.name}, {samples} test samples"
    lines = [
        f"{label}: outputs are off by {console.percent(found.products_error)} % (rms, first chip) because "
        "products are not of float32"
        for label, found in study.items()
        if found.products_error is not None
    ]
    return "\n".join([title, console.readable(summaries, digital), *lines])


def _listed(files: Mapping[str, str]) -> str:
    names = {"csv": "table", "svg": "picture"}
    return "\n".join(f"{names[kind]}: {path}" for kind, path in files.items())


# ---------------------------------------------------------------- what there is


@hardware_app.command("list")
def hardware_list(
    long: Annotated[
        bool, typer.Option("--long", help="With source, measured range and what each covers, in full.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The presets: device, year, node, range, source; --long says what each covers."""
    from neurosim.devices import hardware, hardware_names
    from neurosim.technologies import as_table, in_full, technology

    rows = [technology(hardware(name)) for name in hardware_names()]
    console.emit(rows, in_full(rows) if long else as_table(rows), as_json)


@hardware_app.command("show")
def hardware_show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE")],
    picture: Annotated[
        Path | None, typer.Argument(metavar="[PICTURE]", help="With --plot: a .svg or .png file.")
    ] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw programming error, drift and read noise; else to NAME.svg.")
    ] = False,
    changes: Set = None,
    as_json: Json = False,
) -> None:
    """One description in full, as TOML: save it, change it, give it to --hardware."""
    if picture is not None and not plot:
        raise UsageError(f"a picture is given, {picture}, but not --plot")
    found = _hardware(name, changes)
    effects = [
        {"name": e.name, "acts": e.acts, "drawn": e.drawn, "size": e.size}
        for e in [*found.device.effects(), *found.faults.effects()]
    ]
    value = {**found.model_dump(mode="json"), "effects": effects}
    if plot:
        from neurosim.report import device_figure

        file = picture or Path(re.sub(r"[^\w.-]+", "-", found.name) + ".svg")
        value["picture"] = str(device_figure(found.device, found.name, path=file))
        console.say(f"picture: {file}")
    console.emit(value, found.to_toml().rstrip(), as_json)


@hardware_app.command("check")
def hardware_check(file: Annotated[Path, typer.Argument(metavar="FILE")], as_json: Json = False) -> None:
    """Read a hardware file; every error at once, each with its line."""
    from neurosim.devices import hardware

    found = hardware(file)
    patterns = {"layers": list(found.layers), "parameters": list(found.parameters)}
    console.emit(
        {"file": str(file), "name": found.name, "digest": found.digest(), **patterns},
        "\n".join([f"{file}: {found.name}, good", *console.patterns(patterns)]),
        as_json,
    )


@hardware_app.command("fit")
def hardware_fit(
    file: Annotated[Path, typer.Argument(metavar="CSV", help="Columns target, measured, time_s, device.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The hardware, a .toml file.")],
    g_max: Annotated[
        float | None, typer.Option("--g-max", metavar="SIEMENS", help="Else the largest target.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the hardware; else that of FILE.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw data and fit: .svg or .png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit programming error and drift of your own devices; refuses what the data cannot support."""
    from neurosim.devices import fitting, hardware
    from neurosim.storage import write_text

    if out.suffix != ".toml":
        raise UsageError(f"--out {out}: expected a name that ends in .toml")
    found = fitting.fit(fitting.read(file), name=name or out.stem, g_max_siemens=g_max)
    files = {"hardware": str(out)}
    if plot is not None:
        from neurosim.report import fit_figure

        files["picture"] = str(fit_figure(found, path=plot))
    write_text(out, found.hardware.to_toml())
    hardware(out)  # what was written reads back
    written = [f"{what}: {path}" for what, path in files.items()]
    text = [console.columns(found.lines()), *found.notes, *written]
    console.emit({**found.to_dict(), "files": files}, "\n".join(text), as_json)


@hardware_app.command("wires")
def hardware_wires(
    pitch: Annotated[
        float, typer.Option("--pitch", help="Length of a cell along the wire, in F (half the metal pitch).")
    ] = 2.0,
    kelvin: Annotated[float, typer.Option("--kelvin", help="Temperature.")] = 300.0,
    as_json: Json = False,
) -> None:
    """Resistance of one segment of wire by technology node, for wires.r_row_ohm and wires.r_col_ohm."""
    from neurosim.devices.wires.geometry import NODES, node_segment_resistance_ohm

    rows = [
        {
            "node": node.name,
            "half_pitch_nm": node.width_m * 1e9,
            "ohm": node_segment_resistance_ohm(node.name, pitch, temperature_kelvin=kelvin),
            "source": node.source,
        }
        for node in NODES.values()
    ]
    lines = [(str(r["node"]), f"F = {r['half_pitch_nm']:.0f} nm  {r['ohm']:.3g} ohm") for r in rows]
    heading = f"one segment of copper wire, {pitch:g} F long, at {kelvin:g} K (good to about 40 %)"
    console.emit(rows, f"{heading}\n{console.columns(lines)}", as_json)


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """The networks of the zoo, at the size at which they were published."""
    from dataclasses import asdict

    from neurosim.models import info, names
    from neurosim.models.catalogue import input_shape

    found = [info(name) for name in names()]
    head = ("name", "parameters", "MACs", "image", "classes of", "paper", "checked against")
    cells = [
        (
            row.name,
            f"{row.parameters:,}",
            console.quantity(row.macs),
            "x".join(map(str, input_shape(row.name, *row.standard[1:]))),
            {"classification": "images", "segmentation": "pixels"}[row.task],
            (re.search(r"arXiv:[0-9.]+", row.paper) or [row.paper])[0],
            row.checked,
        )
        for row in found
    ]
    console.emit([asdict(row) for row in found], console.aligned([head, *cells]), as_json)


@models_app.command("show")
def models_show(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    num_classes: Annotated[int | None, typer.Option("--num-classes", min=1, help="Else the paper's.")] = None,
    in_chans: Annotated[int | None, typer.Option("--in-chans", min=1, help="Else the paper's.")] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="Pixels a side; else the paper's.")
    ] = None,
    hardware: HardwareName = None,
    changes: Set = None,
    as_json: Json = False,
) -> None:
    """One network, layer by layer: shapes, sizes, and its tiles on a hardware.

    --set model.x=... are options of the model, all others change the hardware.
    """
    from neurosim.models import info

    found = info(name)
    mine = [change for change in changes or [] if change.strip().startswith("model.")]
    with interrupts.held_back():
        from neurosim import runs
        from neurosim.cards import card

        options = {key.removeprefix("model."): value for key, value in runs.parse_changes(mine).items()}
        classes, channels, side = found.standard
        shown = card(
            name,
            _hardware(hardware, [change for change in changes or [] if change not in mine]),
            num_classes=num_classes or classes,
            in_chans=in_chans or channels,
            image_size=image_size or side,
            **options,
        )
    facts = {"name": name, "summary": found.summary, "paper": found.paper, "checked": found.checked}
    text = [f"{name}: {found.summary}", f"paper: {found.paper}", f"checked against: {found.checked}", ""]
    console.emit({**facts, **shown.to_dict()}, "\n".join([*text, str(shown)]), as_json)


@data_app.command("list")
def data_list(data_dir: DataDir = None, as_json: Json = False) -> None:
    """The data sets, and which of them are on this machine."""
    from neurosim.data import info, names, places

    def where(row: DataSet) -> str | None:
        return "embedded" if row.embedded else str(places.find(row, data_dir) or "") or None

    def missing(row: DataSet) -> str:
        return f"neurosim data get {row.name}" if row.fetchable else "no public file"

    found = [info(name) for name in names()]
    rows = [
        {
            "name": row.name,
            "summary": row.summary,
            "licence": row.licence,
            "source": row.source,
            "where": where(row),
        }
        for row in found
    ]
    lines = [(row.name, f"{row.summary} [{where(row) or missing(row)}]") for row in found]
    console.emit(rows, console.columns(lines), as_json)


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(metavar="NAME")], data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Fetch a data set from its publisher, unless it is here; a stopped download goes on where it stopped."""
    from neurosim import data

    with console.Progress(name, "bytes") as progress:
        folder = data.get(name, data_dir, progress=lambda file, done, total: progress.show(done, total, file))
    where = "comes with neurosim" if folder is None else str(folder)
    console.emit(
        {"name": name, "folder": None if folder is None else str(folder)}, f"{name}: {where}", as_json
    )


@app.command()
def doctor(as_json: Json = False) -> None:
    """Versions, devices, what is missing and how to get it."""
    with interrupts.held_back():
        from neurosim.doctor import examine

        found = examine()
    lines = [(f"{part}: {name}", str(value)) for part, row in found.items() for name, value in row.items()]
    console.emit(found, console.columns(lines), as_json)


@app.command()
def version(as_json: Json = False) -> None:
    """The version of neurosim."""
    console.emit({"neurosim": __version__}, __version__, as_json)


# ---------------------------------------------------------------- in and out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code; a user's mistake is one sentence, never a traceback."""
    # Before torch loads its OpenMP library: idle threads sleep instead of spinning.  On a quiet machine a
    # chip then takes a third longer; on a busy one spinning made it 3 to 6 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with warnings.catch_warnings():
        warnings.showwarning = console.warn  # type: ignore[assignment]
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = app(
            args=None if arguments is None else list(arguments), prog_name="neurosim", standalone_mode=False
        )
        sys.stdout.flush()
        code = code if isinstance(code, int) else 0
    except BrokenPipeError:  # the reader of our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:  # while the commands are put together; inside one, Typer makes it a 130
        code = 130
    except BaseException as error:
        code, sentence = _verdict(error)
        console.say(sentence)
    if code == 130:
        # An interrupt that passed through exec("...") inside a library leaves CPython a note to end by the
        # signal itself, whatever our exit code; running any string withdraws it.
        exec("")  # noqa: S102
        console.say(
            "interrupted: nothing that was finished is lost; the same command with --resume goes on from here"
        )
    return code


def _verdict(error: BaseException) -> tuple[int, str]:
    """The exit code and the sentence for what a user may meet; anything else is a defect and raised again."""
    if isinstance(error, _Missed):
        return 3, f"missed: {error}"
    if isinstance(error, UsageError):
        return 2, f"error: {error}"
    if isinstance(error, TyperException):
        return error.exit_code, f"error: {' '.join(error.format_message().split())}"
    if isinstance(error, RunError):
        return 1, f"error: {error}"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return 1, f"error: {where}{error.strerror or error}"
    if isinstance(error, MemoryError):
        return 1, "error: out of memory"
    raise error


if __name__ == "__main__":
    sys.exit(main())
