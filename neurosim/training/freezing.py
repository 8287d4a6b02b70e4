"""Parameters that are not trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from neurosim.errors import UsageError


@contextlib.contextmanager
def frozen(model: nn.Module, patterns: Sequence[str]) -> Iterator[None]:
    """Parameters whose name matches any of the patterns need no gradient inside; as before afterwards.

    A parameter with several names is frozen by any of them.

    Raises:
        UsageError: a pattern that matches nothing, or nothing is left to train.

    >>> layer = nn.Linear(2, 2)
    >>> with frozen(layer, ["b*"]):
    ...     layer.weight.requires_grad, layer.bias.requires_grad
    (True, False)
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    chosen: list[nn.Parameter] = []
    for pattern in patterns:
        matching = [p for name, p in parameters.items() if fnmatchcase(name, pattern)]
        if not matching:
            first = next(iter(parameters), "")
            raise UsageError(
                f"freeze: {pattern!r} matches no parameter of the network: expected a name or a pattern, such"
                f" as {first!r} or {first.split('.')[0] + '.*'!r}"
            )
        chosen += matching
    before = [(parameter, parameter.requires_grad) for parameter in chosen]
    try:
        for parameter in chosen:
            parameter.requires_grad_(False)
        if patterns and not any(p.requires_grad for p in parameters.values()):
            raise UsageError(f"freezing {', '.join(map(repr, patterns))} leaves no parameter to train")
        yield
    finally:
        for parameter, trained in before:
            parameter.requires_grad_(trained)


def frozen_norms(model: nn.Module) -> list[nn.Module]:
    """The batch normalisations that have parameters, none of which is trained.

    >>> norm = nn.BatchNorm1d(2).requires_grad_(False)
    >>> frozen_norms(nn.Sequential(norm, nn.BatchNorm1d(2), nn.BatchNorm1d(2, affine=False))) == [norm]
    True
    """
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.affine
        and not any(p.requires_grad for p in module.parameters())
    ]
