"""One device in one figure: how exactly it is written, how it ages, how it fluctuates.

Everything shown is sampled through the device's own ``program`` and ``age``, never through its formulas: what
the figure shows is what a network meets.  The same device gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurosim.devices import Device, hardware, hardware_names
from neurosim.devices.fit_range import in_words
from neurosim.devices.fits import polynomial
from neurosim.devices.fitting import Curve, Fit
from neurosim.report.figure import COLOURS, GREY, INK, PALE, _picture, _save
from neurosim.report.published import Point, published_for

Array = npt.NDArray[np.float64]

DEVICES_A_POINT = 2048
_POINTS = 33
_TIMES = 25
_UNMEASURED_S = (1.0, 31_536_000.0)  # shown of a device whose ageing nobody measured: a second to a year
_UNITS = ((1.0, "S"), (1e-3, "mS"), (1e-6, "µS"), (1e-9, "nS"), (1e-12, "pS"))


@dataclass(frozen=True)
class Sampled:
    """What 2,048 devices a target do; conductances in siemens, times in seconds.

    Attributes:
        target: (points,) over the device's range, both ends included.
        std: (points,) standard deviation right after programming.
        bias: (points,) mean minus target right after programming.
        fan_target: (5,) targets of the fan.
        times: (times,) rising.
        fan: (5, 3, times) 5th percentile, median, 95th percentile.
        measured_until: last measured time; 0 where no ageing was measured.
        read_time: when fluctuation is shown.
        held: (points,) mean conductance at ``read_time``.
        fluctuation: (points,) standard deviation of what is drawn anew at each age, at ``read_time``.
        ages: whether anything changes after programming.
    """

    target: Array
    std: Array
    bias: Array
    fan_target: Array
    times: Array
    fan: Array
    measured_until: float
    read_time: float
    held: Array
    fluctuation: Array
    ages: bool


def sample(device: Device) -> Sampled:
    """Write and age 2,048 devices at each of 33 targets.

    What fluctuates is what differs between two ages so close that nothing drifts: half of the variance of the
    difference between a device at t and at t·(1 + 10⁻⁶).

    >>> from neurosim.devices.generic import Generic
    >>> seen = sample(Generic(std=0.1, law="absolute", below_zero="kept"))
    >>> bool(abs(seen.std.mean() / 2.5e-6 - 1) < 0.01), seen.ages
    (True, False)
    """
    import torch

    from neurosim.random import Draws

    draws = Draws(0, (0,), "figure")
    target = torch.linspace(device.g_min_siemens, device.g_max_siemens, _POINTS, dtype=torch.float64)
    state = device.program(target.unsqueeze(1).expand(-1, DEVICES_A_POINT), draws)
    first, last = _measured(device)
    times = np.geomspace(first, 10 * last if last else 86_400.0, _TIMES)
    if device.fit_range().time_s is None:
        times = np.geomspace(*_UNMEASURED_S, _TIMES)
    times = np.unique([*times, *([last] if last else [])])  # where the dashed part begins
    rows = [round(place * (_POINTS - 1)) for place in (0.1, 0.3, 0.5, 0.75, 1.0)]
    written = state["g_siemens"][0].double().numpy()
    fan, ages = [], False
    for time in times:
        aged = device.age(state, float(time), draws)[0].double().numpy()
        ages = ages or not np.array_equal(aged, written)
        fan.append(np.percentile(aged[rows], [5, 50, 95], axis=1))
    at = last or 3600.0
    now, next_ = (device.age(state, at * (1 + late), draws)[0].double().numpy() for late in (0.0, 1e-6))
    return Sampled(
        target=target.numpy(),
        std=written.std(axis=1, ddof=1),
        bias=written.mean(axis=1) - target.numpy(),
        fan_target=target.numpy()[rows],
        times=times,
        fan=np.stack(fan, axis=-1).transpose(1, 0, 2),
        measured_until=last,
        read_time=at,
        held=now.mean(axis=1),
        fluctuation=(next_ - now).std(axis=1, ddof=1) / math.sqrt(2.0),
        ages=ages,
    )


def _measured(device: Device) -> tuple[float, float]:
    """First time to show and last measured time, which is 0 where none was."""
    measured = device.fit_range().time_s or (0.0, 0.0)
    first, last = measured
    return (first if 0 < first < last else min(1.0, last / 10) or 1.0), last


def device_figure(device: Device, name: str, *, path: str | Path) -> Path:
    """Draw programming error, drift and slow fluctuation of a device; gives ``path`` (.svg or .png).

    Three panels: standard deviation (solid) and mean error (dotted) against the target right after
    programming; median and 5–95 % band over time for five targets, dashed beyond the last measured time;
    what fluctuates from read to read against conductance.  Where ``name`` is a preset with this very device,
    published points lie over the curves: circles are deviations and means, ticks 1.645 published deviations
    (5 % and 95 % of a normal distribution) around them, crosses another fit of the same data.

    Raises:
        UsageError: ``path`` ends in neither .svg nor .png.
        RunError: matplotlib is missing, or the file cannot be written.

    >>> import tempfile
    >>> from neurosim.devices import Pcm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     device_figure(Pcm(), "mine", path=Path(folder, "pcm.svg")).name
    'pcm.svg'
    """
    path, kind = _picture(path)
    seen = sample(device)
    size, unit = unit_of(device.g_max_siemens)

    def draw(figure: Any) -> None:
        error, fan, noise = panels(figure, 3)
        _draw_error(error, seen, size, unit)
        _draw_fan(fan, seen, size, unit)
        _draw_noise(noise, seen, size, unit)
        _over_error(error, points, size)
        _over_fan(fan, points, size)
        _over_noise(noise, points, seen, size)

    points = points_of(device, name)
    reading = (
        f"{DEVICES_A_POINT:,} sampled devices a point  ·  bands: 5th to 95th percentile"
        "  ·  dashed: beyond what was measured"
    )
    reading += "  ·  circles: published" if points else ""
    return _save(path, kind, draw, f"{name}: device {device.kind}", reading)


def points_of(device: Device, name: str) -> tuple[Point, ...]:
    """The published points of a preset; none where its device was changed."""
    if name not in hardware_names() or hardware(name).device != device:
        return ()
    return published_for(name)


def _over_error(axes: Any, points: Sequence[Point], size: float) -> None:
    for quantity, marker in (("std", "o"), ("std_other", "x")):
        # a second after programming is the first time at which some were measured
        shown = [p for p in points if p.quantity == quantity and p.time_s <= 1.0]
        x, y = [p.target_siemens / size for p in shown], [p.value / size for p in shown]
        colour = COLOURS[1] if marker == "o" else GREY
        axes.plot(x, y, marker, color=colour, markerfacecolor="none", markeredgewidth=1.6, zorder=5)


def _over_fan(axes: Any, points: Sequence[Point], size: float) -> None:
    """Means, and 1.645 deviations around them, at each published time."""
    means = {(p.target_siemens, p.time_s): p.value for p in points if p.quantity == "mean"}
    for p in points:
        if p.quantity == "nu_mean":
            y = _drifted(p, p.time_s) / size
            axes.plot([p.time_s], [y], "o", color=INK, markerfacecolor="none", markersize=5, zorder=5)
        if p.quantity == "std" and p.time_s > 0:
            middle = p.target_siemens + means.get((p.target_siemens, p.time_s), 0.0)
            axes.errorbar(
                [p.time_s], [middle / size], [1.645 * p.value / size], fmt="o", color=INK,
                markerfacecolor="none", markersize=4, capsize=3, elinewidth=0.8, zorder=5,
            )  # fmt: skip


def _drifted(point: Point, time_s: float) -> float:
    return point.target_siemens * float((1 + time_s / point.t0_s) ** -point.value)


def _over_noise(axes: Any, points: Sequence[Point], seen: Sampled, size: float) -> None:
    """Read noise of a drifting device shrinks with its conductance."""
    drifts = [p for p in points if p.quantity == "nu_mean"]
    left = {p.target_siemens: _drifted(p, seen.read_time) / p.target_siemens for p in drifts}
    shifts = {
        p.target_siemens: p.value for p in points if p.quantity == "mean" and p.time_s == seen.read_time
    }
    for p in points:
        if p.quantity == "read_std":
            part = left.get(p.target_siemens, 1.0)
            x = (p.target_siemens * part + shifts.get(p.target_siemens, 0.0)) / size
            axes.plot([x], [p.value * part / size], "o", color=COLOURS[2], markerfacecolor="none", zorder=5)


def unit_of(g_siemens: float) -> tuple[float, str]:
    """The unit in which a conductance reads best, and its size.

    >>> unit_of(25e-6), unit_of(3e-3)[1]
    ((1e-06, 'µS'), 'mS')
    """
    return next(((size, name) for size, name in _UNITS if g_siemens >= size), _UNITS[-1])


def panels(figure: Any, count: int) -> list[Any]:
    """Axes side by side below the title, with pale grids only."""
    axes = [
        figure.add_axes((0.07 + index * 0.94 / count, 0.125, 0.94 / count - 0.075, 0.62))
        for index in range(count)
    ]
    for one in axes:
        for side in ("top", "right", "left"):
            one.spines[side].set_visible(False)
        one.spines["bottom"].set(color=GREY, linewidth=1.0)
        one.tick_params(axis="both", length=0, labelsize=10, labelcolor=INK, pad=5)
        one.grid(color=PALE, linewidth=1.0)
        one.set_axisbelow(True)
    return axes


def name_panel(axes: Any, title: str, x: str, y: str) -> None:
    """Title and the names of both axes."""
    axes.set_title(title, loc="left", size=12, weight="bold", color=INK, pad=10)
    axes.set_xlabel(x, color=GREY, size=10.5)
    axes.set_ylabel(y, color=GREY, size=10.5)


def _draw_error(axes: Any, seen: Sampled, size: float, unit: str) -> None:
    x = seen.target / size
    axes.plot(x, seen.std / size, color=COLOURS[1], linewidth=2.2, label="standard deviation")
    axes.plot(x, seen.bias / size, ":", color=COLOURS[0], linewidth=2.2, label="mean error")
    axes.legend(frameon=False, fontsize=9.5, labelcolor=INK)
    name_panel(axes, "Right after programming", f"target, {unit}", f"error, {unit}")


def _draw_fan(axes: Any, seen: Sampled, size: float, unit: str) -> None:
    inside = seen.times <= seen.measured_until * (1 + 1e-6)
    outside = ~inside
    if inside.any() and outside.any():  # the dashed line begins where the solid one ends
        outside[int(np.flatnonzero(inside)[-1])] = True
    for colour, (low, median, high) in zip(COLOURS, seen.fan / size, strict=False):
        for part, dash, alpha in ((inside, "-", 0.28), (outside, "--", 0.12)):
            axes.fill_between(seen.times[part], low[part], high[part], color=colour, alpha=alpha, linewidth=0)
            axes.plot(seen.times[part], median[part], dash, color=colour, linewidth=1.8)
    axes.set_xscale("log")
    axes.set_xlim(seen.times[0], seen.times[-1])
    axes.set_yticks(seen.fan_target / size, [f"{g:.3g}" for g in seen.fan_target / size])
    _ticks_in_words(axes, seen.times)
    name_panel(axes, "Over time" if seen.ages else "Over time: no ageing", "time", f"conductance, {unit}")


def _ticks_in_words(axes: Any, times: Array) -> None:
    round_times: Sequence[float] = (1e-6, 1e-3, 1.0, 60.0, 3600.0, 86_400.0, 2_592_000.0, 31_557_600.0)
    shown = [time for time in round_times if times[0] * 0.999 <= time <= times[-1] * 1.001]
    axes.set_xticks(shown, [in_words(time) for time in shown], rotation=35, ha="right", size=9)
    axes.minorticks_off()


def _draw_noise(axes: Any, seen: Sampled, size: float, unit: str) -> None:
    name_panel(
        axes,
        f"Fluctuation after {in_words(seen.read_time)}",
        f"conductance held, {unit}",
        f"standard deviation, {unit}",
    )
    # rounding of a drift over a millionth of the time is no noise
    if seen.fluctuation.max() > 1e-5 * seen.target[-1]:
        axes.plot(seen.held / size, seen.fluctuation / size, color=COLOURS[2], linewidth=2.2)
        axes.set_ylim(bottom=0)
        return
    said = "no read noise" if seen.ages else "no ageing"
    axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", size=13, color=GREY)
    axes.set(xticks=[], yticks=[])


def fit_figure(fit: Fit, *, path: str | Path) -> Path:
    """Draw measured levels and the fitted polynomials over them; gives ``path`` (.svg or .png).

    Three panels: mean error, standard deviation, drift exponent, each against the target.  A dot is what was
    measured at one level, its bar the 95 % interval of that level alone; a line is the fit.

    Raises:
        UsageError: ``path`` ends in neither .svg nor .png.
        RunError: matplotlib is missing, or the file cannot be written.
    """
    path, kind = _picture(path)
    full = fit.hardware.device.g_max_siemens
    size, unit = unit_of(full)

    def draw(figure: Any) -> None:
        mean, std, drift = panels(figure, 3)
        _draw_mean(mean, fit.programming, full, size, size, COLOURS[0])
        name_panel(mean, "Mean error", f"target, {unit}", f"error, {unit}")
        _draw_std(std, fit.programming, full, size, COLOURS[1])
        name_panel(std, "Standard deviation", f"target, {unit}", f"error, {unit}")
        name_panel(drift, "Drift exponent ν", f"target, {unit}", "mean; band: ± standard deviation")
        if fit.drift is None:
            drift.text(0.5, 0.5, "not fitted", transform=drift.transAxes, ha="center", size=13, color=GREY)
            drift.set(xticks=[], yticks=[])
            return
        _draw_mean(drift, fit.drift, full, size, 1.0, COLOURS[2])
        x, middle = _line(fit.drift.mean, fit.drift, full)
        spread = _line(fit.drift.std, fit.drift, full)[1]
        drift.fill_between(
            x / size, middle - spread, middle + spread, color=COLOURS[2], alpha=0.2, linewidth=0
        )

    counts = int(fit.programming.counts.sum())
    reading = f"dots: {counts:,} measured devices, with 95 % intervals  ·  lines: the fitted polynomials"
    return _save(path, kind, draw, f"{fit.hardware.name}: data and fit", reading)


def _line(coefficients: Sequence[float], curve: Curve, full: float) -> tuple[Array, Array]:
    """(targets, polynomial there) from the first level to full conductance."""
    target = np.linspace(curve.levels[0], full, 201)
    return target, np.array([polynomial(coefficients, float(x)) for x in target / full])


def _draw_mean(axes: Any, curve: Curve, full: float, size: float, of: float, colour: str) -> None:
    bars = 1.96 * curve.stds / np.sqrt(curve.counts)
    _dots(axes, curve.levels / size, curve.means / of, bars / of, colour)
    x, y = _line(curve.mean, curve, full)
    axes.plot(x / size, y / of, color=colour, linewidth=2.0)


def _draw_std(axes: Any, curve: Curve, full: float, size: float, colour: str) -> None:
    bars = 1.96 * curve.stds / np.sqrt(2 * curve.counts)
    _dots(axes, curve.levels / size, curve.stds / size, bars / size, colour)
    x, y = _line(curve.std, curve, full)
    axes.plot(x / size, y / size, color=colour, linewidth=2.0)
    axes.set_ylim(bottom=0)


def _dots(axes: Any, x: Array, y: Array, bars: Array, colour: str) -> None:
    axes.errorbar(x, y, bars, fmt="o", color=colour, markersize=5.5, elinewidth=1.4, alpha=0.75)
