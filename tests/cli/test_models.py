"""The zoo on the command line: its table, and one network layer by layer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from neurosim import models


def test_the_list_says_what_the_table_says(neurosim):
    answer = neurosim("models", "list", "--json")
    assert answer.code == 0
    assert [row["name"] for row in answer.json] == models.names()
    for row in answer.json:
        info = models.info(row["name"])
        assert (row["parameters"], row["macs"], row["checked"]) == (info.parameters, info.macs, info.checked)
    text = neurosim("models", "list").out
    (line,) = [line for line in text.splitlines() if line.startswith("vip-s7 ")]
    assert "25,114,984" in line
    assert "3x224x224" in line


def test_listing_needs_no_torch():
    code = (
        "import sys; from neurosim.cli import main; main(['models', 'list']); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_layers_add_up_to_the_row_and_tiles_to_what_explain_finds(neurosim):
    answer = neurosim("models", "show", "cnn", "--hardware", "ideal", "--set", "array.rows=128", "--json")
    assert answer.code == 0, answer.error
    found, info = answer.json, models.info("cnn")
    assert found["totals"]["parameters"] == info.parameters
    assert found["totals"]["macs"] == info.macs
    assert [layer["name"] for layer in found["layers"] if layer["digital"]] == []
    dense = found["layers"][2]
    assert (dense["inputs"], dense["outputs"], dense["macs"]) == ([1600], [256], 1600 * 256)
    assert dense["tiles"] == -(-1600 // 128), "256 columns fit one tile; rows are split"


def test_another_size_and_options_of_the_model(neurosim):
    changes = ["--image-size", "8", "--num-classes", "3", "--set", "model.hidden=[5]"]
    text = neurosim("models", "show", "mlp", *changes).out
    assert "64  " in text
    assert f"{64 * 5 + 5 + 5 * 3 + 3:,} parameters" in text
    batchnorm = neurosim("models", "show", "resnet8", "--json").json["layers"]
    assert {row["kind"] for row in batchnorm if row["digital"]} == {"BatchNorm2d"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["vip-s8"], "did you mean 'vip-s7'?"),
        (["vip-s7", "--image-size", "225"], "225"),
        (["mlp", "--set", "model.hiden=[5]"], "did you mean 'hidden'?"),
        (["mlp", "--set", "array.row=5"], "array.row"),
    ],
)
def test_refusals(neurosim, arguments, sentence):
    answer = neurosim("models", "show", *arguments)
    assert answer.code == 2
    assert sentence in answer.error
