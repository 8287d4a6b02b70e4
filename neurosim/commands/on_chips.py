"""What commands that put networks on chips share: the networks, the hardware, the study and its files."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim import console, interrupts
from neurosim.commands import opening
from neurosim.errors import UsageError

if TYPE_CHECKING:
    from neurosim.devices import Hardware
    from neurosim.evaluation import Table
    from neurosim.runs import Evaluation, Placement, Shard, Subject

DEFAULT_HARDWARE = "pcm-joshi-2020"
DEFAULT_TIMES = "25s,1h,1d,1y"


def placement(
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


def subjects(
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
            out or Path("runs") / pair_name(data, own.name),
            weights=weights,
            options={key.removeprefix("model."): value for key, value in runs.parse_changes(mine).items()},
            data_dir=data_dir,
        )
    return {found.name: found}, [change for change in changes if change not in mine]


def pair_name(data: str, model: str) -> str:
    """Data and network as part of a folder's name."""
    return f"{Path(data).stem if data.endswith('.npz') else data}-{model.replace(':', '.')}"


def study_of(
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
    hardware = hardware_of(hardware_name, changes)
    times_s = times_of(times, hardware)
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


def hardware_of(name: str | None, changes: list[str] | None) -> Hardware:
    from neurosim.devices import hardware
    from neurosim.runs import parse_changes

    return hardware(name or DEFAULT_HARDWARE).with_all(parse_changes(changes or []))


def age_of(text: str | None) -> float:
    """The one age asked for, in seconds; 0 where none is."""
    from neurosim.evaluation import parse_times

    times_s = parse_times(text or "0s")
    if len(times_s) != 1:
        raise UsageError(f"expected one age, --at 1d; got {text!r}")
    return times_s[0]


def times_of(text: str | None, hardware: Hardware) -> list[float]:
    """The ages asked for; where none are, a few up to a year if the device ages, else none."""
    from neurosim.evaluation import parse_times

    if text is not None:
        return parse_times(text)
    devices = [variant.device for variant in hardware.variants()]
    ages = any(effect.acts and "age" in effect.drawn for device in devices for effect in device.effects())
    return parse_times(DEFAULT_TIMES if ages else "0s")


def summary_of(table: Table, bound: float | None) -> Table:
    from neurosim.evaluation import summarise

    return summarise(table, bound)


def write(study: Mapping[str, Evaluation], folders: list[Path], out: Path | None) -> dict[str, str]:
    """chips.csv and chips.svg, in the folder of a single run, or beside several."""
    folder = out or (folders[0] if len(folders) == 1 else folders[0].parent / "-vs-".join(study))
    tables = {label: found.table for label, found in study.items()}
    digital = {label: found.digital_accuracy for label, found in study.items()}
    name = next(iter(study.values())).hardware.name
    files = {"csv": str(folder / "chips.csv")}
    together(tables).to_csv(files["csv"])
    if importlib.util.find_spec("matplotlib") is None:
        console.say("no picture: matplotlib is missing (pip install 'neurosim[report]')")
    else:
        from neurosim.report import accuracy_over_time

        files["svg"] = str(folder / "chips.svg")
        title = f"Accuracy across chips of {name}"
        accuracy_over_time(tables, path=files["svg"], digital=digital, title=title)
    return files


def together(tables: Mapping[str, Table]) -> Table:
    """One table with a column that names the network, where there are several."""
    from neurosim.evaluation import Table

    if len(tables) == 1:
        return next(iter(tables.values()))
    return Table.from_rows([{"network": label, **row} for label, t in tables.items() for row in t.rows()])


def facts(study: Mapping[str, Evaluation], summaries: Mapping[str, Table]) -> dict[str, Any]:
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


def text(study: Mapping[str, Evaluation], summaries: Mapping[str, Table]) -> str:
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


def listed(files: Mapping[str, str]) -> str:
    names = {"csv": "table", "svg": "picture"}
    return "\n".join(f"{names[kind]}: {path}" for kind, path in files.items())
