"""Chips x times x data -> a table: the numbers, the ledger beside them, and every refusal."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import Deployed, Lot, deploy
from neurosim.errors import RunError, UsageError
from neurosim.evaluation import Ledger, Table, digital_accuracy, evaluate, passes
from neurosim.evaluation.experiment import experiment
from neurosim.evaluation.passes import Passes
from neurosim.random import stream

TIMES = (25.0, 3600.0, 31_536_000.0)


def network(seed: int = 0) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(0.4 * stream(seed, 0, name, "test").normal(parameter.shape))
    return net


def batches(samples: int = 50, size: int = 20) -> list[tuple[Tensor, Tensor]]:
    x = stream(0, 0, "inputs", "test").uniform((samples, 8))
    y = network().eval()(x).argmax(1)
    y[::5] = (y[::5] + 1) % 4
    return list(zip(x.split(size), y.split(size), strict=True))


def pcm(seed: int = 0) -> Deployed:
    return deploy(network(seed), ns.hardware("pcm-joshi-2020"), calibration=batches()[0][0])


def in_blocks_of(net: Deployed, size: int) -> Deployed:
    net.chip_block = lambda inputs: size  # type: ignore[method-assign]
    return net


class Counted:
    """A loader that counts how often it was read."""

    def __init__(self, data: list[tuple[Tensor, Tensor]]) -> None:
        self.data, self.passes = data, 0

    def __iter__(self):
        self.passes += 1
        yield from self.data
        self.whole = self.passes


def test_numbers_are_those_of_the_chips_one_by_one() -> None:
    net, data = pcm(), batches()
    table = evaluate(net, data, chips=[7, 2], times_s=TIMES, seed=3)
    assert table.names == ["chip", "time_s", "accuracy", "loss", "samples"]
    assert [(row["chip"], row["time_s"]) for row in table.rows()] == [(c, t) for c in (2, 7) for t in TIMES]
    assert set(table["samples"]) == {50}
    net.eval()
    for row in table.rows():
        with torch.no_grad(), net.on(Lot(net.hardware, seed=3)[row["chip"]], row["time_s"]) as chip:
            logits = torch.cat([chip(x)[0] for x, _ in data])
        targets = torch.cat([y for _, y in data])
        assert row["accuracy"] == float((logits.argmax(1) == targets).double().mean())
        assert math.isclose(row["loss"], float(F.cross_entropy(logits.double(), targets)), rel_tol=1e-6)


def test_perfect_chips_equal_the_network() -> None:
    net, data = deploy(network(), ns.hardware("ideal")), batches()
    table = evaluate(net, data, chips=3)
    assert (
        set(table["accuracy"])
        == {digital_accuracy(net, data)}
        == {digital_accuracy(network(), data)}
        == {0.8}
    )


@pytest.mark.parametrize("size", [1, 3, 100])
def test_results_do_not_depend_on_the_block(size: int) -> None:
    data = batches()
    whole = evaluate(pcm(), data, chips=7, times_s=TIMES)
    blocks = evaluate(in_blocks_of(pcm(), size), data, chips=7, times_s=TIMES)
    assert (blocks["accuracy"] == whole["accuracy"]).all()
    assert abs(blocks["loss"] - whole["loss"]).max() < 1e-6  # digital layers may round with the batch


def test_chips_as_a_count_a_range_or_any_order() -> None:
    net, data = pcm(), batches()
    assert (
        evaluate(net, data, chips=3)
        == evaluate(net, data, chips=range(3))
        == evaluate(net, data, chips=[2, 0, 1])
    )


def test_seed_is_the_lot() -> None:
    net, data = pcm(), batches()
    assert evaluate(net, data, chips=3, seed=1) == evaluate(net, data, chips=3, seed=1)
    assert evaluate(net, data, chips=3, seed=1) != evaluate(net, data, chips=3, seed=2)


def test_modes_and_gradients_are_left_as_they_were() -> None:
    net = pcm()
    net.train()
    net[2].eval()
    evaluate(net, batches(), chips=2)
    digital_accuracy(net, batches())
    assert [module.training for module in net] == [True, True, False, True]
    assert net.training
    net(batches()[0][0]).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    with pytest.raises(UsageError, match="the target 9 is no class"):
        evaluate(net, [(torch.ones(1, 8), torch.tensor([9]))], chips=2)
    assert net.training


def test_data_are_read_once_for_each_block_and_age() -> None:
    data = Counted(batches())
    evaluate(in_blocks_of(pcm(), 4), data, chips=10, times_s=TIMES)
    assert data.whole <= 1 + 3 * len(TIMES)  # and its first batch once, to plan memory


def test_calibration() -> None:
    net = deploy(network(), ns.hardware("pcm-joshi-2020"))
    with pytest.raises(UsageError, match="not calibrated"):
        evaluate(net, batches(), chips=2)
    table = evaluate(net, batches(), chips=2, calibration=batches()[0][0])
    assert net.calibrated
    assert table == evaluate(pcm(), batches(), chips=2)
    # calibrated already: the ranges stay
    assert table == evaluate(net, batches(), chips=2, calibration=100 * batches()[0][0])


def test_progress() -> None:
    calls: list[tuple[int, int]] = []
    evaluate(in_blocks_of(pcm(), 2), batches(), chips=3, times_s=TIMES, progress=lambda *c: calls.append(c))
    assert calls == [(0, 9), (2, 9), (4, 9), (6, 9), (7, 9), (8, 9), (9, 9)]


def test_a_ledger_saves_the_work(tmp_path: Path) -> None:
    path, data = tmp_path / "chips.sqlite", Counted(batches())
    table = evaluate(pcm(), data, chips=4, times_s=TIMES, ledger=path)
    data.passes = 0
    assert evaluate(pcm(), data, chips=4, times_s=TIMES, ledger=path) == table
    assert data.passes == 1  # for the key
    more = evaluate(pcm(), data, chips=6, times_s=(*TIMES, 60.0), ledger=path)
    fresh = evaluate(pcm(), data, chips=6, times_s=(*TIMES, 60.0))
    assert (more["accuracy"] == fresh["accuracy"]).all()
    with Ledger(path) as ledger:
        assert len(ledger.keys()) == 1
        assert len(ledger.rows(ledger.keys()[0])) == 24
        (description,) = ledger.experiments().values()
        assert evaluate(pcm(), data, chips=[1], times_s=TIMES, ledger=ledger) == table.where(chip=1)
    assert description["samples"] == 50
    assert description["batch_size"] == 20
    assert description["hardware_name"] == "pcm-joshi-2020"
    assert description["threads"] == torch.get_num_threads()


@settings(max_examples=4, deadline=None)
@given(st.permutations(range(8)), st.integers(1, 7))
def test_shards_in_any_order_give_the_same_table(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cut: int
) -> None:
    path, net, data = tmp_path_factory.mktemp("shards") / "chips.sqlite", pcm(), batches()
    evaluate(net, data, chips=order[:cut], times_s=TIMES[:2], ledger=path)
    evaluate(net, data, chips=order[cut:], times_s=TIMES[1:], ledger=path)
    table = evaluate(net, data, chips=8, times_s=TIMES, ledger=path)
    whole = evaluate(net, data, chips=8, times_s=TIMES)
    assert (table["accuracy"] == whole["accuracy"]).all()
    assert abs(table["loss"] - whole["loss"]).max() < 1e-6


def test_every_decision_changes_the_key() -> None:
    def key(net: Deployed | None = None, data=None, seed: int = 0) -> str:
        return experiment(net or pcm(), Passes(data or batches(), torch.device("cpu")), seed)[0]

    x = batches()[0][0]
    altered = pcm()
    with torch.no_grad():
        altered[3].bias[0] += 1e-6
    tanh = nn.Sequential(*[nn.Tanh() if isinstance(module, nn.ReLU) else module for module in network()])
    hot, cold = Temperature(2.0), Temperature(3.0)
    keys = [
        key(),
        key(seed=1),
        key(altered),
        key(deploy(tanh, ns.hardware("pcm-joshi-2020"), calibration=x)),
        key(deploy(network(), ns.hardware("pcm-joshi-2020"), calibration=0.5 * x)),
        key(deploy(network(), ns.hardware("pcm-joshi-2020").with_("array.rows", 128), calibration=x)),
        key(deploy(hot, ns.hardware("ideal"))),
        key(deploy(cold, ns.hardware("ideal"))),
        key(data=batches(size=10)),
        key(data=batches(samples=49)),
        key(data=[(x + 1e-6, y) for x, y in batches()]),
    ]
    assert len(set(keys)) == len(keys)
    assert key(pcm()) == keys[0]


class Temperature(nn.Module):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.net, self.temperature = network(), temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) / self.temperature


def test_an_error_midway_keeps_what_was_done(tmp_path: Path) -> None:
    path, stop = tmp_path / "chips.sqlite", 6

    def interrupt(done: int, total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(in_blocks_of(pcm(), 2), batches(), chips=6, times_s=TIMES, ledger=path, progress=interrupt)
    calls: list[int] = []
    table = evaluate(
        in_blocks_of(pcm(), 2),
        batches(),
        chips=6,
        times_s=TIMES,
        ledger=path,
        progress=lambda done, total: calls.append(done),
    )
    assert calls[0] == stop
    assert table == evaluate(in_blocks_of(pcm(), 2), batches(), chips=6, times_s=TIMES)


class Shuffled:
    def __init__(self) -> None:
        self.number = 0

    def __iter__(self):
        self.number += 1
        x, y = batches(50, 50)[0]
        order = stream(0, self.number, "order", "test").permutation(50)
        yield x[order], y[order]


def infinite_net() -> Deployed:
    net = pcm()
    with torch.no_grad():
        net[3].bias[0] = math.inf
    return net


X, Y = torch.ones(2, 8), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"net": network()}, "evaluate needs a network on analog hardware; got Sequential"),
        ({"net": None}, "evaluate needs a network on analog hardware; got NoneType"),
        ({"chips": 0}, "chips must be at least 1; got 0"),
        ({"chips": -3}, "chips must be at least 1; got -3"),
        ({"chips": True}, "a count or a list of chip numbers; got True"),
        ({"chips": "3"}, "a count or a list of chip numbers; got '3'"),
        ({"chips": 2.5}, "a count or a list of chip numbers; got 2.5"),
        ({"chips": []}, "no chips given"),
        ({"chips": [1, 2, 1]}, "the chip 1 is given twice"),
        ({"chips": [-1]}, "a chip's number is a whole number .* got -1"),
        ({"chips": [2**32]}, "a chip's number is a whole number"),
        ({"chips": [1.5]}, "a chip's number is a whole number .* got 1.5"),
        ({"times_s": ()}, "no times given"),
        ({"times_s": (1.0, 1)}, "the time 1.0 is given twice"),
        ({"times_s": (-1.0,)}, "an age must be .* got -1.0"),
        ({"times_s": (math.nan,)}, "an age must be .* got nan"),
        ({"times_s": (math.inf,)}, "an age must be .* got inf"),
        ({"times_s": 25.0}, "times_s must be a list of times in seconds; got 25.0"),
        ({"times_s": "25s"}, "times_s must be a list of times in seconds; got '25s'"),
        ({"times_s": ("25s",)}, "an age must be .* got '25s'"),
        ({"loader": []}, "there is no data"),
        ({"loader": [X]}, "batch 0 is a Tensor: expected a pair"),
        ({"loader": [(X, Y, Y)]}, "batch 0 is a tuple: expected a pair"),
        ({"loader": 5}, "cannot read data from int: expected batches"),
        ({"loader": [(X, Y.float())]}, "targets of batch 0 are torch.float32 of shape"),
        ({"loader": [(X, Y[:, None])]}, r"targets of batch 0 are torch.int64 of shape \(2, 1\)"),
        ({"loader": [(X, Y[:1])]}, r"inputs of shape \(2, 8\) and targets of shape \(1,\)"),
        ({"loader": [(X[:0], Y[:0])]}, "the same number of both, at least one"),
        ({"loader": [(X, Y), (X, Y + 3)]}, r"the target 4 is no class: the network has 0 ... 3"),
        ({"loader": [(X, Y - 1)]}, "the target -1 is no class"),
        ({"loader": iter(batches())}, "expected something that can be iterated again|there is no data"),
        ({"loader": Shuffled()}, "the data changed from one pass to the next at batch 0"),
    ],
)
@pytest.mark.parametrize("kept", [False, True], ids=["no ledger", "ledger"])
def test_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, sentence: str, kept: bool
) -> None:
    monkeypatch.setattr(passes, "KEPT_BYTES", 0)  # as data too large to keep: read again and again
    arguments = {"net": pcm(), "loader": batches(), "chips": 2, "times_s": TIMES, **change}
    ledger = tmp_path / "chips.sqlite" if kept else None
    with pytest.raises(UsageError, match=sentence) as caught:
        evaluate(arguments.pop("net"), arguments.pop("loader"), ledger=ledger, **arguments)
    assert "\n" not in str(caught.value)


def test_outputs_that_are_no_scores() -> None:
    net = deploy(nn.Sequential(nn.Linear(8, 4), nn.Unflatten(1, (2, 2))), ns.hardware("ideal"))
    with pytest.raises(
        UsageError, match=r"outputs have the shape \(2, 2, 2\) for 2 samples: expected \(2, classes\)"
    ):
        evaluate(net, [(X, Y)], chips=2)
    with pytest.raises(UsageError, match="outputs have the shape"):
        digital_accuracy(nn.Flatten(0), [(X, Y)])


def test_outputs_that_are_not_finite() -> None:
    with pytest.raises(RunError, match="chip 0 at 25 s gave outputs that are not finite"):
        evaluate(infinite_net(), batches(), chips=1, times_s=TIMES)


def test_digital_accuracy_refuses_no_data() -> None:
    with pytest.raises(UsageError, match="there is no data"):
        digital_accuracy(network(), [])


def test_the_table_feeds_the_statistics() -> None:
    table = evaluate(pcm(), batches(), chips=4, times_s=TIMES)
    assert isinstance(table, Table)
    assert ns.evaluation.summarise(table, bound=0.5)["chips"].tolist() == [4, 4, 4]
    assert len(ns.evaluation.compare({"a": table, "b": table})) == 3


def test_data_are_read_once_for_all_chips_and_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted:
        def __init__(self) -> None:
            self.reads, self.buffer = 0, torch.empty(0)

        def __iter__(self):
            self.reads += 1
            for x, y in batches():
                self.buffer = x.clone() if self.buffer.shape != x.shape else self.buffer.copy_(x)
                yield self.buffer, y  # the same memory for every batch

    once, again = Counted(), Counted()
    monkeypatch.setattr(Deployed, "chip_block", lambda *args, **kwargs: 1)
    table = evaluate(pcm(), once, chips=3, times_s=TIMES)
    monkeypatch.setattr(passes, "KEPT_BYTES", 0)
    assert evaluate(pcm(), again, chips=3, times_s=TIMES).rows() == table.rows()
    assert once.reads <= 2  # the first batch alone, by which memory is planned; then all
    assert again.reads >= 3 * len(TIMES)
