"""What validation measures: loss and accuracy, and for classes of pixels Dice, counted over all batches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Tally:
    """Sums over the batches of a data set.

    >>> tally = Tally()
    >>> tally.add(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    >>> tally.measures()["accuracy"]
    0.5
    """

    def __init__(self) -> None:
        self.count = 0  # of samples, or of pixels
        self.loss = 0.0
        self.right = 0
        self.pixels: Tensor | None = None  # (classes, classes): how many of each class were taken for which

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """One batch: logits (batch, classes) and targets (batch,), or both with axes of pixels behind."""
        found = logits.argmax(1)
        self.loss += F.cross_entropy(logits, targets, reduction="sum").item()
        self.right += int((found == targets).sum())
        self.count += targets.numel()
        if targets.dim() > 1:
            classes = logits.shape[1]
            pairs = torch.bincount((targets * classes + found).flatten(), minlength=classes**2)
            counts = pairs.view(classes, classes).cpu()
            self.pixels = counts if self.pixels is None else self.pixels + counts

    def measures(self) -> dict[str, float]:
        """``loss``, the mean cross-entropy; ``accuracy``; and ``dice`` where pixels have classes."""
        found = {"loss": self.loss / self.count, "accuracy": self.right / self.count}
        return found if self.pixels is None else {**found, "dice": dice(self.pixels)}


def dice(pixels: Tensor) -> float:
    """Mean over the foreground classes k ≥ 1 of 2·|P_k ∩ T_k| / (|P_k| + |T_k|), in [0, 1].

    P_k and T_k are the pixels that were found to be of class k and that are.  A class that is nowhere in
    either does not count; where none is left, nothing was missed and the result is 1.

    Args:
        pixels: int64 (classes, classes), how many pixels of class *row* were found to be of class *column*.

    >>> dice(torch.tensor([[90, 2], [2, 6]]))
    0.75
    """
    both = pixels.diagonal()[1:].tolist()
    either = (pixels.sum(0) + pixels.sum(1))[1:].tolist()
    each = [2 * overlap / size for overlap, size in zip(both, either, strict=True) if size]
    return sum(each) / len(each) if each else 1.0
