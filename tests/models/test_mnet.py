"""M-Net: counted by formula and against its figure, computed again from the figure, on crossbars."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import neurosim as ns
from neurosim import models
from neurosim.analog import Lot
from neurosim.errors import UsageError
from neurosim.models.mnet import MNet, MNetTrunk

IDEAL = ns.hardware("ideal")


def make(name: str = "mnet", **changes: Any) -> nn.Module:
    return models.create(name, **{"num_classes": 2, "in_chans": 1, "image_size": 28, **changes})


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, with statistics, scales and biases that are neither 0 nor 1."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.copy_(0.2 * torch.randn(module.num_features, generator=source))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=source))
                module.weight.copy_(0.5 + torch.rand(module.num_features, generator=source))
            bias = getattr(module, "bias", None)
            if isinstance(bias, Tensor):
                bias.copy_(0.2 * torch.randn(bias.shape, generator=source))
    return net.eval()


# ---- numbers of parameters ----------------------------------------------------------------------------


def convolution(reads: int, makes: int, kernel: int = 9) -> int:
    """Weights and biases, and the scale and shift of a normalisation."""
    return kernel * reads * makes + 3 * makes


def test_the_trunk_has_the_parameters_of_the_figure() -> None:
    c = convolution
    # (channels read, first, second): 16 input maps, which every level reads again
    levels = [(16, 16, 32), (32 + 16, 32, 48), (48 + 16, 48, 64), (64 + 16, 64, 128)]
    levels += [(64 + 64, 64, 48), (48 + 48, 48, 32), (32 + 32, 32, 16)]
    blocks = sum(c(reads, a) + c(reads + a, b) for reads, a, b in levels)
    assert blocks + c(128, 64) == 711_840
    net = make(num_classes=15, in_chans=16, image_size=256)
    assert count(net.get_submodule("trunk")) == 711_840
    assert count(net.get_submodule("classifier")) == (64 + 48 + 32 + 16 + 1) * 15 == 2_415


def test_the_slab_stem_is_a_seven_by_seven_convolution_of_every_slice() -> None:
    net = make(num_classes=15, in_chans=51, stem=16)
    assert count(net) == 711_840 + 2_415 + 51 * 49 * 16 + 3 * 16
    trunk = net.get_submodule("trunk")
    stem = trunk.get_submodule("stem.conv")
    slab = pixels(2, 51, 9, 10)
    solid = F.conv3d(slab[:, None], stem.weight[:, None], stem.bias, padding=(0, 3, 3))  # type: ignore[arg-type,index]
    torch.testing.assert_close(stem(slab), solid.squeeze(2), rtol=1e-4, atol=1e-4)
    assert net.eval()(slab).shape == (2, 15, 9, 10)


def test_the_fingerprint_variant_has_the_published_parameters() -> None:
    c = convolution
    levels = [
        (3, 16),
        (3 + 16, 32),
        (3 + 32, 64),
        (3 + 64, 128),
        (64 + 128, 64),
        (32 + 64, 32),
        (16 + 32, 16),
    ]
    blocks = sum(c(reads, a) + c(reads + a, a) for reads, a in levels)
    assert blocks + c(128, 128) + 240 + 1 == 891_217
    net = make(num_classes=1, in_chans=3, variant="fingerprint", widths=(16, 32, 64, 128))
    assert count(net) == 891_217
    dropouts = [module for module in net.modules() if isinstance(module, nn.Dropout)]
    assert [module.p for module in dropouts] == [0.2] * 8  # one a block, two at the bottom


@settings(deadline=None, max_examples=20)
@given(
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    image=st.integers(1, 3),
    dims=st.sampled_from([2, 3]),
    growing=st.booleans(),
)
def test_parameters_of_any_widths(widths: list[int], image: int, dims: int, growing: bool) -> None:
    def block(reads: int, a: int, b: int) -> int:
        return convolution(reads, a, 3**dims) + convolution(reads + a, b, 3**dims)

    total, last = 0, 0
    skips = []
    for level, width in enumerate(widths[:-1]):
        second = widths[level + 1] if growing else width
        total += block(last + image, width, second)
        skips.append((width, second))
        last = second
    bottom = widths[-1]
    wide = 2 * bottom if growing else bottom
    total += block(last + image, bottom, wide) + convolution(wide, bottom, 3**dims)
    last = bottom
    for width, second in reversed(skips):
        total += block(second + last, second, width)
        last = width
    trunk = MNetTrunk(image, widths=widths, variant="brain" if growing else "fingerprint", dims=dims)
    assert count(trunk) == total
    assert trunk.features == sum(widths)


# ---- the same numbers as the figure's description -----------------------------------------------------


class Figure:
    """M-Net written from its figure, on the weights of a state dict."""

    def __init__(self, state: dict[str, Tensor], eps: float = 1e-5, relu_first: bool = True) -> None:
        self.state, self.eps, self.relu_first = state, eps, relu_first

    def unit(self, key: str, x: Tensor) -> Tensor:
        def norm(y: Tensor) -> Tensor:
            mean, var, scale, shift = (
                self.state[f"{key}.norm.{name}"].view(-1, 1, 1)
                for name in ("running_mean", "running_var", "weight", "bias")
            )
            return (y - mean) / (var + self.eps).sqrt() * scale + shift

        y = F.conv2d(x, self.state[f"{key}.conv.weight"], self.state[f"{key}.conv.bias"], padding="same")
        return norm(y.clamp_min(0)) if self.relu_first else norm(y).clamp_min(0)

    def block(self, key: str, x: Tensor) -> Tensor:
        return self.unit(f"{key}.second", torch.cat((x, self.unit(f"{key}.first", x)), 1))

    def three_levels(self, x: Tensor) -> Tensor:
        half = F.max_pool2d(x, 2)
        quarter, eighth = F.max_pool2d(x, 4), F.max_pool2d(x, 8)
        e1 = self.block("encoder.0", x)
        e2 = self.block("encoder.1", torch.cat((half, F.max_pool2d(e1, 2)), 1))
        e3 = self.block("encoder.2", torch.cat((quarter, F.max_pool2d(e2, 2)), 1))
        b = self.block("bottom.0", torch.cat((eighth, F.max_pool2d(e3, 2)), 1))
        b = self.unit("bottom.1", b)
        d3 = self.block("decoder.0", torch.cat((e3, self.larger(b, 2)), 1))
        d2 = self.block("decoder.1", torch.cat((e2, self.larger(d3, 2)), 1))
        d1 = self.block("decoder.2", torch.cat((e1, self.larger(d2, 2)), 1))
        return torch.cat((self.larger(b, 8), self.larger(d3, 4), self.larger(d2, 2), d1), 1)

    @staticmethod
    def larger(x: Tensor, times: int) -> Tensor:
        return torch.kron(x, torch.ones(times, times, dtype=x.dtype))


@pytest.mark.parametrize("variant", ["brain", "fingerprint"])
@pytest.mark.parametrize("size", [(24, 32), (28, 28), (17, 9), (1, 1)])
def test_it_computes_what_the_figure_says(size: tuple[int, int], variant: str) -> None:
    net = make(in_chans=2, num_classes=3, widths=(4, 5, 6, 7), variant=variant, input_mean=0.4, input_std=0.3)
    net = shaken(net).double()
    brain = variant == "brain"
    figure = Figure(net.get_submodule("trunk").state_dict(), 1e-5 if brain else 1e-3, relu_first=brain)
    x = pixels(2, 2, *size).double()
    # up to a multiple of 8, the last row and column repeated
    rows, columns = (torch.arange(-(-n // 8) * 8).clamp_max(n - 1) for n in size)
    mean, std = torch.tensor(0.4).double(), torch.tensor(0.3).double()  # stored in float32, then widened
    wide = ((x - mean) / std)[:, :, rows][:, :, :, columns]
    features = figure.three_levels(wide)[:, :, : size[0], : size[1]]
    weight, bias = (net.get_parameter(f"classifier.{name}") for name in ("weight", "bias"))
    expected = torch.einsum("bfhw,kf->bkhw", features, weight[:, :, 0, 0]) + bias.view(-1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)


# ---- shapes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(28, 28), (64, 64), (33, 47), (3, 70), (1, 1)])
@pytest.mark.parametrize("name", ["mnet", "mnet-tiny"])
def test_a_class_a_pixel_at_any_size(name: str, size: tuple[int, int]) -> None:
    net = make(name, num_classes=4, image_size=size).eval()
    with torch.no_grad():
        assert net(pixels(2, 1, *size)).shape == (2, 4, *size)


def test_padding_adds_nothing_to_sizes_that_fit() -> None:
    net = shaken(make("mnet-tiny")).double()
    x = pixels(1, 1, 26, 27).double()
    wide = F.pad(x, (0, 1, 0, 2), mode="replicate")  # 28x28: divisible by 4
    with torch.no_grad():
        torch.testing.assert_close(net(x), net(wide)[:, :, :26, :27], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8, 8), (5, 9, 6)])
@pytest.mark.parametrize("variant", ["brain", "fingerprint"])
def test_volumes(variant: str, size: tuple[int, int, int]) -> None:
    net = make(num_classes=3, in_chans=2, dims=3, widths=(4, 6, 8), variant=variant, input_mean=(0.2, 0.6))
    with torch.no_grad():
        assert shaken(net)(pixels(2, 2, *size)).shape == (2, 3, *size)


def test_a_volume_of_equal_slices_is_its_slice_where_the_kernels_say_so() -> None:
    """With every 3-D kernel zero but for its middle plane, each slice is computed as an image alone."""
    flat, solid = make(widths=(4, 6), seed=3), make(widths=(4, 6), dims=3)
    flat = shaken(flat).double()
    state = {
        key: F.pad(value.unsqueeze(2), (0, 0, 0, 0, 1, 1))
        if value.dim() == 4 and value.shape[-1] == 3
        else value
        for key, value in flat.state_dict().items()
    }
    state["classifier.weight"] = state["classifier.weight"].unsqueeze(2)
    solid = solid.double().eval()
    solid.load_state_dict(state)
    x = pixels(2, 1, 8, 10).double()
    with torch.no_grad():
        y = solid(x.unsqueeze(2).expand(2, 1, 4, 8, 10))
        torch.testing.assert_close(y, flat(x).unsqueeze(2).expand_as(y), rtol=0, atol=1e-12)


# ---- training and chips --------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"dims": 3}, {"stem": 4, "in_chans": 5}, {"variant": "fingerprint"}])
def test_gradients_reach_every_parameter(changes: dict[str, Any]) -> None:
    net = make(**{"widths": (4, 6, 8), **changes}).train()
    shape = (2, changes.get("in_chans", 1), *[8] * changes.get("dims", 2))
    (net(pixels(*shape)) * torch.randn(2, 2, *shape[2:])).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "changes",
    [{"widths": (4, 6)}, {"widths": (4, 6), "dims": 3}, {"widths": (4, 6), "stem": 3, "in_chans": 5}],
)
def test_without_noise_two_chips_compute_the_same(changes: dict[str, Any]) -> None:
    net = shaken(make(**changes))
    x = pixels(2, changes.get("in_chans", 1), *[7] * changes.get("dims", 2))
    check_chips(net, x)


def test_the_tiny_one_on_two_chips() -> None:
    check_chips(shaken(make("mnet-tiny")), pixels(2, 1, 28, 28))


def check_chips(net: nn.Module, x: Tensor) -> None:
    deployed = ns.deploy(net, IDEAL).eval()
    with torch.no_grad():
        expected = net(x)
        with deployed.on(Lot(IDEAL)[0:2]) as chips:
            found = chips(x)
    assert found.shape == (2, *expected.shape)
    largest = float(expected.abs().max())
    for chip in range(2):
        torch.testing.assert_close(found[chip], expected, rtol=0, atol=1e-5 * max(1, largest))


# ---- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (8,)}, r"at least two scales, such as \(8, 16, 32\); got \(8,\)"),
        ({"widths": (8, 0)}, "expected widths to be a list of whole numbers"),
        ({"variant": "brian"}, "unknown variant of M-Net 'brian': did you mean 'brain'"),
        ({"dims": 4}, r"expected dims to be 2 \(images\) or 3 \(volumes\); got 4"),
        ({"stem": -1}, "expected stem to be 0 or the number of maps that it makes; got -1"),
        ({"stem": 4, "dims": 3}, "expected stem=0 with dims=3"),
        ({"input_std": 0.0}, "expected every input_std to be above 0"),
    ],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**changes)


def test_the_class_is_the_catalogues() -> None:
    assert isinstance(make("mnet-tiny"), MNet)
    assert models.info("mnet").task == models.info("mnet-tiny").task == "segmentation"
