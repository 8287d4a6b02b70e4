"""The figure: same tables, same bytes; nothing cut off or on top of another; any name is safe."""

from __future__ import annotations

import itertools
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosim.errors import RunError, UsageError
from neurosim.evaluation import Table
from neurosim.report import accuracy_over_time, figure

AGES = (25.0, 3600.0, 86_400.0, 31_536_000.0, 315_360_000.0)


def make(middle: float, spread: float, ages=AGES, chips: int = 30) -> Table:
    draw = np.random.default_rng(0)
    rows = [
        (chip, age, round(min(1.0, middle - 0.3 * spread * number + spread * draw.normal()), 3))
        for number, age in enumerate(ages)
        for chip in range(chips)
    ]
    return Table.from_rows(rows, ["chip", "time_s", "accuracy"])


def texts(drawn) -> list:
    axes = drawn.axes[0]
    labels = [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label]
    low, high = axes.get_ylim()
    shown = [
        text
        for text in [*drawn.texts, *axes.texts, *labels]
        if text.get_text().strip()
        and not (text in axes.get_yticklabels() and not low <= text.get_position()[1] <= high)
    ]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


NAMES = {
    "two": ["ordinary", "robust"],
    "one": ["network"],
    "many": ["standard", "noise", "an adversarially trained one", "dropout", "awp", "sam"],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("ages", [AGES, AGES[:2], AGES[1:2]], ids=["five ages", "two ages", "one age"])
def test_no_text_is_cut_off_or_on_top_of_another(
    tmp_path: Path, drawn: list, names: list, ages: tuple
) -> None:
    tables = {name: make(0.9 - 0.01 * number, 0.01, ages) for number, name in enumerate(names)}
    digital = dict.fromkeys(names, 0.93)
    accuracy_over_time(
        tables, digital=digital, path=tmp_path / "chips.png", title="What one sees on a slide " * 3
    )
    boxes = texts(drawn[0])
    page = drawn[0].bbox
    for text, box in boxes:
        assert page.x0 <= box.x0 and box.x1 <= page.x1, text
        assert page.y0 <= box.y0 and box.y1 <= page.y1, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{one!r} lies on {other!r}"


def test_everything_is_in_view(tmp_path: Path, drawn: list) -> None:
    tables = {"a": make(0.9, 0.001), "b": make(0.4, 0.1)}
    accuracy_over_time(tables, digital={"a": 1.0}, path=tmp_path / "chips.svg")
    low, high = drawn[0].axes[0].get_ylim()
    assert low < 100 * min(table["accuracy"].min() for table in tables.values())
    assert 100 < high <= 101


def test_dots_do_not_reach_another_networks_place(tmp_path: Path, drawn: list) -> None:
    tables = {name: make(0.9, 0.01) for name in "abcdef"}
    accuracy_over_time(tables, path=tmp_path / "chips.svg")
    spans = [
        (dots.get_offsets()[:, 0].min(), dots.get_offsets()[:, 0].max())
        for dots in drawn[0].axes[0].collections
    ]
    for (_, end), (start, _) in itertools.pairwise(sorted(spans)):
        assert end < start


def test_labels_say_times_and_numbers(tmp_path: Path, drawn: list) -> None:
    accuracy_over_time({"robust": make(0.9, 0.01)}, digital={"robust": 0.918}, path=tmp_path / "chips.svg")
    shown = [text for text, _ in texts(drawn[0])]
    assert [text for text in shown if text in ("25 s", "1 h", "1 d", "1 y", "10 y")] == [
        "25 s",
        "1 h",
        "1 d",
        "1 y",
        "10 y",
    ]
    assert "91.8 % off chip" in shown
    assert "robust" in shown
    assert any("30 sampled chips" in text for text in shown)


def test_the_same_tables_give_the_same_bytes(tmp_path: Path) -> None:
    tables = {"ordinary": make(0.8, 0.05), "robust": make(0.9, 0.01)}
    shuffled = {name: Table.from_rows(list(reversed(table.rows()))) for name, table in tables.items()}
    for number, these in enumerate((tables, tables, shuffled)):
        accuracy_over_time(these, digital={"robust": 0.9}, path=tmp_path / f"{number}.svg")
    first = (tmp_path / "0.svg").read_bytes()
    assert first == (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()
    assert b"<dc:date>" not in first
    assert len(first) < 400_000


def test_another_process_with_other_settings_gives_the_same_bytes(tmp_path: Path) -> None:
    program = """
import sys, matplotlib
matplotlib.rcParams.update({"font.size": 30, "svg.fonttype": "none", "axes.facecolor": "black"})
from neurosim.evaluation import Table
from neurosim.report import accuracy_over_time
table = Table({"chip": [0, 1], "time_s": [1.0] * 2, "accuracy": [0.5, 0.6]})
accuracy_over_time({"a": table}, path=sys.argv[1])
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.svg")], check=True)
    table = Table({"chip": [0, 1], "time_s": [1.0] * 2, "accuracy": [0.5, 0.6]})
    accuracy_over_time({"a": table}, path=tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


HOSTILE = [
    "<script>alert(1)</script>",
    "--><script/>",
    "a & b",
    "$\\frac{1}{",
    "\x00\x1b[31m",
    "\ud800",
    "𝒜 ☃",
    "",
    "\n\n",
    "]]>",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_and_title_is_safe(tmp_path: Path, name: str) -> None:
    table = make(0.9, 0.01, AGES[:2], 3)
    accuracy_over_time({name: table}, digital={name: 0.9}, title=name, path=tmp_path / "chips.svg")
    root = ET.parse(tmp_path / "chips.svg").getroot()
    assert not [element for element in root.iter() if "script" in str(element.tag)]


@pytest.mark.parametrize("chips", [1, 2, 3, 500])
def test_few_and_many_chips_equal_or_not(tmp_path: Path, chips: int) -> None:
    for spread in (0.0, 0.02):
        for ages in (AGES[:1], AGES):
            accuracy_over_time({"a": make(0.9, spread, ages, chips)}, path=tmp_path / "chips.svg")


def test_networks_of_different_ages(tmp_path: Path, drawn: list) -> None:
    tables = {"a": make(0.9, 0.01, (25.0, 3600.0)), "b": make(0.8, 0.01, (0.0, 3600.0))}
    accuracy_over_time(tables, path=tmp_path / "chips.svg")
    assert [tick.get_text() for tick in drawn[0].axes[0].get_xticklabels()] == ["0 s", "25 s", "1 h"]


@pytest.mark.parametrize(
    ("tables", "more", "sentence"),
    [
        ({}, {}, "shows 1 to 6 networks; got 0"),
        ({str(n): make(0.9, 0.01) for n in range(7)}, {}, "shows 1 to 6 networks; got 7"),
        ({"a": Table({"chip": [], "time_s": [], "accuracy": []})}, {}, "table of 'a' has no rows"),
        ({"a": Table({"chip": [1], "time_s": [1.0], "accuracy": [90.0]})}, {}, r"outside \[0, 1\]"),
        ({"a": Table({"chip": [1], "time_s": [-1.0], "accuracy": [0.9]})}, {}, "not finite and at least 0 s"),
        ({"a": Table({"chip": [1], "time_s": [1.0]})}, {}, "unknown column 'accuracy'"),
        ({"a": make(0.9, 0.01)}, {"digital": {"b": 0.9}}, "given for 'b', which is none of a"),
        ({"a": make(0.9, 0.01)}, {"digital": {"a": 90}}, r"of 'a' must be in \[0, 1\]; got 90"),
        ({"a": make(0.9, 0.01)}, {"path": "chips.gif"}, r"ends in \.svg or \.png"),
    ],
)
def test_refusals(tmp_path: Path, tables: dict, more: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        accuracy_over_time(tables, **{"path": tmp_path / "chips.svg", **more})
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RunError, match=r"install it with pip install 'neurosim\[report\]'"):
        accuracy_over_time({"a": make(0.9, 0.01)}, path=tmp_path / "chips.svg")


def test_importing_the_room_loads_neither_matplotlib_nor_torch() -> None:
    program = "import sys, neurosim.report; sys.exit(bool({'matplotlib', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], check=True)


block = st.tuples(st.floats(0, 300), st.floats(5, 50))


@settings(max_examples=200)
@given(st.lists(block, min_size=1, max_size=6))
def test_labels_moved_apart_do_not_overlap_and_stay_in_order(blocks: list[tuple[float, float]]) -> None:
    wanted, heights = [want for want, _ in blocks], [height for _, height in blocks]
    middles = figure._apart(wanted, heights, 0.0, 300.0)
    edges = sorted(
        (middle - height / 2, middle + height / 2) for middle, height in zip(middles, heights, strict=True)
    )
    assert all(end <= start + 1e-6 for (_, end), (start, _) in itertools.pairwise(edges))
    assert edges[0][0] >= -1e-6
    assert edges[-1][1] <= max(300.0, sum(heights)) + 1e-6
    assert all(
        middles[i] <= middles[j]
        for i in range(len(blocks))
        for j in range(len(blocks))
        if wanted[i] < wanted[j]
    )
