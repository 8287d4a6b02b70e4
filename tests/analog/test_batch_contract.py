"""Chips on the batch axis: which networks may share it, what they may return, memory."""

from __future__ import annotations

import contextlib
import copy
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn as nn
from torch import Tensor

import neurosim as ns
from neurosim.analog import Deployed, Lot, deploy
from neurosim.errors import UsageError

from .networks import DAY, filled, lot, read, small, some

PCM = ns.hardware("pcm-joshi-2020", array__output_noise_std=0.02, **small(16, 16))
MISMATCH = ns.hardware("gaussian-mismatch")


class Net(nn.Module):
    """One layer and whatever a test does around it."""

    def __init__(self, around: Callable[[nn.Module, Tensor], Any], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8) if layer is None else layer
        self.around = around

    def forward(self, x: Tensor) -> Any:
        return self.around(self.layer, x)


def put(around: Callable[[nn.Module, Tensor], Any], **options: Any) -> Deployed:
    net = deploy(filled(Net(around, **options)), PCM)
    net.calibrate(some(20, 8))
    return net


def looped(net: Deployed, chips: list[int], x: Tensor) -> list[Any]:
    """Each chip on its own bench, by plain calls of the network."""
    outputs = []
    for chip in chips:
        with torch.no_grad(), net.on(lot(net)[chip], DAY):
            outputs.append(net(x))
    return outputs


# ---- networks that couple the samples of a batch ----

BREAKS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "mean over samples": lambda layer, x: layer(x).mean(0),
    "mean over samples, kept": lambda layer, x: layer(x) - layer(x).mean(0, keepdim=True),
    "sequence first": lambda layer, x: layer(x).cumsum(0),
    "softmax over samples": lambda layer, x: layer(x).softmax(0),
    "loss": lambda layer, x: layer(x).square().mean(),
    "one sample at a time": lambda layer, x: torch.stack([layer(row) for row in x]),
    "batch in the shape": lambda layer, x: layer(x).reshape(5, -1, 4),
}


@pytest.mark.parametrize("around", BREAKS.values(), ids=BREAKS.keys())
def test_coupled_samples_fall_back_with_one_warning_and_equal_numbers(
    around: Callable[[nn.Module, Tensor], Any],
) -> None:
    net, x = put(around), some(5, 8, name="test")
    with torch.no_grad(), net.on(lot(net)[0:3], DAY) as chips:
        with pytest.warns(UserWarning, match="does not treat axis 0 as an ordinary batch") as caught:
            first = chips(x)
            chips.age(DAY)
            assert torch.equal(chips(x), first)
            chips(x.double().float()[:5])
        assert len(caught) == 1
    for together, alone in zip(first, looped(net, [0, 1, 2], x), strict=True):
        assert torch.equal(together, alone)


def test_one_warning_a_network_whatever_the_batch() -> None:
    net = put(BREAKS["mean over samples"])
    with torch.no_grad(), net.on(lot(net)[0:3]) as chips, pytest.warns(UserWarning) as caught:
        for count in (5, 1, 2):
            assert chips(some(count, 8)).shape == (3, 8)
    assert len(caught) == 1


def test_training_mode_runs_one_at_a_time_with_the_statistics_of_each_chip() -> None:
    plain = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    net = deploy(filled(plain), MISMATCH)
    net.train()
    x = some(6, 8)
    with net.on(lot(net)[0:3]) as chips:
        together = chips(x)
    for chip in range(3):
        with net.on(lot(net)[chip]):
            assert torch.equal(net(x), together[chip])


def test_batch_norm_that_trains_in_an_evaluated_network_falls_back() -> None:
    net = deploy(filled(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))), MISMATCH)
    net.get_submodule("1").train()
    with (
        torch.no_grad(),
        net.on(lot(net)[0:2]) as chips,
        pytest.warns(UserWarning, match="chips run one at a time"),
    ):
        together = chips(some(6, 8))
    # each chip is normalised by its own batch: mean 0 before the affine part
    shifted = (together - net.get_submodule("1").bias) / net.get_submodule("1").weight
    assert float(shifted.detach().mean(1).abs().max()) < 1e-5


# ---- what a network may return ----


def test_outputs_keep_their_structure() -> None:
    def around(layer: nn.Module, x: Tensor) -> Any:
        y = layer(x)
        return {"logits": y, "pair": (y.argmax(1), [y > 0, None]), "name": "net", "count": 3}

    net, x = put(around), some(5, 8)
    with torch.no_grad(), net.on(lot(net)[0:3], DAY) as chips:
        out = chips(x)
    assert all(net._bench.rides.values())
    expected = torch.stack([y["logits"] for y in looped(net, [0, 1, 2], x)])
    assert torch.equal(out["logits"], expected)
    assert torch.equal(out["pair"][0], expected.argmax(2))
    assert torch.equal(out["pair"][1][0], expected > 0)
    assert out["pair"][1][1] is None
    assert (out["name"], out["count"]) == ("net", 3)


def test_an_output_nobody_can_join_is_refused() -> None:
    net = put(lambda layer, x: Box(layer(x)))
    with (
        torch.no_grad(),
        net.on(lot(net)[0:3]) as chips,
        pytest.raises(UsageError, match=r"expected a network that returns tensors, .*; got Box"),
    ):
        chips(some(5, 8))


class Box:
    def __init__(self, value: Tensor) -> None:
        self.value = value


def test_an_empty_batch_gives_empty_outputs() -> None:
    net = put(lambda layer, x: layer(x))
    with torch.no_grad(), net.on(lot(net)[0:3]) as chips:
        assert chips(torch.empty(0, 8)).shape == (3, 0, 8)


def test_what_is_not_a_number_rides_too() -> None:
    net, x = put(lambda layer, x: layer(x) / 0 - torch.inf), some(4, 8)
    with torch.no_grad(), net.on(lot(net)[0:3]) as chips:
        chips(x)  # a warning would be an error
    assert all(net._bench.rides.values())


# ---- layers that a network uses in its own way ----


def test_a_layer_used_twice_takes_the_larger_range_of_its_uses() -> None:
    x = some(40, 8)
    for around in (lambda layer, x: layer(100 * x) + layer(x), lambda layer, x: layer(x) + layer(100 * x)):
        state = deploy(filled(Net(around)), PCM, calibration=x).calibration_state()
        once = deploy(filled(Net(lambda layer, x: layer(100 * x))), PCM, calibration=x).calibration_state()
        assert float(state["layer.dac"]) == float((100 * x).abs().max())
        assert torch.equal(state["layer.adc"], once["layer.adc"])


def test_calibrating_again_forgets_the_first_ranges_and_keeps_them_on_failure() -> None:
    net, x = put(lambda layer, x: layer(x)), some(40, 8)
    net.calibrate(100 * x)
    large = net.calibration_state()
    with pytest.raises(UsageError, match="NaN or infinite"):
        net.calibrate(x * float("nan"))
    assert torch.equal(net.calibration_state()["layer.adc"], large["layer.adc"])
    net.calibrate(x)
    assert float(net.calibration_state()["layer.dac"]) == float(x.abs().max())


def test_a_layer_used_twice_does_not_depend_on_batch_size() -> None:
    hardware = ns.hardware("ideal", array__output_noise_std=0.1)
    net = deploy(filled(Net(lambda layer, x: layer(layer(x).tanh()))), hardware, calibration=some(40, 8))
    x = some(40, 8)
    whole = read(net, lot(net)[0:2], x)
    with torch.no_grad(), net.on(lot(net)[0:2], DAY) as chips:
        pieces = torch.cat([chips(piece) for piece in x.split([7, 1, 32])], dim=1)
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-5)


def test_two_uses_have_white_noise_of_their_own() -> None:
    hardware = ns.hardware("ideal", array__output_noise_std=0.1)
    net = deploy(filled(Net(lambda layer, x: layer(x) - layer(x))), hardware, calibration=some(5, 8))
    out = read(net, lot(net)[0:1], some(200, 8))
    sigma = 0.1 * float(net.calibration_state()["layer.dac"]) * float(net.layer.weight.detach().abs().max())  # type: ignore[union-attr, operator]
    assert float(out.std()) == pytest.approx(sigma * 2**0.5, rel=0.1)  # 1,600 draws: 5.7 standard errors


def test_torchs_fused_transformer_layer_goes_through_the_crossbars() -> None:
    plain = filled(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True))
    net, x = deploy(plain, MISMATCH), some(3, 4, 8)
    with torch.no_grad():
        assert torch.equal(net(x), plain(x))
    out = read(net, lot(net)[0:2], x)
    assert not torch.allclose(out[0], out[1], atol=1e-3)
    with net.on(lot(net)[0:2], DAY) as chips:
        torch.testing.assert_close(chips(x).detach(), out, rtol=1e-4, atol=1e-5)
    deploy(plain, PCM, calibration=x)  # every crossbar is reached
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_compute_in_float32_on_chips(dtype: torch.dtype) -> None:
    plain, x = filled(nn.Linear(8, 8)).to(dtype), some(5, 8).to(dtype)
    for hardware in (PCM, ns.hardware("ideal")):
        net = deploy(plain, hardware, calibration=x)
        wide = deploy(copy.deepcopy(plain).float(), hardware, calibration=x.float())
        out = read(net, lot(net)[0:2], x)
        assert out.dtype == dtype
        assert torch.equal(out, read(wide, lot(wide)[0:2], x.float()).to(dtype))


def test_views_of_convolutions_work() -> None:
    plain = filled(Net(lambda layer, x: layer(x).view(len(x), -1), layer=nn.Conv2d(2, 4, 3)))
    net, x = deploy(plain, PCM, calibration=some(5, 2, 8, 8)), some(5, 2, 8, 8)
    assert read(net, lot(net)[0:3], x).shape == (3, 5, 144)


def test_a_trainable_bias_on_frozen_weights_gets_its_gradient() -> None:
    for held in ("digital", "device"):
        net = deploy(filled(nn.Linear(8, 3)), MISMATCH.with_("array.bias", held))
        net.get_parameter("weight").requires_grad_(False)
        with net.on(Lot(net.hardware)[0:2]) as chips:
            chips(some(5, 8)).sum().backward()
        grad = net.get_parameter("bias").grad
        assert grad is not None
        assert bool((grad > 0).all())


def test_modes_of_modules_survive_calibration_and_measuring() -> None:
    net = deploy(filled(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout())), PCM)
    net.train()
    net.get_submodule("1").eval()  # a frozen batch-norm
    before = [module.training for module in net.modules()]
    net.calibrate(some(5, 8))
    net.chip_block(some(5, 8))
    assert [module.training for module in net.modules()] == before
    assert net.get_buffer("1.num_batches_tracked") == 0


def test_a_copy_made_on_the_bench_is_off_it() -> None:
    net, x = put(lambda layer, x: layer(x)), some(4, 8)
    expected = read(net, lot(net)[0:2], x)
    with torch.no_grad(), net.on(lot(net)[5:7], DAY) as chips:
        chips(x)
        twin = copy.deepcopy(net)
        assert torch.equal(twin(x), twin.layer(x))  # type: ignore[operator]
    assert torch.equal(read(twin, lot(net)[0:2], x), expected)


def test_chips_that_left_the_bench_say_so() -> None:
    net = put(lambda layer, x: layer(x))
    with net.on(lot(net)[0:2]) as chips:
        assert chips.chips.numbers == (0, 1)
    with pytest.raises(UsageError, match="the chips are off the bench"):
        chips(some(4, 8))


def test_global_generators_are_left_alone() -> None:
    net, before = put(lambda layer, x: layer(x)), torch.get_rng_state()
    read(net, lot(net)[0:2], some(4, 8))
    assert torch.equal(torch.get_rng_state(), before)


# ---- memory ----


def test_a_chip_block_fits_the_budget() -> None:
    net = deploy(filled(nn.Linear(1000, 1000)), MISMATCH)
    x = some(2, 1000)
    per_chip = 40 * 1_000_000 + 4 * 2 * 4000
    for chips in (1, 2, 7):
        assert net.chip_block(x, budget_bytes=chips * per_chip) == chips
        assert net.chip_block(x, budget_bytes=(chips + 1) * per_chip - 1) == chips
    assert net.chip_block(x, budget_bytes=1) == 1


def test_a_network_that_takes_one_batch_size_only_has_a_chip_block() -> None:
    net = put(lambda layer, x: layer(x).reshape(20, 2, 4))
    assert net.chip_block(some(20, 8)) >= 1


_MEASURE = """
import resource, sys, torch, neurosim as ns
from neurosim.analog import Lot, deploy
torch.set_num_threads(1)
net = deploy(torch.nn.Linear(1500, 1500), ns.hardware("pcm-joshi-2020"), calibration=torch.rand(4, 1500))
net.chip_block(torch.rand(4, 1500))
lot, x = Lot(net.hardware), torch.rand(4, 1500)
with torch.no_grad(), net.on(lot[0]) as chips:
    chips(x)
    chips.age(25.0)
    chips(x)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
budget = 400 << 20
block = net.chip_block(x, budget_bytes=budget)
for first in range(0, 3 * block, block):
    with torch.no_grad(), net.on(lot[first:first + block]) as chips:
        chips(x)
        chips.age(25.0)
        chips(x)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(block, grown)
sys.exit(not (block >= 3 and grown <= budget))
"""


def test_memory_stays_within_the_budget_of_a_block() -> None:
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_warns_on_an_ordinary_network() -> None:
    plain = filled(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    )
    x = some(5, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(deploy(plain, PCM, calibration=x), Lot(PCM)[0:4], x).shape == (4, 5, 3)


@pytest.mark.parametrize("name", ["ideal", "gaussian-mismatch", "pcm-joshi-2020"])
@pytest.mark.parametrize("leading", [True, False])
def test_what_is_the_same_for_all_samples_is_never_split_among_chips(name: str, leading: bool) -> None:
    class Text(nn.Module):
        """Words and positions without a batch axis; outputs below any absolute tolerance."""

        def __init__(self) -> None:
            super().__init__()
            self.words, self.places, self.head = nn.Embedding(29, 8), nn.Embedding(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            places = torch.arange(x.shape[1])
            y: Tensor = self.head(self.words(x) + self.places(places[None] if leading else places))
            return y

    plain = filled(Text())
    with torch.no_grad():
        for parameter in plain.head.parameters():
            parameter.mul_(1e-6)
    words = torch.arange(18).reshape(3, 6)
    net = deploy(plain, ns.hardware(name, array__output_noise_std=0.0), calibration=words)
    with contextlib.nullcontext() if leading else pytest.warns(UserWarning, match="one at a time"):
        together = read(net, lot(net)[0:4], words)
    assert all(net._bench.rides.values()) == leading
    for chip in range(4):
        alone = read(net, lot(net)[chip], words)[0]
        assert torch.equal(together[chip], alone)
