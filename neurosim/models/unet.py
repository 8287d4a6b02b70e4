"""U-Net with batch normalisation, on images or volumes of any size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neurosim.errors import UsageError
from neurosim.models.normalise import Normalise
from neurosim.models.spatial import cropped, halved, he_initialised, layers, normalised, padded
from neurosim.models.widths import widths as checked_widths


def _block(in_chans: int, chans: int, dims: int) -> nn.Sequential:
    """Twice: 3x3 convolution without bias, batch normalisation, ReLU."""
    kinds = layers(dims)
    return nn.Sequential(
        OrderedDict(
            conv1=kinds.conv(in_chans, chans, 3, padding=1, bias=False),
            norm1=kinds.norm(chans),
            relu1=nn.ReLU(),
            conv2=kinds.conv(chans, chans, 3, padding=1, bias=False),
            norm2=kinds.norm(chans),
            relu2=nn.ReLU(),
        )
    )


class UNetTrunk(nn.Module):
    """U-Net up to the map that its last 1x1 convolution reads: the last decoder level, widths[0] features.

    Each scale has two 3x3 convolutions; the map is halved by max-pooling on the way down and doubled by a 2x2
    transposed convolution on the way up, where the encoder's map is concatenated before it.  Unlike in the
    publication, convolutions keep the size (padding 1) and are normalised; sizes that 2^(scales - 1) does not
    divide are padded on the right and below by repeating the last pixels, and the result is cropped.

    Args:
        in_chans: channels of the input.
        widths: channels of each scale, the bottom's last; at least two.
        dims: 2 for images, 3 for volumes.

    Shapes: (B, C, H, W) -> (B, features, H, W), or (B, C, D, H, W) -> (B, features, D, H, W).

    >>> UNetTrunk(1, widths=(4, 8))(torch.zeros(2, 1, 5, 6)).shape
    torch.Size([2, 4, 5, 6])
    """

    def __init__(
        self, in_chans: int, *, widths: Sequence[int] = (64, 128, 256, 512, 1024), dims: int = 2
    ) -> None:
        super().__init__()
        scales = checked_widths("widths", widths)
        if len(scales) < 2:
            raise UsageError(f"expected widths of at least two scales, such as (8, 16, 32); got {widths!r}")
        kinds = layers(dims)
        self.features = scales[0]
        before = (in_chans, *scales[:-2])
        self.encoder = nn.ModuleList([_block(i, o, dims) for i, o in zip(before, scales[:-1], strict=True)])
        self.bottom = _block(scales[-2], scales[-1], dims)
        up = [(scales[i + 1], scales[i]) for i in reversed(range(len(scales) - 1))]
        self.enlarge = nn.ModuleList([kinds.transposed(i, o, 2, stride=2) for i, o in up])
        self.decoder = nn.ModuleList([_block(2 * o, o, dims) for _, o in up])
        he_initialised(self)

    def forward(self, x: Tensor) -> Tensor:
        skips, y = [], padded(x, 2 ** len(self.encoder))
        for level in self.encoder:
            skips.append(level(y))
            y = halved(skips[-1])
        y = self.bottom(y)
        for enlarge, level in zip(self.enlarge, self.decoder, strict=True):
            y = level(torch.cat([skips.pop(), enlarge(y)], dim=1))
        return cropped(y, x)


class UNet(nn.Module):
    """A class for every pixel: :class:`UNetTrunk`, then a 1x1 convolution.

    Reference: Ronneberger, Fischer, Brox, U-Net (MICCAI 2015, arXiv:1505.04597).

    Args:
        num_classes: classes of a pixel.
        in_chans: channels of the input.
        image_size: (height, width); any size, also another one later.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        widths, dims: see :class:`UNetTrunk`.

    Shapes: (B, C, H, W) in [0, 1] -> logits (B, num_classes, H, W); with ``dims=3``, (B, C, D, H, W) ->
    (B, num_classes, D, H, W).

    >>> net = UNet(num_classes=2, in_chans=1, image_size=(28, 28), widths=(4, 8)).eval()
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
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.trunk = UNetTrunk(in_chans, widths=widths, dims=dims)
        self.classifier = layers(dims).conv(self.trunk.features, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.trunk(normalised(self.normalise, x)))
        return logits
