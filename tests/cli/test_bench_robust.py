"""``neurosim bench-robust``: from a recipe to tables and figures, stopped and resumed, refused."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from neurosim import console

SMALL = """
title = "Small"
reference = "plain"
seeds = [0, 1]
[model]
name = "mlp"
hidden = [8]
[data]
name = "digits"
limit = 200
[train]
epochs = 2
batch_size = 50
[evaluate]
levels = [0.0, 0.5]
chips = 3
limit = 100
[[methods]]
label = "plain"
method = "standard"
published = { "0.5" = [42.0] }
[[methods]]
label = "noisy"
method = "noise"
settings = { eta = 0.4 }
"""


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def finished(recipe_file, tmp_path_factory) -> Path:
    """The folder of a comparison that was never stopped; not to be changed."""
    from neurosim.cli import main

    out = tmp_path_factory.mktemp("bench") / "out"
    assert main(["bench-robust", str(recipe_file), "--out", str(out)]) == 0
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_smoke_recipe_from_end_to_end(neurosim, tmp_path):
    answer = neurosim("bench-robust", "digits-smoke", "--out", tmp_path / "out", "--seeds", "0", "--json")
    assert answer.code == 0, answer.err
    files = answer.json["files"]
    assert {Path(path).name for path in files.values()} == {
        "table.md",
        "table.csv",
        "costs.csv",
        "differences.csv",
        "summary.json",
        "accuracy.svg",
        "cost.svg",
    }
    assert all(Path(path).stat().st_size > 100 for path in files.values())
    rows = answer.json["summary"]
    assert [row["method"] for row in rows[::3]] == ["Standard", "Noise", "Noise + beta", "Noisy student"]
    costs = {row["method"]: row for row in answer.json["costs"]}
    assert [costs[m]["passes"] for m in costs] == [4, 4, 20, pytest.approx(4 + 4 * 4 / 3)]
    assert costs["Noisy student"]["seconds"] > costs["Standard"]["seconds"], "without a teacher no pupil"
    assert answer.json["missing"] == []
    page = (tmp_path / "out" / "table.md").read_text()
    assert page.startswith("# Smoke test on the embedded digits")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["summary"] == rows


def test_the_numbers_are_those_of_evaluate(neurosim, finished):
    run = finished / "runs" / "noisy-1"
    change = ["--set", "device.relative_std=0.5", "--hardware", "gaussian-mismatch", "--times", "0s"]
    found = neurosim("evaluate", run, *change, "--chips", "3", "--limit", "100", "--json").json
    theirs = [row["accuracy"] for row in found["networks"]["noisy-1"]["chips"]]
    kept = json.loads((run / "robust.json").read_text())
    mine = [row[2] for row in kept["rows"] if row[0] == 0.5]
    assert mine == theirs


def test_without_mismatch_there_is_one_chip_and_no_false_evidence(finished):
    kept = json.loads((finished / "runs" / "plain-0" / "robust.json").read_text())
    assert [row[:2] for row in kept["rows"]] == [[0.0, 0], [0.5, 0], [0.5, 1], [0.5, 2]]
    (row,) = [row for row in rows_of(finished / "differences.csv") if row["level"] == "0.0"]
    assert row["chips"] == "2", "one for each seed"


def test_intervals_by_hand(finished):
    def accuracies(label: str) -> np.ndarray:
        return np.array(
            [
                row[2]
                for seed in (0, 1)
                for row in json.loads((finished / "runs" / f"{label}-{seed}" / "robust.json").read_text())[
                    "rows"
                ]
                if row[0] == 0.5
            ]
        )

    plain, noisy = accuracies("plain"), accuracies("noisy")
    d = noisy - plain
    half = stats.t.ppf(0.975, 5) * d.std(ddof=1) / math.sqrt(6)
    (row,) = [row for row in rows_of(finished / "differences.csv") if row["level"] == "0.5"]
    assert (row["method"], row["against"], row["chips"]) == ("noisy", "plain", "6")
    assert [float(row[name]) for name in ("difference", "low", "high")] == pytest.approx(
        [d.mean(), d.mean() - half, d.mean() + half], abs=1e-12
    )
    (row,) = [r for r in rows_of(finished / "table.csv") if (r["method"], r["level"]) == ("plain", "0.5")]
    assert float(row["mean"]) == pytest.approx(plain.mean(), abs=1e-12)
    assert float(row["std"]) == pytest.approx(plain.std(), abs=1e-12)
    assert float(row["min"]) == plain.min()
    assert float(row["published_mean"]) == pytest.approx(0.42)


@pytest.mark.parametrize("where", ["training", "chips"])
def test_stopped_anywhere_it_goes_on_to_the_same_bits(
    neurosim, recipe_file, finished, tmp_path, monkeypatch, where
):
    out, calls = tmp_path / "out", 0
    method = {"training": "of_training", "chips": "show"}[where]
    before = getattr(console.Progress, method)

    def interrupting(self, *args):
        nonlocal calls
        if where == "chips" and "chips" not in self._what:
            return before(self, *args)
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return before(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(console.Progress, method, interrupting)
        answer = neurosim("bench-robust", recipe_file, "--out", out)
    assert answer.code == 130
    assert not (out / "table.csv").exists()
    answer = neurosim("bench-robust", recipe_file, "--out", out, "--resume")
    assert answer.code == 0, answer.err
    for name in ("table.csv", "differences.csv", "accuracy.svg"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    for run in (finished / "runs").iterdir():
        again = out / "runs" / run.name
        assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_what_is_done_is_not_done_again(neurosim, recipe_file, finished, tmp_path, monkeypatch):
    from neurosim import runs

    out = Path(shutil.copytree(finished, tmp_path / "out"))

    def forbidden(*args, **options):
        raise AssertionError("nothing was left to do")

    monkeypatch.setattr(runs, "train_run", forbidden)
    monkeypatch.setattr(runs.Run, "deploy", forbidden)
    answer = neurosim("bench-robust", recipe_file, "--out", out, "--dry-run", "--json")
    assert {row["state"] for row in answer.json["trainings"]} == {"done"}
    (out / "table.csv").unlink()
    assert neurosim("bench-robust", recipe_file, "--out", out).code == 0
    assert (out / "table.csv").read_bytes() == (finished / "table.csv").read_bytes()


def test_a_dry_run_writes_nothing(neurosim, recipe_file, tmp_path):
    answer = neurosim("bench-robust", recipe_file, "--out", tmp_path / "out", "--dry-run", "--json")
    assert answer.code == 0
    assert not (tmp_path / "out").exists()
    assert [(row["label"], row["seed"], row["passes"]) for row in answer.json["trainings"]] == [
        ("plain", 0, 2.0),
        ("noisy", 0, 2.0),
        ("plain", 1, 2.0),
        ("noisy", 1, 2.0),
    ]
    assert {row["state"] for row in answer.json["trainings"]} == {"to do"}
    assert answer.json["chips_a_network"] == 4, "one without mismatch, three with"


def test_only_and_another_set_of_chips(neurosim, recipe_file, tmp_path):
    out = tmp_path / "out"
    some = ["bench-robust", recipe_file, "--out", out, "--seeds", "1"]
    first = neurosim(*some, "--only", "noisy", "--json").json
    assert {row["method"] for row in first["summary"]} == {"noisy"}
    assert first["differences"] == []
    assert first["missing"] == ["plain, seed 1"]
    assert not (out / "runs" / "plain-1").exists()
    second = neurosim(*some, "--only", "plain", "--json").json
    assert {row["method"] for row in second["summary"]} == {"plain", "noisy"}, "what is done is shown"
    third = neurosim(*some, "--chips", "2", "--limit", "50", "--only", "plain", "--json").json
    assert [(row["method"], row["chips"]) for row in third["summary"]] == [("plain", 1), ("plain", 2)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train.epochs": 3}, "train.epochs was 2 and is now 3"),
        ({"methods.noisy.settings.eta": 0.5}, "methods.noisy.settings.eta was 0.4 and is now 0.5"),
        ({"model.hidden": [9]}, "model.hidden was [8] and is now [9]"),
        ({"data.limit": 100}, "data.limit was 200 and is now 100"),
    ],
)
def test_trainings_of_another_recipe_are_refused(neurosim, recipe_file, finished, changes, sentence):
    options = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    answer = neurosim("bench-robust", recipe_file, "--out", finished, *options)
    assert answer.code == 2
    assert sentence in answer.error
    assert "another folder" in answer.error


def test_rows_may_be_added_and_words_changed(neurosim, recipe_file, finished, tmp_path):
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    more = tmp_path / "more.toml"
    more.write_text(
        SMALL.replace('title = "Small"', 'title = "Larger"').replace("[42.0]", "[43.0]")
        + '[[methods]]\nlabel = "third"\nmethod = "dropout"\n'
    )
    answer = neurosim("bench-robust", more, "--out", out, "--dry-run", "--json")
    states = {(row["label"], row["seed"]): row["state"] for row in answer.json["trainings"]}
    assert states == {(label, seed): "done" for label in ("plain", "noisy") for seed in (0, 1)} | {
        ("third", 0): "to do",
        ("third", 1): "to do",
    }


def test_a_row_may_begin_from_the_weights_of_another(neurosim, finished, tmp_path):
    """What ``train --init`` makes, to the bit; its cost is that of both trainings."""
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    shutil.rmtree(out / "runs" / "plain-0")
    path = tmp_path / "more.toml"
    row = (
        'label = "more"\nmethod = "noise"\nsettings = { eta = 0.2 }\ninit = "plain"\ntrain = { lr = 3e-4 }\n'
    )
    path.write_text(SMALL.replace("seeds = [0, 1]", "seeds = [0]") + "[[methods]]\n" + row)
    answer = neurosim("bench-robust", path, "--out", out, "--only", "more", "--json")
    assert answer.code == 0, answer.err
    costs = {row["method"]: row for row in answer.json["costs"]}
    assert (costs["plain"]["passes"], costs["more"]["passes"]) == (2, 4)
    words = [
        "--epochs",
        "2",
        "--limit",
        "200",
        "--set",
        "model.hidden=[8]",
        "--batch-size",
        "50",
        "--lr",
        "3e-4",
    ]
    by_hand = ["--method", "noise", "--set", "method.eta=0.2", "--init", out / "runs" / "plain-0"]
    assert neurosim("train", *words, *by_hand, "--out", tmp_path / "by-hand").code == 0
    weights = [folder / "model.safetensors" for folder in (out / "runs" / "more-0", tmp_path / "by-hand")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    other = path.with_name("other.toml")
    other.write_text(path.read_text().replace('init = "plain"', 'init = "noisy"'))
    answer = neurosim("bench-robust", other, "--out", out)
    assert answer.code == 2
    assert "methods.more.init was 'plain' and is now 'noisy'" in answer.error


def test_a_row_that_fails_does_not_stop_the_others(neurosim, tmp_path):
    path = tmp_path / "mixed.toml"
    path.write_text(
        SMALL.replace("seeds = [0, 1]", "seeds = [0]")
        + '[[methods]]\nlabel = "wild"\nmethod = "standard"\ntrain = { optimizer = "sgd", lr = 1e30 }\n'
        + '[[methods]]\nlabel = "pupil"\nmethod = "distil"\nteacher = "wild"\n'
    )
    answer = neurosim("bench-robust", path, "--out", tmp_path / "out", "--only", "noisy", "--only", "pupil")
    assert answer.code == 1
    assert "2 of 3 trainings could not be done: wild, seed 0:" in answer.err
    assert "its teacher 'wild' has not been trained" in answer.err
    assert {row["method"] for row in rows_of(tmp_path / "out" / "table.csv")} == {"noisy"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "expected a RECIPE"),
        (["digits-smok"], "did you mean 'digits-smoke'?"),
        (["digits-smoke", "--only", "Nose"], "unknown row 'Nose': did you mean 'Noise'?"),
        (["digits-smoke", "--seeds", "1,two"], "expected --seeds, whole numbers"),
        (["digits-smoke", "--seeds", "1,1"], "each once"),
        (["digits-smoke", "--set", "train.epoch=1"], "did you mean 'train.epochs'?"),
    ],
)
def test_refusals(neurosim, tmp_path, arguments, sentence):
    answer = neurosim("bench-robust", *arguments, "--out", tmp_path / "out")
    assert answer.code == 2
    assert sentence in answer.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('name = "mlp"\nhidden = [8]', 'name = "lsnn-of-later"', "unknown model 'lsnn-of-later'"),
        ('name = "digits"', 'name = "digets"', "did you mean 'digits'?"),
        ('name = "mlp"', 'name = "os:getcwd"', "must not import"),
    ],
)
def test_unknown_networks_and_data_leave_nothing_behind(neurosim, tmp_path, old, new, sentence):
    path = tmp_path / "other.toml"
    path.write_text(SMALL.replace(old, new))
    answer = neurosim("bench-robust", path, "--out", tmp_path / "out")
    assert answer.code == 2
    assert sentence in answer.error
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(neurosim, recipe_file, tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    answer = neurosim("bench-robust", recipe_file, "--out", tmp_path)
    assert answer.code == 2
    assert "something else than a comparison" in answer.error


def test_the_list(neurosim):
    answer = neurosim("bench-robust", "--list", "--json")
    assert answer.code == 0
    names = [row["name"] for row in answer.json]
    assert names == sorted(names)
    assert {"digits-smoke", "paper-fmnist", "paper-fmnist-budget", "best-fmnist"} <= set(names)
