"""PneumoniaMNIST: chest X-rays, normal or pneumonia, 28x28 (MedMNIST v2, Yang et al. 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim.data import published
from neurosim.data.masks import ellipse, largest_dark, otsu
from neurosim.data.npz import read_npz
from neurosim.data.row import DataSet, Raw, RemoteFile

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FILE = RemoteFile(
    "pneumoniamnist.npz",
    4_170_669,
    "e1792d3f03751cb101e99f19a63b3c1941436c988665f47853417b05be250cd8",
    ("https://zenodo.org/records/10519652/files/pneumoniamnist.npz",),
)


def read(folder: Path) -> Raw:
    """The official file (checked by its SHA-256), with its official validation and test parts."""
    return read_npz(published.require(folder, FILE))


# The two fields in which the lungs are looked for: cx, cy, w, h in fractions of the image.
_FIELDS = ((0.28, 0.48, 0.44, 0.90), (0.74, 0.48, 0.44, 0.90))


def read_masks(folder: Path) -> Raw:
    """The X-rays and masks of the air in the lungs, made by a rule (:func:`lungs`); the parts are official.

    No label of the classification enters the masks.
    """
    raw = read(folder)
    assert raw.validation is not None  # the file whose hash was checked has this part
    return Raw(_masked(raw.train[0]), _masked(raw.validation[0]), _masked(raw.test[0]))


def lungs(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Flags of the dark lung fields of X-rays, uint8 (N, H, W).

    The pixels at or below Otsu's threshold of two fixed ellipses, one for each lung; in each ellipse the
    largest connected region of them, holes filled.  Where pneumonia has whitened a lung its mask shrinks,
    and a dark corner outside the body may take its place.
    """
    import numpy as np

    left, right = (ellipse(field, *images.shape[1:]) for field in _FIELDS)
    either = left | right
    flags = np.zeros(images.shape, bool)
    for k, image in enumerate(images):
        threshold = otsu(image[either])
        flags[k] = largest_dark(image, left, threshold) | largest_dark(image, right, threshold)
    return flags


def _masked(images: Tensor) -> tuple[Tensor, Tensor]:
    import numpy as np
    import torch

    return images, torch.from_numpy(lungs(images.numpy()).astype(np.int64))


_LICENCE = "CC BY 4.0"
_SOURCE = "https://medmnist.com (MedMNIST v2, doi:10.1038/s41597-022-01721-8; doi:10.5281/zenodo.10519652)"
_FOLDERS = ("pneumonia-mnist", "pneumonia_mnist", "medmnist", "")

ROW = DataSet(
    name="pneumonia-mnist",
    summary="5,856 chest X-rays, 28x28 grey, 2 classes; 4,708 train, 524 validation, 624 test",
    licence=_LICENCE,
    source=_SOURCE,
    files=(FILE,),
    folders=_FOLDERS,
    read=read,
)
ROW_MASKS = DataSet(
    name="pneumonia-mnist-masks",
    summary="segmentation: the X-rays of pneumonia-mnist in the same parts, lung masks made from intensity",
    licence=_LICENCE,
    source=_SOURCE,
    files=(FILE,),
    folders=_FOLDERS,
    read=read_masks,
)
