"""ResNet-50 with RepMLP in its middle stages.

Reference: Ding, Xia, Zhang, Chu, Han, Ding, RepMLP (arXiv:2105.01883), section 4.3, and the authors' code of
2021, whose names of modules are kept: its weights load (``strict=False``: it has no ``normalise``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from neurosim import errors
from neurosim.errors import UsageError
from neurosim.models.normalise import Normalise
from neurosim.models.repmlp import ConvBN, RepMLP, conv_bn_relu
from neurosim.models.widths import widths

_BLOCKS = ("base", "light", "bottleneck")
_STRIDES = {"c3": 8, "c4": 16}  # pixels of the image between those of the stage's map


class BaseBlock(nn.Module):
    """ResNet-50's: ReLU(1x1 to ``outputs``, 3x3, 1x1 + shortcut); the stride is on the 3x3.

    Each convolution has BN, and ReLU after the first two; the shortcut is a 1x1 convolution with BN where
    stride or channels change.

    Shapes: (B, inputs, H, W) -> (B, outputs, ⌈H / stride⌉, ⌈W / stride⌉); outputs / 4 channels between.

    >>> import torch
    >>> BaseBlock(8, 16, stride=2)(torch.zeros(2, 8, 6, 6)).shape
    torch.Size([2, 16, 3, 3])
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, fused: bool = False) -> None:
        super().__init__()
        middle = outputs // 4
        self.shortcut = _shortcut(inputs, outputs, stride, fused)
        self.conv1 = conv_bn_relu(inputs, middle, fused=fused)
        self.conv2 = conv_bn_relu(middle, middle, 3, stride=stride, fused=fused)
        self.conv3 = ConvBN(middle, outputs, fused=fused)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        out: Tensor = self.relu(y + self.shortcut(x))
        return out


@dataclass(frozen=True)
class Mixing:
    """How a stage's blocks use :class:`RepMLP`: (H, W) of the map, and the arguments of that class."""

    size: tuple[int, int]
    partition: tuple[int, int]
    kernels: tuple[int, ...]
    groups: int
    reduction: int

    def over(self, channels: int, *, fused: bool) -> RepMLP:
        return RepMLP(
            channels,
            channels,
            *self.size,
            partition=self.partition,
            kernels=self.kernels,
            groups=self.groups,
            reduction=self.reduction,
            fused=fused,
        )


class LightBlock(nn.Module):
    """ReLU(1x1 to outputs / 8, :class:`RepMLP`, ReLU, 1x1 + shortcut): no 3x3 is left.

    Shapes: (B, inputs, H, W) -> (B, outputs, H, W).

    >>> import torch
    >>> mixing = Mixing((4, 4), partition=(2, 2), kernels=(1, 3), groups=2, reduction=1)
    >>> LightBlock(32, 32, mixing)(torch.zeros(2, 32, 4, 4)).shape
    torch.Size([2, 32, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, mixing: Mixing, *, fused: bool = False) -> None:
        super().__init__()
        middle = outputs // 8
        self.shortcut = _shortcut(inputs, outputs, 1, fused)
        self.light_conv1 = conv_bn_relu(inputs, middle, fused=fused)
        self.light_repmlp = mixing.over(middle, fused=fused)
        self.repmlp_nonlinear = nn.ReLU()
        self.light_conv3 = ConvBN(middle, outputs, fused=fused)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.repmlp_nonlinear(self.light_repmlp(self.light_conv1(x)))
        out: Tensor = self.relu(self.light_conv3(y) + self.shortcut(x))
        return out


class BottleneckBlock(nn.Module):
    """ReLU(1x1 to m = outputs / 4, 3x3 to m / r, :class:`RepMLP`, ReLU, 3x3 to m, 1x1 + shortcut).

    Every convolution has BN, and ReLU except the last.

    Shapes: (B, inputs, H, W) -> (B, outputs, H, W).

    >>> import torch
    >>> mixing = Mixing((4, 4), partition=(2, 2), kernels=(1, 3), groups=2, reduction=1)
    >>> BottleneckBlock(32, 32, mixing, r=2)(torch.zeros(2, 32, 4, 4)).shape
    torch.Size([2, 32, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, mixing: Mixing, *, r: int, fused: bool = False) -> None:
        super().__init__()
        middle = outputs // 4
        self.shortcut = _shortcut(inputs, outputs, 1, fused)
        self.btnk_conv1 = conv_bn_relu(inputs, middle, fused=fused)
        self.btnk_conv2 = conv_bn_relu(middle, middle // r, 3, fused=fused)
        self.btnk_repmlp = mixing.over(middle // r, fused=fused)
        self.repmlp_nonlinear = nn.ReLU()
        self.btnk_conv4 = conv_bn_relu(middle // r, middle, 3, fused=fused)
        self.btnk_conv5 = ConvBN(middle, outputs, fused=fused)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.repmlp_nonlinear(self.btnk_repmlp(self.btnk_conv2(self.btnk_conv1(x))))
        out: Tensor = self.relu(self.btnk_conv5(self.btnk_conv4(y)) + self.shortcut(x))
        return out


class RepMLPResNet(nn.Module):
    """7x7 convolution and max-pooling, stages c2 to c5 of residual blocks, mean over pixels, dense.

    The first block of c3, c4 and c5 halves the map, and those blocks and c2 and c5 are :class:`BaseBlock`;
    the other blocks of the stages ``mixed`` are :class:`LightBlock` or :class:`BottleneckBlock`.  The
    published networks have parts of 7x7 pixels and kernels 1, 3, 5 for 224x224 images, 10x10 and 1, 3, 5, 7
    for 320x320.  :func:`neurosim.models.fusing.fused` makes every normalisation part of a convolution or
    matrix.

    Args:
        num_classes: number of logits.
        in_chans, image_size: channels and (height, width) of the input.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        block: ``base``, ``light`` or ``bottleneck``.
        mixed: stages with RepMLP, of c3 and c4.
        groups: of the partition perceptrons in c3 and in c4.
        r: ``BottleneckBlock``'s narrowing in c3 and in c4.
        partition: (h, w) of the parts.
        kernels: sides of the local convolutions.
        reduction: of the global perceptrons' hidden layer.
        channels: outputs of the blocks of c2 to c5.
        blocks: blocks in each of c2 to c5.
        fused: build the final form, for weights that were saved in it.

    Shapes: (B, C, H, W) in [0, 1] -> (B, num_classes).

    Raises:
        UsageError: options that do not fit each other, or an image that the parts do not fill.

    >>> import torch
    >>> small = {"channels": (16, 32, 32, 32), "blocks": (1, 2, 2, 1), "partition": (2, 2), "groups": (2, 2)}
    >>> net = RepMLPResNet(num_classes=10, in_chans=3, image_size=(32, 32), r=(2, 4), **small).eval()
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int,
        image_size: tuple[int, int],
        input_mean: float | Sequence[float] = 0.0,
        input_std: float | Sequence[float] = 1.0,
        block: str = "bottleneck",
        mixed: Sequence[str] = ("c3", "c4"),
        groups: Sequence[int] = (8, 8),
        r: Sequence[int] = (2, 4),
        partition: Sequence[int] = (7, 7),
        kernels: Sequence[int] = (1, 3, 5),
        reduction: int = 1,
        channels: Sequence[int] = (256, 512, 1024, 2048),
        blocks: Sequence[int] = (3, 4, 6, 3),
        fused: bool = False,
    ) -> None:
        super().__init__()
        stages = _mixed(block, mixed)
        parts = _pair("partition", partition)
        _check_size(image_size, stages, parts)
        by_stage = dict(zip(_STRIDES, zip(_pair("groups", groups), _pair("r", r), strict=True), strict=True))
        channels = widths("channels", channels, length=4)
        blocks = widths("blocks", blocks, length=4)
        stem = channels[0] // 4
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.stage0 = nn.Sequential(
            conv_bn_relu(in_chans, stem, 7, stride=2, fused=fused), nn.MaxPool2d(3, stride=2, padding=1)
        )
        for i, (stage, inputs) in enumerate(zip(("c2", "c3", "c4", "c5"), (stem, *channels), strict=False)):
            outputs, stride = channels[i], 1 if i == 0 else 2
            made: list[nn.Module] = [BaseBlock(inputs, outputs, stride=stride, fused=fused)]
            for _ in range(blocks[i] - 1):
                if stage not in stages:
                    made.append(BaseBlock(outputs, outputs, fused=fused))
                    continue
                size = (image_size[0] // _STRIDES[stage], image_size[1] // _STRIDES[stage])
                count, narrowing = by_stage[stage]
                mixing = Mixing(size, parts, tuple(kernels), count, reduction)
                made.append(_mixer(block, outputs, mixing, narrowing, fused))
            self.add_module(f"stage{i + 1}", nn.Sequential(*made))
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.linear = nn.Linear(channels[3], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage0(self.normalise(x))
        for i in range(1, 5):
            x = self.get_submodule(f"stage{i}")(x)
        logits: Tensor = self.linear(self.flatten(self.gap(x)))
        return logits


def _mixer(block: str, channels: int, mixing: Mixing, r: int, fused: bool) -> nn.Module:
    if block == "light":
        return LightBlock(channels, channels, mixing, fused=fused)
    return BottleneckBlock(channels, channels, mixing, r=r, fused=fused)


def _shortcut(inputs: int, outputs: int, stride: int, fused: bool) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return ConvBN(inputs, outputs, stride=stride, fused=fused)


def _mixed(block: str, mixed: Sequence[str]) -> tuple[str, ...]:
    """The stages with RepMLP, in order."""
    if block not in _BLOCKS:
        raise errors.unknown("block", str(block), _BLOCKS)
    if isinstance(mixed, str) or not mixed:
        raise UsageError(f"expected mixed to be a list of stages, such as ('c3', 'c4'); got {mixed!r}")
    for stage in mixed:
        if stage not in _STRIDES:
            raise errors.unknown("stage", str(stage), _STRIDES)
    return () if block == "base" else tuple(stage for stage in _STRIDES if stage in mixed)


def _pair(option: str, value: Sequence[int]) -> tuple[int, int]:
    first, second = widths(option, value, length=2)
    return first, second


def _check_size(image_size: tuple[int, int], stages: Sequence[str], parts: tuple[int, int]) -> None:
    """Whole parts in the map of the last stage with RepMLP: then every stage before has them too."""
    if not stages:
        return
    rows, columns = (side * _STRIDES[stages[-1]] for side in parts)
    if image_size[0] % rows or image_size[1] % columns:
        raise UsageError(
            f"expected images whose height and width are multiples of {rows} and {columns} pixels, such as "
            f"{2 * rows}x{2 * columns}; got {image_size[0]}x{image_size[1]}"
        )
