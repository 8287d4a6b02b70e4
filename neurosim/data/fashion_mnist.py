"""Fashion-MNIST: 60,000 + 10,000 grey images of clothing, 28x28 (Xiao, Rasul, Vollgraf 2017)."""

from __future__ import annotations

from pathlib import Path

from neurosim.data.idx import read_idx
from neurosim.data.row import DataSet, Raw, RemoteFile

_MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)

# SHA-256 of the *decompressed* file is the identity of the data: any gzip of it will do.
CONTENT = {
    "train-images-idx3-ubyte.gz": (
        (60_000, 28, 28),
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte.gz": (
        (60_000,),
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte.gz": (
        (10_000, 28, 28),
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        (10_000,),
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


def read(folder: Path) -> Raw:
    """The four official files, each checked against the SHA-256 of its decompressed content."""
    import torch

    train_x, train_y, test_x, test_y = (
        read_idx(folder / name, shape, sha256) for name, (shape, sha256) in CONTENT.items()
    )
    return Raw((train_x, train_y.to(torch.int64)), None, (test_x, test_y.to(torch.int64)))


def _file(name: str, size: int, sha256: str) -> RemoteFile:
    return RemoteFile(name, size, sha256, tuple(mirror + name for mirror in _MIRRORS))


ROW = DataSet(
    name="fashion-mnist",
    summary="70,000 articles of clothing, 28x28 grey, 10 classes; 60,000 train, 10,000 test",
    licence="MIT (Zalando SE)",
    source="https://github.com/zalandoresearch/fashion-mnist, arXiv:1708.07747",
    files=(
        _file(
            "train-images-idx3-ubyte.gz",
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        _file(
            "train-labels-idx1-ubyte.gz",
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        _file(
            "t10k-images-idx3-ubyte.gz",
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        _file(
            "t10k-labels-idx1-ubyte.gz",
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    folders=("fashion-mnist", "fashion_mnist", ""),
    read=read,
)
