"""``neurosim export``: a run for another simulator."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from neurosim import console, interrupts
from neurosim.commands.options import Json
from neurosim.errors import UsageError

KEPT = ("config.toml", "model.safetensors")


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder made by neurosim train.")],
    to: Annotated[str, typer.Option("--to", help="The simulator: aihwkit.")] = "aihwkit",
    hardware: Annotated[str, typer.Option("--hardware", metavar="NAME|FILE")] = "pcm-aihwkit-default",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: RUN/aihwkit.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run, a hardware description and a script that puts them on aihwkit's tiles."""
    if to != "aihwkit":
        raise UsageError(f"expected --to aihwkit; got {to!r}")
    with interrupts.held_back():
        from neurosim.bridges import aihwkit
        from neurosim.devices import hardware as described
        from neurosim.errors import RunError
        from neurosim.runs import open_run
        from neurosim.storage import write_text

        hw, folder = described(hardware), out or run / "aihwkit"
        opened = open_run(run)  # says what is wrong with it
        aihwkit.check_device(hw)
        try:
            _, left = aihwkit.export_to_aihwkit(opened.model(), hw)
            tried = "tried: aihwkit's torch tile takes it"
        except RunError as error:
            left, tried = (), f"not tried here: {error}"
        (folder / "run").mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copyfile(run / name, folder / "run" / name)
        write_text(folder / "hardware.toml", hw.to_toml())
        write_text(folder / "on_aihwkit.py", aihwkit.script_of(hw, str(run)))
    lines = [f"{folder}: run on_aihwkit.py where aihwkit is installed ({tried})"]
    lines += [f"left out: {sentence}" for sentence in left]
    found = {"folder": str(folder), "tried": tried, "left_out": list(left)}
    console.emit(found, "\n".join(lines), as_json)
