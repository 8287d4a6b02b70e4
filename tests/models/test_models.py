"""The zoo: counted by hand, seeded apart from torch's generator, an ordinary batch on axis 0."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosim import models
from neurosim.errors import UsageError
from neurosim.models.normalise import Normalise
from neurosim.models.resnet import Shortcut
from neurosim.models.vgg import vgg_features

NAMES = ["cnn", "mlp", "resnet32", "resnet8"]  # test_cards.py covers the whole table


def make(name: str, **changes: Any) -> nn.Module:
    return models.create(name, **{"num_classes": 10, "in_chans": 3, "image_size": 32, **changes}).eval()


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# ---- numbers of parameters, by hand ------------------------------------------------------------------


def test_cnn_has_the_papers_parameters() -> None:
    convolutions = (4 * 4 * 1 * 64 + 64) + (4 * 4 * 64 * 64 + 64)
    dense = (1600 * 256 + 256) + (256 * 64 + 64) + (64 * 10 + 10)
    assert convolutions + dense == 493_642
    assert count(make("cnn", in_chans=1, image_size=28)) == 493_642


def test_resnet32_has_the_published_parameters() -> None:
    def stage(fan_in: int, planes: int, blocks: int) -> int:  # two 3x3 convolutions, two batch norms
        first = 9 * fan_in * planes + 9 * planes * planes + 4 * planes
        return first + (blocks - 1) * (18 * planes * planes + 4 * planes)

    def total(blocks: int) -> int:
        stages = stage(16, 16, blocks) + stage(16, 32, blocks) + stage(32, 64, blocks)
        return 9 * 3 * 16 + 2 * 16 + stages + 64 * 10 + 10

    assert total(5) == 464_154
    assert count(make("resnet32")) == total(5)
    assert count(make("resnet8")) == total(1)


def test_mlp_parameters() -> None:
    expected = 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
    assert count(make("mlp", in_chans=1, image_size=28)) == expected
    assert count(make("mlp", in_chans=1, image_size=28, hidden=())) == 784 * 10 + 10


# ---- the paper's CNN, layer by layer ------------------------------------------------------------------


def test_same_padding_is_one_before_and_two_after() -> None:
    net = make("cnn", in_chans=2, image_size=(10, 11)).double()
    pad, convolution = net.features[0], net.features[1]
    x = pixels(2, 2, 10, 11).double()
    expected = torch.zeros(2, 64, 10, 11, dtype=torch.float64)
    for row in range(10):
        for column in range(11):
            for i in range(4):
                for j in range(4):
                    y, z = row + i - 1, column + j - 1
                    if 0 <= y < 10 and 0 <= z < 11:
                        expected[:, :, row, column] += x[:, :, y, z] @ convolution.weight[:, :, i, j].T
    expected += convolution.bias.view(1, -1, 1, 1)
    # float64 sums of 32 terms in another order
    torch.testing.assert_close(convolution(pad(x)), expected, rtol=0, atol=1e-13)


def test_same_padding_is_what_torch_calls_same() -> None:
    net = make("cnn", in_chans=1, image_size=28)
    x = pixels(2, 1, 28, 28)
    layer = nn.Conv2d(1, 64, 4, padding="same")
    layer.load_state_dict(net.features[1].state_dict())
    with warnings.catch_warnings():  # torch warns of a copy, once a process: why ZeroPad2d is used
        warnings.simplefilter("ignore")
        expected = layer(x)
    assert torch.equal(net.features[1](net.features[0](x)), expected)


def test_cnn_maps_have_the_stated_sizes() -> None:
    net = make("cnn", in_chans=1, image_size=28)
    x, shapes = pixels(1, 1, 28, 28), []
    for layer in net.features:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes[1] == (64, 28, 28)
    assert shapes[2:] == [(64, 14, 14), (64, 14, 14), (64, 11, 11), (64, 5, 5), (64, 5, 5), (1600,)]


@pytest.mark.parametrize("autocast", [False, True])
def test_pooling_before_relu_gives_the_papers_bits(autocast: bool) -> None:
    """The paper rectifies first: to the bit the same logits and gradients."""
    net = make("cnn", in_chans=1, image_size=28)
    x, found = pixels(4, 1, 28, 28), []
    pad, conv1, pool1, relu1, conv2, pool2, relu2, flatten = net.features
    papers = nn.Sequential(pad, conv1, relu1, pool1, conv2, relu2, pool2, flatten)
    for features in (net.features, papers):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = net.classifier(features(net.normalise(x)))
        logits.square().sum().backward()
        found.append([logits, *(p.grad for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_vgg_block_pools_before_relu_with_the_same_bits(dims: int) -> None:
    features, found = vgg_features(1, (4, 8), dims=dims), []
    x = pixels(2, 1, *(7,) * dims)
    usual = [[*block[:5], block.relu2, block.pool] for block in features]
    for net in (features, nn.Sequential(*(layer for block in usual for layer in block))):
        features.zero_grad()
        out = net(x)
        out.square().sum().backward()
        found.append([out, *(p.grad for p in features.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("size", [(10, 10), (10, 31), (11, 13), (28, 28), (33, 32)])
def test_cnn_takes_other_sizes(size: tuple[int, int]) -> None:
    net = make("cnn", in_chans=1, image_size=size)
    assert net(pixels(2, 1, *size)).shape == (2, 10)


@pytest.mark.parametrize("size", [(9, 10), (10, 9), (8, 8), (1, 1)])
def test_cnn_refuses_images_that_are_too_small(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=rf"at least 10x10 pixels; got {size[0]}x{size[1]}"):
        make("cnn", image_size=size)


# ---- ResNet --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
def test_option_a_shortcut(size: tuple[int, int]) -> None:
    x = pixels(2, 16, *size)
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 32 // 4, 32 // 4))  # akamaster's reference code
    assert torch.equal(Shortcut(16, 32, stride=2)(x), expected)


def test_shortcut_of_an_odd_number_of_planes() -> None:
    assert Shortcut(3, 6, stride=1)(torch.ones(1, 3, 1, 1)).flatten().tolist() == [0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (8, 8), (5, 7), (1, 1)])
def test_resnet_takes_any_size(size: tuple[int, int]) -> None:
    assert make("resnet8", image_size=size)(pixels(2, 3, *size)).shape == (2, 10)


def test_resnet32_has_32_weighted_layers() -> None:
    weighted = [m for m in make("resnet32").modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(weighted) == 32


def test_resnet_planes_can_change() -> None:
    net = make("resnet8", planes=(4, 8, 8))
    assert net(pixels(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(UsageError, match="planes that never shrink"):
        make("resnet8", planes=(8, 4, 8))


# ---- what every model keeps ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    torch.manual_seed(1)
    first = make(name, seed=7).state_dict()
    torch.manual_seed(2)
    second, other = make(name, seed=7).state_dict(), make(name, seed=8).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    weights = [key for key in first if key.endswith("weight") and first[key].dim() > 1]
    assert not any(torch.equal(first[key], other[key]) for key in weights)


@pytest.mark.parametrize("name", NAMES)
def test_the_global_generator_is_left_alone(name: str) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    make(name)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_global_generator_survives_a_failed_build() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(UsageError):
        make("mlp", hidden=(4, -1))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_axis_0_is_an_ordinary_batch(name: str) -> None:
    net = make(name, image_size=12).double()
    x = pixels(7, 3, 12, 12).double()
    whole = net(x)
    # float64, other blockings of the same sums
    torch.testing.assert_close(torch.cat([net(x[:1]), net(x[1:3]), net(x[3:])]), whole, rtol=0, atol=1e-12)
    order = torch.tensor([3, 1, 0, 6, 5, 2, 4])
    torch.testing.assert_close(net(x[order]), whole[order], rtol=0, atol=1e-12)
    assert net(x[:0]).shape == (0, *whole.shape[1:])


@pytest.mark.parametrize("name", NAMES)
def test_every_activation_is_a_module_of_its_own(name: str) -> None:
    net = make(name, image_size=12)
    calls: dict[int, int] = {}

    def note(module: nn.Module, *_: object) -> None:
        calls[id(module)] = calls.get(id(module), 0) + 1

    for module in net.modules():
        module.register_forward_hook(note)
    net(pixels(2, 3, 12, 12))
    assert set(calls.values()) == {1}
    assert not any(m.inplace for m in net.modules() if isinstance(m, nn.ReLU))
    weighted = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in net.modules())
    assert sum(isinstance(m, nn.ReLU) for m in net.modules()) == weighted - 1


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name: str) -> None:
    net = make(name, image_size=12).train()
    logits = net(pixels(4, 3, 12, 12))
    F.cross_entropy(logits, torch.arange(4)).backward()
    missing = [key for key, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_stored_and_come_first(name: str) -> None:
    plain = make(name, image_size=12).double()
    net = make(name, image_size=12, input_mean=(0.1, 0.2, 0.3), input_std=0.5).double()
    assert next(iter(net.children())) is net.normalise
    assert isinstance(net.normalise, Normalise)
    x = pixels(2, 3, 12, 12).double()
    mean = torch.tensor([0.1, 0.2, 0.3]).double().view(3, 1, 1)
    torch.testing.assert_close(net(x), plain((x - mean) / 0.5), rtol=0, atol=1e-6)  # stored as float32
    assert {"normalise.mean", "normalise.std"} <= net.state_dict().keys()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain(x), net(x))


def test_state_dicts_hold_only_tensors_of_the_model() -> None:
    assert list(make("mlp", hidden=(4,)).state_dict()) == [
        "normalise.mean",
        "normalise.std",
        "layers.1.weight",
        "layers.1.bias",
        "layers.3.weight",
        "layers.3.bias",
    ]


# ---- wrong use --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "cnnn"}, r"unknown model 'cnnn': did you mean 'cnn'\? \(known: cnn, "),
        ({"hiden": (3,)}, r"unknown option of model 'mlp': 'hiden': did you mean 'hidden'\?"),
        ({"name": "resnet32", "blocks": (1, 1, 1)}, r"unknown option of model 'resnet32': 'blocks'"),
        ({"name": "resnet8", "planes": (16, 32)}, r"planes to be a list of 3 whole numbers"),
        ({"hidden": "512"}, r"expected hidden to be a list of whole numbers of at least 1; got '512'"),
        ({"hidden": (0,)}, r"expected hidden .* got \(0,\)"),
        ({"hidden": (2.0,)}, r"expected hidden"),
        ({"num_classes": 0}, r"expected num_classes to be a whole number of at least 1; got 0"),
        ({"num_classes": 2.5}, r"expected num_classes"),
        ({"in_chans": True}, r"expected in_chans"),
        ({"image_size": 0}, r"expected image_size .* got 0"),
        ({"image_size": (8, 8, 8)}, r"expected image_size to be an int or \(height, width\)"),
        ({"image_size": "28"}, r"expected image_size to be an int or \(height, width\); got '28'"),
        ({"seed": -1}, r"expected a seed from 0 to 2\*\*63 - 1; got -1"),
        ({"seed": 0.5}, r"expected a seed"),
        ({"input_mean": (0.1, 0.2)}, r"expected input_mean to have 1 or 3 numbers, one per channel; got 2"),
        ({"input_mean": float("nan")}, r"expected input_mean to be finite numbers"),
        ({"input_std": 0.0}, r"expected every input_std to be above 0; got 0.0"),
        ({"input_std": (1.0, -1.0, 1.0)}, r"expected every input_std to be above 0"),
        ({"input_std": float("inf")}, r"expected input_std to be finite"),
    ],
)
def test_wrong_use_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        make(**{"name": "mlp", **changes})
    assert "\n" not in str(caught.value)


def test_info_names_every_model() -> None:
    for name in NAMES:
        row = models.info(name)
        assert row.name == name
        assert row.summary
        assert row.paper
    with pytest.raises(UsageError, match="did you mean 'resnet32'"):
        models.info("resnet-32")


def test_image_size_may_be_a_list_from_a_config() -> None:
    assert make("mlp", image_size=[4, 6])(pixels(1, 3, 4, 6)).shape == (1, 10)


def test_the_default_device_and_type_do_not_change_the_draws() -> None:
    with torch.device("meta"):
        net = make("mlp", hidden=(4,))
    assert all(tensor.device.type == "cpu" for tensor in net.state_dict().values())
    reference = make("mlp", hidden=(4,)).state_dict()
    assert all(torch.equal(tensor, reference[key]) for key, tensor in net.state_dict().items())


def test_listing_the_models_does_not_import_torch() -> None:
    code = "import sys; from neurosim import models; models.info('cnn'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_mlp_learns_digits() -> None:
    from neurosim import data

    splits = data.load("digits")
    mean, std = splits.train.mean_std()
    net = models.create(
        "mlp",
        num_classes=splits.num_classes,
        in_chans=splits.in_chans,
        image_size=splits.image_size,
        input_mean=mean,
        input_std=std,
        hidden=(64,),
    )
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    batches = data.Batches(splits.train, 64, shuffle_seed=0)
    for epoch in range(10):
        for inputs, targets in batches.epoch(epoch):
            optimiser.zero_grad()
            F.cross_entropy(net(inputs), targets).backward()
            optimiser.step()
    with torch.no_grad():
        right = (net(splits.test.inputs).argmax(1) == splits.test.targets).double().mean()
    assert float(right) > 0.95  # 0.975 when written
