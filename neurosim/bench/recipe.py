"""A recipe: which methods are trained on what, how often, and on which chips they are compared.

A recipe is a TOML file, a packaged one or a user's own.  It becomes a frozen, checked value; everything
that is wrong with it is said at once.  Nothing here trains.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from neurosim.devices import toml_file
from neurosim.devices.problems import problems
from neurosim.errors import UsageError, unknown

FOLDER = "recipes"
SAME_LEVEL = 1e-9
"""Levels closer than this are one."""
_NUMBERS = {1: ("mean",), 2: ("mean", "min"), 3: ("mean", "std", "min")}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelChoice(_Part):
    """The network: a name of the zoo, and its own options."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str


class DataChoice(_Part):
    """The data, how validation is split off, and how much is trained on."""

    name: str
    seed: int = Field(default=0, ge=0)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    limit: int | None = Field(default=None, ge=1)
    per_class: int | None = Field(default=None, ge=1)


class TrainChoice(_Part):
    """The loop, as ``train.*`` of a run's ``config.toml``; what is left out has the defaults there."""

    epochs: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    optimizer: str | None = None
    lr: float | None = Field(default=None, gt=0)
    lr_schedule: str | None = None
    weight_decay: float | None = Field(default=None, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    clip_adaptive: float | None = Field(default=None, gt=0)
    autocast: Literal["bfloat16"] | None = None
    augment: dict[str, bool | int | float] | None = None
    freeze: tuple[str, ...] | None = None
    validation_mismatch: float | None = Field(default=None, gt=0)
    validation_attack: float | None = Field(default=None, gt=0)

    def given(self) -> dict[str, Any]:
        """What is said, by name."""
        return self.model_dump(mode="json", exclude_none=True)


class EvaluateChoice(_Part):
    """The chips: of which hardware, in which setting they get worse, how many, and on which data.

    Attributes:
        hardware: a preset or a TOML file.
        vary: the setting whose values are the levels; that of ``gaussian-mismatch`` is the paper's ζ.
        axis: what that setting is called in tables and figures, if not by its own name.
        levels: its values, in ascending order.
        chips: how many at each level, from chip 0.
        limit: the first so many samples only.
        part: ``test``, or ``validation`` while methods are still being tuned.
        lot_seed: of the chips; the same ones under every network.
        time_s: their age.
        cost_level: the level at which accuracy is drawn against cost; by default the highest but one.
    """

    hardware: str = "gaussian-mismatch"
    vary: str = "device.relative_std"
    axis: str = ""
    levels: tuple[float, ...] = Field(default=(0.0, 0.1, 0.2, 0.3, 0.5, 0.7), min_length=1)
    chips: int = Field(default=100, ge=1)
    limit: int | None = Field(default=None, ge=1)
    part: Literal["test", "validation"] = "test"
    lot_seed: int = Field(default=0, ge=0)
    time_s: float = Field(default=0.0, ge=0)
    cost_level: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if any(b - a <= SAME_LEVEL for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError(
                f"expected evaluate.levels in ascending order, each once; got {list(self.levels)}"
            )
        if self.cost_level is not None and near(self.cost_level, self.levels) is None:
            listed = ", ".join(f"{level:g}" for level in self.levels)
            raise ValueError(f"expected evaluate.cost_level, one of {listed}; got {self.cost_level:g}")
        return self

    @property
    def chosen_level(self) -> float:
        """Where accuracy is drawn against cost."""
        if self.cost_level is not None:
            return self.cost_level
        return self.levels[-2] if len(self.levels) > 1 else self.levels[0]


class Published(_Part):
    """What somebody else found, in per cent: each number may be missing."""

    mean: float
    std: float | None = None
    min: float | None = None


class MethodChoice(_Part):
    """A row of the comparison.

    Attributes:
        method: a name of :mod:`neurosim.training.catalogue`, or several joined by ``+``.
        settings: its parameters.
        train: what its training does differently.
        teacher: the label of another row, whose network of the same seed teaches (``distil``).
        init: the label of another row, from whose weights with the same seed training begins.
        published: by level, ``[mean]``, ``[mean, min]`` or ``[mean, std, min]`` in per cent.
        note: what a reader should know of the row.
    """

    method: str
    settings: dict[str, Any] = {}
    train: TrainChoice = TrainChoice()
    teacher: str | None = None
    init: str | None = None
    published: dict[str, Published] = {}
    note: str = ""

    @field_validator("published", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {str(level): _published(str(level), numbers) for level, numbers in value.items()}

    @property
    def sources(self) -> dict[str, str]:
        """The rows that are trained before this one, by what they are to it."""
        named = {"teacher": self.teacher, "init": self.init}
        return {role: label for role, label in named.items() if label is not None}

    def at(self, level: float) -> Published | None:
        """What was published for this level."""
        for text, found in self.published.items():
            if abs(float(text) - level) <= SAME_LEVEL:
                return found
        return None


class Recipe(_Part):
    """A comparison of training methods; see :func:`recipe`.

    Attributes:
        title: of tables and figures.
        about: what it is for, a few sentences.
        source: where methods, settings and published numbers are from.
        changes: what a smaller twin does differently from the recipe it stands for.
        seeds: of training; every method is trained once with each.
        reference: the label of the row that all others are compared with.
        methods: the rows, by label.
    """

    name: str
    title: str
    about: str = ""
    source: str = ""
    changes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    reference: str
    model: ModelChoice
    data: DataChoice
    train: TrainChoice = TrainChoice()
    evaluate: EvaluateChoice = EvaluateChoice()
    methods: dict[str, MethodChoice] = Field(min_length=1)

    @field_validator("seeds")
    @classmethod
    def _once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"expected seeds, whole numbers from 0, each once; got {list(seeds)}")
        return seeds

    def folder_name(self, label: str, seed: int) -> str:
        """The folder of one training, below ``runs``."""
        return f"{slug(label)}-{seed}"

    def settings_of(self, label: str) -> dict[str, Any]:
        """The training of one row: the recipe's, and what the row does differently."""
        return {**self.train.given(), **self.methods[label].train.given()}


def slug(label: str) -> str:
    """A label as part of a folder's name.

    >>> slug("FN + β 0.1")
    'FN-+-β-0.1'
    """
    return re.sub(r"[^\w.+-]+", "-", label).strip("-.") or "row"


def near(level: float, levels: Sequence[float]) -> float | None:
    """The one of ``levels`` that this is, if it is one."""
    return next((one for one in levels if abs(one - level) <= SAME_LEVEL), None)


def recipe_names() -> list[str]:
    """The packaged recipes, sorted.

    >>> "digits-smoke" in recipe_names()
    True
    """
    return sorted(_packaged())


@cache
def _packaged() -> dict[str, str]:
    folder = importlib.resources.files("neurosim") / FOLDER
    files = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    return {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in files}


def recipe(name_or_path: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A packaged recipe by name, or a TOML file; checked, methods and hardware included.

    Args:
        name_or_path: one of :func:`recipe_names`, or a path (with a ``/`` or ending in ``.toml``).
        changes: values to put in place of the file's, by key: ``{"train.epochs": 2}``,
            ``{"methods.noise.settings.eta": 0.5}``; ``"none"`` takes what the file says away.

    Raises:
        UsageError: unknown name, unreadable file, or all that is wrong with it, in one sentence each.

    >>> recipe("digits-smoke").evaluate.vary
    'device.relative_std'
    >>> recipe("digits-smok")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    neurosim.errors.UsageError: unknown recipe 'digits-smok': did you mean 'digits-smoke'? ...
    """
    text, source, name = _read(name_or_path)
    tree = toml_file.parse(text, source)
    if "name" in tree:
        raise UsageError(f"{source}: a recipe's name is that of its file: leave out 'name'")
    tree["name"] = name
    rows, wrong = _by_label(tree.pop("methods", None))
    tree["methods"] = rows
    for key, value in (changes or {}).items():
        _put(tree, key, value)
    found: Recipe | None = None
    try:
        found = Recipe.model_validate(tree)
    except ValidationError as error:
        wrong += [problem.sentence for problem in problems(error, Recipe)]
    if found is not None and not wrong:
        wrong = list(_misfits(found))
    if found is None or wrong:
        raise UsageError(f"{source}: {'; '.join(wrong)}")
    return found


def _read(name_or_path: str | Path) -> tuple[str, str, str]:
    """The text, what it is called in messages, and its name."""
    name = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in name or name.endswith(".toml"):
        path = Path(name_or_path)
        return toml_file.read_text(path, "recipe"), f"recipe file {name!r}", path.stem
    if name not in _packaged():
        raise unknown("recipe", name, _packaged())
    return _packaged()[name], f"recipe {name!r}", name


def _by_label(rows: object) -> tuple[dict[str, Any], list[str]]:
    """``[[methods]]`` by label, and what is wrong with the labels."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        return {}, ["expected at least one [[methods]], each with a label and a method"]
    found: dict[str, Any] = {}
    wrong = []
    for number, row in enumerate(rows, 1):
        label = row.get("label")
        if not isinstance(label, str) or not label.strip() or not label.isprintable() or len(label) > 40:
            wrong.append(f"[[methods]] {number}: expected a label, a word or two; got {label!r}")
        elif slug(label) in {slug(other) for other in found}:
            wrong.append(f"[[methods]] {number}: the label {label!r} is there already (as a folder's name)")
        else:
            found[label] = {key: value for key, value in row.items() if key != "label"}
    return found, wrong


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """One change in place; labels may hold dots, so rows are found by their whole label."""
    for label in tree["methods"]:
        if key.startswith(f"methods.{label}."):
            table, rest = tree["methods"][label], key.removeprefix(f"methods.{label}.")
            break
    else:
        if key.startswith("methods."):
            raise unknown("row", key.removeprefix("methods.").partition(".")[0], tree["methods"])
        table, rest = tree, key
    *steps, last = rest.split(".")
    for step in steps:
        table = table.setdefault(step, {})
        if not isinstance(table, dict):
            raise UsageError(f"cannot change {key}: {step!r} is no table")
    if value == "none":
        table.pop(last, None)
    else:
        table[last] = value


def _published(level: str, numbers: object) -> object:
    """``[mean, std, min]`` by name; what is already named stays."""
    try:
        float(level)
    except ValueError:
        raise ValueError(f"expected levels as keys of published, such as '0.3'; got {level!r}") from None
    if isinstance(numbers, list | tuple) and len(numbers) in _NUMBERS:
        return dict(zip(_NUMBERS[len(numbers)], numbers, strict=True))
    if isinstance(numbers, Mapping | Published):
        return numbers
    raise ValueError(
        f"expected published.{level}, a list [mean], [mean, min] or [mean, std, min]; got {numbers!r}"
    )


# what only the rooms below can tell


def _misfits(found: Recipe) -> Iterator[str]:
    """Everything that is wrong with names and numbers inside the tables."""
    if found.reference not in found.methods:
        yield str(unknown("reference", found.reference, found.methods))
    yield from _wrong_hardware(found.evaluate)
    yield from _wrong_train("train", found.train)
    for label, row in found.methods.items():
        yield from _wrong_train(f"methods.{label}.train", row.train)
        yield from _wrong_method(found, label, row)


def _wrong_hardware(choice: EvaluateChoice) -> Iterator[str]:
    from neurosim.devices import hardware

    try:
        hardware(choice.hardware).with_all({choice.vary: choice.levels[-1]})
    except UsageError as error:
        yield f"evaluate: {error}"


def _wrong_train(where: str, choice: TrainChoice) -> Iterator[str]:
    from neurosim.training.augmentation import Augmentation
    from neurosim.training.optim import OPTIMIZERS, schedule_from

    if choice.optimizer is not None and choice.optimizer not in OPTIMIZERS:
        yield f"{where}: {unknown('optimizer', choice.optimizer, OPTIMIZERS)}"
    try:
        if choice.lr_schedule is not None:
            schedule_from(choice.lr_schedule)
    except UsageError as error:
        yield f"{where}: {error}"
    try:
        Augmentation.of(choice.augment)
    except UsageError as error:
        yield f"{where}: {error}"


def _wrong_method(found: Recipe, label: str, row: MethodChoice) -> Iterator[str]:
    from neurosim.training import method_from
    from neurosim.training.combined import as_combined

    try:
        made = method_from(row.method, row.settings)
    except UsageError as error:
        yield f"methods.{label}: {error}"
        return
    taught = as_combined(made).distillation
    needed = taught is not None and taught.alpha > 0.0 and not taught.teacher
    if row.teacher is None and needed:
        yield f"methods.{label}: method {row.method!r} needs a teacher: the label of another row"
    elif row.teacher is not None and not needed:
        yield f"methods.{label}: teacher is for the method 'distil' without a teacher of its own"
    for role, source in row.sources.items():
        if source not in found.methods:
            yield f"methods.{label}: {unknown(role, source, found.methods)}"
        elif label in with_sources(found, [source]):
            yield f"methods.{label}: its {role} {source!r} is itself trained after it"


def with_sources(found: Recipe, labels: Sequence[str]) -> list[str]:
    """These rows in the recipe's order, each after the rows it needs, which are added."""
    ordered: dict[str, None] = {}
    for label in found.methods:
        if label in labels:
            _after_its_sources(found, label, ordered, {label})
    return list(ordered)


def _after_its_sources(found: Recipe, label: str, ordered: dict[str, None], begun: set[str]) -> None:
    """Add a row behind those it needs; what is begun, as in a circle, or unknown is passed over."""
    for source in found.methods[label].sources.values():
        if source in found.methods and source not in begun:
            begun.add(source)
            _after_its_sources(found, source, ordered, begun)
    ordered[label] = None


def passes_of(found: Recipe, label: str) -> float:
    """Passes over the training data that one training of this row costs; those of rows it needs apart."""
    from neurosim.runs import TrainPart
    from neurosim.training import method_from

    row = found.methods[label]
    epochs = found.settings_of(label).get("epochs", TrainPart().epochs)
    settings = dict(row.settings)
    return float(method_from(row.method, settings).passes * epochs)
