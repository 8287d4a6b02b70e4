"""Vision Permutator: counted by hand, computed again with loops, and deployed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neurosim import models
from neurosim.analog import Lot, deploy
from neurosim.devices import hardware
from neurosim.errors import UsageError
from neurosim.models import counting
from neurosim.models.vip import (
    DropPath,
    PermuteMLP,
    VisionPermutator,
    WeightedPermuteMLP,
    height_and_segments,
    width_and_segments,
)

SMALL: dict[str, Any] = {
    "num_classes": 5,
    "in_chans": 2,
    "image_size": (12, 12),
    "patch": 2,
    "layers": (1, 2, 1),
    "channels": (12, 12, 18),
    "segments": (6, 3, 3),
    "input_mean": (0.2, 0.6),
    "input_std": (0.3, 0.7),
}


def random_net(**changes: Any) -> VisionPermutator:
    """Every parameter random, the ones that start at 0 and 1 too."""
    torch.manual_seed(0)
    net = VisionPermutator(**{**SMALL, **changes}).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return net


# ---- the same function, with loops --------------------------------------------------------------------

Array = np.ndarray[Any, np.dtype[np.float64]]


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def patches(x: Array, weight: Array, bias: Array) -> Array:
    """Of one map (H, W, C), with a kernel (O, C, side, side)."""
    side = weight.shape[-1]
    out = np.empty((x.shape[0] // side, x.shape[1] // side, len(weight)))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            part = x[i * side : (i + 1) * side, j * side : (j + 1) * side]
            out[i, j] = np.einsum("ijc,ocij->o", part, weight) + bias
    return out


def permute_mlp(x: Array, p: dict[str, Array], cuts: int) -> Array:
    """Of one map (H, W, C): vectors are gathered value by value."""
    side, _, channels = x.shape
    s = channels // cuts
    h, w, c = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    for line in range(side):
        for segment in range(cuts):
            here = slice(segment * s, (segment + 1) * s)
            column = np.concatenate([x[i, line, here] for i in range(side)])
            row = np.concatenate([x[line, j, here] for j in range(side)])
            column, row = p["mlp_h.weight"] @ column, p["mlp_w.weight"] @ row
            for i in range(side):
                h[i, line, here] = column[i * s : (i + 1) * s]
                w[line, i, here] = row[i * s : (i + 1) * s]
        for j in range(side):
            c[line, j] = p["mlp_c.weight"] @ x[line, j]
    mixed = h + w + c
    if "reweight.fc1.weight" in p:
        hidden = gelu(p["reweight.fc1.weight"] @ mixed.mean((0, 1)) + p["reweight.fc1.bias"])
        logits = p["reweight.fc2.weight"] @ hidden + p["reweight.fc2.bias"]
        share = np.exp([[logits[3 * k + branch] for branch in range(3)] for k in range(channels)])
        share /= share.sum(1, keepdims=True)
        mixed = h * share[:, 0] + w * share[:, 1] + c * share[:, 2]
    return mixed @ p["proj.weight"].T + p["proj.bias"]


def block(x: Array, p: dict[str, Array], cuts: int) -> Array:
    x = x + permute_mlp(layer_norm(x, p["norm1.weight"], p["norm1.bias"]), within(p, "attn"), cuts)
    y = layer_norm(x, p["norm2.weight"], p["norm2.bias"])
    y = gelu(y @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
    return x + y @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]


def within(p: dict[str, Array], name: str) -> dict[str, Array]:
    return {key.removeprefix(f"{name}."): value for key, value in p.items() if key.startswith(f"{name}.")}


def forward(net: VisionPermutator, image: Array, cuts: list[int | None], blocks: list[int]) -> Array:
    """Of one image (C, H, W); ``cuts`` is None for a downsampling, else the segments of a stage."""
    p = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    x = (image - p["normalise.mean"]) / p["normalise.std"]
    x = patches(x.transpose(1, 2, 0), p["patch_embed.proj.weight"], p["patch_embed.proj.bias"])
    for i, segments in enumerate(cuts):
        stage = within(p, f"network.{i}")
        if segments is None:
            x = patches(x, stage["proj.weight"], stage["proj.bias"])
        else:
            for number in range(blocks[i]):
                x = block(x, within(stage, str(number)), segments)
    x = layer_norm(x, p["norm.weight"], p["norm.bias"]).mean((0, 1))
    return p["head.weight"] @ x + p["head.bias"]


@pytest.mark.parametrize("permute", ["weighted", "plain"])
def test_the_network_is_what_loops_compute(permute: str) -> None:
    net = random_net(permute=permute)
    x = torch.rand(2, 2, 12, 12, dtype=torch.float64)
    # stages of 6, 3 and 3 segments: 2x2 convolution where they halve, 1x1 where only channels change
    expected = [forward(net, image, [6, None, 3, None, 3], [1, 0, 2, 0, 1]) for image in x.numpy()]
    torch.testing.assert_close(net(x), torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-10)
    assert net(x).abs().max() > 0.1
    assert [n.proj.kernel_size for n in (net.network[1], net.network[3])] == [(2, 2), (1, 1)]


def test_the_two_mixers_differ_by_the_choice_among_branches_only() -> None:
    """With every logit 0 a softmax gives 1/3 to each branch: a third of their sum."""
    weighted, plain = WeightedPermuteMLP(12, 3).double(), PermuteMLP(12, 3).double()
    for parameter in weighted.reweight.parameters():
        nn.init.zeros_(parameter)
    plain.load_state_dict({k: v for k, v in weighted.state_dict().items() if not k.startswith("reweight")})
    x = torch.randn(2, 3, 3, 12, dtype=torch.float64)
    bias = plain.proj.bias
    torch.testing.assert_close(3 * (weighted(x) - bias), plain(x) - bias, rtol=0, atol=1e-12)


# ---- permutations -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))
def test_exchanges_are_their_own_inverse(batch: int, side: int, s: int) -> None:
    x = torch.arange(batch * side * side * side * s).reshape(batch, side, side, side * s)
    for exchange in (height_and_segments, width_and_segments):
        assert torch.equal(exchange(exchange(x, side), side), x)
    assert torch.equal(
        width_and_segments(x, side), height_and_segments(x.transpose(1, 2), side).transpose(1, 2)
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_exchanges_move_every_value_where_they_say(height: int, width: int, cuts: int, s: int) -> None:
    x = torch.arange(height * width * cuts * s).reshape(1, height, width, cuts * s)
    by_height, by_width = height_and_segments(x, cuts), width_and_segments(x, cuts)
    assert by_height.shape == (1, cuts, width, height * s)
    assert by_width.shape == (1, height, cuts, width * s)
    for i in range(height):
        for j in range(width):
            for segment in range(cuts):
                values = x[0, i, j, segment * s : (segment + 1) * s]
                assert torch.equal(by_height[0, segment, j, i * s : (i + 1) * s], values)
                assert torch.equal(by_width[0, i, segment, j * s : (j + 1) * s], values)


# ---- sizes --------------------------------------------------------------------------------------------


def by_hand(layers: Any, channels: Any, steps: Any, patch: int, in_chans: int, classes: int) -> int:
    """Parameters from the paper's description; ``steps``: kernel of the convolution before each stage."""

    def mlp(i: int, h: int, o: int) -> int:
        return i * h + h + h * o + o

    total = patch**2 * in_chans * channels[0] + channels[0]
    for i, (depth, c) in enumerate(zip(layers, channels, strict=True)):
        if steps[i]:
            total += steps[i] ** 2 * channels[i - 1] * c + c
        permute = 3 * c * c + mlp(c, c // 4, 3 * c) + c * c + c
        total += depth * (2 * 2 * c + permute + mlp(c, 3 * c, c))
    return int(total + 2 * channels[-1] + channels[-1] * classes + classes)


COUNTS = {
    "vip-tiny-28": (317_026, ((4,), (84,), (0,), 4, 1, 10)),
    "vip-tiny-32": (492_842, ((2, 2), (64, 128), (0, 2), 4, 3, 10)),
    "vip-s14": (29_892_904, ((4, 3, 8, 3), (384,) * 4, (0,) * 4, 14, 3, 1000)),
    "vip-s7": (25_114_984, ((4, 3, 8, 3), (192, 384, 384, 384), (0, 2, 0, 0), 7, 3, 1000)),
    "vip-m7": (55_272_488, ((4, 3, 14, 3), (256, 256, 512, 512), (0, 0, 2, 0), 7, 3, 1000)),
    "vip-l7": (87_784_936, ((8, 8, 16, 4), (256, 512, 512, 512), (0, 2, 0, 0), 7, 3, 1000)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_the_authors(name: str) -> None:
    expected, description = COUNTS[name]
    assert by_hand(*description) == expected
    row = models.catalogue.MODELS[name]
    classes, channels, side = row.info.standard
    with torch.device("meta"):
        net = row.build()(num_classes=classes, in_chans=channels, image_size=(side, side), **row.fixed)
    assert counting.parameters(net) == row.info.parameters == expected


def test_plain_lacks_the_reweighting_only() -> None:
    weighted = models.create("vip-tiny-32", num_classes=10, in_chans=3, image_size=32)
    plain = models.create("vip-tiny-32", num_classes=10, in_chans=3, image_size=32, permute="plain")
    extra = [n for n, _ in weighted.named_parameters() if n not in dict(plain.named_parameters())]
    assert len(extra) == 4 * 4
    assert all(".attn.reweight." in n for n in extra)
    saved = 2 * sum(c * c // 4 + c // 4 + c // 4 * 3 * c + 3 * c for c in (64, 128))
    assert counting.parameters(weighted) - counting.parameters(plain) == saved


def test_initial_weights() -> None:
    net = models.create("vip-tiny-32", num_classes=10, in_chans=3, image_size=32)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            assert module.bias is None or not module.bias.any()
            if module.weight.numel() > 10_000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()
            assert module.eps == 1e-5


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("vip-tiny-32", 28, r"images of 32x32 pixels, 8 segments of 4-pixel patches.*got 28x28"),
        ("vip-tiny-32", (32, 36), r"images of 32x32 .*got 32x36"),
        ("vip-tiny-32", 33, r"images of 32x32 .*got 33x33"),
        ("vip-tiny-28", 32, r"images of 28x28 pixels, 7 segments of 4-pixel patches.*got 32x32"),
        ("vip-s14", 225, r"images of 224x224 pixels, 16 segments of 14-pixel.*got 225x225"),
        ("vip-s7", 112, r"images of 224x224 pixels, 32 segments of 7-pixel.*got 112x112"),
    ],
)
def test_a_wrong_size_is_explained(name: str, size: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        models.create(name, num_classes=10, in_chans=3, image_size=size)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"permute": "weigted"}, "did you mean 'weighted'"),
        ({"drop_path": 1.0}, "drop_path to be a number from 0 to below 1; got 1.0"),
        ({"drop_path": True}, "drop_path"),
        ({"channels": (12, 13, 18)}, "got 13 channels and 3 segments"),
        ({"channels": (12, 12)}, "channels to be a list of 3 whole numbers"),
        ({"channels": (12, 3, 18)}, "at least 4"),
        ({"segments": (6, 2, 2)}, r"stay or halve .* got \(6, 2, 2\)"),
        ({"patch": 0}, "patch"),
        ({"layers": (1, 0, 1)}, "layers"),
    ],
)
def test_options_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        VisionPermutator(**{**SMALL, **changes})


# ---- training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("permute", ["weighted", "plain"])
def test_gradients_reach_every_parameter(permute: str) -> None:
    net = random_net(permute=permute).train()
    net(torch.rand(3, 2, 12, 12, dtype=torch.float64)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_stochastic_depth_grows_linearly_over_all_blocks() -> None:
    net = VisionPermutator(**SMALL, drop_path=0.6)
    rates = [m.rate for m in net.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.2, 0.4, 0.6])  # none in the first of four blocks
    assert not [m for m in VisionPermutator(**SMALL).modules() if isinstance(m, DropPath)]


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    layer = DropPath(0.25).train()
    torch.manual_seed(1)
    y = layer(torch.ones(4000, 2, 3))
    values = y.flatten(1)
    assert (values == values[:, :1]).all()
    assert values[:, 0].unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert y.mean().item() == pytest.approx(1, abs=4 * math.sqrt(0.25 / 0.75 / 4000))
    torch.manual_seed(1)
    assert torch.equal(layer(torch.ones(4000, 2, 3)), y)
    x = torch.randn(3, 2)
    assert torch.equal(layer.eval()(x), x)


# ---- on chips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("permute", ["weighted", "plain"])
def test_without_noise_chips_compute_the_same(permute: str) -> None:
    net = random_net(permute=permute).float()
    x = torch.rand(4, 2, 12, 12)
    deployed = deploy(net, hardware("ideal"))
    with torch.no_grad(), deployed.on(Lot(hardware("ideal"), seed=0)[0:2]) as chips:
        got: Tensor = chips(x)
        expected = net(x)
    assert got.shape == (2, 4, 5)
    torch.testing.assert_close(got, expected.expand(2, -1, -1), rtol=0, atol=1e-5)


def test_every_matrix_is_on_crossbars() -> None:
    net = models.create("vip-tiny-28", num_classes=10, in_chans=1, image_size=28)
    explained = deploy(net, hardware("ideal")).explain()
    on_chip = {row.name for row in explained.layers}
    assert on_chip == {n for n, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert {row.kind for row in explained.digital if row.parameters} == {"LayerNorm"}
