"""The spiking networks of the weight-attack paper."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from neurosim.errors import UsageError
from neurosim.models.normalise import Normalise
from neurosim.models.spiking.layers import Recurrent
from neurosim.models.spiking.neurons import Alif
from neurosim.models.spiking.operators import Record

RATE_WEIGHT, RATE = 0.001, 0.01
_TRUNCATED = 0.87962566103423978  # standard deviation of a standard normal cut at ±2


class Lsnn(nn.Module):
    """256 neurons with adapting thresholds, each connected to every other; a class by their mean rates.

    logits = W_out·mean over time of spikes + b_out.  Neurons: :class:`neurosim.models.spiking.Alif`.  Initial
    weights as in the reference code: normals cut at two standard deviations, of variance 2/(inputs + units),
    1/units and 1e-4.  Source: Buchel, Faber, Muir, ICLR 2022 (arXiv:2106.05009).

    Args:
        num_classes: number of logits.
        in_chans: channels of the input.
        image_size: (steps, 1) of the input; any number of steps is computed.
        input_mean, input_std: stored statistics of :class:`Normalise`.
        units: neurons.

    Shapes: (B, T, C) -> (B, num_classes).

    >>> import torch
    >>> net = Lsnn(num_classes=4, in_chans=2, image_size=(100, 1))
    >>> net(torch.zeros(3, 100, 2)).shape
    torch.Size([3, 4])
    >>> logits, penalty = net(torch.zeros(3, 100, 2), with_penalty=True)
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int,
        image_size: tuple[int, int],
        input_mean: float | Sequence[float] = 0.0,
        input_std: float | Sequence[float] = 1.0,
        units: int = 256,
    ) -> None:
        super().__init__()
        if image_size[1] != 1:
            raise UsageError(
                f"an LSNN reads time series, of image_size (steps, 1); got {image_size[0]}x{image_size[1]}"
            )
        if isinstance(units, bool) or not isinstance(units, int) or units < 1:
            raise UsageError(f"expected units to be a whole number of at least 1; got {units!r}")
        self.normalise = Normalise(input_mean, input_std, in_chans)
        self.hidden = Recurrent(in_chans, units, Alif(), bias=False)
        self.readout = nn.Linear(units, num_classes)
        for layer, std in (
            (self.hidden.input, math.sqrt(2 / (in_chans + units)) / _TRUNCATED),
            (self.hidden.recurrent, math.sqrt(1 / units) / _TRUNCATED),
            (self.readout, 0.01),
        ):
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
        nn.init.zeros_(self.readout.bias)
        self.hidden.recurrent.weight.data.fill_diagonal_(0.0)

    def forward(self, x: Tensor, with_penalty: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits; with ``with_penalty`` also what is added to the training loss."""
        rates = self.hidden(self._normalised(x)).mean(1)
        logits: Tensor = self.readout(rates)
        return (logits, rate_penalty(rates)) if with_penalty else logits

    def record(self, x: Tensor) -> Record:
        """What the neurons do at every step, without gradients: for pictures."""
        return self.hidden.record(self._normalised(x))

    def _normalised(self, x: Tensor) -> Tensor:
        if x.dim() != 3:
            raise UsageError(f"an LSNN reads time series (samples, steps, channels); got {tuple(x.shape)}")
        # Normalise reads (B, C, H, W)
        normal: Tensor = self.normalise(x.transpose(1, 2).unsqueeze(3))
        return normal.squeeze(3).transpose(1, 2)


def rate_penalty(rates: Tensor) -> Tensor:
    """0.001·Σ (rate − 0.01)², over samples and neurons, rates in spikes a step.

    The reference code sums over the samples of a batch, which are 100.

    >>> import torch
    >>> round(float(rate_penalty(torch.full((100, 256), 0.02))), 5)
    0.00256
    """
    return RATE_WEIGHT * (rates - RATE).square().sum()
