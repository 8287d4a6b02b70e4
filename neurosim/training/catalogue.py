"""The methods by name: the one table to which a new method adds its row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from neurosim import errors
from neurosim.errors import UsageError
from neurosim.training.abcd import BlockCoordinateDescent
from neurosim.training.adversarial import AdversarialWeights
from neurosim.training.averaging import MovingAverage, StochasticAverage
from neurosim.training.awp import AdversarialModelPerturbation, AdversarialWeightPerturbation
from neurosim.training.clipping import WeightClipping
from neurosim.training.combined import Combined
from neurosim.training.damp import MultiplicativeCopies
from neurosim.training.distillation import Distillation
from neurosim.training.dropout import Dropout
from neurosim.training.entropy import EntropySGD
from neurosim.training.method import Method
from neurosim.training.noise import ForwardNoise
from neurosim.training.random_weights import LowPassFilter, RandomWeightPerturbation
from neurosim.training.sharpness import AdaptiveSharpnessAware, SharpnessAware
from neurosim.training.standard import Standard
from neurosim.training.trice import RightCensoredNoise

Role = Literal["objective", "regulariser", "distillation", "constraint", "average"]


@dataclass(frozen=True)
class MethodRow:
    """A method: its class, the part it plays in a combination, and what it does, in a line."""

    kind: type[Any]
    role: Role
    summary: str


ROWS: dict[str, MethodRow] = {
    "standard": MethodRow(Standard, "objective", "the task loss, nothing else"),
    "dropout": MethodRow(Dropout, "objective", "outputs of hidden layers dropped at random"),
    "noise": MethodRow(ForwardNoise, "objective", "the task loss at noisy weights"),
    "damp": MethodRow(
        MultiplicativeCopies, "objective", "parts of the batch through different noisy weights"
    ),
    "trice": MethodRow(RightCensoredNoise, "objective", "right-censored noise, for the worst chips"),
    "rwp": MethodRow(RandomWeightPerturbation, "objective", "clean and noisy loss mixed"),
    "lpf": MethodRow(LowPassFilter, "objective", "the loss smoothed by a growing Gaussian"),
    "sam": MethodRow(SharpnessAware, "objective", "the gradient one step uphill"),
    "asam": MethodRow(AdaptiveSharpnessAware, "objective", "SAM in a ball that scales with the weights"),
    "awp": MethodRow(
        AdversarialWeightPerturbation, "objective", "the gradient at weights attacked through the loss"
    ),
    "amp": MethodRow(AdversarialModelPerturbation, "objective", "the same in one absolute ball"),
    "entropy-sgd": MethodRow(EntropySGD, "objective", "local entropy by Langevin steps"),
    "abcd": MethodRow(BlockCoordinateDescent, "objective", "a random block of weights goes uphill"),
    "adversarial": MethodRow(
        AdversarialWeights, "regulariser", "KL between the network and the attacked one"
    ),
    "distil": MethodRow(Distillation, "distillation", "a trained network's opinion in the task loss"),
    "clip": MethodRow(WeightClipping, "constraint", "no weight far from the rest of its layer"),
    "ema": MethodRow(MovingAverage, "average", "exponential moving average of the weights"),
    "swa": MethodRow(StochasticAverage, "average", "plain average of the last part of the steps"),
}

METHODS: dict[str, type[Any]] = {name: row.kind for name, row in ROWS.items()}

PAPER = AdversarialWeights(beta=0.1, eta=0.3, zeta=0.1, steps=10)
"""The weight-attack paper's FN + β row for its CNN: 13 passes a step."""

ROBUST = Combined(
    MultiplicativeCopies(sigma=0.4, copies=4, ramp=0.3),
    (AdversarialWeights(beta=0.25, zeta=0.1, steps=3),),
    average=MovingAverage(decay=0.999),
)
"""What ``--robust`` means: better than the paper's row on digits at less than half its passes (6);
docs/robust.md says for which networks its first part alone is better still."""

ROBUST_MISMATCH = 0.5
"""The mismatch at which ``--robust`` chooses its best epoch."""


def method_from(name: str, params: Mapping[str, Any] | None = None) -> Method:
    """The method of this name with these parameters; ``noise+adversarial+ema`` joins several.

    In a combination a parameter stands under the name of its part, ``{"noise": {"eta": 0.5}}``, or alone if
    only one of the parts has it.  One objective and one average at most; without an objective it is
    ``standard``.

    Raises:
        UsageError: an unknown name or parameter (with the nearest known one), a value out of range, or parts
            that do not go together.

    >>> method_from("noise", {"eta": 0.1})
    ForwardNoise(eta=0.1, ramp=0.0, scale='weight', spread=0.0, parameters=())
    >>> method_from("ema+noise", {"eta": 0.1, "ema": {"decay": 0.9}}).average
    MovingAverage(decay=0.9)
    >>> method_from("nose")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    neurosim.errors.UsageError: unknown method 'nose': did you mean 'noise'? (known: ...)
    """
    parts = name.split("+")
    for part in parts:
        if part not in ROWS:
            raise errors.unknown("method", part, ROWS)
    options = dict(params or {})
    if len(parts) == 1:
        made = _made(name, options)
        role = ROWS[name].role
        return made if role == "objective" or name == "adversarial" else _joined({name: made})
    if len(set(parts)) < len(parts):
        raise UsageError(f"method {name!r}: expected each part once")
    return _joined({part: _made(part, found) for part, found in _shared_out(parts, options).items()})


def _fields(name: str) -> list[str]:
    return [field.name for field in dataclasses.fields(METHODS[name])]


def _made(name: str, options: Mapping[str, Any]) -> Any:
    known = _fields(name)
    for key in options:
        if key not in known:
            raise errors.unknown(f"parameter of method {name!r}", key, known)
    # a list of TOML as the tuple that a frozen method holds
    return METHODS[name](**{key: tuple(v) if isinstance(v, list) else v for key, v in options.items()})


def _shared_out(parts: list[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each part's own parameters."""
    found: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for key, value in options.items():
        if key in found:
            if not isinstance(value, Mapping):
                raise UsageError(f"expected the parameters of method {key!r}; got {value!r}")
            found[key] |= value
            continue
        owners = [part for part in parts if key in _own(part)]
        if not owners:
            known = [f"{part}.{field}" for part in parts for field in _own(part)]
            raise errors.unknown(f"parameter of method {'+'.join(parts)!r}", key, known)
        if len(owners) > 1:
            names = " or ".join(f"{part}.{key}" for part in owners)
            raise UsageError(f"method {'+'.join(parts)!r}: {key} may be that of several parts: say {names}")
        found[owners[0]][key] = value
    return found


def _own(part: str) -> list[str]:
    """The parameters of a part of a combination; the attack's own noise is for the attack alone."""
    return [name for name in _fields(part) if (part, name) != ("adversarial", "eta")]


def _joined(parts: Mapping[str, Any]) -> Combined:
    fields: dict[str, Any] = {}
    regularisers: list[Any] = []
    for name, part in parts.items():
        role = ROWS[name].role
        if role == "regulariser":
            if part.eta:
                raise UsageError(
                    "method 'adversarial': eta is for it alone; in a combination give it to 'noise'"
                )
            regularisers.append(part)
        elif role in fields:  # a role that is not "regulariser" is the name of a field of Combined
            both = " and ".join(repr(n) for n in parts if ROWS[n].role == role)
            raise UsageError(f"methods {both} do not go together: expected one {role} at most")
        else:
            fields[role] = part
    return Combined(regularisers=tuple(regularisers), **fields)


def describe(method: Method) -> dict[str, Any]:
    """A method as a table for ``config.toml``: its name and every parameter, but patterns only if there are.

    >>> describe(ForwardNoise())
    {'name': 'noise', 'eta': 0.3, 'ramp': 0.0, 'scale': 'weight', 'spread': 0.0}
    >>> describe(method_from("noise+ema", {"eta": 0.5}))["ema"]
    {'decay': 0.999}
    """
    parts = _parts(method)
    if len(parts) == 1:
        return {"name": _name_of(parts[0]), **_parameters(parts[0])}
    names = [_name_of(part) for part in parts]
    return {"name": "+".join(names), **{n: _parameters(p) for n, p in zip(names, parts, strict=True)}}


def patterns_of(method: Method) -> tuple[str, ...]:
    """The patterns by which a method's parts name parameters beside the trained ones.

    >>> patterns_of(method_from("noise+ema", {"parameters": ["*.tau_mem_s"]}))
    ('*.tau_mem_s',)
    """
    ours = [part for part in _parts(method) if type(part) in METHODS.values()]
    return tuple(pattern for part in ours for pattern in _parameters(part).get("parameters", ()))


def _parts(method: Method) -> list[Any]:
    if not isinstance(method, Combined):
        return [method]
    bare = method.objective == Standard()
    rest = [method.distillation, method.constraint, method.average]
    return [*([] if bare else [method.objective]), *method.regularisers, *(p for p in rest if p is not None)]


def _name_of(part: Any) -> str:
    names = {row.kind: name for name, row in ROWS.items()}
    return names.get(type(part), f"{type(part).__module__}.{type(part).__qualname__}")


def _parameters(part: Any) -> dict[str, Any]:
    fields: tuple[dataclasses.Field[Any], ...] = (
        dataclasses.fields(part) if dataclasses.is_dataclass(part) else ()
    )
    values = {field.name: getattr(part, field.name) for field in fields}
    # no patterns, no key: so runs that were begun before there were any can be resumed
    return {name: v for name, v in values.items() if not (isinstance(v, tuple) and not v)}
