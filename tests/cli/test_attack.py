"""``neurosim attack``: worst weights and worst inputs of trained runs."""

from __future__ import annotations

import csv
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w
import torch

from neurosim.data import catalogue
from neurosim.data.row import DataSet, Raw

QUICK = ["--limit", "60", "--steps", "2", "--restarts", "2", "--sizes", "0.1,0.3"]
WEIGHTS = [*QUICK, "--draws", "2"]
INPUTS = ["--on", "inputs", *QUICK[:-1], "0.01,0.1", "--chips", "2", "--hardware", "gaussian-mismatch"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_weights_of_one_run(neurosim, runs):
    answer = neurosim("attack", runs["a"], *WEIGHTS, "--json")
    assert answer.code == 0, answer.err
    found = answer.json
    assert (found["on"], found["sizes"], found["draws"], found["part"]) == ("weights", [0.1, 0.3], 2, "test")
    assert (found["attack"]["steps"], found["attack"]["restarts"], found["attack"]["loss"]) == (
        2,
        2,
        "cross-entropy",
    )
    summary = found["networks"]["a"]["summary"]
    assert [row["size"] for row in summary] == [0.1, 0.3]
    assert summary[1]["samples"] == 60
    assert summary[1]["attacked"] < min(summary[1]["gaussian_min"], summary[1]["corner_min"])
    assert summary[1]["beyond"] < summary[1]["beyond_high"] < 0.1
    assert summary[1]["attacked_low"] <= summary[1]["attacked"] <= summary[1]["attacked_high"]
    each = found["networks"]["a"]["each"]
    assert [row["made"] for row in each[:7]] == ["clean", *["attack"] * 2, *["gaussian"] * 2, *["corner"] * 2]
    assert (
        min(row["accuracy"] for row in each if row["made"] == "attack" and row["size"] == 0.3)
        == summary[1]["attacked"]
    )
    table = rows(runs["a"] / "attack-weights.csv")
    assert [(row["network"], float(row["attacked"])) for row in table] == [
        ("a", row["attacked"]) for row in summary
    ]
    assert len(rows(runs["a"] / "attack-weights-each.csv")) == 14
    assert (runs["a"] / "attack-weights.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_runs_side_by_side_in_one_table(neurosim, runs, tmp_path):
    answer = neurosim("attack", runs["a"], runs["b"], *WEIGHTS, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0] == (
        "accuracy in % with attacked weights, 60 test samples: cross-entropy, 2 steps, "
        "the worst of 2 restarts, one attack for all data"
    )
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["a", "0.1"],
        ["a", "0.3"],
        ["b", "0.1"],
        ["b", "0.3"],
    ]
    assert [row["network"] for row in rows(tmp_path / "out" / "attack-weights.csv")] == ["a", "a", "b", "b"]
    assert not (runs["a"] / "attack-weights.csv").exists()


def test_the_same_seed_gives_the_same_files(neurosim, runs, tmp_path):
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        for options in (WEIGHTS, INPUTS):
            answer = neurosim("attack", runs["a"], *options, "--seed", seed, "--out", tmp_path / name)
            assert answer.code == 0, answer.err
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    each = "attack-weights-each.csv"
    assert (tmp_path / "one" / each).read_bytes() != (tmp_path / "other" / each).read_bytes()


def test_the_paper_s_attack_and_changes_to_it(neurosim, runs):
    found = neurosim(
        "attack", runs["a"], "--paper", "--limit", 60, "--sizes", "0.1", "--draws", 0, "--json"
    ).json
    settings = {key: found["attack"][key] for key in ("loss", "steps", "restarts", "per", "keep")}
    assert settings == {"loss": "kl", "steps": 10, "restarts": 1, "per": "batch", "keep": "last"}
    assert found["networks"]["a"]["summary"][0]["gaussian"] is None
    text = neurosim(
        "attack", runs["a"], "--paper", "--steps", 3, "--limit", 60, "--batch-size", 20, "--sizes", "0.1"
    )
    assert "kl, 3 steps, one start, one attack for each 20 samples" in text.out


def test_inputs_off_and_on_chips(neurosim, runs):
    answer = neurosim("attack", runs["a"], *INPUTS, "--part", "validation", "--json")
    assert answer.code == 0, answer.err
    found = answer.json
    assert (found["on"], found["hardware"], found["chips"], found["part"]) == (
        "inputs", "gaussian-mismatch", 2, "validation",
    )  # fmt: skip
    assert found["attack"] == {"name": "pgd", "steps": 2, "restarts": 2, "step": None}
    small, large = found["networks"]["a"]["summary"]
    assert large["digital"] < small["digital"] < small["clean"]
    assert large["digital_low"] <= large["digital"] <= large["digital_high"]
    assert large["own_chip"] < large["clean_chips"]
    each = found["networks"]["a"]["each"]
    assert len(each) == 2 * 4 * 3
    assert {row["made_on"] for row in each} == {"clean", "digital", "0", "1"}
    assert len(rows(runs["a"] / "attack-inputs-each.csv")) == len(each)
    assert (runs["a"] / "attack-inputs.svg").exists()


def test_inputs_in_words(neurosim, runs):
    answer = neurosim("attack", runs["a"], *INPUTS, "--attack", "fgsm", "--at", "0s", "--chips", 1)
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert (
        lines[0] == "accuracy in % on inputs attacked by fgsm, 60 test samples, 1 chip of gaussian-mismatch"
    )
    assert lines[2].startswith("a") and lines[2].rstrip().endswith("-")  # one chip has no others


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--on", "outputs"], "error: unknown target of --on, 'outputs': did you mean 'inputs'?"),
        (["--part", "tests"], "error: unknown part of the data, 'tests': did you mean 'test'?"),
        (
            ["--sizes", "0.1,x"],
            "error: cannot read --sizes '0.1,x': expected such as 0.05,0.1 or 2/255,8/255",
        ),
        (["--sizes", "1/0"], "error: cannot read --sizes '1/0'"),
        (["--sizes", "-0.1"], "error: cannot read --sizes '-0.1'"),
        (["--sizes", "0.1,0.1"], "error: cannot read --sizes '0.1,0.1': expected each size once"),
        (["--sizes", "11"], "error: expected 0 <= size of an attack on weights <= 10; got 11.0"),
        (["--loss", "hinge"], "error: unknown loss of an attack on weights, 'hinge'"),
        (["--per", "sample"], "error: unknown choice of what an attack on weights is per, 'sample'"),
        (["--chips", "3"], "error: --chips is for attacks on inputs: expected --on inputs with it"),
        (["--set", "array.rows=8"], "error: --set is for attacks on inputs"),
        (
            ["--on", "inputs", "--paper"],
            "error: --paper is for attacks on weights: expected --on weights with it",
        ),
        (["--on", "inputs", "--parameters", "*"], "error: --parameters is for attacks on weights"),
        (["--on", "inputs", "--draws", "0"], "error: --draws is for attacks on weights"),
        (["--on", "inputs", "--attack", "pdg"], "error: unknown attack on inputs 'pdg': did you mean 'pgd'?"),
        (["--on", "inputs", "--hardware", "pcm"], "error: unknown hardware"),
        (["--on", "inputs", "--at", "1s,2s"], "error: expected one age, --at 1d; got '1s,2s'"),
        (["--on", "inputs", "--set", "array.row=8"], "error: "),
    ],
)
def test_wrong_use_is_one_sentence(neurosim, runs, options, said):
    answer = neurosim("attack", runs["a"], *options)
    assert answer.code == 2
    assert answer.error.startswith(said)
    assert not list(runs["a"].glob("attack*"))


def test_runs_that_cannot_be_attacked_are_refused(neurosim, runs, tmp_path):
    missing = neurosim("attack", tmp_path / "none")
    assert missing.code == 2 and "is not a run: there is no such folder" in missing.error
    twice = neurosim("attack", runs["a"], runs["a"])
    assert twice.code == 2 and "is given twice" in twice.error
    many = [shutil.copytree(runs["a"], tmp_path / f"copy{k}") for k in range(7)]
    answer = neurosim("attack", *many)
    assert (
        answer.code == 2 and answer.error == "error: expected 1 to 6 runs, as many as a figure shows; got 7"
    )


def test_the_network_of_a_user_with_frozen_weights(neurosim, runs, tmp_path, monkeypatch):
    """What the network does not train is attacked where it is named; nothing is imported unasked."""
    (tmp_path / "own_attacked.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, **kw):\n"
        "    layer = nn.Linear(64, num_classes)\n"
        "    layer.requires_grad_(False)\n"
        "    return nn.Sequential(nn.Flatten(), layer, nn.Linear(num_classes, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ["--model", "own_attacked:net", "--epochs", 15, "--limit", 600, "--lr", 0.02]
    made = neurosim("train", *options, "--out", tmp_path / "own")
    assert made.code == 0, made.err
    unasked = neurosim("attack", tmp_path / "own", *WEIGHTS)
    assert unasked.code == 2 and "add --model own_attacked:net" in unasked.error
    own = ["attack", tmp_path / "own", "--model", "own_attacked:net", *WEIGHTS]
    found = {}
    for pattern in ("1.*", "2.*"):
        answer = neurosim(*own, "--parameters", pattern, "--json")
        assert answer.code == 0, answer.err
        assert answer.json["attack"]["parameters"] == [pattern]
        found[pattern] = answer.json["networks"]["own"]["summary"][1]
    assert found["1.*"]["attacked"] < min(found["1.*"]["gaussian_min"], found["1.*"]["corner_min"]) - 0.1
    assert neurosim(*own, "--json").json["networks"]["own"]["summary"][1] == found["2.*"], "trained anyway"
    assert found["1.*"]["attacked"] < found["2.*"]["attacked"]
    wrong = neurosim(*own, "--parameters", "1.weigth")
    assert wrong.code == 2
    assert wrong.error == (
        "error: parameters: '1.weigth' matches no parameter of the network: did you mean '1.weight' or"
        " '2.weight'?"
    )
    sys.modules.pop("own_attacked", None)


def test_what_a_run_froze_lies_on_the_chip_like_the_rest(neurosim, tmp_path):
    words = ["--epochs", 2, "--limit", 200, "--set", "model.hidden=[16]", "--freeze", "layers.1.weight"]
    assert neurosim("train", *words, "--out", tmp_path / "run").code == 0
    found = [
        neurosim("attack", tmp_path / "run", *WEIGHTS, *more, "--json").json["networks"]
        for more in ([], ["--parameters", "layers.1.weight"])
    ]
    assert found[0] == found[1]


def test_other_data_under_the_same_name_are_refused(neurosim, runs):
    path = runs["a"] / "config.toml"
    config = tomllib.loads(path.read_text(encoding="utf-8"))
    config["data"]["sha256"] = "0" * 64
    path.write_text(tomli_w.dumps(config), encoding="utf-8")
    answer = neurosim("attack", runs["a"], *WEIGHTS)
    assert answer.code == 1 and "are not those the run was trained on" in answer.error


def test_classes_of_pixels_are_attacked_by_weights_only(neurosim, tmp_path, monkeypatch):
    images = torch.arange(30 * 256).reshape(30, 16, 16).remainder(251).to(torch.uint8)
    masks = (images > 125).long()
    raw = Raw((images, masks), None, (images[:6], masks[:6]))
    row = DataSet("stripes", "stripes", "none", "made", (), (), lambda folder: raw)
    monkeypatch.setitem(catalogue.DATASETS, "stripes", row)
    run = tmp_path / "pixels"
    small = [
        "--model",
        "unet",
        "--set",
        "model.widths=[2,4]",
        "--epochs",
        1,
        "--batch-size",
        8,
        "--device",
        "cpu",
    ]
    assert neurosim("train", "--data", "stripes", *small, "--out", run).code == 0
    answer = neurosim("attack", run, *WEIGHTS, "--batch-size", 4, "--json")
    assert answer.code == 0, answer.err
    summary = answer.json["networks"]["pixels"]["summary"]
    assert summary[0]["samples"] == 6 and 0 <= summary[1]["attacked"] < summary[1]["clean"]
    refused = neurosim("attack", run, *INPUTS)
    assert refused.code == 2
    assert refused.error.startswith("error: attacks on inputs need one class for each sample; the data of")
