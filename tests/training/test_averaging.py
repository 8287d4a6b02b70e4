"""Averages of weights over steps: what is validated, saved and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosim.storage import load_tensors, read_json_lines
from neurosim.training import method_from, train

X = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)) - 0.5
Y = (X[:, 0] > 0).long()
BATCHES = [(X[k : k + 20], Y[k : k + 20]) for k in range(0, 60, 20)]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def trajectory(epochs: int) -> list[dict[str, Tensor]]:
    """Weights and statistics after every step of plain training."""
    model, seen = network(), []

    def note(progress: Any) -> None:
        if progress.row is None:
            seen.append({k: v.detach().clone() for k, v in model.state_dict().items()})

    train(model, (BATCHES, None), epochs=epochs, lr=0.05, progress=note)
    return seen


def averaged(method: Any, epochs: int, **options: Any) -> tuple[nn.Module, Any]:
    model = network()
    return model, train(model, (BATCHES, None), method=method, epochs=epochs, lr=0.05, **options)


def test_moving_average_by_hand() -> None:
    steps = trajectory(3)
    expected = {k: v.double() for k, v in steps[0].items()}
    for t, step in enumerate(steps[1:], start=1):
        share = 1 - min(0.5, (1 + t) / (10 + t))
        expected = {k: e + share * (step[k].double() - e) for k, e in expected.items()}
    model, _ = averaged(method_from("ema", {"decay": 0.5}), 3)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():  # running statistics too
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(tensor, steps[-1][name])


def test_stochastic_average_is_the_mean_of_the_last_steps() -> None:
    steps = trajectory(4)
    late = [step for k, step in enumerate(steps) if (k / 12) >= 0.5]
    assert len(late) == 6
    model, _ = averaged(method_from("swa", {"start": 0.5}), 4)
    for name, p in model.named_parameters():
        mean = torch.stack([step[name].double() for step in late]).mean(0)
        torch.testing.assert_close(p.detach().double(), mean, rtol=1e-5, atol=1e-6)


def test_no_memory_is_the_last_network() -> None:
    model, _ = averaged(method_from("ema", {"decay": 0.0}), 2)
    last = trajectory(2)[-1]
    assert all(torch.equal(model.state_dict()[name], last[name]) for name in last)


def test_training_goes_on_with_the_weights_and_validates_the_average() -> None:
    plain, with_average = network(), network()
    rows = train(plain, (BATCHES, BATCHES), epochs=3, lr=0.05).history
    found = train(
        with_average, (BATCHES, BATCHES), method=method_from("ema", {"decay": 0.9}), epochs=3, lr=0.05
    )
    assert [row["loss"] for row in found.history] == [row["loss"] for row in rows]
    assert [r["validation_loss"] for r in found.history] != [r["validation_loss"] for r in rows]
    best = found.history[found.best_epoch - 1]
    loss = nn.functional.cross_entropy(with_average(X), Y).item()
    assert loss == pytest.approx(best["validation_loss"], rel=1e-5)


class _StopError(Exception):
    pass


EXTRAS: dict[str, Any] = {
    "ema": (method_from("noise+ema", {"eta": 0.3, "decay": 0.8}), {}),
    "swa": (method_from("noise+swa", {"eta": 0.3, "start": 0.3}), {}),
    "free": (method_from("noise+adversarial", {"adversarial": {"steps": 1, "reuse": True}}), {}),
    "teacher": (method_from("noise+distil", {"teacher": "runs/a"}), {"teacher": True}),
    "clip": (method_from("noise+clip", {"alpha": 1.0}), {}),
    "mismatch": (method_from("noise"), {"validation_mismatch": 0.4}),
}


@pytest.mark.parametrize("stop_at", [4, 7])
@pytest.mark.parametrize("name", EXTRAS)
def test_a_killed_run_ends_with_the_same_bits(name: str, stop_at: int, tmp_path: Path) -> None:
    method, options = EXTRAS[name]

    def run(out: Path, progress: Any = None, resume: bool = False) -> nn.Module:
        model = network()
        given = {**options, **({"teacher": network()} if "teacher" in options else {})}
        train(
            model,
            (BATCHES, BATCHES),
            method=method,
            epochs=4,
            lr=0.05,
            out=out,
            resume=resume,
            checkpoint_every_s=0.0,
            progress=progress,
            **given,
        )
        return model

    count = 0

    def stop(progress: Any) -> None:
        nonlocal count
        count += progress.row is None
        if count == stop_at:
            raise _StopError

    whole = run(tmp_path / "whole")
    with pytest.raises(_StopError):
        run(tmp_path / "cut", stop)
    again = run(tmp_path / "cut", resume=True)
    for name_, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name_])
    for file in ("model.safetensors",):
        a, b = (load_tensors(tmp_path / side / file)[0] for side in ("whole", "cut"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    rows = [read_json_lines(tmp_path / side / "metrics.jsonl") for side in ("whole", "cut")]
    assert rows[0] == rows[1]
