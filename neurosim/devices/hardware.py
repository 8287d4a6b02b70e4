"""The description of an analog chip: devices, arrays, converters, and where the numbers come from.

A description is a frozen, checked value.  It comes from a preset, a TOML file or Python, and goes back
to TOML unchanged.  Nothing here computes; nothing here imports torch.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.resources
import json
import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from neurosim.devices import toml_file
from neurosim.devices.aihwkit_noise import PREFIX, device_of
from neurosim.devices.catalogue import DEVICES, AnyDevice
from neurosim.devices.conditions import Endurance, Heat, ReadNoise
from neurosim.devices.device import Device, Frozen, Real, Whole, without_defaults
from neurosim.devices.faults import Faults
from neurosim.devices.frozen import FrozenDict, frozen
from neurosim.devices.problems import Problem, Several, problems, unknown_field
from neurosim.devices.spread import WORDS, Spread
from neurosim.devices.writing.description import Writing
from neurosim.errors import UsageError, unknown

MIN_BITS, MAX_BITS = 2, 16
WHOLE = ("parameters", "layers")
"""Tables whose keys are patterns with dots: taken as they are, never flattened."""
_SILENT = ("writing", "faults", "periphery", "heat", "endurance", "read_noise")
"""Tables that descriptions leave out, as they did before there were any, while they change nothing."""


_MOST_STEPS = 2**24
_OF_MAPPING = {
    "bit-sliced": ("slices", "radix"),
    "significance-pairs": ("pairs", "significance", "pair_programming"),
}
"""Fields of an array that only one mapping reads."""


class Array(Frozen):
    """How weights lie on crossbars.

    Attributes:
        rows: inputs of one tile.
        cols: outputs of one tile, each a pair of device columns (in one array or in two, see ``wires.legs``).
        mapping: which devices hold a weight, see :mod:`neurosim.devices.mappings`: ``"differential-pair"``,
            one device for the positive part and one for the negative; ``"two-sided-pair"``, both move about
            the middle; ``"offset-column"``, one device, and a number subtracted; ``"unit-column"``, one
            device, and a column of reference devices subtracted; ``"bit-sliced"``, a pair for each digit;
            ``"significance-pairs"``, several pairs whose currents are added.
        scaling: full scale of the conductances from the largest weight of the layer, or of each output.
        clip_percentile: full scale from this percentile of the magnitudes instead, in percent; weights beyond
            it saturate.
        slices, radix: of ``"bit-sliced"``: digits of a weight, and levels of a digit; |w| has
            radix^slices − 1 steps.
        pairs, significance: of ``"significance-pairs"``: how many, and by which factor each is less
            significant than the one before.
        pair_programming: of ``"significance-pairs"``: every pair holds the weight (``"open-loop"``), or each
            what those before it have left open (``"closed-loop"``).
        bias: added digitally and exactly, or held by devices like any weight.
        output_noise_std: white noise of each tile output before the ADC, per product, in units of the
            output of one fully-on device at full input.
    """

    rows: Whole = Field(default=256, ge=1, le=1_000_000)
    cols: Whole = Field(default=256, ge=1, le=1_000_000)
    mapping: Literal[
        "differential-pair",
        "two-sided-pair",
        "offset-column",
        "unit-column",
        "bit-sliced",
        "significance-pairs",
    ] = "differential-pair"
    scaling: Literal["per-layer", "per-column"] = "per-layer"
    bias: Literal["digital", "device"] = "digital"
    output_noise_std: Real = Field(default=0.0, ge=0.0, le=1000.0)
    clip_percentile: Real = Field(default=100.0, gt=0.0, le=100.0)
    slices: Whole = Field(default=4, ge=1, le=24)
    radix: Whole = Field(default=4, ge=2, le=65_536)
    pairs: Whole = Field(default=2, ge=1, le=64)
    significance: Real = Field(default=1.0, ge=1.0, le=1000.0)
    pair_programming: Literal["open-loop", "closed-loop"] = "open-loop"

    @model_validator(mode="after")
    def _belong(self) -> Array:
        if self.radix**self.slices > _MOST_STEPS:
            raise ValueError(
                f"expected radix^slices of at most 2^24, what float32 counts; got {self.radix}^{self.slices}"
            )
        if self.mapping == "unit-column" and self.cols < 2:
            raise ValueError("expected cols of at least 2 with mapping='unit-column'; got cols=1")
        for mapping, fields in _OF_MAPPING.items():
            for field in fields:
                value = getattr(self, field)
                if self.mapping != mapping and value != type(self).model_fields[field].default:
                    raise ValueError(
                        f"expected {field} only with mapping={mapping!r}; got {field}={value!r} "
                        f"with mapping={self.mapping!r}"
                    )
        return self

    def with_cols(self, cols: int) -> Array:
        """The same with tiles of another width."""
        return self if cols == self.cols else self.model_copy(update={"cols": cols})

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Descriptions that leave these fields alone look, and digest, as they did before there were any."""
        silent = {"clip_percentile", *(field for fields in _OF_MAPPING.values() for field in fields)}
        return without_defaults(self, handler(self), silent)


class Converter(Frozen):
    """A converter whose range is calibrated on data once and then fixed.

    Attributes:
        bits: resolution, 2 to 16; None (in text: ``ideal``, or leave it out) converts exactly.
        range: full scale from the largest magnitude seen; from a percentile of the magnitudes; the one with
            the least mean square error of clipping and rounding (``"min-error"``); or that one refined by
            gradient on the error of the layer's outputs (``"learned"``).
        percentile: which one, in percent; used when ``range`` is ``"percentile"``.
    """

    bits: Whole | None = Field(default=None, ge=MIN_BITS, le=MAX_BITS)
    range: Literal["max", "percentile", "min-error", "learned"] = "max"
    percentile: Real = Field(default=99.99, gt=0.0, le=100.0)

    @field_validator("bits", mode="before")
    @classmethod
    def _ideal_in_words(cls, value: object) -> object:
        return None if isinstance(value, str) and value.strip().lower() in ("ideal", "none") else value

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, handler(self), set(type(self).model_fields) - set(_ALWAYS))


_ALWAYS = ("bits", "range", "percentile")  # what descriptions of converters always say


class Dac(Converter):
    """The converter in front of every row.

    Attributes:
        kind: how a word line carries a code: as a voltage; as a pulse of that width, at one voltage; or
            bit by bit (``"bit-serial"``): each cycle's products are digitised and added with their weight.
        nonlinearity: of ``"voltage"``: largest deviation from the line through the ends, as a fraction of
            full scale; positive bows outwards.
        jitter_std: of ``"pulse-width"``: standard deviation of the width of every pulse, in steps.
    """

    kind: Literal["voltage", "pulse-width", "bit-serial"] = "voltage"
    nonlinearity: Real = Field(default=0.0, ge=-0.3, le=0.3)
    jitter_std: Real = Field(default=0.0, ge=0.0, le=1000.0)

    @model_validator(mode="after")
    def _belong(self) -> Dac:
        _check_fields(self, {"nonlinearity": "voltage", "jitter_std": "pulse-width"})
        if self.bits is None and (self.kind == "bit-serial" or self.jitter_std):
            what = "kind='bit-serial'" if self.kind == "bit-serial" else "jitter_std, which is in steps,"
            raise ValueError(f"expected bits with {what}; got an ideal converter")
        return self


class Adc(Converter):
    """The converter behind every column; see :mod:`neurosim.devices.adc`.

    Attributes:
        kind: its architecture; what is mismatched is drawn once per chip for every converter.
        columns_per_adc: how many neighbouring columns of a tile take turns on one converter.
        capacitor_std: of ``"sar"``: relative standard deviation of a unit capacitor.
        gain_std: of ``"ramp"``, the slope of each tile's ramp; of ``"pipeline"``, each stage's residue
            amplifier; relative.
        offset_std: of ``"ramp"``, each comparator; of ``"pipeline"``, each stage; in steps of the code,
            referred to the input of the comparator or stage.
        nonlinearity: of ``"ramp"``: bow of the ramp, as :attr:`Dac.nonlinearity`, towards the ends of both
            polarities alike.
    """

    kind: Literal["uniform", "sar", "ramp", "pipeline"] = "uniform"
    columns_per_adc: Whole = Field(default=1, ge=1, le=1_000_000)
    capacitor_std: Real = Field(default=0.0, ge=0.0, le=1.0)
    gain_std: Real = Field(default=0.0, ge=0.0, le=1.0)
    offset_std: Real = Field(default=0.0, ge=0.0, le=1000.0)
    nonlinearity: Real = Field(default=0.0, ge=-0.3, le=0.3)

    @model_validator(mode="after")
    def _belong(self) -> Adc:
        of_ramps = ("ramp", "pipeline")
        _check_fields(
            self,
            {"capacitor_std": "sar", "gain_std": of_ramps, "offset_std": of_ramps, "nonlinearity": "ramp"},
        )
        if self.bits is None and self.kind != "uniform":
            raise ValueError(f"expected bits with kind={self.kind!r}; got an ideal converter")
        return self

    @property
    def mismatched(self) -> bool:
        """Whether converters differ from the uniform one."""
        return any((self.capacitor_std, self.gain_std, self.offset_std, self.nonlinearity))


def _check_fields(converter: Dac | Adc, kinds: Mapping[str, str | tuple[str, ...]]) -> None:
    """ValueError if a field is set that the converter's kind does not read."""
    for field, kind in kinds.items():
        allowed = (kind,) if isinstance(kind, str) else kind
        value = getattr(converter, field)
        if value and converter.kind not in allowed:
            wanted = " or ".join(f"kind={one!r}" for one in allowed)
            raise ValueError(
                f"expected {field} only with {wanted}; got {field}={value!r} with kind={converter.kind!r}"
            )


class Periphery(Frozen):
    """Mismatch of the circuits around the arrays, drawn once per chip for every line of every tile.

    Attributes:
        row_gain_std: relative, of the driver of every word line.
        column_gain_std: relative, of the amplifier of every bit line, before the ADC.
        column_offset_std: of the same amplifier, in units of the output of one fully-on device at full input,
            as ``array.output_noise_std``.
    """

    row_gain_std: Real = Field(default=0.0, ge=0.0, le=1.0)
    column_gain_std: Real = Field(default=0.0, ge=0.0, le=1.0)
    column_offset_std: Real = Field(default=0.0, ge=0.0, le=1000.0)

    @property
    def act(self) -> bool:
        """Whether they change anything."""
        return any((self.row_gain_std, self.column_gain_std, self.column_offset_std))


class Wires(Frozen):
    """The wires of an array, and how faithfully they are modelled.

    Attributes:
        model: ``"exact"`` solves the network of devices and wires of every tile (free where nothing resists);
            ``"column-approximation"`` is right to first order in the resistance; ``"nonlinear"`` gives the
            devices a current-voltage law and solves the network for every single input (slow: for study and
            validation); ``"none"`` ignores wires.
        r_row_ohm: of one segment of a word line (row), from cell to cell and from the driver to the first.
        r_col_ohm: of one segment of a bit line (column), from cell to cell and to the sense node.
        r_source_ohm: of each driver, in series with its word line.
        r_sink_ohm: of each sense node, in series with its bit line.
        topology: which ends are driven and sensed, see
            :func:`neurosim.devices.wires.effective_conductance`.
        legs: the two columns of a pair are neighbours in one array (``"interleaved"``: its word lines are
            twice as long), or lie in two arrays (``"separate"``).
        compensation: digital gains that undo what they can, fixed from the target conductances, the same on
            every chip: of each column of a tile, or of its columns and of the drive of its rows.
        reuse_steps: training only: solve exactly in every so many steps, and carry the difference between
            exact and approximation from there; 1 solves in every step.
        law: current-voltage law of the devices when ``model`` is ``"nonlinear"``, with its constants if need
            be, such as ``"sinh(v0_volt=0.25)"``; see :data:`neurosim.devices.wires.laws.LAWS`.
        v_read_volt: voltage of a word line at full input when ``model`` is ``"nonlinear"``.
    """

    model: Literal["none", "column-approximation", "exact", "nonlinear"] = "exact"
    r_row_ohm: Real = Field(default=0.0, ge=0.0, le=1e9)
    r_col_ohm: Real = Field(default=0.0, ge=0.0, le=1e9)
    r_source_ohm: Real = Field(default=0.0, ge=0.0, le=1e9)
    r_sink_ohm: Real = Field(default=0.0, ge=0.0, le=1e9)
    topology: Literal["opposite", "same", "both-ends", "driven-both-ends"] = "opposite"
    legs: Literal["separate", "interleaved"] = "separate"
    compensation: Literal["none", "columns", "rows-and-columns"] = "none"
    reuse_steps: Whole = Field(default=16, ge=1, le=1_000_000)
    law: str = "linear"
    v_read_volt: Real = Field(default=0.2, gt=0.0, le=100.0)

    @field_validator("law")
    @classmethod
    def _known_law(cls, value: str) -> str:
        if value != "linear":
            from neurosim.devices.wires.laws import law_from  # brings torch

            law_from(value)
        return value

    @model_validator(mode="after")
    def _possible(self) -> Wires:
        if self.nonlinear and self.compensation == "rows-and-columns":
            raise ValueError(
                "expected compensation='none' or 'columns' with model='nonlinear'; "
                "got compensation='rows-and-columns'"
            )
        return self

    @property
    def act(self) -> bool:
        """Whether they change anything."""
        resist = (self.r_row_ohm, self.r_col_ohm, self.r_source_ohm, self.r_sink_ohm)
        return self.model != "none" and (any(resist) or self.nonlinear)

    @property
    def nonlinear(self) -> bool:
        """Whether every input is solved on its own."""
        return self.model == "nonlinear"


class Source(Frozen):
    """Where the numbers come from and how far they hold.

    Attributes:
        doi: of the publication, without ``https://doi.org/``.
        citation: the publication, for people.
        year: of the publication.
        node_nm: of the process, in nanometres; None where it is not stated.
        fit_range: what was measured; outside of it the model extrapolates.
        covers: what the description models and what it leaves out.
    """

    doi: str = Field(default="", pattern=r"^(10\.\d{4,9}/\S+)?$")
    citation: str = ""
    year: Whole | None = Field(default=None, ge=1900, le=2200)
    node_nm: Real | None = Field(default=None, gt=0.0, le=1e6)
    fit_range: str = ""
    covers: str = ""


class Hardware(Frozen):
    """An analog chip.

    Attributes:
        compensation: what the digital part corrects: ``"global"``, drift, by one factor a tile;
            ``"per-column"``, by one factor a column of each tile; ``"gain-and-offset"``, whatever a line
            through the products of calibration inputs corrects, fitted on each chip and at each age for
            each output of a layer.
        parameters: pattern over parameter names, such as ``"*.norm*.weight"`` → how those parameters, which
            no crossbar holds, differ from chip to chip; the last pattern that matches a name decides.
        layers: pattern over layer names, such as ``"blocks.0.*"`` → changes to this hardware for those
            layers; with a key ``preset`` they start from that preset instead.  See :meth:`for_layer`.

    Patterns are those of a shell (:mod:`fnmatch`), upper and lower case apart.

    >>> chip = hardware("pcm-joshi-2020")
    >>> chip.device.kind, chip.array.rows, chip.adc.bits
    ('pcm', 256, 8)
    >>> chip.with_("array.rows", 128).array.rows
    128
    """

    name: str = Field(default="custom", min_length=1, max_length=200)
    description: str = ""
    compensation: Literal["none", "global", "per-column", "gain-and-offset"] = "none"
    device: AnyDevice
    array: Array = Array()
    dac: Dac = Dac()
    adc: Adc = Adc()
    wires: Wires = Wires()
    writing: Writing = Writing()
    faults: Faults = Faults()
    periphery: Periphery = Periphery()
    heat: Heat = Heat()
    endurance: Endurance = Endurance()
    read_noise: ReadNoise = ReadNoise()
    source: Source = Source()
    parameters: dict[str, Spread] = FrozenDict()
    layers: dict[str, dict[str, Any]] = FrozenDict()

    @field_validator("parameters")
    @classmethod
    def _frozen_parameters(cls, value: dict[str, Spread]) -> dict[str, Spread]:
        return FrozenDict(value)

    @field_validator("layers")
    @classmethod
    def _checked_layers(cls, value: dict[str, dict[str, Any]], info: ValidationInfo) -> Any:
        """Each pattern's changes in one canonical form; every error of every pattern at once."""
        if "device" not in info.data:  # that error is reported already, and nothing can be built without
            return value
        # what is wrong elsewhere is missing here: then the layers are checked on its default
        parts = {name: part for name, part in info.data.items() if name not in WHOLE}
        return _canonical_layers({name: _dumped(part) for name, part in parts.items()}, value)

    @model_validator(mode="after")
    def _possible(self) -> Hardware:
        if self.wires.nonlinear and self.array.mapping not in ("differential-pair", "two-sided-pair"):
            raise ValueError(
                "expected array.mapping 'differential-pair' or 'two-sided-pair' with "
                f"wires.model='nonlinear'; got {self.array.mapping!r}"
            )
        if self.faults.spare_columns >= self.array.cols - (self.array.mapping == "unit-column"):
            raise ValueError(
                "expected fewer faults.spare_columns than columns of a tile; got "
                f"{self.faults.spare_columns} with array.cols={self.array.cols}"
            )
        if self.writing.act and not self.device.written_apart:
            raise ValueError(
                f"expected writing.scheme='none' with device {self.device.kind!r}, whose measured error is "
                "that of its own writing and moves with age"
            )
        if self.heat.act and self.activation_energy_ev is None:
            raise ValueError(
                f"expected heat.activation_energy_ev with heat.storage_kelvin={self.heat.storage_kelvin:g}: "
                f"device {self.device.kind!r} has none of its own, as none was found published"
            )
        # lines that end one by one, or differ in drive, would each need a solution of their own
        around = self.periphery
        if self.wires.nonlinear and (
            self.dac.kind == "pulse-width" or around.row_gain_std or around.column_gain_std
        ):
            raise ValueError(
                "expected dac.kind 'voltage' or 'bit-serial', and a periphery without gains, with "
                "wires.model='nonlinear'"
            )
        return self

    @property
    def activation_energy_ev(self) -> float | None:
        """Of ageing: what the description says, or what the device knows; None if neither."""
        given = self.heat.activation_energy_ev
        return self.device.activation_energy_ev(self.heat.reference_kelvin) if given is None else given

    def equivalent_s(self, time_s: float) -> float:
        """The age at the temperature of the measurement that does what ``time_s`` of storage does.

        >>> hot = hardware("stt-mram-typical", heat__storage_kelvin=400.0)
        >>> f"{hot.equivalent_s(1.0):.3g}"
        '3.27e+06'
        """
        energy = self.activation_energy_ev
        return time_s if not self.heat.act or energy is None else time_s * self.heat.acceleration(energy)

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Descriptions without patterns and faults look, and digest, as they did before there were any."""
        data: dict[str, Any] = handler(self)
        plain = {name for name in _SILENT if getattr(self, name) == type(getattr(self, name))()}
        return {
            name: part for name, part in data.items() if name not in plain and (part or name not in WHOLE)
        }

    def for_layer(self, name: str) -> Hardware:
        """The full hardware of one layer: this one, changed by every matching pattern in the order written.

        A later pattern works on top of earlier ones; one with a ``preset`` starts afresh from it.  The result
        has no ``layers`` and no ``parameters``.

        Args:
            name: dotted name of the layer, such as ``"blocks.0.fc1"``.

        Raises:
            UsageError: patterns that hold alone but not together on this layer.

        >>> changes = {"blocks.*": {"array.rows": 64}, "head": {"preset": "pcm-joshi-2020"}}
        >>> mixed = hardware("ideal", layers=changes)
        >>> mixed.for_layer("blocks.0.fc1").array.rows, mixed.for_layer("head").device.kind
        (64, 'pcm')
        >>> mixed.for_layer("stem") == hardware("ideal")
        True
        """
        if not self.layers and not self.parameters:
            return self
        found = _validated(_bare(self))
        for pattern, changes in self.layers.items():
            if not fnmatchcase(name, pattern):
                continue
            made, wrong = _layered(_bare(found), changes)
            if made is None:
                said = "; ".join(problem.sentence for problem in wrong)
                raise UsageError(f"hardware of layer {name!r}, changed by layers.{pattern!r}: {said}")
            found = made
        return found

    def variants(self) -> list[Hardware]:
        """This hardware without patterns and that of each pattern in ``layers``, in the order written."""
        return [_validated(_bare(self)), *(self.for_layer(pattern) for pattern in self.layers)]

    def spread_of(self, parameter: str) -> Spread | None:
        """How a parameter differs from chip to chip, by its full dotted name; None if no pattern matches.

        >>> chip = hardware("ideal", parameters={"*.tau": {"relative_std": 0.1}})
        >>> chip.spread_of("cell.tau").relative_std, chip.spread_of("cell.bias")
        (0.1, None)
        """
        for pattern in reversed(self.parameters):
            if fnmatchcase(parameter, pattern):
                return self.parameters[pattern]
        return None

    def with_(self, field: str, value: object) -> Hardware:
        """A copy with one field changed, fully checked.

        Args:
            field: dotted name, such as ``"array.rows"``; a whole table, such as ``"array"``, takes a
                mapping of the fields to change.  Setting ``"device.kind"`` to another kind starts
                that device from its defaults.
            value: the new value; text from a command line is read as a number where one is expected.

        Raises:
            UsageError: no such field, or a value out of bounds.

        >>> hardware("ideal").with_("array.row", 128)
        Traceback (most recent call last):
        neurosim.errors.UsageError: unknown field 'array.row': did you mean 'array.rows'?
        """
        return self.with_all({field: value})

    def with_all(self, changes: Mapping[str, object]) -> Hardware:
        """A copy with several fields changed at once, checked together.

        >>> low = {"device.g_min_siemens": 30e-6, "device.g_max_siemens": 40e-6}
        >>> hardware("ideal").with_all(low).device.g_min_siemens
        3e-05
        """
        data = self.model_dump()
        # a new kind of device first: it brings its own fields
        for field, value in sorted(_flat(changes), key=lambda change: change[0] != "device.kind"):
            _set(data, field, value)
        return _validated(data)

    def to_toml(self) -> str:
        """The description as TOML; :func:`hardware` of that file equals this object."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of everything that acts on a result.

        Name, description and source are left out: two descriptions with the same digest compute the
        same numbers, whatever they are called.
        """
        content = self.model_dump(mode="json", exclude={*_WORDS, *WHOLE})
        # the content of a map acts, not where it lies
        content.get("faults", {}).pop("map_file", None)
        # lists: the order of patterns acts, and sorted keys would hide it
        if self.parameters:
            content["parameters"] = [
                [k, spread.model_dump(exclude=set(WORDS))] for k, spread in self.parameters.items()
            ]
        if self.layers:
            content["layers"] = [[pattern, _acting(changes)] for pattern, changes in self.layers.items()]
        text = json.dumps(content, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


TABLES: dict[str, type[BaseModel]] = {
    "device": Device,
    "array": Array,
    "dac": Dac,
    "adc": Adc,
    "wires": Wires,
    "writing": Writing,
    "faults": Faults,
    "periphery": Periphery,
    "heat": Heat,
    "endurance": Endurance,
    "read_noise": ReadNoise,
    "source": Source,
}
"""The tables of a description; that of the device has the fields of its kind."""

_WORDS = ("name", "description", "source")  # say what a description is, and act on nothing


def hardware(name_or_path: str | os.PathLike[str] | Hardware, /, **changes: object) -> Hardware:
    """A hardware description by preset name or TOML file, with changes.

    Args:
        name_or_path: one of :func:`hardware_names`, the path of a TOML file, a Hardware, or
            ``"aihwkit:MODEL"``, a noise model of aihwkit, whose arguments are then ``changes`` too or stand
            in brackets: ``"aihwkit:PCMLikeNoiseModel(g_max=25)"``.
        changes: fields to change.  Tables take a mapping (``array={"rows": 128}``); two underscores
            stand for a dot (``array__rows=128``), as does ``**{"array.rows": 128}``.

    Raises:
        UsageError: unknown name, unreadable or wrong file (every error at once, each with its line),
            unknown field, value out of bounds.

    >>> hardware("pcm-joshi-2020", adc__bits=6).adc.bits
    6
    >>> hardware("pcm-joshi")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    neurosim.errors.UsageError: unknown hardware 'pcm-joshi': did you mean 'pcm-joshi-2020'? ...
    """
    if isinstance(name_or_path, Hardware):
        found = name_or_path
    elif isinstance(name_or_path, str) and name_or_path.startswith(PREFIX):
        # what is no field of a description is an argument of the model
        known = {name for name in changes if name.split("__")[0].split(".")[0] in Hardware.model_fields}
        options = {name: value for name, value in changes.items() if name not in known}
        changes = {name: value for name, value in changes.items() if name in known}
        device = device_of(name_or_path, options)
        found = Hardware(name=f"{PREFIX}{device.model}", device=device, source=_OF_AIHWKIT)
    elif _is_path(name_or_path):
        found = _from_file(Path(name_or_path))
    else:
        found = _preset(str(name_or_path))
    if not changes:
        return found
    return found.with_all({name.replace("__", "."): value for name, value in changes.items()})


_OF_AIHWKIT = Source(
    citation="a noise model of IBM's aihwkit; see its documentation for where its numbers are from",
    covers="what aihwkit's model does to each device of a pair; ideal converters and compensation until set",
)


def hardware_names() -> list[str]:
    """The presets, sorted.

    >>> "pcm-joshi-2020" in hardware_names()
    True
    """
    return sorted(_presets())


@cache
def _presets() -> dict[str, str]:
    folder = importlib.resources.files("neurosim.devices") / "presets"
    files = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    return {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in files}


@cache
def _preset(name: str) -> Hardware:
    if name not in _presets():
        raise unknown("hardware", name, _presets())
    return _from_text(_presets()[name], f"preset {name!r}")


def _is_path(name: str | os.PathLike[str]) -> bool:
    if not isinstance(name, str):
        return True
    if name.endswith(".toml") or "/" in name or os.sep in name:
        return True
    # a preset wins over a file of the same name in the working folder, which could be anything
    return name not in _presets() and "\0" not in name and Path(name).is_file()


def _from_file(path: Path) -> Hardware:
    return _from_text(toml_file.read_text(path, "hardware"), f"hardware file {str(path)!r}")


def _from_text(text: str, source: str) -> Hardware:
    data = toml_file.parse(text, source)
    try:
        return Hardware.model_validate(data)
    except ValidationError as error:
        found = []
        for problem in problems(error, Hardware):
            line = toml_file.line_of(text, problem.path)
            found.append((line or 0, f"line {line}: {problem.sentence}" if line else problem.sentence))
        sentences = [sentence for _, sentence in sorted(found, key=lambda entry: entry[0])]
        if len(sentences) == 1:
            raise UsageError(f"{source}: {sentences[0]}") from error
        listed = "\n".join(f"  {sentence}" for sentence in sentences)
        raise UsageError(f"{source} has {len(sentences)} errors:\n{listed}") from error


def _validated(data: dict[str, Any]) -> Hardware:
    try:
        return Hardware.model_validate(data)
    except ValidationError as error:
        raise UsageError("; ".join(problem.sentence for problem in problems(error, Hardware))) from error


def _dumped(part: object) -> object:
    return part.model_dump() if isinstance(part, BaseModel) else part


def _bare(hardware: Hardware) -> dict[str, Any]:
    return hardware.model_dump(exclude=set(WHOLE))


def _acting(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of a layer as a digest needs them: what a preset holds counts, not what it is called."""
    kept = {name: value for name, value in changes.items() if name not in _WORDS}
    return {**kept, "preset": _preset(kept["preset"]).digest()} if "preset" in kept else kept


def _canonical_layers(
    base: dict[str, Any], layers: Mapping[str, Mapping[str, Any]]
) -> FrozenDict[str, dict[str, Any]]:
    """The changes of every pattern as nested tables of checked values, in the order of the fields.

    Each is checked on top of the base and of those earlier patterns that match all it matches (that is, match
    its own text): ``"head"`` may rely on what ``"*"`` has changed.

    Raises:
        Several: what is wrong, with paths from the root.
    """
    found: list[Problem] = []
    canonical: dict[str, dict[str, Any]] = {}
    made: dict[str, Hardware] = {}
    for pattern, changes in layers.items():
        below = copy.deepcopy(base)
        for earlier in made:
            if fnmatchcase(pattern, earlier):
                below = _bare(_layered(below, canonical[earlier])[0] or made[earlier])
        result, wrong = _layered(below, changes)
        found += [
            Problem(("layers", pattern, *problem.path), f"layers.{pattern!r}: {problem.sentence}")
            for problem in wrong
        ]
        if result is not None:
            made[pattern] = result
            canonical[pattern] = _canonical(changes, result)
    if found:
        raise Several(found)
    return FrozenDict(canonical)


def _layered(data: dict[str, Any], changes: Mapping[str, Any]) -> tuple[Hardware | None, list[Problem]]:
    """The hardware of a layer, from a dumped description and changes; or None, and all that is wrong."""
    preset = changes.get("preset")
    if preset is not None:
        if preset not in hardware_names():
            return None, [Problem(("preset",), str(unknown("preset", str(preset), _presets())))]
        data = _bare(_preset(preset))
    data = copy.deepcopy(data)
    wrong: list[Problem] = []
    for field, value in _layer_changes(changes):
        try:
            _set_in_layer(data, field, value)
        except UsageError as error:
            wrong.append(Problem(tuple(field.split(".")), str(error)))
    try:
        made = Hardware.model_validate(data)
    except ValidationError as error:
        return None, [*wrong, *problems(error, Hardware)]
    return (None if wrong else made), wrong


def _layer_changes(changes: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Changes of one layer by dotted name, the kind of device first, without the preset and empty tables."""
    flat = [(field, value) for field, value in _flat(changes) if field != "preset" and value != {}]
    return sorted(flat, key=lambda change: change[0] != "device.kind")


def _set_in_layer(data: dict[str, Any], field: str, value: object) -> None:
    table = field.partition(".")[0]
    if table in WHOLE:
        raise UsageError(f"expected changes of a layer's hardware; {table!r} belongs outside of layers")
    if value is None and not field.endswith(".bits"):
        raise UsageError(f"expected a value; got {field}=None")
    known = [*(name for name in _field_names(data["device"]["kind"]) if name not in WHOLE), "preset"]
    if field != "device.kind" and field not in known:
        raise UsageError(unknown_field(field, known))
    _set(data, field, value)


def _canonical(changes: Mapping[str, Any], made: Hardware) -> dict[str, Any]:
    """The changes as nested tables, each value as the checked hardware holds it."""
    fields = {field for field, _ in _layer_changes(changes)}
    nested: dict[str, Any] = {"preset": changes["preset"]} if changes.get("preset") is not None else {}
    silent = {table: getattr(made, table).model_dump(mode="json") for table in _SILENT}
    for table, content in {**made.model_dump(mode="json"), **silent}.items():
        if not isinstance(content, dict):
            nested |= {table: content} if table in fields else {}
            continue
        inner = {name: value for name, value in content.items() if f"{table}.{name}" in fields}
        if inner:  # TOML has no null
            nested[table] = {name: "ideal" if value is None else value for name, value in inner.items()}
    return dict(frozen(nested))


def _flat(changes: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Changes by dotted name; tables given as mappings or models become their fields."""
    for name, value in changes.items():
        if isinstance(value, BaseModel):
            value = value.model_dump()
        if isinstance(value, Mapping) and value and (prefix or name not in WHOLE):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _set(data: dict[str, Any], field: str, value: object) -> None:
    """Set one dotted field in the dumped description."""
    if field == "device.kind" and value != data["device"]["kind"]:
        if value not in DEVICES:
            raise unknown("device.kind", str(value), DEVICES)
        data["device"] = {"kind": value}
        return
    known = _field_names(data["device"]["kind"])
    if field not in known:
        raise UsageError(unknown_field(field, known))
    table, _, name = field.rpartition(".")
    (data.setdefault(table, {}) if table else data)[name] = _parsed(value)


def _field_names(kind: str) -> list[str]:
    """Every dotted name of a description whose device is of this kind, tables included."""
    tables = {**TABLES, "device": DEVICES[kind]}
    inner = [f"{table}.{name}" for table, model in tables.items() for name in model.model_fields]
    return [*Hardware.model_fields, *inner]


def _parsed(value: object) -> object:
    """Text such as ``[1e-6, 2e-6, 0]`` as a list; pydantic reads plain numbers from text itself."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
