"""Times as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurosim.errors import UsageError
from neurosim.evaluation import format_duration, format_durations, parse_duration, parse_times


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("25s", 25.0),
        ("25.0s", 25.0),
        ("1 min", 60.0),
        ("1h", 3600.0),
        ("1d", 86_400.0),
        ("1y", 31_536_000.0),
        ("10y", 315_360_000.0),
        (" 1.5 h ", 5400.0),
        (".5h", 1800.0),
        ("2e3s", 2000.0),
        ("0s", 0.0),
    ],
)
def test_parse(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["1x", "", "h", "1", "-1s", "1 h 2", "nan s", "inf s", "1H", "1m", "1,5h", "٣s", "1__0s", "e3s", "1es"],
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time: expected a number and a unit s, min, h, d, y"):
        parse_duration(text)


def test_the_sentence_is_the_promised_one() -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration("1x")
    sentence = "'1x' is not a time: expected a number and a unit s, min, h, d, y, for example 1h"
    assert str(caught.value) == sentence


def test_parse_refuses_a_number_beyond_floats() -> None:
    with pytest.raises(UsageError, match="too large"):
        parse_duration("1e400y")


def test_parse_times() -> None:
    assert parse_times("25s, 1h,1d ,1y") == [25.0, 3600.0, 86_400.0, 31_536_000.0]


def test_parse_times_refuses() -> None:
    with pytest.raises(UsageError, match="no times given"):
        parse_times(" ")
    with pytest.raises(UsageError, match="'60min' is given twice \\(first as '1h'\\)"):
        parse_times("1h,60min")
    with pytest.raises(UsageError, match="'' is not a time"):
        parse_times("1h,")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (25.0, "25 s"),
        (0.001, "0.001 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (3599.9, "1 h"),
        (86_400, "1 d"),
        (31_536_000, "1 y"),
        (31_557_600, "1 y"),
        (315_360_000, "10 y"),
        (1000 * 31_536_000, "1000 y"),
        (7 * 86_400, "7 d"),
    ],
)
def test_format(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_format_refuses(seconds: float) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        format_duration(seconds)


@given(st.floats(0, 1e15, allow_subnormal=False))
def test_format_then_parse_gives_the_time_back(seconds: float) -> None:
    assert math.isclose(parse_duration(format_duration(seconds, 17)), seconds, rel_tol=1e-15, abs_tol=1e-300)


@given(st.lists(st.floats(0, 1e15), unique=True, max_size=6))
def test_labels_of_different_times_differ(times: list[float]) -> None:
    assert len(set(format_durations(times))) == len(times)
