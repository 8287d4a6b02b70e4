"""How many samples share a forward pass: functions of the data, because equal batches give equal bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurosim.data import Splits

CALIBRATION_SAMPLES = 1000
"""Training samples on which converter ranges are fixed before any chip is evaluated."""
TEST_BATCH = 500
"""Test samples a forward pass; fixed, because equal batches give equal bits."""
PIXELS_BATCH = 1 << 19
"""Test pixels a forward pass, at most, where each has a class: a U-Net keeps dozens of maps of them."""


def batch_size_for(splits: Splits) -> int:
    """Samples a forward pass: a function of the data, because equal batches give equal bits."""
    return _at_most(TEST_BATCH, PIXELS_BATCH, splits)


def calibration_samples(splits: Splits) -> int:
    return _at_most(CALIBRATION_SAMPLES, 2 * PIXELS_BATCH, splits)


def _at_most(samples: int, pixels: int, splits: Splits) -> int:
    """So many samples, or as many as have so many pixels where each pixel has a class; at least one."""
    if splits.task == "classification":
        return samples
    height, width = splits.image_size
    return max(1, min(samples, pixels // (height * width)))
