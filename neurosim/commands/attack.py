"""``neurosim attack``: the worst weights and the worst inputs near those of trained networks."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurosim import console, interrupts
from neurosim.commands import opening
from neurosim.commands.on_chips import age_of, hardware_of
from neurosim.commands.options import DataDir, Json, Out
from neurosim.errors import UsageError, unknown

if TYPE_CHECKING:
    from neurosim.data import Batches, Splits
    from neurosim.devices import Hardware
    from neurosim.evaluation import Table
    from neurosim.evaluation.input_attacks import InputAttack, Transfer
    from neurosim.landscape.attack import Attacked, WeightAttack
    from neurosim.runs import Run

PARTS = ("train", "validation", "test")
TARGETS = ("weights", "inputs")
MOST = 6  # networks in a figure
SIZES = {"weights": "0.05,0.1,0.2", "inputs": "2/255,8/255,16/255", "pgd-l2": "0.25,0.5,1"}
DEFAULT_CHIPS = 5
_ONLY = {
    "weights": ("--loss", "--per", "--paper", "--draws", "--parameters"),
    "inputs": ("--attack", "--hardware", "--chips", "--at", "--set"),
}


def attack(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders made by neurosim train.")],
    target: Annotated[
        str, typer.Option("--on", metavar="weights|inputs", help="What is attacked.")
    ] = "weights",
    sizes: Annotated[
        str | None,
        typer.Option("--sizes", metavar="S1,S2,...", help="Of weights: relative to each; of inputs: 8/255."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Of the ascent.")] = None,
    restarts: Annotated[
        int | None, typer.Option("--restarts", min=1, help="The worst of so many attempts counts.")
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Weights: the attack of Büchel et al. at its settings.")
    ] = False,
    loss: Annotated[
        str | None, typer.Option("--loss", metavar="cross-entropy|kl", help="Weights: what is made large.")
    ] = None,
    per: Annotated[
        str | None,
        typer.Option("--per", metavar="data|batch", help="Weights: one attack for all data, or each batch."),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option("--draws", min=0, help="Weights: random draws of the same size, of each kind."),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameters", metavar="PATTERN", help="Weights: attack these parameters too; repeatable."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--attack", help="Inputs: fgsm, pgd, pgd-l2, mifgsm or autoattack (slow).")
    ] = None,
    hardware: Annotated[
        str | None, typer.Option("--hardware", metavar="NAME|FILE", help="Inputs: a preset or a TOML file.")
    ] = None,
    chips: Annotated[int | None, typer.Option("--chips", min=1, help="Inputs: chips of the lot.")] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="1d", help="Inputs: age of the chips.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Inputs: change one setting of the hardware."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="MODULE:CALLABLE", help="Your own network that a RUN records."),
    ] = None,
    part: Annotated[
        str, typer.Option("--part", metavar="train|validation|test", help="The data that are attacked.")
    ] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N samples.")] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Samples a pass; with --per batch, an attack.")
    ] = 100,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of starts and draws; of inputs also of the lot.")
    ] = 0,
    out: Out = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Look for the worst weights near trained ones, or for the worst inputs near those of the data.

    Beside attacked weights stand random draws of the same size, as chips make them. Inputs are attacked off
    any chip and on sampled chips, and each is tested on all. Writes attack-weights.csv and .svg, or
    attack-inputs.csv and .svg.
    """
    if target not in TARGETS:
        raise unknown("target of --on,", target, TARGETS)
    if part not in PARTS:
        raise unknown("part of the data,", part, PARTS)
    given: dict[str, Any] = {
        "--loss": loss,
        "--per": per,
        "--paper": paper or None,
        "--draws": draws,
        "--parameters": parameters or None,
        "--attack": name,
    }
    given |= {"--hardware": hardware, "--chips": chips, "--at": at, "--set": changes or None}
    _check_given(target, {option for option, value in given.items() if value is not None})
    if len(runs) > MOST:
        raise UsageError(f"expected 1 to {MOST} runs, as many as a figure shows; got {len(runs)}")
    numbers = _sizes(sizes or SIZES.get(name or "", SIZES[target]))
    searched = {"steps": steps, "restarts": restarts, "loss": loss, "per": per}
    chosen: dict[str, Any] = {key: value for key, value in searched.items() if value is not None}
    if parameters:
        chosen["parameters"] = tuple(parameters)
    data = _Data(part, limit, batch_size, seed, data_dir)
    with interrupts.held_back():
        work: _OnWeights | _OnInputs
        if target == "weights":
            work = _on_weights(numbers, chosen, paper, draws)
        else:
            work = _on_inputs(numbers, chosen, name, hardware, chips, at, changes)
    opened = opening.opened(runs, model)
    folder = out or (runs[0] if len(runs) == 1 else runs[0].parent / "-vs-".join(opened))
    tables, details = {}, {}
    with interrupts.remembered() as check:
        for label, run in opened.items():
            with console.Progress(f"{label}: attack", "batches") as progress, run.at_work():

                def told(done: int, total: int, progress: console.Progress = progress) -> None:
                    check()
                    progress.show(done, total)

                tables[label], details[label] = work.done(run, data, told)
    files = _write(folder, work, tables, details)
    value = {
        "on": target,
        **work.facts(),
        "part": part,
        "seed": seed,
        "networks": {
            label: {"summary": tables[label].rows(), "each": details[label].rows()} for label in tables
        },
        "files": files,
    }
    listed = "\n".join(f"{kind}: {path}" for kind, path in files.items())
    console.emit(value, f"{work.text(tables, data)}\n\n{listed}", as_json)


@dataclasses.dataclass(frozen=True)
class _Data:
    """Which data are attacked, in what pieces."""

    part: str
    limit: int | None
    batch_size: int
    seed: int
    folder: Path | None

    def splits(self, run: Run) -> Splits:
        return run.splits(self.folder)

    def batches(self, splits: Splits) -> Batches:
        from neurosim.data import Batches

        examples = {"train": splits.train, "validation": splits.validation, "test": splits.test}[self.part]
        return Batches(examples if self.limit is None else examples[: self.limit], self.batch_size)


@dataclasses.dataclass(frozen=True)
class _OnWeights:
    """Attacks on weights, at some sizes."""

    attack: WeightAttack
    sizes: list[float]
    draws: int

    name = "attack-weights"

    def done(self, run: Run, data: _Data, progress: Callable[[int, int], None]) -> tuple[Table, Table]:
        from neurosim.evaluation.attacked import weights_details, weights_table
        from neurosim.landscape.attack import attack_weights

        batches = data.batches(data.splits(run))
        found: list[Attacked] = attack_weights(
            run.model(), batches, self.sizes, self.attack, draws=self.draws, seed=data.seed, progress=progress
        )
        return weights_table(found), weights_details(found)

    def facts(self) -> dict[str, Any]:
        return {"attack": dataclasses.asdict(self.attack), "sizes": self.sizes, "draws": self.draws}

    def text(self, tables: Mapping[str, Table], data: _Data) -> str:
        rows: list[tuple[str, ...]] = [
            ("network", "size", "clean", "worst weights", "95 % interval", "mildest restart", "random mean")
            + ("random worst", "worst - random", "95 % interval")
        ]
        for label, table in tables.items():
            for row in table.rows():
                random = min(float(row["gaussian_min"]), float(row["corner_min"]))
                cells = [f"{row['size']:g}", _cell(row["clean"]), _cell(row["attacked"])]
                cells += [_ends(row, "attacked"), _cell(row["mildest"]), _cell(row["gaussian"])]
                cells += [_cell(random), _cell(row["beyond"]), _ends(row, "beyond")]
                rows.append((label, *cells))
        what = self.attack
        one = "all data" if what.per == "data" else f"each {data.batch_size} samples"
        tries = f"the worst of {what.restarts} restarts" if what.restarts > 1 else "one start"
        samples = next(iter(tables.values())).rows()[0]["samples"]
        title = (
            f"accuracy in % with attacked weights, {samples} {data.part} samples: {what.loss}, "
            f"{what.steps} steps, {tries}, one attack for {one}"
        )
        shown = f"{title}\n{console.aligned(rows)}"
        if not self.draws:
            return shown
        return (
            f"{shown}\nrandom: {self.draws} Gaussian draws of that relative size (mean), and as many random "
            "corners (worst of all); the difference is paired, against the worst one"
        )

    def picture(self, tables: Mapping[str, Table], path: str) -> None:
        from neurosim.report.attack import weights_figure

        what = "all data" if self.attack.per == "data" else "each batch"
        weights_figure(tables, path=path, title=f"Accuracy with weights attacked for {what}")


@dataclasses.dataclass(frozen=True)
class _OnInputs:
    """Attacks on inputs, at some sizes, off any chip and on chips."""

    attacks: list[InputAttack]
    hardware: Hardware
    chips: int
    time_s: float

    name = "attack-inputs"

    def done(self, run: Run, data: _Data, progress: Callable[[int, int], None]) -> tuple[Table, Table]:
        from neurosim.analog import Lot
        from neurosim.evaluation.attacked import inputs_details, inputs_table
        from neurosim.evaluation.input_attacks import transfer

        splits = data.splits(run)
        if splits.task != "classification":
            raise UsageError(
                f"attacks on inputs need one class for each sample; the data of {run.folder} have one for "
                "each pixel"
            )
        net, batches = run.deploy(self.hardware, splits), data.batches(splits)
        found: list[Transfer] = []
        for number, attack in enumerate(self.attacks):

            def told(done: int, total: int, number: int = number) -> None:
                progress(number * total + done, len(self.attacks) * total)

            chips = Lot(self.hardware, data.seed)[0 : self.chips]
            found.append(
                transfer(net, batches, chips, attack, time_s=self.time_s, seed=data.seed, progress=told)
            )
        return inputs_table(found), inputs_details(found)

    def facts(self) -> dict[str, Any]:
        first = dataclasses.asdict(self.attacks[0])
        return {
            "attack": {key: value for key, value in first.items() if key != "size"},
            "sizes": [attack.size for attack in self.attacks],
            "hardware": self.hardware.name,
            "chips": self.chips,
            "time_s": self.time_s,
        }

    def text(self, tables: Mapping[str, Table], data: _Data) -> str:
        rows: list[tuple[str, ...]] = [
            ("network", "size", "clean", "off chip", "clean on chips", "off chip to chips", "own chip")
            + ("chip to others",)
        ]
        for label, table in tables.items():
            for row in table.rows():
                cells = [f"{row['size']:.4g}"]
                names = ("clean", "digital", "clean_chips", "to_chips", "own_chip", "other_chips")
                cells += [_with_ends(row, name) for name in names]
                rows.append((label, *cells))
        first, samples = self.attacks[0], next(iter(tables.values())).rows()[0]["samples"]
        chips = f"{self.chips} chip{'s' if self.chips > 1 else ''}"
        title = (
            f"accuracy in % on inputs attacked by {first.name}, {samples} {data.part} samples, {chips} of "
            f"{self.hardware.name}"
        )
        note = (
            "made where tested on: off chip, own chip; transferred: off chip to chips, chip to others; in "
            "brackets the 95 % interval (off chip over samples, on chips over chips)"
        )
        return f"{title}\n{console.aligned(rows)}\n{note}"

    def picture(self, tables: Mapping[str, Table], path: str) -> None:
        from neurosim.report.attack import inputs_figure

        name = self.attacks[0].name
        unit = "length of the change of a sample" if name == "pgd-l2" else "change of each number of an input"
        inputs_figure(
            tables,
            path=path,
            title=f"Accuracy on inputs attacked by {name}, chips of {self.hardware.name}",
            heading=f"ε, {unit}",
        )


def _on_weights(sizes: list[float], chosen: dict[str, Any], paper: bool, draws: int | None) -> _OnWeights:
    from neurosim.landscape.attack import PAPER, WeightAttack

    attack = dataclasses.replace(PAPER if paper else WeightAttack(), **chosen)
    for size in sizes:
        attack.region(size)
    return _OnWeights(attack, sizes, 10 if draws is None else draws)


def _on_inputs(
    sizes: list[float],
    chosen: dict[str, Any],
    name: str | None,
    hardware: str | None,
    chips: int | None,
    at: str | None,
    changes: list[str] | None,
) -> _OnInputs:
    from neurosim.evaluation.input_attacks import InputAttack

    time_s = age_of(at)
    attacks = [InputAttack(name or "pgd", size, **chosen) for size in sizes]
    found = hardware_of(hardware, changes)
    return _OnInputs(attacks, found, chips or DEFAULT_CHIPS, time_s)


def _check_given(target: str, given: set[str]) -> None:
    """Refuse options of the other kind of attack."""
    for other, options in _ONLY.items():
        if other != target and (wrong := [option for option in options if option in given]):
            raise UsageError(f"{wrong[0]} is for attacks on {other}: expected --on {other} with it")


def _sizes(text: str) -> list[float]:
    """``0.05,8/255`` as numbers, in ascending order."""
    found = []
    for word in text.split(","):
        above, slash, below = word.partition("/")
        try:
            number = float(above) / (float(below) if slash else 1.0)
        except (ValueError, ZeroDivisionError):
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            raise UsageError(f"cannot read --sizes {text!r}: expected such as 0.05,0.1 or 2/255,8/255")
        found.append(number)
    if len(set(found)) < len(found):
        raise UsageError(f"cannot read --sizes {text!r}: expected each size once")
    return sorted(found)


def _cell(value: Any) -> str:
    return console.percent(float(value))


def _ends(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "-" if low != low else f"{_cell(low)} to {_cell(high)}"


def _with_ends(row: Mapping[str, Any], name: str) -> str:
    ends = _ends(row, name)
    return _cell(row[name]) + ("" if ends == "-" else f" ({ends})")


def _write(
    folder: Path,
    work: _OnWeights | _OnInputs,
    tables: Mapping[str, Table],
    details: Mapping[str, Table],
) -> dict[str, str]:
    """The tables of all networks in one file of each kind, and the picture."""
    from neurosim.evaluation import Table

    files = {}
    for kind, name, of in (("table", work.name, tables), ("each", f"{work.name}-each", details)):
        files[kind] = str(folder / f"{name}.csv")
        rows = [{"network": label, **row} for label, table in of.items() for row in table.rows()]
        Table.from_rows(rows).to_csv(files[kind])
    if importlib.util.find_spec("matplotlib") is None:
        console.say("no picture: matplotlib is missing (pip install 'neurosim[report]')")
        return files
    files["picture"] = str(folder / f"{work.name}.svg")
    work.picture(tables, files["picture"])
    return files
