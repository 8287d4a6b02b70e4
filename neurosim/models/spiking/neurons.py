"""Linear integrate-and-fire neurons: LIF, CuBa-LIF, ALIF and IF, described by physical parameters.

A neuron is a frozen description: its parameters are numbers, the same for every neuron of a layer, or tensors
with one number a neuron.  Quantities are SI; potentials and currents have the unit that the network gives
them.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self, TypeVar, cast, dataclass_transform

import torch
from torch import Tensor

from neurosim.errors import UsageError
from neurosim.models.spiking.constants import Constants, Flag, Row, State, rest, step
from neurosim.models.spiking.surrogates import Surrogate

T = TypeVar("T")
Value = float | Tensor
Reset = Literal["value", "subtract"]
Scheme = Literal["exact", "euler"]
Step = Callable[[Tensor, Any], Any]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def described(cls: type[T]) -> type[T]:
    """Make a class a frozen description: a dataclass that knows which fields are parameters."""
    made: Any = dataclass(frozen=True, kw_only=True)(cls)
    made.parameter_names = tuple(one.name for one in dataclasses.fields(made) if one.name not in made.choices)
    return cast("type[T]", made)


@described
class Neuron:
    """What every neuron has: a time step, a surrogate, and parameters that differ from neuron to neuron.

    Attributes:
        dt_s: length of a time step.
        surrogate: the derivative of a spike.
    """

    dt_s: float = 1e-3
    surrogate: Surrogate = Surrogate()

    parameter_names: ClassVar[tuple[str, ...]]
    # fields that are choices, and not parameters with a value for each neuron
    choices: ClassVar[tuple[str, ...]] = ("dt_s", "surrogate")
    # parameters that must be above 0, and that must not be below it
    above_zero: ClassVar[tuple[str, ...]] = ()
    not_below_zero: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not (isinstance(self.dt_s, (int, float)) and math.isfinite(self.dt_s) and self.dt_s > 0):
            raise UsageError(f"expected dt_s to be a number of seconds above 0; got {self.dt_s!r}")
        for name, value in self.parameters().items():
            _check(type(self).__name__, name, value, self.above_zero, self.not_below_zero)

    def parameters(self) -> dict[str, Value]:
        """Those that each neuron has a value of: name → value."""
        return {name: getattr(self, name) for name in self.parameter_names}

    def with_values(self, values: Mapping[str, Value]) -> Self:
        """The same with other values of the parameters."""
        kept = {name: getattr(self, name) for name in self.choices}
        given: dict[str, Any] = {**kept, **values}
        return type(self)(**given)

    @abstractmethod
    def initial(self, like: Tensor) -> Any:
        """The state before the first step, for inputs (…, N); its ``spike`` is 0."""

    @abstractmethod
    def stepper(self, size: int) -> Step:
        """The pure function from an input (…, size) and a state to the next state, whose ``spike`` is the
        output."""

    def seen(self, u: Tensor, state: Any) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`Neurons.record` keeps of a step, or of all, with input u: the potential before a reset,
        the current that drove it, and the level that it had to pass, each (…, N)."""
        raise UsageError(f"expected neurons with spikes to record; got {type(self).__name__}")


def _check(kind: str, name: str, value: Value, above: tuple[str, ...], not_below: tuple[str, ...]) -> None:
    if isinstance(value, Tensor):
        return  # a chip's own may be anything that its physics gives
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"expected {name} of {kind} to be a number or a tensor; got {value!r}")
    if (name in above and value <= 0) or (name in not_below and value < 0):
        bound = "above 0" if name in above else "at least 0"
        raise UsageError(f"expected {name} of {kind} to be {bound}; got {value!r}")


def decay_of(tau_s: Value, dt_s: float, scheme: Scheme = "exact") -> Value:
    """What one step leaves of a state with the time constant τ: e^(−dt/τ), or 1 − dt/τ by Euler's rule.

    >>> round(decay_of(0.02, 1e-3), 4), decay_of(0.02, 1e-3, "euler")
    (0.9512, 0.95)
    """
    if scheme == "euler":
        return 1 - dt_s / tau_s
    return torch.exp(-dt_s / tau_s) if isinstance(tau_s, Tensor) else math.exp(-dt_s / tau_s)


@described
class LinearNeuron(Neuron):
    """A neuron whose step is the recurrence of :mod:`neurosim.models.spiking.constants`.

    Attributes:
        resistance: R.
        v_threshold: θ, which the potential must pass.
        v_reset: what the potential is after a spike, where ``reset`` is ``"value"``.
        refractory_s: two spikes of a neuron are at least as far apart; rounded to steps.
        reset: ``"value"``: v_reset after a spike and while refractory; ``"subtract"``: the threshold is
        subtracted
            in the step after the spike, and the potential goes on while refractory.
        detach_reset: gradients do not pass through the reset.
    """

    resistance: Value = 1.0
    v_threshold: Value = 1.0
    v_reset: Value = 0.0
    refractory_s: Value = 0.0
    reset: Reset = "value"
    detach_reset: bool = False

    choices: ClassVar[tuple[str, ...]] = ("dt_s", "surrogate", "reset", "detach_reset")
    not_below_zero: ClassVar[tuple[str, ...]] = ("refractory_s",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reset not in ("value", "subtract"):
            raise UsageError(f"expected reset to be 'value' or 'subtract'; got {self.reset!r}")
        if self.surrogate.relative and isinstance(self.v_threshold, (int, float)) and self.v_threshold <= 0:
            raise UsageError(
                f"expected v_threshold above 0 with a relative surrogate; got {self.v_threshold!r}"
            )

    @abstractmethod
    def rows(self) -> dict[Row, Value]:
        """The constants of a step; those left out are 0."""

    def extra_flags(self) -> Flag:
        """Parts of the recurrence beyond the membrane."""
        return Flag.NONE

    def constants(self, size: int | None = None) -> Constants:
        """What one step computes with.

        Args:
            size: number of neurons, where every parameter is a number.

        Raises:
            UsageError: tensors of different lengths, or no number of neurons.
        """
        values = self.rows()
        given = [value for value in self.parameters().values() if isinstance(value, Tensor)]
        if size is None and not any(one.dim() for one in given):
            raise UsageError("expected the number of neurons, as every parameter is the same for all")
        try:
            shape = torch.broadcast_shapes(*(one.shape for one in given), (1 if size is None else size,))
        except RuntimeError as error:
            shapes = sorted({tuple(one.shape) for one in given})
            raise UsageError(
                f"expected parameters of {size} neurons; got tensors of shapes {shapes}"
            ) from error
        like = given[0] if given else torch.empty((), dtype=torch.get_default_dtype())
        full = [_spread(values.get(row, 0.0), shape, like) for row in Row]
        # as many steps as fit, to the nearest: seconds are not exact multiples of each other
        steps = (_spread(self.refractory_s, shape, like).detach() / self.dt_s).round().to(torch.int32)
        if self.reset == "subtract":
            steps = (steps - 1).clamp(min=0)
        flags = self.extra_flags() | (Flag.SUBTRACT if self.reset == "subtract" else Flag.NONE)
        flags |= Flag.DETACHED if self.detach_reset else Flag.NONE
        flags |= Flag.REFRACTORY if self._may_be_refractory() else Flag.NONE
        return Constants(torch.stack(full, dim=-2), steps, flags, self.surrogate)

    def _may_be_refractory(self) -> bool:
        # of a tensor the values are not looked at: they may have none (meta device) or be mapped over
        return isinstance(self.refractory_s, Tensor) or self.refractory_s > 0

    def initial(self, like: Tensor) -> Any:
        return rest(self.constants(like.shape[-1]), like)

    def stepper(self, size: int) -> Step:
        return partial(step, self.constants(size))

    def seen(self, u: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
        k = self.constants(u.shape[-1])
        level = k.row(Row.THRESHOLD) + k.row(Row.ADA_GAIN) * state.adaptation  # without adaptation both are 0
        return state.v, state.current, level


def _spread(value: Value, shape: tuple[int, ...], like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.expand(shape)
    return torch.full(shape, float(value), dtype=like.dtype, device=like.device)


@described
class Lif(LinearNeuron):
    """Leaky integrate and fire::

        τ dv/dt = (v_leak − v) + R·u,   spike and reset where v > θ

    in steps: v ← a·v + (1 − a)·(R·u + v_leak), with a = e^(−dt/τ), exact for an input that is constant within
    a step, or a = 1 − dt/τ.  At a constant input above threshold a neuron fires every
    refractory_s + τ·ln((R·u + v_leak − v_reset)/(R·u + v_leak − θ)) seconds.  Source: Gerstner, Kistler,
    Naud, Paninski, Neuronal Dynamics (2014), section 1.3.

    Attributes:
        tau_mem_s: τ.
        v_leak: where the potential rests, and starts.
        scheme: ``"exact"`` or ``"euler"``.

    >>> v = Lif(tau_mem_s=0.02, v_threshold=0.9)
    >>> state = v.initial(torch.zeros(1))
    >>> v.stepper(1)(torch.ones(1), state).v
    tensor([0.0488])
    """

    tau_mem_s: Value = 0.02
    v_leak: Value = 0.0
    scheme: Scheme = "exact"

    choices: ClassVar[tuple[str, ...]] = (*LinearNeuron.choices, "scheme")
    above_zero: ClassVar[tuple[str, ...]] = ("tau_mem_s",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheme not in ("exact", "euler"):
            raise UsageError(f"expected scheme to be 'exact' or 'euler'; got {self.scheme!r}")

    def rows(self) -> dict[Row, Value]:
        a = decay_of(self.tau_mem_s, self.dt_s, self.scheme)
        return {
            Row.DECAY: a,
            Row.GAIN: (1 - a) * self.resistance,
            Row.LEAK: (1 - a) * self.v_leak,
            Row.THRESHOLD: self.v_threshold,
            Row.INITIAL: self.v_leak,
            Row.RESET: self.v_reset,
        }


@described
class CubaLif(Lif):
    """Leaky integrate and fire with a synapse whose current decays::

        τ_s di/dt = −i + w·u
        τ   dv/dt = (v_leak − v) + R·i

    in steps: i ← a_s·i + (1 − a_s)·w·u, then v as of :class:`Lif`.  With w = 1/(1 − a_s) a spike adds its
    weight to the current, as in Norse and snnTorch.  A spike that arrives at t = 0 causes the potential
    R·w·dt/(τ − τ_s)·(e^(−t/τ) − e^(−t/τ_s)) for small dt.

    Attributes:
        tau_syn_s: τ_s.
        w_in: w.
    """

    tau_syn_s: Value = 0.01
    w_in: Value = 1.0

    above_zero: ClassVar[tuple[str, ...]] = ("tau_mem_s", "tau_syn_s")

    def extra_flags(self) -> Flag:
        return Flag.SYNAPSE

    def rows(self) -> dict[Row, Value]:
        a = decay_of(self.tau_syn_s, self.dt_s, self.scheme)
        return {**super().rows(), Row.SYN_DECAY: a, Row.SYN_GAIN: (1 - a) * self.w_in}


@described
class Alif(Lif):
    """Leaky integrate and fire with a threshold that adapts: the neuron of LSNNs::

        b ← ρ·b + (1 − ρ)·s,  ρ = e^(−dt/τ_b);   B = θ + β·b
        v ← a·v + (1 − a)·u − s·B,   then s = H(v − B)

    s on the right being the spike of the step before.  Defaults are those of Büchel, Faber and Muir, ICLR
    2022 (arXiv:2106.05009), whose refractory time of 2 steps leaves one silent step between spikes.  Source:
    Bellec, Salaj, Subramoney, Legenstein, Maass, NeurIPS 2018 (arXiv:1803.09574).

    Attributes:
        tau_ada_s: τ_b.
        beta_ada: β.
    """

    v_threshold: Value = 0.01
    refractory_s: Value = 0.002
    reset: Reset = "subtract"
    tau_ada_s: Value = 0.098
    beta_ada: Value = 2.0
    surrogate: Surrogate = Surrogate("triangle", 0.3)

    above_zero: ClassVar[tuple[str, ...]] = ("tau_mem_s", "tau_ada_s")

    def extra_flags(self) -> Flag:
        return Flag.ADAPTIVE

    def rows(self) -> dict[Row, Value]:
        rho = decay_of(self.tau_ada_s, self.dt_s, self.scheme)
        return {**super().rows(), Row.ADA_DECAY: rho, Row.ADA_GAIN: self.beta_ada}


@described
class If(LinearNeuron):
    """Integrate and fire, without a leak: dv/dt = R·u; in steps v ← v + R·dt·u.

    Fires every (θ − v_reset)/(R·u) seconds at a constant input.
    """

    def rows(self) -> dict[Row, Value]:
        return {
            Row.DECAY: 1.0,
            Row.GAIN: self.resistance * self.dt_s,
            Row.THRESHOLD: self.v_threshold,
            Row.RESET: self.v_reset,
        }
