"""``neurosim flatness``: the table, the files, the JSON, and one sentence for bad input."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from neurosim.commands import opening
from neurosim.data import Batches
from neurosim.errors import UsageError
from neurosim.landscape.curvature import Curvature, rise_under_mismatch, top_eigenvalue, trace
from neurosim.landscape.slopes import Protocol, loss_along_lines
from neurosim.runs import open_run

from .conftest import Call

QUICK = ["--limit", "40", "--repeats", "2", "--draws", "2"]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_two_runs_side_by_side(neurosim: Call, runs: dict[str, Path], tmp_path: Path):
    out = tmp_path / "flat"
    answer = neurosim("flatness", runs["a"], runs["b"], *QUICK, "--plane", "3", "--out", out)
    assert answer.code == 0, answer.err
    heading, first, second, *_ = answer.out.splitlines()
    assert heading.split()[:4] == ["network", "loss", "accuracy", "slope"]
    assert first.startswith("a ") and second.startswith("b ") and first.count("±") == 4
    files = {"flatness.csv", "lines.csv", "landscape.csv", "flatness.svg", "landscape.svg"}
    assert {path.name for path in out.iterdir()} == files
    assert all(name in answer.out for name in files)
    rows = read(out / "flatness.csv")
    assert [row["network"] for row in rows] == ["a", "b"]
    assert all(row["targets"] == "40" and row["part"] == "test" for row in rows)
    assert len(read(out / "lines.csv")) == 2 * 2 * 50
    assert len(read(out / "landscape.csv")) == 2 * 9


def test_numbers_are_those_of_the_library(neurosim: Call, runs: dict[str, Path]):
    answer = neurosim("flatness", runs["a"], *QUICK, "--part", "validation", "--seed", "3", "--json")
    assert answer.code == 0, answer.err
    found = answer.json["networks"]["a"]
    run = open_run(runs["a"])
    data, net = Batches(run.splits().validation[:40], 500), run.model()
    lines = loss_along_lines(net, data, Protocol(repeats=2), seed=3)
    assert found["slope"] == pytest.approx(lines.slope, rel=1e-6)
    assert found["slope_std"] == pytest.approx(lines.slope_std, rel=1e-6)
    assert found["losses"] == [pytest.approx(row, rel=1e-6) for row in lines.losses.tolist()]
    assert found["alphas"] == pytest.approx(lines.alphas.tolist())
    for prefix, relative in (("", False), ("relative_", True)):
        curvature = Curvature(net, data, relative=relative)
        traced = trace(curvature, draws=2, seed=3)
        top = top_eigenvalue(curvature, seed=3).value
        assert found[f"{prefix}top_eigenvalue"] == pytest.approx(top, rel=1e-4)
        assert found[f"{prefix}trace"] == pytest.approx(traced.value, rel=1e-4)
        assert found[f"{prefix}trace_se"] == pytest.approx(traced.standard_error, rel=1e-3)
    rise = rise_under_mismatch(net, data, 0.1, draws=2, seed=3)
    assert found["zeta"] == 0.1 and found["rise"] == pytest.approx(rise.value, rel=1e-3)
    assert found["rise_se"] == pytest.approx(rise.standard_error, rel=1e-3)
    assert found["rise_predicted"] == pytest.approx(0.5 * 0.1**2 * found["relative_trace"])
    assert found["part"] == "validation" and found["targets"] == 40
    assert set(answer.json["files"]) == {"flatness.csv", "lines.csv", "flatness.svg"}
    assert all(Path(path).parent == runs["a"] for path in answer.json["files"].values())


def test_it_repeats_bit_for_bit_and_one_line_has_no_spread(
    neurosim: Call, runs: dict[str, Path], tmp_path: Path
):
    quick = ["--limit", "40", "--repeats", "1", "--draws", "2", "--json"]
    first, second = (neurosim("flatness", runs["a"], *quick, "--out", tmp_path / name) for name in "xy")
    assert first.json["networks"] == second.json["networks"]
    assert first.json["networks"]["a"]["slope_std"] is None
    for name in ("flatness.csv", "lines.csv", "flatness.svg"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def test_other_parameters_where_named(neurosim: Call, runs: dict[str, Path]):
    quick = ["flatness", runs["a"], *QUICK, "--json"]
    same = [neurosim(*quick, *more).json["networks"] for more in ([], ["--parameters", "layers.*.weight"])]
    assert same[0] == same[1], "trained anyway"
    wrong = neurosim("flatness", runs["a"], *QUICK, "--parameters", "layer.1.weight")
    assert wrong.code == 2
    assert wrong.error.startswith(
        "error: parameters: 'layer.1.weight' matches no parameter of the network: did you mean"
        " 'layers.1.weight'"
    )


def test_several_runs_go_beside_the_first(neurosim: Call, runs: dict[str, Path]):
    answer = neurosim("flatness", runs["a"], runs["b"], "--limit", 10, "--repeats", 1, "--draws", 2)
    assert answer.code == 0, answer.err
    assert (runs["a"].parent / "a-vs-b" / "flatness.csv").exists()


def test_bad_input_is_one_sentence(neurosim: Call, runs: dict[str, Path], tmp_path: Path):
    for words, sentence in (
        (["nowhere"], "nowhere is not a run: there is no such folder"),
        ([runs["a"], "--part", "tests"], "unknown part of the data, 'tests': did you mean 'test'?"),
        ([runs["a"], runs["a"]], "is given twice"),
        ([runs["a"], "--model", "math:sqrt"], "--model math:sqrt is in none of the runs given"),
        ([tmp_path / str(k) for k in range(7)], "expected 1 to 6 runs, as many as a figure shows; got 7"),
    ):
        answer = neurosim("flatness", *words)
        assert answer.code == 2, words
        assert sentence in answer.error, answer.error
    for words in (["--draws", "1"], ["--repeats", "0"], ["--plane", "1"], ["--limit", "0"]):
        assert neurosim("flatness", runs["a"], *words).code == 2
    assert not (runs["a"] / "flatness.csv").exists()


def test_a_run_without_weights_is_an_error(neurosim: Call, runs: dict[str, Path]):
    (runs["a"] / "model.safetensors").unlink()
    answer = neurosim("flatness", runs["a"])
    assert answer.code == 1
    assert "holds no model.safetensors" in answer.error


def test_equal_names_are_told_apart_by_their_paths(runs: dict[str, Path], tmp_path: Path):
    other = tmp_path / "other" / "a"
    shutil.copytree(runs["a"], other)
    assert list(opening.labels([runs["a"], other])) == [str(runs["a"]), str(other)]
    with pytest.raises(UsageError, match="given twice"):
        opening.labels([runs["a"], runs["a"]])
