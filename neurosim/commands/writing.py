"""``neurosim write``: how conductances come about."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurosim import console
from neurosim.commands.options import Json
from neurosim.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Writing devices: hysteresis, pulses, program-and-verify.")

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="vteam, linear-ion-drift or stanford-pku.", show_default=False)
]
Constants = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A constant of the model; may be repeated."),
]
Picture = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="A .svg or .png file.")]


@app.command("hysteresis")
def hysteresis(
    model: Model,
    amplitude: Annotated[float, typer.Option("--amplitude-volt", help="Of the sine.")] = 1.0,
    frequency: Annotated[float, typer.Option("--frequency-hz", help="Of the sine.")] = 1.0,
    cycles: Annotated[int, typer.Option("--cycles", min=1, help="The last one is shown.")] = 2,
    constants: Constants = None,
    plot: Picture = None,
    as_json: Json = False,
) -> None:
    """The current-voltage loop of a switching model under a sine, solved as a differential equation."""
    from neurosim.devices.writing import switching

    device = switching.switching(model, **_constants(constants))
    trace = switching.hysteresis(device, amplitude, frequency, cycles=cycles)
    area = switching.loop_area_watt(trace)
    found = {
        "model": model,
        "largest_ampere": float(abs(trace.ampere).max()),
        "state_from": float(trace.state.min()),
        "state_to": float(trace.state.max()),
        "loop_area_watt": area,
    }
    if plot is not None:
        from neurosim.report.writing import plot_hysteresis

        plot_hysteresis({f"{model}, {frequency:g} Hz": trace}, path=plot)
    unit = f" {device.state_unit}" if device.state_unit else ""
    text = (
        f"{model}: up to {found['largest_ampere']:.3g} A, state from {found['state_from']:.3g} to "
        f"{found['state_to']:.3g}{unit}, loop of {area:.3g} W" + (f"\npicture: {plot}" if plot else "")
    )
    console.emit(found, text, as_json)


@app.command("population")
def population(
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The TOML of a hardware description.")
    ] = Path("written.toml"),
    devices: Annotated[int, typer.Option("--devices", min=20, help="How many are simulated a target.")] = 200,
    spread: Annotated[
        float, typer.Option("--device-std", min=0.0, help="Relative, of the speed of each device.")
    ] = 0.1,
    cycle: Annotated[float, typer.Option("--cycle-std", min=0.0, help="Relative, of each pulse.")] = 0.1,
    acceptance: Annotated[
        float, typer.Option("--acceptance", help="Half width, as a fraction of the range.")
    ] = 0.02,
    pulses: Annotated[int, typer.Option("--max-pulses", min=1, help="After these a device is left.")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    constants: Constants = None,
    as_json: Json = False,
) -> None:
    """Write many devices of a switching model by pulses and reads; describe what they hold as hardware."""
    from neurosim.devices.writing.population import Pulses, described, write_population
    from neurosim.devices.writing.switching import switching
    from neurosim.storage import write_text

    device = switching(model, **_constants(constants))
    settings = Pulses(device_std=spread, cycle_std=cycle, acceptance=acceptance, max_pulses=pulses)
    found = write_population(device, settings, devices=devices, seed=seed)
    hardware = described(device, settings, found)
    write_text(out, hardware.to_toml())
    accepted, count = float(found.accepted.mean()), float(found.pulses.mean())
    error = float((found.reached - found.target[:, None]).std())
    facts = {"file": str(out), "accepted": accepted, "pulses": count, "error_siemens": error}
    text = (
        f"{out}: {100 * accepted:.1f} % accepted after {count:.1f} pulses on average, "
        f"error {error * 1e6:.3g} µS (standard deviation)"
    )
    console.emit(facts, text, as_json)


def _constants(given: list[str] | None) -> dict[str, object]:
    found: dict[str, object] = {}
    for text in given or []:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise UsageError(f"expected --set NAME=VALUE; got {text!r}")
        found[name.strip()] = value.strip()
    return found
