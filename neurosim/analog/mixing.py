"""Giving a module a new forward without touching its tree, parameters or keys: another class is mixed in."""

from __future__ import annotations

from torch import nn

# On a class made here: what was mixed in.  Its second base is the class that the module had before.
_MIXED = "_neurosim_mixed"


def mix(module: nn.Module, kind: type[nn.Module], prefix: str) -> None:
    """Put ``kind`` in front of the module's own class.

    >>> class Twice(nn.Module):
    ...     def forward(self, x):
    ...         return 2 * super().forward(x)
    >>> identity = nn.Identity()
    >>> mix(identity, Twice, "Twice")
    >>> identity(3), type(identity).__name__, original_class(identity).__name__
    (6, 'TwiceIdentity', 'Identity')
    """
    own = type(module)
    module.__class__ = type(f"{prefix}{own.__name__}", (kind, own), {_MIXED: kind, "__module__": __name__})


def mixed_in(module: nn.Module) -> list[type[nn.Module]]:
    """What was mixed into a module, the last first."""
    found, kind = [], type(module)
    while _MIXED in vars(kind):
        found.append(vars(kind)[_MIXED])
        kind = kind.__bases__[1]
    return found


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class that the module had before anything was mixed in."""
    kind = type(module)
    while _MIXED in vars(kind):
        kind = kind.__bases__[1]
    return kind
