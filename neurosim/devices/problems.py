"""Pydantic's validation errors as sentences that name the field, its value and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from neurosim.errors import unknown

_LONGEST_VALUE = 80
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one field; ``path`` is where it is, as in ``("array", "rows")``."""

    path: tuple[str, ...]
    sentence: str


class Several(ValueError):
    """Raised by a validator that found several things wrong; their paths begin at the root."""

    def __init__(self, found: list[Problem]) -> None:
        super().__init__("; ".join(problem.sentence for problem in found))
        self.found = found


def problems(error: ValidationError, root: type[BaseModel]) -> list[Problem]:
    """Every error of a failed validation of ``root``, in pydantic's order."""
    found: list[Problem] = []
    for detail in error.errors(include_url=False):
        cause = detail.get("ctx", {}).get("error")
        found += cause.found if isinstance(cause, Several) else [_problem(dict(detail), root)]
    return found


def unknown_field(path: str, known: Iterable[str]) -> str:
    """The sentence for a field that does not exist, with the nearest one that does.

    >>> unknown_field("array.row", ["array.rows", "array.cols"])
    "unknown field 'array.row': did you mean 'array.rows'?"
    """
    names = sorted(known)
    near = difflib.get_close_matches(path, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
    return f"unknown field {path!r}: {hint}"


def _problem(detail: dict[str, Any], root: type[BaseModel]) -> Problem:
    path, owner = _resolve(detail["loc"], root)
    where = (*path, "kind") if detail["type"] == "union_tag_invalid" else path
    return Problem(where, _sentence(detail, path, owner))


def _resolve(
    loc: tuple[int | str, ...], root: type[BaseModel]
) -> tuple[tuple[str, ...], type[BaseModel] | None]:
    """The field path a user wrote, and the model that owns its last name.

    Pydantic puts the tag of a discriminated union into the location; users never wrote that step.
    Below a table of free names, the next step is such a name.
    """
    path: list[str] = []
    owner: type[BaseModel] | None = root
    inner: tuple[type[BaseModel], ...] = (root,)
    tagged = free = False
    for part in loc:
        if tagged:
            inner = tuple(model for model in inner if model.model_fields["kind"].default == part)
            tagged = False
            continue
        if free:
            path.append(str(part))
            owner, free = None, False
            continue
        owner = inner[0] if inner else None
        path.append(str(part))
        field = owner.model_fields.get(str(part)) if owner else None
        inner = tuple(_models_in(field.annotation)) if field else ()
        free = field is not None and get_origin(field.annotation) is dict
        tagged = len(inner) > 1
    return tuple(path), owner


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _sentence(detail: dict[str, Any], path: tuple[str, ...], owner: type[BaseModel] | None) -> str:
    kind, name = detail["type"], ".".join(path)
    if kind == "extra_forbidden":
        siblings = owner.model_fields if owner else ()
        return unknown_field(name, (".".join((*path[:-1], sibling)) for sibling in siblings))
    if kind == "missing":
        return f"field {name!r} is missing"
    if kind == "union_tag_not_found":
        return f"field '{name}.kind' is missing: expected one of {', '.join(_tags(path, owner))}"
    if kind == "union_tag_invalid":
        return str(unknown(f"{name}.kind", str(detail["ctx"]["tag"]), _tags(path, owner)))
    if kind == "value_error":  # raised by our own validators: already a sentence
        return str(detail["ctx"]["error"])
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"expected a table of fields; got {name}={_short(detail['input'])}"
    return f"{_expectation(detail)}; got {name}={_short(detail['input'])}"


def _expectation(detail: dict[str, Any]) -> str:
    if detail["type"] in _BOUNDS:
        bound, words = _BOUNDS[detail["type"]]
        return f"expected {words} {detail['ctx'][bound]:g}"
    return str(detail["msg"]).replace("Input should be ", "expected ")


def _tags(path: tuple[str, ...], owner: type[BaseModel] | None) -> list[str]:
    if owner is None:
        return []
    return sorted(m.model_fields["kind"].default for m in _models_in(owner.model_fields[path[-1]].annotation))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
