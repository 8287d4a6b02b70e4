"""Batch normalisation on chips: kept digital, folded into the layer before, or re-estimated on each chip."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import deploy
from neurosim.errors import UsageError

from .networks import filled, lot, read, small, some

IDEAL = ns.hardware("ideal", **small(7, 5))
NOISY = ns.hardware("gaussian-mismatch", **small(7, 5))


def trained(net: nn.Module, *shape: int) -> nn.Module:
    """With running statistics and gains of some data."""
    filled(net)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.copy_(1 + 0.3 * some(module.num_features, name="gain"))
                module.bias.copy_(0.2 * some(module.num_features, name="shift"))
        net.train()
        for step in range(30):
            net(some(16, *shape, name=f"step {step}"))
    return net.eval()


class Block(nn.Module):
    """Convolutions whose normalisation may be folded (a), or not: what it gets is used elsewhere (b)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.b, self.norm_b = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6, affine=False)
        self.up, self.norm_up = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), nn.BatchNorm2d(4)
        self.head, self.norm_head = nn.Linear(4 * 64, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm_a(self.a(x)))
        z = self.b(y)
        y = self.norm_b(z) + z
        y = torch.relu(self.norm_up(self.up(y)))
        found: Tensor = self.norm_head(self.head(y.flatten(1)))
        return found


PAIRS = (("a", "norm_a"), ("up", "norm_up"), ("head", "norm_head"))


def test_only_what_nobody_else_sees_is_folded() -> None:
    net = deploy(Block(), IDEAL, fold=True)
    assert net.options["fold"] == PAIRS
    why = {row.name: row.why for row in net.explain().digital if "norm" in row.name}
    done = "done by the layer before it"
    assert why == {"norm_a": done, "norm_b": "", "norm_up": done, "norm_head": done}


@pytest.mark.parametrize("dtype,relative", [(torch.float32, 3e-6), (torch.float64, 1e-13)])
def test_folded_equals_the_original_at_zero_noise(dtype: torch.dtype, relative: float) -> None:
    plain = trained(Block(), 2, 4, 4).to(dtype)
    x = some(6, 2, 4, 4).to(dtype)
    net = deploy(plain, IDEAL, fold=True)
    assert torch.equal(net(x), plain(x))  # off chips
    found = read(net, lot(net)[0:2], x)[1]
    expected = plain(x).detach()
    assert float((found - expected).abs().max()) <= relative * float(expected.abs().max())
    assert list(net.state_dict()) == list(plain.state_dict())


def test_gradients_through_folded_layers_are_those_of_the_original() -> None:
    plain = trained(Block(), 2, 4, 4).double()
    x = some(6, 2, 4, 4).double()
    net = deploy(plain, ns.hardware("ideal", array__bias="device", **small(7, 5)), fold=True)
    plain(x).square().sum().backward()
    with net.on(lot(net)[0]) as chips:
        chips(x).square().sum().backward()
    for (name, p), q in zip(net.named_parameters(), plain.parameters(), strict=True):
        assert p.grad is not None, name
        assert q.grad is not None
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


def test_folded_weights_are_what_devices_hold() -> None:
    # one output a hundred times as large: folded and per layer, the others lose their conductance to it
    plain = trained(nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5)), 6)
    with torch.no_grad():
        plain[1].weight[2] *= 100
    hardware = ns.hardware("pcm-joshi-2020", dac__bits=None, adc__bits=None)
    x = some(50, 6)
    errors = {}
    for fold in (False, True):
        net = deploy(plain, hardware, fold=fold)
        errors[fold] = (read(net, lot(net)[0:50], x) - plain(x).detach())[..., [0, 1, 3, 4]].std()
    assert float(errors[True]) > 3 * float(errors[False])


@pytest.mark.filterwarnings("ignore:this network does not treat axis 0")
def test_a_network_that_cannot_be_traced_says_so() -> None:
    class Branches(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(UsageError, match=r"torch.fx cannot trace Branches .*: name them instead"):
        deploy(Branches(), IDEAL, fold=True)
    plain = trained(Branches(), 2, 4, 4)
    net = deploy(plain, IDEAL, fold=PAIRS)
    x = some(6, 2, 4, 4)
    torch.testing.assert_close(read(net, lot(net)[0:2], x)[0], plain(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chips", [[0], [0, 17, 3]])
def test_reestimated_statistics_are_those_of_each_chip(chips: list[int]) -> None:
    plain = trained(Block(), 2, 4, 4)
    net = deploy(plain, NOISY)
    x, data = some(6, 2, 4, 4), some(40, 2, 4, 4, name="data")
    with torch.no_grad(), net.on(lot(net)[chips]) as on_chips:
        before = on_chips(x)
        on_chips.reestimate_batchnorm(data)
        after = on_chips(x)
    with torch.no_grad(), net.on(lot(net)[chips]) as on_chips:
        assert torch.equal(on_chips(x), before)  # nothing stays when chips leave the bench
    assert not torch.allclose(before, after, rtol=1e-2)
    for row, chip in enumerate(chips):
        # by hand: torch's own training mode with momentum 1 on that chip
        twin = copy.deepcopy(net)
        for module in twin.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
                module.momentum = 1.0
        with torch.no_grad(), twin.on(lot(net)[[chip]]):
            twin(data)
            twin.eval()
            torch.testing.assert_close(twin(x), after[row], rtol=1e-4, atol=1e-5)


def test_a_network_told_to_reestimates_at_every_age() -> None:
    hardware = ns.hardware(
        "pcm-joshi-2020", dac__bits=None, adc__bits=None, compensation="none", **small(7, 5)
    )
    plain = trained(Block(), 2, 4, 4)
    x, data = some(64, 2, 4, 4), some(200, 2, 4, 4, name="data")
    kept, told = deploy(plain, hardware), deploy(plain, hardware)
    told.reestimate_batchnorm(data)
    chips = lot(kept)[0:4]
    errors: dict[str, list[float]] = {}
    for name, net in (("kept", kept), ("told", told)):
        with torch.no_grad(), net.on(chips) as on_chips:
            for time_s in (0.0, 3e7):
                on_chips.age(time_s)
                errors.setdefault(name, []).append(float((on_chips(x) - plain(x)).square().mean()))
    # drift without compensation shrinks every product to half in a year; statistics follow it
    assert errors["told"][1] < 0.5 * errors["kept"][1]
    # the same chip, alone or not, and again after another age
    with torch.no_grad(), told.on(lot(told)[3], 3e7) as on_chips:
        once = on_chips(x)
    with torch.no_grad(), told.on(chips) as on_chips:
        on_chips.age(3e7)
        torch.testing.assert_close(on_chips(x)[3], once[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(4, 3)), lambda: Block()])
def test_without_a_normalisation_left_it_says_so(make: Any) -> None:
    plain = make()
    fold = [*PAIRS, ("b", "norm_b")] if isinstance(plain, Block) else False
    net = deploy(plain, NOISY, fold=fold)
    with pytest.raises(
        UsageError, match="expected a network with batch normalisations to re-estimate; got none"
    ):
        net.reestimate_batchnorm(some(4, 4))


# ---- a batch shared among chips ----


def test_a_shared_batch_is_split_among_the_chips() -> None:
    plain = trained(Block(), 2, 4, 4)
    net = deploy(plain, NOISY)
    net.share_batches()
    x = some(12, 2, 4, 4)
    for samples, count in ((12, 4), (9, 3), (7, 1)):
        with torch.no_grad(), net.on(lot(net)[0:4]) as chips:
            shared, each = net(x[:samples]), chips(x[:samples])
        size = samples // count
        expected = torch.cat([each[k, k * size : (k + 1) * size] for k in range(count)])
        torch.testing.assert_close(shared, expected, rtol=1e-5, atol=1e-5)
