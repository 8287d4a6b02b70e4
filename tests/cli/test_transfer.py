"""Training that begins from another run, with frozen parts and few samples; and runs in their final form."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from neurosim import models, storage
from neurosim import runs as run_folders
from neurosim.errors import RunError, UsageError
from neurosim.models.fusing import Fusable, fold_batchnorm
from neurosim.runs import WHOLE, begin_from
from neurosim.runs.weights import begin

TINY = ["--epochs", "2", "--limit", "120", "--batch-size", "40", "--device", "cpu"]
SMALL = [*TINY, "--set", "model.hidden=[16]"]
FAST = ["--chips", "3", "--times", "25s", "--limit", "60"]

NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, image_size, width=8):
        super().__init__()
        height, columns = image_size
        first = nn.Linear(height * columns, width), nn.BatchNorm1d(width), nn.ReLU()
        self.trunk = nn.Sequential(nn.Flatten(), *first)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.trunk(x))
"""


def weights(run: Path) -> dict[str, torch.Tensor]:
    return storage.load_tensors(Path(run) / "model.safetensors")[0]


def config(run: Path) -> dict:
    return tomllib.loads((Path(run) / "config.toml").read_text())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained perceptron; copy it to change it."""
    folder = tmp_path_factory.mktemp("source") / "a"
    changes = {"model.hidden": [16], "data.limit": 120, "train.epochs": 3, "train.seed": 7}
    run_folders.train_run(run_folders.new_config(changes=changes), folder, device="cpu")
    return folder


# from another network


def test_begins_from_all_weights_but_the_data_s_own(neurosim, here, source):
    options = ["--epochs", "1", "--limit", "90", "--set", "model.hidden=[16]", "--lr", "1e-30"]
    assert neurosim("train", *options, "--init", source, "--out", "b").code == 0
    begun, trained = weights("b"), weights(source)
    for name, tensor in begun.items():
        if name.startswith("normalise."):
            assert not torch.equal(tensor, trained[name]), "of its own 90 samples"
        else:
            torch.testing.assert_close(tensor, trained[name], rtol=0, atol=1e-25)
    recorded = config("b")["train"]["init"]
    digest = storage.sha256_file(source / "model.safetensors")
    assert recorded == {"*": {"run": str(source), "sha256": digest}}
    assert neurosim("evaluate", "b", *FAST).code == 0
    assert neurosim("compare", "b", source, *FAST).code == 0


def test_a_part_under_a_prefix_and_frozen_parameters(neurosim, here, source):
    more = ["--init", f"layers.1={source}", "--freeze", "layers.1.*"]
    assert neurosim("train", *SMALL, *more, "--method", "adversarial", "--out", "b").code == 0
    begun, trained = weights("b"), weights(source)
    assert torch.equal(begun["layers.1.weight"], trained["layers.1.weight"])
    assert torch.equal(begun["layers.1.bias"], trained["layers.1.bias"])
    assert not torch.equal(begun["layers.3.weight"], trained["layers.3.weight"])
    assert config("b")["train"]["freeze"] == ["layers.1.*"]


def test_several_parts_the_longer_prefix_last(here, source):
    other = {name: tensor + 1 for name, tensor in weights(source).items()}
    net = models.create("mlp", num_classes=10, in_chans=1, image_size=8, hidden=(16,))
    storage.save_tensors("other/model.safetensors", other)
    shutil.copy(source / "config.toml", "other")
    made = run_folders.read_config(source)
    both = run_folders.with_init(made, {"layers.3": "other", "layers": source})
    begin(net, both, begun=False)
    state = net.state_dict()
    assert torch.equal(state["layers.1.weight"], weights(source)["layers.1.weight"])
    assert torch.equal(state["layers.3.weight"], other["layers.3.weight"])


def test_resume_gives_the_same_bits_with_or_without_the_source(neurosim, here, source):
    shutil.copytree(source, "from")
    train = ["train", *SMALL, "--init", "from", "--freeze", "layers.1.*", "--method", "noise", "--out"]
    assert neurosim(*train, "whole").code == 0

    made = run_folders.read_config("whole")
    left = [4]

    def stop(progress: object) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    for folder in ("cut", "alone", "changed"):
        left[0] = 4
        with pytest.raises(KeyboardInterrupt):
            run_folders.train_run(made, folder, device="cpu", progress=stop)
    assert neurosim(*train, "cut", "--resume").code == 0
    assert weights("cut").keys() == weights("whole").keys()
    for file in ("model.safetensors", "metrics.jsonl", "config.toml"):
        assert (here / "cut" / file).read_bytes() == (here / "whole" / file).read_bytes()

    storage.save_tensors("from/model.safetensors", {n: t + 1 for n, t in weights(source).items()})
    refused = neurosim(*train, "changed", "--resume")
    assert refused.code == 2
    assert "from/model.safetensors has changed since the run was begun from it" in refused.error
    with pytest.raises(UsageError, match="has changed since the run was begun"):
        run_folders.train_run(made, "changed", device="cpu", resume=True)

    shutil.rmtree("from")
    assert neurosim(*train, "alone", "--resume").code == 0
    assert (here / "alone" / "model.safetensors").read_bytes() == (
        here / "whole" / "model.safetensors"
    ).read_bytes()


def test_a_run_that_has_not_begun_needs_the_source(neurosim, here, source):
    shutil.copytree(source, "from")
    made = run_folders.with_init(run_folders.read_config(source), {WHOLE: "from"})
    shutil.rmtree("from")
    with pytest.raises(RunError, match=r"holds no model\.safetensors"):
        run_folders.train_run(made, "b", resume=True)
    assert not (here / "b").exists()


def test_statistics_of_a_frozen_trunk_and_an_own_network(neurosim, here):
    (here / "nets.py").write_text(NETS)
    own = ["--model", "nets:Net"]
    assert neurosim("train", *own, *TINY, "--out", "a").code == 0
    more = ["--init", "trunk=a", "--freeze", "trunk.*", "--robust", "--seed", "3"]
    assert neurosim("train", *own, *TINY, *more, "--out", "b").code == 0
    before, after = weights("a"), weights("b")
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("trunk.")}
    assert neurosim("evaluate", "b", *own, *FAST).code == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--init", "{source}", "--set", "model.hidden=[8]"], "of shape (16,), the network of shape (8,)"),
        (["--init", "{source}", "--set", "model.hidden=[16, 16]"], "lacks 'layers.5.weight' and 1 more"),
        (["--init", "layer={source}"], "the part 'layer' of the network has no weights"),
        (["--init", "nowhere"], "nowhere is not a run: there is no such folder"),
        (["--init", "a b=c"], "cannot read --init 'a b=c': expected RUN or PREFIX=RUN"),
        (["--init", "{source}", "--init", "{source}"], "--init gives the whole network twice"),
        (["--freeze", "trunk.*"], "freeze: 'trunk.*' matches no parameter of the network"),
        (["--freeze", "*"], "freezing '*' leaves no parameter to train"),
        (["--set", "train.init={}"], "train.init comes from --init and cannot be set"),
        (["--set", "model.fused=true"], "model.fused comes from neurosim fuse and cannot be set"),
        (["--per-class", "3"], "data.limit=120 and data.per_class=3 both choose training samples"),
    ],
)
def test_refusals(neurosim, here, source, options, sentence):
    told = [option.format(source=source) if "{source}" in option else option for option in options]
    answer = neurosim("train", *SMALL, *told, "--out", "b")
    assert answer.code == 2
    assert sentence in answer.error
    assert not (here / "b").exists()


def test_tensors_that_the_network_has_not_are_refused():
    net = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"that holds '1\.weight', which the network has not"):
        begin_from(net, {**net.state_dict(), "1.weight": torch.ones(1)}, WHOLE, "it")


def test_a_trained_parameter_called_normalise_is_taken():
    net = nn.ModuleDict({"normalise": nn.BatchNorm1d(2)})
    theirs = {name: torch.full_like(tensor, 5) for name, tensor in net.state_dict().items()}
    begin_from(net, theirs, WHOLE, "it")
    assert net["normalise"].weight.tolist() == [5, 5]
    assert net["normalise"].running_mean.tolist() == [0, 0], "statistics of the data stay"


def test_nothing_asked_leaves_the_configuration_as_it_was(neurosim, here):
    assert neurosim("train", *SMALL, "--out", "b").code == 0
    found = config("b")
    assert not {"init", "freeze"} & found["train"].keys()
    assert not {"per_class", "task"} & found["data"].keys()
    assert "fused" not in found["model"]


# few samples of each class


def test_per_class(neurosim, here):
    options = ["--epochs", "1", "--set", "model.hidden=[16]", "--set", "data.seed=3"]
    assert neurosim("train", *options, "--per-class", "4", "--out", "b").code == 0
    assert config("b")["data"]["per_class"] == 4
    splits = run_folders.open_run("b").splits()
    assert splits.train.targets.bincount().tolist() == [4] * 10
    assert (len(splits.validation), len(splits.test)) == (144, 360)
    row = json.loads((here / "b" / "metrics.jsonl").read_text())
    assert row["step"] == 1
    many = neurosim("train", *options, "--per-class", "1000", "--out", "c")
    assert many.code == 2
    assert "per_class=1000 is more than" in many.error


# final forms


class Normed(Fusable):
    """A linear layer with a batch normalisation, which becomes one linear layer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs)
        self.wrong = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x))

    def fuse_(self) -> None:
        if isinstance(self.norm, nn.BatchNorm1d):
            weight, bias = fold_batchnorm(self.linear.weight, self.linear.bias, self.norm)
            self.linear.weight.copy_(weight * (1 + self.wrong))
            self.linear.bias.copy_(bias)
            self.norm = nn.Identity()


def fusable(num_classes: int, image_size: tuple[int, int], wrong: float = 0.0) -> nn.Module:
    height, width = image_size
    first = Normed(height * width, 12)
    first.wrong = wrong
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), Normed(12, num_classes))


@pytest.fixture
def fusing(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The options that name the network above, as one of the user's own."""
    (here / "fusing_nets.py").write_text("build = None\n")
    monkeypatch.syspath_prepend(here)
    import fusing_nets  # type: ignore[import-not-found]

    fusing_nets.build = fusable
    return ["--model", "fusing_nets:build"]


def test_a_fused_run_works_like_any_other(neurosim, here, fusing):
    assert neurosim("train", *fusing, *TINY, "--out", "a").code == 0
    answer = neurosim("fuse", "a", *fusing, "--json")
    assert answer.code == 0
    said = answer.json
    assert said["run"] == "a-fused"
    assert 0 < said["relative_difference"] < 1e-5
    assert (said["changed"], said["decisions"]) == (0, 144)

    assert config("a-fused")["model"]["fused"] is True
    digest = storage.sha256_file("a/model.safetensors")
    assert config("a-fused")["fused_from"] == {"run": str(here / "a"), "sha256": digest}
    assert (here / "a-fused" / "metrics.jsonl").read_bytes() == (here / "a" / "metrics.jsonl").read_bytes()
    names = {f"{number}.linear.{part}" for number in (1, 3) for part in ("weight", "bias")}
    assert weights("a-fused").keys() == names
    mean, variance = (weights("a")[f"1.norm.running_{part}"] for part in ("mean", "var"))
    gain = weights("a")["1.norm.weight"] / torch.sqrt(variance + 1e-5)
    expected = (weights("a")["1.linear.bias"] - mean) * gain + weights("a")["1.norm.bias"]
    torch.testing.assert_close(weights("a-fused")["1.linear.bias"], expected)

    assert neurosim("evaluate", "a-fused", *fusing, *FAST).code == 0
    assert "1.linear" in neurosim("explain", "a-fused", *fusing).out
    both = neurosim("compare", "a", "a-fused", *fusing, *FAST, "--json").json["networks"]
    assert both["a"]["digital_accuracy"] == both["a-fused"]["digital_accuracy"]

    again = neurosim("fuse", "a-fused", *fusing)
    assert (again.code, "a-fused is fused already" in again.error) == (2, True)
    there = neurosim("fuse", "a", *fusing)
    assert (there.code, "a-fused exists already" in there.error) == (2, True)
    assert neurosim("fuse", "a", *fusing, "--out", "new/b").code == 0


def test_other_outputs_are_refused_and_nothing_is_written(neurosim, here, fusing):
    wrong = ["--set", "model.wrong=0.01"]
    assert neurosim("train", *fusing, *TINY, *wrong, "--out", "a").code == 0
    answer = neurosim("fuse", "a", *fusing)
    assert answer.code == 1
    assert "the fused network of a gives other outputs: off by up to" in answer.error
    assert not [path for path in here.iterdir() if "fused" in path.name]


def test_nothing_to_fuse(neurosim, here, source):
    answer = neurosim("fuse", source, "--out", "b")
    assert answer.code == 2
    assert answer.error.startswith("error: MLP has nothing to fuse")
    assert not (here / "b").exists()


@pytest.mark.slow
def test_repmlpnet_through_the_command_line(neurosim, here):
    small = ["--model", "repmlpnet-tiny", "--epochs", "1", "--per-class", "4", "--batch-size", "20"]
    assert neurosim("train", *small, "--out", "a").code == 0
    assert neurosim("fuse", "a").code == 0
    assert neurosim("compare", "a", "a-fused", "--chips", "1", "--times", "25s", "--limit", "20").code == 0
