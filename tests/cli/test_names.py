"""What is wrong is said in one sentence with the nearest right name; lists and --json."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "'train'"),
        (["train", "--epoch", "3"], "--epochs"),
        (["train", "--model", "cnnn"], "did you mean 'cnn'"),
        (["train", "--data", "digit"], "did you mean 'digits'"),
        (["train", "--method", "adversarail"], "did you mean 'adversarial'"),
        (["train", "--hardware", "pcm-joshi"], "did you mean 'pcm-joshi-2020'"),
        (["train", "--robust", "--method", "noise"], "leave out"),
        (["train", "--set", "train.lrr=1"], "did you mean 'train.lr'"),
        (["train", "--set", "lr=1"], "train.lr"),
        (["train", "--set", "model.hiddne=[3]"], "did you mean 'hidden'"),
        (["train", "--set", "method.beta=1"], "beta"),
        (["train", "--set", "train.lr"], "expected key=value"),
        (["train", "--set", "model.hidden=[3,"], "not a TOML value"),
        (["train", "--set", "model.num_classes=3"], "comes from the data"),
        (["train", "--set", "train.lr=fast"], "train.lr"),
        (["train", "--epochs", "0"], "train.epochs"),
        (["train", "--lr", "nan"], "train.lr"),
        (["train", "--batch-size", "-1"], "train.batch_size"),
        (["train", "--limit", "0"], "limit"),
        (["train", "--device", "cuad"], "cuad"),
        (["train", "--set", "train.optimizer=adm"], "did you mean 'adam'"),
        (["train", "--data", "nothing.npz"], "nothing.npz"),
        (["hardware", "show", "idael"], "did you mean 'ideal'"),
        (["hardware", "show", "ideal", "--set", "array.row=3"], "did you mean 'array.rows'"),
        (["models", "show", "resnet33"], "did you mean 'resnet32'"),
        (["data", "get", "fashion"], "fashion-mnist"),
        (["evaluate", "nowhere"], "nowhere is not a run"),
        (["evaluate"], "RUN"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(neurosim, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = neurosim(*arguments)
    assert answer.code == 2
    assert answer.error.startswith("error: ")
    assert said in answer.error
    assert list(tmp_path.iterdir()) == [], "nothing may be written"


def test_every_error_of_a_hardware_file_with_its_line(neurosim, tmp_path):
    file = tmp_path / "chip.toml"
    file.write_text('[device]\nkind = "pcm"\ng_maxx = 1\n[array]\nrows = 0\n')
    answer = neurosim("hardware", "check", file)
    assert answer.code == 2
    assert "line 3" in answer.err
    assert "line 5" in answer.err


def test_a_description_shown_can_be_checked_and_shown_again(neurosim, tmp_path):
    file = tmp_path / "chip.toml"
    shown = neurosim("hardware", "show", "pcm-joshi-2020", "--set", "array.rows=128")
    file.write_text(shown.out)
    assert neurosim("hardware", "check", file).code == 0
    assert neurosim("hardware", "show", file).out == shown.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["hardware", "list"],
        ["hardware", "show", "pcm-joshi-2020"],
        ["models", "list"],
        ["models", "show", "cnn"],
        ["data", "list"],
        ["data", "get", "digits"],
        ["doctor"],
        ["version"],
    ],
)
def test_json_is_one_value_on_stdout(neurosim, arguments):
    answer = neurosim(*arguments, "--json")
    assert answer.code == 0
    assert answer.err == ""
    assert answer.json
    plain = neurosim(*arguments)
    assert plain.code == 0
    assert plain.out.strip()


def test_models_show_counts_parameters(neurosim):
    assert neurosim("models", "show", "cnn", "--json").json["totals"]["parameters"] == 493_642


def test_help_imports_nothing_heavy():
    code = """
import sys, time
from neurosim.cli import main
assert main(["--help"]) == 0
assert main(["train", "--help"]) == 0
heavy = {"torch", "numba", "numpy", "scipy", "sklearn", "matplotlib"} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_module_runs_as_a_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "neurosim", "models", "list", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {row["name"] for row in json.loads(done.stdout)} >= {"mlp", "cnn"}


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    command = (
        f"{sys.executable} -m neurosim hardware show pcm-joshi-2020 | head -c 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1)
    assert done.stderr == ""


def test_the_probe_of_aihwkit_says_what_failed():
    import importlib.util

    from neurosim.doctor import probe_aihwkit

    said = probe_aihwkit()
    if importlib.util.find_spec("aihwkit") is None:
        assert "No module named 'aihwkit'" in said
    else:
        assert "compiled tile" in said


def test_the_console_script_is_the_program():
    script = Path(sys.executable).with_name("neurosim")
    if not script.exists():
        pytest.fail("the console script is missing: install with pip install -e .")
