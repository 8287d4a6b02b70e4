"""U-Net: counted by formula and as others count it, computed again by hand, on crossbars."""

from __future__ import annotations

import itertools
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
from neurosim.models.unet import UNetTrunk

IDEAL = ns.hardware("ideal")


def make(name: str = "unet", **changes: Any) -> nn.Module:
    return models.create(name, **{"num_classes": 2, "in_chans": 1, "image_size": 28, **changes})


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def pixels(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def with_statistics(net: nn.Module) -> nn.Module:
    """In evaluation mode, after training mode has seen some other inputs."""
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for values in (module.running_mean, module.weight, module.bias, module.running_var):
                    assert values is not None
                    values.copy_(0.5 + torch.rand(values.shape, generator=source))
    return net.eval()


# ---- numbers of parameters ----------------------------------------------------------------------------


def by_formula(image: int, widths: list[int], dims: int = 2) -> int:
    """Of the trunk: two normalised 3x3 convolutions without bias a level, a 2x2 transposed one with bias."""

    def level(reads: int, width: int) -> int:
        return 3**dims * (reads + width) * width + 4 * width

    down = sum(level(reads, width) for reads, width in zip([image, *widths], widths, strict=False))
    up = sum(
        2**dims * below * width + width + level(2 * width, width)
        for width, below in itertools.pairwise(widths)
    )
    return down + up


def test_the_published_widths_have_the_parameters_that_others_count() -> None:
    # 31,037,633 is what public implementations with batch normalisation and transposed convolutions report
    assert by_formula(3, [64, 128, 256, 512, 1024]) + 64 + 1 == 31_037_633
    net = make(num_classes=1, in_chans=3)
    assert count(net) == 31_037_633


@settings(deadline=None, max_examples=20)
@given(
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    image=st.integers(1, 3),
    dims=st.sampled_from([2, 3]),
)
def test_parameters_of_any_widths(widths: list[int], image: int, dims: int) -> None:
    assert count(UNetTrunk(image, widths=widths, dims=dims)) == by_formula(image, widths, dims)


# ---- the same numbers as by hand ----------------------------------------------------------------------


def test_it_computes_what_the_figure_says() -> None:
    net = with_statistics(make(num_classes=3, in_chans=2, widths=(3, 4, 5))).double()
    state = net.get_submodule("trunk").state_dict()

    def block(key: str, x: Tensor) -> Tensor:
        for i in "12":
            x = F.conv2d(x, state[f"{key}.conv{i}.weight"], padding="same")
            norm = [
                state[f"{key}.norm{i}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
            ]
            x = F.batch_norm(x, *norm).clamp_min(0)
        return x

    def double(level: int, x: Tensor) -> Tensor:
        weight, bias = state[f"enlarge.{level}.weight"], state[f"enlarge.{level}.bias"]
        y = torch.einsum("bihw,iokl->bohkwl", x, weight)  # every pixel becomes a square of 2x2
        batch, chans, height, _, width, _ = y.shape
        return y.reshape(batch, chans, 2 * height, 2 * width) + bias.view(-1, 1, 1)

    x = pixels(2, 2, 8, 12).double()
    e1 = block("encoder.0", x)
    e2 = block("encoder.1", F.max_pool2d(e1, 2))
    y = block("bottom", F.max_pool2d(e2, 2))
    y = block("decoder.0", torch.cat((e2, double(0, y)), 1))
    y = block("decoder.1", torch.cat((e1, double(1, y)), 1))
    weight, bias = (net.get_parameter(f"classifier.{name}") for name in ("weight", "bias"))
    expected = torch.einsum("bfhw,kf->bkhw", y, weight[:, :, 0, 0]) + bias.view(-1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)


# ---- shapes, training, chips ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(28, 28), (64, 64), (33, 47), (1, 1)])
def test_a_class_a_pixel_at_any_size(size: tuple[int, int]) -> None:
    net = make("unet-tiny", num_classes=4, image_size=size).eval()
    with torch.no_grad():
        assert net(pixels(2, 1, *size)).shape == (2, 4, *size)


def test_padding_repeats_the_last_pixels() -> None:
    net = with_statistics(make("unet-tiny")).double()
    x = pixels(1, 1, 26, 27).double()
    wide = torch.cat((x, x[:, :, -1:], x[:, :, -1:]), 2)
    wide = torch.cat((wide, wide[..., -1:]), 3)
    with torch.no_grad():
        torch.testing.assert_close(net(x), net(wide)[:, :, :26, :27], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8, 8), (5, 9, 6)])
def test_volumes(size: tuple[int, int, int]) -> None:
    net = make(num_classes=3, in_chans=2, dims=3, widths=(4, 6, 8), input_std=(0.2, 0.6)).eval()
    with torch.no_grad():
        assert net(pixels(2, 2, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_reach_every_parameter(dims: int) -> None:
    net = make(widths=(4, 6, 8), dims=dims).train()
    y = net(pixels(2, 1, *[8] * dims))
    (y * torch.randn(y.shape)).sum().backward()
    missing = [key for key, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert missing == []


@pytest.mark.parametrize(
    ("name", "changes", "size"),
    [("unet-tiny", {}, (28, 28)), ("unet", {"widths": (3, 4), "dims": 3}, (4, 5, 6))],
)
def test_without_noise_two_chips_compute_the_same(
    name: str, changes: dict[str, Any], size: tuple[int, ...]
) -> None:
    net, x = with_statistics(make(name, **changes)), pixels(2, 1, *size)
    deployed = ns.deploy(net, IDEAL).eval()
    with torch.no_grad():
        expected = net(x)
        with deployed.on(Lot(IDEAL)[0:2]) as chips:
            found = chips(x)
    largest = float(expected.abs().max())
    for chip in range(2):
        torch.testing.assert_close(found[chip], expected, rtol=0, atol=1e-5 * max(1, largest))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (8,)}, r"at least two scales, such as \(8, 16, 32\); got \(8,\)"),
        ({"widths": 8}, "expected widths to be a list of whole numbers"),
        ({"dims": True}, r"expected dims to be 2 \(images\) or 3 \(volumes\); got True"),
    ],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**changes)
