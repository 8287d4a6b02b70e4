"""Convolutions with 1x1 kernels, by the products that a CPU is fast at."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """``conv2d(x, weight, bias, groups=groups)`` of 1x1 kernels.

    On a CPU, a matrix a group on maps of one pixel is a batched product, and a number a channel an
    elementwise one: oneDNN's convolutions take two to three times and more than ten times as long there.

    Shapes: x (B, C, H, W), weight (O, C / groups, 1, 1), bias (O,) -> (B, O, H, W).

    >>> import torch
    >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    >>> pointwise(x, torch.ones(2, 2, 1, 1), None, groups=2).flatten()
    tensor([3., 7.])
    """
    channels, outputs = x.shape[1], weight.shape[0]
    if x.device.type == "cpu" and groups == channels == outputs:
        y = x * weight.reshape(-1, 1, 1)
    elif x.device.type == "cpu" and x.shape[2:] == (1, 1):
        vectors = x.reshape(-1, groups, channels // groups).transpose(0, 1)
        matrices = weight.reshape(groups, outputs // groups, -1).transpose(1, 2)
        y = vectors.bmm(matrices).transpose(0, 1).reshape(-1, outputs, 1, 1)
    else:
        return functional.conv2d(x, weight, bias, groups=groups)
    return y if bias is None else y + bias.view(-1, 1, 1)
