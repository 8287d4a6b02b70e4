"""Hardware descriptions: presets, files, changes, and every way to get them wrong."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurosim.devices import (
    DEVICES,
    Adc,
    Array,
    Dac,
    Gaussian,
    Hardware,
    Ideal,
    Pcm,
    Source,
    hardware,
    hardware_names,
    toml_file,
)
from neurosim.errors import UsageError


@pytest.fixture
def write(tmp_path: Path) -> object:
    def writer(text: str | bytes, name: str = "chip.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return writer


# ---- presets ----


def test_presets_are_those_announced() -> None:
    announced = {
        "gaussian-mismatch", "ideal", "pcm-aihwkit-default", "pcm-joshi-2020",
        "generic", "sonos-agrawal-2022", "flash-guo-2016", "fefet-yin-2024", "fefet-1r-yin-2024",
        "ecram-tang-2018", "ecram-kim-2019", "stt-mram-typical",
        "pcm-hermes-2023", "pcm-hermes-2023-one-device", "rram-wan-2022", "rram-wan-2022-crosssim",
        "rram-cmo-2025", "rram-cmo-2025-fast", "rram-milo-2021",
        "rram-taox-he-2026", "rram-taox-hong-2025", "stt-mram-li-2025",
        "dynapse-se2", "dynapse-se2-rockpool", "spikey-bruderle-2009", "subthreshold-gf180",
    }  # fmt: skip
    assert set(hardware_names()) == announced


@pytest.mark.parametrize("name", hardware_names())
def test_every_preset_says_what_it_is_and_comes_back_from_toml(name: str, write) -> None:  # type: ignore[no-untyped-def]
    chip = hardware(name)
    assert chip.name == name
    assert chip.description
    assert chip.source.citation
    assert chip.source.covers
    if chip.device.kind not in ("ideal", "generic"):
        assert chip.source.doi
        assert chip.source.fit_range
    assert hardware(write(chip.to_toml())) == chip
    assert hardware(write(chip.to_toml())).digest() == chip.digest()


def test_presets_hold_what_their_sources_say() -> None:
    paper = hardware("gaussian-mismatch")
    assert (paper.device, paper.array.bias, paper.dac.bits, paper.adc.bits) == (
        Gaussian(relative_std=0.3),
        "device",
        None,
        None,
    )
    joshi = hardware("pcm-joshi-2020")
    assert (joshi.device, joshi.array.rows, joshi.array.cols) == (Pcm(), 256, 256)
    assert (joshi.dac.bits, joshi.adc.bits, joshi.compensation, joshi.array.bias) == (
        8,
        8,
        "global",
        "digital",
    )
    kit = hardware("pcm-aihwkit-default")
    assert (kit.device, kit.array.rows, kit.array.cols, kit.array.output_noise_std) == (Pcm(), 512, 512, 0.04)
    ideal = hardware("ideal")
    assert (ideal.device, ideal.dac.bits, ideal.adc.bits) == (Ideal(), None, None)


def test_unknown_preset_gets_a_suggestion() -> None:
    with pytest.raises(
        UsageError, match=r"unknown hardware 'pcm-joshi-2002': did you mean 'pcm-joshi-2020'\?"
    ):
        hardware("pcm-joshi-2002")
    with pytest.raises(UsageError, match=r"unknown hardware '': \(known: .*gaussian-mismatch, .*ideal, "):
        hardware("")
    with pytest.raises(UsageError, match=r"unknown hardware"):
        hardware("nul\0byte")


def test_listing_presets_does_not_import_torch() -> None:
    code = (
        "import sys; from neurosim.devices import hardware, hardware_names\n"
        "[hardware(n).device.effects() for n in hardware_names()]\n"
        "assert not {'torch', 'numba', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ---- changes ----


def test_with_returns_a_new_checked_description() -> None:
    chip = hardware("pcm-joshi-2020")
    small = chip.with_("array.rows", 128)
    assert (small.array.rows, chip.array.rows) == (128, 256)
    assert small.with_("array.rows", 256) == chip


@pytest.mark.parametrize(
    "field,text,value",
    [
        ("array.rows", "128", 128),
        ("array.output_noise_std", "0.04", 0.04),
        ("dac.bits", "6", 6),
        ("dac.bits", "ideal", None),
        ("adc.bits", "none", None),
        ("array.scaling", "per-column", "per-column"),
        ("device.g_max_siemens", "30e-6", 30e-6),
        ("device.programming_siemens", "[1e-7, 0, 0]", (1e-7, 0.0, 0.0)),
        ("compensation", "none", "none"),
        ("source.year", "2021", 2021),
    ],
)
def test_text_from_a_command_line_is_read(field: str, text: str, value: object) -> None:
    found: object = hardware("pcm-joshi-2020").with_(field, text)
    for name in field.split("."):
        found = getattr(found, name)
    assert found == value


def test_changing_the_kind_of_device_starts_from_its_defaults() -> None:
    chip = hardware("pcm-joshi-2020")
    assert chip.with_("device.kind", "gaussian").device == Gaussian()
    assert chip.with_("device.kind", "pcm") == chip
    assert chip.with_("device", {"relative_std": 0.1, "kind": "gaussian"}).device == Gaussian(
        relative_std=0.1
    )
    assert chip.with_("device", Gaussian(relative_std=0.2)).device == Gaussian(relative_std=0.2)
    with pytest.raises(UsageError, match=r"unknown device\.kind 'pmc': did you mean 'pcm'\?"):
        chip.with_("device.kind", "pmc")


def test_changes_may_come_as_keywords() -> None:
    expected = hardware("ideal").with_("array.rows", 64).with_("dac.bits", 4)
    assert hardware("ideal", array__rows=64, dac__bits=4) == expected
    assert hardware("ideal", array={"rows": 64}, dac=Dac(bits=4)) == expected
    assert hardware("ideal", **{"array.rows": 64, "dac.bits": 4}) == expected
    assert hardware(hardware("ideal"), array__rows=64, dac__bits=4) == expected


def test_changes_that_only_hold_together_are_checked_together() -> None:
    chip = hardware("ideal", device__g_min_siemens=30e-6, device__g_max_siemens=40e-6)
    assert chip.device.g_min_siemens == 30e-6
    with pytest.raises(
        UsageError, match=r"expected g_min_siemens < 0\.999 \* g_max_siemens; got g_min_siemens=3e-05"
    ):
        hardware("ideal", device__g_min_siemens=30e-6)


@pytest.mark.parametrize(
    "field,hint",
    [
        ("array.row", "did you mean 'array.rows'?"),
        ("arry.rows", "did you mean 'array.rows'?"),
        ("device.relative_std", "unknown field 'device.relative_std'"),
        ("compensaton", "did you mean 'compensation'?"),
        ("array.rows.deep", "did you mean 'array.rows'?"),
        ("name.x", "unknown field 'name.x'"),
        ("", "unknown field ''"),
        ("..", "unknown field '..'"),
        ("__class__", "unknown field '__class__'"),
    ],
)
def test_unknown_fields_get_a_suggestion(field: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(hint)):
        hardware("pcm-joshi-2020").with_(field, 1)


@pytest.mark.parametrize(
    "field,value,sentence",
    [
        ("array.rows", 0, "expected at least 1; got array.rows=0"),
        (
            "array.rows",
            1.5,
            "expected a valid integer, got a number with a fractional part; got array.rows=1.5",
        ),
        ("array.rows", "many", "got array.rows='many'"),
        ("array.rows", True, "expected a number; got array.rows=True"),
        ("array.cols", None, "got array.cols=None"),
        ("array", 3, "expected a table of fields; got array=3"),
        ("array.scaling", "per-row", "expected 'per-layer' or 'per-column'; got array.scaling='per-row'"),
        ("array.output_noise_std", float("nan"), "expected a finite number; got array.output_noise_std=nan"),
        ("array.output_noise_std", "inf", "expected a finite number; got array.output_noise_std='inf'"),
        ("dac.bits", 1, "expected at least 2; got dac.bits=1"),
        ("adc.bits", 17, "expected at most 16; got adc.bits=17"),
        ("adc.percentile", 0, "expected more than 0; got adc.percentile=0"),
        ("device.g_max_siemens", -1, "expected at least 1e-15; got device.g_max_siemens=-1"),
        ("device.programming_siemens", [1e-6], "field 'device.programming_siemens.1' is missing"),
        ("device.programming_siemens", "[1e-6", "got device.programming_siemens='[1e-6'"),
        ("source.doi", "not a doi", "got source.doi='not a doi'"),
        ("compensation", "local", "'per-column' or 'gain-and-offset'; got compensation='local'"),
        ("name", "", "got name=''"),
    ],
)
def test_wrong_values_are_named(field: str, value: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        hardware("pcm-joshi-2020").with_(field, value)


def test_constructors_speak_the_same_sentences() -> None:
    with pytest.raises(UsageError, match=r"^Array: expected at least 1; got rows=-3; unknown field"):
        Array(rows=-3, colls=2)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"^Adc: .*got bits=99"):
        Adc(bits=99)
    with pytest.raises(UsageError, match=r"^Hardware: field 'device' is missing"):
        Hardware(name="x")  # type: ignore[call-arg]
    with pytest.raises(
        UsageError, match=r"field 'device.kind' is missing: expected one of .*gaussian, .*ideal, .*pcm"
    ):
        Hardware(device={})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frozen"):
        Array().rows = 3  # type: ignore[misc]


def test_descriptions_are_values() -> None:
    chip = hardware("pcm-joshi-2020")
    sent = pickle.loads(pickle.dumps(chip))  # noqa: S301  (our own bytes, as a worker process gets them)
    for twin in (copy.deepcopy(chip), sent, Hardware(**chip.model_dump())):
        assert twin == chip
        assert hash(twin) == hash(chip)
        assert twin.digest() == chip.digest()


# ---- digest ----


def test_digest_follows_what_acts_and_nothing_else() -> None:
    chip = hardware("pcm-joshi-2020")
    assert re.fullmatch(r"[0-9a-f]{64}", chip.digest())
    assert chip.with_("name", "mine").with_("source.year", 1999).digest() == chip.digest()
    changed = [chip.with_(*change).digest() for change in _CHANGES]
    assert len({chip.digest(), *changed}) == len(_CHANGES) + 1


_CHANGES: list[tuple[str, object]] = [
    ("device.g_max_siemens", 26e-6),
    ("device.kind", "ideal"),
    ("device.read_scale", 0.5),
    ("array.rows", 255),
    ("array.scaling", "per-column"),
    ("array.output_noise_std", 0.01),
    ("dac.bits", 7),
    ("adc.bits", None),
    ("adc.range", "percentile"),
    ("compensation", "none"),
]


# ---- files ----

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
chips = st.builds(
    Hardware,
    name=texts.filter(bool),
    description=texts,
    compensation=st.sampled_from(["none", "global"]),
    device=st.sampled_from([cls() for cls in DEVICES.values()])
    | st.builds(Gaussian, relative_std=st.floats(0, 10), g_max_siemens=st.floats(1e-15, 1)),
    array=st.builds(
        Array,
        rows=st.integers(1, 1_000_000),
        scaling=st.sampled_from(["per-layer", "per-column"]),
        output_noise_std=st.floats(0, 1000),
    ),
    dac=st.builds(Dac, bits=st.none() | st.integers(2, 16)),
    adc=st.builds(Adc, bits=st.none() | st.integers(2, 16), percentile=st.floats(1e-9, 100)),
    source=st.builds(Source, citation=texts, year=st.none() | st.integers(1900, 2200)),
)


@given(chips)
def test_any_description_comes_back_from_its_toml(
    tmp_path_factory: pytest.TempPathFactory, chip: Hardware
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(chip.to_toml().encode())
    assert hardware(path) == chip
    assert hardware(path).digest() == chip.digest()


def test_all_errors_of_a_file_come_at_once_with_their_lines(write) -> None:  # type: ignore[no-untyped-def]
    path = write(
        """# a chip with many mistakes
name = "bad"
compensaton = "global"

[device]
kind = "pcm"
g_max_siemens = -1.0
note = '''
rows = 7   # inside a string, not a key
'''

[array]
rows = 0
row = 3
scaling = "per-row"
output_noise_std = nan

[dac]
bits = [
  8,
]
""",
    )
    with pytest.raises(UsageError) as caught:
        hardware(path)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"hardware file {str(path)!r} has 8 errors:"
    assert [line.strip() for line in lines[1:]] == [
        "line 3: unknown field 'compensaton': did you mean 'compensation'?",
        "line 7: expected at least 1e-15; got device.g_max_siemens=-1.0",
        "line 8: unknown field 'device.note': " + lines[3].split(": ", 2)[2],
        "line 13: expected at least 1; got array.rows=0",
        "line 14: unknown field 'array.row': did you mean 'array.rows'?",
        "line 15: expected 'per-layer' or 'per-column'; got array.scaling='per-row'",
        "line 16: expected a finite number; got array.output_noise_std=nan",
        "line 19: expected a valid integer; got dac.bits=[8]",
    ]


@pytest.mark.parametrize(
    "text,sentence",
    [
        ("", "field 'device' is missing"),
        ("[device]\n", "line 1: field 'device.kind' is missing: expected one of aihwkit, "),
        ('x = 1\n[device]\nkind = "pmc"', "line 3: unknown device.kind 'pmc': did you mean 'pcm'?"),
        ("device = 3", "line 1: expected a table of fields; got device=3"),
        ('[device]\nkind = "ideal"\n[array]\nrows = true', "line 4: expected a number; got array.rows=True"),
        ('device.kind = "ideal"\narray.rows = 0', "line 2: expected at least 1"),
        ('device = {kind = "ideal", g_min = 1}', "line 1: unknown field 'device.g_min'"),
        (
            '[device]\nkind = "ideal"\ng_min_siemens = 1e-3',
            "line 1: expected g_min_siemens < 0.999 * g_max_siemens",
        ),
        ('[device]\nkind = "ideal"\n\n[[array]]\nrows = 3', "line 4: expected a table of fields; got array="),
        (
            '"device" = {"kind" = "ideal"}\n["array"]\n"rows" = 0',
            "line 3: expected at least 1",
        ),
        ('[device]\nkind = "ideal"\n[a.b.c]\nd = 1', "line 3: unknown field 'a'"),
    ],
)
def test_errors_name_their_line(write, text: str, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=re.escape(sentence)):
        hardware(write(text))


@pytest.mark.parametrize(
    "text,sentence",
    [
        ("name = ", r"is not valid TOML: .*line 1"),
        ("name = 'a'\nname = 'b'\n", r"is not valid TOML: .*line 2"),
        ("a = " + "[" * 5000, r"is not valid TOML: nested too deeply"),
        ("a = " + "9" * 5000, r"is not valid TOML: .*digits"),
        (b"name = '\xff'", r"is not UTF-8 text \(byte 8\)"),
        (b"#" * 300_000, r"is too large: expected at most 256000 bytes"),
        (b"\x00" * 10, r"is not valid TOML: .*line 1"),
    ],
)
def test_files_that_are_not_toml_get_one_sentence(write, text: str | bytes, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=sentence) as caught:
        hardware(write(text))
    assert "\n" not in str(caught.value)


def test_unreadable_paths_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read hardware file '.*gone\.toml': no such file"):
        hardware(tmp_path / "gone.toml")
    with pytest.raises(UsageError, match=r"cannot read hardware file .*: it is not a regular file"):
        hardware(tmp_path)
    with pytest.raises(UsageError, match=r"cannot read hardware file .*: no such file"):
        hardware("nowhere/chip")
    with pytest.raises(UsageError, match=r"cannot read hardware file"):
        hardware("nul\0byte.toml")
    with pytest.raises(UsageError, match=r"cannot read hardware file .*: File name too long"):
        hardware("x" * 5000 + ".toml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_gets_one_sentence(write) -> None:  # type: ignore[no-untyped-def]
    path = write("")
    path.chmod(0)
    with pytest.raises(UsageError, match=r"cannot read hardware file .*: Permission denied"):
        hardware(path)


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(UsageError, match=r"it is not a regular file"):
        hardware(tmp_path / "pipe.toml")


def test_windows_line_ends_and_byte_order_mark_are_read(write) -> None:  # type: ignore[no-untyped-def]
    path = write(b"\xef\xbb\xbfname = 'x'\r\n[device]\r\nkind = 'ideal'\r\n")
    assert hardware(path).name == "x"


def test_a_file_without_ending_is_read_but_never_hides_a_preset(
    write, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    path = write('name = "mine"\n[device]\nkind = "ideal"\n', "chip")
    write("nonsense", "ideal")
    monkeypatch.chdir(path.parent)
    assert hardware("chip").name == "mine"
    assert hardware("./chip").name == "mine"
    assert hardware("ideal").name == "ideal"


def test_locating_lines_stays_quick_on_a_hostile_file() -> None:
    text = "a = '''\n" + "x\n" * 100_000 + "'''\nb = 1\n"
    assert toml_file.line_of(text, ("b",)) is None


def test_lines_of_every_statement() -> None:
    text = '# c\n\nx = 1\n[a]\ny = [\n 1,\n] # [z]\nb.c = """\n[q]\n"""\n[a.d]\n[[e]]\nf = {g = 1, h = 2}\n'
    assert list(toml_file.statements(text)) == [
        (3, ("x",)),
        (4, ("a",)),
        (5, ("a", "y")),
        (8, ("a", "b", "c")),
        (11, ("a", "d")),
        (12, ("e",)),
        (13, ("e", "f")),
    ]


def test_a_table_is_where_its_own_header_is() -> None:
    text = "[a.b]\nx = 1\n[a]\ny = 2\n"
    assert toml_file.line_of(text, ("a",)) == 3
    assert toml_file.line_of(text, ("a", "z")) == 3
    assert toml_file.line_of(text, ("a", "b", "x")) == 2
