"""Classifiers on the features of segmentation networks, and the same head on raw images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neurosim as ns
from neurosim import models
from neurosim.analog import Lot
from neurosim.errors import UsageError

IDEAL = ns.hardware("ideal")
PAIRS = [
    ("mnet-tiny", "mnet-classifier-tiny"),
    ("unet-tiny", "unet-classifier-tiny"),
    ("mnet", "mnet-classifier"),
    ("unet", "unet-classifier"),
]
TINY = ["mnet-classifier-tiny", "unet-classifier-tiny", "vgg-tiny", "vgg-small"]
pairs = pytest.mark.parametrize(("segmentation", "classifier"), PAIRS)
tiny = pytest.mark.parametrize("name", TINY)


def make(name: str, **changes: Any) -> nn.Module:
    return models.create(name, **{"num_classes": 3, "in_chans": 1, "image_size": 28, **changes}).eval()


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def part(net: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {key: value for key, value in net.state_dict().items() if key.startswith(prefix)}


# ---- the trunk is the segmentation network's ----------------------------------------------------------


@pairs
def test_the_trunks_keys_and_shapes_are_equal(segmentation: str, classifier: str) -> None:
    ours, theirs = (part(make(name), "trunk.") for name in (classifier, segmentation))
    assert [(key, value.shape) for key, value in ours.items()] == [(k, v.shape) for k, v in theirs.items()]
    others = {key.split(".")[0] for key in make(segmentation).state_dict()}
    assert others == {"normalise", "trunk", "classifier"}
    assert {key.split(".")[0] for key in make(classifier).state_dict()} == {"normalise", "trunk", "head"}


@pytest.mark.parametrize(("segmentation", "classifier"), PAIRS[:2])
def test_weights_loaded_by_prefix_give_the_segmentation_networks_features(
    segmentation: str, classifier: str
) -> None:
    trained = make(segmentation, num_classes=2, seed=5, input_mean=0.3)
    net = make(classifier, seed=1, input_mean=0.6)
    missing, unexpected = net.load_state_dict(part(trained, "trunk."), strict=False)
    assert unexpected == []
    assert all(key.startswith(("normalise.", "head.")) for key in missing)
    read: list[Tensor] = []
    for network in (net, trained):
        network.get_submodule("trunk").register_forward_hook(lambda _, x, y: read.extend((x[0], y)))
    x = pixels(2, 1, 28, 28)
    with torch.no_grad():
        net(x)
        trained(x - 0.6 + 0.3)
    torch.testing.assert_close(read[0], x - 0.6)  # each network has statistics of its own
    torch.testing.assert_close(read[1], read[3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "trunk", "features"), [("mnet-classifier", 653_520, 160), ("unet-classifier", 31_036_416, 64)]
)
def test_parameters_of_trunk_and_head(name: str, trunk: int, features: int) -> None:
    net, chans, head = make(name), features, 0
    for width in (16, 32, 64):
        head += 9 * (chans + width) * width + 4 * width
        chans = width
    assert count(net.get_submodule("head")) == head + 64 * 3 + 3
    # the published trunk reads its 16 input maps at four levels, twice; ours reads one channel
    fewer = 15 * 9 * (16 + 32 + 32 + 48 + 48 + 64 + 64 + 128)
    assert trunk == (711_840 - fewer if features == 160 else 31_037_633 - 65 - 2 * 9 * 64)
    assert count(net) == trunk + head + 195


# ---- the head -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(28, 28), (7, 13), (1, 1)])
def test_the_head_computes_what_it_says(size: tuple[int, int]) -> None:
    net = make("vgg-small", in_chans=2).double()
    state = net.state_dict()
    x = pixels(3, 2, *size).double()
    expected = x
    for block in range(3):
        for i in "12":
            key = f"features.{block}"
            expected = F.conv2d(expected, state[f"{key}.conv{i}.weight"], padding=1) / (1 + 1e-5) ** 0.5
            expected = expected.clamp_min(0)
        height, width = expected.shape[2:]  # a window that is not whole keeps what it has
        expected = F.pad(expected, (0, width % 2, 0, height % 2), value=-1.0)
        expected = torch.stack([expected[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
    means = expected.mean((2, 3))
    expected = means @ state["classifier.linear.weight"].T + state["classifier.linear.bias"]
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)


def test_the_head_is_the_small_vgg() -> None:
    head = part(make("mnet-classifier"), "head.")
    alone = make("vgg-small", in_chans=160)
    assert {key.removeprefix("head.") for key in head} == set(alone.state_dict()) - {
        "normalise.mean",
        "normalise.std",
    }
    assert count(alone) == sum(p.numel() for p in make("mnet-classifier").get_submodule("head").parameters())


def test_dropout_acts_in_training_alone() -> None:
    net = make("vgg-small")
    x = pixels(4, 1, 28, 28)
    assert torch.equal(net(x), net(x))
    classifier = net.get_submodule("classifier").train()
    means = torch.ones(1, 64, 1, 1)
    torch.manual_seed(0)
    first, second = classifier(means), classifier(means)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(classifier(means), first)  # torch's generator decides
    assert isinstance(net.get_submodule("classifier.dropout"), nn.Dropout)


# ---- every one ----------------------------------------------------------------------------------------


@tiny
@pytest.mark.parametrize("size", [(28, 28), (64, 64), (33, 9), (1, 1)])
def test_any_size(name: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert make(name, image_size=size)(pixels(2, 1, *size)).shape == (2, 3)


@pytest.mark.parametrize("name", ["mnet-classifier", "unet-classifier", "vgg-small"])
def test_volumes(name: str) -> None:
    small = {"widths": (4, 6)} if name == "vgg-small" else {"widths": (4, 6), "head_widths": (4,)}
    net = make(name, dims=3, in_chans=2, input_mean=(0.1, 0.2), **small)
    deployed = ns.deploy(net, IDEAL).eval()
    x = pixels(2, 2, 5, 6, 7)
    with torch.no_grad(), deployed.on(Lot(IDEAL)[0:2]) as chips:
        expected = net(x)
        assert expected.shape == (2, 3)
        torch.testing.assert_close(chips(x), expected.expand(2, 2, 3), rtol=0, atol=1e-5)


@tiny
def test_gradients_reach_every_parameter(name: str) -> None:
    net = make(name).train()
    F.cross_entropy(net(pixels(6, 1, 28, 28)), torch.arange(6) % 3).backward()
    missing = [key for key, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert missing == []


@tiny
def test_without_noise_two_chips_compute_the_same(name: str) -> None:
    net, x = make(name), pixels(3, 1, 28, 28)
    deployed = ns.deploy(net, IDEAL).eval()
    with torch.no_grad():
        expected = net(x)
        with deployed.on(Lot(IDEAL)[0:2]) as chips:
            found = chips(x)
    assert found.shape == (2, 3, 3)
    largest = float(expected.abs().max())
    for chip in range(2):
        torch.testing.assert_close(found[chip], expected, rtol=0, atol=1e-5 * max(1, largest))


def test_the_rows_say_what_they_are() -> None:
    for segmentation, classifier in PAIRS:
        assert models.info(segmentation).task == "segmentation"
        assert models.info(classifier).task == "classification"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vgg-small", {"widths": ()}, r"expected widths to have at least one width; got \(\)"),
        ("mnet-classifier", {"head_widths": ()}, r"expected head_widths to have at least one width"),
        ("unet-classifier", {"head_widths": (0,)}, "expected head_widths to be a list of whole numbers"),
        (
            "mnet-classifier",
            {"dropout": 1.0},
            "expected dropout to be a probability from 0 to below 1; got 1.0",
        ),
        ("vgg-small", {"dropout": float("nan")}, "expected dropout to be a probability"),
        ("vgg-small", {"dropout": "0.5"}, "expected dropout to be a probability"),
        ("vgg-small", {"dims": 1}, "expected dims to be 2"),
        (
            "mnet-classifier-tiny",
            {"widths": (4, 8)},
            "unknown option of model 'mnet-classifier-tiny': 'widths'",
        ),
    ],
)
def test_errors(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(name, **changes)
