"""Train, evaluate, compare, explain: results, exit codes, damaged folders, stops in the middle."""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TINY = ["--epochs", "2", "--limit", "200", "--set", "model.hidden=[16]", "--batch-size", "50"]
FAST = ["--chips", "4", "--limit", "100"]


def test_a_run_folder_repeats_itself(neurosim, trained, tmp_path):
    answer = neurosim("train", *TINY, "--out", tmp_path / "again", "--json")
    assert answer.code == 0
    assert answer.json["run"] == str(tmp_path / "again")
    assert 0 < answer.json["metrics"]["validation_accuracy"] <= 1
    for name in ("model.safetensors", "metrics.jsonl", "config.toml"):
        assert (tmp_path / "again" / name).read_bytes() == (trained["a"] / name).read_bytes()


def test_another_seed_is_another_network(neurosim, trained, tmp_path):
    assert neurosim("train", *TINY, "--seed", "1", "--out", tmp_path / "b").code == 0
    assert (tmp_path / "b/model.safetensors").read_bytes() != (
        trained["a"] / "model.safetensors"
    ).read_bytes()


def test_the_default_folder_names_data_model_and_method(neurosim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert neurosim("train", *TINY, "--robust", "--set", "method.damp.sigma=0.5", "--epochs", "1").code == 0
    assert (tmp_path / "runs/digits-mlp-robust/model.safetensors").is_file()


def test_a_folder_that_holds_a_run_is_not_written_over(neurosim, runs):
    before = (runs["a"] / "model.safetensors").read_bytes()
    answer = neurosim("train", *TINY, "--out", runs["a"])
    assert answer.code == 2
    assert "--resume" in answer.error
    assert neurosim("train", *TINY, "--out", runs["a"], "--resume").code == 0
    other = neurosim("train", *TINY, "--lr", "0.5", "--out", runs["a"], "--resume")
    assert other.code == 2
    assert "lr was 0.001 and is now 0.5" in other.error
    assert (runs["a"] / "model.safetensors").read_bytes() == before


def test_evaluate_writes_table_picture_and_ledger(neurosim, runs):
    answer = neurosim("evaluate", runs["a"], *FAST, "--times", "25s,1y", "--json")
    assert answer.code == 0
    network = answer.json["networks"]["a"]
    assert [(row["chip"], row["time_s"]) for row in network["chips"]] == [
        (chip, age) for chip in range(4) for age in (25.0, 31_536_000.0)
    ]
    assert {row["samples"] for row in network["chips"]} == {100}
    assert 0 < network["digital_accuracy"] <= 1
    assert network["summary"][0]["p05"] is None, "four chips have no 5th percentile"
    with open(runs["a"] / "chips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in network["chips"]]
    assert (runs["a"] / "chips.svg").read_text().lstrip().startswith("<?xml")
    assert (runs["a"] / "chips.sqlite").is_file()
    assert set(answer.json["files"]) == {"csv", "svg"}


def test_the_ledger_is_used_and_believed_only_if_it_is_the_same_experiment(neurosim, runs, monkeypatch):
    from neurosim.evaluation import blocks

    first = neurosim("evaluate", runs["a"], *FAST, "--json").json
    computed = []
    real = blocks._rows
    monkeypatch.setattr(blocks, "_rows", lambda *a, **k: computed.append(a) or real(*a, **k))
    assert neurosim("evaluate", runs["a"], *FAST, "--resume", "--json").json["networks"] == first["networks"]
    assert computed == []
    assert (
        neurosim("evaluate", runs["a"], *FAST, "--seed", "1", "--json").json["networks"] != first["networks"]
    )
    assert computed


def test_compare_is_paired_and_takes_chips_from_the_ledgers(neurosim, runs, tmp_path):
    alone = neurosim("evaluate", runs["a"], *FAST, "--times", "25s", "--json").json
    both = ["compare", runs["a"], runs["b"], *FAST, "--times", "25s"]
    answer = neurosim(*both, "--out", tmp_path / "c", "--json")
    assert answer.code == 0
    networks = answer.json["networks"]
    assert networks["a"] == alone["networks"]["a"]
    (row,) = answer.json["differences"]
    mean = {n: sum(r["accuracy"] for r in found["chips"]) / 4 for n, found in networks.items()}
    assert row["difference"] == pytest.approx(mean["b"] - mean["a"], abs=1e-12)
    with open(tmp_path / "c/chips.csv", newline="") as file:
        assert {r["network"] for r in csv.DictReader(file)} == {"a", "b"}
    plain = neurosim(*both)
    assert "b - a" in plain.out
    assert str(tmp_path / "a-vs-b" / "chips.svg") in plain.out


def test_require_is_exit_code_3(neurosim, runs):
    assert neurosim("evaluate", runs["a"], *FAST, "--require", "accuracy_min>=0.01").code == 0
    missed = neurosim("evaluate", runs["a"], *FAST, "--require", "accuracy_mean>=0.999", "--json")
    assert missed.code == 3
    assert missed.json["missed"]
    assert "accuracy_mean" in missed.err
    bounded = neurosim("evaluate", runs["a"], *FAST, "--bound", "0.01", "--require", "accuracy_yield>=1")
    assert bounded.code == 0
    assert neurosim("evaluate", runs["a"], *FAST, "--require", "accuracy_p05>=0").code == 3, "too few chips"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--chips", "0"], "at least 1"),
        (["--chips", "-3"], "at least 1"),
        (["--times", "5"], "not a time"),
        (["--times", ""], "no times"),
        (["--times", "1h,60min"], "twice"),
        (["--hardware", "pcm"], "unknown hardware"),
        (["--set", "array.rows=0"], "array.rows"),
        (["--set", "adc.bit=3"], "did you mean 'adc.bits'"),
        (["--require", "accuracy_p5>=0.9"], "did you mean 'accuracy_p05'"),
        (["--require", "accuracy_p05>0.9"], "expected such as"),
        (["--require", "accuracy_yield>=0.9"], "--bound"),
        (["--bound", "2"], "bound"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_wrong_values_are_one_sentence(neurosim, runs, arguments, said):
    answer = neurosim("evaluate", runs["a"], "--limit", "20", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err


def test_wrong_numbers_of_runs(neurosim, runs):
    assert "at least two" in neurosim("compare", runs["a"]).error
    assert "twice" in neurosim("compare", runs["a"], runs["a"]).error


def test_runs_of_equal_names_are_told_apart(neurosim, runs, tmp_path):
    other = shutil.copytree(runs["b"], tmp_path / "elsewhere" / "a")
    answer = neurosim("compare", runs["a"], other, *FAST, "--times", "25s", "--out", tmp_path / "c", "--json")
    assert set(answer.json["networks"]) == {str(runs["a"]), str(other)}


def test_explain_names_layers_effects_and_what_stays_digital(neurosim, runs):
    said = neurosim("explain", runs["a"], "--hardware", "pcm-joshi-2020", "--set", "array.rows=16")
    assert said.code == 0
    assert "layers.1" in said.out
    assert "drift" in said.out
    assert "ReLU" in said.out
    assert neurosim("explain", runs["a"], "--json").json


# damaged and strange folders


def damage_weights(run: Path) -> None:
    raw = bytearray((run / "model.safetensors").read_bytes())
    raw[-5] ^= 1
    (run / "model.safetensors").write_bytes(raw)


def truncate_weights(run: Path) -> None:
    raw = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(raw[: len(raw) // 2])


def other_network(run: Path) -> None:
    text = (run / "config.toml").read_text()
    assert "hidden = [\n    16,\n]" in text
    (run / "config.toml").write_text(text.replace("    16,\n", "    17,\n"))


def unknown_key(run: Path) -> None:
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("epochs", "epoch"))


def truncate_config(run: Path) -> None:
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text[: text.index("input_mean") + 13])


def binary_config(run: Path) -> None:
    (run / "config.toml").write_bytes(b"\xff\xfe\x00")


def no_weights(run: Path) -> None:
    (run / "model.safetensors").unlink()


def other_data(run: Path) -> None:
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace('sha256 = "', 'sha256 = "00'))


def strange_ledger(run: Path) -> None:
    (run / "chips.sqlite").write_text("not a database, but long enough to be read as a header of one.")


@pytest.mark.parametrize(
    ("damage", "code", "said"),
    [
        (damage_weights, 1, "model.safetensors is damaged"),
        (truncate_weights, 1, "model.safetensors is damaged"),
        (no_weights, 1, "training has not ended"),
        (other_network, 1, "does not fit"),
        (unknown_key, 2, "train.epoch"),
        (truncate_config, 2, "damaged"),
        (binary_config, 2, "damaged"),
        (other_data, 1, "not those the run was trained on"),
        (strange_ledger, 2, "not a neurosim ledger"),
    ],
)
def test_damage_is_named_in_one_sentence(neurosim, runs, damage, code, said):
    damage(runs["a"])
    answer = neurosim("evaluate", runs["a"], *FAST)
    assert answer.code == code
    assert said in answer.error
    assert str(runs["a"]) in answer.error or "trained on" in answer.error


def test_a_folder_that_is_not_a_run(neurosim, tmp_path):
    (tmp_path / "holiday.txt").write_text("sea")
    assert "holds no config.toml" in neurosim("evaluate", tmp_path).error
    answer = neurosim("train", *TINY, "--out", tmp_path)
    assert answer.code == 2
    assert "holiday.txt" in answer.error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["holiday.txt"]


# places that cannot be written


def test_a_place_that_cannot_be_written(neurosim, runs, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run", Path("/proc/nowhere/run")):
        answer = neurosim("train", *TINY, "--out", place)
        assert answer.code == 1
        assert "cannot write" in answer.error
        answer = neurosim("evaluate", runs["a"], *FAST, "--times", "25s", "--out", place)
        assert answer.code == 1
        assert "cannot write" in answer.error


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(
            f"a full disk needs a small tmpfs, which this machine refuses: {mounted.stderr.decode().strip()}"
        )
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(neurosim, tiny_disk):
    answer = neurosim("train", *TINY, "--set", "model.hidden=[256]", "--out", tiny_disk / "run")
    assert answer.code == 1
    assert "No space left" in answer.error
    assert not (tiny_disk / "run/model.safetensors").exists()
    assert not list(tiny_disk.rglob("*.tmp"))


# stops in the middle


def command(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "neurosim", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str], code: int) -> str:
    """Wait for the end; the last line of stderr.  A stopped command says nothing on stdout."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err, err
    assert bool(out) == (code == 0)
    return err.splitlines()[-1] if err else ""


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_ctrl_c_while_training_then_resume_gives_the_same_bits(tmp_path):
    long = ["train", "--robust", "--epochs", "12", "--set", "model.hidden=[32]", "--limit", "400"]
    finish(command(*long, "--out", tmp_path / "whole"), code=0)
    stopped = command(*long, "--out", tmp_path / "stopped")
    wait_for(lambda: (tmp_path / "stopped/metrics.jsonl").exists(), stopped)
    stopped.send_signal(signal.SIGINT)
    assert "--resume" in finish(stopped, code=130)
    assert len((tmp_path / "stopped/metrics.jsonl").read_text().splitlines()) < 12
    finish(command(*long, "--out", tmp_path / "stopped", "--resume"), code=0)
    for name in ("model.safetensors", "metrics.jsonl"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("whole", "stopped"))
        assert one == other, name


@pytest.mark.slow
def test_ctrl_c_while_evaluating_then_resume_gives_the_same_rows(runs, neurosim):
    many = ["--chips", "2000", "--times", "25s,1h", "--json"]
    stopped = command("evaluate", runs["a"], *many)
    wait_for(lambda: (runs["a"] / "chips.sqlite").exists() and rows(runs["a"]) > 0, stopped)
    stopped.send_signal(signal.SIGINT)
    finish(stopped, code=130)
    kept = rows(runs["a"])
    assert 0 < kept < 4000
    few = ["--chips", "300", "--times", "25s,1h", "--json"]
    resumed = neurosim("evaluate", runs["a"], *few, "--resume")
    fresh = shutil.copytree(runs["a"], runs["a"].with_name("fresh"))
    (fresh / "chips.sqlite").unlink()
    again = neurosim("evaluate", fresh, *few)
    assert resumed.json["networks"]["a"] == again.json["networks"]["fresh"]


def rows(run: Path) -> int:
    from neurosim.errors import RunError, UsageError
    from neurosim.evaluation import Ledger

    try:
        with Ledger(run / "chips.sqlite", read_only=True) as ledger:
            return sum(len(ledger.rows(key)) for key in ledger.experiments())
    except (RunError, UsageError):  # being made this moment
        return 0


@pytest.mark.slow
def test_ctrl_c_at_any_moment_has_no_traceback(tmp_path):
    """From before torch is imported to after training has begun."""
    for number in range(12):
        process = command("train", "--robust", "--out", tmp_path / str(number))
        time.sleep(0.4 + 0.6 * number)
        process.send_signal(signal.SIGINT)
        finish(process, code=130)


def test_an_interrupt_that_c_swallows_is_remembered():
    from neurosim import interrupts

    went_on = False
    with pytest.raises(KeyboardInterrupt), interrupts.remembered() as check:
        check()
        with contextlib.suppress(KeyboardInterrupt):  # as ctypes does
            signal.raise_signal(signal.SIGINT)
        went_on = True
        check()
        pytest.fail("the check let it pass")
    assert went_on
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_held_back_comes_at_the_end():
    from neurosim import interrupts

    done = False
    with pytest.raises(KeyboardInterrupt), interrupts.held_back():
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done
    with interrupts.held_back():
        pass


@pytest.fixture
def interrupting(tmp_path, monkeypatch):
    """A module that says which of its lines were run, interrupted between the two."""

    def named(name: str, times: int) -> str:
        press = "signal.raise_signal(signal.SIGINT)\n" * times
        text = f"import os, signal\nos.environ[{name!r}] = 'begun'\n{press}os.environ[{name!r}] = 'done'\n"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    monkeypatch.syspath_prepend(tmp_path)
    return named


def test_an_import_is_finished_before_an_interrupt(interrupting):
    """Some C++ of torch's compiler ends the process when it is interrupted while it is imported."""
    from neurosim import interrupts

    name = interrupting("interrupted_once", times=1)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interrupts.outside_imports():
        importlib.import_module(name)
        time.sleep(30)
        pytest.fail("the interrupt did not come back")
    assert time.monotonic() - began < 20, "it waited for the sleep"
    assert os.environ.pop(name) == "done"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_does_not_wait_for_an_import(interrupting):
    from neurosim import interrupts

    name = interrupting("interrupted_twice", times=2)
    with pytest.raises(KeyboardInterrupt), interrupts.outside_imports():
        importlib.import_module(name)
    assert os.environ.pop(name) == "begun"


def test_an_interrupt_outside_imports_comes_at_once():
    from neurosim import interrupts

    with pytest.raises(KeyboardInterrupt), interrupts.outside_imports():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")


def test_an_interrupt_in_an_import_at_the_very_end_is_not_carried_out_of_the_program(
    interrupting, monkeypatch
):
    """What called us, pytest here, is not interrupted later."""
    from neurosim import interrupts

    monkeypatch.setattr(interrupts, "AGAIN_S", 0.5)  # longer than a busy machine needs to leave the block
    name = interrupting("interrupted_last", times=1)
    with interrupts.outside_imports():
        importlib.import_module(name)
    time.sleep(2 * interrupts.AGAIN_S)
    assert os.environ.pop(name) == "done"


@pytest.mark.parametrize("inner", ["remembered", "held_back", "put_off"])
def test_ctrl_c_can_be_put_off_where_it_waits_for_imports(interrupting, inner):
    from neurosim import interrupts
    from neurosim.training.interrupt import put_off

    name = interrupting(f"interrupted_{inner}", times=1)
    manager = put_off if inner == "put_off" else getattr(interrupts, inner)
    with interrupts.outside_imports():
        outer = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), manager() as noted:
            importlib.import_module(name)
            if inner == "put_off":
                noted.check()
            elif inner == "remembered":
                time.sleep(30)
        assert signal.getsignal(signal.SIGINT) is outer
    assert os.environ.pop(name) == "done"


def test_progress_off_a_terminal_is_plain_lines(monkeypatch, neurosim, tmp_path):
    from neurosim.console import Progress

    monkeypatch.setattr(Progress, "EVERY_S", 0.0)
    answer = neurosim("train", *TINY, "--out", tmp_path / "run", "--json")
    assert json.loads(answer.out)
    assert "training: 1 of " in answer.err
    assert "\r" not in answer.err
    assert "\x1b" not in answer.err
