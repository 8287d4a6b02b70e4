"""Zeros around images that are smaller than a network wants."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PadTo(nn.Module):
    """Zeros around an image, centred, up to ``size``; sides that are as long already stay as they are.

    Of an odd number of zeros the larger half comes after the image.

    Args:
        size: (height, width) in pixels, or one number for both.

    Shapes: (B, C, H, W) -> (B, C, max(H, height), max(W, width)); no parameters.

    >>> import torch
    >>> PadTo((2, 4))(torch.ones(1, 1, 3, 1))
    tensor([[[[0., 1., 0., 0.],
              [0., 1., 0., 0.],
              [0., 1., 0., 0.]]]])
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (max(0, to - side) for to, side in zip(self.size, x.shape[-2:], strict=True))
        if not rows and not columns:
            return x
        return functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))

    def extra_repr(self) -> str:
        return f"{self.size[0]}x{self.size[1]}"
