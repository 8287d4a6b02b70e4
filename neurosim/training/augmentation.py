"""Altered copies of training images: flips, turns, shifts and erased patches, drawn anew for each step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

from neurosim.errors import UsageError, unknown
from neurosim.landscape.parameters import DrawsFor
from neurosim.training.settings import check_integer, check_number

ERASED_AREA = (0.02, 0.4)
MOST_ASPECT = 1.0 / 0.3


@final
@dataclass(frozen=True)
class Augmentation:
    """What is done to each image of a batch (batch, channels, height, width), in this order.

    Args:
        flip: left and right exchanged, for half of the images.
        rotate_deg: turned about the middle by an angle uniform in ± this, bilinear, 0 outside.
        shift: moved by whole pixels, uniform in ± this in both directions, 0 outside.
        erase: probability that a rectangle is set to 0: 2 to 40 % of the area, uniform, height over width of
            0.3 to 3.3, log-uniform, anywhere inside (random erasing: Zhong et al., AAAI 2020,
            arXiv 1708.04896, whose ranges these are).

    >>> Augmentation()(torch.ones(1, 1, 2, 2), lambda what: None).shape
    torch.Size([1, 1, 2, 2])
    """

    flip: bool = False
    rotate_deg: float = 0.0
    shift: int = 0
    erase: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise UsageError(f"expected augment.flip, true or false; got {self.flip!r}")
        check_number("augment.rotate_deg", self.rotate_deg, least=0.0)
        check_integer("augment.shift", self.shift, 0)
        check_number("augment.erase", self.erase, least=0.0)
        if self.erase > 1.0:
            raise UsageError(f"expected augment.erase, a probability; got {self.erase!r}")

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> Self:
        """From a table; an unknown key gets the nearest known one."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in options or {}:
            if key not in known:
                raise unknown("key of train.augment", key, known)
        return cls(**(options or {}))

    def __call__(self, images: Tensor, draws_for: DrawsFor) -> Tensor:
        """The batch, altered by the streams of its step; itself where nothing is to be done."""
        if self == Augmentation():
            return images
        if images.dim() != 4:
            raise UsageError(
                f"train.augment needs images (batch, channels, height, width); got {tuple(images.shape)}"
            )
        place = str(images.device)
        if self.flip:
            chosen = draws_for("flip").uniform((len(images),), device=place) < 0.5
            images = torch.where(chosen[:, None, None, None], images.flip(-1), images)
        if self.rotate_deg:
            images = _rotated(
                images, draws_for("rotation").uniform((len(images),), device=place), self.rotate_deg
            )
        if self.shift:
            images = _shifted(images, draws_for("shift").uniform((len(images), 2), device=place), self.shift)
        if self.erase:
            images = _erased(images, draws_for("erase").uniform((len(images), 5), device=place), self.erase)
        return images


def _rotated(images: Tensor, uniform: Tensor, most_deg: float) -> Tensor:
    """About the middle; the grid is stretched so that a turn stays a turn in images that are not square."""
    angle = (2.0 * uniform.to(images) - 1.0) * math.radians(most_deg)
    height, width = images.shape[-2:]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], dim=1).view(
        -1, 2, 3
    )
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _shifted(images: Tensor, uniform: Tensor, most: int) -> Tensor:
    height, width = images.shape[-2:]
    start = (uniform * (2 * most + 1)).long()
    rows = start[:, 0, None] + torch.arange(height, device=images.device)
    cols = start[:, 1, None] + torch.arange(width, device=images.device)
    padded = F.pad(images, [most] * 4)
    numbers = torch.arange(len(images), device=images.device)
    taken = padded[numbers[:, None, None], :, rows[:, :, None], cols[:, None, :]]
    return taken.permute(0, 3, 1, 2)


def _erased(images: Tensor, uniform: Tensor, probability: float) -> Tensor:
    """A rectangle of zeros in those images whose first number is below the probability.

    Sides are rounded to whole pixels and end at the image's own: a flat patch of much area is cut there.
    """
    height, width = images.shape[-2:]
    chosen, area, aspect, top, left = uniform.to(torch.float32).unbind(1)
    least, most = ERASED_AREA
    pixels = (least + (most - least) * area) * height * width
    ratio = torch.exp((2.0 * aspect - 1.0) * math.log(MOST_ASPECT))
    rows = (pixels * ratio).sqrt().round().clamp(1, height)
    cols = (pixels / ratio).sqrt().round().clamp(1, width)
    inside_rows = _between(height, (top * (height - rows + 1)).floor(), rows, images.device)
    inside_cols = _between(width, (left * (width - cols + 1)).floor(), cols, images.device)
    hidden = (chosen < probability)[:, None, None] & inside_rows[:, :, None] & inside_cols[:, None, :]
    return images.masked_fill(hidden[:, None], 0.0)


def _between(size: int, start: Tensor, length: Tensor, device: torch.device) -> Tensor:
    """(batch, size): which of the positions lie in [start, start + length)."""
    at = torch.arange(size, device=device)
    return (at >= start[:, None]) & (at < (start + length)[:, None])
