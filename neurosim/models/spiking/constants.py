"""What one time step of a linear integrate-and-fire neuron computes with: numbers per neuron and choices.

LIF, CuBa-LIF and ALIF are one recurrence, of which each uses a part (u input, i synaptic current, v
potential, b adaptation, B threshold, s spike; t counts steps)::

    i[t] = α_s·i[t−1] + g_s·u[t]                              or u[t] without a synapse
    b[t] = α_b·b[t−1] + (1 − α_b)·s[t−1];  B[t] = θ + β·b[t]   or θ without adaptation
    v[t] = α·v[t−1] + g·i[t] + l − s[t−1]·B[t]                 reset by subtraction
    v[t] = α·w[t−1] + g·i[t] + l, w = v_r after a spike         reset to a value; v_r while refractory
    s[t] = H(v[t] − B[t])                                      0 while refractory
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

import torch
from torch import Tensor

from neurosim.models.spiking.surrogates import Surrogate


class Row(IntEnum):
    """Rows of :attr:`Constants.values`."""

    DECAY = 0
    GAIN = 1
    LEAK = 2
    THRESHOLD = 3
    INITIAL = 4
    RESET = 5
    SYN_DECAY = 6
    SYN_GAIN = 7
    ADA_DECAY = 8
    ADA_GAIN = 9


class Flag(IntFlag):
    """Which parts of the recurrence a neuron uses."""

    NONE = 0
    SYNAPSE = 1
    ADAPTIVE = 2
    SUBTRACT = 4
    DETACHED = 8
    RELATIVE = 16
    REFRACTORY = 32
    DELAYED = 64


@dataclass(frozen=True)
class Constants:
    """One layer of neurons as its time step needs them.

    Attributes:
        values: (rows, N), or (chips, rows, N) where chips differ; autograd follows them.
        blocked: steps for which a neuron cannot spike after it has, (N,) or (chips, N), whole numbers.
        flags: which parts are used.
        surrogate: the derivative of a spike.
    """

    values: Tensor
    blocked: Tensor
    flags: Flag
    surrogate: Surrogate

    def row(self, row: Row) -> Tensor:
        """One constant, (N,) or (chips, N)."""
        return self.values.select(-2, row)


@dataclass(frozen=True)
class State:
    """What a layer remembers from one step to the next, each (…, N).

    Attributes:
        v: potential, before the reset that its spike causes.
        spike: 0 or 1.
        current: of the synapse.
        adaptation: b.
        left: steps for which the neuron is still refractory.
    """

    v: Tensor
    spike: Tensor
    current: Tensor
    adaptation: Tensor
    left: Tensor


def rest(k: Constants, like: Tensor) -> State:
    """The state before the first step, for inputs (…, N)."""
    zeros = torch.zeros_like(like)
    return State(k.row(Row.INITIAL) + zeros, zeros, zeros, zeros, zeros.to(torch.int32))


def step(k: Constants, u: Tensor, state: State) -> State:
    """One time step, a pure function: (…, N) input and state to the next state.

    Autograd follows it: the slow way that :func:`neurosim.models.spiking.integrate` agrees with.  Constants
    are those of one chip, (rows, N).
    """
    i = u
    if k.flags & Flag.SYNAPSE:
        i = k.row(Row.SYN_DECAY) * state.current + k.row(Row.SYN_GAIN) * u
    past = state.spike.detach() if k.flags & Flag.DETACHED else state.spike
    b, level = state.adaptation, k.row(Row.THRESHOLD)
    if k.flags & Flag.ADAPTIVE:
        b = k.row(Row.ADA_DECAY) * b + (1 - k.row(Row.ADA_DECAY)) * state.spike
        level = level + k.row(Row.ADA_GAIN) * b
    v = k.row(Row.DECAY) * _after_reset(k, state.v, past) + k.row(Row.GAIN) * i + k.row(Row.LEAK)
    if k.flags & Flag.SUBTRACT:
        v = v - past * level
    if not k.flags & Flag.REFRACTORY:
        return State(v, k.surrogate.spike(v, level), i, b, state.left)
    free = state.left == 0
    if not k.flags & Flag.SUBTRACT:
        v = torch.where(free, v, k.row(Row.RESET))
    spike = torch.where(free, k.surrogate.spike(v, level), torch.zeros_like(v))
    left = torch.where(spike > 0, k.blocked, (state.left - 1).clamp(min=0)).to(torch.int32)
    return State(v, spike, i, b, left)


def _after_reset(k: Constants, v: Tensor, spike: Tensor) -> Tensor:
    if k.flags & Flag.SUBTRACT:
        return v
    return v + spike * (k.row(Row.RESET) - v)
