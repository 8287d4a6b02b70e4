"""Altered copies of training images: flips, shifts and small rotations, drawn anew for each step."""

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


@final
@dataclass(frozen=True)
class Augmentation:
    """What is done to each image of a batch (batch, channels, height, width), in this order.

    Args:
        flip: left and right exchanged, for half of the images.
        rotate_deg: turned about the middle by an angle uniform in ± this, bilinear, 0 outside.
        shift: moved by whole pixels, uniform in ± this in both directions, 0 outside.

    >>> Augmentation()(torch.ones(1, 1, 2, 2), lambda what: None).shape
    torch.Size([1, 1, 2, 2])
    """

    flip: bool = False
    rotate_deg: float = 0.0
    shift: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise UsageError(f"expected augment.flip, true or false; got {self.flip!r}")
        check_number("augment.rotate_deg", self.rotate_deg, least=0.0)
        check_integer("augment.shift", self.shift, 0)

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
        if not (self.flip or self.rotate_deg or self.shift):
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
