"""Batch normalisation folded into the layer before it, while chips are on the bench.

    y = γ (W x + b − μ)/√(σ² + ε) + β  =  (s W) x + s (b − μ) + β,      s = γ/√(σ² + ε)

The network keeps its parameters, buffers and keys.  On chips, and while ranges are calibrated, the layer is
programmed with s W and the normalisation passes on what it gets; off chips both compute what they always
did.  Gradients reach W, b, γ and β; the running statistics are constants, in training mode too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neurosim.analog.bench import Bench
from neurosim.analog.mixing import mix
from neurosim.errors import UsageError


class Folded(nn.Module):
    """A batch normalisation that the layer before it does, while chips are on the bench.

    Not constructed: mixed into the class of the normalisation.
    """

    _fold_bench: Bench

    def forward(self, input: Tensor) -> Tensor:
        if self._fold_bench.active is None and not self._fold_bench.observing:
            return cast(Tensor, super().forward(input))
        return input


def fold(net: nn.Module, pairs: Iterable[tuple[str, str]], bench: Bench) -> None:
    """Fold each (layer, batch normalisation), by name.

    Raises:
        UsageError: a name that does not exist, sizes that do not fit, or a normalisation without running
            statistics.
    """
    for layer_name, norm_name in pairs:
        layer, norm = _module(net, layer_name), _module(net, norm_name)
        _check(layer, layer_name, norm, norm_name)
        mix(norm, Folded, "Folded", _fold_bench=bench)
        # not as a child: the network's tree stays as it was
        object.__setattr__(layer, "_folded", norm)


def _module(net: nn.Module, name: str) -> nn.Module:
    try:
        return net.get_submodule(name)
    except AttributeError:
        raise UsageError(f"cannot fold: the network has no module {name!r}") from None


def _check(layer: nn.Module, layer_name: str, norm: nn.Module, norm_name: str) -> None:
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
        raise UsageError(
            f"cannot fold {norm_name!r}: expected a batch normalisation with running statistics; "
            f"got {type(norm).__name__}"
        )
    outputs = outputs_of(layer)
    if outputs != norm.num_features:
        raise UsageError(
            f"cannot fold {norm_name!r} with its {norm.num_features} features into {layer_name!r}: expected "
            f"a linear or convolution layer with as many outputs; got {type(layer).__name__}"
            f"{'' if outputs is None else f' with {outputs}'}"
        )


def outputs_of(layer: nn.Module) -> int | None:
    """Output features of a layer that a normalisation can be folded into, else None."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, nn.modules.conv._ConvNd):
        return layer.out_channels
    return None


def foldable(net: nn.Module, names: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs (layer, batch normalisation) where nothing else sees what the layer gives.

    Args:
        net: a network that ``torch.fx`` can trace.
        names: of layers that may be folded into.

    Raises:
        UsageError: the network cannot be traced.

    >>> foldable(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), ["0"])
    [('0', '1')]
    """
    graph = _traced(net)
    modules, wanted = dict(net.named_modules()), set(names)
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    pairs = []
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        layer, norm = str(source.target), str(node.target)
        once = calls.count(layer) == 1 and calls.count(norm) == 1
        if once and layer in wanted and _fits(modules[layer], modules[norm]):
            pairs.append((layer, norm))
    return pairs


def _fits(layer: nn.Module, norm: nn.Module) -> bool:
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
        return False
    # after a linear layer on (batch, length, features) axis 1 is no feature: such a pair is left alone
    return outputs_of(layer) == norm.num_features


def _traced(net: nn.Module) -> fx.Graph:
    class Leaves(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return (
                isinstance(module, _BatchNorm)
                or outputs_of(module) is not None
                or super().is_leaf_module(module, name)
            )

    try:
        return Leaves().trace(net)
    except Exception as error:  # whatever the network's own code does with a proxy
        reason = str(error).strip().split("\n")[0]
        raise UsageError(
            f"cannot find what to fold: torch.fx cannot trace {type(net).__name__} ({reason}): "
            'name them instead, fold=[("conv1", "bn1"), ...]'
        ) from error


def folded(layer: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as they are programmed: with the normalisation after the layer, if it is folded."""
    norm: Any = layer._folded
    if norm is None:
        return weight, bias
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean if bias is None else bias - norm.running_mean
    shift = shift * scale if norm.bias is None else shift * scale + norm.bias
    return _by_output(layer, weight, scale).to(weight.dtype), shift.to(weight.dtype)


def _by_output(layer: Any, weight: Tensor, scale: Tensor) -> Tensor:
    """Each output's weights times its own number."""
    if not getattr(layer, "transposed", False):
        return weight * scale.reshape(-1, *(1,) * (weight.dim() - 1))
    # (inputs, outputs of a group, …): the outputs of a group belong to the inputs of that group
    groups = layer.groups
    by_group = weight.unflatten(0, (groups, -1))
    factors = scale.reshape(groups, 1, -1, *(1,) * (weight.dim() - 2))
    return (by_group * factors).flatten(0, 1)
