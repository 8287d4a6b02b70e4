"""What is on crossbars, what is not, and which effects act when: the answer to "did the noise apply?"."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from neurosim.analog.sampled import SampledRow
from neurosim.devices import Adc, Dac, Effect, Hardware, Periphery, conditions
from neurosim.devices.device import percent


@dataclass(frozen=True)
class LayerRow:
    """One layer on crossbars.

    Attributes:
        name: of the module.
        kind: its type.
        shape: of its weight.
        tiles: number of tiles.
        devices: devices in use, all that hold a weight (bias included when devices hold it, and columns of
            references where the mapping has them).
        utilisation: used fraction of the tiles' pairs.
        shares: the layer whose devices it reads, where a parameter is tied; then it adds no tiles.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    tiles: int
    devices: int
    utilisation: float
    shares: str = ""


@dataclass(frozen=True)
class DigitalRow:
    """One module, or the part of it, that stays digital.

    Attributes:
        name: of the module.
        kind: its type.
        parameters: how many numbers it holds.
        why: what keeps it off crossbars, where it might have been expected there.
    """

    name: str
    kind: str
    parameters: int
    why: str = ""


@dataclass(frozen=True)
class Variant:
    """What acts in the layers that a pattern of ``Hardware.layers`` names."""

    pattern: str
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class Explanation:
    """Tables for people (``str``) and programs (``to_dict``)."""

    hardware: str
    layers: tuple[LayerRow, ...]
    digital: tuple[DigitalRow, ...]
    effects: tuple[Effect, ...]
    sampled: tuple[SampledRow, ...] = ()
    variants: tuple[Variant, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Plain lists and dictionaries, ready for JSON."""
        return {
            "hardware": self.hardware,
            "layers": [asdict(row) for row in self.layers],
            "digital": [asdict(row) for row in self.digital],
            "effects": [asdict(row) for row in self.effects],
            "sampled": [asdict(row) for row in self.sampled],
            "variants": [asdict(row) for row in self.variants],
        }

    def __str__(self) -> str:
        parts = [f"On crossbars of {self.hardware!r}:", _layer_table(self.layers)]
        parts += ["", "Effects:", _effect_table(self.effects)]
        for variant in self.variants:
            changed = tuple(effect for effect in variant.effects if effect not in self.effects)
            parts += ["", f"In layers {variant.pattern!r} instead:", _effect_table(changed)]
        if self.sampled:
            parts += ["", "Not on crossbars, different on each chip:", _sampled_table(self.sampled)]
        held = [row for row in self.digital if row.parameters]
        rest = [row for row in self.digital if not row.parameters]
        parts += ["", "Digital, with parameters of their own:", _names(held)]
        parts += ["Digital, without parameters:", _names(rest)]
        return "\n".join(parts)


def effects_of(hardware: Hardware) -> list[Effect]:
    """Every effect the hardware knows, in the order in which a signal meets it."""
    std = hardware.array.output_noise_std
    noise = Effect(
        "white output noise", std > 0, "per read" if std > 0 else "-",
        f"{std:g} of one fully-on device at full input, per product and tile, before the ADC",
    )  # fmt: skip
    name, size = _COMPENSATIONS[hardware.compensation]
    compensated = hardware.compensation != "none"
    compensation = Effect(name, compensated, "once per chip and age" if compensated else "-", size)
    return [
        *_mapping(hardware), *_dac(hardware.dac), *hardware.writing.effects(), *hardware.device.effects(),
        *conditions.effects(
            hardware.heat, hardware.endurance, hardware.read_noise, hardware.activation_energy_ev
        ),
        *hardware.faults.effects(),
        _wires(hardware), *_periphery(hardware.periphery), noise, *_adc(hardware.adc), compensation,
    ]  # fmt: skip


def _dac(dac: Dac) -> list[Effect]:
    found = [_quantisation("DAC", dac)]
    if dac.kind == "bit-serial":
        found.append(Effect("input bit by bit", True, "per read", f"{(dac.bits or 2) - 1} reads of an input"))
    if dac.nonlinearity:
        size = f"{percent(dac.nonlinearity)} of full scale at most, a cubic bow"
        found.append(Effect("DAC non-linearity", True, "-", size))
    if dac.jitter_std:
        found.append(
            Effect("pulse jitter", True, "per read", f"{dac.jitter_std:g} steps (standard deviation)")
        )
    return found


def _adc(adc: Adc) -> list[Effect]:
    found = [_quantisation("ADC", adc)]
    shared = f", one for {adc.columns_per_adc} columns" if adc.columns_per_adc > 1 else ""
    for name, size in (
        ("capacitors", adc.capacitor_std and f"{percent(adc.capacitor_std)} of a unit capacitor"),
        ("gains", adc.gain_std and f"{percent(adc.gain_std)} of each slope or stage"),
        ("offsets", adc.offset_std and f"{adc.offset_std:g} steps of each comparator or stage"),
    ):
        if size:
            found.append(Effect(f"ADC {name} ({adc.kind})", True, "once per chip", f"{size}{shared}"))
    if adc.nonlinearity:
        size = f"{percent(adc.nonlinearity)} of full scale at most, a bow"
        found.append(Effect("ADC non-linearity", True, "-", size))
    return found


def _quantisation(name: str, converter: Dac | Adc) -> Effect:
    bits = converter.bits
    if bits is None:
        return Effect(f"{name} quantisation", False, "-", "ideal")
    return Effect(f"{name} quantisation", True, "per read", f"{bits} bits, range fixed by calibration")


def _periphery(around: Periphery) -> list[Effect]:
    """A row for each mismatch that acts."""
    unit = "of one fully-on device at full input"
    possible = [
        ("gain of drivers", around.row_gain_std, f"{percent(around.row_gain_std)} of every word line"),
        (
            "gain of amplifiers",
            around.column_gain_std,
            f"{percent(around.column_gain_std)} of every bit line",
        ),
        ("offset of amplifiers", around.column_offset_std, f"{around.column_offset_std:g} {unit}"),
    ]
    return [
        Effect(name, True, "once per chip", f"{size} (standard deviation)")
        for name, std, size in possible
        if std
    ]


_COMPENSATIONS = {
    "none": ("drift compensation", "off"),
    "global": ("global drift compensation", "one factor a tile"),
    "per-column": ("drift compensation per column", "one factor a column of each tile"),
    "gain-and-offset": (
        "gain and offset compensation",
        "two numbers an output, by least squares on calibration inputs",
    ),
}


def _mapping(hardware: Hardware) -> list[Effect]:
    """What the way in which weights lie on devices does to them even without errors."""
    array, found = hardware.array, []
    if array.mapping == "bit-sliced":
        size = f"{array.slices} digits of {array.radix} levels, {array.radix**array.slices - 1} steps"
        found.append(Effect("rounding of weights", True, "-", size))
    if array.clip_percentile < 100.0:
        size = f"beyond percentile {array.clip_percentile:g} of their magnitudes"
        found.append(Effect("clipping of weights", True, "-", size))
    return found


def _wires(hardware: Hardware) -> Effect:
    wires, name = hardware.wires, "wire resistance (IR drop)"
    if not wires.act:
        return Effect(name, False, "-", "not modelled" if wires.model == "none" else "ideal wires")
    ages = any(effect.acts and "age" in effect.drawn for effect in hardware.device.effects())
    return Effect(name, True, "once per chip and age" if ages else "once per chip", wires_in_words(hardware))


def wires_in_words(hardware: Hardware) -> str:
    """Resistances, model and arrangement of the wires, for tables."""
    wires = hardware.wires
    ends = [
        (f"driver {wires.r_source_ohm:g} Ω", wires.r_source_ohm),
        (f"sense {wires.r_sink_ohm:g} Ω", wires.r_sink_ohm),
    ]
    parts = [f"{wires.r_row_ohm:g} Ω a cell along rows, {wires.r_col_ohm:g} Ω along columns"]
    parts += [text for text, ohm in ends if ohm]
    if wires.nonlinear:
        parts.append(f"law {wires.law} at up to {wires.v_read_volt:g} V")
    parts += [wires.model, f"{wires.topology} ends", f"{wires.legs} legs"]
    if wires.compensation != "none":
        parts.append(f"digital gains of {wires.compensation}")
    return ", ".join(parts)


def _layer_table(rows: tuple[LayerRow, ...]) -> str:
    if not rows:
        return "  (nothing)"
    cells: list[tuple[str, ...]] = [("layer", "type", "weight", "tiles", "devices", "used")]
    for row in rows:
        shape = "x".join(str(n) for n in row.shape)
        used = f"{100 * row.utilisation:.1f} %" if not row.shares else f"those of {row.shares}"
        cells.append(
            (
                row.name,
                row.kind,
                shape,
                f"{row.tiles:,}",
                f"{row.devices:,}",
                used,
            )
        )
    total = ("total", "", "", f"{sum(r.tiles for r in rows):,}", f"{sum(r.devices for r in rows):,}", "")
    return aligned([*cells, total])


def _effect_table(effects: tuple[Effect, ...]) -> str:
    if not effects:
        return "  (the same effects)"
    rows: list[tuple[str, ...]] = [("effect", "acts", "drawn", "size")]
    rows += [(e.name, "yes" if e.acts else "no", e.drawn, e.size) for e in effects]
    return aligned(rows)


def _sampled_table(rows: tuple[SampledRow, ...]) -> str:
    shapes = ["x".join(str(n) for n in row.shape) or "1" for row in rows]
    cells = [(row.name, row.kind, shape, row.spread) for row, shape in zip(rows, shapes, strict=True)]
    return aligned([("parameter", "of", "shape", "spread"), *cells])


def _names(rows: list[DigitalRow]) -> str:
    if not rows:
        return "  (none)"
    return "\n".join(
        f"  {row.name} ({row.kind}{f', {row.parameters:,} parameters' if row.parameters else ''}"
        f"{f'; {row.why}' if row.why else ''})"
        for row in rows
    )


def aligned(rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as a table for people."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join(lines)
