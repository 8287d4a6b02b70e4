"""Parameters that no crossbar holds, such as time constants and gains, with mismatch from chip to chip.

A module that owns such parameters keeps its class's forward and computes it, while chips are on the bench,
with each chip's own parameters: :func:`torch.func.functional_call`, and :func:`torch.vmap` over chips where
several ride the batch axis together.  Where that cannot be (data-dependent control flow, operations in place,
state kept between calls, crossbars or other such modules below), :class:`ContractError` has chips run one at
a time.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils import _pytree as pytree

from neurosim.analog.bench import Active, Bench
from neurosim.analog.crossbar import ContractError
from neurosim.analog.mixing import mix, original_class
from neurosim.devices import Hardware
from neurosim.devices.spread import Spread
from neurosim.errors import UsageError
from neurosim.random import Draws

_TENSOR = object()  # stands for a tensor among what a module returns


@dataclass(frozen=True)
class SampledRow:
    """One parameter that differs from chip to chip, for tables.

    Attributes:
        name: full dotted name of the parameter.
        kind: type of the module that owns it.
        shape: of the parameter.
        spread: how it differs, in words.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    spread: str


@dataclass
class Sampling:
    """What one module needs to compute with each chip's own parameters.

    Attributes:
        name: of the module.
        bench: of the network.
        spreads: own parameter → (its full name, its spread).
        apart: something below the module depends on chips too: several cannot run together.
    """

    name: str
    bench: Bench
    spreads: dict[str, tuple[str, Spread]]
    apart: bool
    _held: dict[str, Tensor] = field(default_factory=dict)
    _on: Active | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> Sampling:
        """The same on the bench of the copy; what was drawn stays with the original."""
        return Sampling(self.name, copy.deepcopy(self.bench, memo), dict(self.spreads), self.apart)

    def reset(self) -> None:
        """Forget what was drawn."""
        self._held, self._on = {}, None

    def parameters(self, module: nn.Module, active: Active) -> dict[str, Tensor]:
        """Own parameter → its values on the chips of the present pass, (chips, \\*shape)."""
        return {own: self._of(own, module, active) for own in self.spreads}

    def _of(self, own: str, module: nn.Module, active: Active) -> Tensor:
        value: Tensor = getattr(module, own)
        full, spread = self.spreads[own]
        # a value put in its place (functional_call: attacks, noise) is another at every pass, and gradients
        # must reach the present one
        passing = not isinstance(value, nn.Parameter)
        if passing or (torch.is_grad_enabled() and value.requires_grad):
            return _drawn(full, value, spread, active, active.numbers)
        if self._on is not active:
            self._held, self._on = {}, active
        if own not in self._held:
            self._held[own] = _drawn(full, value.detach(), spread, active, active.chips.numbers)
        return self._held[own][active.part]


class SampledModule(nn.Module):
    """A module some of whose own parameters differ from chip to chip.

    Not constructed: :func:`sample_parameters` mixes it into the class of a module, whose ``state_dict`` keys,
    parameters and buffers stay what they are.  Off the bench it computes what it always did.
    """

    _sampling: Sampling

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        active = self._sampling.bench.active
        if active is None:
            return super().forward(*args, **kwargs)
        values = self._sampling.parameters(self, active)
        if len(active.numbers) == 1:
            return _call(self, {own: value[0] for own, value in values.items()}, args, kwargs)
        if self._sampling.apart:
            raise ContractError(f"{self._sampling.name} holds layers that depend on the chip themselves")
        return _together(self, values, len(active.numbers), args, kwargs)


class _Original(nn.Module):
    """The forward of a sampled module's own class, as a module: without its hooks, and without recursion."""

    def __init__(self, module: SampledModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _flat_weights(self.module):
            return super(SampledModule, self.module).forward(*args, **kwargs)


@contextlib.contextmanager
def _flat_weights(module: nn.Module) -> Iterator[None]:
    """Recurrent layers of torch compute with a list of their weights: have it name those of the moment."""
    if not isinstance(module, nn.RNNBase):
        yield
        return
    before = module.__dict__["_flat_weights"]
    module.__dict__["_flat_weights"] = [getattr(module, name) for name in module._flat_weights_names]
    try:
        yield
    finally:
        module.__dict__["_flat_weights"] = before


def _call(module: SampledModule, values: dict[str, Tensor], args: Any, kwargs: Any) -> Any:
    """The original forward with these values of its own parameters."""
    named = {f"module.{own}": value for own, value in values.items()}
    return torch.func.functional_call(_Original(module), named, args, kwargs, tie_weights=False)


def _together(module: SampledModule, values: dict[str, Tensor], chips: int, args: Any, kwargs: Any) -> Any:
    """Several chips at once: tensors (chips·batch, …) in and out, parameters (chips, \\*shape)."""
    name = module._sampling.name
    leaves, spec = pytree.tree_flatten((args, kwargs))
    riding = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.dim()]
    if not riding or any(leaves[k].shape[0] % chips for k in riding):
        raise ContractError(f"{name} got tensors whose leading axis is not a batch on each of {chips} chips")
    split = [leaves[k].unflatten(0, (chips, leaves[k].shape[0] // chips)) for k in riding]
    returned: list[Any] = []

    def one(own: dict[str, Tensor], tensors: list[Tensor]) -> list[Tensor]:
        given = list(leaves)
        for k, tensor in zip(riding, tensors, strict=True):
            given[k] = tensor
        chip_args, chip_kwargs = pytree.tree_unflatten(given, spec)
        out, out_spec = pytree.tree_flatten(_call(module, own, chip_args, chip_kwargs))
        returned[:] = [[_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in out], out_spec]
        return [leaf for leaf in out if isinstance(leaf, Tensor)]

    results = _mapped(module, lambda: torch.vmap(one)(values, split))
    if any(result.dim() < 2 for result in results):
        raise ContractError(f"{name} returned a tensor without a batch axis")
    flat = iter([result.flatten(0, 1) for result in results])
    others, out_spec = returned
    return pytree.tree_unflatten([next(flat) if leaf is _TENSOR else leaf for leaf in others], out_spec)


def _mapped(module: nn.Module, run: Callable[[], list[Tensor]]) -> list[Tensor]:
    """The result of a vmap that leaves the module as it was; ContractError where there is none.

    A tensor that a forward keeps on the module would be one of vmap's own, dead outside of it.
    """
    name = type(module).__name__
    before = [(part, dict(part.__dict__), dict(part._buffers)) for part in module.modules()]
    try:
        with warnings.catch_warnings():
            # an operation without a batching rule loops over chips inside: slower, and right
            warnings.filterwarnings("ignore", message="There is a performance drop")
            results = run()
    except UsageError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        _restore(before)
        raise ContractError(f"{name} cannot run on several chips at once: {error}") from error
    if any(_changed(part.__dict__, held) or _changed(part._buffers, kept) for part, held, kept in before):
        _restore(before)
        raise ContractError(f"{name} keeps state between calls: its chips cannot run at once")
    return results


def _changed(now: Mapping[str, object], before: Mapping[str, object]) -> bool:
    return now.keys() != before.keys() or any(now[key] is not before[key] for key in before)


def _restore(before: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]]) -> None:
    for part, held, buffers in before:
        part.__dict__.clear()
        part.__dict__.update(held)
        part._buffers.clear()
        part._buffers.update(buffers)


def _drawn(full: str, value: Tensor, spread: Spread, active: Active, numbers: tuple[int, ...]) -> Tensor:
    return spread.sample(value, Draws(active.chips.lot.seed, numbers, full, str(value.device)))


def sample_parameters(net: nn.Module, hardware: Hardware, bench: Bench, taken: set[str]) -> list[SampledRow]:
    """Have every module that owns parameters named by ``hardware.parameters`` draw them for each chip.

    A parameter that two modules share is two circuits: each draws its own, under its own name.

    Args:
        net: the network, changed in place: the classes of such modules are replaced by subclasses.
        hardware: whose ``parameters`` say what differs.
        bench: shared with the crossbars of the network.
        taken: full names of the parameters that crossbars hold or add; biases among them, where
            ``array.bias`` is ``"digital"``, are left to the crossbar.

    Returns:
        A row for every such parameter, in the order of the network.

    Raises:
        UsageError: a pattern that matches no parameter, one that matches what devices hold, or a parameter
            that is not of real floating-point numbers.

    >>> import neurosim as ns
    >>> hw = ns.hardware("ideal", parameters={"1.weight": {"relative_std": 0.1}})
    >>> net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    >>> [row.spread for row in sample_parameters(net, hw, Bench(), {"0.weight", "0.bias"})]
    ['normal, standard deviation 10 % of the value']
    """
    if not hardware.parameters:
        return []
    found = [
        (module_name, module, own, f"{module_name}.{own}" if module_name else own, parameter)
        for module_name, module in net.named_modules()
        for own, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    ]
    _check_patterns(hardware, [full for _, _, _, full, _ in found])
    rows: list[SampledRow] = []
    spreads: dict[str, dict[str, tuple[str, Spread]]] = {}
    for module_name, module, own, full, parameter in found:
        spread = hardware.spread_of(full)
        if spread is None:
            continue
        _check_parameter(full, parameter, hardware, taken)
        rows.append(
            SampledRow(full, original_class(module).__name__, tuple(parameter.shape), spread.in_words())
        )
        if full not in taken:
            spreads.setdefault(module_name, {})[own] = (full, spread)
    modules = dict(net.named_modules())
    for module_name, own_spreads in spreads.items():
        apart = any(_below(module_name, name) for name in (*taken, *(f"{m}." for m in spreads)))
        _swap(modules[module_name], Sampling(module_name or "root", bench, own_spreads, apart))
    return rows


def _below(module: str, name: str) -> bool:
    """Whether a parameter's name is of a module inside this one."""
    owner = name.rpartition(".")[0]
    return owner != module and (not module or owner.startswith(f"{module}."))


def _swap(module: nn.Module, sampling: Sampling) -> None:
    if "forward" in module.__dict__:
        raise UsageError(
            f"the forward of {sampling.name!r} is set on the instance, past its class: expected a class "
            "of its own where parameters differ from chip to chip"
        )
    mix(module, SampledModule, "Sampled", _sampling=sampling)


def _check_patterns(hardware: Hardware, names: list[str]) -> None:
    for pattern in hardware.parameters:
        optional = hardware.parameters[pattern].optional
        if not optional and not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.5)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"expected a name such as {names[0]!r}"
                if names
                else "it has none"
            )
            raise UsageError(f"parameters.{pattern!r} matches no parameter of this network: {hint}")


def _check_parameter(full: str, parameter: Tensor, hardware: Hardware, taken: set[str]) -> None:
    if not parameter.is_floating_point():
        raise UsageError(f"expected real floating-point numbers to vary; {full} holds {parameter.dtype}")
    if full not in taken:
        return
    pattern = next(p for p in reversed(hardware.parameters) if fnmatchcase(full, p))
    layer, _, own = full.rpartition(".")
    if "bias" not in own:
        raise UsageError(
            f"parameters.{pattern!r} matches {full!r}, a weight that crossbars hold: their device varies it; "
            "expected a pattern of other parameters"
        )
    if hardware.for_layer(layer or "root").array.bias != "digital":
        raise UsageError(
            f"parameters.{pattern!r} matches {full!r}, which devices hold: expected array.bias = 'digital'; "
            "got 'device'"
        )
