"""Networks of the user's own: only the command line names what is imported; every mistake is one sentence."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import neurosim as ns
from neurosim import runs as run_folders
from neurosim import storage
from neurosim.errors import RunError, UsageError
from neurosim.models import OwnModel, is_own, own_model

ROOT = Path(__file__).resolve().parents[2]
OWN = ["--model", "mypkg.nets:build"]
DIGITS = ["--data", "digits"]
FAST = ["--chips", "4", "--times", "25s", "--limit", "100"]
TINY = ["--epochs", "1", "--limit", "200", "--batch-size", "50"]

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_chans, image_size, width=16):
        super().__init__()
        height, columns = image_size
        self.first = nn.Linear(in_chans * height * columns, width)
        self.last = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())

def build(num_classes, in_chans, image_size, width=16):
    return Net(num_classes, in_chans, image_size, width)

class Makers:
    @staticmethod
    def small(num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

def normalised(num_classes, input_mean, input_std):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    net.register_buffer("mean", torch.tensor(input_mean))
    net.register_buffer("std", torch.tensor(input_std))
    return net

def seeded(num_classes, *, seed, **options):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    net.register_buffer("told", torch.tensor([float(seed), *options.get("extra", [])]))
    return net

def tied(num_classes):
    layers = nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, num_classes)
    net = nn.Sequential(nn.Flatten(), *layers)
    net[3].weight = net[1].weight
    return net

number = 7
network = nn.Linear(2, 2)

def nothing(): pass
def text(): return "a network"
def raises(num_classes): return [][num_classes]
def exits(): raise SystemExit("enough")
def needs(num_classes, depth): return nn.Linear(64, num_classes)
def by_position(depth, /): return nn.Linear(64, depth)
def imagenet(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 1000))
def photos(num_classes): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))
def pair(num_classes): return Pair()

class Pair(nn.Module):
    def forward(self, x): return x, x
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a package ``mypkg``, forgotten afterwards."""
    package = tmp_path / "mypkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path, "the working folder stays off the module path"
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def trained_own(own: Path, neurosim) -> Path:
    assert neurosim("train", *OWN, *TINY, "--set", "model.width=8").code == 0
    return own / "runs" / "digits-mypkg.nets.build-standard"


def weights_of(name: str, **options: object) -> dict[str, torch.Tensor]:
    told = {"num_classes": 10, "in_chans": 1, "image_size": (8, 8), "input_mean": 0.0, "input_std": 1.0}
    return own_model(name).create({**told, **options}, seed=5).state_dict()


# a run with a network of one's own


def test_train_then_evaluate_explain_and_compare(neurosim, trained_own):
    config = tomllib.loads((trained_own / "config.toml").read_text())
    assert config["model"]["name"] == "mypkg.nets:build"
    assert config["model"]["width"] == 8
    tensors, _ = storage.load_tensors(trained_own / "model.safetensors")
    assert tensors["first.weight"].shape == (8, 64)

    answer = neurosim("evaluate", trained_own, *OWN, *FAST, "--json")
    assert answer.code == 0
    network = answer.json["networks"][trained_own.name]
    assert len(network["chips"]) == 4
    assert (trained_own / "chips.svg").is_file()

    assert "first" in neurosim("explain", trained_own, *OWN).out

    assert neurosim("train", *TINY, "--set", "model.hidden=[16]", "--out", "zoo").code == 0
    both = neurosim("compare", trained_own, "zoo", *OWN, *FAST, "--json")
    assert both.code == 0
    assert both.json["networks"][trained_own.name]["chips"] == network["chips"]


def test_compare_of_two_own_networks_takes_both_names(neurosim, trained_own):
    small = ["--model", "mypkg.nets:Makers.small"]
    assert neurosim("train", *small, *TINY, "--out", "small").code == 0
    assert neurosim("compare", trained_own, "small", *OWN, *small, *FAST).code == 0
    alone = neurosim("compare", trained_own, "small", *OWN, *FAST)
    assert alone.code == 2
    assert "add --model mypkg.nets:Makers.small" in alone.error


def test_training_resumes_and_repeats(neurosim, trained_own):
    assert neurosim("train", *OWN, *TINY, "--set", "model.width=8", "--resume").code == 0
    assert neurosim("train", *OWN, *TINY, "--set", "model.width=8", "--out", "again").code == 0
    for name in ("model.safetensors", "metrics.jsonl", "config.toml"):
        assert (Path("again") / name).read_bytes() == (trained_own / name).read_bytes(), name


def test_shards_of_an_own_network_are_merged(neurosim, trained_own):
    for part in ("1/2", "2/2"):
        assert neurosim("evaluate", trained_own, *OWN, *FAST, "--shard", part).code == 0
    ledgers = sorted(trained_own.glob("chips-shard-*.sqlite"))
    assert "add --model mypkg.nets:build" in neurosim("merge", trained_own, *ledgers).error
    assert neurosim("merge", trained_own, *ledgers, *OWN, "--json").json["new"] == 4


# a network of one's own without a run


def test_evaluate_without_a_run(neurosim, own):
    save_file(weights_of("mypkg.nets:build"), own / "trained.safetensors")
    one = ["evaluate", *OWN, *DIGITS, *FAST, "--weights", "trained.safetensors", "--json"]
    answer = neurosim(*one)
    assert answer.code == 0, answer.err
    assert answer.json["files"]["csv"] == str(Path("runs/digits-mypkg.nets.build/chips.csv"))
    assert (own / "runs/digits-mypkg.nets.build/chips.sqlite").is_file()

    splits = ns.data.load("digits")
    told = {"num_classes": 10, "in_chans": 1, "image_size": (8, 8)}
    model = own_model("mypkg.nets:build").create(told, seed=5)
    net = ns.deploy(model, ns.hardware("pcm-joshi-2020"), calibration=splits.train[:1000].inputs)
    table = ns.evaluate(net, ns.data.Batches(splits.test[:100], 500), chips=4, times_s=[25.0])
    assert answer.json["networks"]["mypkg.nets:build"]["chips"] == table.rows()

    elsewhere = neurosim(*one, "--out", "there", "--bound", "0.5", "--require", "accuracy_mean>=0.999")
    assert elsewhere.code == 3
    assert (own / "there/chips.sqlite").is_file()


def test_hardware_and_model_take_their_own_settings(neurosim, own):
    settings = ["--set", "model.width=8", "--set", "array.rows=32"]
    said = neurosim("explain", *OWN, *DIGITS, *settings, "--json").json
    assert next(layer for layer in said["layers"] if layer["name"] == "first")["tiles"] == 2
    assert neurosim("evaluate", *OWN, *DIGITS, *FAST, *settings, "--seed", "1").code == 0
    wrong = neurosim("explain", *OWN, *DIGITS, "--set", "array.row=32")
    assert "did you mean 'array.rows'" in wrong.error


@pytest.mark.parametrize("name", ["Net", "Makers.small", "lazy"])
def test_classes_nested_names_and_lazy_layers(neurosim, own, name):
    assert neurosim("evaluate", "--model", f"mypkg.nets:{name}", *DIGITS, *FAST).code == 0


def test_what_the_network_prints_stays_off_stdout(neurosim, own):
    noisy = NETS.replace("        return self.last", "        print('forward')\n        return self.last")
    (own / "mypkg/nets.py").write_text(f"print('imported')\n{noisy}")
    answer = neurosim("evaluate", *OWN, *DIGITS, *FAST, "--json")
    assert answer.json
    assert "imported" in answer.err
    assert "forward" in answer.err


def test_what_a_callable_is_told(own):
    told = {"num_classes": 10, "in_chans": 1, "image_size": (8, 8), "input_mean": (0.3,), "input_std": (0.4,)}
    net = own_model("mypkg.nets:normalised").create(told)
    assert net.mean.tolist() == pytest.approx([0.3])
    assert net.std.tolist() == pytest.approx([0.4])
    seeded = own_model("mypkg.nets:seeded")
    assert seeded.create({**told, "extra": [2.0]}, seed=9).told.tolist() == [9.0, 2.0]
    same = [seeded.create(told, seed=s).state_dict()["1.weight"] for s in (1, 1, 2)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])
    state = torch.get_rng_state()
    seeded.create(told)
    assert torch.equal(state, torch.get_rng_state())


def test_a_callable_from_python_needs_no_import(own):
    def build(num_classes: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))

    mine = OwnModel("here:build", build)
    config = run_folders.new_config(
        model="here:build", changes={"train.epochs": 1, "data.limit": 100}, own=[mine]
    )
    run_folders.train_run(config, "run", own=[mine])
    run = run_folders.open_run("run", own=[mine])
    found = run_folders.evaluate_run(run, ns.hardware("ideal"), chips=1, times_s=[0.0], limit=50)
    assert len(found.table.rows()) == 1
    with pytest.raises(UsageError, match="add --model here:build"):
        run_folders.open_run("run")


def test_the_program_finds_the_working_folder_and_so_do_its_workers(own):
    script = Path(sys.executable).with_name("neurosim")
    done = subprocess.run(
        [script, "evaluate", *OWN, *DIGITS, *FAST, "--workers", "2", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["networks"]["mypkg.nets:build"]["chips"]) == 4


def test_the_page_about_it_works_as_written(own, neurosim):
    text = (ROOT / "docs/own-network.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    module, *python = [body for language, body in blocks if language == "python"]
    (own / "nets.py").write_text(module)
    exec("\n".join([module, *python]), {"__name__": "page"})
    lines = [line for language, body in blocks if language == "bash" for line in body.splitlines()]
    assert len(lines) == 5
    few = {"evaluate": ["--chips", "2", "--limit", "50"], "train": ["--epochs", "1", "--limit", "100"]}
    for line in lines:
        words = shlex.split(line)[1:]
        answer = neurosim(*words, *few.get(words[0], []))
        assert answer.code == 0, answer.err


# weights


def save_pickle(path: Path) -> None:
    torch.save({"last.bias": torch.zeros(10)}, path)


def save_old_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


def save_others(path: Path) -> None:
    save_file({"first.weight": torch.zeros(16, 64), "other": torch.zeros(1)}, path)


def save_more(path: Path) -> None:
    save_file({**weights_of("mypkg.nets:build"), "head": torch.zeros(1)}, path)


def save_other_shape(path: Path) -> None:
    save_file(weights_of("mypkg.nets:build", width=9), path)


def save_noise(path: Path) -> None:
    path.write_bytes(b"noise" * 20)


def save_altered(path: Path) -> None:
    storage.save_tensors(path, weights_of("mypkg.nets:build"))
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("save", "file", "code", "said"),
    [
        (None, "none.safetensors", 2, "there is no file none.safetensors"),
        (save_pickle, "w.pt", 2, "torch.load('w.pt', weights_only=True), 'w.safetensors')"),
        (save_pickle, "w.safetensors", 2, "is a pickle, which can run code"),
        (save_old_pickle, "w.pth", 2, "safetensors.torch.save_file("),
        (save_noise, "w.pkl", 2, "is a pickle"),
        (save_others, "w.safetensors", 2, "the file lacks 'first.bias' and 2 more"),
        (save_more, "w.safetensors", 2, "the file holds 'head', which the network has not"),
        (save_other_shape, "w.safetensors", 2, "has 'first.bias' of shape (9,), the network of shape (16,)"),
        (save_noise, "w.safetensors", 1, "w.safetensors is damaged or not a safetensors file"),
        (save_altered, "w.safetensors", 1, "do not match the checksum inside it"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(own, neurosim, save, file, code, said, monkeypatch):
    if save:
        save(own / file)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("unpickled"))
    answer = neurosim("explain", *OWN, *DIGITS, "--weights", file)
    assert answer.code == code
    assert said in answer.error
    assert not (own / "runs").exists()


def test_a_tensor_that_is_used_twice_may_be_there_once(own):
    state = weights_of("mypkg.nets:tied")
    path = own / "tied.safetensors"
    save_file({name: tensor for name, tensor in state.items() if name != "3.weight"}, path)
    told = {"num_classes": 10, "in_chans": 1, "image_size": (8, 8)}
    net = own_model("mypkg.nets:tied").create(told, seed=6)
    run_folders.load_weights(net, path, "tied")
    assert torch.equal(net.state_dict()["3.weight"], state["3.weight"])
    save_file({"1.weight": state["1.weight"]}, path)
    with pytest.raises(UsageError, match=r"the file lacks '1\.bias'"):
        run_folders.load_weights(net, path, "tied")


def test_any_header_length_is_read(own):
    """A length of 640 bytes begins with 80 02, as a pickle does."""
    for size in range(1, 700, 8):
        save_file({"t": torch.zeros(2)}, own / "x.safetensors", metadata={"note": "x" * size})
        assert storage.read_tensors(own / "x.safetensors")["t"].shape == (2,)
    (own / "cut.safetensors").write_bytes((own / "x.safetensors").read_bytes()[:-1])
    with pytest.raises(RunError, match="damaged"):
        storage.read_tensors(own / "cut.safetensors")


# mistakes


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mypkg.nets:", "expected module:callable, such as mypkg.nets:build"),
        (":build", "expected module:callable"),
        ("mypkg/nets.py:build", "expected module:callable"),
        ("mypkg.nets.py:build", "expected module:callable"),
        ("nowhere.nets:build", "there is no module 'nowhere.nets', neither in"),
        ("mypkg.netz:build", "there is no module 'mypkg.netz'"),
        (
            "broken:build",
            "the module broken failed when it was imported: ZeroDivisionError: division by zero",
        ),
        ("broken:build", "(broken.py, line 2)"),
        ("bad_syntax:build", "the module bad_syntax failed when it was imported: SyntaxError"),
        ("lacks:build", "ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("leaves:build", "failed when it was imported: SystemExit: bye"),
        ("mypkg.nets:biuld", "has no 'biuld': did you mean 'build'?"),
        ("mypkg.nets:Makers.smal", "has no 'smal': did you mean 'small'?"),
        ("mypkg.nets:zzz", "has no 'zzz': expected a function or class that is defined in it"),
        ("mypkg.nets:number", "mypkg.nets:number is an object of type int: expected a function or class"),
        (
            "mypkg.nets:network",
            "mypkg.nets:network is an object of type Linear: expected a function or class",
        ),
        ("mypkg.nets:nothing", "mypkg.nets:nothing returned None: expected a torch module"),
        ("mypkg.nets:text", "mypkg.nets:text returned an object of type str: expected a torch module"),
        (
            "mypkg.nets:raises",
            "failed when it was called: IndexError: list index out of range (nets.py, line",
        ),
        ("mypkg.nets:exits", "failed when it was called: SystemExit: enough"),
        ("mypkg.nets:needs", "needs the argument 'depth', which neurosim does not have (it has num_classes"),
        ("mypkg.nets:needs", "give it with --set model.depth=VALUE"),
        ("mypkg.nets:by_position", "takes 'depth' by position only"),
        ("mypkg.nets:imagenet", "gives outputs of shape (2, 1000) for two samples: expected shape (2, 10)"),
        (
            "mypkg.nets:photos",
            "cannot read the data, inputs of shape (2, 1, 8, 8) for two samples: RuntimeError",
        ),
        ("mypkg.nets:pair", "gives outputs of type tuple for two samples"),
        ("builtins:iter", "builtins:iter cannot be called: Python does not know its arguments"),
        ("os:system", "os:system needs the argument 'command', which neurosim does not have"),
    ],
)
@pytest.mark.parametrize("command", [["train"], ["evaluate", *DIGITS], ["explain", *DIGITS]])
def test_every_mistake_is_one_sentence(own, neurosim, command, name, said):
    (own / "broken.py").write_text("import torch\n1 / 0\n")
    (own / "bad_syntax.py").write_text("def build(:\n")
    (own / "lacks.py").write_text("import not_installed_anywhere\n")
    (own / "leaves.py").write_text("raise SystemExit('bye')\n")
    answer = neurosim(*command, "--model", name)
    assert answer.code == 2
    assert answer.error.startswith("error: ")
    assert said in answer.error
    assert not (own / "runs").exists(), "nothing may be written"


@pytest.mark.parametrize("fault", ["raise KeyError('scale')", "x @ x.flatten(1)"])
def test_a_network_that_fails_on_real_data_is_one_sentence(own, neurosim, fault):
    broken = NETS.replace(
        "        return self.last", f"        if x.any(): {fault}\n        return self.last"
    )
    (own / "mypkg/nets.py").write_text(broken)
    for command in (["evaluate", *DIGITS, *FAST], ["explain", *DIGITS], ["train"]):
        answer = neurosim(*command, *OWN)
        assert answer.code == 1
        assert "error: the network of mypkg.nets:build failed: " in answer.err
        assert "(nets.py, line 13)" in answer.err
        assert "Traceback" not in answer.err


def test_a_defect_of_neurosim_is_not_blamed_on_the_network(own, neurosim, monkeypatch):
    from neurosim.evaluation import blocks

    monkeypatch.setattr(blocks, "score", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        neurosim("evaluate", *OWN, *DIGITS, *FAST)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", *OWN], "--model mypkg.nets:build without a RUN needs --data, such as --data digits"),
        (["explain", *OWN], "without a RUN needs --data"),
        (["evaluate", *DIGITS], "expected a RUN (a folder made by neurosim train), or --model"),
        (["explain"], "expected a RUN"),
        (["evaluate", *OWN, *OWN, *DIGITS], "without a RUN, --model names one network; got 2"),
        (["evaluate", *OWN, "--data", "digit"], "did you mean 'digits'"),
        (["evaluate", "--model", "mlp", *DIGITS], "cannot read the network 'mlp': expected module:callable"),
        (["evaluate", *OWN, *DIGITS, "--shard", "1/2"], "--shard needs a RUN"),
        (["evaluate", *OWN, *DIGITS, "--set", "model.widht=3"], "did you mean 'width'"),
        (["train", *OWN, "--set", "model.widht=3"], "did you mean 'width'"),
        (["evaluate", *OWN, *DIGITS, "--set", "model.num_classes=3"], "comes from the data"),
        (["evaluate", *OWN, *DIGITS, "--set", "model.seed=3"], "comes from --seed"),
        (["train", *OWN, "--set", "model.seed=3"], "comes from --seed"),
        (["train", "--set", "model.seed=3"], "comes from --seed"),
        (["train", *OWN, "--set", "model.input_mean=[0.5]"], "unknown option of model 'mypkg.nets:build'"),
        (["train", "--set", "model.name=mypkg.nets:build"], "add --model mypkg.nets:build"),
        (["train", *OWN, "--set", "model.width=wide"], "failed when it was called: TypeError"),
        (["compare", "a", *OWN], "at least two"),
    ],
)
def test_wrong_use_is_one_sentence(own, neurosim, arguments, said):
    answer = neurosim(*arguments)
    assert answer.code == 2
    assert said in answer.error
    assert not (own / "runs").exists(), "nothing may be written"


def test_options_of_a_network_without_a_run_are_refused_with_one(own, neurosim, runs):
    for command in ("evaluate", "explain"):
        assert "a run has its own" in neurosim(command, runs["a"], *DIGITS).error
        assert "a run has its own" in neurosim(command, runs["a"], "--weights", "w.safetensors").error
        answer = neurosim(command, runs["a"], *OWN)
        assert "--model mypkg.nets:build is in none of the runs given: they record 'mlp'" in answer.error


# files import nothing


HOSTILE = [
    "os:system",
    "evil:build",
    "evil.deep:build",
    "evil:Made.build",
    "evil:build\n",
    "evil.build",
    "evil",
]


def spoil(run: Path, name: str) -> None:
    """Make a run record another network."""
    text = (run / "config.toml").read_text()
    assert 'name = "mlp"' in text
    (run / "config.toml").write_text(text.replace('name = "mlp"', f"name = {json.dumps(name)}"))


@pytest.fixture
def evil(own: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the working folder, which is even on the module path, that leaves a mark when imported."""
    (own / "evil").mkdir()
    (own / "evil/__init__.py").write_text(
        "open('mark', 'w').close()\ndef build(**k): open('mark', 'w').close()\n"
    )
    (own / "evil/deep.py").write_text("")
    monkeypatch.setattr(os, "system", lambda *a: pytest.fail("called"))
    return own


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_run_imports_nothing(evil, neurosim, runs, name, monkeypatch):
    monkeypatch.syspath_prepend(evil)
    spoil(runs["a"], name)
    for command in (
        ["evaluate", runs["a"], *FAST],
        ["evaluate", runs["b"], runs["a"], *FAST],
        ["compare", runs["a"], runs["b"], *FAST],
        ["explain", runs["a"]],
        ["merge", runs["a"], "some.sqlite"],
        ["train", *TINY, "--out", runs["a"], "--resume"],
    ):
        answer = neurosim(*command)
        assert answer.code == 2, command
        if is_own(name) and command[0] != "train":
            assert f"add --model {name} if you trust that code" in answer.error
            assert str(runs["a"]) in answer.error
    assert not (evil / "mark").exists()
    assert not {module for module in sys.modules if module.split(".")[0] == "evil"}
    monkeypatch.undo()


def test_another_name_on_the_command_line_does_not_open_it(evil, neurosim, runs):
    spoil(runs["a"], "evil:build")
    answer = neurosim("evaluate", runs["a"], *OWN, *FAST)
    assert answer.code == 2
    assert "add --model evil:build" in answer.error
    assert not (evil / "mark").exists()


def test_options_in_a_file_are_values_for_the_callable_and_nothing_else(neurosim, trained_own):
    path = trained_own / "config.toml"
    good = path.read_text()
    for line, said in [
        ("self = 3", "unknown option of model 'mypkg.nets:build': 'self'"),
        ("seed = 3", "unknown key 'model.seed'"),
        ('width = "os:system"', "failed when it was called: TypeError"),
    ]:
        path.write_text(good.replace("width = 8", line))
        answer = neurosim("explain", trained_own, *OWN)
        assert answer.code == 2
        assert said in answer.err
        assert "Traceback" not in answer.err


def test_python_sees_no_import_of_what_a_file_names(evil, runs):
    """Every import of the process, by Python's own audit."""
    spoil(runs["a"], "evil:build")
    code = f"""
import sys
seen = []
sys.addaudithook(lambda event, arguments: event == "import" and seen.append(str(arguments[0])))
from neurosim.cli import main
for command in (["evaluate", {str(runs["a"])!r}], ["explain", {str(runs["a"])!r}]):
    assert main(command) == 2
assert seen
assert not [name for name in seen if "evil" in name], seen
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("add --model evil:build") == 2


def test_only_the_command_line_imports_what_a_user_names():
    callers = {
        str(path.relative_to(ROOT / "neurosim"))
        for path in (ROOT / "neurosim").rglob("*.py")
        if "own_model(" in path.read_text(encoding="utf-8")
    }
    assert callers == {str(Path("commands/opening.py")), str(Path("models/own.py"))}


@pytest.mark.parametrize("name", ["os:system\nx", "a b:c", "a:b:c", "a:1b", "a..b:c", ":", "a:", "\x1b[2J:x"])
def test_names_that_are_none(name):
    assert not is_own(name)
    with pytest.raises(UsageError, match="expected module:callable"):
        own_model(name)
