"""The methods by name: the one table to which a new method adds its row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from neurosim import errors
from neurosim.training.adversarial import AdversarialWeights
from neurosim.training.method import Method
from neurosim.training.noise import ForwardNoise
from neurosim.training.standard import Standard

METHODS: dict[str, type[Any]] = {
    "standard": Standard,
    "noise": ForwardNoise,
    "adversarial": AdversarialWeights,
}

ROBUST = AdversarialWeights(beta=0.1, eta=0.3, zeta=0.1, steps=10)
"""What ``--robust`` means: the paper's FN + β row for its CNN."""


def method_from(name: str, params: Mapping[str, Any] | None = None) -> Method:
    """The method of this name with these parameters.

    Raises:
        UsageError: an unknown name or parameter (with the nearest known one), or a value out of range.

    >>> method_from("noise", {"eta": 0.1})
    ForwardNoise(eta=0.1, ramp=0.0)
    >>> method_from("nose")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    neurosim.errors.UsageError: unknown method 'nose': did you mean 'noise'? (known: ...)
    """
    if name not in METHODS:
        raise errors.unknown("method", name, METHODS)
    known = [field.name for field in dataclasses.fields(METHODS[name])]
    for key in params or {}:
        if key not in known:
            raise errors.unknown(f"parameter of method {name!r}", key, known)
    return METHODS[name](**(params or {}))


def describe(method: Method) -> dict[str, Any]:
    """A method as a table for ``config.toml``: its name and every parameter.

    >>> describe(ForwardNoise())
    {'name': 'noise', 'eta': 0.3, 'ramp': 0.0}
    """
    names = {kind: name for name, kind in METHODS.items()}
    name = names.get(type(method), f"{type(method).__module__}.{type(method).__qualname__}")
    fields: tuple[dataclasses.Field[Any], ...] = (
        dataclasses.fields(method) if dataclasses.is_dataclass(method) else ()
    )
    return {"name": name, **{field.name: getattr(method, field.name) for field in fields}}
