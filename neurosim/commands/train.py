"""``neurosim train`` and ``fuse``: runs are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurosim import console, interrupts
from neurosim.commands import on_chips, opening
from neurosim.commands.options import DataDir, HardwareName, Json, Limit, Out, OwnNames, Set
from neurosim.errors import UsageError

if TYPE_CHECKING:
    from neurosim.runs import Config


def train(
    robust: Annotated[
        bool, typer.Option("--robust", help="Noisy copies, weight attack, average of weights.")
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
            hardware=None if hardware is None else on_chips.hardware_of(hardware, None).with_all(of_hardware),
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
    pair = on_chips.pair_name(config.data.name, config.model.name)
    return f"{pair}-{'robust' if robust else config.method.name}"


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
