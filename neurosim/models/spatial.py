"""The same layers on images (two dimensions) and on volumes (three), and maps of any size."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from neurosim.errors import UsageError
from neurosim.models.normalise import Normalise


@dataclass(frozen=True)
class Layers:
    """The layer classes of one number of dimensions."""

    conv: type[nn.Conv2d] | type[nn.Conv3d]
    transposed: type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]
    norm: type[nn.BatchNorm2d] | type[nn.BatchNorm3d]
    max_pool: type[nn.MaxPool2d] | type[nn.MaxPool3d]
    mean_pool: type[nn.AdaptiveAvgPool2d] | type[nn.AdaptiveAvgPool3d]


_LAYERS = {
    2: Layers(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d),
    3: Layers(nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AdaptiveAvgPool3d),
}


def layers(dims: int) -> Layers:
    """The layers for images (``dims=2``) or volumes (``dims=3``).

    >>> layers(3).conv
    <class 'torch.nn.modules.conv.Conv3d'>
    """
    if isinstance(dims, bool) or dims not in _LAYERS:
        raise UsageError(f"expected dims to be 2 (images) or 3 (volumes); got {dims!r}")
    return _LAYERS[dims]


def normalised(normalise: Normalise, x: Tensor) -> Tensor:
    """The statistics of each channel applied to images (B, C, H, W) or volumes (B, C, D, H, W).

    >>> import torch
    >>> normalised(Normalise(0.5, 0.25), torch.ones(1, 1, 2, 1, 1)).flatten()
    tensor([2., 2.])
    """
    flat: Tensor = normalise(x.flatten(2, -2))
    return flat.reshape(x.shape)


def halved(x: Tensor) -> Tensor:
    """The largest of every 2x2 pixels (2x2x2 of a volume): sizes halved.

    >>> import torch
    >>> halved(torch.arange(4.0).view(1, 1, 2, 2))
    tensor([[[[3.]]]])
    """
    return functional.max_pool2d(x, 2) if x.dim() == 4 else functional.max_pool3d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """Every pixel twice along each axis: sizes doubled.

    >>> import torch
    >>> doubled(torch.arange(2.0).view(1, 1, 1, 2))
    tensor([[[[0., 0., 1., 1.],
              [0., 0., 1., 1.]]]])
    """
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def padded(x: Tensor, multiple: int) -> Tensor:
    """``x`` with its last pixels repeated to the right, below and behind, to sizes divisible by ``multiple``.

    >>> import torch
    >>> padded(torch.arange(3.0).view(1, 1, 1, 3), 2)
    tensor([[[[0., 1., 2., 2.],
              [0., 1., 2., 2.]]]])
    """
    amounts = [amount for size in reversed(x.shape[2:]) for amount in (0, -size % multiple)]
    return functional.pad(x, amounts, mode="replicate") if any(amounts) else x


def cropped(x: Tensor, like: Tensor) -> Tensor:
    """The first pixels of ``x``, as many as ``like`` has: what :func:`padded` added is gone.

    >>> import torch
    >>> cropped(torch.zeros(1, 5, 4, 8), torch.zeros(1, 1, 3, 7)).shape
    torch.Size([1, 5, 3, 7])
    """
    for axis, size in enumerate(like.shape[2:], start=2):
        x = x.narrow(axis, 0, size)
    return x


def he_initialised(net: nn.Module) -> None:
    """Convolutions from He's normal distribution (fan in), their biases at zero."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
