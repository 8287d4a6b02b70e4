"""Per-channel normalisation with stored statistics: the first module of every zoo model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neurosim.errors import UsageError


class Normalise(nn.Module):
    """y[b, c, h, w] = (x[b, c, h, w] - mean[c]) / std[c], with mean and std kept as buffers.

    Statistics are constants of the network, never taken from the batch under test: one image gives
    the same logits alone or among others.

    Args:
        mean: one number for all channels, or one per channel.
        std: likewise, in the same unit (inputs are in [0, 1]); each above 0.
        in_chans: number of channels C.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    >>> Normalise(0.5, 0.25, in_chans=1)(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0, in_chans: int = 1
    ) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel("input_mean", mean, in_chans))
        self.register_buffer("std", _per_channel("input_std", std, in_chans))
        # the numbers, not the buffer: a network may be built on the meta device, where there are no values
        if not all(number > 0 for number in ([std] if isinstance(std, (int, float)) else std)):
            raise UsageError(f"expected every input_std to be above 0; got {std!r}")

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def _per_channel(what: str, value: float | Sequence[float], in_chans: int) -> Tensor:
    """A (C, 1, 1) tensor from one number or C numbers."""
    numbers = [value] * in_chans if isinstance(value, (int, float)) else list(value)
    if len(numbers) != in_chans:
        raise UsageError(
            f"expected {what} to have 1 or {in_chans} numbers, one per channel; got {len(numbers)}"
        )
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
        raise UsageError(f"expected {what} to be finite numbers; got {value!r}")
    return torch.tensor(numbers, dtype=torch.get_default_dtype()).view(in_chans, 1, 1)
