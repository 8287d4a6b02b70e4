"""Optical digits, 8x8: 1,797 images that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neurosim.data.row import DataSet, Raw

if TYPE_CHECKING:
    from torch import Tensor

TEST_EXAMPLES = 360
_FULL_SCALE = 16


def read(folder: Path) -> Raw:
    """The images (0 to 16) and labels; ``folder`` is not used.

    scikit-learn publishes no split.  The 360 test examples are the first of one fixed permutation
    (not stratified), the same for every seed, so that no seed trains on another's test.
    """
    import torch
    from sklearn.datasets import load_digits

    from neurosim.random import stream

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    order = stream(0, 0, "data", "digits-test").permutation(len(labels))

    def part(chosen: Tensor) -> tuple[Tensor, Tensor]:
        return images[chosen], labels[chosen]

    return Raw(part(order[TEST_EXAMPLES:]), None, part(order[:TEST_EXAMPLES]), _FULL_SCALE)


ROW = DataSet(
    name="digits",
    summary="1,797 handwritten digits, 8x8 grey, 10 classes; no download",
    licence="CC BY 4.0 (UCI)",
    source="scikit-learn load_digits: Alpaydin and Kaynak (1998), doi:10.24432/C50P49, its test part",
    files=(),
    folders=(),
    read=read,
)
