"""The table of models, and :func:`create`, which builds one from its name.

A new model is one class in a file of its own and one row in ``MODELS``.  torch is imported when a
model is built, so listing the names is fast.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neurosim import errors
from neurosim.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

_GIVEN = ("num_classes", "in_chans", "image_size", "input_mean", "input_std")


@dataclass(frozen=True)
class ModelInfo:
    """What ``neurosim models list`` says of a model.

    Attributes:
        name, summary, paper: what it is called, what it is, and where it comes from.
        standard: classes, input channels and image size at which it is counted, the publication's own.
        parameters, macs: numbers that training may change, and multiply-accumulates of one input (matrix
            products and convolutions); the suite of model cards counts both anew.
        checked: against what numbers that are not ours it was checked.
        task: ``classification`` (a class an image) or ``segmentation`` (a class a pixel).
        series: whether it reads time series (steps, channels), not images; the last number of ``standard`` is
            then that of steps.
    """

    name: str
    summary: str
    paper: str
    standard: tuple[int, int, int]
    parameters: int
    macs: int
    checked: str = "-"
    task: str = "classification"
    series: bool = False


@dataclass(frozen=True)
class _Row:
    info: ModelInfo
    module: str
    class_name: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> type[nn.Module]:
        found: type[nn.Module] = getattr(importlib.import_module(self.module), self.class_name)
        return found


_ATTACK = "Buchel, Faber, Muir: Network insensitivity to parameter noise (ICLR 2022), arXiv:2106.05009"
_RESNET = "He, Zhang, Ren, Sun: Deep residual learning (CVPR 2016), section 4.2, arXiv:1512.03385"
_GREY = (10, 1, 28)
_COLOUR = (10, 3, 32)

_PERCEPTRON = (
    _Row(
        ModelInfo(
            "mlp",
            "fully connected: flatten, hidden layers of 512 and 512, ReLU between",
            "-",
            _GREY,
            parameters=669_706,
            macs=668_672,
        ),
        "neurosim.models.mlp",
        "MLP",
    ),
)

_CNN = (
    _Row(
        ModelInfo(
            "cnn",
            "two 4x4 convolutions of 64 and three dense layers; images from 10x10",
            _ATTACK,
            _GREY,
            parameters=493_642,
            macs=9_159_296,
        ),
        "neurosim.models.cnn",
        "CNN",
    ),
)

_RESNETS = (
    _Row(
        ModelInfo(
            "resnet8",
            "small CIFAR-style ResNet, one block a stage, option-A shortcuts",
            _RESNET,
            _COLOUR,
            parameters=75_290,
            macs=12_239_488,
        ),
        "neurosim.models.resnet",
        "ResNet",
        {"blocks": (1, 1, 1)},
    ),
    _Row(
        ModelInfo(
            "resnet32",
            "CIFAR-style ResNet, five blocks a stage, option-A shortcuts",
            _RESNET,
            _COLOUR,
            parameters=464_154,
            macs=68_862_592,
            checked="paper: 0.46 million parameters, 69 million multiply-accumulates",
        ),
        "neurosim.models.resnet",
        "ResNet",
        {"blocks": (5, 5, 5)},
    ),
)

_REPMLPNET_PAPER = (
    "Ding, Chen, Zhang, Han, Ding: RepMLPNet: Hierarchical vision MLP with re-parameterized locality "
    "(CVPR 2022), arXiv:2112.11081"
)


def _repmlpnet(
    size: str,
    channels: tuple[int, ...],
    blocks: tuple[int, ...],
    sharesets: tuple[int, ...],
    partition: tuple[int, ...],
    parameters: int,
    macs: int,
) -> _Row:
    pixels = 4 * partition[0]
    return _Row(
        ModelInfo(
            f"repmlpnet-{size}",
            f"RepMLPNet {size.upper()}: matrices over whole feature maps, fused with local convolutions",
            _REPMLPNET_PAPER,
            (1000, 3, pixels),
            parameters=parameters,
            macs=macs,
            checked="authors' code: parameters, state dict, outputs on copied weights",
        ),
        "neurosim.models.repmlpnet",
        "RepMLPNet",
        {
            "patch": 4,
            "channels": channels,
            "blocks": blocks,
            "sharesets": sharesets,
            "partition": partition,
            "pad": False,
        },
    )


_REPMLPNET = (
    _Row(
        ModelInfo(
            "repmlpnet-tiny",
            "RepMLPNet of three stages for small images, which get zeros around them up to 32x32",
            _REPMLPNET_PAPER,
            _COLOUR,
            parameters=278_946,
            macs=5_998_464,
            checked="authors' code: parameters, state dict, outputs on copied weights",
        ),
        "neurosim.models.repmlpnet",
        "RepMLPNet",
    ),
    _repmlpnet(
        "t224", (64, 128, 256, 512), (2, 2, 6, 2), (1, 4, 16, 128), (56, 28, 14, 7), 38_293_608, 2_807_987_200
    ),
    _repmlpnet(
        "t256", (64, 128, 256, 512), (2, 2, 6, 2), (1, 4, 16, 128), (64, 32, 16, 8), 58_687_848, 4_258_078_720
    ),
    _repmlpnet(
        "b224",
        (96, 192, 384, 768),
        (2, 2, 12, 2),
        (1, 4, 32, 128),
        (56, 28, 14, 7),
        68_242_712,
        6_675_721_728,
    ),
    _repmlpnet(
        "b256",
        (96, 192, 384, 768),
        (2, 2, 12, 2),
        (1, 4, 32, 128),
        (64, 32, 16, 8),
        96_447_512,
        9_640_209_408,
    ),
    _repmlpnet(
        "d256",
        (80, 160, 320, 640),
        (2, 2, 18, 2),
        (1, 4, 16, 128),
        (64, 32, 16, 8),
        86_887_648,
        8_636_207_360,
    ),
    _repmlpnet(
        "l256",
        (96, 192, 384, 768),
        (2, 2, 18, 2),
        (1, 4, 32, 256),
        (64, 32, 16, 8),
        117_641_560,
        11_609_484_288,
    ),
)

_MNET = "Mehta, Sivaswamy: M-net (ISBI 2017); variant: Adiga, Sivaswamy, FPD-M-net, arXiv:1812.10191"
_UNET = "Ronneberger, Fischer, Brox: U-Net (MICCAI 2015), arXiv:1505.04597"
_FEATURES = "Wong, Syeda-Mahmood, Moradi: Building medical image classifiers (MedIA 2018), arXiv:1808.05205"
_TINY = {"widths": (8, 16, 32)}
_TINY_HEAD = {**_TINY, "head_widths": (8, 16, 32)}
_MEDICAL = (3, 1, 28)


def _segmentation(
    name: str,
    summary: str,
    class_name: str,
    standard: tuple[int, int, int],
    parameters: int,
    macs: int,
    fixed: Mapping[str, Any] | None = None,
    checked: str = "-",
) -> _Row:
    """A segmentation network, a classifier on one's features, or its head alone."""
    file, paper = {
        "MNet": ("mnet", _MNET),
        "UNet": ("unet", _UNET),
        "VGG": ("vgg", _FEATURES),
        "MNetClassifier": ("features", _FEATURES),
        "UNetClassifier": ("features", _FEATURES),
    }[class_name]
    task = "segmentation" if class_name in ("MNet", "UNet") else "classification"
    info = ModelInfo(name, summary, paper, standard, parameters, macs, checked, task)
    return _Row(info, f"neurosim.models.{file}", class_name, fixed or {})


_SEGMENTATION = (
    _segmentation(
        "mnet",
        "M-Net: a class a pixel; legs of small inputs and of all scales",
        "MNet",
        (15, 16, 256),
        714_255,
        6_489_636_864,
        checked="figure: trunk 711,840 and 1x1 2,415 parameters; FPD-M-net 891,217",
    ),
    _segmentation(
        "mnet-tiny",
        "M-Net of widths 8, 16, 32 for 28 to 64 pixels",
        "MNet",
        (2, 1, 64),
        119_946,
        101_097_472,
        _TINY,
    ),
    _segmentation(
        "unet",
        "U-Net with batch normalisation and padding: a class a pixel",
        "UNet",
        (2, 1, 572),
        31_036_546,
        243_485_837_312,
        checked="public implementations: 31,037,633 parameters at 3 channels and 1 class",
    ),
    _segmentation(
        "unet-tiny",
        "U-Net of widths 8, 16, 32 for 28 to 64 pixels",
        "UNet",
        (2, 1, 64),
        29_490,
        25_001_984,
        _TINY,
    ),
    _segmentation(
        "mnet-classifier",
        "VGG-like head of 16, 32, 64 on the features of an M-Net",
        "MNetClassifier",
        (3, 1, 64),
        748_627,
        484_761_792,
    ),
    _segmentation(
        "mnet-classifier-tiny",
        "VGG-like head of 8, 16, 32 on the features of mnet-tiny",
        "MNetClassifier",
        _MEDICAL,
        142_043,
        24_230_400,
        _TINY_HEAD,
    ),
    _segmentation(
        "unet-classifier",
        "VGG-like head of 16, 32, 64 on the features of a U-Net",
        "UNetClassifier",
        (3, 1, 64),
        31_117_699,
        3_080_978_624,
    ),
    _segmentation(
        "unet-classifier-tiny",
        "VGG-like head of 8, 16, 32 on the features of unet-tiny",
        "UNetClassifier",
        _MEDICAL,
        48_227,
        7_031_008,
        _TINY_HEAD,
    ),
    _segmentation(
        "vgg-small", "the VGG-like head of 16, 32, 64 on raw images", "VGG", _MEDICAL, 72_211, 7_338_432
    ),
    _segmentation(
        "vgg-tiny", "the VGG-like head of 8, 16, 32 on raw images", "VGG", _MEDICAL, 18_251, 1_862_880, _TINY
    ),
)

_VIP_PAPER = (
    "Hou, Jiang, Yuan, Cheng, Yan, Feng: Vision Permutator: A permutable MLP-like architecture for visual "
    "recognition (TPAMI 2022), arXiv:2106.12368"
)


def _vip(
    size: str,
    patch: int,
    layers: tuple[int, ...],
    channels: tuple[int, ...],
    segments: tuple[int, ...],
    parameters: int,
    macs: int,
) -> _Row:
    return _Row(
        ModelInfo(
            f"vip-{size}{patch}",
            f"Vision Permutator {size.upper()}/{patch}: linear layers along height, width and channels",
            _VIP_PAPER,
            (1000, 3, 224),
            parameters=parameters,
            macs=macs,
            checked="authors' code: parameters, state dict, outputs on copied weights",
        ),
        "neurosim.models.vip",
        "VisionPermutator",
        {"patch": patch, "layers": layers, "channels": channels, "segments": segments},
    )


_VIP = (
    _Row(
        ModelInfo(
            "vip-tiny-28",
            "Vision Permutator for 28x28 images: patches of 4, four blocks of 84 channels",
            _VIP_PAPER,
            _GREY,
            parameters=317_026,
            macs=13_924_680,
            checked="authors' code: parameters, state dict, outputs on copied weights",
        ),
        "neurosim.models.vip",
        "VisionPermutator",
        {"patch": 4, "layers": (4,), "channels": (84,), "segments": (7,)},
    ),
    _Row(
        ModelInfo(
            "vip-tiny-32",
            "Vision Permutator for 32x32 images: patches of 4, two stages of two blocks",
            _VIP_PAPER,
            _COLOUR,
            parameters=492_842,
            macs=11_248_896,
            checked="authors' code: parameters, state dict, outputs on copied weights",
        ),
        "neurosim.models.vip",
        "VisionPermutator",
    ),
    _vip("s", 14, (4, 3, 8, 3), (384, 384, 384, 384), (16, 16, 16, 16), 29_892_904, 6_855_613_440),
    _vip("s", 7, (4, 3, 8, 3), (192, 384, 384, 384), (32, 16, 16, 16), 25_114_984, 6_901_767_168),
    _vip("m", 7, (4, 3, 14, 3), (256, 256, 512, 512), (32, 32, 16, 16), 55_272_488, 16_284_307_456),
    _vip("l", 7, (8, 8, 16, 4), (256, 512, 512, 512), (32, 16, 16, 16), 87_784_936, 24_340_320_256),
)

_REPMLP_PAPER = (
    "Ding, Xia, Zhang, Chu, Han, Ding: RepMLP: Re-parameterizing convolutions into fully-connected layers "
    "for image recognition (2021), arXiv:2105.01883"
)


def _repmlp_resnet(
    name: str, summary: str, parameters: int, macs: int, fused: int, fixed: Mapping[str, Any]
) -> _Row:
    large = "-320-" in name
    whole = name in ("base", "light-g4", "light-g8", "bottleneck-g8", "bottleneck-320-g8-8")
    against = "state dict, outputs on copied weights" if whole else "blocks on copied weights"
    parts = {"partition": (10, 10), "kernels": (1, 3, 5, 7)} if large else {}
    info = ModelInfo(
        f"repmlp-resnet50-{name}",
        f"ResNet-50, {summary}",
        _REPMLP_PAPER,
        (1000, 3, 320 if large else 224),
        parameters=parameters,
        macs=macs,
        checked=f"authors' code: parameters (fused, {fused:,}), {against}",
    )
    return _Row(
        info, "neurosim.models.repmlp_resnet", "RepMLPResNet", {"block": "bottleneck", **parts, **fixed}
    )


_REPMLP = (
    _Row(
        ModelInfo(
            "repmlp-pure",
            "matrices over parts of 8x8 pixels and 1x1 convolutions, local convolutions until fused",
            _REPMLP_PAPER,
            _COLOUR,
            parameters=22_844_858,
            macs=118_866_560,
            checked="paper: 52.8 million multiply-accumulates (fused, 52,806,272)",
        ),
        "neurosim.models.repmlp_pure",
        "PureMLP",
    ),
    _Row(
        ModelInfo(
            "repmlp-pure-conv",
            "repmlp-pure's convolutional twin: 3x3 convolutions instead of the matrices",
            _REPMLP_PAPER,
            _COLOUR,
            parameters=438_634,
            macs=65_111_296,
            checked="paper: 65.1 million multiply-accumulates",
        ),
        "neurosim.models.repmlp_pure",
        "PureConvTwin",
    ),
    _repmlp_resnet(
        "base", "no RepMLP: the paper's baseline", 25_557_032, 4_089_184_256, 25_530_472, {"block": "base"}
    ),
    _repmlp_resnet(
        "light-g4",
        "RepMLP in light blocks of c3 and c4, 4 groups",
        87_038_248,
        3_301_703_680,
        86_142_440,
        {"block": "light", "groups": (4, 4)},
    ),
    _repmlp_resnet(
        "light-g8",
        "RepMLP in light blocks of c3 and c4, 8 groups",
        58_351_912,
        3_031_957_504,
        57_868_264,
        {"block": "light", "groups": (8, 8)},
    ),
    _repmlp_resnet(
        "bottleneck-g8",
        "RepMLP in bottleneck blocks of c3 (r = 2) and c4 (r = 4), 8 groups",
        41_071_144,
        3_950_419_968,
        40_871_528,
        {"groups": (8, 8), "r": (2, 4)},
    ),
    _repmlp_resnet(
        "c4-r2-g8",
        "RepMLP in bottleneck blocks of c4 alone, r = 2, 8 groups",
        53_197_352,
        4_260_397_056,
        52_775_272,
        {"mixed": ("c4",), "groups": (8, 8), "r": (2, 2)},
    ),
    _repmlp_resnet(
        "c4-r4-g8",
        "RepMLP in bottleneck blocks of c4 alone, r = 4, 8 groups",
        31_011_112,
        3_842_973_696,
        30_876_392,
        {"mixed": ("c4",), "groups": (8, 8), "r": (4, 4)},
    ),
    _repmlp_resnet(
        "c4-r8-g8",
        "RepMLP in bottleneck blocks of c4 alone, r = 8, 8 groups",
        25_086_632,
        3_666_364_416,
        25_028_392,
        {"mixed": ("c4",), "groups": (8, 8), "r": (8, 8)},
    ),
    _repmlp_resnet(
        "bottleneck-320-g8-16",
        "RepMLP in bottleneck blocks at 320x320, 8 groups in c3 and 16 in c4",
        59_543_080,
        8_306_671_616,
        59_223_144,
        {"groups": (8, 16), "r": (2, 4)},
    ),
    _repmlp_resnet(
        "bottleneck-320-g8-8",
        "RepMLP in bottleneck blocks at 320x320, 8 groups",
        72_450_600,
        8_400_879_616,
        72_023_144,
        {"groups": (8, 8), "r": (2, 4)},
    ),
    _repmlp_resnet(
        "bottleneck-320-g4-8",
        "RepMLP in bottleneck blocks at 320x320, 4 groups in c3 and 8 in c4",
        87_939_624,
        8_853_078_016,
        87_383_144,
        {"groups": (4, 8), "r": (2, 4)},
    ),
)


def _lsnn(name: str, summary: str, standard: tuple[int, int, int], parameters: int, macs: int) -> _Row:
    info = ModelInfo(
        name,
        f"LSNN: 256 spiking neurons with adapting thresholds, {summary}",
        _ATTACK,
        standard,
        parameters=parameters,
        macs=macs,
        checked="reference code, read and not run: step, initial weights, sizes",
        series=True,
    )
    return _Row(info, "neurosim.models.spiking.lsnn", "Lsnn")


# multiply-accumulates of all steps, as a digital processor would do them, spikes or not
_SPIKING = (
    _lsnn("lsnn-ecg", "heartbeats of two leads, 100 steps", (4, 2, 100), 67_076, 6_605_824),
    _lsnn("lsnn-speech", "spoken words in 40 coefficients, 98 steps", (8, 40, 98), 77_832, 7_428_096),
)

# A family appends its rows here; the order is that of `neurosim models list`.
MODELS: dict[str, _Row] = {
    row.info.name: row
    for row in (*_PERCEPTRON, *_CNN, *_RESNETS, *_REPMLP, *_REPMLPNET, *_VIP, *_SEGMENTATION, *_SPIKING)
}


def names() -> list[str]:
    """The known model names, sorted."""
    return sorted(MODELS)


def info(name: str) -> ModelInfo:
    """Summary and paper of a model; an unknown name raises ``UsageError`` with the nearest known one.

    >>> info("mlp").paper
    '-'
    """
    return _row(name).info


def create(
    name: str,
    *,
    num_classes: int,
    in_chans: int,
    image_size: int | Sequence[int],
    seed: int = 0,
    input_mean: float | Sequence[float] = 0.0,
    input_std: float | Sequence[float] = 1.0,
    **overrides: Any,
) -> nn.Module:
    """Build the model ``name`` on the CPU, its initial weights a function of ``seed`` alone.

    Args:
        name: one of :func:`names`.
        num_classes: number of logits, at least 1.
        in_chans: channels of the input, at least 1.
        image_size: height and width in pixels: an int for square images, or ``(height, width)``; of a network
            that reads time series the number of steps, or ``(steps, 1)``.
        seed: seed of the initial weights; torch's global generator is left as it was.
        input_mean, input_std: stored normalisation statistics, one number or one per channel, for
            inputs in [0, 1] (``Examples.mean_std()`` measures them).
        overrides: the model's own options, such as ``hidden=(64, 64)`` for ``mlp``.

    Raises:
        UsageError: unknown name or option (with a suggestion), or a value out of range.

    >>> sum(p.numel() for p in create("cnn", num_classes=10, in_chans=1, image_size=28).parameters())
    493642
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UsageError(f"expected a seed from 0 to 2**63 - 1; got {seed!r}")
    given = {
        "num_classes": num_classes,
        "in_chans": in_chans,
        "image_size": image_size,
        "input_mean": input_mean,
        "input_std": input_std,
    }
    build, arguments = _checked(name, given, overrides)
    return seeded(build, seed, arguments)


def outline(
    name: str, *, num_classes: int, in_chans: int, image_size: int | Sequence[int], **overrides: Any
) -> nn.Module:
    """The model ``name`` on the meta device: shapes without numbers, at once however large it is.

    Arguments and errors as of :func:`create`.

    >>> net = outline("cnn", num_classes=10, in_chans=1, image_size=28)
    >>> next(net.parameters()).device.type
    'meta'
    """
    import torch

    given = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    build, arguments = _checked(name, given, overrides)
    with torch.device("meta"):
        return build(**arguments)


def seeded(build: Callable[..., nn.Module], seed: int, arguments: Mapping[str, Any]) -> nn.Module:
    """Construct under a forked CPU generator; CUDA generators are not touched either."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return build(**arguments)


def input_shape(name: str, in_chans: int, image_size: int | Sequence[int]) -> tuple[int, ...]:
    """The shape of one input of a model, without the batch: (C, H, W), or (T, C) of a time series.

    >>> input_shape("cnn", 1, 28), input_shape("lsnn-ecg", 2, 100)
    ((1, 28, 28), (100, 2))
    """
    series = _row(name).info.series
    height, width = (image_size, 1 if series else image_size) if isinstance(image_size, int) else image_size
    return (height, in_chans) if series else (in_chans, height, width)


def _row(name: str) -> _Row:
    if name not in MODELS:
        raise errors.unknown("model", str(name), MODELS)
    return MODELS[name]


def _checked(
    name: str, given: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[type[nn.Module], dict[str, Any]]:
    """The class of a model and all arguments of its constructor."""
    row = _row(name)
    if row.info.series and isinstance(given["image_size"], int):
        given = {**given, "image_size": (given["image_size"], 1)}
    checked = {
        **given,
        "num_classes": _positive("num_classes", given["num_classes"]),
        "in_chans": _positive("in_chans", given["in_chans"]),
        "image_size": _height_width(given["image_size"]),
    }
    build = row.build()
    options = set(inspect.signature(build).parameters) - set(_GIVEN) - set(row.fixed)
    for option in overrides:
        if option not in options:
            raise errors.unknown(f"option of model {name!r}:", option, options)
    return build, {**checked, **row.fixed, **overrides}


def _positive(what: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"expected {what} to be a whole number of at least 1; got {value!r}")
    return value


def _height_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    if not isinstance(image_size, (list, tuple)) or len(image_size) != 2:
        raise UsageError(f"expected image_size to be an int or (height, width); got {image_size!r}")
    return _positive("image_size", image_size[0]), _positive("image_size", image_size[1])
