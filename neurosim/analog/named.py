"""Parameters that the user names: wherever their module multiplies by one, a crossbar does it.

Nothing is known of the module but its code, so that it is watched while it runs: a
``TorchFunctionMode`` sees every operation that takes one of the named parameters.  A product becomes a read
of a crossbar; anything else would use the ideal numbers unseen, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from neurosim.analog.bench import Bench
from neurosim.analog.cells import Cells
from neurosim.analog.crossbar import Crossbar
from neurosim.analog.layers import OnCrossbars, Site
from neurosim.analog.layers.embedding import without_gradient
from neurosim.analog.mixing import mix
from neurosim.analog.operators import Convolution, Lookup, Matmul, Operator
from neurosim.devices import Hardware
from neurosim.errors import UsageError, unknown


class NamedOnCrossbars(OnCrossbars):
    """A module of any kind, some of whose parameters are on crossbars."""

    kind = nn.Module

    _sites: dict[str, Site]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # no crossbar yet, before the first product says how the weight is used
        bench = next(iter(self._sites.values())).bench
        if bench.active is None and not bench.observing:
            return super().forward(*args, **kwargs)
        with _Products(self):
            return super().forward(*args, **kwargs)

    def _holds(self, key: str) -> bool:
        return key in self._sites

    def _bias_of(self, key: str) -> Tensor | None:
        return None


def place_named(
    net: nn.Module, patterns: Sequence[str], hardware: Hardware, bench: Bench, cells: dict[int, Cells]
) -> None:
    """Put the parameters that match on crossbars.

    Raises:
        UsageError: a pattern that matches no parameter, a parameter of fewer than two axes, or one that is
            on a crossbar already.
    """
    for name, module in list(net.named_modules()):
        own = [(key, f"{name}.{key}" if name else key) for key, _ in module.named_parameters(recurse=False)]
        wanted = [(key, full) for key, full in own if any(fnmatchcase(full, p) for p in patterns)]
        for key, full in wanted:
            _check(module, key, full)
        if wanted:
            sites = {
                key: Site(name or "root", module, hardware.for_layer(name or "root"), bench, cells, hardware)
                for key, _ in wanted
            }
            mix(module, NamedOnCrossbars, "Named", _crossbars={}, _folded=None, _sites=sites)
    names = [name for name, _ in net.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown("parameter", pattern, names)


def _check(module: nn.Module, key: str, full: str) -> None:
    if isinstance(module, OnCrossbars):
        raise UsageError(f"{full} is on a crossbar already: leave it out of weights")
    shape = tuple(module.get_parameter(key).shape)
    if len(shape) < 2:
        raise UsageError(f"expected a matrix or a kernel to put on a crossbar; {full} has the shape {shape}")


class _Products(TorchFunctionMode):
    """Sees every operation inside one module, and reads crossbars where it multiplies by named weights."""

    def __init__(self, module: NamedOnCrossbars) -> None:
        super().__init__()
        self._module = module
        # by identity: the parameter, and transposed views of it that the module makes
        self._known: dict[int, tuple[str, bool]] = {}
        self._alive: list[Tensor] = []  # identities last as long as the tensors
        for key in module._sites:
            self._remember(module.get_parameter(key), key, False)

    def _remember(self, tensor: Tensor, key: str, turned: bool) -> None:
        self._known[id(tensor)] = (key, turned)
        self._alive.append(tensor)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found = [number for number, one in enumerate(args) if id(one) in self._known]
        named = [name for name, one in kwargs.items() if id(one) in self._known]
        if not found and not named:
            return func(*args, **kwargs)
        if func in _HARMLESS:
            return func(*args, **kwargs)
        first = self._known[id(args[found[0]])] if found else self._known[id(kwargs[named[0]])]
        if func in _TURNS and found == [0] and args[0].dim() == 2:
            view = func(*args, **kwargs)
            self._remember(view, first[0], not first[1])
            return view
        product = _PRODUCTS.get(func)
        if product is None or len(found) + len(named) > 1:
            raise UsageError(
                f"cannot put {self._full(first[0])!r} on a crossbar: its module uses it in "
                f"{getattr(func, '__name__', func)}, which is no product with an input"
            )
        return product(self, args, kwargs)

    def _full(self, key: str) -> str:
        return f"{self._module._sites[key].name}.{key}"

    def is_weight(self, tensor: object) -> bool:
        """Whether this is a named parameter, or a view of one."""
        return id(tensor) in self._known

    def read(
        self, weight: Tensor, x: Tensor, bias: Tensor | None, make: Callable[[bool], Operator]
    ) -> Tensor:
        """The product of a crossbar; ``make`` gives the operator of the parameter as it is kept."""
        key, turned = self._known[id(weight)]
        parameter = self._module.get_parameter(key)
        operator = make(turned)
        crossbar = self._crossbar(key, operator)
        if crossbar.bench.active is None:
            y = crossbar.forward(x, parameter, None)
        else:
            y = crossbar.read(x, parameter, crossbar.hold(parameter, None))
        return y if bias is None else y + bias

    def _crossbar(self, key: str, operator: Operator) -> Crossbar:
        crossbars = self._module._crossbars
        if key not in crossbars:
            groups = operator.groups if isinstance(operator, Convolution) else 1
            crossbars[key] = self._module._sites[key].crossbar(key, operator, groups=groups)
        crossbar = crossbars[key]
        before, now = crossbar.operator, operator
        if (type(before), before.cells_signature()) != (type(now), now.cells_signature()):
            raise UsageError(
                f"cannot put {self._full(key)!r} on a crossbar: its module uses it in products of two kinds"
            )
        crossbar.operator = operator
        return crossbar


def _argument(
    args: Sequence[Any], kwargs: dict[str, Any], number: int, name: str, default: Any = None
) -> Any:
    return args[number] if len(args) > number else kwargs.get(name, default)


def _linear(mode: _Products, args: Any, kwargs: dict[str, Any]) -> Tensor:
    x, weight = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight")
    bias = _argument(args, kwargs, 2, "bias")
    return mode.read(weight, x, bias, lambda turned: Matmul(transposed=turned))


def _matmul(mode: _Products, args: Any, kwargs: dict[str, Any]) -> Tensor:
    left, right = args[0], _argument(args, kwargs, 1, "other", kwargs.get("mat2"))
    if mode.is_weight(right):
        return mode.read(right, left, None, lambda turned: Matmul(transposed=not turned))
    # W x = (xᵀ Wᵀ)ᵀ, for a vector without the transposes
    swap = right.dim() > 1
    x = right.transpose(-1, -2) if swap else right
    y = mode.read(left, x, None, lambda turned: Matmul(transposed=turned))
    return y.transpose(-1, -2) if swap else y


def _reversed_matmul(mode: _Products, args: Any, kwargs: dict[str, Any]) -> Tensor:
    return _matmul(mode, (args[1], args[0]), kwargs)


def _addmm(mode: _Products, args: Any, kwargs: dict[str, Any]) -> Tensor:
    if mode.is_weight(args[0]):
        raise UsageError("cannot put a weight on a crossbar that torch.addmm adds to a product")
    y = _matmul(mode, (args[1], _argument(args, kwargs, 2, "mat2")), {})
    added: Tensor = args[0] * kwargs.get("beta", 1) + y * kwargs.get("alpha", 1)
    return added


def _convolution(dims: int) -> Callable[[_Products, Any, dict[str, Any]], Tensor]:
    def convolve(mode: _Products, args: Any, kwargs: dict[str, Any]) -> Tensor:
        x, weight = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight")
        bias = _argument(args, kwargs, 2, "bias")
        stride, padding, dilation = (
            _sizes(_argument(args, kwargs, number, name, default), dims)
            for number, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
        )
        groups = _argument(args, kwargs, 6, "groups", 1)
        operator = Convolution.with_settings(
            tuple(weight.shape), stride=stride, padding=padding, dilation=dilation, groups=groups
        )
        shaped = None if bias is None else bias.reshape(-1, *(1,) * dims)
        return mode.read(weight, x, shaped, lambda turned: operator)

    return convolve


def _sizes(value: Any, dims: int) -> Any:
    return value if isinstance(value, str) else (value,) * dims if isinstance(value, int) else tuple(value)


def _embedding(mode: _Products, args: Any, kwargs: dict[str, Any]) -> Tensor:
    indices, weight = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight")
    if _argument(args, kwargs, 3, "max_norm") is not None:
        raise UsageError("cannot put an embedding on a crossbar whose max_norm rewrites its weights")
    if _argument(args, kwargs, 5, "scale_grad_by_freq", False):
        raise UsageError("cannot put an embedding on a crossbar whose scale_grad_by_freq changes gradients")
    y = mode.read(weight, indices, None, lambda turned: Lookup(entries=weight.shape[0]))
    padding = _argument(args, kwargs, 2, "padding_idx")
    entries = weight.shape[0]
    return y if padding is None else without_gradient(y, indices == padding % entries)


_PRODUCTS: dict[Any, Callable[[_Products, Any, dict[str, Any]], Tensor]] = {
    F.linear: _linear,
    torch.matmul: _matmul,
    torch.mm: _matmul,
    torch.mv: _matmul,
    Tensor.matmul: _matmul,
    Tensor.mm: _matmul,
    Tensor.mv: _matmul,
    Tensor.__matmul__: _matmul,
    Tensor.__rmatmul__: _reversed_matmul,
    torch.addmm: _addmm,
    Tensor.addmm: _addmm,
    F.conv1d: _convolution(1),
    F.conv2d: _convolution(2),
    F.conv3d: _convolution(3),
    F.embedding: _embedding,
}
_TURNS = {Tensor.t, torch.t, Tensor.T.__get__, Tensor.mT.__get__, Tensor.transpose, torch.transpose}  # type: ignore[attr-defined]
# what only asks about a tensor
_HARMLESS = {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.__len__,
    Tensor.is_floating_point,
    Tensor.shape.__get__,  # type: ignore[attr-defined]
    Tensor.dtype.__get__,  # type: ignore[attr-defined]
    Tensor.device.__get__,
    Tensor.ndim.__get__,  # type: ignore[attr-defined]
    Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
}
