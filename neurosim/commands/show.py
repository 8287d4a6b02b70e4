"""``neurosim show``: inside a trained spiking network on one sample, off any chip and on chips."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurosim import console, interrupts
from neurosim.commands import opening
from neurosim.commands.on_chips import age_of, hardware_of
from neurosim.commands.options import DataDir, Json
from neurosim.errors import UsageError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.analog.mismatch import Varied
    from neurosim.data import Examples, Splits
    from neurosim.devices import Hardware
    from neurosim.evaluation.inside import Activity, Look, OnChips
    from neurosim.runs import Run

PARTS = ("train", "validation", "test")
DEFAULT_CHIPS = 10
_OF_CHIPS = ("--chips", "--at", "--set", "--seed")


@dataclass(frozen=True)
class Asked:
    """Which sample is shown, and on which chips."""

    part: str
    sample: int
    layer: str | None
    neurons: list[int]
    hardware: Hardware | None
    chips: int
    time_s: float
    seed: int


@dataclass(frozen=True)
class Shown:
    """What was found.  ``x`` is the sample, with a batch axis of 1."""

    x: Tensor
    target: int
    classes: tuple[str, ...]
    look: Look
    neurons: list[int]
    on_chips: OnChips | None

    def class_name(self, number: int) -> str:
        from neurosim.report.spiking import class_name

        return class_name(number, self.classes)


def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder made by neurosim train.")],
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="Its number in the part, from 0.")] = 0,
    part: Annotated[
        str, typer.Option("--part", metavar="train|validation|test", help="Where the sample is from.")
    ] = "test",
    layer: Annotated[
        str | None, typer.Option("--layer", metavar="NAME", help="The layer of neurons; else the first.")
    ] = None,
    neurons: Annotated[
        str | None,
        typer.Option("--neurons", metavar="0,5,17", help="Whose potentials; else the three most active."),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", metavar="NAME|FILE", help="Also on chips of a preset or a TOML file."),
    ] = None,
    chips: Annotated[
        int | None, typer.Option("--chips", min=1, help="How many chips of the lot, from chip 0.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="1d", help="Age of the chips.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the hardware."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of the lot: other chips; 0 by default.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="MODULE:CALLABLE", help="Your own network that the RUN records."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the pictures go.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Look inside a spiking network on one sample: spikes, potentials, currents, firing rates, scores.

    With --hardware also the same sample on chips: spikes that differ, the class on each chip, and what
    mismatch made of every parameter. Draws show-PART-N.svg, and show-PART-N-chips.svg.
    """
    if part not in PARTS:
        raise unknown("part of the data,", part, PARTS)
    of_chips = dict(zip(_OF_CHIPS, (chips, at, changes or None, seed), strict=True))
    given = [option for option, value in of_chips.items() if value is not None]
    if hardware is None and given:
        raise UsageError(f"{given[0]} is for chips: expected --hardware with it")
    chosen = _neurons(neurons)
    with interrupts.held_back():
        described, time_s = _hardware(hardware, at, changes)
    asked = Asked(part, sample, layer, chosen, described, chips or DEFAULT_CHIPS, time_s, seed or 0)
    ((label, opened),) = opening.opened([run], model).items()
    with interrupts.remembered() as check, opened.at_work():
        found = _shown(label, opened, asked, data_dir, check)
    files = _write(out or run, label, asked, found)
    value = _facts(label, asked, found) | {"files": files}
    listed = "\n".join(f"{kind}: {path}" for kind, path in files.items())
    console.emit(value, f"{_text(label, asked, found)}\n\n{listed}".rstrip(), as_json)


def _neurons(text: str | None) -> list[int]:
    """``0,5,17`` as numbers."""
    if text is None:
        return []
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise UsageError(f"cannot read --neurons {text!r}: expected numbers from 0, such as 0,5,17")
    return [int(word) for word in words]


def _hardware(name: str | None, at: str | None, changes: list[str] | None) -> tuple[Hardware | None, float]:
    if name is None:
        return None, 0.0
    time_s = age_of(at)
    return hardware_of(name, changes), time_s


def _shown(label: str, run: Run, asked: Asked, data_dir: Path | None, check: Callable[[], None]) -> Shown:
    from neurosim.analog import Lot
    from neurosim.evaluation.inside import look, look_on, spiking_layers
    from neurosim.report.spiking import check_neurons

    net = run.model()
    spiking_layers(net)  # before the data are read: what does not spike has nothing to show
    splits = run.splits(data_dir)
    x, target = _sample(splits, asked)
    found = look(net, x)
    layer = found.layer(asked.layer)
    neurons = asked.neurons or layer.most_active(3)
    check_neurons(layer, neurons)
    on_chips = None
    if asked.hardware is not None:
        with console.Progress(f"{label} on {asked.hardware.name}", "chips") as progress:

            def told(done: int, total: int) -> None:
                check()
                progress.show(done, total)

            lot = Lot(asked.hardware, asked.seed)[0 : asked.chips]
            deployed = run.deploy(asked.hardware, splits)
            on_chips = look_on(deployed, x, lot, time_s=asked.time_s, progress=told)
    return Shown(x, target, splits.class_names, found, neurons, on_chips)


def _sample(splits: Splits, asked: Asked) -> tuple[Tensor, int]:
    if splits.task != "classification":
        raise UsageError(
            f"expected data with one class for each sample; those of {splits.name!r} have one for each pixel"
        )
    examples: Examples = {"train": splits.train, "validation": splits.validation, "test": splits.test}[
        asked.part
    ]
    if not 0 <= asked.sample < len(examples):
        raise UsageError(
            f"the {asked.part} part of {splits.name!r} has samples 0 to {len(examples) - 1}; got --sample "
            f"{asked.sample}"
        )
    one = examples[asked.sample : asked.sample + 1]
    return one.inputs, int(one.targets[0])


# ---------------------------------------------------------------- what is written


def _write(folder: Path, label: str, asked: Asked, found: Shown) -> dict[str, str]:
    if importlib.util.find_spec("matplotlib") is None:
        console.say("no picture: matplotlib is missing (pip install 'neurosim[report]')")
        return {}
    from neurosim.report.spiking import chips_figure, look_figure

    name = f"show-{asked.part}-{asked.sample}"
    files = {"picture": str(folder / f"{name}.svg")}
    common: dict[str, Any] = {"target": found.target, "classes": found.classes, "layer": asked.layer}
    title = f"Inside {label}: {asked.part} sample {asked.sample}"
    look_figure(found.x[0], found.look, path=files["picture"], title=title, neurons=found.neurons, **common)
    if found.on_chips is not None and asked.hardware is not None:
        files["chips"] = str(folder / f"{name}-chips.svg")
        on = f"{title} on chips of {asked.hardware.name}"
        chips_figure(found.look, found.on_chips, path=files["chips"], title=on, **common)
    return files


def _facts(label: str, asked: Asked, found: Shown) -> dict[str, Any]:
    """Everything as plain values."""
    look = found.look
    facts: dict[str, Any] = {
        "run": label,
        "part": asked.part,
        "sample": asked.sample,
        "input_shape": list(found.x.shape[1:]),
        "target": found.target,
        "predicted": look.predicted,
        "classes": [found.class_name(k) for k in range(len(look.scores))],
        "scores": look.scores.tolist(),
        "layers": [_layer_facts(layer) for layer in look.layers],
        "neurons": _neuron_rows(look.layer(asked.layer), found.neurons),
    }
    if found.on_chips is not None and asked.hardware is not None:
        facts["hardware"] = asked.hardware.name
        facts["time_s"] = asked.time_s
        facts["seed"] = asked.seed
        facts["chips"] = _chip_rows(look, found.on_chips, asked.layer)
        facts["parameters"] = [_parameter_row(one) for one in found.on_chips.parameters]
    return facts


def _layer_facts(layer: Activity) -> dict[str, Any]:
    rates = layer.rates_hz
    return {
        "name": layer.name,
        "kind": layer.kind,
        "neurons": layer.neurons,
        "steps": len(layer.record.spikes),
        "dt_s": layer.dt_s,
        "spikes": layer.spikes,
        "mean_rate_hz": float(rates.mean()),
        "highest_rate_hz": float(rates.max()),
        "silent": layer.silent,
        "rates_hz": rates.tolist(),
    }


def _neuron_rows(layer: Activity, neurons: list[int]) -> list[dict[str, Any]]:
    rows = []
    for neuron in neurons:
        fired = layer.record.spikes[:, neuron].nonzero().flatten().tolist()
        v, current = layer.record.potentials[:, neuron], layer.record.currents[:, neuron]
        rows.append(
            {
                "neuron": neuron,
                "spikes": len(fired),
                "rate_hz": float(layer.rates_hz[neuron]),
                "first_spike_s": fired[0] * layer.dt_s if fired else None,
                "highest_potential": float(v.max()),
                "mean_threshold": float(layer.record.thresholds[:, neuron].mean()),
                "mean_current": float(current.mean()),
            }
        )
    return rows


def _chip_rows(look: Look, on_chips: OnChips, layer: str | None) -> list[dict[str, Any]]:
    from neurosim.evaluation.inside import changed

    before, rows = look.layer(layer), []
    for number, one in zip(on_chips.numbers, on_chips.looks, strict=True):
        after = one.layer(layer)
        missing, new = changed(before, after)
        rows.append(
            {
                "chip": number,
                "predicted": one.predicted,
                "scores": one.scores.tolist(),
                "spikes": after.spikes,
                "missing": missing,
                "new": new,
                "mean_rate_hz": float(after.rates_hz.mean()),
                "silent": after.silent,
            }
        )
    return rows


def _parameter_row(parameter: Varied) -> dict[str, Any]:
    from neurosim.evaluation.inside import measured_cv, stated_cv

    return {
        "parameter": parameter.name,
        "on_devices": parameter.held,
        "shape": list(parameter.nominal.shape),
        "nominal_size": float(parameter.nominal.double().abs().mean()),
        "size": float(parameter.values.double().abs().mean()),
        "measured_cv": measured_cv(parameter),
        "stated_cv": stated_cv(parameter),
        "stated": parameter.stated,
    }


def _text(label: str, asked: Asked, found: Shown) -> str:
    look, shape = found.look, "x".join(map(str, found.x.shape[1:]))
    true, scored = found.class_name(found.target), found.class_name(look.predicted)
    verdict = "right" if look.predicted == found.target else "wrong"
    parts = [f"{label}: {asked.part} sample {asked.sample}, {shape}; true {true}, scored {scored}: {verdict}"]
    scores = "  ".join(f"{found.class_name(k)} {score:.3f}" for k, score in enumerate(look.scores.tolist()))
    parts += [f"scores: {scores}", "", _layer_table(look)]
    parts += ["", _neuron_table(_neuron_rows(look.layer(asked.layer), found.neurons))]
    if found.on_chips is not None and asked.hardware is not None:
        rows = _chip_rows(look, found.on_chips, asked.layer)
        parts += ["", _chip_table(asked, found, rows)]
        parts += ["", _parameter_table([_parameter_row(one) for one in found.on_chips.parameters])]
    return "\n".join(parts)


def _layer_table(look: Look) -> str:
    rows: list[tuple[str, ...]] = [
        ("layer", "type", "neurons", "steps", "spikes", "mean rate, Hz", "highest, Hz", "silent, %")
    ]
    for facts in map(_layer_facts, look.layers):
        cells = [facts["name"], facts["kind"], f"{facts['neurons']:,}", f"{facts['steps']:,}"]
        cells += [f"{facts['spikes']:,}", f"{facts['mean_rate_hz']:.1f}", f"{facts['highest_rate_hz']:.1f}"]
        rows.append((*cells, console.percent(facts["silent"], 1)))
    return console.aligned(rows)


def _neuron_table(rows: list[dict[str, Any]]) -> str:
    lines: list[tuple[str, ...]] = [
        ("neuron", "spikes", "rate, Hz", "first, ms", "highest potential", "mean threshold", "mean current")
    ]
    for row in rows:
        first = "-" if row["first_spike_s"] is None else f"{1e3 * row['first_spike_s']:.1f}"
        cells = [str(row["neuron"]), str(row["spikes"]), f"{row['rate_hz']:.1f}", first]
        cells += [f"{row[key]:.4g}" for key in ("highest_potential", "mean_threshold", "mean_current")]
        lines.append(tuple(cells))
    return console.aligned(lines)


def _chip_table(asked: Asked, found: Shown, rows: list[dict[str, Any]]) -> str:
    assert asked.hardware is not None  # asked where there are chips only
    lines: list[tuple[str, ...]] = [
        ("chip", "scored", "spikes", "new", "missing", "mean rate, Hz", "silent, %")
    ]
    for row in rows:
        cells = [str(row["chip"]), found.class_name(row["predicted"]), f"{row['spikes']:,}"]
        cells += [f"{row['new']:,}", f"{row['missing']:,}", f"{row['mean_rate_hz']:.1f}"]
        lines.append((*cells, console.percent(row["silent"], 1)))
    right = sum(row["predicted"] == found.target for row in rows)
    same = sum(row["predicted"] == found.look.predicted for row in rows)
    title = (
        f"on {len(rows)} chip{'s' if len(rows) > 1 else ''} of {asked.hardware.name}: {right} right, {same} "
        "as off chip; spikes new and missing against those off chip"
    )
    return f"{title}\n{console.aligned(lines)}"


def _parameter_table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "no parameter differs from chip to chip"
    lines: list[tuple[str, ...]] = [("parameter", "nominal", "on chips", "CV, %", "stated, %")]
    stated: dict[str, list[str]] = {}
    for row in rows:
        cells = [row["parameter"], f"{row['nominal_size']:.4g}", f"{row['size']:.4g}"]
        lines.append((*cells, console.percent(row["measured_cv"], 1), console.percent(row["stated_cv"], 1)))
        stated.setdefault(row["stated"], []).append(row["parameter"])
    notes = [f"{', '.join(names)}: {words}" for words, names in stated.items()]
    return "\n".join([console.aligned(lines), *notes])
