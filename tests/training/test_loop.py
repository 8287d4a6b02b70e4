"""What the loop learns, tells and refuses."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from neurosim.errors import RunError, UsageError
from neurosim.storage import load_tensors, read_json_lines
from neurosim.training import PAPER, ForwardNoise, Progress, Step, train
from neurosim.training.optim import clip_adaptive_, schedule_from
from neurosim.training.sources import source

X = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X @ torch.tensor([3.0, -2.0, 1.0, 0.5]) > 1).long()
DATA = [(X[i : i + 10], Y[i : i + 10]) for i in range(0, 40, 10)]
HELD = [(X[40:50], Y[40:50]), (X[50:], Y[50:])]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))


@pytest.mark.parametrize("method", ["standard", "noise", "adversarial", PAPER], ids=str)
def test_every_method_learns(method: Any) -> None:
    model = network()
    result = train(model, (DATA, HELD), method=method, epochs=30, lr=0.02)
    assert result.best_validation_accuracy is not None
    assert result.best_validation_accuracy >= 0.9
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 2
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_rows_passes_and_best(tmp_path: Any) -> None:
    model = network()
    result = train(model, {"train": DATA, "validation": HELD}, method=PAPER, epochs=6, lr=0.02, out=tmp_path)
    assert result.passes == 13 * 6 * len(DATA)
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in result.history] == [4, 8, 12, 16, 20, 24]
    assert list(result.history[0]) == [
        "epoch", "step", "lr", "loss", "task_loss", "robust_loss", "validation_loss", "validation_accuracy"
    ]  # fmt: skip
    best = max(result.history, key=lambda row: row["validation_accuracy"])  # the first of equals
    assert (result.best_epoch, result.best_validation_accuracy) == (
        best["epoch"],
        best["validation_accuracy"],
    )
    with torch.no_grad():
        logits = torch.cat([model(x) for x, _ in HELD])
    assert (logits.argmax(1) == Y[40:]).double().mean().item() == pytest.approx(best["validation_accuracy"])
    assert nn.functional.cross_entropy(logits, Y[40:]).item() == pytest.approx(best["validation_loss"])
    tensors, meta = load_tensors(tmp_path / "model.safetensors")
    assert meta["epoch"] == str(best["epoch"])
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    timing = read_json_lines(tmp_path / "timing.jsonl")
    assert [row["samples"] for row in timing] == [40] * 6
    assert result.seconds >= sum(row["seconds"] for row in timing) * 0.99


def test_the_last_without_validation() -> None:
    model, other = network(), network()
    result = train(model, {"train": DATA}, epochs=3)
    train(other, SimpleNamespace(train=DATA, validation=HELD), epochs=3)
    assert result.best_validation_accuracy is None
    assert result.best_epoch == 3
    assert "validation_loss" not in result.history[0]


def test_progress_tells_every_step_and_epoch() -> None:
    told: list[Progress] = []
    result = train(network(), (DATA, HELD), epochs=2, progress=told.append)
    steps = [(1, True), (2, True), (3, True), (4, True), (4, False)]
    expected = [(epoch, batch, step) for epoch in (1, 2) for batch, step in steps]
    assert [(p.epoch, p.batch, p.row is None) for p in told] == expected
    assert {(p.epochs, p.batches) for p in told} == {(2, 4)}
    assert [p.row for p in told if p.row is not None] == result.history
    assert all(math.isfinite(p.metrics["loss"]) for p in told if p.row is None)


def test_the_global_generator_stays_and_does_not_matter() -> None:
    rows = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        model = nn.Sequential(network(), nn.Dropout(0.5))
        rows.append(train(model, (DATA, HELD), epochs=2).history)
        assert torch.equal(torch.get_rng_state(), before)
    assert rows[0] == rows[1]
    assert train(nn.Sequential(network(), nn.Dropout(0.5)), (DATA, HELD), epochs=2, seed=1).history != rows[0]


def test_methods_see_progress_and_streams_of_their_step() -> None:
    seen = []

    class Spy:
        passes = 1.0

        def backward(self, step: Step) -> Any:
            seen.append((step.draws_for("w:attack"), step.progress, step.number))
            return ForwardNoise(0.1).backward(step)

    train(network(), (DATA, None), method=Spy(), epochs=2, seed=7)
    drawn = [(s.lot, s.chip, s.name, s.effect) for s, _, _ in seen]
    assert drawn == [(7, k, "w", "attack") for k in range(8)]
    assert [(progress, number) for _, progress, number in seen] == [(k / 8, k) for k in range(8)]


def test_schedules() -> None:
    rows = train(network(), (DATA, None), epochs=8, lr=0.01, lr_schedule="paper-step").history
    assert [row["lr"] for row in rows] == pytest.approx([0.01] * 7 + [0.001])
    rows = train(network(), (DATA, None), epochs=5, lr=0.01, lr_schedule="step-0.8").history
    assert [row["lr"] for row in rows] == pytest.approx([0.01] * 4 + [0.001])
    cosine = [schedule_from("cosine")(k / 4, 0.0) for k in range(5)]
    assert cosine == pytest.approx([1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)


def test_clipping_bounds_the_step() -> None:
    model, start = network(), network()
    train(model, (DATA[:1], None), epochs=1, optimizer="sgd", lr=1.0, clip_norm=1e-3)
    pairs = zip(model.state_dict().values(), start.state_dict().values(), strict=True)
    moved = sum(float((a - b).square().sum()) for a, b in pairs)
    assert math.sqrt(moved) == pytest.approx(1.9e-3, rel=1e-3)  # Nesterov's first step is 1 + 0.9 gradients


def test_adaptive_clipping_bounds_each_unit() -> None:
    model, start = network(), network()
    train(model, (DATA[:1], None), epochs=1, optimizer="sgd", lr=1.0, clip_adaptive=1e-3)
    reached = []
    for a, b in zip(model.parameters(), start.parameters(), strict=True):
        axes = tuple(range(1, a.dim()))
        norm = [torch.linalg.vector_norm(x, dim=axes) if axes else x.abs() for x in (a - b, b)]
        reached.append((norm[0] / (1.9e-3 * norm[1].clamp(min=1e-3))).detach().flatten())
    assert 0.99 < float(torch.cat(reached).max()) < 1.01


def test_adaptive_clipping_leaves_out_what_is_not_finite() -> None:
    p = torch.nn.Parameter(torch.ones(5, 2))
    p.grad = torch.tensor([[math.inf, 1.0], [math.nan, 1.0], [1e30, 1e30], [0.0, 0.0], [0.25, -0.25]])
    clip_adaptive_([p], 0.5)
    expected = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.5, 0.5], [0.0, 0.0], [0.25, -0.25]])
    torch.testing.assert_close(p.grad, expected)


class NoLength:
    def __iter__(self) -> Any:
        return iter(DATA)


def test_a_loader_without_length_and_a_torch_loader() -> None:
    assert len(train(network(), (NoLength(), HELD), epochs=2).history) == 2
    data = torch.utils.data.TensorDataset(X, Y)
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
    assert (
        train(network(), (loader, None), epochs=2).history
        == train(network(), (loader, None), epochs=2).history
    )


def test_each_epoch_has_its_order() -> None:
    class Ordered(list):  # type: ignore[type-arg]
        def epoch(self, number: int, /) -> Any:
            asked.append(number)
            return iter(self[number:] + self[:number])

    asked: list[int] = []
    train(network(), (Ordered(DATA), None), epochs=3)
    assert asked == [0, 1, 2]
    assert source(Ordered(DATA), "training").length == 4


BAD_LOADERS = [
    (None, "expected loaders with .train and .validation, a dict with these keys or a pair; got NoneType"),
    ({"validation": HELD}, "expected loaders with .train"),
    (([], None), "training data: expected at least one batch; got none"),
    ((DATA, []), "validation data: expected at least one batch; got none"),
    ((iter(DATA), None), "training data: expected a loader that can be read every epoch; got an iterator"),
    ((5, None), "training data: expected an iterable of .inputs, targets.; got int"),
    (([1, 2], None), r"training data: expected batches \(inputs, targets\) of tensors; got int"),
    (([(X, Y.float())], None), r"training data: expected inputs .* int64 targets .* got .*float32 \(60,\)"),
    (([(X, Y[:3])], None), r"training data: .* got torch.float32 \(60, 4\) and torch.int64 \(3,\)"),
    (([(X[:0], Y[:0])], None), "training data: expected at least one sample in a batch"),
    ((DATA, [(X, Y[:3])]), "validation data: expected inputs"),
]


@pytest.mark.parametrize(("loaders", "message"), BAD_LOADERS)
def test_bad_loaders_are_named(loaders: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(network(), loaders, epochs=1)


@pytest.mark.parametrize("which", [(0, None), (1, HELD)])
def test_a_loader_that_turns_out_empty(which: Any) -> None:
    class Empty:
        def __iter__(self) -> Any:
            return iter(())

    train_first = which[0] == 0
    with pytest.raises(UsageError, match="data: expected at least one batch; got none"):
        train(network(), (Empty(), None) if train_first else (DATA, Empty()), epochs=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r"expected epochs, an integer >= 1; got epochs=0"),
        ({"epochs": 1.5}, r"got epochs=1.5"),
        ({"epochs": True}, r"got epochs=True"),
        ({"lr": 0.0}, r"expected lr, a finite number > 0; got lr=0.0"),
        ({"lr": math.inf}, r"got lr=inf"),
        ({"lr": math.nan}, r"got lr=nan"),
        ({"lr": "fast"}, r"got lr='fast'"),
        ({"weight_decay": -1}, r"expected weight_decay, a finite number >= 0; got weight_decay=-1"),
        ({"clip_norm": 0}, r"expected clip_norm, a finite number > 0; got clip_norm=0"),
        ({"clip_adaptive": -1.0}, r"expected clip_adaptive, a finite number > 0; got clip_adaptive=-1.0"),
        ({"checkpoint_every_s": -1}, r"got checkpoint_every_s=-1"),
        ({"seed": 1.0}, r"expected seed, an integer; got seed=1.0"),
        ({"optimizer": "adan"}, r"unknown optimizer 'adan': did you mean 'adam'"),
        ({"lr_schedule": "step-1.5"}, r"lr_schedule 'step-1\.5': expected the fraction of the epochs"),
        ({"lr_schedule": "step-x"}, r"lr_schedule 'step-x': expected the fraction of the epochs"),
        ({"lr_schedule": "cosin"}, r"unknown lr_schedule 'cosin': did you mean 'cosine'"),
        ({"method": "standart"}, r"unknown method 'standart': did you mean 'standard'"),
        ({"device": "gpu"}, r"expected device 'auto', 'cpu', 'cuda' or 'cuda:N'; got 'gpu'"),
        ({"device": "cuda:99"}, r"got 'cuda:99'"),
        ({"config": {"a": object()}}, r"configuration: expected numbers, text, lists and tables; got object"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(
    tmp_path: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(network(), (DATA, HELD), out=tmp_path / "run", **{"epochs": 1, **changes})
    assert not (tmp_path / "run").exists()


def test_bad_networks_are_named() -> None:
    with pytest.raises(UsageError, match="expected a network with parameters to train; ReLU has none"):
        train(nn.ReLU(), (DATA, None), epochs=1)
    model = network()
    model[2].bias.data[0] = math.nan
    with pytest.raises(UsageError, match=r"expected finite parameters; '2\.bias' holds NaN or infinity"):
        train(model, (DATA, None), epochs=1)
    with pytest.raises(UsageError, match=r"expected logits \(batch, classes\)"):
        train(nn.Sequential(network(), nn.Flatten(0)), (DATA, None), epochs=1)


@pytest.mark.parametrize("method", ["standard", PAPER], ids=str)
def test_a_loss_that_is_not_finite_names_epoch_and_step(tmp_path: Any, method: Any) -> None:
    bad = [*DATA[:2], (X[20:30] * math.inf, Y[20:30])]
    with pytest.raises(
        RunError, match=r"loss became nan in epoch 1, step 3: try a learning rate below 0.001"
    ):
        train(network(), (bad, None), epochs=2, method=method, out=tmp_path)


def test_a_validation_loss_that_is_not_finite_names_its_epoch() -> None:
    with pytest.raises(RunError, match=r"the validation loss became nan after epoch 1"):
        train(network(), (DATA, [(X * math.nan, Y)]), epochs=2)


def test_convolutions_run_in_channels_last() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    seen = []
    model.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    train(model, ([(torch.rand(5, 2, 6, 6), torch.zeros(5, dtype=torch.int64))], None), epochs=1)
    assert seen == [True]
