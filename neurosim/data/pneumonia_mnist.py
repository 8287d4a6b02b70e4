"""PneumoniaMNIST: chest X-rays, normal or pneumonia, 28x28 (MedMNIST v2, Yang et al. 2023)."""

from __future__ import annotations

from pathlib import Path

from neurosim.data import published
from neurosim.data.npz import read_npz
from neurosim.data.row import DataSet, Raw, RemoteFile

FILE = RemoteFile(
    "pneumoniamnist.npz",
    4_170_669,
    "e1792d3f03751cb101e99f19a63b3c1941436c988665f47853417b05be250cd8",
    ("https://zenodo.org/records/10519652/files/pneumoniamnist.npz",),
)


def read(folder: Path) -> Raw:
    """The official file (checked by its SHA-256), with its official validation and test parts."""
    return read_npz(published.require(folder, FILE))


ROW = DataSet(
    name="pneumonia-mnist",
    summary="5,856 chest X-rays, 28x28 grey, 2 classes; 4,708 train, 524 validation, 624 test",
    licence="CC BY 4.0",
    source="https://medmnist.com (MedMNIST v2, doi:10.1038/s41597-022-01721-8; doi:10.5281/zenodo.10519652)",
    files=(FILE,),
    folders=("pneumonia-mnist", "pneumonia_mnist", "medmnist", ""),
    read=read,
)
