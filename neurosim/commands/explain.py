"""``neurosim explain``: what of a network lies on crossbars, and what acts on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurosim import console, interrupts
from neurosim.commands import on_chips
from neurosim.commands.options import (
    Also,
    BatchNorm,
    DataDir,
    Exclude,
    HardwareName,
    Include,
    Json,
    OwnData,
    OwnNames,
    OwnWeights,
    Products,
    Set,
    Strict,
)
from neurosim.errors import UsageError

if TYPE_CHECKING:
    from neurosim.analog.conversions import ConversionReport
    from neurosim.analog.explain import Explanation
    from neurosim.analog.wire_report import WireReport
    from neurosim.devices import Hardware
    from neurosim.devices.writing.verify import Cost


def explain(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A folder made by neurosim train.")
    ] = None,
    model: OwnNames = None,
    data: OwnData = None,
    weights: OwnWeights = None,
    hardware: HardwareName = None,
    wires: Annotated[
        bool,
        typer.Option("--wires", help="What wires do to each layer's programmed tiles, and model errors."),
    ] = False,
    conversions: Annotated[
        bool,
        typer.Option(
            "--conversions",
            help="What saturates each layer's converters, on validation inputs, and their use.",
        ),
    ] = False,
    faults: Annotated[
        Path | None,
        typer.Option(
            "--faults", metavar="FILE", help="Write what is broken on the chips as a fault map (CSV)."
        ),
    ] = None,
    cost: Annotated[
        bool, typer.Option("--writing", help="Pulses, reads, time and energy of writing each layer.")
    ] = False,
    chips: Annotated[
        int, typer.Option("--chips", min=1, help="How many chips the options above look at.")
    ] = 1,
    include: Include = None,
    exclude: Exclude = None,
    strict: Strict = False,
    also: Also = None,
    batchnorm: BatchNorm = "kept",
    products: Products = "float32",
    data_dir: DataDir = None,
    changes: Set = None,
    as_json: Json = False,
) -> None:
    """Say what of a network lies on crossbars, what stays digital, and which effects act when."""
    if sum((wires, conversions, cost, faults is not None)) > 1:
        raise UsageError("expected one of --wires, --conversions, --writing and --faults; got more")
    subjects, changes = on_chips.subjects(
        [] if run is None else [run], model, data, weights, None, changes, data_dir
    )
    placement = on_chips.placement(include, exclude, strict, also, batchnorm, products)
    (opened,) = subjects.values()
    with interrupts.held_back(), opened.at_work():
        from neurosim.analog import Lot

        splits = opened.splits(data_dir)
        net = opened.deploy(on_chips.hardware_of(hardware, changes), splits, placement)
        lot = Lot(net.hardware)[0:chips]
        found: WireReport | ConversionReport | Explanation = net.explain()
        if wires:
            found = net.explain_wires(lot)
        if conversions:
            found = net.conversion_report(lot, splits.validation[:1000].inputs)
        if cost:
            console.emit(*_writing_cost(net.writing_cost(lot), net.hardware, chips), as_json)
            return
        if faults is not None:
            _write_fault_map(faults, net.fault_map(lot), chips, as_json)
            return
    console.emit(found.to_dict(), str(found), as_json)


def _writing_cost(
    costs: Mapping[str, Cost], hardware: Hardware, chips: int
) -> tuple[list[dict[str, object]], str]:
    """Of each parameter on devices, as rows and as a table; times as if devices were written one by one."""
    from neurosim.analog.explain import aligned

    rows: list[dict[str, object]] = []
    lines: list[tuple[str, ...]] = [
        ("parameter", "devices a chip", "pulses a device", "most", "accepted", "seconds", "joule")
    ]
    for name, cost in costs.items():
        seconds, devices = cost.seconds(hardware.writing) / chips, cost.devices // chips
        each, share, joule = cost.pulses / cost.devices, cost.accepted / cost.devices, cost.joule / chips
        rows.append(
            {
                "parameter": name, "devices": devices, "pulses_a_device": each, "longest": cost.longest,
                "accepted": share, "seconds": seconds, "joule": joule,
            }
        )  # fmt: skip
        lines.append(
            (
                name, f"{devices:,}", f"{each:.1f}", str(cost.longest), f"{100 * share:.2f} %",
                f"{seconds:.3g}", f"{joule:.3g}",
            )
        )  # fmt: skip
    return rows, f"Writing a chip of {hardware.name!r}:\n{aligned(lines)}"


def _write_fault_map(path: Path, rows: list[dict[str, object]], chips: int, as_json: bool) -> None:
    from neurosim.devices.fault_map import to_csv
    from neurosim.storage import write_text

    write_text(path, to_csv(rows))
    broken = sum(row["state"] != "" for row in rows)
    found = {"file": str(path), "chips": chips, "broken": broken}
    console.emit(found, f"{path}: {broken:,} broken devices of {chips} chips", as_json)
