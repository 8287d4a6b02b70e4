"""RepMLPNet: sizes of the publication, a block written anew with loops, and fusing over drawn geometries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import neurosim as ns
from neurosim import models
from neurosim.errors import UsageError
from neurosim.models import repmlpnet
from neurosim.models.catalogue import MODELS
from neurosim.models.counting import multiply_accumulates, parameters
from neurosim.models.fusing import fused
from neurosim.models.grouped import GroupedPointwise
from neurosim.models.repmlpnet import FFNBlock, RepMLPBlock, RepMLPNet, RepMLPNetUnit
from neurosim.pointwise import pointwise

# counted on the authors' code: parameters in training and fused, 10^9 multiply-accumulates of both
SIZES = {
    "t224": (38_293_608, 38_331_720, 2.808, 2.798),
    "b224": (68_242_712, 68_332_664, 6.676, 6.657),
    "t256": (58_687_848, 58_739_400, 4.258, 4.246),
    "b256": (96_447_512, 96_568_184, 9.640, 9.616),
    "d256": (86_887_648, 86_985_280, 8.636, 8.611),
    "l256": (117_641_560, 117_820_600, 11.609, 11.579),
}


def tiny(**options: Any) -> nn.Module:
    return models.create("repmlpnet-tiny", num_classes=10, in_chans=3, **{"image_size": 32, **options})


def randomise(net: nn.Module, seed: int) -> None:
    """Other weights, and statistics as of a network that has been trained."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator, dtype=like.dtype) * (high - low) + low

    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(uniform(parameter, -0.5, 0.5))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(uniform(module.weight, 0.5, 1.5))
                mean, variance = module.get_buffer("running_mean"), module.get_buffer("running_var")
                mean.copy_(uniform(mean, -1, 1))
                variance.copy_(uniform(variance, 0.2, 2))


@st.composite
def blocks(draw: st.DrawFn) -> tuple[RepMLPBlock, Tensor]:
    """A block in float64 and an image of one or several parts."""
    sharesets, times = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    channels = sharesets * times
    block = RepMLPBlock(
        channels,
        height,
        width,
        sharesets=sharesets,
        kernels=draw(st.lists(st.sampled_from([1, 3, 5]), unique=True)),
        reduction=draw(st.integers(1, channels)),
    )
    block.double().eval()
    seed = draw(st.integers(0, 2**31))
    randomise(block, seed)
    sides = height * draw(st.integers(1, 3)), width * draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(seed + 1)
    shape = draw(st.integers(1, 2)), channels, *sides
    return block, torch.randn(shape, generator=generator, dtype=torch.float64)


def affine(norm: nn.Module, s: int, y: Tensor) -> Tensor:
    mean, variance = norm.get_buffer("running_mean")[s], norm.get_buffer("running_var")[s]
    gamma, beta = norm.get_parameter("weight")[s], norm.get_parameter("bias")[s]
    return (y - mean) / (variance + 1e-5).sqrt() * gamma + beta


def convolve(part: Tensor, kernel: Tensor) -> Tensor:
    """Every output pixel its own sum; what lies outside the part is zero."""
    h, w, around = *part.shape, len(kernel) // 2
    y = torch.zeros_like(part)
    for row in range(h):
        for column in range(w):
            for i in range(len(kernel)):
                for j in range(len(kernel)):
                    r, c = row + i - around, column + j - around
                    if 0 <= r < h and 0 <= c < w:
                        y[row, column] += part[r, c] * kernel[i, j]
    return y


def naive(block: RepMLPBlock, x: Tensor) -> Tensor:
    """The block by loops over images, parts and channels: channel c with matrix c mod S."""
    h, w, out = block.height, block.width, torch.zeros_like(x)
    gate = block.gp
    for n in range(x.shape[0]):
        means = torch.stack([channel.mean() for channel in x[n]])
        hidden = (gate.fc1.weight[:, :, 0, 0] @ means + gate.get_parameter("fc1.bias")).clamp(min=0)
        logits = gate.fc2.weight[:, :, 0, 0] @ hidden + gate.get_parameter("fc2.bias")
        factors = 1 / (1 + (-logits).exp())
        for c in range(x.shape[1]):
            s = c % block.sharesets
            matrix = block.fc3.weight[s * h * w : (s + 1) * h * w, :, 0, 0]
            for top in range(0, x.shape[2], h):
                for left in range(0, x.shape[3], w):
                    part = x[n, c, top : top + h, left : left + w]
                    y = affine(block.fc3_bn, s, (matrix @ part.flatten()).view(h, w))
                    for k in block.kernels:
                        branch = block.get_submodule(f"repconv{k}")
                        kernel = branch.get_submodule("conv").get_parameter("weight")[s, 0]
                        y = y + affine(branch.get_submodule("bn"), s, convolve(part, kernel))
                    out[n, c, top : top + h, left : left + w] = y * factors[c]
    return out


@settings(max_examples=40, deadline=None)
@given(blocks())
def test_the_block_is_what_loops_over_parts_and_channels_compute(drawn: tuple[RepMLPBlock, Tensor]) -> None:
    block, x = drawn
    with torch.no_grad():
        torch.testing.assert_close(block(x), naive(block, x), rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(blocks())
def test_a_fused_block_is_the_same_function(drawn: tuple[RepMLPBlock, Tensor]) -> None:
    block, x = drawn
    with torch.no_grad():
        want, single, want_single = block(x), x.float(), block.float()(x.float())
        in_single = fused(block)(single)
        block.double()  # from rounded weights: compare with them
        want = block(x)
        got = fused(block)(x)
    assert (got - want).abs().max() <= 1e-12 * want.abs().max().clamp(min=1)
    assert (in_single - want_single).abs().max() <= 1e-5 * want_single.abs().max().clamp(min=1)


@pytest.mark.parametrize("parts", [(1, 1), (2, 3)])
def test_identity_matrices_return_the_input(parts: tuple[int, int]) -> None:
    """The authors' code does not with several parts and more channels than share-sets."""
    block = RepMLPBlock(6, 2, 3, sharesets=2, kernels=()).eval()
    with torch.no_grad():
        block.fc3.weight.copy_(torch.eye(6).repeat(2, 1)[:, :, None, None])
        block.get_buffer("fc3_bn.running_var").fill_(1 - 1e-5)
        block.gp.fc2.weight.zero_()
        block.gp.get_parameter("fc2.bias").fill_(40)  # a gate of one
        x = torch.randn(2, 6, 2 * parts[0], 3 * parts[1])
        torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("options", [{}, {"partition": (8, 2, 1), "kernels": (3, 5)}, {"kernels": ()}])
def test_a_fused_network_is_the_same_function(options: dict[str, Any]) -> None:
    net = tiny(**options).eval()
    randomise(net, 3)
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        want, double = net(x), net.double()(x.double())
        got, exact = fused(net.float())(x), fused(net.double())(x.double())
    # such statistics grow a signal by 1e7 and its rounding with it: no further from the truth than before
    rounding = (want - double).abs().max()
    assert (got - double).abs().max() <= max(1e-5 * double.abs().max(), 4 * rounding)
    assert (exact - double).abs().max() <= 1e-6 * double.abs().max()
    assert not any("repconv" in name for name, _ in fused(net).named_modules())


def test_fusing_again_changes_nothing_and_the_dictionary_loads() -> None:
    net = tiny().eval()
    randomise(net, 4)
    once = fused(net)
    twice, fresh = fused(once), tiny(fused=True, seed=1).eval()
    fresh.load_state_dict(once.state_dict(), strict=True)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        want = once(x)
        assert torch.equal(twice(x), want)
        assert torch.equal(fresh(x), want)
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repmlpnet, "Normalise", lambda *_: nn.Identity())  # it checks values; these have none
    row = MODELS[f"repmlpnet-{size}"]
    classes, channels, pixels = row.info.standard
    assert (classes, channels, pixels) == (1000, 3, int(size[1:]))
    counted = []
    for final in (False, True):
        with torch.device("meta"):
            net = RepMLPNet(
                num_classes=classes,
                in_chans=channels,
                image_size=(pixels, pixels),
                fused=final,
                **row.fixed,
            )
        counted.append((parameters(net), multiply_accumulates(net, (channels, pixels, pixels))))
    train, deploy, macs_train, macs_deploy = SIZES[size]
    assert [n for n, _ in counted] == [train, deploy]
    assert [round(macs / 1e9, 3) for _, macs in counted] == [macs_train, macs_deploy]
    assert (row.info.parameters, row.info.macs) == counted[0]


def test_sizes_of_the_tiny_network() -> None:
    assert (parameters(tiny()), parameters(tiny(fused=True))) == (278_946, 279_810)
    # by hand, of pixels, per stage: gate, FC3, both convolutions, FFN; two blocks a stage
    macs = 3 * 4 * 16 * 256 + 16 * 4 * 32 * 64 + 32 * 4 * 64 * 16 + 640
    for c, area in ((16, 256), (32, 64), (64, 16)):
        macs += 2 * (c * c // 2 + c * area * area + c * area * (1 + 9) + 8 * c * c * area)
    assert multiply_accumulates(tiny(), (3, 32, 32)) == macs == MODELS["repmlpnet-tiny"].info.macs


def test_keys_are_those_of_the_authors() -> None:
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    local = [f"repconv{k}.{key}" for k in (1, 3) for key in ("conv.weight", *(f"bn.{n}" for n in norm))]
    gate = [f"gp.{fc}.{key}" for fc in ("fc1", "fc2") for key in ("weight", "bias")]
    block = [*gate, "fc3.weight", *(f"fc3_bn.{n}" for n in norm), *local]
    ffn = [f"ffn_fc{i}.{key}" for i in (1, 2) for key in ("conv.weight", *(f"bn.{n}" for n in norm))]
    unit = [f"repmlp_block.{key}" for key in block] + [f"ffn_block.{key}" for key in ffn]
    unit += [f"prebn{i}.{n}" for i in (1, 2) for n in norm]
    embedding = ["conv.weight", *(f"bn.{n}" for n in norm)]
    wanted = [f"conv_embedding.{key}" for key in embedding]
    wanted += [f"stages.{i}.{j}.{key}" for i in range(3) for j in range(2) for key in unit]
    wanted += [f"embeds.{i}.{key}" for i in range(2) for key in embedding]
    wanted += [f"head_norm.{n}" for n in norm] + ["head.weight", "head.bias"]
    assert [key for key in tiny().state_dict() if not key.startswith("normalise.")] == wanted


def test_the_unit_adds_both_branches() -> None:
    unit = RepMLPNetUnit(4, RepMLPBlock(4, 2, 2), expansion=3).eval()
    randomise(unit, 5)
    x = torch.randn(2, 4, 4, 4)
    ffn: FFNBlock = unit.ffn_block
    with torch.no_grad():
        y = x + unit.repmlp_block(unit.prebn1(x))
        hidden = nn.functional.gelu(ffn.ffn_fc1(unit.prebn2(y)))
        torch.testing.assert_close(unit(x), y + ffn.ffn_fc2(hidden))
    assert hidden.shape[1] == 12


@pytest.mark.parametrize("options", [{}, {"partition": (8, 4, 2)}, {"fused": True}])
def test_gradients_reach_every_parameter(options: dict[str, Any]) -> None:
    net = tiny(**options).train()
    logits = net(torch.rand(4, 3, 32, 32))
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().max() > 0), name


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("options", [{}, {"partition": (8, 4, 2)}])
def test_crossbars_without_noise_compute_the_same(options: dict[str, Any], final: bool) -> None:
    net = tiny(**options).eval()
    randomise(net, 6)
    net = fused(net) if final else net
    deployed = ns.deploy(net, ns.hardware("ideal"))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad(), deployed.on(ns.Lot(deployed.hardware)[0:2]) as chips:
        got, want = chips(x), net(x)
    assert got.shape == (2, 2, 10)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("layer", ["fc3", "repconv1.conv"])
def test_quick_products_are_read_from_crossbars(layer: str) -> None:
    net = tiny(blocks=(1, 1, 1)).eval()
    name = f"stages.1.0.repmlp_block.{layer}"
    deployed = ns.deploy(net, ns.hardware("gaussian-mismatch"), include=[name])
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad(), deployed.on(ns.Lot(deployed.hardware)[0:2]) as chips:
        got, want = chips(x), net(x)
    assert bool((got[0] != want).any())
    assert bool((got[0] != got[1]).any())


class _Doubled(GroupedPointwise):
    """Not the sums of its base, whatever that says of itself."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_the_promise_of_a_class_does_not_bind_those_made_from_it() -> None:
    net = nn.Sequential(GroupedPointwise(4, 4, groups=2), _Doubled(4, 4, groups=2))
    table = str(ns.deploy(net, ns.hardware("ideal")).explain())
    assert "its forward is not that of Conv2d" in table


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([(1, 1), (2, 3)]), st.booleans()
)
def test_pointwise_convolutions(groups: int, fan_in: int, fan_out: int, sides: Any, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(groups + 3 * fan_in + 9 * fan_out)
    x = torch.randn(3, groups * fan_in, *sides, generator=generator, dtype=torch.float64)
    weight = torch.randn(groups * fan_out, fan_in, 1, 1, generator=generator, dtype=torch.float64)
    bias = torch.randn(groups * fan_out, generator=generator, dtype=torch.float64) if with_bias else None
    want = nn.functional.conv2d(x, weight, bias, groups=groups)
    torch.testing.assert_close(pointwise(x, weight, bias, groups), want)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pointwise(last, weight, bias, groups), want)


@pytest.mark.parametrize(("side", "before"), [(28, 2), (27, 2), (32, 0)])
def test_smaller_images_get_zeros_around_them(side: int, before: int) -> None:
    net, whole = tiny(image_size=side).eval(), tiny().eval()
    x = torch.rand(2, 3, side, side)
    larger = torch.zeros(2, 3, 32, 32)
    larger[:, :, before : before + side, before : before + side] = x
    with torch.no_grad():
        torch.testing.assert_close(net(x), whole(larger))


def test_larger_and_oblong_images_have_several_parts() -> None:
    net = tiny(image_size=(40, 64)).eval()
    assert net(torch.rand(1, 3, 40, 64)).shape == (1, 10)


def test_compiles_as_one_graph() -> None:
    net = tiny(blocks=(1, 1, 1), partition=(8, 4, 2)).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(x), net(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 33, "pad": False}, "multiples of 32 pixels, such as 32x32; got 33x33"),
        ({"kernels": (1, 2)}, "expected kernels to be different odd numbers; got .1, 2."),
        ({"kernels": (3, 3)}, "expected kernels to be different odd numbers"),
        ({"sharesets": (3, 4, 16)}, "expected sharesets to divide 16 channels; got 3"),
        ({"partition": (16, 8)}, "expected partition to be a list of 3 whole numbers"),
        ({"reduction": 17}, "expected a reduction of at most 16 channels; got 17"),
        ({"patch": 0}, "expected patch"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(**options)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="sides are multiples of 224 pixels, such as 224x224; got 32x32"):
        models.create("repmlpnet-t224", num_classes=10, in_chans=3, image_size=32)
    with pytest.raises(UsageError, match="sides are multiples of 4x4; got 4x6"):
        RepMLPBlock(4, 4, 4)(torch.zeros(1, 4, 4, 6))
