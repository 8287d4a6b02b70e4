"""Figures of evaluations and devices.  matplotlib loads when a figure is drawn, not before."""

from __future__ import annotations

from neurosim.report.devices import device_figure, fit_figure
from neurosim.report.figure import accuracy_over_setting, accuracy_over_time

__all__ = ["accuracy_over_setting", "accuracy_over_time", "device_figure", "fit_figure"]
