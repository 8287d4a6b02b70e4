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
            model: gives logits (batch, classes) for ``inputs``, as a function of its parameters; or
                (batch, classes, ...), with axes of pixels behind.
            inputs: (batch, ...); targets: int64 class numbers, (batch,) or (batch, ...), one a pixel.
            draws_for: the streams of this step, see :data:`DrawsFor`.
            progress: fraction of the training that is done, in [0, 1].

        Returns:
            What to log; must hold ``"loss"``, the value that was minimised.
        """
        ...


def analog_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters that sit on a chip: all but the affine ones of normalisation layers.

    Frozen ones (``requires_grad`` False) are left out: methods neither disturb nor attack them.

    >>> list(analog_parameters(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))
    ['0.weight', '0.bias']
    """
    digital = _affine(model)
    return {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in digital}


def digital_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The affine parameters of normalisation layers."""
    digital = _affine(model)
    return {name: p for name, p in model.named_parameters() if id(p) in digital}


def _affine(model: nn.Module) -> set[int]:
    return {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMALISATIONS)
        for parameter in module.parameters(recurse=False)
    }


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy, over samples or over all pixels of all samples.

    Args:
        logits: (batch, classes), or (batch, classes, ...) with axes of pixels.
        targets: class numbers (batch,), or (batch, ...) with the same pixels.

    Raises:
        UsageError: the shapes do not fit.

    >>> task_loss(torch.zeros(1, 4, 8, 8), torch.ones(1, 8, 8, dtype=torch.int64))
    tensor(1.3863)
    """
    if logits.dim() < 2 or targets.shape != (len(logits), *logits.shape[2:]):
        more = " ..." if max(logits.dim() - 1, targets.dim()) > 1 else ""
        raise UsageError(
            f"expected logits (batch, classes{',' if more else ''}{more}) and targets (batch,{more});"
            f" got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    return F.cross_entropy(widened(logits), targets)


def widened(logits: Tensor) -> Tensor:
    """Logits of a forward in bfloat16 as float32, in which losses are computed; others as they are."""
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def one_a_row(logits: Tensor) -> Tensor:
    """Logits (batch, classes) as they are; (batch, classes, ...) as (pixels of all samples, classes).

    >>> one_a_row(torch.zeros(2, 3, 4, 5)).shape
    torch.Size([40, 3])
    """
    return logits if logits.dim() == 2 else logits.movedim(1, -1).flatten(0, -2)


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
