"""Which parameters are disturbed, and what a network says at other parameters than its own.

Disturbed are what is trained, weights and biases, and whatever patterns name beside them: time constants and
thresholds of neurons, frozen weights.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

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


LEFT = 0.01
"""What is left, at least, of a parameter that keeps its sign."""


def analog_parameters(model: nn.Module, also: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """The parameters that are disturbed: all trained ones but the affine ones of normalisation layers.

    Those with ``requires_grad`` False, frozen or constants of neurons, are left out unless named.

    Args:
        model: any network.
        also: patterns of parameter names, as in a shell, of further ones: ``"*.neurons.tau_*"``.

    Returns:
        In the order of the network, by name.

    Raises:
        UsageError: a pattern that matches no parameter.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> list(analog_parameters(net)), list(analog_parameters(net, ["1.w*"]))
    (['0.weight', '0.bias'], ['0.weight', '0.bias', '1.weight'])
    """
    digital = _affine(model)
    every = dict(model.named_parameters())
    nameable = [name for name, p in every.items() if p.is_floating_point()]
    for pattern in also:
        _check_matches(pattern, nameable)
    named = {name for name in nameable if _is_named(name, also)}
    return {
        name: p for name, p in every.items() if (p.requires_grad and id(p) not in digital) or name in named
    }


def _is_named(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_matches(pattern: str, names: Sequence[str]) -> None:
    if any(fnmatchcase(name, pattern) for name in names):
        return
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?"
        if near
        else f"expected a name or a pattern, such as {next(iter(names), '*')!r}"
    )
    raise UsageError(f"parameters: {pattern!r} matches no parameter of the network: {hint}")


def check_patterns(owner: str, patterns: object) -> None:
    """UsageError unless ``patterns`` is a tuple of texts."""
    if not isinstance(patterns, tuple) or not all(isinstance(one, str) and one for one in patterns):
        raise UsageError(
            f"{owner}: expected parameters, a list of names or patterns such as '*.tau_mem_s';"
            f" got {patterns!r}"
        )


def keeping_signs(
    parameters: Mapping[str, Tensor], moved: Mapping[str, Tensor], also: Sequence[str]
) -> dict[str, Tensor]:
    """Moved parameters, those that ``also`` names and that have no rows held on their side of 0::

        θ* ← sign(θ)·max(sign(θ)·θ*, 0.01·|θ|)

    So time constants and thresholds stay what they are under any noise.  Weights, two axes or more, may
    change their sign, as a pair of devices may; so may biases that are not named.

    Args:
        parameters: θ by name.
        moved: θ* by name, of the same shapes.
        also: the patterns of :func:`analog_parameters`.

    >>> tau = {"tau": torch.tensor([0.02, 0.02])}
    >>> keeping_signs(tau, {"tau": torch.tensor([0.01, -0.5])}, ["tau"])["tau"]
    tensor([0.0100, 0.0002])
    """
    if not also:
        return dict(moved)
    return {
        name: _on_its_side(parameters[name].detach(), there)
        if there.dim() < 2 and _is_named(name, also)
        else there
        for name, there in moved.items()
    }


def _on_its_side(theta: Tensor, moved: Tensor) -> Tensor:
    least = LEFT * theta
    below = torch.where(theta < 0, torch.minimum(moved, least), moved)
    return torch.where(theta > 0, torch.maximum(moved, least), below)


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
