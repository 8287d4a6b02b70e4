"""The perceptron of :class:`RepMLP` blocks for small images, and its convolutional twin.

Reference: Ding, Xia, Zhang, Chu, Han, Ding, RepMLP (arXiv:2105.01883), section 4.1, which gives three stages,
widths, groups, partition and the multiply-accumulates of both networks, but not every layer: what follows is
the arrangement that has them (52.8 and 65.1 million on 3x32x32, without local convolutions).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from neurosim.errors import UsageError
from neurosim.models.normalise import Normalise
from neurosim.models.pad import PadTo
from neurosim.models.repmlp import ConvBN, RepMLP, conv_bn_relu
from neurosim.models.widths import widths as checked_widths

_SMALLEST = 32


class PureMLP(nn.Module):
    """1x1 stem, stages of twice (RepMLP, ReLU, 1x1 conv, BN, ReLU), max-pooling between, mean, dense.

    The second 1x1 of a stage widens to the next stage's channels; there is no other convolution except the
    local perceptrons of the :class:`RepMLP` blocks, which :func:`neurosim.models.fusing.fused` makes part of
    their matrices: fused, the network is one of matrices, 52.81 million multiply-accumulates on 3x32x32 as
    published.  The stem is a 1x1 convolution with BN and ReLU.

    Images smaller than 32x32 get zeros around them (after normalisation), centred, up to that:
    :class:`PadTo`.  Larger ones are read as they are, if every stage's maps are whole numbers of parts.

    Args:
        num_classes: number of logits.
        in_chans, image_size: channels and (height, width) of the input.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        widths: channels of the stages.
        groups: blocks of every partition perceptron; divides the widths.
        partition: (h, w) of the parts.
        kernels: sides of the local convolutions.
        fused: build the final form, for weights that were saved in it.

    Shapes: (B, C, H, W) in [0, 1] -> (B, num_classes).

    Raises:
        UsageError: options that do not fit each other, or images that the parts do not fill.

    >>> import torch
    >>> net = PureMLP(num_classes=10, in_chans=1, image_size=(28, 28), widths=(2, 2, 4)).eval()
    >>> net(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int,
        image_size: tuple[int, int],
        input_mean: float | Sequence[float] = 0.0,
        input_std: float | Sequence[float] = 1.0,
        widths: Sequence[int] = (16, 32, 64),
        groups: int = 2,
        partition: Sequence[int] = (8, 8),
        kernels: Sequence[int] = (1, 3, 5, 7),
        fused: bool = False,
    ) -> None:
        super().__init__()
        widths = checked_widths("widths", widths)
        h, w = checked_widths("partition", partition, length=2)
        rows, columns = _padded(image_size)
        _check_parts((rows, columns), (h, w), len(widths))
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.pad = PadTo(_SMALLEST)
        self.stem = conv_bn_relu(in_chans, widths[0], fused=fused)
        self.stages = nn.Sequential()
        for i, (width, after) in enumerate(pairwise((*widths, widths[-1]))):
            stage = nn.Sequential() if i == 0 else nn.Sequential(nn.MaxPool2d(2))
            for outputs in (width, after):
                mixer = RepMLP(
                    width,
                    width,
                    rows >> i,
                    columns >> i,
                    partition=(h, w),
                    kernels=kernels,
                    groups=groups,
                    fused=fused,
                )
                stage.extend((mixer, nn.ReLU(), conv_bn_relu(width, outputs, fused=fused)))
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(self.pad(self.normalise(x))))
        logits: Tensor = self.classifier(self.flatten(self.pool(x)))
        return logits


class PureConvTwin(nn.Module):
    """:class:`PureMLP` with 3x3 convolutions, BN and ReLU for the RepMLP blocks: the paper's comparison.

    65.11 million multiply-accumulates on 3x32x32 and 0.44 million parameters (published: 65.1 and 0.50).

    Args:
        num_classes: number of logits.
        in_chans, image_size: channels and (height, width) of the input; any size, small ones are padded.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        widths: channels of the stages.
        fused: build the form without BN, for weights that were saved in it.

    Shapes: (B, C, H, W) in [0, 1] -> (B, num_classes).

    >>> import torch
    >>> net = PureConvTwin(num_classes=10, in_chans=3, image_size=(32, 32), widths=(2, 2, 4)).eval()
    >>> net(torch.zeros(3, 3, 32, 32)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int,
        image_size: tuple[int, int],
        input_mean: float | Sequence[float] = 0.0,
        input_std: float | Sequence[float] = 1.0,
        widths: Sequence[int] = (32, 64, 128),
        fused: bool = False,
    ) -> None:
        super().__init__()
        widths = checked_widths("widths", widths)
        if min(_padded(image_size)) >> (len(widths) - 1) < 1:
            raise UsageError(
                f"expected fewer stages than {len(widths)} for {image_size[0]}x{image_size[1]} pixels"
            )
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.pad = PadTo(_SMALLEST)
        self.stem = conv_bn_relu(in_chans, widths[0], fused=fused)
        self.stages = nn.Sequential()
        for i, (width, after) in enumerate(pairwise((*widths, widths[-1]))):
            stage = nn.Sequential() if i == 0 else nn.Sequential(nn.MaxPool2d(2))
            for outputs in (width, after):
                mixer: ConvBN = conv_bn_relu(width, width, 3, fused=fused)
                stage.extend((mixer, conv_bn_relu(width, outputs, fused=fused)))
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(self.pad(self.normalise(x))))
        logits: Tensor = self.classifier(self.flatten(self.pool(x)))
        return logits


def _padded(image_size: tuple[int, int]) -> tuple[int, int]:
    return max(image_size[0], _SMALLEST), max(image_size[1], _SMALLEST)


def _check_parts(size: tuple[int, int], partition: tuple[int, int], stages: int) -> None:
    """Every stage, at half the size of the one before, has whole parts if the last has."""
    units = [side * 2 ** (stages - 1) for side in partition]
    if size[0] % units[0] or size[1] % units[1]:
        raise UsageError(
            f"expected images of at most {_SMALLEST}x{_SMALLEST} pixels, or height and width that are "
            f"multiples of {units[0]} and {units[1]}; got {size[0]}x{size[1]}"
        )
