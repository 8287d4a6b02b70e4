"""Training through chips: drawn anew each step, resumed exactly, validated in plain numbers."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neurosim.analog import Deployed, Lot, deploy
from neurosim.devices import hardware
from neurosim.errors import UsageError
from neurosim.training import AdversarialWeights, ForwardNoise, Standard, train
from neurosim.training.place import ThroughChips

from . import worker

CHIPS = ["ideal", "gaussian-mismatch", "pcm-joshi-2020"]
OPTIONS: dict[str, Any] = {**worker.OPTIONS, "epochs": 2}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize(
    "method", [Standard(), ForwardNoise(0.1), AdversarialWeights(steps=2, eta=0.1)], ids=str
)
def test_trains_and_resumes_to_the_bit(tmp_path: Path, name: str, method: Any) -> None:
    kept: list[torch.Tensor] = []
    for folder, stops in (("whole", []), ("parts", [3, 4])):
        for stop in [*stops, None]:
            model = worker.network()
            calls = iter(range(1, 100))

            def tell(_: object, stop: int | None = stop, calls: Any = calls) -> None:
                if next(calls) == stop:
                    raise KeyboardInterrupt

            options = {**OPTIONS, "hardware": hardware(name), "resume": True, "progress": tell}
            if stop is not None:
                with pytest.raises(KeyboardInterrupt):
                    train(model, worker.loaders(), method=method, out=tmp_path / folder, **options)
            else:
                train(model, worker.loaders(), method=method, out=tmp_path / folder, **options)
        kept.append(model[5].weight.detach())
        assert not isinstance(model, Deployed)
    assert torch.equal(*kept)
    for file in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()


def test_an_ideal_chip_trains_as_no_chip() -> None:
    digital, through = worker.network(), worker.network()
    train(digital, worker.loaders(), **OPTIONS)
    train(through, worker.loaders(), hardware=hardware("ideal"), **OPTIONS)
    # where a bias feeds a normalisation layer its gradient is rounding alone, and Adam magnifies it
    torch.testing.assert_close(through[5].weight, digital[5].weight, rtol=1e-3, atol=1e-4)


def test_each_step_has_its_chip_and_all_parameters_their_gradient() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    chip = hardware("pcm-joshi-2020")
    place = ThroughChips(model, chip, seed=9)
    x = torch.rand(20, 4)
    place.calibrate(lambda: x)
    y = []
    for number in (0, 1, 0):
        with place.step(number) as network:
            y.append(network(x))
    assert torch.equal(y[0], y[2])
    assert not torch.equal(y[0], y[1])
    assert y[0].shape == (20, 3)
    net = deploy(model, chip)
    net.calibrate(x)
    with net.on(Lot(chip, 9)[1]) as chips:
        torch.testing.assert_close(chips(x)[0], y[1])
    y[1].square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in place.network.parameters())


def test_ranges_follow_the_weights_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed anew every 25 steps: else outputs outgrow them, and straight-through gradients vanish."""
    steps, fixed = [], []
    calibrate, step = ThroughChips.calibrate, ThroughChips.step

    def note_calibrate(place: ThroughChips, read: Any) -> None:
        calibrate(place, read)
        fixed.append((len(steps), place.state()["ranges/0.adc"].clone()))

    def note_step(place: ThroughChips, number: int) -> Any:
        steps.append(number)
        return step(place, number)

    monkeypatch.setattr(ThroughChips, "calibrate", note_calibrate)
    monkeypatch.setattr(ThroughChips, "step", note_step)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.rand(600, 4)
    data = [(x[k : k + 10], torch.arange(k, k + 10) % 3) for k in range(0, 600, 10)]
    train(model, (data, data), epochs=2, hardware=hardware("pcm-joshi-2020"), lr=0.05)
    assert [number for number, _ in fixed] == [0, 25, 50, 60, 85, 110]
    assert not torch.equal(fixed[0][1], fixed[2][1])


def test_another_chip_is_another_run(tmp_path: Path) -> None:
    from neurosim.errors import UsageError

    train(worker.network(), worker.loaders(), out=tmp_path, hardware=hardware("ideal"), **OPTIONS)
    with pytest.raises(UsageError, match="cannot be resumed with another configuration: hardware"):
        train(
            worker.network(),
            worker.loaders(),
            out=tmp_path,
            resume=True,
            hardware=hardware("gaussian-mismatch"),
            **OPTIONS,
        )


def test_several_chips_share_a_batch_and_resume_to_the_bit(tmp_path: Path) -> None:
    kept, chosen = [], hardware("pcm-joshi-2020")
    for folder, stops in (("whole", []), ("parts", [3, 4])):
        for stop in [*stops, None]:
            model, calls = worker.network(), iter(range(1, 100))

            def tell(_: object, stop: int | None = stop, calls: Any = calls) -> None:
                if next(calls) == stop:
                    raise KeyboardInterrupt

            options = {**OPTIONS, "hardware": chosen, "chips_per_batch": 4, "resume": True, "progress": tell}
            with pytest.raises(KeyboardInterrupt) if stop is not None else contextlib.nullcontext():
                train(model, worker.loaders(), out=tmp_path / folder, **options)
        kept.append(model[5].weight.detach())
    assert torch.equal(*kept)
    one = worker.network()
    train(one, worker.loaders(), **{**OPTIONS, "hardware": chosen})
    assert not torch.equal(kept[0], one[5].weight.detach())
    with pytest.raises(UsageError, match=r"chips_per_batch"):
        train(
            worker.network(),
            worker.loaders(),
            out=tmp_path / "whole",
            **{**OPTIONS, "hardware": chosen, "resume": True},
        )


def test_each_sample_of_a_shared_batch_learns_through_its_own_chip() -> None:
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    place = ThroughChips(plain, hardware("gaussian-mismatch"), seed=3, chips_per_batch=4)
    x = torch.linspace(-1, 1, 8 * 6, dtype=torch.float64).reshape(8, 6)
    with place.step(5) as network:
        network(x).square().sum().backward()
    found = [p.grad.clone() for p in place.network.parameters()]
    expected = [torch.zeros_like(g) for g in found]
    net = deploy(plain, hardware("gaussian-mismatch"))
    for part, chip in enumerate(range(20, 24)):  # chips 5·4 … 5·4 + 3
        net.zero_grad()
        with net.on(Lot(net.hardware, seed=3)[chip]) as chips:
            chips(x[2 * part : 2 * part + 2]).square().sum().backward()
        for total, p in zip(expected, net.parameters(), strict=True):
            total += p.grad
    torch.testing.assert_close(found, expected)


def test_chips_need_hardware_to_share() -> None:
    with pytest.raises(UsageError, match="chips_per_batch=4 needs hardware to train through"):
        train(worker.network(), worker.loaders(), **{**OPTIONS, "chips_per_batch": 4})
    with pytest.raises(UsageError, match="expected chips_per_batch, an integer >= 1; got chips_per_batch=0"):
        train(worker.network(), worker.loaders(), **{**OPTIONS, "chips_per_batch": 0})
