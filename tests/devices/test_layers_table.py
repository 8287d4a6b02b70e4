"""Patterns of a description: other hardware for some layers, and spreads of parameters."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurosim.devices import Adc, Gaussian, Hardware, hardware, hardware_names
from neurosim.devices.spread import Spread
from neurosim.errors import UsageError

TEXT = """
name = "mixed"
[device]
kind = "ideal"

[layers."blocks.0.*"]
array.rows = 128
device.kind = "gaussian"
device.relative_std = 0.1

[layers."*.fc2"]
adc.bits = 4
device.kind = "gaussian"

[layers.head]
preset = "pcm-joshi-2020"
array.cols = 32

[parameters."*.norm*.weight"]
relative_std = 0.05

[parameters."cell.tau"]
distribution = "lognormal"
relative_std = 0.2
"""


@pytest.fixture
def mixed(tmp_path: Path) -> Hardware:
    path = tmp_path / "mixed.toml"
    path.write_text(TEXT)
    return hardware(path)


def test_patterns_apply_in_the_order_written(mixed: Hardware):
    assert mixed.for_layer("stem") == hardware("ideal").with_all(
        {"name": "mixed", "source": {}, "description": ""}
    )
    first = mixed.for_layer("blocks.0.fc1")
    assert (first.array.rows, first.device, first.adc.bits) == (128, Gaussian(relative_std=0.1), None)
    both = mixed.for_layer("blocks.0.fc2")  # the kind is gaussian already: its constants stay
    assert (both.array.rows, both.device, both.adc.bits) == (128, Gaussian(relative_std=0.1), 4)
    assert mixed.for_layer("blocks.1.fc2").device == Gaussian()
    head = mixed.for_layer("head")
    assert head == hardware("pcm-joshi-2020", array__cols=32)
    for name in ("stem", "head", "blocks.0.fc2"):
        found = mixed.for_layer(name)
        assert not found.layers
        assert not found.parameters
        assert found.for_layer("anything") is found


def test_a_later_preset_starts_afresh_and_a_later_change_is_on_top():
    chip = hardware(
        "ideal",
        layers={"*": {"array.rows": 9}, "a": {"preset": "pcm-joshi-2020"}, "a*": {"array": {"cols": 7}}},
    )
    assert (chip.for_layer("a").array.rows, chip.for_layer("a").array.cols) == (256, 7)
    assert (chip.for_layer("ab").array.rows, chip.for_layer("ab").array.cols) == (9, 7)
    assert [v.array.rows for v in chip.variants()] == [256, 9, 256, 9]


def test_a_pattern_may_rely_on_an_earlier_one_that_covers_it():
    layers = {"*": {"device.kind": "gaussian"}, "head": {"device.relative_std": 0.1}}
    assert hardware("ideal", layers=layers).for_layer("head").device == Gaussian(relative_std=0.1)
    with pytest.raises(UsageError, match=r"unknown field 'device\.relative_std'"):
        hardware("ideal", layers=dict(reversed(layers.items())))


def test_patterns_that_only_clash_together_are_told_with_the_layer():
    chip = hardware(
        "gaussian-mismatch", layers={"a*": {"device.kind": "ideal"}, "*b": {"device.relative_std": 0.1}}
    )
    with pytest.raises(UsageError, match=r"hardware of layer 'ab', changed by layers\.'\*b': unknown field"):
        chip.for_layer("ab")


def test_spreads_by_name(mixed: Hardware):
    assert mixed.spread_of("blocks.0.norm1.weight") == Spread(relative_std=0.05)
    assert mixed.spread_of("cell.tau") == Spread(distribution="lognormal", relative_std=0.2)
    assert mixed.spread_of("cell.beta") is None
    twice = hardware("ideal", parameters={"*": Spread(relative_std=0.1), "a.*": {"absolute_std": 1}})
    assert twice.spread_of("a.b") == Spread(absolute_std=1)


def test_ways_to_say_the_same():
    layers = {"blocks.0.*": {"array": {"rows": 128}, "device": {"kind": "gaussian", "relative_std": 0.1}}}
    expected = hardware("ideal", layers=layers)
    flat = {"array.rows": "128", "device.relative_std": 0.1, "device.kind": "gaussian"}
    assert hardware("ideal").with_("layers", {"blocks.0.*": flat}) == expected
    assert hardware("ideal").with_all({"layers": {"blocks.0.*": flat}}).digest() == expected.digest()
    assert Hardware(**{**hardware("ideal").model_dump(), "layers": layers}) == expected
    assert expected.with_("layers", expected.layers) == expected
    assert expected.with_("layers", {}) == hardware("ideal")
    bits = hardware("pcm-joshi-2020", layers={"a.b": {"adc": Adc(), "dac.bits": None}})
    assert bits.for_layer("a.b").adc.bits is None
    assert bits.for_layer("a.b").dac.bits is None


def test_descriptions_with_patterns_are_values(mixed: Hardware, tmp_path: Path):
    path = tmp_path / "back.toml"
    path.write_text(mixed.to_toml())
    sent = pickle.loads(pickle.dumps(mixed))  # noqa: S301  (our own bytes)
    for twin in (hardware(path), sent, copy.deepcopy(mixed), Hardware(**mixed.model_dump())):
        assert twin == mixed
        assert hash(twin) == hash(mixed)
        assert twin.digest() == mixed.digest()
        assert list(twin.layers) == ["blocks.0.*", "*.fc2", "head"]
    with pytest.raises(TypeError, match="frozen"):
        mixed.layers["head"]["array"]["cols"] = 3
    with pytest.raises(TypeError, match="frozen"):
        mixed.parameters.update({})


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "array.rows": st.integers(1, 1000),
        "adc.bits": st.none() | st.integers(2, 16),
        "compensation": st.sampled_from(["none", "global"]),
        "preset": st.sampled_from(hardware_names()),
        "name": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9),
        "device": st.sampled_from([Gaussian(relative_std=0.2), {"kind": "pcm"}]),
    },
)
SPREADS = st.builds(
    Spread, relative_std=st.floats(0, 10), distribution=st.sampled_from(["normal", "lognormal", "uniform"])
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.dictionaries(NAMES, CHANGES, max_size=4), st.dictionaries(NAMES, SPREADS, max_size=3))
def test_any_patterns_come_back_from_toml(tmp_path_factory: pytest.TempPathFactory, layers, parameters):
    chip = hardware("ideal", layers=layers, parameters=parameters)
    path = tmp_path_factory.getbasetemp() / "patterns.toml"
    path.write_bytes(chip.to_toml().encode())
    assert hardware(path) == chip
    assert hardware(path).digest() == chip.digest()


OLD_DIGESTS = {
    "ideal": "b3d29775efd0eb170873b567d7df75b927bf3594fd225a01516f927b49872118",
    "gaussian-mismatch": "b4dc680e4aa8e5e4116098c9a51ab6d557b7e34eaf7379a210774f88a9ca2217",
    "pcm-joshi-2020": "1d59c631ce60d9248231f0cacf0e3bfe094ba2badc3ee8c64e482d6d11765c43",
    "pcm-aihwkit-default": "81c0ef5cdf45a85785286676c4ddd1141edc116fdee284e797cd4327f85af18e",
}


@pytest.mark.parametrize("name", OLD_DIGESTS)
def test_digests_without_patterns_are_those_of_old_ledgers(name: str):
    chip = hardware(name)
    assert chip.digest() == OLD_DIGESTS[name]
    assert "layers" not in chip.to_toml()
    assert not {"layers", "parameters"} & chip.model_dump().keys()


def test_digests_follow_what_patterns_do():
    plain = hardware("ideal")
    a, b = ("a", {"array.rows": 1}), ("*", {"array.rows": 2})
    found = [
        plain,
        plain.with_("layers", dict([a])),
        plain.with_("layers", dict([a, b])),
        plain.with_("layers", dict([b, a])),
        plain.with_("layers", {"a": {"preset": "pcm-joshi-2020"}}),
        plain.with_("parameters", {"a": Spread(relative_std=0.1)}),
        plain.with_("parameters", {"a": Spread(relative_std=0.2)}),
    ]
    assert len({chip.digest() for chip in found}) == len(found)
    assert plain.with_("layers", dict([a, b])) != plain.with_("layers", dict([b, a]))
    named = plain.with_("layers", {"a": {"array.rows": 1, "name": "x", "source.year": 1999}})
    assert named.for_layer("a").name == "x"


def test_all_errors_of_all_patterns_come_at_once_with_their_lines(tmp_path: Path):
    path = tmp_path / "bad.toml"
    path.write_text(
        """[device]
kind = "ideal"
[array]
rows = 0
[layers."blocks.0.*"]
array.row = 128
dac.bits = 99
[layers.a]
preset = "pcm-joshi"
[layers.b]
layers.c.array.rows = 3
prest = "ideal"
[layers.b2.device]
kind = "pmc"
[layers]
d = 3
[parameters."*.tau"]
distribution = "gauss"
relativ_std = 1
"""
    )
    with pytest.raises(UsageError) as caught:
        hardware(path)
    said = [line.strip() for line in str(caught.value).split("\n")[1:]]
    assert said[0] == "line 4: expected at least 1; got array.rows=0"
    assert "line 16: expected a table of fields; got layers.d=3" in said
    assert any(
        s.startswith("line 18: expected 'normal', 'lognormal' or 'uniform'; got parameters") for s in said
    )
    assert (
        "line 19: unknown field 'parameters.*.tau.relativ_std': did you mean 'parameters.*.tau.relative_std'?"
        in said
    )
    path.write_text(path.read_text().replace("d = 3", ""))
    with pytest.raises(UsageError) as caught:
        hardware(path)
    text = str(caught.value)
    for sentence in (
        "line 6: layers.'blocks.0.*': unknown field 'array.row': did you mean 'array.rows'?",
        "line 7: layers.'blocks.0.*': expected at most 16; got dac.bits=99",
        "line 9: layers.'a': unknown preset 'pcm-joshi': did you mean 'pcm-joshi-2020'?",
        "line 11: layers.'b': expected changes of a layer's hardware; 'layers' belongs outside of layers",
        "line 12: layers.'b': unknown field 'prest': did you mean 'preset'?",
        "line 14: layers.'b2': unknown device.kind 'pmc': did you mean 'pcm'?",
    ):
        assert sentence in text


@pytest.mark.parametrize(
    "changes,sentence",
    [
        ({"layers": 3}, "expected a table of fields; got layers=3"),
        ({"layers": {"a": {"source.year": None}}}, "expected a value; got source.year=None"),
        ({"layers": {"a": {"preset": 3}}}, "unknown preset '3'"),
        ({"layers": {"a": {"array": 3}}}, "layers.'a': expected a table of fields; got array=3"),
        ({"layers": {"a": {"array.rows": True}}}, "layers.'a': expected a number; got array.rows=True"),
        ({"layers": {"a": {"parameters": {"x": {}}}}}, "'parameters' belongs outside of layers"),
        ({"parameters": {"a": 3}}, "expected a table of fields; got parameters.a=3"),
        ({"layers.a": {"array.rows": 3}}, "unknown field 'layers.a"),
    ],
)
def test_wrong_patterns_are_named(changes: dict[str, object], sentence: str):
    with pytest.raises(UsageError, match=re.escape(sentence)):
        hardware("ideal").with_all(changes)
