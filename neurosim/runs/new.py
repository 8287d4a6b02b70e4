"""A new run: its configuration from names and changes, and the runs it begins from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim.errors import UsageError
from neurosim.runs.config import (
    CONFIG,
    Config,
    DataPart,
    OriginPart,
    put,
    read_config,
    split_key,
    validated,
    validated_part,
    versions,
)
from neurosim.runs.making import check_series, create_model, data_name, load_data, shapes
from neurosim.runs.weights import digest_of, weights_of

if TYPE_CHECKING:
    from neurosim.devices import Hardware
    from neurosim.models import OwnModel
    from neurosim.training import Method


def new_config(
    *,
    model: str = "mlp",
    data: str = "digits",
    method: str = "standard",
    robust: bool = False,
    hardware: Hardware | None = None,
    data_dir: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    own: Sequence[OwnModel] = (),
) -> Config:
    """A complete configuration from names and changes such as ``{"method.beta": 0.2}``.

    What is derived is derived here: shapes and input statistics from the training data, and every
    option of the method that was not given, so that later defaults cannot change an old run.
    ``robust`` is :data:`neurosim.training.ROBUST`, whatever ``method`` says, its best epoch chosen by
    mismatched networks.  ``own`` are networks
    outside the zoo that ``model`` may name.

    Raises:
        UsageError: an unknown name, key or option (with the nearest known one), or a value out of range.
    """
    from neurosim.training import ROBUST, ROBUST_MISMATCH, describe, method_from

    tree: dict[str, dict[str, Any]] = {
        "model": {"name": model},
        "data": {"name": data_name(data)},
        "method": describe(ROBUST) if robust else {"name": method},
        "train": {"validation_mismatch": ROBUST_MISMATCH} if robust else {},
    }
    for key, value in (changes or {}).items():
        part, field = split_key(key)
        put(tree[part], field, value)
    for one in own:
        if one.name == model:
            one.check_options(set(tree["model"]) - {"name"})
    splits = load_data(validated_part(DataPart, "data", tree["data"]), data_dir)
    tree["data"]["sha256"] = splits.sha256
    if splits.task == "segmentation":
        tree["data"]["task"] = splits.task
    check_series(tree["model"]["name"], splits)
    tree["model"] = {**shapes(splits), **tree["model"]}
    options = dict(tree["method"])
    chosen = method_from(options.pop("name"), options)
    tree["method"] = describe(chosen)
    if (teacher := _teacher_of(chosen)) is not None:
        tree["train"]["teacher"] = teacher
    whole: dict[str, Any] = {**tree, "versions": versions()}
    if hardware is not None:
        whole["hardware"] = tomllib.loads(hardware.to_toml())
    config = validated(whole, "the configuration")
    create_model(config, own)
    return config


def _teacher_of(method: Method) -> dict[str, str] | None:
    """The run that teaches, recorded with its SHA-256; None where nothing is taught."""
    from neurosim.training.combined import as_combined

    taught = as_combined(method).distillation
    if taught is None or taught.alpha == 0.0:
        return None
    if not taught.teacher:
        raise UsageError("method 'distil' needs a teacher: expected a run's folder, --set method.teacher=RUN")
    path = Path(taught.teacher).absolute()
    read_config(path)
    return {"run": str(path), "sha256": digest_of(path)}


def with_init(config: Config, sources: Mapping[str, str | Path], folder: str | Path | None = None) -> Config:
    """The configuration with weights to begin from, each recorded with its SHA-256.

    Args:
        config: of :func:`new_config`.
        sources: run folders by prefix; :data:`WHOLE` for a whole network.
        folder: of a run that is resumed.  Once it has begun it needs the weights no more: those that are
            gone are taken as recorded there, and those that have changed are refused.

    Raises:
        UsageError: not a run, or its weights are not those that ``folder`` began from.
        RunError: a run without weights.
    """
    begun = Path(folder) / CONFIG if folder is not None else None
    recorded = (read_config(begun.parent).train.init or {}) if begun is not None and begun.is_file() else {}
    init = {}
    for prefix, run in sources.items():
        path, old = Path(run).absolute(), recorded.get(prefix)
        if old is not None and old.run == str(path):
            weights_of(old, required=False)
            init[prefix] = old
        else:
            read_config(path)
            init[prefix] = OriginPart(run=str(path), sha256=digest_of(path))
    train = config.train.model_copy(update={"init": init or None})
    return config.model_copy(update={"train": train})
