"""A class for each pixel, by the command line alone: train, evaluate, compare; a classifier on the trunk."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosim import runs as run_folders
from neurosim import storage
from neurosim.data import catalogue
from neurosim.data.row import DataSet, Raw

REAL = os.environ.get("NEUROSIM_DATA", "")
TINY = ["--epochs", "3", "--batch-size", "8", "--lr", "0.01", "--device", "cpu"]
UNET = ["--model", "unet", "--set", "model.widths=[4,8]"]
ATTACKED = ["--method", "adversarial", "--set", "method.steps=1", "--epochs", "1"]
FAST = ["--chips", "2", "--times", "25s"]

NETS = """
from torch import nn

def pixels(num_classes, in_chans):
    return nn.Conv2d(in_chans, num_classes, 3, padding=1)

def images(num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(image_size[0] * image_size[1], num_classes))
"""


def squares(count: int, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey images with one or two bright squares, and 1 where those are."""
    numbers = np.random.default_rng(first)
    masks = np.zeros((count, 16, 16), np.int64)
    for index, mask in enumerate(masks):
        for _ in range(1 + index % 2):
            y, x = numbers.integers(0, 12, 2)
            mask[y : y + 4, x : x + 4] = 1
    images = 60 + 110 * masks + numbers.integers(0, 60, masks.shape)
    return torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(masks)


def counted(count: int, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, _ = squares(count, first)
    return images, torch.arange(count) % 2


@pytest.fixture(autouse=True)
def two_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets "squares" (masks) and "counted" (one square, or two) beside the real ones."""
    for name, made in (("squares", squares), ("counted", counted)):
        raw = Raw(made(30, 1), None, made(10, 2))
        row = DataSet(name, name, "none", "made", (), (), lambda folder, raw=raw: raw)
        monkeypatch.setitem(catalogue.DATASETS, name, row)
    monkeypatch.chdir(tmp_path)


def config(run: str) -> dict:
    return tomllib.loads(Path(run, "config.toml").read_text())


def test_train_evaluate_compare_and_a_classifier_on_its_trunk(neurosim):
    answer = neurosim("train", *UNET, "--data", "squares", *TINY, "--out", "a", "--json")
    assert answer.code == 0
    best = answer.json["metrics"]
    assert 0 <= best["validation_dice"] <= 1
    rows = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    assert best["validation_dice"] == max(row["validation_dice"] for row in rows)
    assert config("a")["data"]["task"] == "segmentation"

    robust = neurosim("train", *UNET, "--data", "squares", *TINY, *ATTACKED, "--out", "b")
    assert robust.code == 0
    assert ", Dice " in robust.out

    found = neurosim("compare", "a", "b", *FAST, "--json")
    assert found.code == 0
    run = run_folders.open_run("a")
    test = run.splits().test
    with torch.no_grad():
        right = (run.model()(test.inputs).argmax(1) == test.targets).double().mean()
    network = found.json["networks"]["a"]
    assert network["digital_accuracy"] == pytest.approx(float(right), rel=1e-12)
    assert [row["samples"] for row in network["chips"]] == [10, 10]
    assert neurosim("evaluate", "a", *FAST, "--workers", "1", "--hardware", "ideal", "--json").code == 0
    assert "trunk." in neurosim("explain", "a").out

    classify = ["--model", "unet-classifier", "--data", "counted", "--set", "model.widths=[4,8]"]
    classify += ["--set", "model.head_widths=[4,4,4]"]
    more = ["--init", "trunk=a", "--freeze", "trunk.*", "--per-class", "5"]
    assert neurosim("train", *classify, *TINY, *more, *ATTACKED, "--out", "c").code == 0
    trunk, whole = (storage.load_tensors(Path(run, "model.safetensors"))[0] for run in ("a", "c"))
    of_trunk = [name for name in trunk if name.startswith("trunk.")]
    assert len(of_trunk) > 5
    assert all(torch.equal(trunk[name], whole[name]) for name in of_trunk), "statistics too"
    assert not torch.equal(trunk["normalise.mean"], whole["normalise.mean"])
    assert neurosim("evaluate", "c", *FAST, "--exclude", "head.*").code == 0


def test_few_images(neurosim):
    train = ["train", *UNET, "--data", "squares", "--epochs", "1", "--per-class", "6", "--out", "a"]
    assert neurosim(*train).code == 0
    assert len(run_folders.open_run("a").splits().train) == 6


@pytest.mark.parametrize(
    ("model", "data", "sentence"),
    [
        (
            "cnn",
            "squares",
            "cnn gives a class for each image, and the data 'squares' have one for each pixel",
        ),
        ("unet-tiny", "digits", "unet-tiny gives a class for each pixel, and the data 'digits' have one for"),
        ("segnets:images", "squares", r"expected shape (2, 2, 16, 16), one score for each of the 2 classes"),
        ("segnets:pixels", "digits", r"expected shape (2, 10), one score for each of the 10 classes"),
    ],
)
def test_the_wrong_task_is_one_sentence(neurosim, model, data, sentence):
    Path("segnets.py").write_text(NETS)
    answer = neurosim("train", "--model", model, "--data", data, "--out", "a")
    assert answer.code == 2
    assert sentence in answer.error
    assert not Path("a").exists()


def test_an_own_network_with_a_run_and_without(neurosim):
    Path("segnets.py").write_text(NETS)
    own = ["--model", "segnets:pixels"]
    assert neurosim("train", *own, "--data", "squares", *TINY, "--out", "a").code == 0
    assert neurosim("evaluate", "a", *own, *FAST).code == 0
    alone = ["--data", "squares", "--weights", "a/model.safetensors", "--json"]
    found = neurosim("evaluate", *own, *alone, *FAST).json["networks"]
    assert [row["samples"] for row in next(iter(found.values()))["chips"]] == [10, 10]


def test_resumed_runs_keep_their_task(neurosim):
    train = ["train", *UNET, "--data", "squares", *TINY, "--out", "a"]
    assert neurosim(*train).code == 0
    before = Path("a/metrics.jsonl").read_bytes()
    assert neurosim(*train, "--resume").code == 0
    assert Path("a/metrics.jsonl").read_bytes() == before


@pytest.mark.skipif(not REAL, reason="NEUROSIM_DATA is not set: the test on real nuclei did NOT run")
@pytest.mark.slow
def test_real_nuclei(neurosim):
    small = ["--epochs", "2", "--batch-size", "16", "--lr", "0.01"]
    train = ["train", "--model", "unet-tiny", "--data", "dsb2018-nuclei", *small, "--out", "a", "--json"]
    assert neurosim(*train).json["metrics"]["validation_dice"] > 0.4
    assert neurosim("evaluate", "a", "--chips", "1", "--times", "25s").code == 0
