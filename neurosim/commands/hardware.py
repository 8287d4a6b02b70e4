"""``neurosim hardware``: chip technologies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from neurosim import console
from neurosim.commands import on_chips
from neurosim.commands.options import Json, Set
from neurosim.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Chip technologies: list, show, check, fit.")


@app.command("list")
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


@app.command("show")
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
    found = on_chips.hardware_of(name, changes)
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


@app.command("check")
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


@app.command("fit")
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


@app.command("wires")
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
