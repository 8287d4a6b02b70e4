"""``neurosim train`` with methods of several parts, teachers, augmentation and schedules."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from neurosim import storage

TINY = [
    "--epochs",
    "2",
    "--limit",
    "100",
    "--set",
    "model.hidden=[8]",
    "--batch-size",
    "50",
    "--device",
    "cpu",
]


def config(run: Path) -> dict[str, Any]:
    return tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def sets(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


# parts and their settings


@pytest.mark.parametrize(
    ("name", "changes", "recorded"),
    [
        (
            "noise+ema",
            ["method.noise.eta=0.5", "method.noise.ramp=0.3", "method.ema.decay=0.9"],
            {"noise": {"eta": 0.5, "ramp": 0.3}, "ema": {"decay": 0.9}},
        ),
        ("noise+ema", ["method.eta=0.5", "method.decay=0.9"], {"noise": {"eta": 0.5}, "ema": {"decay": 0.9}}),
        (
            "noise+adversarial+clip+swa",
            ["method.eta=0.2", "method.adversarial.steps=1", "method.alpha=1.5", "method.swa.start=0.5"],
            {"noise": {"eta": 0.2}, "adversarial": {"steps": 1, "beta": 0.25}, "clip": {"alpha": 1.5}}
            | {"swa": {"start": 0.5}},
        ),
        (
            "noise+adversarial",
            ['method.noise.parameters=["layers.*"]', "method.adversarial.steps=1"],
            {"noise": {"parameters": ["layers.*"]}, "adversarial": {"steps": 1}},
        ),
        ("sam", ["method.rho=0.1"], {"rho": 0.1}),
    ],
)
def test_settings_of_parts_act_and_are_recorded(neurosim, tmp_path, name, changes, recorded):
    run = tmp_path / "run"
    answer = neurosim("train", *TINY, "--method", name, *sets(*changes), "--out", run)
    assert answer.code == 0, answer.err
    table = config(run)["method"]
    assert table["name"] == name
    for part, values in recorded.items():
        found = table[part]
        assert {key: found[key] for key in values} == values if isinstance(values, dict) else found == values
    assert neurosim("train", *TINY, "--method", name, "--out", tmp_path / "plain").code == 0
    assert rows(run) != rows(tmp_path / "plain")


def test_robust_takes_settings_of_its_parts(neurosim, tmp_path):
    changes = sets("method.damp.sigma=0.6", "method.adversarial.steps=1", "method.ema.decay=0.9")
    answer = neurosim("train", *TINY, "--robust", *changes, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    table = config(tmp_path / "run")["method"]
    assert (table["damp"]["sigma"], table["damp"]["ramp"]) == (0.6, 0.3)
    assert (table["adversarial"]["steps"], table["ema"]["decay"]) == (1, 0.9)


def test_a_run_of_several_parts_resumes_with_the_same_settings_only(neurosim, tmp_path):
    run = tmp_path / "run"
    words = ["train", *TINY, "--method", "noise+ema", *sets("method.noise.eta=0.5"), "--out", run]
    assert neurosim(*words).code == 0
    bits = (run / "model.safetensors").read_bytes()
    assert neurosim(*words, "--resume").code == 0
    assert (run / "model.safetensors").read_bytes() == bits
    other = neurosim(*words, "--resume", *sets("method.noise.eta=0.4"))
    assert other.code == 2
    assert "noise.eta was 0.5 and is now 0.4" in other.error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--method", "noise+ema", *sets("method.noise.etta=1")],
            "unknown parameter of method 'noise' 'etta': did you mean 'eta'?",
        ),
        (
            ["--method", "noise+ema", *sets("method.noize.eta=1")],
            "unknown parameter of method 'noise+ema' 'noize': did you mean 'noise.eta'?",
        ),
        (
            ["--method", "noise+adversarial", *sets("method.adversarial.eta=0.5")],
            "method 'adversarial': eta is for it alone; in a combination give it to 'noise'",
        ),
        (
            ["--method", "noise+adversarial", *sets('method.parameters=["*"]')],
            "method 'noise+adversarial': parameters may be that of several parts: say noise.parameters or",
        ),
        (["--method", "noise+damp"], "methods 'noise' and 'damp' do not go together"),
        (["--method", "noise+noise"], "method 'noise+noise': expected each part once"),
        (["--method", "noise+em"], "unknown method 'em': did you mean 'ema'?"),
        (
            ["--method", "noise+ema", *sets("method.noise=3")],
            "expected the parameters of method 'noise'; got 3",
        ),
        (
            ["--method", "noise", *sets('method.parameters=["layer.1.weight"]')],
            "parameters: 'layer.1.weight' matches no parameter of the network: did you mean 'layers.1.w",
        ),
        (
            ["--method", "noise", *sets("method.parameters=layers")],
            "method 'noise': expected parameters, a list of names or patterns",
        ),
        (
            sets("train.augment.flap=true"),
            "unknown key of train.augment 'flap': did you mean 'flip'? (known: erase, flip, rotate_deg, ",
        ),
        (
            sets("train.augment={ flap = true }"),
            "unknown key of train.augment 'flap': did you mean 'flip'? (known: erase, flip, rotate_deg, ",
        ),
        (sets("train.augment.shift=1.5"), "expected augment.shift, an integer >= 0; got augment.shift=1.5"),
        (sets("train.augment=3"), "the configuration: expected a table of fields; got train.augment=3"),
        (sets("train.lr_schedule=step-2"), "lr_schedule 'step-2': expected the fraction of the epochs"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_leaves_nothing(neurosim, tmp_path, words, said):
    answer = neurosim("train", *TINY, *words, "--out", tmp_path / "run")
    assert answer.code == 2
    assert answer.error.startswith(f"error: {said}")
    assert not (tmp_path / "run").exists()


# augmentation and schedules


def test_augmentation_acts_and_is_recorded(neurosim, tmp_path):
    for name, more in {
        "plain": [],
        "altered": sets("train.augment.flip=true", "train.augment.shift=1"),
    }.items():
        assert neurosim("train", *TINY, *more, "--out", tmp_path / name).code == 0
    assert config(tmp_path / "altered")["train"]["augment"] == {"flip": True, "shift": 1}
    assert "augment" not in config(tmp_path / "plain")["train"]
    assert rows(tmp_path / "altered") != rows(tmp_path / "plain")


def test_a_step_says_when_the_rate_drops(neurosim, tmp_path):
    words = ["--epochs", 4, "--lr", 1e-3, *sets("train.lr_schedule=step-0.75")]
    answer = neurosim("train", *TINY, *words, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert [row["lr"] for row in rows(tmp_path / "run")] == pytest.approx([1e-3] * 3 + [1e-4])


# teachers


def test_a_teacher_is_recorded_with_its_digest(neurosim, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", *TINY, "--method", "noise+distil", *sets("method.teacher=a"), "--out", "pupil"]
    assert neurosim(*words).code == 0
    found = config(tmp_path / "pupil")
    assert found["method"]["distil"] == {"teacher": "a", "alpha": 0.7, "temperature": 2.0}
    digest = storage.sha256_file(runs["a"] / "model.safetensors")
    assert found["train"]["teacher"] == {"run": str(tmp_path / "a"), "sha256": digest}
    assert neurosim("train", *TINY, "--method", "noise", "--out", "untaught").code == 0
    assert rows(tmp_path / "pupil") != rows(tmp_path / "untaught")
    again = [*words[:-1], "again"]
    assert neurosim(*again).code == 0
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("pupil", "again")]
    assert weights[0] == weights[1]


def test_another_teacher_under_the_same_name_is_refused(neurosim, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", *TINY, "--method", "distil", *sets("method.teacher=a"), "--out", "pupil"]
    assert neurosim(*words).code == 0
    (runs["a"] / "model.safetensors").write_bytes((runs["b"] / "model.safetensors").read_bytes())
    answer = neurosim(*words, "--resume")
    assert answer.code == 2
    assert "train.teacher.sha256 was" in answer.error


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ([], 2, "method 'distil' needs a teacher: expected a run's folder, --set method.teacher=RUN"),
        (["method.teacher=none"], 2, "is not a run: there is no such folder"),
        (["method.teacher=untrained"], 1, "holds no model.safetensors: its training has not ended"),
        (["train.teacher=a"], 2, "train.teacher comes from method.teacher and cannot be set"),
        (["method.teacher=3"], 2, "method 'distil': expected teacher, a run's folder; got 3"),
    ],
)
def test_wrong_teachers_are_one_sentence(neurosim, runs, tmp_path, monkeypatch, changes, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained" / "config.toml").write_bytes((runs["a"] / "config.toml").read_bytes())
    answer = neurosim("train", *TINY, "--method", "noise+distil", *sets(*changes), "--out", "pupil")
    assert answer.code == code
    assert said in answer.error
    assert not (tmp_path / "pupil").exists()
