"""Chips x times x data -> a table: Monte-Carlo evaluation, its ledger, and its statistics.

Names load on first use, so that a duration can be parsed without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurosim.evaluation.blocks import one_thread
    from neurosim.evaluation.durations import format_duration, format_durations, parse_duration, parse_times
    from neurosim.evaluation.ledger import Ledger, Row
    from neurosim.evaluation.montecarlo import digital_accuracy, evaluate
    from neurosim.evaluation.statistics import compare, summarise
    from neurosim.evaluation.table import Table

_HOME = {
    "Ledger": "ledger",
    "Row": "ledger",
    "Table": "table",
    "compare": "statistics",
    "digital_accuracy": "montecarlo",
    "evaluate": "montecarlo",
    "format_duration": "durations",
    "format_durations": "durations",
    "one_thread": "blocks",
    "parse_duration": "durations",
    "parse_times": "durations",
    "summarise": "statistics",
}

__all__ = [
    "Ledger",
    "Row",
    "Table",
    "compare",
    "digital_accuracy",
    "evaluate",
    "format_duration",
    "format_durations",
    "one_thread",
    "parse_duration",
    "parse_times",
    "summarise",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
