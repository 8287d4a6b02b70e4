"""A small VGG-like classifier for images or volumes of any size."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from neurosim.errors import UsageError
from neurosim.models.normalise import Normalise
from neurosim.models.spatial import he_initialised, layers, normalised
from neurosim.models.widths import widths as checked_widths


def vgg_features(in_chans: int, widths: Sequence[int], dims: int, option: str = "widths") -> nn.Sequential:
    """One block a width: two of [3x3 convolution without bias, batch normalisation, ReLU], 2x2 max-pooling.

    The pooling comes before the second ReLU, with which it commutes.  It keeps the last row and column of odd
    maps, so that any size works.

    >>> import torch
    >>> vgg_features(1, (4, 8), dims=2)(torch.zeros(1, 1, 7, 3)).shape
    torch.Size([1, 8, 2, 1])
    """
    kinds = layers(dims)
    blocks = []
    for chans in _at_least_one(option, widths):
        block: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=kinds.conv(in_chans, chans, 3, padding=1, bias=False),
            norm1=kinds.norm(chans),
            relu1=nn.ReLU(),
            conv2=kinds.conv(chans, chans, 3, padding=1, bias=False),
            norm2=kinds.norm(chans),
            # before ReLU there is a quarter of the values to rectify, and the bits are the same
            pool=kinds.max_pool(2, ceil_mode=True),
            relu2=nn.ReLU(),
        )
        blocks.append(nn.Sequential(block))
        in_chans = chans
    features = nn.Sequential(*blocks)
    he_initialised(features)
    return features


def vgg_classifier(in_chans: int, num_classes: int, dropout: float, dims: int) -> nn.Sequential:
    """The mean over pixels, dropout, and a dense layer: (B, in_chans, ...) -> (B, num_classes)."""
    number = isinstance(dropout, (int, float)) and not isinstance(dropout, bool)
    if not number or not math.isfinite(dropout) or not 0 <= dropout < 1:
        raise UsageError(f"expected dropout to be a probability from 0 to below 1; got {dropout!r}")
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        pool=layers(dims).mean_pool(1),
        flatten=nn.Flatten(1),
        dropout=nn.Dropout(dropout),
        linear=nn.Linear(in_chans, num_classes),
    )
    return nn.Sequential(parts)


class VGG(nn.Module):
    """Blocks of two 3x3 convolutions and max-pooling, mean over pixels, dropout, dense.

    It is the head of :mod:`neurosim.models.features` reading raw images: the baseline trained from scratch,
    or, with ``features.*`` of a network trained on other data loaded, the one with general features.

    Args:
        num_classes: number of logits.
        in_chans: channels of the input.
        image_size: (height, width); any size.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        widths: channels of each block.
        dropout: probability of zeroing each mean before the dense layer, in training.
        dims: 2 for images, 3 for volumes.

    State: ``features.*`` the blocks, ``classifier.linear.*`` the dense layer.

    Shapes: (B, C, H, W) in [0, 1], or (B, C, D, H, W), -> (B, num_classes).

    >>> import torch
    >>> net = VGG(num_classes=3, in_chans=1, image_size=(28, 28)).eval()
    >>> net(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 3])
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
        dropout: float = 0.5,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.features = vgg_features(in_chans, widths, dims)
        self.classifier = vgg_classifier(widths[-1], num_classes, dropout, dims)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(normalised(self.normalise, x)))
        return logits


def _at_least_one(option: str, widths: Sequence[int]) -> tuple[int, ...]:
    checked = checked_widths(option, widths)
    if not checked:
        raise UsageError(f"expected {option} to have at least one width; got {widths!r}")
    return checked
