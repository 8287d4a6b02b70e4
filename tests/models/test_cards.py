"""Model cards: every network of the table is what its row says, and works in every way that is promised.

Sizes are counted on the meta device, at each row's own image size, however large the network.  What must be
run is run at that size too, except for the networks in ``TWINS``: a large network is run as a small one of
the same class and the same kinds of modules (which is checked), and itself in a slow test.  A new row that
is too large fails until it has a twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosim import models
from neurosim.analog import Lot, deploy
from neurosim.devices import hardware
from neurosim.models import catalogue, counting
from neurosim.models.fusing import fused, is_fusable
from neurosim.models.normalise import Normalise

NAMES = models.names()
LARGEST = {"parameters": 1_000_000, "macs": 200_000_000}  # that are run at their own size

_REPMLPNET = {
    "image_size": 32,
    "patch": 4,
    "channels": (8, 16, 16, 16),
    "blocks": (1, 1, 1, 1),
    "sharesets": (1, 4, 8, 16),
    "partition": (8, 4, 2, 1),
}
_VIP = {"image_size": 32, "patch": 4, "layers": (1, 1, 1, 1)}
_VIP_EARLY = {**_VIP, "channels": (16, 32, 32, 32), "segments": (8, 4, 4, 4)}
_UNET = {"image_size": 32, "widths": (4, 8, 8, 12, 16)}

_REPMLP_RESNET = {
    "image_size": 64,
    "channels": (16, 32, 32, 32),
    "blocks": (1, 2, 2, 1),
    "partition": (2, 2),
    "kernels": (1, 3),
    "groups": (2, 1),
}

TWINS: dict[str, dict[str, Any]] = {
    **{name: _REPMLP_RESNET for name in NAMES if name.startswith("repmlp-resnet50-")},
    **{f"repmlp-resnet50-c4-r{r}-g8": {**_REPMLP_RESNET, "r": (2, 2)} for r in (2, 4, 8)},
    **{f"repmlpnet-{size}": _REPMLPNET for size in ("t224", "t256", "b224", "b256", "d256", "l256")},
    "vip-s14": {**_VIP, "channels": (16, 16, 16, 16), "segments": (8, 8, 8, 8)},
    "vip-s7": _VIP_EARLY,
    "vip-m7": {**_VIP, "channels": (16, 16, 32, 32), "segments": (8, 8, 4, 4)},
    "vip-l7": _VIP_EARLY,
    "repmlp-pure": {"widths": (2, 4, 4)},
    "mnet": {"image_size": 32},
    "mnet-classifier": {"image_size": 28},
    "unet": _UNET,
    "unet-classifier": {**_UNET, "head_widths": (4, 8, 8)},
}
# beyond this a slow test at full size would take minutes: the network is run as its twin only
SLOW_MACS = 30_000_000_000


@dataclass(frozen=True)
class Subject:
    """A network to run: a row's own, or the twin of several."""

    name: str
    build: Callable[..., nn.Module]
    arguments: dict[str, Any]

    @classmethod
    def of(cls, name: str, **changes: Any) -> Subject:
        row = catalogue.MODELS[name]
        classes, channels, side = row.info.standard
        twin = {**row.fixed, "num_classes": min(classes, 10), "in_chans": channels, **changes}
        side = twin.pop("image_size", side)
        return cls(name, row.build(), {**twin, "image_size": (side, 1 if row.info.series else side)})

    def __str__(self) -> str:
        return self.name

    def make(self, seed: int = 0, **changes: Any) -> nn.Module:
        return catalogue.seeded(self.build, seed, {**self.arguments, **changes})

    def inputs(self, batch: int) -> Tensor:
        inputs = catalogue.input_shape(self.name, self.arguments["in_chans"], self.arguments["image_size"])
        shape = (batch, *inputs)
        return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def subjects() -> list[Subject]:
    """Every network that is run; equal twins of one class once."""
    found: list[Subject] = []
    for name in NAMES:
        new = Subject.of(name, **TWINS.get(name, {}))
        if not any(one.build is new.build and one.arguments == new.arguments for one in found):
            found.append(new)
    return found


SUBJECTS = subjects()
each_subject = pytest.mark.parametrize("subject", SUBJECTS, ids=str)


def shaken(net: nn.Module) -> nn.Module:
    """In evaluation mode, with no parameter or statistic at the 0 or 1 at which it starts."""
    source = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1 and parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=source))
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.add_(0.2 * torch.randn(module.num_features, generator=source))
                module.running_var.mul_(0.5 + torch.rand(module.num_features, generator=source))
    return net.eval()


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to the tolerance, in units of the largest output where that is above 1."""
    scale = max(1.0, float(expected.detach().abs().max()))
    assert expected.detach().std() > 0, "constant outputs would be equal to anything"
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance * scale)


# ---- the rows, at full size on the meta device ----------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_the_rows(name: str) -> None:
    row = models.info(name)
    classes, channels, side = row.standard
    net = catalogue.outline(name, num_classes=classes, in_chans=channels, image_size=side)
    assert counting.parameters(net) == row.parameters
    inputs = catalogue.input_shape(name, channels, side)
    assert counting.multiply_accumulates(net, inputs) == row.macs
    logits = net.eval()(torch.empty(2, *inputs, device="meta"))
    pixels = {"classification": (), "segmentation": (side, side)}[row.task]
    assert logits.shape == (2, classes, *pixels)
    assert row.name == name
    assert row.summary
    assert row.paper


@pytest.mark.parametrize("name", NAMES)
def test_no_network_dodges(name: str) -> None:
    """Every row is run: itself if it is small, else as a twin made of the same kinds of modules."""
    row = models.info(name)
    small = row.parameters <= LARGEST["parameters"] and row.macs <= LARGEST["macs"]
    assert small != (name in TWINS), (
        f"{name}: {row.parameters:,} parameters, {row.macs:,} multiply-accumulates: "
        + ("too large to run here; give it a twin in TWINS" if not small else "needs no twin")
    )
    twin = Subject.of(name, **TWINS.get(name, {}))
    assert any(one.build is twin.build and one.arguments == twin.arguments for one in SUBJECTS)
    full = Subject.of(name)
    with torch.device("meta"):
        kinds = [{type(m) for m in one.build(**one.arguments).modules()} for one in (full, twin)]
        parameters = counting.parameters(twin.build(**twin.arguments))
    assert kinds[0] == kinds[1]
    assert parameters <= LARGEST["parameters"]


def test_twins_are_of_networks_that_exist() -> None:
    assert set(TWINS) <= set(NAMES)


# ---- what every network does ----------------------------------------------------------------------------


@each_subject
def test_the_seed_alone_decides_the_weights(subject: Subject) -> None:
    before = torch.random.get_rng_state()
    first = subject.make(seed=7).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    second, other = subject.make(seed=7).state_dict(), subject.make(seed=8).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    weights = [key for key in first if key.endswith("weight") and first[key].dim() > 1]
    assert weights
    assert not any(torch.equal(first[key], other[key]) for key in weights)


@each_subject
def test_gradients_reach_every_parameter(subject: Subject) -> None:
    net = subject.make().train()
    logits = net(subject.inputs(4))
    labels = torch.arange(4) % logits.shape[1]
    labels = labels.view(4, *[1] * (logits.dim() - 2)).expand(4, *logits.shape[2:])  # one of every pixel
    F.cross_entropy(logits, labels).backward()
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:  # physical, such as a time constant: see docs/spiking.md
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@each_subject
def test_weights_survive_a_file(subject: Subject) -> None:
    net, x = shaken(subject.make(seed=1)), subject.inputs(2)
    other = subject.make(seed=2).eval()
    assert not torch.equal(other(x), net(x))
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(net.state_dict())))
    assert torch.equal(other(x), net(x))


@each_subject
def test_axis_0_is_an_ordinary_batch(subject: Subject) -> None:
    net, x = shaken(subject.make()).double(), subject.inputs(5).double()
    with torch.no_grad():
        whole = net(x)
        # float64, other blockings of the same sums
        close(torch.cat([net(x[:1]), net(x[1:3]), net(x[3:])]), whole, 1e-12)
        order = torch.tensor([3, 1, 0, 4, 2])
        close(net(x[order]), whole[order], 1e-12)
        assert net(x[:0]).shape == (0, *whole.shape[1:])


@each_subject
def test_statistics_come_first(subject: Subject) -> None:
    channels = subject.arguments["in_chans"]
    mean = torch.linspace(0.1, 0.4, channels)
    plain = shaken(subject.make()).double()
    net = shaken(subject.make(input_mean=mean.tolist(), input_std=0.5)).double()
    assert isinstance(net.get_submodule("normalise"), Normalise)
    x = subject.inputs(2).double()
    assert {"normalise.mean", "normalise.std"} <= net.state_dict().keys()
    axes = (-1,) if models.info(subject.name).series else (-1, 1, 1)
    with torch.no_grad():
        close(net(x), plain((x - mean.double().view(axes)) / 0.5), 1e-6)  # stored as float32
        plain.load_state_dict(net.state_dict())
        assert torch.equal(plain(x), net(x))


@each_subject
def test_without_noise_two_chips_compute_the_same(subject: Subject) -> None:
    net, x, chip = shaken(subject.make()), subject.inputs(2), hardware("ideal")
    deployed = deploy(net, chip)
    matrices = {name for name, m in net.named_modules() if isinstance(m, (nn.Linear, *_CONVOLUTIONS))}
    assert {row.name for row in deployed.explain().layers} == matrices
    with torch.no_grad():
        expected = net(x)
        with deployed.on(Lot(chip, seed=0)[0:2]) as chips:
            close(chips(x), expected.expand(2, *expected.shape))


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@pytest.fixture
def compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@each_subject
def test_it_compiles(subject: Subject, compiler: None) -> None:
    net, x = shaken(subject.make()), subject.inputs(2)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        close(compiled(x), net(x))


@each_subject
def test_its_final_form_computes_the_same(subject: Subject) -> None:
    net, x, chip = shaken(subject.make()), subject.inputs(2), hardware("ideal")
    if not is_fusable(net):
        with pytest.raises(ValueError, match="nothing to fuse"):
            fused(net)
        return
    final = fused(net)
    with torch.no_grad():
        close(final(x), net(x))
        close(fused(shaken(subject.make()).double())(x.double()), net.double()(x.double()), 1e-9)
        with deploy(final, chip).on(Lot(chip, seed=0)[0:2]) as chips:
            close(chips(x), final(x).expand(2, *final(x).shape))
    assert set(final.state_dict()) != set(net.state_dict())


# ---- slow ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mlp", "cnn", "resnet8", "repmlpnet-tiny", "vip-tiny-28", "mnet-tiny", "unet-tiny"]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")  # in inductor itself
def test_it_compiles_to_machine_code(name: str, compiler: None) -> None:
    subject = Subject.of(name)
    net, x = shaken(subject.make()), subject.inputs(2)
    with torch.no_grad():
        close(torch.compile(net, backend="inductor")(x), net(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TWINS if models.info(name).macs <= SLOW_MACS])
def test_large_networks_on_two_chips(name: str) -> None:
    row, chip = models.info(name), hardware("ideal")
    classes, channels, side = row.standard
    net = shaken(models.create(name, num_classes=classes, in_chans=channels, image_size=side))
    x = Subject.of(name).inputs(1)
    with torch.no_grad():
        expected = net(x)
        with deploy(net, chip).on(Lot(chip, seed=0)[0:2]) as chips:
            close(chips(x), expected.expand(2, *expected.shape))
