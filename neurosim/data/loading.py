"""From a name or a path to the three parts of a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from neurosim import storage
from neurosim.data import catalogue, places
from neurosim.data.examples import Examples, Splits, split_groups, split_indices
from neurosim.data.npz import read_npz
from neurosim.data.row import Raw
from neurosim.errors import UsageError


def load(
    name: str | Path,
    *,
    folder: str | Path | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    per_class: int | None = None,
) -> Splits:
    """The data set ``name`` as tensors; the network is never reached.

    Args:
        name: one of ``neurosim.data.names()``, or the path of an ``.npz`` file in MedMNIST's layout.
        folder: looked in before ``NEUROSIM_DATA`` and the user's cache (not for a path).
        seed: of the split of validation from train, made before anything else is done to the data.
        validation_fraction: share of the training examples (of their groups, where the data set has
            groups) held out, where the publisher made no validation part; an official one is used as
            it is.  The test part is never touched.
        per_class: keep this many training examples of each class, chosen by ``seed``; images in all for
            segmentation.  See :meth:`Splits.few`.

    Raises:
        UsageError: unknown name, data that were not found (with the command that fetches them), files
            that are not what was published, or a class with fewer than ``per_class`` examples.

    >>> splits = load("digits", seed=1)
    >>> len(splits.train), len(splits.validation), len(splits.test)
    (1293, 144, 360)
    """
    if not isinstance(validation_fraction, float) or not 0 < validation_fraction < 1:
        raise UsageError(f"expected 0 < validation_fraction < 1; got {validation_fraction!r}")
    splits = _split(str(name), _read(name, folder), seed, validation_fraction)
    if (row := catalogue.DATASETS.get(str(name))) is not None:
        splits = replace(splits, class_names=row.classes)
    return splits if per_class is None else splits.few(per_class, seed)


def _read(name: str | Path, folder: str | Path | None) -> Raw:
    if str(name).endswith(".npz"):
        return read_npz(Path(name).expanduser())
    row = catalogue.info(str(name))
    return row.read(Path() if row.embedded else places.require(row, folder))


def _split(name: str, raw: Raw, seed: int, fraction: float) -> Splits:
    parts = (*_train_and_validation(raw, seed, fraction), _examples(raw.test, raw.full_scale))
    shapes = [tuple(part.inputs.shape[1:]) for part in parts]
    if len(set(shapes)) != 1:
        raise UsageError(f"{name}: expected train, validation and test images of one shape; got {shapes}")
    num_classes = 1 + max(int(part.targets.max()) for part in parts)
    if num_classes < 2:
        raise UsageError(f"{name}: expected at least 2 classes; every label is 0")
    return Splits(name, parts[0], parts[1], parts[2], num_classes, _identity(raw))


def _train_and_validation(raw: Raw, seed: int, fraction: float) -> tuple[Examples, Examples]:
    """The publisher's two parts, or ours: by whole groups where these are known."""
    whole, groups = raw.train, raw.groups
    if raw.validation is not None:
        return _examples(whole, raw.full_scale, groups), _examples(raw.validation, raw.full_scale)
    count = len(whole[1])
    halves = split_indices(count, fraction, seed) if groups is None else split_groups(groups, fraction, seed)
    train, validation = (
        _examples(
            (whole[0][chosen], whole[1][chosen]), raw.full_scale, None if groups is None else groups[chosen]
        )
        for chosen in halves
    )
    return train, validation


def _examples(part: tuple[Tensor, Tensor], full_scale: int, groups: Tensor | None = None) -> Examples:
    """uint8 (N, H, W[, C]) to float32 (N, C, H, W) in [0, 1]; float32 time series as they are."""
    images, labels = part
    if images.is_floating_point():
        return Examples(images, labels, groups)
    if images.dim() == 3:
        images = images.unsqueeze(-1)
    inputs = images.permute(0, 3, 1, 2).contiguous().to(torch.float32)
    return Examples(inputs.div_(full_scale), labels, groups)


def _identity(raw: Raw) -> str:
    """SHA-256 over the published images and labels, independent of our split; or what stands for it."""
    if raw.identity:
        return raw.identity
    tensors = {"train_images": raw.train[0], "train_labels": raw.train[1]}
    if raw.validation is not None:
        tensors |= {"val_images": raw.validation[0], "val_labels": raw.validation[1]}
    tensors |= {"test_images": raw.test[0], "test_labels": raw.test[1]}
    return storage.sha256_tensors(tensors, {"full_scale": str(raw.full_scale)})
