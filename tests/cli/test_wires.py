"""Wires from the command line: segments by node, what they cost a run, training through them."""

from __future__ import annotations

import tomllib

import pytest

TINY = ["--epochs", "2", "--limit", "200", "--set", "model.hidden=[16]", "--batch-size", "50"]
WIRED = ["--hardware", "pcm-joshi-2020", "--set", "wires.r_row_ohm=50", "--set", "wires.r_col_ohm=50"]


def test_segments_are_listed_by_node(neurosim):
    short, long = (neurosim("hardware", "wires", "--pitch", pitch, "--json").json for pitch in (2, 12))
    assert [row["node"] for row in short][-1] == "7nm"
    for a, b in zip(short, long, strict=True):
        assert b["ohm"] == pytest.approx(6 * a["ohm"])
    assert "7nm" in neurosim("hardware", "wires", "--kelvin", "350").out
    assert neurosim("hardware", "wires", "--pitch", "0").code == 2


def test_explain_reports_what_wires_cost(neurosim, runs):
    found = neurosim("explain", runs["a"], *WIRED, "--wires", "--chips", "2", "--json").json
    assert found["chips"] == 2
    assert [row["name"] for row in found["layers"]] == ["layers.1", "layers.3"]
    for row in found["layers"]:
        assert 0 < row["lost"] < row["worst"] < 1
        assert row["rows_and_columns"] < row["columns"] < row["error"]
        assert 0 < row["approximation"] < row["error"]
    said = neurosim("explain", runs["a"], *WIRED, "--wires").out
    assert "50 Ω a cell along rows, 50 Ω along columns" in said
    assert "current lost" in said
    assert "have no resistance: set wires.r_row_ohm" in neurosim("explain", runs["a"], "--wires").error


def test_wires_cost_accuracy(neurosim, tmp_path):
    run = tmp_path / "run"
    assert neurosim("train", "--epochs", "10", "--set", "model.hidden=[32]", "--out", run).code == 0

    def mean(*more: str) -> float:
        arguments = ["--hardware", "ideal", "--chips", "1", "--set", "device.g_max_siemens=1e-3", *more]
        answer = neurosim("evaluate", run, *arguments, "--json").json
        return answer["networks"]["run"]["summary"][0]["mean"]

    ideal = mean()
    lossy = mean("--set", "wires.r_row_ohm=20", "--set", "wires.r_col_ohm=20")
    assert lossy < ideal - 0.05
    both = ["--set", "wires.topology=both-ends", "--set", "wires.compensation=rows-and-columns"]
    assert mean("--set", "wires.r_row_ohm=20", "--set", "wires.r_col_ohm=20", *both) > lossy + 0.02


def test_train_takes_settings_of_its_hardware(neurosim, tmp_path):
    answer = neurosim("train", *TINY, *WIRED, "--set", "wires.reuse_steps=2", "--out", tmp_path / "run")
    assert answer.code == 0
    hardware = tomllib.loads((tmp_path / "run/config.toml").read_text())["hardware"]
    assert hardware["wires"]["r_row_ohm"] == 50
    assert hardware["wires"]["reuse_steps"] == 2
    alone = neurosim("train", *TINY, "--set", "wires.r_row_ohm=50", "--out", tmp_path / "other")
    assert alone.code == 2
    assert "name one to train through with --hardware" in alone.error
    wrong = neurosim("train", *TINY, *WIRED, "--set", "wires.r_row=1", "--out", tmp_path / "other")
    assert wrong.code == 2
    assert "unknown field 'wires.r_row': did you mean 'wires.r_row_ohm'?" in wrong.error
    assert not (tmp_path / "other").exists()
