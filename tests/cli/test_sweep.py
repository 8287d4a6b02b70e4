"""One setting of the hardware after another on the same chips."""

from __future__ import annotations

import csv

import pytest

FAST = ["--chips", "3", "--limit", "100", "--hardware", "gaussian-mismatch"]


def test_each_value_is_what_evaluate_finds_there(neurosim, runs):
    answer = neurosim("sweep", runs["a"], *FAST, "--over", "device.relative_std=0.5,0,0.1", "--json")
    assert answer.code == 0, answer.error
    assert [row["device.relative_std"] for row in answer.json["rows"]] == [0, 0.1, 0.5]
    for row in answer.json["rows"]:
        change = f"device.relative_std={row['device.relative_std']}"
        alone = neurosim("evaluate", runs["a"], *FAST, "--set", change, "--times", "0s", "--json").json
        network = alone["networks"]["a"]
        assert network["summary"][0]["mean"] == row["mean"]
        assert network["digital_accuracy"] == row["digital_accuracy"]
    assert answer.json["rows"][0]["std"] == 0, "without mismatch all chips are equal"
    with open(runs["a"] / "sweep-relative_std.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["device.relative_std"]) for row in rows] == [0] * 3 + [0.1] * 3 + [0.5] * 3
    assert (runs["a"] / "sweep-relative_std.svg").read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize(
    "over,sentence",
    [
        ("device.relative_std", "expected KEY=V1,V2,..."),
        ("device.relative_std=", "expected KEY=V1,V2,..."),
        ("device.relative_std=0.1,few", "expected KEY=V1,V2,..."),
        ("device.relative_std=0.1,'a'", "the values must be numbers"),
        ("device.relative_std=0.1,0.1", "at least two values, each once"),
        ("device.relative_sdt=0.1,0.2", "relative_std"),
    ],
)
def test_refusals(neurosim, runs, over, sentence):
    answer = neurosim("sweep", runs["a"], *FAST, "--over", over)
    assert answer.code == 2
    assert sentence in answer.error
