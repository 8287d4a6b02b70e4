"""Which parameters sit on a chip, and what a network says at other parameters than its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from neurosim.errors import UsageError
from neurosim.random import Stream

DrawsFor = Callable[[str], Stream]
"""``draws_for("conv1.weight:attack")``: the stream for one effect on one parameter."""

_NORMALISATIONS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


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


def forward_aside(model: nn.Module, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The network's output at other parameters; its buffers (running statistics) stay as they are.

    Normalisation layers run in the model's own mode on cloned buffers, which are thrown away.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return functional_call(model, {**buffers, **parameters}, (inputs,))


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


def uniform_like(parameter: Tensor, stream: Stream) -> Tensor:
    """Uniform numbers in [-1, 1) in the type, place and memory layout of a parameter."""
    drawn = stream.uniform(tuple(parameter.shape), device=str(parameter.device))
    return torch.empty_like(parameter.detach()).copy_(drawn).mul_(2.0).sub_(1.0)


def widened(logits: Tensor) -> Tensor:
    """Logits of a forward in bfloat16 as float32, in which losses are computed; others as they are."""
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def one_a_row(logits: Tensor) -> Tensor:
    """Logits (batch, classes) as they are; (batch, classes, ...) as (pixels of all samples, classes).

    >>> one_a_row(torch.zeros(2, 3, 4, 5)).shape
    torch.Size([40, 3])
    """
    return logits if logits.dim() == 2 else logits.movedim(1, -1).flatten(0, -2)


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
    return nn.functional.cross_entropy(widened(logits), targets)


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(softmax clean ‖ softmax attacked), mean over samples or pixels; logits (batch, classes[, ...]).

    >>> divergence(torch.zeros(5, 3), torch.ones(5, 3)).item()
    0.0
    """
    clean, attacked = one_a_row(widened(clean)), one_a_row(widened(attacked))
    return nn.functional.kl_div(
        attacked.log_softmax(-1), clean.log_softmax(-1), reduction="batchmean", log_target=True
    )
