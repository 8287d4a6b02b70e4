"""Which evaluation is this?  Everything that decides its numbers, in one key."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from neurosim import __version__
from neurosim.analog import Deployed
from neurosim.analog.inputs import tensors_in
from neurosim.evaluation.passes import Passes
from neurosim.storage import sha256_tensors

_KNOWN = ("builtins", "neurosim", "torch")
_BESIDE = ("hardware_name", "torch", "threads")


def experiment(net: Deployed, data: Passes, seed: int) -> tuple[str, dict[str, Any]]:
    """The ledger's key of an evaluation, and its description.

    The key is a SHA-256 over everything that decides the numbers: the network's tensors and structure, the
    hardware's numbers, the converters' ranges, the data in their batches, the lot's seed, the type of
    processor and neurosim's version.  The description adds what should not decide them: torch's version and
    its number of threads.
    """
    decides = {
        **_network(net),
        "data": data.digest(),
        "samples": data.samples,
        "batch_size": data.batch_size,
        "seed": seed,
        "processor": data.device.type,
        "neurosim": __version__,
    }
    beside = {
        "hardware_name": net.hardware.name,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }
    return key_of(decides), {**decides, **beside}


def key_of(description: Mapping[str, Any]) -> str:
    """The key that belongs to a description, whatever a file says."""
    decides = {name: value for name, value in description.items() if name not in _BESIDE}
    return _sha256(decides)


def network_digest(net: Deployed) -> str:
    """SHA-256 over the network, its hardware and its converters' ranges: what a worker is given."""
    return _sha256(_network(net))


def weights_digest(net: Deployed) -> str:
    """SHA-256 over the network alone, as in the description of an evaluation under ``network``."""
    tensors = dict([*net.named_parameters(), *net.named_buffers()])
    return sha256_tensors(tensors, {"structure": _structure(net)})


def _network(net: Deployed) -> dict[str, str]:
    parts = {
        "network": weights_digest(net),
        "hardware": net.hardware.digest(),
        "calibration": sha256_tensors(net.calibration_state()),
    }
    if net.statistics_inputs is not None:
        tensors = tensors_in(net.statistics_inputs)
        parts["batchnorm"] = sha256_tensors({str(n): tensor for n, tensor in enumerate(tensors)})
    if net.options["products"] != "float32":
        parts["products"] = net.options["products"]
    return parts


def _sha256(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _structure(net: nn.Module) -> str:
    """What the network computes beside its tensors, as text: each module, its settings, its source.

    A module from outside torch and neurosim may compute anything in ``forward``: so the source of its
    classes counts too, and its attributes that are plain values.
    """
    described = []
    for name, module in net.named_modules():
        kinds = [kind for kind in type(module).__mro__ if kind.__module__.split(".")[0] not in _KNOWN]
        entry: list[Any] = [name, type(module).__qualname__, module.extra_repr()]
        for kind in kinds:
            with contextlib.suppress(OSError, TypeError):  # made at a prompt: no source to read
                entry.append(inspect.getsource(kind))
        if kinds:
            values = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str)}
            values.pop("training", None)
            entry.append(values)
        described.append(entry)
    return json.dumps(described, sort_keys=True)
