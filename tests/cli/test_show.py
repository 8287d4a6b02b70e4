"""``neurosim show``: the table, the pictures, the JSON, and one sentence for bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import neurosim as ns
from neurosim.cli import main
from neurosim.evaluation.inside import changed, look, look_on, measured_cv, stated_cv
from neurosim.models import own_model
from neurosim.runs import open_run

from .conftest import Call

NETS = """
from torch import nn
from neurosim.models.spiking import Lif, Recurrent

class Rows(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.hidden = Recurrent(8, 32, Lif(tau_mem_s=0.01, v_threshold=0.2))
        self.readout = nn.Linear(32, num_classes)

    def forward(self, x):
        return self.readout(self.hidden(2 * x.squeeze(1).repeat_interleave(5, 1)).mean(1))

def rows(num_classes):
    return Rows(num_classes)
"""
OWN = ["--model", "shownets:rows"]


@pytest.fixture
def spiking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a spiking network that reads the digits row by row, and its module to import."""
    (tmp_path / "shownets.py").write_text(NETS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = tmp_path / "rows"
    assert main(["train", *OWN, "--epochs", "1", "--limit", "200", "--lr", "0.01", "--out", str(run)]) == 0
    return run


def test_one_sample(neurosim: Call, spiking: Path):
    answer = neurosim("show", spiking, *OWN, "--sample", 3)
    assert answer.code == 0, answer.err
    first, scores, _, heading, layer, _, columns, *rest = answer.out.splitlines()
    assert first.startswith("rows: test sample 3, 1x8x8; true ") and scores.startswith("scores: 0 ")
    assert heading.split()[:3] == ["layer", "type", "neurons"] and layer.split()[:3] == [
        "hidden.neurons",
        "Lif",
        "32",
    ]
    assert columns.split()[0] == "neuron" and len(rest) == 5
    assert (spiking / "show-test-3.svg").exists() and "picture: " in answer.out
    assert not (spiking / "show-test-3-chips.svg").exists()


def test_numbers_are_those_of_the_library(neurosim: Call, spiking: Path, tmp_path: Path):
    out = tmp_path / "seen"
    words = [*OWN, "--sample", 5, "--part", "validation", "--neurons", "4,0", "--out", out]
    hardware, name = ns.hardware("dynapse-se2").with_("device.relative_std", 0.1), "dynapse-se2"
    words += ["--hardware", name, "--set", "device.relative_std=0.1", "--chips", "3", "--seed", "7"]
    answer = neurosim("show", spiking, *words, "--json")
    assert answer.code == 0, answer.err
    value = answer.json
    run = open_run(spiking, [own_model("shownets:rows")])
    splits = run.splits()
    x, target = splits.validation.inputs[5:6], int(splits.validation.targets[5])
    found = look(run.model(), x)
    layer = found.layer()
    assert value["target"] == target and value["predicted"] == found.predicted
    assert value["scores"] == pytest.approx(found.scores.tolist())
    (row,) = value["layers"]
    assert row["spikes"] == layer.spikes > 0 and row["dt_s"] == 1e-3 and row["steps"] == 40
    assert row["rates_hz"] == pytest.approx(layer.rates_hz.tolist())
    assert row["silent"] == pytest.approx(layer.silent)
    assert [one["neuron"] for one in value["neurons"]] == [4, 0]
    assert value["neurons"][0]["spikes"] == int(layer.record.spikes[:, 4].sum())
    on_chips = look_on(run.deploy(hardware, splits), x, ns.Lot(hardware, 7)[0:3])
    assert [one["chip"] for one in value["chips"]] == [0, 1, 2]
    for chip, one in zip(value["chips"], on_chips.looks, strict=True):
        assert chip["predicted"] == one.predicted and chip["spikes"] == one.layer().spikes
        assert (chip["missing"], chip["new"]) == changed(layer, one.layer())
    own = {one.name: one for one in on_chips.parameters}
    cvs = {one["parameter"]: one["measured_cv"] for one in value["parameters"]}
    assert cvs.pop("hidden.neurons.refractory_s") is None  # it is 0
    assert cvs == pytest.approx({name: measured_cv(own[name]) for name in cvs}) and len(cvs) == 5
    stated = {one["parameter"]: one["stated_cv"] for one in value["parameters"]}
    assert stated == {name: None if cv != cv else cv for name, cv in ((n, stated_cv(own[n])) for n in own)}
    assert set(value["files"]) == {"picture", "chips"}
    assert {path.name for path in out.iterdir()} == {"show-validation-5.svg", "show-validation-5-chips.svg"}


def test_chips_in_words(neurosim: Call, spiking: Path):
    answer = neurosim("show", spiking, *OWN, "--hardware", "dynapse-se2", "--chips", "2")
    assert answer.code == 0, answer.err
    assert "on 2 chips of dynapse-se2: " in answer.out
    assert "hidden.neurons.tau_mem_s: lognormal, standard deviation 20 % of the value" in answer.out
    again = neurosim("show", spiking, *OWN, "--hardware", "dynapse-se2", "--chips", "2")
    assert again.out == answer.out


def test_bad_input_is_one_sentence(neurosim: Call, spiking: Path, runs: dict[str, Path]):
    samples = len(open_run(runs["a"]).splits().test)
    for words, sentence in (
        (["nowhere"], "nowhere is not a run: there is no such folder"),
        ([runs["a"]], "expected a network with spiking neurons"),
        ([runs["a"]], "got one of"),
        ([spiking], "add --model shownets:rows if you trust that code"),
        ([spiking, *OWN, "--part", "tests"], "unknown part of the data, 'tests': did you mean 'test'?"),
        (
            [spiking, *OWN, "--sample", samples],
            f"the test part of 'digits' has samples 0 to {samples - 1}; got --sample {samples}",
        ),
        ([spiking, *OWN, "--sample", "-1"], "got --sample -1"),
        ([spiking, *OWN, "--neurons", "3,x"], "cannot read --neurons '3,x': expected numbers from 0"),
        ([spiking, *OWN, "--neurons", "32"], "the layer hidden.neurons has neurons 0 to 31; got 32"),
        ([spiking, *OWN, "--neurons", "1,1"], "expected each neuron once; got 1, 1"),
        ([spiking, *OWN, "--neurons", "0,1,2,3,4,5,6"], "the figure shows 1 to 6 neurons; got 7"),
        ([spiking, *OWN, "--layer", "top"], "expected a layer of neurons, hidden.neurons; got 'top'"),
        ([spiking, *OWN, "--chips", "3"], "--chips is for chips: expected --hardware with it"),
        ([spiking, *OWN, "--hardware", "dynapse-se3"], "did you mean 'dynapse-se2'"),
        (
            [spiking, *OWN, "--hardware", "dynapse-se2", "--at", "1s,1d"],
            "expected one age, --at 1d; got '1s,1d'",
        ),
    ):
        answer = neurosim("show", *words)
        assert answer.code == 2, (words, answer.err)
        assert sentence in answer.error, answer.error
    assert not list(spiking.glob("show-*"))


def test_without_matplotlib_there_is_the_table(
    neurosim: Call, spiking: Path, monkeypatch: pytest.MonkeyPatch
):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a)
    )
    answer = neurosim("show", spiking, *OWN)
    assert answer.code == 0 and "no picture: matplotlib is missing" in answer.err
    assert "hidden.neurons" in answer.out and not list(spiking.glob("show-*"))


def test_nothing_random_is_touched(neurosim: Call, spiking: Path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert neurosim("show", spiking, *OWN, "--hardware", "dynapse-se2", "--chips", "1").code == 0
    assert torch.equal(torch.get_rng_state(), before)
