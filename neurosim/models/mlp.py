"""A fully connected network of any depth."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from neurosim.models.normalise import Normalise
from neurosim.models.widths import widths


class MLP(nn.Module):
    """h_0 = flatten((x - mean) / std), h_i = ReLU(W_i h_{i-1} + b_i), logits = W h_n + b.

    Args:
        num_classes: number of logits.
        in_chans, image_size: channels and (height, width) of the input.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        hidden: widths of the hidden layers; ``()`` is a linear classifier.

    Shapes: (B, C, H, W) in [0, 1] -> (B, num_classes).

    >>> import torch
    >>> net = MLP(num_classes=10, in_chans=1, image_size=(28, 28))
    >>> net(torch.zeros(3, 1, 28, 28)).shape, sum(p.numel() for p in net.parameters())
    (torch.Size([3, 10]), 669706)
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int,
        image_size: tuple[int, int],
        input_mean: float | Sequence[float] = 0.0,
        input_std: float | Sequence[float] = 1.0,
        hidden: Sequence[int] = (512, 512),
    ) -> None:
        super().__init__()
        self.normalise = Normalise(input_mean, input_std, in_chans)
        fan_in = in_chans * image_size[0] * image_size[1]
        layers: list[nn.Module] = [nn.Flatten(1)]
        for width in widths("hidden", hidden):
            layers += [nn.Linear(fan_in, width), nn.ReLU()]
            fan_in = width
        self.layers = nn.Sequential(*layers, nn.Linear(fan_in, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(self.normalise(x))
        return logits
