"""Structural re-parameterisation: the same function with fewer parts, once training is over.

A module that trains in one form and computes in another is a :class:`Fusable`; :func:`fused` gives a copy of
a network in which all of them have taken their final form.  Everything is computed in float64 and rounded
once.  Reference: Ding, Xia, Zhang, Chu, Han, Ding, RepMLP (arXiv:2105.01883), section 3.
"""

from __future__ import annotations

import copy
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurosim.errors import UsageError

_BatchNorm = nn.modules.batchnorm._BatchNorm


class Fusable(nn.Module):
    """A module with two forms, of which the second computes what the first does in evaluation mode."""

    @abstractmethod
    def fuse_(self) -> None:
        """Take the final form, in place; a second call changes nothing."""


def is_fusable(net: nn.Module) -> bool:
    """Whether any module of the network has a final form of its own."""
    return any(isinstance(module, Fusable) for module in net.modules())


def fused(net: nn.Module) -> nn.Module:
    """A copy of the network in its final form, in evaluation mode, with the same outputs there.

    Raises:
        UsageError: nothing in the network can be fused.

    >>> from neurosim import models
    >>> net = models.create("repmlp-pure", num_classes=10, in_chans=3, image_size=32, widths=(4, 4, 4)).eval()
    >>> x = torch.rand(2, 3, 32, 32)
    >>> torch.allclose(fused(net)(x), net(x), atol=1e-5)
    True
    """
    if not is_fusable(net):
        raise UsageError(f"{type(net).__name__} has nothing to fuse: expected a network such as repmlp-pure")
    result = copy.deepcopy(net).eval()
    with torch.no_grad():
        for module in list(result.modules()):
            if isinstance(module, Fusable):
                module.fuse_()
    return result


def fold_batchnorm(weight: Tensor, bias: Tensor | None, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of BN(Wx + b) in float64: W' = W·γ/σ, b' = β + (b − μ)·γ/σ, σ = √(var + ε).

    Args:
        weight: (O, ...), one row an output.
        bias: (O,) or None for zeros.
        norm: over C channels, C dividing O: each channel serves O/C consecutive outputs.

    >>> norm = nn.BatchNorm1d(1, eps=0.0).eval().requires_grad_(False)
    >>> norm.running_var.fill_(4.0), norm.running_mean.fill_(1.0)
    (tensor([4.]), tensor([1.]))
    >>> fold_batchnorm(torch.ones(2, 1), None, norm)
    (tensor([[0.5000],
            [0.5000]], dtype=torch.float64), tensor([-0.5000, -0.5000], dtype=torch.float64))
    """
    scale, shift = scale_and_shift(norm)
    times = len(weight) // len(scale)
    scale, shift = scale.repeat_interleave(times), shift.repeat_interleave(times)
    folded = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
    return folded, shift if bias is None else shift + bias.double() * scale


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The affine map of a batch normalisation in evaluation mode, y = x·scale + shift, in float64 (C,)."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise UsageError("cannot fuse a batch normalisation that keeps no running statistics")
    scale = (variance.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -mean.double() * scale
    return scale, shift + norm.bias.double() if norm.affine else shift


def centred(kernel: Tensor, size: int) -> Tensor:
    """An odd square kernel with zeros around it, up to ``size``: the same convolution, padded by size // 2.

    >>> centred(torch.ones(1, 1, 1, 1), 3).sum(-1)
    tensor([[[0., 1., 0.]]])
    """
    around = (size - kernel.shape[-1]) // 2
    return functional.pad(kernel, [around] * 4)


def convolution_matrix(kernel: Tensor, height: int, width: int) -> Tensor:
    """The matrix of a convolution that keeps the size of its (height, width) map: (O·h·w, C/groups·h·w).

    Row (o, y, x), column (c, y', x'), c within the group of o, is kernel[o, c, y' - y + k//2, x' - x + k//2],
    or zero outside the kernel: a grouped fully connected layer with this weight on the flattened map equals
    ``conv2d(map, kernel, padding=k // 2, groups=groups)``, for any C, O and groups.  (The authors' code
    reshapes where it should transpose: right only for C = O.)

    Args:
        kernel: (O, C/groups, k, k), k odd.

    >>> kernel, x = torch.rand(6, 2, 3, 3), torch.rand(5, 4, 3, 2)
    >>> matrix = convolution_matrix(kernel, 3, 2)
    >>> y = functional.conv2d(x.view(5, 24, 1, 1), matrix[:, :, None, None], groups=2)
    >>> torch.allclose(y.view(5, 6, 3, 2), functional.conv2d(x, kernel, padding=1, groups=2), atol=1e-6)
    True
    """
    outputs, _, size, _ = kernel.shape
    # with zeros as far as any pixel of the map can be from another, and beyond that nothing
    around = [side - 1 - size // 2 for side in (width, width, height, height)]
    reach = functional.pad(kernel, around)
    rows = torch.arange(height, device=kernel.device)
    columns = torch.arange(width, device=kernel.device)
    down = (rows - rows[:, None] + height - 1)[:, None, :, None]  # y, x, y', x'
    across = (columns - columns[:, None] + width - 1)[None, :, None, :]
    return reach[:, :, down, across].movedim(1, 3).reshape(outputs * height * width, -1)
