"""The Fashion-MNIST network of the weight-attack paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from neurosim.errors import UsageError
from neurosim.models.normalise import Normalise
from neurosim.models.widths import widths

KERNEL = 4
SMALLEST = 10


class CNN(nn.Module):
    """conv 4x4x64 SAME, pool 2, ReLU, conv 4x4x64 VALID, pool 2, ReLU, dense 1600-256-64-10.

    On (1, 28, 28) the maps are 64x28x28, 64x14x14, 64x11x11, 64x5x5 = 1600 features: 493,642 parameters.
    SAME is TensorFlow's rule: an even kernel pads one pixel before and two after.  The dense layers
    have ReLU between them.  Reference: Buchel, Faber, Muir, ICLR 2022 (arXiv:2106.05009), which
    normalises with the statistics of each batch, also when testing; here they are stored.

    Args:
        num_classes: number of logits.
        in_chans, image_size: channels and (height, width) of the input; at least 10x10 pixels.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        channels: output channels of the two convolutions.
        hidden: widths of the dense hidden layers.

    Shapes: (B, C, H, W) in [0, 1] -> (B, num_classes).

    >>> import torch
    >>> net = CNN(num_classes=10, in_chans=1, image_size=(28, 28))
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
        channels: Sequence[int] = (64, 64),
        hidden: Sequence[int] = (256, 64),
    ) -> None:
        super().__init__()
        if min(image_size) < SMALLEST:
            raise UsageError(
                f"model 'cnn' needs images of at least {SMALLEST}x{SMALLEST} pixels; "
                f"got {image_size[0]}x{image_size[1]} ('mlp' and 'resnet8' take any size)"
            )
        first, second = widths("channels", channels, length=2)
        before = (KERNEL - 1) // 2
        after = KERNEL - 1 - before
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.features = nn.Sequential(
            nn.ZeroPad2d((before, after, before, after)),
            nn.Conv2d(in_chans, first, KERNEL),
            nn.MaxPool2d(
                2
            ),  # before ReLU, which it commutes with to the bit: a quarter of the values to rectify
            nn.ReLU(),
            nn.Conv2d(first, second, KERNEL),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(1),
        )
        fan_in = second * _final(image_size[0]) * _final(image_size[1])
        layers: list[nn.Module] = []
        for width in widths("hidden", hidden):
            layers += [nn.Linear(fan_in, width), nn.ReLU()]
            fan_in = width
        self.classifier = nn.Sequential(*layers, nn.Linear(fan_in, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(self.normalise(x)))
        return logits


def _final(pixels: int) -> int:
    """Side of the last feature map: pool 2, VALID 4x4, pool 2.

    >>> _final(28), _final(10)
    (5, 1)
    """
    return (pixels // 2 - (KERNEL - 1)) // 2
