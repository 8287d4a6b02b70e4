"""Batch normalisation with the statistics of each chip.

Programming noise, drift and converters shift what a normalisation gets; its running statistics are those of
the ideal network.  Re-estimated on a programmed chip, from a few hundred training inputs, they undo much of
that (Joshi et al. 2020, doi:10.1038/s41467-020-16108-9, "adaptive batch normalization statistics update").
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neurosim.analog.bench import Bench
from neurosim.analog.folding import Folded
from neurosim.analog.mixing import mix, mixed_in, unmix
from neurosim.errors import UsageError


class ChipStatistics(nn.Module):
    """A batch normalisation that keeps mean and variance of every chip on the bench.

    Not constructed: mixed into the class of the normalisation while such chips are on.
    """

    _chip_bench: Bench
    _chip_moments: dict[int, tuple[Tensor, Tensor]]

    def forward(self, input: Tensor) -> Tensor:
        active = self._chip_bench.active
        if active is None:
            return cast(Tensor, super().forward(input))
        norm = cast(_BatchNorm, self)
        if self._chip_bench.estimating:
            (chip,) = active.numbers  # one at a time
            self._chip_moments[chip] = _moments(input)
            return F.batch_norm(input, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
        found = [self._chip_moments.get(chip) for chip in active.numbers]
        if any(moments is None for moments in found):
            return cast(Tensor, super().forward(input))
        each = [moments for moments in found if moments is not None]
        return _normalised(norm, input, each)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each feature, as torch's running statistics are."""
    features = x.detach().transpose(0, 1).flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    unbiased = 1 if features.shape[1] > 1 else 0
    return features.mean(1), features.var(1, correction=unbiased)


def _normalised(norm: _BatchNorm, x: Tensor, moments: list[tuple[Tensor, Tensor]]) -> Tensor:
    if len(moments) == 1:
        mean, variance = (moment.to(x) for moment in moments[0])
        return F.batch_norm(x, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)
    mean = torch.stack([mean for mean, _ in moments])
    scale = torch.rsqrt(torch.stack([variance for _, variance in moments]) + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    shape = (len(moments), 1, -1, *(1,) * (x.dim() - 2))
    by_chip = x.unflatten(0, (len(moments), -1))
    return (by_chip * scale.reshape(shape) + shift.reshape(shape)).to(x.dtype).flatten(0, 1)


def check_norms(net: nn.Module) -> None:
    """UsageError unless there is a batch normalisation whose statistics could be those of a chip."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    if all(isinstance(norm, Folded) for norm in norms):
        folded = ": all of them are folded into the layers before them" if norms else ""
        raise UsageError(f"expected a network with batch normalisations to re-estimate; got none{folded}")


def keep_statistics(net: nn.Module, bench: Bench) -> None:
    """Give every batch normalisation statistics of each chip, but those that are folded into other layers."""
    for module in net.modules():
        if not isinstance(module, _BatchNorm) or isinstance(module, Folded):
            continue
        if not isinstance(module, ChipStatistics):
            mix(module, ChipStatistics, "PerChip", _chip_bench=bench, _chip_moments={})


def forget_statistics(net: nn.Module) -> None:
    """Every normalisation as it was."""
    for module in net.modules():
        if isinstance(module, ChipStatistics) and mixed_in(module)[0] is ChipStatistics:
            unmix(module)
