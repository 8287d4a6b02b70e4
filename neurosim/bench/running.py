"""A recipe done: every method trained with every seed, every network put on the same chips; resumable.

In the folder of a comparison, ``recipe.toml`` says which trainings it holds and ``runs/LABEL-SEED`` holds
each, a run like any other, with two files of its own: ``cost.json``, written when its training has ended,
and ``robust.json``, the accuracies of its chips, written when all of them are known.  What those two say is
not done again; everything else goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim import __version__, console, interrupts, runs
from neurosim.bench.recipe import Recipe, passes_of, with_sources
from neurosim.errors import RunError, UsageError, unknown
from neurosim.storage import sha256_file, write_text

if TYPE_CHECKING:
    from neurosim.data import Splits
    from neurosim.devices import Hardware
    from neurosim.evaluation import Table
    from neurosim.report.robust import Comparison

RECIPE, COST, CHIPS = "recipe.toml", "cost.json", "robust.json"
_DECIDING = ("model", "data", "train")
_OF_A_ROW = ("method", "settings", "train", "teacher", "init")


@dataclass(frozen=True)
class Item:
    """One training and what has become of it: ``to do``, ``begun``, ``trained`` or ``done``."""

    label: str
    seed: int
    method: str
    passes: float
    state: str


@dataclass
class Bench:
    """A recipe and the folder of its results.

    Attributes:
        recipe: what is asked.
        out: the folder.
        only: the rows to work on (and those they need); all by default.
        device: of training and of chips: ``auto``, ``cpu`` or ``cuda``.
        data_dir: where the data sets are.
        workers: processes for the chips, one thread each; None is one process with all threads.
    """

    recipe: Recipe
    out: Path
    only: Sequence[str] = ()
    device: str = "auto"
    data_dir: Path | None = None
    workers: int | None = None
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label in self.only:
            if label not in self.recipe.methods:
                raise unknown("row", label, self.recipe.methods)

    @property
    def labels(self) -> list[str]:
        """The rows to work on, each after those it needs."""
        return with_sources(self.recipe, list(self.only) or list(self.recipe.methods))

    @property
    def work(self) -> list[tuple[str, int]]:
        """Rows and seeds in the order in which they are done: a whole comparison with each seed."""
        return [(label, seed) for seed in self.recipe.seeds for label in self.labels]

    def folder(self, label: str, seed: int) -> Path:
        """Where one training is."""
        return self.out / "runs" / self.recipe.folder_name(label, seed)

    def plan(self) -> list[Item]:
        """What would be done, and what is done already; nothing is written.

        Raises:
            UsageError: the folder holds trainings of another recipe.
        """
        self._compare()
        return [
            Item(
                label,
                seed,
                self.recipe.methods[label].method,
                passes_of(self.recipe, label),
                self._state(label, seed),
            )
            for label, seed in self.work
        ]

    def _state(self, label: str, seed: int) -> str:
        folder = self.folder(label, seed)
        if self.cost(label, seed) is None:
            return "begun" if folder.exists() else "to do"
        return "trained" if self.rows(label, seed) is None else "done"

    def run(self) -> Comparison:
        """Do what is not done yet.  A row that cannot be trained is noted in ``failures``; others go on.

        Raises:
            UsageError: the folder holds trainings of another recipe; unknown data, network or setting.
            RunError: nothing could be done.
        """
        self._compare()
        if any(self.cost(label, seed) is None for label, seed in self.work):
            _ = self._base  # an unknown network or data set leaves no folder behind
        self._keep_recipe()
        self.failures.clear()
        for number, (label, seed) in enumerate(self.work, 1):
            what = f"{label}, seed {seed} ({number} of {len(self.work)})"
            try:
                self._train(label, seed, what)
                self._evaluate(label, seed, what)
            except RunError as error:
                self.failures[f"{label}, seed {seed}"] = str(error)
                console.say(f"{what}: failed: {error}")
        if len(self.failures) == len(self.work):
            raise RunError(f"nothing could be done: {next(iter(self.failures.values()))}")
        return self.comparison()

    # the recipe on disk

    def _deciding(self) -> dict[str, Any]:
        """What decides the weights of the trainings."""
        from neurosim.training.folder import plain

        whole = self.recipe.model_dump(mode="json", exclude_none=True)
        rows = {
            label: {key: row[key] for key in _OF_A_ROW if key in row}
            for label, row in whole["methods"].items()
        }
        found: dict[str, Any] = plain({**{part: whole[part] for part in _DECIDING}, "methods": rows})
        return found

    def _kept(self) -> dict[str, Any] | None:
        path = self.out / RECIPE
        if not path.exists():
            if self.out.is_dir() and any(not entry.name.startswith(".") for entry in self.out.iterdir()):
                raise UsageError(
                    f"{self.out} holds something else than a comparison: expected a folder of its own"
                    " (--out DIR)"
                )
            return None
        try:
            kept = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error})") from error
        return kept

    def _compare(self) -> None:
        """Refuse a folder with trainings that this recipe would not have made."""
        from neurosim.training.folder import first_difference

        kept, asked = self._kept(), self._deciding()
        if kept is None:
            return
        begun = [label for label in kept.get("methods", {}) if self._begun(label)]
        if not begun:
            return
        both = [label for label in begun if label in asked["methods"]]
        old, new = (
            {
                **{part: tree.get(part) for part in _DECIDING},
                "methods": {label: tree["methods"][label] for label in both},
            }
            for tree in (kept, asked)
        )
        difference = first_difference(old, new)
        if difference:
            raise UsageError(
                f"{self.out} holds trainings of another recipe: {difference}; expected the same, or another "
                "folder (--out DIR)"
            )

    def _begun(self, label: str) -> bool:
        from neurosim.bench.recipe import slug

        prefix = f"{slug(label)}-"
        runs_folder = self.out / "runs"
        return runs_folder.is_dir() and any(
            entry.name.startswith(prefix) and entry.name.removeprefix(prefix).isdecimal()
            for entry in runs_folder.iterdir()
        )

    def _keep_recipe(self) -> None:
        """What decides, rows that are no longer asked for included: their trainings may still be there."""
        import tomli_w

        asked, kept = self._deciding(), self._kept() or {}
        rows = {label: row for label, row in kept.get("methods", {}).items() if self._begun(label)}
        asked["methods"] = {**rows, **asked["methods"]}
        write_text(self.out / RECIPE, tomli_w.dumps(asked))

    # training

    @cached_property
    def _base(self) -> runs.Config:
        """The configuration that all trainings share."""
        recipe = self.recipe
        model, data = recipe.model.model_dump(), recipe.data.model_dump(exclude_none=True)
        changes = {f"model.{key}": value for key, value in model.items() if key != "name"}
        changes |= {f"data.{key}": value for key, value in data.items() if key != "name"}
        return runs.new_config(
            model=model["name"], data=data["name"], data_dir=self.data_dir, changes=changes
        )

    def config(self, label: str, seed: int) -> runs.Config:
        """The configuration of one training; the rows it needs must have been trained."""
        from neurosim.training import describe, method_from

        row = self.recipe.methods[label]
        train = {**self.recipe.settings_of(label), "seed": seed}
        settings = dict(row.settings)
        origins = {role: self._origin(role, source, seed) for role, source in row.sources.items()}
        if "teacher" in origins:
            settings["teacher"] = origins["teacher"]["run"]
            train["teacher"] = origins["teacher"]
        if "init" in origins:
            train["init"] = {runs.WHOLE: origins["init"]}
        tree = self._base.model_dump(mode="json", exclude_none=True)
        method = describe(method_from(row.method, settings))
        return runs.Config.model_validate({**tree, "method": method, "train": train})

    def _origin(self, role: str, label: str, seed: int) -> dict[str, str]:
        """Another training and its weights' digest, as a run's configuration records them."""
        folder = self.folder(label, seed).absolute()
        if self.cost(label, seed) is None:
            raise RunError(f"its {role} {label!r} has not been trained")
        return {"run": str(folder), "sha256": sha256_file(folder / runs.WEIGHTS)}

    def cost(self, label: str, seed: int) -> dict[str, Any] | None:
        """What a training has cost; None until it has ended."""
        folder = self.folder(label, seed)
        return _read_json(folder / COST) if (folder / runs.WEIGHTS).exists() else None

    def _train(self, label: str, seed: int, what: str) -> None:
        if self.cost(label, seed) is not None:
            return
        import torch

        config = self.config(label, seed)
        with console.Progress(f"{what}: training", "batches") as progress:
            result = runs.train_run(
                config,
                self.folder(label, seed),
                device=self.device,
                data_dir=self.data_dir,
                resume=True,
                progress=progress.of_training,
            )
        best = result.history[result.best_epoch - 1]
        cost = {
            "passes": passes_of(self.recipe, label),
            "steps": result.history[-1]["step"],
            "seconds": result.seconds,
            "threads": torch.get_num_threads(),
            "device": _device(self.device),
            "best_epoch": result.best_epoch,
            "validation_accuracy": best.get("validation_accuracy"),
        }
        write_text(self.folder(label, seed) / COST, json.dumps(cost, indent=1) + "\n")
        console.say(
            f"{what}: trained in {result.seconds:.0f} s, validation accuracy "
            f"{console.percent(result.best_validation_accuracy)} %"
        )

    # chips

    def _asked(self, label: str, seed: int) -> dict[str, Any]:
        """Everything that decides the accuracies of a training's chips."""
        choice = self.recipe.evaluate
        return {
            **choice.model_dump(mode="json", exclude={"axis", "cost_level", "hardware"}),
            "hardware": {f"{level:g}": self._hardware[level].digest() for level in choice.levels},
            "weights": sha256_file(self.folder(label, seed) / runs.WEIGHTS),
            "device": _device(self.device),
            "neurosim": __version__,
        }

    @cached_property
    def _hardware(self) -> dict[float, Hardware]:
        from neurosim.devices import hardware

        choice = self.recipe.evaluate
        given = hardware(choice.hardware)
        return {level: given.with_all({choice.vary: level}) for level in choice.levels}

    def rows(self, label: str, seed: int) -> list[dict[str, Any]] | None:
        """The chips of a training under the recipe's evaluation; None while some are missing."""
        kept = _read_json(self.folder(label, seed) / CHIPS)
        if kept is None or self.cost(label, seed) is None or kept.get("asked") != self._asked(label, seed):
            return None
        names = kept["columns"]
        return [dict(zip(names, row, strict=True)) for row in kept["rows"]]

    @cached_property
    def _splits(self) -> Splits:
        """The data, with what the chips are tested on as their test part."""
        label, seed = next((label, seed) for label, seed in self.work if self.cost(label, seed) is not None)
        config = runs.read_config(self.folder(label, seed))
        splits = runs.load_data(config.data, self.data_dir)
        choice = self.recipe.evaluate
        part = splits.test if choice.part == "test" else splits.validation
        return replace(splits, test=part if choice.limit is None else part[: choice.limit])

    def _evaluate(self, label: str, seed: int, what: str) -> None:
        if self.rows(label, seed) is not None:
            return
        run = runs.open_run(self.folder(label, seed))
        levels = self.recipe.evaluate.levels
        found: list[dict[str, Any]] = []
        means = []
        for level in levels:
            with console.Progress(f"{what}: chips at {level:g}", "chips") as progress:
                table = self._chips(run, self._hardware[level], progress)
            found += [{"level": level, **row} for row in table.rows()]
            means.append(f"{console.percent(float(table.column('accuracy').mean()))} at {level:g}")
        columns = ["level", "chip", "accuracy", "loss", "samples"]
        kept = {
            "asked": self._asked(label, seed),
            "columns": columns,
            "rows": [[row[name] for name in columns] for row in found],
        }
        write_text(self.folder(label, seed) / CHIPS, json.dumps(kept) + "\n")
        console.say(f"{what}: {', '.join(means)}")

    def _chips(self, run: runs.Run, hardware: Hardware, progress: console.Progress) -> Table:
        """One level: the table of :func:`neurosim.evaluate`, its rows kept in the run's ledger.

        Where nothing is drawn there is one chip: copies of it would be taken for evidence.
        """
        from neurosim.data import Batches
        from neurosim.evaluation import evaluate, one_thread

        choice, splits = self.recipe.evaluate, self._splits
        count = 1 if all_equal(hardware) else choice.chips
        threads = contextlib.nullcontext() if self.workers is None else one_thread()
        with interrupts.remembered() as check, threads:

            def show(done: int, total: int) -> None:
                check()
                progress.show(done, total)

            net = run.deploy(hardware, splits)
            if _device(self.device) != "cpu":
                net.to(_device(self.device))
            return evaluate(
                net,
                Batches(splits.test, runs.TEST_BATCH),
                chips=count,
                times_s=[choice.time_s],
                seed=choice.lot_seed,
                ledger=run.ledger,
                workers=self.workers,
                progress=show,
            )

    # what has been found

    def comparison(self) -> Comparison:
        """All rows of the recipe that are done with at least one seed, for tables and figures.

        Raises:
            RunError: none is.
        """
        from neurosim.evaluation import Table
        from neurosim.report.robust import Comparison

        chips: list[dict[str, Any]] = []
        costs: list[dict[str, Any]] = []
        for label in self.recipe.methods:
            for seed in self.recipe.seeds:
                found = self.rows(label, seed)
                if found is None:
                    continue
                chips += [{"method": label, "seed": seed, **row} for row in found]
                costs.append({"method": label, "seed": seed, **self._whole_cost(label, seed)})
        if not chips:
            raise RunError(f"{self.out} holds no row that is done yet")
        choice = self.recipe.evaluate
        return Comparison(
            title=self.recipe.title,
            setting=choice.axis or choice.vary,
            levels=choice.levels,
            cost_level=choice.chosen_level,
            reference=self.recipe.reference,
            chips=Table.from_rows(chips),
            costs=Table.from_rows(costs),
            published={
                label: {
                    level: (told.mean, told.std, told.min)
                    for level in choice.levels
                    if (told := row.at(level)) is not None
                }
                for label, row in self.recipe.methods.items()
            },
            remarks={label: row.note for label, row in self.recipe.methods.items() if row.note},
        )

    def missing(self) -> list[str]:
        """Rows and seeds of the recipe that are not done."""
        return [
            f"{label}, seed {seed}"
            for label in self.recipe.methods
            for seed in self.recipe.seeds
            if self.rows(label, seed) is None
        ]

    def _whole_cost(self, label: str, seed: int) -> dict[str, float]:
        """Passes and seconds, those of the rows it needs included: without a teacher there is no student."""
        chain = with_sources(self.recipe, [label])
        costs = [cost for one in chain if (cost := self.cost(one, seed)) is not None]
        own = costs[-1]
        accuracy = own["validation_accuracy"]
        return {
            "passes": float(sum(cost["passes"] for cost in costs)),
            "seconds": float(sum(cost["seconds"] for cost in costs)),
            "best_epoch": own["best_epoch"],
            "validation_accuracy": float("nan") if accuracy is None else accuracy,
        }


def all_equal(hardware: Hardware) -> bool:
    """Whether nothing of it is drawn, so that every chip is the same one.

    >>> from neurosim.devices import hardware
    >>> given = hardware("gaussian-mismatch")
    >>> all_equal(given), all_equal(given.with_("device.relative_std", 0.0))
    (False, True)
    """
    from neurosim.analog.explain import effects_of

    everywhere = [hardware, *hardware.variants()]
    return not hardware.parameters and not any(
        effect.acts and effect.drawn != "-" for one in everywhere for effect in effects_of(one)
    )


def _device(name: str) -> str:
    """The type of device that a name means here."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _read_json(path: Path) -> dict[str, Any] | None:
    """An object that we wrote; None where there is none, or none that can be read: it is then made anew."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def in_words(items: Sequence[Item]) -> Iterator[str]:
    """A plan for people: a row for each training, and the sum."""
    head = ("row", "seed", "method", "passes", "state")
    cells = [(item.label, str(item.seed), item.method, f"{item.passes:g}", item.state) for item in items]
    yield console.aligned([head, *cells])
    left = sum(item.passes for item in items if item.state in ("to do", "begun"))
    counts: Mapping[str, int] = {
        state: sum(item.state == state for item in items) for state in ("to do", "begun", "trained", "done")
    }
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    yield f"{len(items)} trainings: {told}; {left:g} passes over the training data are left"
