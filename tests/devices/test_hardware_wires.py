"""The [wires] table of a hardware description: from text to text, bounds, names, digest, when it acts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurosim.devices import Hardware, Wires, hardware, hardware_names
from neurosim.devices.wires import TOPOLOGIES
from neurosim.errors import UsageError

CHIP = hardware("pcm-joshi-2020")
OHMS = ("r_row_ohm", "r_col_ohm", "r_source_ohm", "r_sink_ohm")

ohms = st.floats(0, 1e9)
wires = st.builds(
    Wires,
    model=st.sampled_from(["none", "column-approximation", "exact"]),
    r_row_ohm=ohms,
    r_col_ohm=ohms,
    r_source_ohm=ohms,
    r_sink_ohm=ohms,
    topology=st.sampled_from(list(TOPOLOGIES)),
    legs=st.sampled_from(["separate", "interleaved"]),
    compensation=st.sampled_from(["none", "columns", "rows-and-columns"]),
    reuse_steps=st.integers(1, 1_000_000),
)


def parsed(folder: Path, text: str) -> Hardware:
    path = folder / "chip.toml"
    path.write_text(text)
    return hardware(path)


@given(wires)
def test_any_wires_come_back_from_their_toml(tmp_path_factory: pytest.TempPathFactory, drawn: Wires) -> None:
    chip = CHIP.with_("wires", drawn)
    assert chip.wires == drawn
    found = parsed(tmp_path_factory.getbasetemp(), chip.to_toml())
    assert found == chip
    assert found.digest() == chip.digest()


def test_a_table_by_hand(tmp_path: Path) -> None:
    text = """
[device]
kind = "ideal"
[wires]
r_row_ohm = 2          # a whole number is a number
r_sink_ohm = 1e2
topology = "both-ends"
legs = "interleaved"
compensation = "rows-and-columns"
"""
    found = parsed(tmp_path, text).wires
    assert found == Wires(
        r_row_ohm=2.0, r_sink_ohm=100.0, topology="both-ends", legs="interleaved",
        compensation="rows-and-columns",
    )  # fmt: skip
    assert (found.r_col_ohm, found.r_source_ohm, found.model, found.reuse_steps) == (0.0, 0.0, "exact", 16)
    assert found.act


def test_descriptions_without_the_table_have_ideal_wires(tmp_path: Path) -> None:
    found = parsed(tmp_path, '[device]\nkind = "ideal"\n')
    assert found.wires == Wires()
    assert not found.wires.act
    assert found == parsed(tmp_path, '[device]\nkind = "ideal"\n[wires]\n')
    for name in hardware_names():
        assert not hardware(name).wires.act, name
        assert "[wires]" in hardware(name).to_toml()


@pytest.mark.parametrize("name", OHMS)
def test_any_resistance_makes_them_act_and_no_model_stops_them(name: str) -> None:
    chip = CHIP.with_(f"wires.{name}", 1e-9)
    assert chip.wires.act
    assert chip.with_("wires.model", "column-approximation").wires.act
    assert not chip.with_("wires.model", "none").wires.act
    assert not chip.with_(f"wires.{name}", 0).wires.act


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("r_row_ohm", "2", 2.0),
        ("r_col_ohm", "1.5e-3", 1.5e-3),
        ("r_source_ohm", "0", 0.0),
        ("r_sink_ohm", "1e9", 1e9),
        ("model", "column-approximation", "column-approximation"),
        ("topology", "driven-both-ends", "driven-both-ends"),
        ("legs", "interleaved", "interleaved"),
        ("compensation", "columns", "columns"),
        ("reuse_steps", "1", 1),
    ],
)
def test_text_from_a_command_line_is_read(field: str, text: str, value: object) -> None:
    assert getattr(CHIP.with_(f"wires.{field}", text).wires, field) == value
    assert getattr(hardware("pcm-joshi-2020", **{f"wires__{field}": text}).wires, field) == value
    assert getattr(hardware("pcm-joshi-2020", wires={field: text}).wires, field) == value


def test_changes_leave_the_rest_alone() -> None:
    first = CHIP.with_("wires.r_row_ohm", 2)
    both = first.with_("wires", {"r_col_ohm": 3})
    assert (both.wires.r_row_ohm, both.wires.r_col_ohm) == (2.0, 3.0)
    assert (CHIP.wires.r_row_ohm, first.wires.r_col_ohm) == (0.0, 0.0)
    assert both.device == CHIP.device
    assert both.with_("device.kind", "ideal").wires == both.wires


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("wires.r_row", "unknown field 'wires.r_row': did you mean 'wires.r_row_ohm'?"),
        ("wire.r_row_ohm", "unknown field 'wire.r_row_ohm': did you mean 'wires.r_row_ohm'?"),
        ("wires.r_colum_ohm", "did you mean 'wires.r_col_ohm'?"),
        ("wires.toplogy", "did you mean 'wires.topology'?"),
        ("wires.reuse", "did you mean 'wires.reuse_steps'?"),
        ("r_row_ohm", "unknown field 'r_row_ohm': did you mean 'wires.r_row_ohm'?"),
    ],
)
def test_unknown_fields_get_a_suggestion(field: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(hint)):
        CHIP.with_(field, 1)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        *((name, -1e-30, f"expected at least 0; got wires.{name}=-1e-30") for name in OHMS),
        *((name, 1.1e9, f"expected at most 1e+09; got wires.{name}=1100000000.0") for name in OHMS),
        ("r_row_ohm", float("nan"), "expected a finite number; got wires.r_row_ohm=nan"),
        ("r_row_ohm", "inf", "expected a finite number; got wires.r_row_ohm='inf'"),
        ("r_col_ohm", True, "expected a number; got wires.r_col_ohm=True"),
        ("r_col_ohm", None, "got wires.r_col_ohm=None"),
        ("r_sink_ohm", "2 ohm", "got wires.r_sink_ohm='2 ohm'"),
        (
            "model",
            "aihwkit",
            "expected 'none', 'column-approximation', 'exact' or 'nonlinear'; got wires.model='aihwkit'",
        ),
        (
            "topology",
            "left",
            "expected 'opposite', 'same', 'both-ends' or 'driven-both-ends'; got wires.topology='left'",
        ),
        ("legs", "apart", "expected 'separate' or 'interleaved'; got wires.legs='apart'"),
        (
            "compensation",
            "rows",
            "expected 'none', 'columns' or 'rows-and-columns'; got wires.compensation='rows'",
        ),
        ("reuse_steps", 0, "expected at least 1; got wires.reuse_steps=0"),
        ("reuse_steps", 1.5, "expected a valid integer"),
        ("reuse_steps", 1_000_001, "expected at most 1e+06; got wires.reuse_steps=1000001"),
    ],
)
def test_wrong_values_are_named(field: str, value: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        CHIP.with_(f"wires.{field}", value)


def test_a_file_names_the_line_of_each_mistake(tmp_path: Path) -> None:
    text = '[device]\nkind = "ideal"\n[wires]\nr_row_ohm = -1\nr_row = 2\ntopology = "left"\n'
    with pytest.raises(UsageError) as caught:
        parsed(tmp_path, text)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert lines == [
        "line 4: expected at least 0; got wires.r_row_ohm=-1",
        "line 5: unknown field 'wires.r_row': did you mean 'wires.r_row_ohm'?",
        "line 6: expected 'opposite', 'same', 'both-ends' or 'driven-both-ends'; got wires.topology='left'",
    ]
    with pytest.raises(UsageError, match=r"line 1: expected a table of fields; got wires=2"):
        parsed(tmp_path, 'wires = 2\n[device]\nkind = "ideal"\n')


def test_the_digest_follows_every_field() -> None:
    changes: list[tuple[str, object]] = [(name, 1.0) for name in OHMS] + [(name, 2.0) for name in OHMS]
    changes += [("model", "none"), ("model", "column-approximation"), ("topology", "same")]
    changes += [("topology", "both-ends"), ("topology", "driven-both-ends"), ("legs", "interleaved")]
    changes += [("compensation", "columns"), ("compensation", "rows-and-columns"), ("reuse_steps", 1)]
    changes += [("model", "nonlinear"), ("law", "sinh"), ("law", "sinh(v0_volt=0.2)"), ("v_read_volt", 0.5)]
    digests = {CHIP.with_(f"wires.{field}", value).digest() for field, value in changes}
    assert len(digests | {CHIP.digest()}) == len(changes) + 1
    assert {field for field, _ in changes} == set(Wires.model_fields)
    assert CHIP.with_("wires.r_row_ohm", 2).with_("wires.r_row_ohm", 0).digest() == CHIP.digest()


def test_the_topologies_of_the_table_are_those_of_the_solver() -> None:
    assert get_args(Wires.model_fields["topology"].annotation) == tuple(TOPOLOGIES)


def test_constructors_speak_the_same_sentences() -> None:
    with pytest.raises(UsageError, match=r"^Wires: expected at least 0; got r_row_ohm=-1; unknown field"):
        Wires(r_row_ohm=-1, r_column_ohm=2)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="frozen"):
        Wires().r_row_ohm = 3  # type: ignore[misc]
