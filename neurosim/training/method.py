"""What a training method is, and the few things methods share.

A method turns one batch into gradients.  It knows the task loss and the network as a function of its
parameters; it knows nothing of optimisers, epochs or files (those are the loop's), nor of chips: a
network on a chip is only another function of the same parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from neurosim.errors import UsageError
from neurosim.random import Stream

DrawsFor = Callable[[str], Stream]
"""``draws_for("conv1.weight:attack")``: this step's stream for one effect on one parameter."""

_NORMALISATIONS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


class Method(Protocol):
    """Turns one batch into gradients.

    ``passes`` counts the forward-and-backward passes of one step, so that costs can be compared.
    """

    @property
    def passes(self) -> float:
        """Forward-and-backward passes per step."""
        ...

    def backward(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, draws_for: DrawsFor, progress: float
    ) -> dict[str, float]:
        """Add this step's gradient to ``p.grad`` of every parameter.

        Args:
            model: gives logits (batch, classes) for ``inputs``, as a function of its parameters.
            inputs: (batch, ...); targets: (batch,) int64 class numbers.
            draws_for: the streams of this step, see :data:`DrawsFor`.
            progress: fraction of the training that is done, in [0, 1].

        Returns:
            What to log; must hold ``"loss"``, the value that was minimised.
        """
        ...


def analog_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that sit on a chip: all but the affine ones of normalisation layers.

    >>> list(analog_parameters(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))
    ['0.weight', '0.bias']
    """
    digital = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMALISATIONS)
        for parameter in module.parameters(recurse=False)
    }
    return {name: p for name, p in model.named_parameters() if id(p) not in digital}


def digital_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The affine parameters of normalisation layers: what :func:`analog_parameters` leaves out."""
    analog = analog_parameters(model)
    return {name: p for name, p in model.named_parameters() if name not in analog}


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (batch, classes) and class numbers (batch,).

    Raises:
        UsageError: the shapes do not fit.
    """
    if logits.dim() != 2 or targets.shape != logits.shape[:1]:
        raise UsageError(
            "expected logits (batch, classes) and targets (batch,);"
            f" got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    return F.cross_entropy(logits, targets)


def forward_aside(model: nn.Module, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The network's output at other parameters; its buffers (running statistics) stay as they are.

    Normalisation layers run in the model's own mode on cloned buffers, which are thrown away.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return functional_call(model, {**buffers, **parameters}, (inputs,))


def noisy(parameters: Mapping[str, Tensor], eta: float, draws_for: DrawsFor) -> dict[str, Tensor]:
    """Θ + stop_grad(|Θ|·η·R) with R ~ N(0, 1): relative noise whose gradient is that of Θ itself."""
    moved = {}
    for name, p in parameters.items():
        noise = p.detach().abs().mul_(normal_like(p, draws_for(f"{name}:forward-noise"))).mul_(eta)
        moved[name] = laid_out_as(p, p + noise)
    return moved


def laid_out_as(parameter: Tensor, moved: Tensor) -> Tensor:
    """``moved`` with the strides of ``parameter``, differentiably; itself if it has them.

    Arithmetic forgets that a (64, 1, 4, 4) kernel was channels-last, since its elements lie the same way;
    torch then convolves, and pools, in the slower layout (1.6 times a step of the paper's CNN).
    """
    if moved.stride() == parameter.stride():
        return moved
    return torch.empty_like(parameter.detach()).copy_(moved)


def normal_like(parameter: Tensor, stream: Stream) -> Tensor:
    """Standard normals in the type, place and memory layout of a parameter."""
    drawn = stream.normal(tuple(parameter.shape), device=str(parameter.device))
    return torch.empty_like(parameter.detach()).copy_(drawn)


def check_number(owner: str, name: str, value: object, low: float, high: float) -> None:
    """UsageError unless ``value`` is a number with low ≤ value ≤ high."""
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not low <= number <= high:
        raise UsageError(f"method {owner!r}: expected {low:g} <= {name} <= {high:g}; got {name}={value!r}")
