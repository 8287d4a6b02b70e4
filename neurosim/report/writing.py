"""Figures of how devices are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurosim.devices.writing.switching import Trace
from neurosim.errors import UsageError
from neurosim.report.figure import COLOURS, GREY, _picture, _save


def plot_hysteresis(traces: Mapping[str, Trace], *, path: str | Path) -> Path:
    """Current against voltage, and the state over time, of one or several loops.

    Args:
        traces: by label, one to six.
        path: a name that ends in .svg or .png.

    Raises:
        UsageError: no trace, more than six, or a name of another kind.
    """
    if not 1 <= len(traces) <= len(COLOURS):
        raise UsageError(f"the figure shows 1 to {len(COLOURS)} loops; got {len(traces)}")
    target, kind = _picture(path)

    def draw(figure: Any) -> None:
        loops, states = figure.subplots(1, 2)
        for colour, (label, trace) in zip(COLOURS, traces.items(), strict=False):
            loops.plot(trace.volt, trace.ampere * 1e3, color=colour, label=label)
            low, high = float(trace.state.min()), float(trace.state.max())
            span = high - low or 1.0
            phase = (trace.time_s - trace.time_s[0]) / (trace.time_s[-1] - trace.time_s[0])
            states.plot(phase, (trace.state - low) / span, color=colour)
        loops.axhline(0.0, color=GREY, linewidth=0.6)
        loops.axvline(0.0, color=GREY, linewidth=0.6)
        loops.set(xlabel="voltage, V", ylabel="current, mA")
        loops.legend(frameon=False)
        states.set(xlabel="part of the cycle", ylabel="state, between its extremes")

    title = "Hysteresis of " + ", ".join(traces)
    return _save(target, kind, draw, title, "A memristor's loop is pinched: no voltage, no current.")
