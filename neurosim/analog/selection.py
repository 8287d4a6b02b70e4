"""Which layers of a network go on crossbars, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import fx, jit, nn

from neurosim.analog.layers import OnCrossbars, row_of
from neurosim.errors import UsageError, unknown

FIRST, LAST = ":first", ":last"
EXCLUDED = "excluded"


@dataclass(frozen=True)
class Selection:
    """The layers that go on crossbars, in order, and what keeps each other candidate off them.

    Attributes:
        rows: how each chosen layer goes on crossbars, by name.
        reasons: why a layer that could be on crossbars is not, by name.
    """

    rows: dict[str, type[OnCrossbars]]
    reasons: dict[str, str]


def select(net: nn.Module, include: Sequence[str], exclude: Sequence[str]) -> Selection:
    """Choose by patterns over names of modules and of their parameters.

    ``":first"`` and ``":last"`` name the first and the last layer that could be on crossbars.

    Raises:
        UsageError: a pattern that matches nothing, or a network that cannot be rewritten.
    """
    _check_rewritable(net)
    found = {name: (module, row_of(module)) for name, module in net.named_modules()}
    could = [name for name, (module, row) in found.items() if row is not None and row.why_not(module) is None]
    ends = {FIRST: could[:1], LAST: could[-1:]}
    _check_patterns(net, [*include, *exclude])
    rows, reasons = {}, {}
    for name, (module, row) in found.items():
        why = None if row is None else row.why_not(module)
        if row is None:
            reasons[name] = _other_sum(module)
        elif why is not None:
            reasons[name] = why
        elif not matches(name, module, include, ends, row) or matches(name, module, exclude, ends, row):
            reasons[name] = EXCLUDED
        else:
            rows[name] = row
    return Selection(rows, {name: why for name, why in reasons.items() if why})


def _other_sum(module: nn.Module) -> str:
    """Why a module that is a kind of known layer has no row, if it is one."""
    from neurosim.analog.layers import LAYERS

    kinds = [kind for kind in type(module).__mro__ if kind in LAYERS]
    return f"its forward is not that of {kinds[0].__name__}" if kinds else ""


def matches(
    name: str,
    module: nn.Module,
    patterns: Iterable[str],
    ends: dict[str, list[str]],
    row: type[OnCrossbars],
) -> bool:
    """Whether a pattern names this module or one of its own parameters that would be on crossbars."""
    keys = [key for key, _ in module.named_parameters(recurse=False) if key not in row.digital]
    own = [name, *(f"{name}.{key}" if name else key for key in keys)]
    return any(
        name in ends[pattern] if pattern in ends else any(fnmatchcase(one, pattern) for one in own)
        for pattern in patterns
    )


def covered(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern names this parameter or a module it lies in.

    >>> covered("encoder.norm.weight", ["encoder.*"]), covered("norm.weight", ["norm"])
    (True, True)
    """
    parts = name.split(".")
    names = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    return any(fnmatchcase(one, pattern) for one in names for pattern in patterns)


def _check_patterns(net: nn.Module, patterns: Sequence[str]) -> None:
    names = [*(name for name, _ in net.named_modules()), *(name for name, _ in net.named_parameters())]
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise UsageError(f"expected patterns of names such as 'layer1.*'; got {pattern!r}")
        if pattern not in (FIRST, LAST) and not any(fnmatchcase(name, pattern) for name in names):
            raise unknown("layer or pattern", pattern, [name for name in names if name])


def _check_rewritable(net: nn.Module) -> None:
    for name, module in net.named_modules():
        at = f" (at {name!r})" if name else ""
        if isinstance(module, jit.ScriptModule):
            raise UsageError(
                f"cannot deploy a TorchScript module{at}: its code is fixed; deploy what it was made from"
            )
        if hasattr(type(module), "_orig_mod") or "_orig_mod" in module._modules:
            raise UsageError(f"cannot deploy a compiled module{at}: deploy the network, then compile it")
        exported = type(module).__module__.startswith("torch.export")
        if exported or (isinstance(module, fx.GraphModule) and _of_operators(module)):
            raise UsageError(
                f"cannot deploy a graph of single operators{at}, such as torch.export makes: it has no "
                "layers; deploy the network it was made from"
            )


def _of_operators(module: fx.GraphModule) -> bool:
    from torch._ops import OpOverload

    return any(isinstance(node.target, OpOverload) for node in module.graph.nodes)
