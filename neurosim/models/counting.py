"""How large a network is: parameters, and multiply-accumulates of a forward pass."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(net: nn.Module) -> int:
    """Numbers that training may change, shared ones once; neither statistics nor frozen parameters are.

    >>> parameters(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def multiply_accumulates(net: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-accumulates of products and convolutions for one input, as (C, H, W), in evaluation mode.

    A layer that reads K values for each of N outputs costs N·K; biases, normalisations, activations, pooling
    and elementwise products are not counted, as in the papers.  The network is not run: shapes are followed
    on a copy without storage (torch's ``FlopCounterMode``, which counts two operations each).

    >>> multiply_accumulates(nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10))
    21600
    """
    ghost = copy.deepcopy(net).eval().to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        ghost(torch.empty(1, *shape, device="meta"))
    return counted.get_total_flops() // 2
