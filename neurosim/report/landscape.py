"""Figures of the loss around the weights: along random lines, and on a plane."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neurosim.errors import UsageError
from neurosim.landscape.plane import Plane
from neurosim.landscape.slopes import Lines
from neurosim.report.figure import COLOURS, GREY, INK, PALE, _picture, _save, _short

_TOP, _BOTTOM = 0.77, 0.13  # of the figure: the title is above
_LEVELS = 14


def loss_lines(
    lines: Mapping[str, Lines],
    *,
    path: str | Path,
    title: str = "Loss along random lines through the weights",
) -> Path:
    """The loss along lines through the weights of one to six networks: each line thin, their mean thick.

    Args:
        lines: by name of the network, of :func:`neurosim.landscape.slopes.loss_along_lines`.
        path: a name that ends in .svg or .png.
        title: what the figure shows.

    Raises:
        UsageError: no network, more than six, or a name of another kind.
        RunError: matplotlib is missing, or the file cannot be written.

    >>> import tempfile
    >>> curve = Lines(np.array([-1.0, 0.0, 1.0]), np.array([[1.0, 0.5, 1.0]]), np.array([[0.8, 0.9, 0.8]]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     loss_lines({"robust": curve}, path=Path(folder, "flatness.svg")).name
    'flatness.svg'
    """
    _check(len(lines))
    target, kind = _picture(path)

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.08, _BOTTOM, 0.9, _TOP - _BOTTOM))
        for colour, (name, found) in zip(COLOURS, lines.items(), strict=False):
            axes.plot(found.alphas, found.losses.T, color=colour, linewidth=0.9, alpha=0.35)
            spread = "" if math.isnan(found.slope_std) else f" ± {found.slope_std:.2g}"
            label = f"{_short(name)}, mean |slope| {found.slope:.3g}{spread}"
            axes.plot(found.alphas, found.losses.mean(axis=0), color=colour, linewidth=2.6, label=label)
        axes.axvline(0.0, color=GREY, linewidth=0.6)
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel("α, steps along the line", color=GREY, size=13)
        axes.set_ylabel("cross-entropy", color=GREY, size=13)
        axes.grid(axis="y", color=PALE)
        axes.tick_params(length=0, labelsize=12, labelcolor=INK)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False, fontsize=12, loc="upper center")

    return _save(target, kind, draw, title, "Thin: one line of weights  ·  thick: the mean of the lines")


def loss_planes(
    planes: Mapping[str, Plane],
    *,
    path: str | Path,
    title: str = "Loss on a plane through the weights",
    axes_names: tuple[str, str] = ("first direction", "second direction"),
) -> Path:
    """Contours of the loss on planes through the weights of one to six networks, on one scale of colours.

    Levels are in equal proportions, the same in every panel; a cross marks the weights themselves.

    Args:
        planes: by name of the network, of :func:`neurosim.landscape.plane.loss_over_plane`.
        path: a name that ends in .svg or .png.
        title: what the figure shows.
        axes_names: what the two axes are.

    Raises:
        UsageError: no network, more than six, or a name of another kind.
        RunError: matplotlib is missing, or the file cannot be written.

    >>> import tempfile
    >>> losses = np.array([[2.0, 1, 2], [1, 0, 1], [2, 1, 2]])
    >>> bowl = Plane(np.array([-1.0, 0.0, 1.0]), losses, np.ones((3, 3)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     loss_planes({"robust": bowl}, path=Path(folder, "landscape.svg")).name
    'landscape.svg'
    """
    _check(len(planes))
    target, kind = _picture(path)
    levels = _levels(np.concatenate([plane.losses.ravel() for plane in planes.values()]))

    def draw(figure: Any) -> None:
        from matplotlib.colors import LogNorm

        norm = LogNorm(levels[0], levels[-1])
        columns = min(len(planes), 3)
        rows = -(-len(planes) // columns)
        grid = figure.add_gridspec(
            rows, columns, left=0.08, right=0.87, top=_TOP - 0.04, bottom=_BOTTOM, wspace=0.25, hspace=0.5
        )
        filled = None
        for number, (name, plane) in enumerate(planes.items()):
            axes = figure.add_subplot(grid[number // columns, number % columns])
            shown = np.clip(plane.losses, levels[0], levels[-1])
            filled = axes.contourf(plane.at, plane.at, shown, levels=levels, norm=norm, cmap="viridis")
            between = [level for level in levels if shown.min() < level < shown.max()]
            if between:
                drawn = axes.contour(
                    plane.at, plane.at, shown, levels=between, colors="white", linewidths=0.5
                )
                if rows == 1:
                    axes.clabel(drawn, levels=between[::2], fontsize=8, fmt="%.2g")
            axes.plot(0.0, 0.0, "+", color="white", markersize=12, markeredgewidth=2)
            axes.set_title(_short(name), size=14, color=INK, weight="bold")
            axes.set_xlabel(axes_names[0], color=GREY, size=11)
            if number % columns == 0:
                axes.set_ylabel(axes_names[1], color=GREY, size=11)
            axes.tick_params(length=0, labelsize=10, labelcolor=INK)
        bar = figure.colorbar(filled, cax=figure.add_axes((0.89, _BOTTOM, 0.015, _TOP - 0.04 - _BOTTOM)))
        bar.set_ticks(levels[::2], labels=[f"{level:.2g}" for level in levels[::2]])
        bar.ax.minorticks_off()
        bar.set_label("cross-entropy", color=GREY, size=12)

    return _save(target, kind, draw, title, "One scale of colours for all  ·  cross: the trained weights")


def _levels(losses: Any) -> Any:
    """Levels in equal proportions from the least to the largest loss, at most a factor of a thousand."""
    high = max(float(losses.max()), 1e-9)
    low = max(float(losses.min()), high / 1000)
    return np.geomspace(low, max(high, 1.01 * low), _LEVELS)  # a plain has levels too


def _check(count: int) -> None:
    if not 1 <= count <= len(COLOURS):
        raise UsageError(f"the figure shows 1 to {len(COLOURS)} networks; got {count}")
