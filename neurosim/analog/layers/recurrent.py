"""Recurrent layers and cells: their products on crossbars, their gates digital.

A crossbar computes the products with the inputs of all time steps at once, another, once a step, those with
the hidden state.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from neurosim.analog.crossbar import ContractError, Crossbar
from neurosim.analog.layers.base import OnCrossbars, Site, optional
from neurosim.analog.operators import Matmul
from neurosim.errors import UsageError

# (products with the input, products with the hidden state, state) → state; the first of a state is the output
State = tuple[Tensor, ...]
Step = Callable[[Tensor, Tensor, State], State]
Read = Callable[[Tensor], Tensor]


def lstm_step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """i, f, g, o = gates; c′ = σ(f)·c + σ(i)·tanh(g); h′ = σ(o)·tanh(c′)."""
    i, f, g, o = (from_input + from_hidden).chunk(4, dim=-1)
    cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def gru_step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """r = σ(r_x + r_h); z = σ(z_x + z_h); n = tanh(n_x + r·n_h); h′ = (1 − z)·n + z·h."""
    # parts of a wider tensor, which torch takes row by row: how it rounds then depends on no other row
    r, z, _ = (from_input + from_hidden).chunk(3, dim=-1)
    n_x, n_h = from_input.chunk(3, dim=-1)[2], from_hidden.chunk(3, dim=-1)[2]
    new = torch.tanh(n_x + torch.sigmoid(r) * n_h)
    z = torch.sigmoid(z)
    return (new + z * (state[0] - new),)


def tanh_step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """h′ = tanh(x + h)."""
    return (torch.tanh(from_input + from_hidden),)


def relu_step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """h′ = max(x + h, 0)."""
    return (torch.relu(from_input + from_hidden),)


STEPS: dict[str, Step] = {
    "LSTM": lstm_step,
    "GRU": gru_step,
    "RNN_TANH": tanh_step,
    "RNN_RELU": relu_step,
}


class _Weights(OnCrossbars):
    """A layer with several named weights."""

    def _read(self, key: str) -> Read:
        """The product with one weight, realised once for all its uses in this forward."""
        weight: Tensor = getattr(self, key)
        bias = optional(self, key.replace("weight", "bias"))
        crossbar = self._crossbars[key]
        if crossbar.bench.active is None:
            return lambda x: crossbar.forward(x, weight, bias)
        held = crossbar.hold(weight, bias)
        return lambda x: crossbar.read(x, weight, held)


class _Recurrent(_Weights, nn.RNNBase):
    """``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``, stacked, in both directions, with projections."""

    @staticmethod
    def place(site: Site) -> dict[str, Crossbar]:
        layer = site.layer
        assert isinstance(layer, nn.RNNBase)
        keys = [key for names in layer._all_weights for key in names if key.startswith("weight")]
        return {key: site.crossbar(key, Matmul(), bias=key.replace("weight", "bias")) for key in keys}

    def forward(self, input: Any, hx: Any = None) -> Any:
        if self._idle:
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        x = x.transpose(0, 1) if self.batch_first and batched else x
        states = None if hx is None else [h if batched else h.unsqueeze(1) for h in _tuple(hx)]
        y, last = self._layers(x, self._initial(states, x.shape[1], x), None)
        y = y.transpose(0, 1) if self.batch_first and batched else y
        return (y if batched else y.squeeze(1)), self._as_given(
            [h if batched else h.squeeze(1) for h in last]
        )

    def _packed(self, packed: PackedSequence, hx: Any) -> Any:
        active = next(iter(self._crossbars.values())).bench.active
        if active is not None and len(active.numbers) > 1:
            raise ContractError("packed sequences sort the samples of all chips together")
        sizes = packed.batch_sizes.tolist()
        order = packed.sorted_indices
        states = None if hx is None else [h if order is None else h[:, order] for h in _tuple(hx)]
        y, last = self._layers(packed.data, self._initial(states, sizes[0], packed.data), sizes)
        back = packed.unsorted_indices
        last = [h if back is None else h[:, back] for h in last]
        return PackedSequence(y, packed.batch_sizes, order, back), self._as_given(last)

    def _initial(self, given: list[Tensor] | None, batch: int, x: Tensor) -> list[Tensor]:
        """(layers · directions, batch, size) of each part of the state."""
        rows = self.num_layers * (2 if self.bidirectional else 1)
        sizes = [self.proj_size or self.hidden_size, *([self.hidden_size] if self.mode == "LSTM" else [])]
        if given is None:
            return [x.new_zeros(rows, batch, size) for size in sizes]
        expected = [(rows, batch, size) for size in sizes]
        if [tuple(h.shape) for h in given] != expected:
            sentence = (
                f"expected an initial state of shape {expected[0]}; got {[tuple(h.shape) for h in given]}"
            )
            active = next(iter(self._crossbars.values())).bench.active
            # its first axis may happen to be as long as the batch: then chips cannot ride there
            raise ContractError(sentence) if active is not None and active.linear else UsageError(sentence)
        return given

    def _as_given(self, last: list[Tensor]) -> Any:
        return tuple(last) if self.mode == "LSTM" else last[0]

    def _layers(
        self, x: Tensor, initial: list[Tensor], sizes: list[int] | None
    ) -> tuple[Tensor, list[Tensor]]:
        directions = 2 if self.bidirectional else 1
        last: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                row = layer * directions + direction
                state = tuple(h[row] for h in initial)
                suffix = f"l{layer}" + ("_reverse" if direction else "")
                y, final = self._direction(x, state, suffix, bool(direction), sizes)
                outputs.append(y)
                last.append(final)
            x = torch.cat(outputs, dim=-1) if directions == 2 else outputs[0]
            if self.dropout and self.training and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, training=True)
        return x, [torch.stack(parts) for parts in zip(*last, strict=True)]

    def _direction(
        self, x: Tensor, state: State, suffix: str, reverse: bool, sizes: list[int] | None
    ) -> tuple[Tensor, State]:
        hidden = self._read(f"weight_hh_{suffix}")
        project = self._read(f"weight_hr_{suffix}") if self.proj_size else None
        step = _with_projection(STEPS[self.mode], project)
        from_input = self._read(f"weight_ih_{suffix}")
        if sizes is not None:
            return _run_packed(from_input(x), hidden, step, state, sizes, reverse)
        # batch first: crossbars find the samples of a chip on the leading axis
        inputs = from_input(x.transpose(0, 1)).transpose(0, 1)
        return _run(inputs, hidden, step, state, reverse)


def _with_projection(step: Step, project: Read | None) -> Step:
    if project is None:
        return step

    def projected(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
        hidden, cell = step(from_input, from_hidden, state)
        return project(hidden), cell

    return projected


def _run(inputs: Tensor, hidden: Read, step: Step, state: State, reverse: bool) -> tuple[Tensor, State]:
    """All steps of inputs (steps, batch, …)."""
    outputs = []
    slices = inputs.unbind(0)  # not inputs[t], whose gradient would cost a copy of all steps a step
    for one in reversed(slices) if reverse else slices:
        state = step(one, hidden(state[0]), state)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if reverse else outputs), state


def _run_packed(
    inputs: Tensor, hidden: Read, step: Step, initial: State, sizes: list[int], reverse: bool
) -> tuple[Tensor, State]:
    """The same for packed inputs, (Σ sizes, …): of step *t* only the ``sizes[t]`` longest samples."""
    slices = list(inputs.split(sizes))
    outputs: list[Tensor] = [inputs] * len(sizes)
    state = initial
    for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
        size = sizes[t]
        running = step(slices[t], hidden(state[0][:size]), tuple(part[:size] for part in state))
        outputs[t] = running[0]
        pairs = zip(running, state, strict=True)
        state = tuple(torch.cat([new, old[size:]]) if size < len(old) else new for new, old in pairs)
    return torch.cat(outputs), state


def _tuple(hx: Any) -> tuple[Tensor, ...]:
    return hx if isinstance(hx, tuple) else (hx,)


class LSTMOnCrossbars(_Recurrent):
    """``nn.LSTM``."""

    kind = nn.LSTM


class GRUOnCrossbars(_Recurrent):
    """``nn.GRU``."""

    kind = nn.GRU


class RNNOnCrossbars(_Recurrent):
    """``nn.RNN``."""

    kind = nn.RNN


class _Cell(_Weights, nn.RNNCellBase):
    """One step of a recurrent layer."""

    @staticmethod
    def place(site: Site) -> dict[str, Crossbar]:
        keys = ("weight_ih", "weight_hh")
        return {key: site.crossbar(key, Matmul(), bias=key.replace("weight", "bias")) for key in keys}

    @abstractmethod
    def _mode(self) -> str:
        """Which of :data:`STEPS` it takes."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        if self._idle:
            return cast("Callable[[Tensor, Any], Any]", super().forward)(input, hx)
        mode = self._mode()
        if hx is None:
            zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
            hx = (zeros, zeros) if mode == "LSTM" else zeros
        state = _tuple(hx)
        step = STEPS[mode]
        found = step(self._read("weight_ih")(input), self._read("weight_hh")(state[0]), state)
        return found if mode == "LSTM" else found[0]


class LSTMCellOnCrossbars(_Cell):
    """``nn.LSTMCell``."""

    kind = nn.LSTMCell

    def _mode(self) -> str:
        return "LSTM"


class GRUCellOnCrossbars(_Cell):
    """``nn.GRUCell``."""

    kind = nn.GRUCell

    def _mode(self) -> str:
        return "GRU"


class RNNCellOnCrossbars(_Cell):
    """``nn.RNNCell``."""

    kind = nn.RNNCell
    nonlinearity: str

    def _mode(self) -> str:
        return f"RNN_{self.nonlinearity.upper()}"
