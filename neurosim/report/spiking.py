"""Figures of the inside of a spiking network: one sample off any chip, and the same sample on chips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from neurosim.analog.mismatch import Varied
from neurosim.errors import UsageError
from neurosim.evaluation.inside import (
    Activity,
    Look,
    OnChips,
    changed,
    deviations,
    measured_cv,
    stated_cv,
)
from neurosim.report.figure import COLOURS, GREY, INK, PALE, _picture, _plain, _save, _short

Array = npt.NDArray[Any]

MOST_NEURONS = 6
MOST_PARAMETERS = 8
"""Panels of distributions in a figure."""
_MOST_LINES = 8  # channels of an input that are drawn as lines; more are an image
_MOST_STROKES = 1500  # spikes of a raster that are drawn one by one; more are pixels
_TOP, _BOTTOM = 0.79, 0.09  # of the figure: the title is above
_TICK = 0.9  # height of a spike in a raster, in neurons
_MOST_BARS = 12  # classes whose names are written


def look_figure(
    x: Tensor,
    look: Look,
    *,
    path: str | Path,
    title: str,
    target: int,
    classes: Sequence[str] = (),
    layer: str | None = None,
    neurons: Sequence[int] = (),
) -> Path:
    """A sample, the spikes of a layer, a few neurons from inside, firing rates, and the scores.

    Args:
        x: the sample, (steps, channels) of a time series or (channels, height, width) of an image.
        look: of :func:`neurosim.evaluation.inside.look` on it.
        path: a name that ends in .svg or .png.
        title: what the figure shows.
        target: the true class.
        classes: names of the classes; else their numbers.
        layer: the layer drawn, the first where None.
        neurons: whose potentials are drawn, one to six; the three most active where empty.

    Raises:
        UsageError: an unknown layer or neuron, more than six, or a name of another kind.
        RunError: matplotlib is missing, or the file cannot be written.

    >>> import tempfile, torch
    >>> from neurosim import models
    >>> from neurosim.evaluation.inside import look as look_into
    >>> x = torch.randn(1, 100, 2)
    >>> found = look_into(models.create("lsnn-ecg", num_classes=4, in_chans=2, image_size=100), x)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     look_figure(x[0], found, path=Path(folder, "show.svg"), title="one beat", target=2).name
    'show.svg'
    """
    shown = look.layer(layer)
    chosen = list(neurons) or shown.most_active(3)
    check_neurons(shown, chosen)
    target_path, kind = _picture(path)

    def draw(figure: Any) -> None:
        left = figure.add_gridspec(
            2, 1, left=0.06, right=0.40, top=_TOP, bottom=_BOTTOM, height_ratios=(1, 2.4), hspace=0.28
        )
        above, below = figure.add_subplot(left[0]), figure.add_subplot(left[1])
        _draw_input(above, x, shown.dt_s)
        _draw_raster(below, [(shown.record.spikes, INK)], shown, f"{shown.name}: {shown.spikes:,} spikes")
        for neuron in chosen:
            below.plot(-0.012, neuron, ">", color=_colour(chosen, neuron), markersize=6, clip_on=False,
                       transform=below.get_yaxis_transform())  # fmt: skip
        middle = figure.add_gridspec(
            len(chosen), 1, left=0.46, right=0.77, top=_TOP, bottom=_BOTTOM, hspace=0.45
        )
        for place, neuron in enumerate(chosen):
            inner = middle[place].subgridspec(2, 1, height_ratios=(1.8, 1), hspace=0.12)
            pair = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
            _draw_neuron(*pair, shown, neuron, _colour(chosen, neuron), last=place == len(chosen) - 1)
        right = figure.add_gridspec(2, 1, left=0.83, right=0.98, top=_TOP, bottom=_BOTTOM, hspace=0.5)
        _draw_rates(figure.add_subplot(right[0]), shown)
        _draw_scores(figure.add_subplot(right[1]), look, target, classes)

    reading = (
        "Potential: solid  ·  threshold: dashed  ·  dots: spikes  ·  below each: current into the neuron"
    )
    return _save(target_path, kind, draw, title, reading)


def chips_figure(
    look: Look,
    on_chips: OnChips,
    *,
    path: str | Path,
    title: str,
    target: int,
    classes: Sequence[str] = (),
    layer: str | None = None,
) -> Path:
    """The spikes of a layer off any chip and on the first one, the classes of all chips, and their mismatch.

    Args:
        look: of the sample off any chip.
        on_chips: of :func:`neurosim.evaluation.inside.look_on` on it.
        path: a name that ends in .svg or .png.
        title: what the figure shows.
        target: the true class.
        classes: names of the classes; else their numbers.
        layer: the layer drawn, the first where None.

    Raises:
        UsageError: an unknown layer, or a name of another kind.
        RunError: matplotlib is missing, or the file cannot be written.
    """
    before, after = look.layer(layer), on_chips.looks[0].layer(layer)
    different = [one for one in on_chips.parameters if np.any(deviations(one))]
    target_path, kind = _picture(path)

    def draw(figure: Any) -> None:
        top = figure.add_gridspec(
            1, 3, left=0.06, right=0.98, top=_TOP, bottom=0.51, width_ratios=(2.2, 2.2, 1), wspace=0.22
        )
        off, on, labels = (figure.add_subplot(top[k]) for k in range(3))
        _draw_raster(off, [(before.record.spikes, INK)], before, f"off chip: {before.spikes:,} spikes")
        old, new = before.record.spikes, after.record.spikes
        missing, added = changed(before, after)
        heading = f"chip {on_chips.numbers[0]}: {after.spikes:,} spikes, {added:,} new, {missing:,} missing"
        _draw_raster(on, [(old * new, INK), ((1 - old) * new, COLOURS[0])], after, heading)
        on.set_ylabel("")
        _draw_predictions(labels, on_chips, target, classes)
        parameters = different[:MOST_PARAMETERS]
        if parameters:
            rows = -(-len(parameters) // 4)
            grid = figure.add_gridspec(
                rows, 4, left=0.06, right=0.98, top=0.345, bottom=0.07, hspace=1.25, wspace=0.18
            )
            for place, parameter in enumerate(parameters):
                _draw_deviations(figure.add_subplot(grid[place // 4, place % 4]), parameter)

    count = len(different)
    more = f" (first {MOST_PARAMETERS} of {count} parameters)" if count > MOST_PARAMETERS else ""
    reading = (
        "Orange: spikes that only the chip has  ·  below: how far parameters are off (weights: of the "
        f"largest), CV measured (stated){more}"
    )
    return _save(target_path, kind, draw, title, reading)


def check_neurons(layer: Activity, neurons: Sequence[int]) -> None:
    """Raises :class:`UsageError` for a neuron the layer has not, one given twice, or more than six."""
    if not 1 <= len(neurons) <= MOST_NEURONS:
        raise UsageError(f"the figure shows 1 to {MOST_NEURONS} neurons; got {len(neurons)}")
    for neuron in neurons:
        if not 0 <= neuron < layer.neurons:
            raise UsageError(f"the layer {layer.name} has neurons 0 to {layer.neurons - 1}; got {neuron}")
    if len(set(neurons)) < len(neurons):
        raise UsageError(f"expected each neuron once; got {', '.join(map(str, neurons))}")


# ---------------------------------------------------------------- panels


def _colour(chosen: Sequence[int], neuron: int) -> str:
    return COLOURS[list(chosen).index(neuron)]


def _numbers(x: Tensor) -> Array:
    found: Array = x.detach().double().cpu().numpy()
    return found


def _times_ms(count: int, dt_s: float) -> Array:
    return 1e3 * dt_s * np.arange(count)


def _bare(axes: Any, heading: str = "") -> None:
    """No frame but the line below; small text."""
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=GREY, linewidth=0.8)
    if heading:
        axes.set_title(heading, size=10.5, color=INK, loc="left", pad=5)


def _draw_input(axes: Any, x: Tensor, dt_s: float) -> None:
    values = _numbers(x)
    if values.ndim == 3:
        axes.imshow(values.mean(0), cmap="Greys_r", aspect="auto", interpolation="nearest")
        axes.set_axis_off()
        axes.set_title("input", size=10.5, color=INK, loc="left", pad=5)
        return
    times = _times_ms(len(values), dt_s)
    if values.shape[1] <= _MOST_LINES:
        for channel, shade in zip(values.T, np.linspace(1.0, 0.45, values.shape[1]), strict=True):
            axes.plot(times, channel, color=INK, linewidth=1.3, alpha=shade)
        axes.set_xlim(times[0], times[-1])
    else:
        extent = (times[0], times[-1], -0.5, values.shape[1] - 0.5)
        axes.imshow(values.T, origin="lower", extent=extent, aspect="auto", cmap="cividis", rasterized=True)
    channels = values.shape[1]
    _bare(axes, f"input: {channels} channel{'s' if channels > 1 else ''}")


def _draw_raster(axes: Any, kinds: Sequence[tuple[Tensor, str]], layer: Activity, heading: str) -> None:
    """A stroke a spike, one path for each colour: a file of tens of kilobytes for thousands of spikes."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Strokes

    steps, neurons = layer.record.spikes.shape
    for spikes, colour in kinds:
        at, neuron = (index.cpu().numpy() for index in spikes.nonzero(as_tuple=True))
        ends = np.empty((2 * len(at), 2))
        ends[:, 0] = np.repeat(1e3 * layer.dt_s * at, 2)
        ends[0::2, 1], ends[1::2, 1] = neuron - _TICK / 2, neuron + _TICK / 2
        path = Strokes(ends, np.tile([Strokes.MOVETO, Strokes.LINETO], len(at)))
        path.should_simplify = False  # strokes shorter than a pixel are spikes too
        many = len(at) > _MOST_STROKES  # pixels of few colours make a small file
        style = {"linewidth": 1.1, "rasterized": many, "antialiased": not many}
        axes.add_patch(PathPatch(path, facecolor="none", edgecolor=colour, **style))
    axes.set_xlim(-0.5e3 * layer.dt_s, 1e3 * layer.dt_s * (steps - 0.5))
    axes.set_ylim(-1, neurons)
    axes.set_xlabel("time, ms", color=GREY, size=10)
    axes.set_ylabel("neuron", color=GREY, size=10)
    _bare(axes, _plain(heading))


def _draw_neuron(above: Any, below: Any, layer: Activity, neuron: int, colour: str, last: bool) -> None:
    record = layer.record
    v, level, current, arriving = (
        _numbers(one[:, neuron])
        for one in (record.potentials, record.thresholds, record.currents, record.inputs)
    )
    times = _times_ms(len(v), layer.dt_s)
    fired = _numbers(record.spikes[:, neuron]) > 0
    above.plot(times, level, color=GREY, linewidth=1.1, linestyle=(0, (4, 2)))
    above.plot(times, v, color=colour, linewidth=1.3)
    above.plot(times[fired], v[fired], "o", color=colour, markersize=3.2)
    rate = float(layer.rates_hz[neuron])
    _bare(above, f"neuron {neuron}: {int(fired.sum())} spikes, {rate:.3g} Hz")
    above.set_xticklabels([])
    if not np.array_equal(current, arriving):
        below.plot(times, arriving, color=GREY, linewidth=0.9)
    below.plot(times, current, color=colour, linewidth=1.0)
    below.axhline(0.0, color=PALE, linewidth=0.8, zorder=0)
    _bare(below)
    for axes, ticks in ((above, 3), (below, 1)):
        axes.set_xlim(times[0], times[-1])
        axes.locator_params(axis="y", nbins=ticks, min_n_ticks=1)
    if last:
        below.set_xlabel("time, ms", color=GREY, size=10)
    else:
        below.set_xticklabels([])


def _draw_rates(axes: Any, layer: Activity) -> None:
    rates = _numbers(layer.rates_hz)
    axes.hist(rates, bins=20, range=(0.0, max(float(rates.max()), 1.0)), color=COLOURS[1])
    axes.axvline(rates.mean(), color=INK, linewidth=1.4, linestyle=(0, (4, 2)))
    axes.set_xlabel("rate, Hz", color=GREY, size=10)
    _bare(axes, f"mean {rates.mean():.3g} Hz\nsilent {100 * layer.silent:.3g} %")


def _draw_scores(axes: Any, look: Look, target: int, classes: Sequence[str]) -> None:
    scores = _numbers(look.scores)
    names = [class_name(k, classes) for k in range(len(scores))]
    colours = [COLOURS[2] if k == target else COLOURS[0] if k == look.predicted else GREY
               for k in range(len(scores))]  # fmt: skip
    axes.barh(range(len(scores)), scores, color=colours, height=0.7)
    axes.axvline(0.0, color=GREY, linewidth=0.8)
    _name_classes(axes, names)
    _bare(axes, f"true {_short(names[target])}\nscored {_short(names[look.predicted])}")
    axes.set_xlabel("score", color=GREY, size=10)


def _draw_predictions(axes: Any, on_chips: OnChips, target: int, classes: Sequence[str]) -> None:
    counts = Counter(look.predicted for look in on_chips.looks)
    many = len(on_chips.looks[0].scores)
    names = [class_name(k, classes) for k in range(many)]
    colours = [COLOURS[2] if k == target else COLOURS[0] for k in range(many)]
    axes.barh(range(many), [counts[k] for k in range(many)], color=colours, height=0.7)
    _name_classes(axes, names)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("chips", color=GREY, size=10)
    right, all_of_them = counts[target], len(on_chips.looks)
    _bare(axes, f"true {_short(names[target])}: {right} of {all_of_them} chips")


def _name_classes(axes: Any, names: Sequence[str]) -> None:
    if len(names) <= _MOST_BARS:
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.invert_yaxis()


def _draw_deviations(axes: Any, parameter: Varied) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    off = deviations(parameter)
    # the tails of heavy distributions would leave nothing to see of the rest
    low, high = (float(end) for end in np.percentile(off, [0.2, 99.8]))
    axes.hist(np.clip(off, low, high), bins=40, color=COLOURS[1], histtype="stepfilled")
    axes.axvline(0.0, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if parameter.held or bool((parameter.nominal != 0).any()):
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    nominal = parameter.nominal.flatten()
    alike = f" {float(nominal[0]):.3g}" if bool((nominal == nominal[0]).all()) else ""
    stated, measured = stated_cv(parameter), measured_cv(parameter)
    cv = "" if np.isnan(measured) else f"CV {100 * measured:.3g} %"
    cv += "" if np.isnan(stated) else f" ({100 * stated:.3g} %)"
    _bare(axes, f"{_tail(parameter.name)}{alike}\n{cv.strip()}")


def _tail(name: str) -> str:
    """The end of a dotted name, which says what it is.

    >>> _tail("encoder.blocks.0.neurons.tau_mem_s")
    'neurons.tau_mem_s'
    """
    return ".".join(_plain(name).split(".")[-2:])


def class_name(number: int, classes: Sequence[str]) -> str:
    """The name of a class, or its number where it has none."""
    return classes[number] if number < len(classes) else str(number)
