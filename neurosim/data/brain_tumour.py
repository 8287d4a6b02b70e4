"""Brain tumours: 3,064 slices of contrast-enhanced T1 MRI, three kinds of tumour (Cheng et al. 2015)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neurosim.data import published
from neurosim.data.masks import ellipse
from neurosim.data.row import DataSet, Raw, RemoteFile

if TYPE_CHECKING:
    from torch import Tensor

FILE = RemoteFile(
    "cheng3064_64.npz",
    6_738_666,
    "79984d7c08fc0f9725b7b1423739d9ffed5bfea7f3cb8978f25e31a1b89adb10",
    (),
)
BLOCK = 48
_WHICH, _EVERY = 2, 5  # the third of every five blocks is for testing
GAP = 16


def parts(figshare_id: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Block of each slice, and flags of the training and of the test slices.

    There are no patient ids, but slices of one patient are neighbours in ``figshare_id`` (13 slices a
    patient on average).  Slice ``i`` is in block ``(i - 1) // 48``; the blocks 2, 7, 12, ... are the test
    part, and slices within 16 ids of a test block belong to no part.  What leaks all the same: a patient
    of more than 16 slices may reach across that gap, and validation blocks have no gap around them.

    >>> import torch
    >>> block, train, test = parts(torch.tensor([1, 80, 81, 96, 97, 144, 145, 160, 161]))
    >>> block.tolist()
    [0, 1, 1, 1, 2, 2, 3, 3, 3]
    >>> train.int().tolist(), test.int().tolist()
    ([1, 1, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1, 0, 0, 0])
    """
    place = figshare_id - 1

    def tested(places: Tensor) -> Tensor:
        return places // BLOCK % _EVERY == _WHICH

    test = tested(place)
    return place // BLOCK, ~(test | tested(place - GAP) | tested(place + GAP)), test


def read(folder: Path) -> Raw:
    """Slices and kinds of tumour: 0 meningioma, 1 glioma, 2 pituitary; split by blocks (:func:`parts`)."""
    images, labels, ids, _ = _tensors(folder)
    return _split(images, labels, ids)


def read_masks(folder: Path) -> Raw:
    """Slices and masks made by a rule, for want of drawn ones; the split is that of :func:`read`.

    The mask is the ellipse inscribed in the published box of the tumour.  It tells where and how large the
    tumour is; its outline is not the tumour's.  (Intensity was tried: Otsu's threshold in the ellipse
    finds meningiomas and pituitary tumours, which are bright, but only the brighter half of a glioma.)
    """
    import numpy as np
    import torch

    images, _, ids, boxes = _tensors(folder)
    height, width = images.shape[1:]
    masks = np.stack([ellipse(box, height, width) for box in boxes.tolist()])
    return _split(images, torch.from_numpy(masks.astype(np.int64)), ids)


def _tensors(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    import torch

    read = published.arrays(folder, FILE, ("x", "y", "figshare_id", "bbox_cxcywh"))
    images, labels, ids, boxes = (torch.from_numpy(array) for array in read)
    return images, labels.to(torch.int64), ids.to(torch.int64), boxes


def _split(images: Tensor, targets: Tensor, ids: Tensor) -> Raw:
    block, train, test = parts(ids)
    return Raw((images[train], targets[train]), None, (images[test], targets[test]), groups=block[train])


_SOURCE = (
    "the 512x512 JPEGs of github.com/nanonane/RCS-YOLO @57449ec averaged to 64x64 and packed into one .npz "
    "(Cheng et al., doi:10.6084/m9.figshare.1512427)"
)
_FOLDERS = ("brain-tumour", "brain_tumour_cheng", "")
_LICENCE = "CC BY 4.0 (as remembered; not checked at the publisher)"

ROW = DataSet(
    name="brain-tumour",
    summary="3,064 brain MRI slices, 64x64 grey, 3 kinds of tumour; 624 test, split by blocks of ids",
    licence=_LICENCE,
    source=_SOURCE,
    files=(FILE,),
    folders=_FOLDERS,
    read=read,
)
ROW_MASKS = DataSet(
    name="brain-tumour-masks",
    summary="segmentation: the slices of brain-tumour in the same parts, masks made from boxes",
    licence=_LICENCE,
    source=_SOURCE,
    files=(FILE,),
    folders=_FOLDERS,
    read=read_masks,
)
