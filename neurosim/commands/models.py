"""``neurosim models``: the zoo of networks."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from neurosim import console, interrupts
from neurosim.commands import on_chips
from neurosim.commands.options import HardwareName, Json, Set

app = typer.Typer(no_args_is_help=True, help="The zoo of networks.")


@app.command("list")
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


@app.command("show")
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
            on_chips.hardware_of(hardware, [change for change in changes or [] if change not in mine]),
            num_classes=num_classes or classes,
            in_chans=in_chans or channels,
            image_size=image_size or side,
            **options,
        )
    facts = {"name": name, "summary": found.summary, "paper": found.paper, "checked": found.checked}
    text = [f"{name}: {found.summary}", f"paper: {found.paper}", f"checked against: {found.checked}", ""]
    console.emit({**facts, **shown.to_dict()}, "\n".join([*text, str(shown)]), as_json)
