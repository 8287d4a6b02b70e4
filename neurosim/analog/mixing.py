"""Giving a module a new forward without touching its tree, parameters or keys: another class is mixed in."""

from __future__ import annotations

from typing import Any

from torch import nn

# On a class made here: what was mixed in.  Its second base is the class that the module had before.
_MIXED = "_neurosim_mixed"
# On a module: the attributes that came with it.
_ADDED = "_neurosim_added"


def mix(module: nn.Module, kind: type[nn.Module], prefix: str, **attributes: Any) -> None:
    """Put ``kind`` in front of the module's own class, and give the module some attributes.

    >>> class Twice(nn.Module):
    ...     def forward(self, x):
    ...         return self._factor * super().forward(x)
    >>> identity = nn.Identity()
    >>> mix(identity, Twice, "Twice", _factor=2)
    >>> identity(3), type(identity).__name__, original_class(identity).__name__
    (6, 'TwiceIdentity', 'Identity')
    >>> unmix(identity)
    >>> identity(3), type(identity).__name__
    (3, 'Identity')
    """
    own = type(module)
    module.__class__ = type(f"{prefix}{own.__name__}", (kind, own), {_MIXED: kind, "__module__": __name__})
    before = module.__dict__.get(_ADDED, ())
    # past nn.Module's own: what is added is no child, parameter or buffer
    object.__setattr__(module, _ADDED, (*before, tuple(attributes)))
    for name, value in attributes.items():
        object.__setattr__(module, name, value)


def unmix(module: nn.Module) -> None:
    """Take back the last :func:`mix`."""
    module.__class__ = type(module).__bases__[1]
    *rest, names = module.__dict__.pop(_ADDED)
    for name in names:
        module.__dict__.pop(name, None)
    if rest:
        object.__setattr__(module, _ADDED, tuple(rest))


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
