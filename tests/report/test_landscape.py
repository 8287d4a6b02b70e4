"""Figures of the landscape: same numbers, same bytes; flat, steep and many are drawn; names are safe."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from neurosim.errors import UsageError
from neurosim.landscape.plane import Plane
from neurosim.landscape.slopes import Lines
from neurosim.report.landscape import loss_lines, loss_planes

AT = np.linspace(-1, 1, 9)
SQUARES = AT**2 + AT[:, None] ** 2


def lines(size: float, repeats: int = 3) -> Lines:
    losses = np.array([0.3 + size * (k + 1) * AT**2 for k in range(repeats)])
    return Lines(AT, losses, np.ones_like(losses))


def plane(size: float) -> Plane:
    return Plane(AT, 0.3 + size * SQUARES, np.ones_like(SQUARES))


@pytest.mark.parametrize("count", [1, 4])
def test_same_numbers_same_bytes(tmp_path, count: int):
    names = ["$x_{<b>", *map(str, range(1, count))]
    for draw, values in (
        (loss_lines, {name: lines(0.5 * k) for k, name in enumerate(names)}),
        (loss_planes, {name: plane(2.0 * k) for k, name in enumerate(names)}),
    ):
        first, second = (draw(values, path=tmp_path / f"{n}.svg").read_bytes() for n in "ab")
        assert first == second
        assert ET.fromstring(first).tag.endswith("svg")


def test_curves_are_those_given(tmp_path, drawn: list):
    loss_lines({"steep": lines(2.0), "one": lines(1.0, repeats=1)}, path=tmp_path / "x.svg")
    (axes,) = drawn[0].axes
    steep = lines(2.0).losses
    curves = [line for line in axes.lines if len(line.get_xdata()) == 9]
    for line, losses in zip(curves, [*steep, steep.mean(0), lines(1.0).losses[0]], strict=False):
        np.testing.assert_array_equal(line.get_ydata(), losses)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["steep, mean |slope| 4 ± 2", "one, mean |slope| 1"]
    assert axes.get_ylim()[0] == 0.0


def test_panels_share_one_scale_and_nothing_lies_beyond_it(tmp_path, drawn: list):
    loss_planes({"steep": plane(5.0), "flat": plane(0.1)}, path=tmp_path / "x.svg")
    *panels, bar = drawn[0].axes
    assert [panel.get_title() for panel in panels] == ["steep", "flat"]
    levels = [panel.collections[0].levels for panel in panels]
    np.testing.assert_array_equal(*levels)
    assert levels[0][0] == pytest.approx(0.3) and levels[0][-1] == pytest.approx(10.3)
    assert [float(text.get_text()) for text in bar.get_yticklabels()] == pytest.approx(
        levels[0][::2].tolist(), rel=0.05
    )


@pytest.mark.parametrize("losses", [np.full((9, 9), 0.5), np.zeros((9, 9)), 1e6 * SQUARES])
def test_plains_and_walls_are_drawn(tmp_path, losses):
    path = loss_planes({"x": Plane(AT, losses, np.ones_like(losses))}, path=tmp_path / "x.png")
    assert path.stat().st_size > 1000


def test_wrong_use_is_refused(tmp_path):
    for draw, value in ((loss_lines, lines(1.0)), (loss_planes, plane(1.0))):
        with pytest.raises(UsageError, match="1 to 6 networks; got 0"):
            draw({}, path=tmp_path / "x.svg")
        with pytest.raises(UsageError, match="1 to 6 networks; got 7"):
            draw({str(k): value for k in range(7)}, path=tmp_path / "x.svg")
        with pytest.raises(UsageError, match=r"ends in \.svg or \.png"):
            draw({"x": value}, path=tmp_path / "x.pdf")
