"""M-Net: a U-shaped segmentation network with two more legs, one of small inputs and one of all scales."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurosim import errors
from neurosim.errors import UsageError
from neurosim.models.normalise import Normalise
from neurosim.models.spatial import cropped, doubled, halved, he_initialised, layers, normalised, padded
from neurosim.models.widths import widths as checked_widths


@dataclass(frozen=True)
class _Style:
    """What differs between the two published M-Nets.

    Attributes:
        growing: whether an encoder block's second convolution already has the next level's channels, and
            the second of the bottom twice its channels.
        relu_first: convolution, ReLU, normalisation; otherwise convolution, normalisation, ReLU.
        dropout: probability after each block's first convolution, and after the second of the bottom.
        epsilon: of the batch normalisations.
    """

    growing: bool
    relu_first: bool
    dropout: float
    epsilon: float


_STYLES = {
    "brain": _Style(growing=True, relu_first=True, dropout=0.0, epsilon=1e-5),
    "fingerprint": _Style(growing=False, relu_first=False, dropout=0.2, epsilon=1e-3),
}


def _unit(in_chans: int, chans: int, style: _Style, dims: int, dropped: bool = False) -> nn.Sequential:
    """A 3x3 convolution with its ReLU and normalisation, in the order of the style."""
    kinds = layers(dims)
    norm = ("norm", kinds.norm(chans, eps=style.epsilon))
    relu = ("relu", nn.ReLU())
    rest: list[tuple[str, nn.Module]] = [relu, norm] if style.relu_first else [norm, relu]
    if dropped and style.dropout > 0:
        rest.append(("dropout", nn.Dropout(style.dropout)))
    conv: tuple[str, nn.Module] = ("conv", kinds.conv(in_chans, chans, 3, padding=1))
    return nn.Sequential(OrderedDict([conv, *rest]))


class Block(nn.Module):
    """y = second([x, first(x)]): the second convolution reads the block's input beside the first's output.

    Shapes: (B, in_chans, ...) -> (B, chans[1], ...), the size unchanged.
    """

    def __init__(
        self, in_chans: int, chans: tuple[int, int], style: _Style, dims: int, both_dropped: bool = False
    ) -> None:
        super().__init__()
        self.first = _unit(in_chans, chans[0], style, dims, dropped=True)
        self.second = _unit(in_chans + chans[0], chans[1], style, dims, dropped=both_dropped)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.cat([x, self.first(x)], dim=1))
        return y


class MNetTrunk(nn.Module):
    """M-Net up to the map that its last 1x1 convolution reads: what :class:`MNet` and the classifiers share.

    With L + 1 widths it halves the map L times.  Encoder level l reads the input pooled l times (left leg)
    beside the pooled output of level l - 1; a decoder level reads the encoder's map (skip) beside the map
    below, doubled by repeating pixels; the result is the bottom and every decoder level, enlarged to full
    size, deepest first (right leg): ``features`` = sum of the widths.  Sizes that 2^L does not divide are
    padded on the right and below by repeating the last pixels, and the result is cropped.

    Args:
        in_chans: channels of the input.
        widths: channels of each scale, the bottom's last; at least two.
        variant: ``brain`` (Mehta and Sivaswamy 2017: 3x3 convolution, ReLU, normalisation; encoder blocks
            (w0, w1), (w1, w2), ..., bottom w, 2w, w, the decoder mirrors the encoder) or ``fingerprint``
            (Adiga and Sivaswamy 2018: convolution, normalisation, ReLU, dropout 0.2 after a block's first;
            blocks (w, w), bottom w, w, w).
        dims: 2 for images, 3 for volumes.
        stem: 0, or the number of maps that a first 7x7 convolution makes of the channels.  With the 51
            slices of a slab as channels and 16 maps it is the publication's 7x7x51 one; images only.

    Shapes: (B, C, H, W) -> (B, features, H, W), or (B, C, D, H, W) -> (B, features, D, H, W).

    >>> MNetTrunk(1, widths=(8, 16, 32)).features
    56
    """

    def __init__(
        self,
        in_chans: int,
        *,
        widths: Sequence[int] = (16, 32, 48, 64),
        variant: str = "brain",
        dims: int = 2,
        stem: int = 0,
    ) -> None:
        super().__init__()
        scales = _scales(widths)
        if variant not in _STYLES:
            raise errors.unknown("variant of M-Net", str(variant), _STYLES)
        style = _STYLES[variant]
        self.features = sum(scales)
        self.stem = _stem(in_chans, stem, style, dims)
        image = stem or in_chans
        encoder, decoder, chans = [], [], 0
        for first, second in _pairs(scales, style):
            encoder.append(Block(chans + image, (first, second), style, dims))
            chans = second
        bottom = scales[-1]
        wide = 2 * bottom if style.growing else bottom
        self.bottom = nn.Sequential(
            Block(chans + image, (bottom, wide), style, dims, both_dropped=True),
            _unit(wide, bottom, style, dims),
        )
        chans = bottom
        for first, second in reversed(_pairs(scales, style)):
            decoder.append(Block(second + chans, (second, first), style, dims))
            chans = first
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(decoder)
        he_initialised(self)

    def forward(self, x: Tensor) -> Tensor:
        image = self.stem(padded(x, 2 ** len(self.encoder)))
        skips, y = [], image
        for level in self.encoder:
            skips.append(level(y))
            image = halved(image)
            y = torch.cat([image, halved(skips[-1])], dim=1)
        y = self.bottom(y)
        right = y
        for level in self.decoder:
            y = level(torch.cat([skips.pop(), doubled(y)], dim=1))
            right = torch.cat([doubled(right), y], dim=1)
        return cropped(right, x)


class MNet(nn.Module):
    """A class for every pixel: :class:`MNetTrunk`, then a 1x1 convolution of its concatenated scales.

    The published network has 16 input maps and 15 classes: 711,840 parameters and 2,415 in the 1x1.
    References: Mehta, Sivaswamy, M-net (ISBI 2017); variant ``fingerprint``: Adiga, Sivaswamy, FPD-M-net
    (arXiv:1812.10191), 891,217 parameters at 3 channels and 1 class.

    Args:
        num_classes: classes of a pixel.
        in_chans: channels of the input.
        image_size: (height, width); any size, also another one later.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        widths, variant, dims, stem: see :class:`MNetTrunk`.

    Shapes: (B, C, H, W) in [0, 1] -> logits (B, num_classes, H, W); with ``dims=3``, (B, C, D, H, W) ->
    (B, num_classes, D, H, W).

    >>> net = MNet(num_classes=2, in_chans=1, image_size=(28, 28), widths=(4, 8)).eval()
    >>> net(torch.zeros(3, 1, 28, 27)).shape
    torch.Size([3, 2, 28, 27])
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int,
        image_size: tuple[int, int],
        input_mean: float | Sequence[float] = 0.0,
        input_std: float | Sequence[float] = 1.0,
        widths: Sequence[int] = (16, 32, 48, 64),
        variant: str = "brain",
        dims: int = 2,
        stem: int = 0,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.trunk = MNetTrunk(in_chans, widths=widths, variant=variant, dims=dims, stem=stem)
        self.classifier = layers(dims).conv(self.trunk.features, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.trunk(normalised(self.normalise, x)))
        return logits


def _scales(widths: Sequence[int]) -> tuple[int, ...]:
    scales = checked_widths("widths", widths)
    if len(scales) < 2:
        raise UsageError(f"expected widths of at least two scales, such as (8, 16, 32); got {widths!r}")
    return scales


def _pairs(scales: tuple[int, ...], style: _Style) -> list[tuple[int, int]]:
    """Channels of the two convolutions of each encoder level."""
    return list(zip(scales[:-1], scales[1:] if style.growing else scales[:-1], strict=True))


def _stem(in_chans: int, maps: int, style: _Style, dims: int) -> nn.Module:
    """A 7x7 convolution of all channels with its ReLU and normalisation, or nothing."""
    if isinstance(maps, bool) or not isinstance(maps, int) or maps < 0:
        raise UsageError(f"expected stem to be 0 or the number of maps that it makes; got {maps!r}")
    if maps == 0:
        return nn.Identity()
    if dims != 2:
        raise UsageError(f"expected stem=0 with dims=3: the stem makes images of a slab's slices; got {maps}")
    conv = nn.Conv2d(in_chans, maps, 7, padding=3)
    norm = nn.BatchNorm2d(maps, eps=style.epsilon)
    return nn.Sequential(OrderedDict([("conv", conv), ("relu", nn.ReLU()), ("norm", norm)]))
