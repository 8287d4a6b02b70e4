"""The presets as tables: which technology, since when, over which range, and what is known of it."""

from __future__ import annotations

import textwrap
from typing import Any

from neurosim.devices import Hardware
from neurosim.devices.fit_range import in_words

_HEAD = ("name", "year", "node", "range, µS", "until", "source")


def technology(hardware: Hardware) -> dict[str, Any]:
    """What is known of one description, for tables and programs."""
    device, source, measured = hardware.device, hardware.source, hardware.device.fit_range()
    return {
        "name": hardware.name,
        "device": device.kind,
        "year": source.year,
        "node_nm": source.node_nm,
        "g_min_siemens": device.g_min_siemens,
        "g_max_siemens": device.g_max_siemens,
        "measured_siemens": None if measured.g_siemens is None else list(measured.g_siemens),
        "measured_s": None if measured.time_s is None else list(measured.time_s),
        "source": source.citation,
        "doi": source.doi,
        "fit_range": source.fit_range,
        "covers": source.covers,
        "description": hardware.description,
    }


def as_table(rows: list[dict[str, Any]]) -> str:
    """A line a technology, of at most 100 columns for the presets; "until": the last age that was measured.

    >>> from neurosim.devices import hardware
    >>> print(as_table([technology(hardware("pcm-hermes-2023"))]))
    name             year  node   range, µS  until  source
    pcm-hermes-2023  2023  14 nm  0-20.7     1 day  10.1038/s41928-023-01010-1
    """
    lines = [_HEAD, *(_line(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = (f"{row[key] * 1e6:.4g}" for key in ("g_min_siemens", "g_max_siemens"))
    measured = row["measured_s"]
    until = "-" if measured is None else in_words(measured[1]) if measured[1] else "programming"
    return (
        row["name"],
        str(row["year"] or "-"),
        f"{row['node_nm']:g} nm" if row["node_nm"] else "-",
        f"{low}-{high}",
        until,
        row["doi"] or "-",
    )


def in_full(rows: list[dict[str, Any]]) -> str:
    """A paragraph a technology."""
    return "\n\n".join(_paragraph(row) for row in rows)


def _paragraph(row: dict[str, Any]) -> str:
    year, node = row["year"] or "-", f", {row['node_nm']:g} nm" if row["node_nm"] else ""
    doi = f" https://doi.org/{row['doi']}" if row["doi"] else ""
    parts = [
        ("", row["description"]),
        ("source: ", f"{row['source']}{doi}"),
        ("measured: ", row["fit_range"] or "nothing"),
        ("covers: ", row["covers"]),
    ]
    lines = [f"{row['name']} ({row['device']}, {year}{node})"]
    for label, text in parts:
        lines += textwrap.wrap(
            f"{label}{text}", 98, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
    return "\n".join(lines)
