"""The command line: names become objects, results go to stdout, everything else to stderr.

Exit codes: 0 done; 1 it could not be done; 2 wrong use; 3 done, but a bound of ``--require`` was
missed; 130 interrupted.  Heavy imports stay inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from neurosim import __version__, console, interrupts
from neurosim.bench import command as bench
from neurosim.commands import (
    attack,
    data,
    evaluate,
    explain,
    export,
    flatness,
    hardware,
    models,
    show,
    sweep,
    train,
    writing,
)
from neurosim.commands.options import Json
from neurosim.errors import RunError, UsageError

app = typer.Typer(
    name="neurosim",
    help="Put any torch network on analog chips, see how it degrades, and train it so that it does not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(evaluate.compare)
app.command("sweep")(sweep.sweep)
app.command("explain")(explain.explain)
app.command("attack")(attack.attack)
app.command("flatness")(flatness.flatness)
app.command("show")(show.show)
app.command("bench-robust")(bench.bench_robust)
app.command("merge")(evaluate.merge)
app.command("fuse")(train.fuse)
app.command("export")(export.export)
app.add_typer(hardware.app, name="hardware")
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
app.add_typer(writing.app, name="write")


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
    with warnings.catch_warnings(), interrupts.outside_imports():
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
    if isinstance(error, evaluate.Missed):
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
