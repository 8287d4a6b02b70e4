"""Classifiers that read the features of a segmentation network.

Train :class:`~neurosim.models.mnet.MNet` on masks first, load its ``trunk.*`` into :class:`MNetClassifier`,
and train the head on few labelled images with the trunk frozen, or train both.  The trunk's keys and shapes
are those of the segmentation network; its last 1x1 convolution has no place here, and ``normalise`` holds
the statistics of the data at hand.  Reference: Wong, Syeda-Mahmood, Moradi, Building medical image
classifiers with very limited data using segmentation networks (Medical Image Analysis 49, 2018,
arXiv:1808.05205).  The publication's text was not at hand: that the features are the map before the 1x1, and
the widths of the head, are our choice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from neurosim.models.mnet import MNetTrunk
from neurosim.models.normalise import Normalise
from neurosim.models.spatial import normalised
from neurosim.models.unet import UNetTrunk
from neurosim.models.vgg import vgg_classifier, vgg_features


def _head(in_chans: int, num_classes: int, widths: Sequence[int], dropout: float, dims: int) -> nn.Sequential:
    features = vgg_features(in_chans, widths, dims, option="head_widths")
    classifier = vgg_classifier(widths[-1], num_classes, dropout, dims)
    return nn.Sequential(OrderedDict(features=features, classifier=classifier))


class MNetClassifier(nn.Module):
    """A class for every image from the concatenated scales of an M-Net, read by a VGG-like head.

    Args:
        num_classes: number of logits.
        in_chans: channels of the input.
        image_size: (height, width); any size.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        widths, variant, dims, stem: of the trunk, see :class:`~neurosim.models.mnet.MNetTrunk`.
        head_widths: channels of each block of the head.
        dropout: probability of zeroing each mean before the dense layer, in training.

    State: ``trunk.*`` as in ``MNet``; ``head.features.*`` and ``head.classifier.*`` as in ``VGG``.

    Shapes: (B, C, H, W) in [0, 1], or (B, C, D, H, W), -> (B, num_classes).

    >>> import torch
    >>> size = {"in_chans": 1, "image_size": (28, 28), "widths": (4, 8)}
    >>> net = MNetClassifier(num_classes=3, **size).eval()
    >>> net(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 3])
    >>> from neurosim.models.mnet import MNet
    >>> segmentation = MNet(num_classes=2, **size)
    >>> net.trunk.load_state_dict(segmentation.trunk.state_dict())
    <All keys matched successfully>
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
        head_widths: Sequence[int] = (16, 32, 64),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.trunk = MNetTrunk(in_chans, widths=widths, variant=variant, dims=dims, stem=stem)
        self.head = _head(self.trunk.features, num_classes, head_widths, dropout, dims)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.trunk(normalised(self.normalise, x)))
        return logits


class UNetClassifier(nn.Module):
    """A class for every image from the last decoder map of a U-Net, read by a VGG-like head.

    Args:
        num_classes: number of logits.
        in_chans: channels of the input.
        image_size: (height, width); any size.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        widths, dims: of the trunk, see :class:`~neurosim.models.unet.UNetTrunk`.
        head_widths: channels of each block of the head.
        dropout: probability of zeroing each mean before the dense layer, in training.

    State: ``trunk.*`` as in ``UNet``; ``head.features.*`` and ``head.classifier.*`` as in ``VGG``.

    Shapes: (B, C, H, W) in [0, 1], or (B, C, D, H, W), -> (B, num_classes).

    >>> import torch
    >>> net = UNetClassifier(num_classes=3, in_chans=1, image_size=(28, 28), widths=(4, 8)).eval()
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
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        dims: int = 2,
        head_widths: Sequence[int] = (16, 32, 64),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.trunk = UNetTrunk(in_chans, widths=widths, dims=dims)
        self.head = _head(self.trunk.features, num_classes, head_widths, dropout, dims)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.trunk(normalised(self.normalise, x)))
        return logits
