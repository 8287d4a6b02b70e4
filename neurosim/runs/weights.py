"""Weights from files and from other runs, into networks they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neurosim.errors import RunError, UsageError
from neurosim.runs.config import WEIGHTS, Config, OriginPart
from neurosim.storage import load_tensors, read_tensors, sha256_file

if TYPE_CHECKING:
    from torch import Tensor, nn


WHOLE = "*"
"""The key of ``train.init`` for a whole network; any other is a prefix of names."""


def load_weights(model: nn.Module, path: Path, name: str) -> None:
    """Put the tensors of a safetensors file into a network; a tensor that is used twice may be there once.

    Raises:
        UsageError: no such file, a pickle, or other tensors than the network's.
        RunError: the file is damaged.
    """
    tensors = read_tensors(path)
    fault = _misfit(model.state_dict(keep_vars=True), tensors)
    if fault is not None:
        raise UsageError(f"{path} does not fit the network of {name}: the file {fault}")
    model.load_state_dict(tensors, strict=False)


def _misfit(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong with tensors for a network's state; one that is used twice may be there once."""
    filled = {id(state[key]) for key in tensors if key in state}
    lacking = [key for key, tensor in state.items() if id(tensor) not in filled]
    strange = [key for key in tensors if key not in state]
    if lacking or strange:
        return f"lacks {_some(lacking)}" if lacking else f"holds {_some(strange)}, which the network has not"
    for key, tensor in tensors.items():
        if state[key].shape != tensor.shape:
            shapes = tuple(tensor.shape), tuple(state[key].shape)
            return f"has {key!r} of shape {shapes[0]}, the network of shape {shapes[1]}"
    return None


def _some(names: Sequence[str]) -> str:
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def begin_from(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str, source: str) -> None:
    """Put trained weights and statistics of another network into this one: all, or those under a prefix.

    Never taken are the buffers of a ``normalise`` (mean and deviation of the inputs): those belong to the
    data.

    Args:
        model: changed in place.
        tensors: of the other network, by name.
        prefix: :data:`WHOLE`, or a prefix such as ``trunk`` of names that both networks have.
        source: what the tensors are called in a message.

    Raises:
        UsageError: what is asked for does not fit, to the last name and shape.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}

    def asked(name: str) -> bool:
        of_data = "normalise" in name.split(".")[:-1] and name not in parameters
        return not of_data and (prefix == WHOLE or name.startswith(f"{prefix}."))

    given = {name: tensor for name, tensor in tensors.items() if asked(name)}
    state = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if asked(name)}
    part = "the network" if prefix == WHOLE else f"the part {prefix!r} of the network"
    if not state:
        raise UsageError(f"there is nothing to begin from {source}: {part} has no weights")
    fault = _misfit(state, given)
    if fault is not None:
        raise UsageError(f"{part} cannot begin from {source}: that {fault}")
    model.load_state_dict(given, strict=False)


def digest_of(run: Path) -> str:
    if not (run / WEIGHTS).exists():
        raise RunError(f"{run} holds no {WEIGHTS}: its training has not ended (train it with --resume)")
    return sha256_file(run / WEIGHTS)


def weights_of(origin: OriginPart, required: bool) -> Path | None:
    """The recorded weights, unchanged; None where they are gone and not required."""
    path = Path(origin.run) / WEIGHTS
    if not path.exists() and not required:
        return None
    digest = digest_of(path.parent)
    if digest != origin.sha256:
        raise UsageError(
            f"{path} has changed since the run was begun from it: sha256 {digest[:12]}..., "
            f"expected {origin.sha256[:12]}..."
        )
    return path


def begin(model: nn.Module, config: Config, begun: bool) -> None:
    """The weights of ``train.init``; of a run that has a checkpoint they are only checked."""
    for prefix, origin in sorted((config.train.init or {}).items()):
        path = weights_of(origin, required=not begun)
        if path is not None and not begun:
            begin_from(model, load_tensors(path)[0], prefix, str(path))
