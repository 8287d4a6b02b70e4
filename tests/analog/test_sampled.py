"""Parameters with mismatch, off crossbars: against a plain loop that sets each chip's parameters by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn as nn
from torch import Tensor

import neurosim as ns
from neurosim.analog.bench import Active, Bench
from neurosim.analog.crossbar import ContractError
from neurosim.analog.lot import Lot
from neurosim.analog.sampled import SampledModule, SampledRow, sample_parameters
from neurosim.devices import Hardware
from neurosim.devices.spread import Spread
from neurosim.errors import UsageError
from neurosim.random import Draws, stream

SPREAD = Spread(relative_std=0.2, absolute_std=0.1)
CHIPS = (4, 0, 7)


def some(*shape: int, name: str = "x") -> Tensor:
    return stream(5, 0, name, "test").normal(shape)


class Leak(nn.Module):
    """A leaky neuron: state in, (spikes, state) out, with a time constant and a threshold a neuron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tau = nn.Parameter(torch.linspace(2.0, 5.0, width))
        self.threshold = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, state: Tensor | None = None, *, gain: float = 1.0) -> dict[str, Any]:
        v = torch.zeros_like(x) if state is None else state
        v = v + (gain * x - v) / self.tau
        return {"out": (v - self.threshold).sigmoid(), "state": v, "gain": gain, "nothing": None}


class Branching(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w if float((x * self.w).detach().sum()) > 0 else -x


class Keeping(nn.Module):
    """State on the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = x * self.w
        return self.last + 1


class Counting(nn.Module):
    """A buffer changed in place by what a parameter gives."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.total.add_((x * self.w).detach().sum())
        return x * self.w


class Residual(nn.Module):
    """A parameter of its own and layers below."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.fc = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.norm(self.fc(x))


def filled(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.add_(0.3 * some(*parameter.shape, name=name))
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * some(*buffer.shape, name=name))
    return net.eval()


def varied(
    net: nn.Module, pattern: str = "*", taken: tuple[str, ...] = (), **changes: Any
) -> tuple[Any, Bench]:
    """A copy whose parameters differ from chip to chip, and its bench."""
    copied, bench = copy.deepcopy(net), Bench()
    hardware = ns.hardware("ideal", parameters={pattern: SPREAD}, **changes)
    sample_parameters(copied, hardware, bench, set(taken))
    return copied, bench


def activate(bench: Bench, chips: tuple[int, ...] = CHIPS) -> Active:
    lot = Lot(ns.hardware("ideal"), seed=2)
    bench.active = Active(lot[list(chips)], 0.0, slice(0, len(chips)))
    return bench.active


def by_hand(net: nn.Module, x: Tensor, names: set[str] | None = None) -> list[Any]:
    """The plain network once a chip, its parameters set by hand."""
    outputs = []
    for chip in CHIPS:
        copied = copy.deepcopy(net)
        with torch.no_grad():
            for name, parameter in copied.named_parameters():
                if names is None or name in names:
                    parameter.copy_(SPREAD.sample(parameter, Draws(2, (chip,), name))[0])
            outputs.append(copied(x))
    return outputs


def together(net: nn.Module, bench: Bench, x: Tensor) -> Any:
    activate(bench)
    try:
        return net(x.repeat(len(CHIPS), *([1] * (x.dim() - 1))))
    finally:
        bench.active = None


def one_by_one(net: nn.Module, bench: Bench, x: Tensor) -> list[Any]:
    activate(bench)
    outputs = []
    try:
        for k in range(len(CHIPS)):
            with bench.use(slice(k, k + 1)):
                outputs.append(net(x))
    finally:
        bench.active = None
    return outputs


RIDING: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "layer norm": (lambda: nn.LayerNorm(6), (5, 6)),
    "batch norm": (lambda: nn.BatchNorm1d(6), (5, 6)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(3), (5, 3, 4, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (5, 4, 3)),
    "prelu": (lambda: nn.PReLU(6), (5, 6)),
    "linear": (lambda: nn.Linear(6, 3), (5, 6)),
    "conv": (lambda: nn.Conv2d(3, 4, 3), (5, 3, 6, 6)),
    "a row": (lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4), nn.PReLU()), (5, 6)),
}


@pytest.mark.parametrize("name", RIDING)
def test_chips_together_are_chips_by_hand(name: str):
    build, shape = RIDING[name]
    plain, x = filled(build()), some(*shape)
    net, bench = varied(plain)
    with torch.no_grad():
        assert torch.equal(net(x), plain(x))  # off the bench
        expected = torch.stack(by_hand(plain, x))
        found = together(net, bench, x)
        torch.testing.assert_close(found.unflatten(0, (len(CHIPS), -1)), expected)
        torch.testing.assert_close(torch.stack(one_by_one(net, bench, x)), expected)
        assert torch.equal(net(x), plain(x))


def test_a_neuron_with_state_in_and_out():
    plain, x = filled(Leak(6)), some(5, 6)
    net, bench = varied(plain)
    state = some(5, 6, name="state")
    activate(bench)
    with torch.no_grad():
        found = net(x.repeat(3, 1), state=state.repeat(3, 1), gain=2.0)
        first = net(x.repeat(3, 1))
    assert (found["gain"], found["nothing"]) == (2.0, None)
    for k, chip in enumerate(CHIPS):
        tau = SPREAD.sample(plain.tau, Draws(2, (chip,), "tau"))[0]  # type: ignore[arg-type]
        v = state + (2.0 * x - state) / tau
        torch.testing.assert_close(found["state"].unflatten(0, (3, 5))[k], v)
        torch.testing.assert_close(first["state"].unflatten(0, (3, 5))[k], x / tau)


@pytest.mark.parametrize("build", [Branching, Keeping, Counting, Residual])
def test_what_cannot_ride_says_so_and_runs_one_by_one(build: Callable[[], nn.Module]):
    plain, x = filled(build()), some(5, 4)
    net, bench = varied(plain)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad(), pytest.raises(ContractError):
        together(net, bench, x)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert getattr(net, "last", None) is None
    found = one_by_one(net, bench, x)
    torch.testing.assert_close(torch.stack(found), torch.stack(by_hand(plain, x)))


def test_layers_below_that_crossbars_hold_keep_chips_apart():
    plain, x = filled(Residual()), some(5, 4)
    net, bench = varied(plain, "scale")
    torch.testing.assert_close(
        together(net, bench, x).unflatten(0, (3, 5)), torch.stack(by_hand(plain, x, {"scale"}))
    )
    net, bench = varied(plain, "scale", taken=("fc.weight", "fc.bias"))
    with pytest.raises(ContractError, match="root holds layers that depend on the chip"):
        together(net, bench, x)
    found = torch.stack(one_by_one(net, bench, x))
    torch.testing.assert_close(found, torch.stack(by_hand(plain, x, {"scale"})))


@pytest.mark.parametrize("build", [lambda: nn.GRU(4, 3, batch_first=True), lambda: nn.LSTM(4, 3)])
def test_recurrent_layers_of_torch_see_each_chips_weights(build: Callable[[], nn.Module]):
    plain, x = filled(build()), some(5, 6, 4)
    net, bench = varied(plain)
    with torch.no_grad():
        for found, expected in zip(one_by_one(net, bench, x), by_hand(plain, x), strict=True):
            torch.testing.assert_close(found[0], expected[0])
        assert torch.equal(net(x)[0], plain(x)[0])


@pytest.mark.parametrize("args", [(some(4, 6),), (some(3, 6), some(2, 6)), (torch.tensor(1.0),), ()])
def test_inputs_without_an_axis_of_chips_are_refused(args: tuple[Tensor, ...]):
    net, bench = varied(Leak(6))
    activate(bench)
    with pytest.raises(ContractError, match="leading axis is not a batch on each of 3 chips"):
        net(*args)


def test_training_mode_updates_the_statistics_of_the_module():
    net, bench = varied(nn.Sequential(nn.BatchNorm1d(4)).train())
    one_by_one(net, bench, some(5, 4))
    assert int(net[0].num_batches_tracked) == len(CHIPS)


def test_hooks_run_once():
    net, bench = varied(nn.LayerNorm(4))
    calls: list[int] = []
    net.register_forward_hook(lambda *_: calls.append(1))
    one_by_one(net, bench, some(5, 4))
    assert len(calls) == len(CHIPS)


@pytest.mark.parametrize("ride", [True, False])
def test_gradients_are_those_of_the_loop_by_hand(ride: bool):
    plain, x = filled(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))), some(5, 4)
    net, bench = varied(plain)
    net[1].bias.requires_grad_(False)
    out = together(net, bench, x) if ride else torch.cat(one_by_one(net, bench, x))
    out.square().sum().backward()
    copied = copy.deepcopy(plain)
    for chip in CHIPS:
        values = {n: SPREAD.sample(p, Draws(2, (chip,), n))[0] for n, p in copied.named_parameters()}
        torch.func.functional_call(copied, values, (x,)).square().sum().backward()
    for name, parameter in net.named_parameters():
        if name == "1.bias":
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, copied.get_parameter(name).grad)


def test_samples_follow_the_present_weights_in_training_and_are_kept_otherwise():
    net, bench = varied(nn.PReLU(4))
    x = -torch.ones(5, 4)
    activate(bench)
    with torch.no_grad():
        first = net(x.repeat(3, 1))
        held = net._sampling._held["weight"]
        assert torch.equal(net(x.repeat(3, 1)), first)
        assert net._sampling._held["weight"] is held
        net.weight.mul_(2.0)
    assert not torch.equal(net(x.repeat(3, 1)), first)
    activate(bench)  # another visit to the bench
    with torch.no_grad():
        assert not torch.equal(net(x.repeat(3, 1)), first)
    net._sampling.reset()
    assert not net._sampling._held


def test_copies_and_state_dicts():
    plain, x = filled(nn.Sequential(nn.LayerNorm(4), nn.PReLU())), some(5, 4)
    net, bench = varied(plain)
    assert list(net.state_dict()) == list(plain.state_dict())
    net.load_state_dict(plain.state_dict())
    assert isinstance(net[0], nn.LayerNorm)
    assert isinstance(net[0], SampledModule)
    together(net, bench, x)
    activate(bench)
    with torch.no_grad():
        net(x.repeat(3, 1))
        twin = copy.deepcopy(net)
        assert twin[0]._sampling.bench is twin[1]._sampling.bench
        assert twin[0]._sampling.bench is not bench
        assert torch.equal(twin(x), plain(x))  # chips stay on the bench of the original
        torch.testing.assert_close(together(twin, twin[0]._sampling.bench, x), net(x.repeat(3, 1)))


def test_rows_say_what_differs():
    net = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))
    hardware = ns.hardware("ideal", parameters={"0.*": SPREAD, "1.bias": SPREAD, "0.bias": Spread()})
    assert sample_parameters(net, hardware, Bench(), {"1.weight", "1.bias"}) == [
        SampledRow("0.weight", "LayerNorm", (4,), SPREAD.in_words()),
        SampledRow("0.bias", "LayerNorm", (4,), "normal, standard deviation 0"),
        SampledRow("1.bias", "Linear", (2,), SPREAD.in_words()),
    ]
    assert not isinstance(net[1], SampledModule)  # its crossbar asks for the bias
    assert sample_parameters(net, ns.hardware("ideal"), Bench(), set()) == []


def hw(pattern: str, **changes: Any) -> Hardware:
    return ns.hardware("ideal", parameters={pattern: SPREAD}, **changes)


@pytest.mark.parametrize(
    "hardware,sentence",
    [
        (
            hw("fc.bia"),
            r"parameters\.'fc\.bia' matches no parameter of this network: did you mean 'fc\.bias'\?",
        ),
        (hw("FC.bias"), "matches no parameter"),
        (hw("*"), r"parameters\.'\*' matches 'fc\.weight', a weight that crossbars hold"),
        (
            hw("fc.bias", array__bias="device"),
            r"'fc\.bias', which devices hold: expected array\.bias = 'digital'",
        ),
        (hw("fc.bias", layers={"fc": {"array.bias": "device"}}), "which devices hold"),
    ],
)
def test_wrong_patterns_get_one_sentence(hardware: Hardware, sentence: str):
    with pytest.raises(UsageError, match=sentence):
        sample_parameters(Residual(), hardware, Bench(), {"fc.weight", "fc.bias"})


def test_what_cannot_be_sampled_is_refused():
    net = nn.PReLU()
    net.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="forward of 'root' is set on the instance"):
        sample_parameters(net, hw("*"), Bench(), set())
    whole = nn.Module()
    whole.register_parameter("n", nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False))
    with pytest.raises(UsageError, match=r"n holds torch\.int64"):
        sample_parameters(whole, hw("*"), Bench(), set())
