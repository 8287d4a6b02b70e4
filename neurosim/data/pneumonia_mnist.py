"""PneumoniaMNIST: chest X-rays, normal or pneumonia, 28x28 (MedMNIST v2, Yang et al. 2023)."""

from __future__ import annotations

from pathlib import Path

from neurosim import storage
from neurosim.data.npz import read_npz
from neurosim.data.row import DataSet, Raw, RemoteFile
from neurosim.errors import UsageError

_FILE = RemoteFile(
    "pneumoniamnist.npz",
    4_170_669,
    "e1792d3f03751cb101e99f19a63b3c1941436c988665f47853417b05be250cd8",
    ("https://zenodo.org/records/10519652/files/pneumoniamnist.npz",),
)


def read(folder: Path) -> Raw:
    """The official file (checked by its SHA-256), with its official validation and test parts."""
    path = folder / _FILE.name
    try:
        found = storage.sha256_file(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if found != _FILE.sha256:
        raise UsageError(f"{path} is not the published file: expected SHA-256 {_FILE.sha256}; got {found}")
    return read_npz(path)


ROW = DataSet(
    name="pneumonia-mnist",
    summary="5,856 chest X-rays, 28x28 grey, 2 classes; 4,708 train, 524 validation, 624 test",
    licence="CC BY 4.0",
    source="https://medmnist.com (MedMNIST v2, doi:10.1038/s41597-022-01721-8; doi:10.5281/zenodo.10519652)",
    files=(_FILE,),
    folders=("pneumonia-mnist", "pneumonia_mnist", "medmnist", ""),
    read=read,
)
