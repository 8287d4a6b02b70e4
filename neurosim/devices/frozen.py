"""A dictionary that cannot be changed, so that a frozen description may hold one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class FrozenDict(dict[K, V]):
    """Immutable and hashable, nested tables and lists included; the order of its keys counts.

    >>> FrozenDict({"a": [1, 2]})
    {'a': (1, 2)}
    >>> FrozenDict(a=1, b=2) == FrozenDict(b=2, a=1)
    False
    >>> FrozenDict(a=1)["a"] = 2
    Traceback (most recent call last):
    TypeError: this table is frozen
    """

    def __init__(self, *args: Any, **items: Any) -> None:
        super().__init__({key: frozen(value) for key, value in dict(*args, **items).items()})

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("this table is frozen")

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = pop = popitem = clear = setdefault = _refuse

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and list(self.items()) == list(other.items())

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))

    def __copy__(self) -> FrozenDict[K, V]:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> FrozenDict[K, V]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


def frozen(value: Any) -> Any:
    """The value with every table in it a :class:`FrozenDict` and every list a tuple."""
    if isinstance(value, Mapping):
        return FrozenDict(value)
    if isinstance(value, list | tuple):
        return tuple(frozen(part) for part in value)
    return value
