"""Modules: neurons whose parameters are tensors, and layers that connect them by ``nn.Linear``.

Weights lie in plain ``nn.Linear`` layers, so that ``neurosim.deploy`` finds them; every parameter of a neuron
is a parameter of the module, one number a neuron, that is not trained unless asked, so that
``Hardware.parameters`` can have it differ from chip to chip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neurosim.errors import UsageError, unknown
from neurosim.feedback import Feedback, OffDiagonal, feedback_of
from neurosim.models.spiking.neurons import LinearNeuron, Neuron, Step, Value
from neurosim.models.spiking.operators import Record, advance, advances, integrate, record
from neurosim.models.spiking.readout import delayed


class Neurons(nn.Module):
    """A layer of neurons: input currents (samples, steps, N) to spikes of that shape.

    LIF, CuBa-LIF, ALIF and IF run all steps in one operation (:func:`neurosim.models.spiking.integrate`);
    other neurons, and recurrent products that are more than a matrix (crossbars with ADCs), a step at a time.

    Args:
        neuron: its parameters, numbers or tensors (N,).
        size: N.
        delay_s: how long recurrent spikes take, at least a step; a step where None.
        trainable: names of parameters that are trained.

    Raises:
        UsageError: a parameter of another length, or an unknown name.

    >>> from neurosim.models.spiking import Lif
    >>> layer = Neurons(Lif(tau_mem_s=0.02), 3)
    >>> layer(torch.full((1, 100, 3), 2.0)).sum(1)
    tensor([[7., 7., 7.]])
    >>> layer.tau_mem_s.shape, layer.tau_mem_s.requires_grad
    (torch.Size([3]), False)
    """

    def __init__(
        self,
        neuron: Neuron,
        size: int,
        *,
        delay_s: Value | None = None,
        trainable: Iterable[str] = (),
    ) -> None:
        super().__init__()
        given = dict(neuron.parameters())
        if delay_s is not None:
            given["delay_s"] = delay_s
        trained = set(trainable)
        for name in sorted(trained - set(given)):
            raise unknown("parameter to train:", name, given)
        self.size = size
        self.description = neuron
        self.has_delay = delay_s is not None
        for name, value in given.items():
            parameter = nn.Parameter(_full(name, value, size), requires_grad=name in trained)
            self.register_parameter(name, parameter)

    @property
    def neuron(self) -> Neuron:
        """The description with the values of the moment."""
        return self.description.with_values(
            {name: getattr(self, name) for name in self.description.parameter_names}
        )

    @property
    def delays(self) -> Tensor | None:
        """Steps that recurrent spikes take, (N,), at least 1; None where every one takes 1."""
        if not self.has_delay:
            return None
        delay: Any = self.delay_s  # not get_parameter: a chip's own is a tensor that is no Parameter
        steps: Tensor = (delay.detach() / self.description.dt_s).round()
        return steps.clamp(min=1).to(torch.int32)

    def forward(self, currents: Tensor, feedback: Feedback | Tensor | None = None) -> Tensor:
        """Spikes.

        Args:
            currents: (samples, steps, N).
            feedback: connections among the neurons, from :func:`neurosim.feedback.feedback_of`; where chips
                differ, their matrices (chips, N, N), as an argument that is split among them.
        """
        neuron = self.neuron
        if not isinstance(neuron, LinearNeuron) or _by_steps(feedback):
            return stepwise(neuron, currents, feedback, self.delays)
        matrix = _matrix(feedback)
        delays = None if matrix is None else self.delays
        return integrate(_with_added(currents, feedback), neuron.constants(), matrix, delays)

    def record(self, currents: Tensor, feedback: Feedback | Tensor | None = None) -> Record:
        """Spikes, potentials, currents and thresholds at every step, without gradients.

        AdEx neurons have potentials in volt and currents in ampere, DPI neurons both in ampere.
        """
        neuron = self.neuron
        if not isinstance(neuron, LinearNeuron) or _by_steps(feedback):
            return _recorded_stepwise(neuron, currents, feedback, self.delays)
        matrix = _matrix(feedback)
        delays = None if matrix is None else self.delays
        return record(_with_added(currents, feedback), neuron.constants(), matrix, delays)

    def extra_repr(self) -> str:
        return f"{type(self.description).__name__}, size={self.size}"


def _full(name: str, value: Value, size: int) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.full((size,), float(value))
    if value.shape not in ((), (size,)):
        raise UsageError(f"expected {name} to be one number or {size} of them; got {tuple(value.shape)}")
    return value.detach().expand(size).clone()


def stepwise(
    neuron: Neuron,
    currents: Tensor,
    feedback: Feedback | Tensor | None = None,
    delays: Tensor | None = None,
) -> Tensor:
    """Spikes a step at a time: any neuron, any recurrent product, followed by autograd.

    Args:
        neuron: any.
        currents: (samples, steps, N).
        feedback: what gives the product of each step, or matrices (chips, N, N).
        delays: steps that the spikes of each neuron take, (N,); 1 where None.

    Returns:
        (samples, steps, N).
    """
    state, step = neuron.initial(currents[:, 0]), _stepper(neuron, currents)
    product = _product(feedback)
    spikes: list[Tensor] = []
    # not currents[:, t], whose gradient costs a copy of all steps a step
    for u in _with_added(currents, feedback).unbind(1):
        if product is not None and spikes:
            u = u + product(_arriving(spikes, delays))
        state = step(u, state)
        spikes.append(state.spike)
    return torch.stack(spikes, 1)


def _stepper(neuron: Neuron, currents: Tensor) -> Step:
    size = currents.shape[2]
    if isinstance(neuron, LinearNeuron) and advances(currents):
        return partial(advance, neuron.constants(size))
    return neuron.stepper(size)


def _recorded_stepwise(
    neuron: Neuron, currents: Tensor, feedback: Feedback | Tensor | None, delays: Tensor | None
) -> Record:
    """The record of the same; arguments as of :func:`stepwise`."""
    state, step = neuron.initial(currents[:, 0]), neuron.stepper(currents.shape[2])
    product = _product(feedback)
    states: list[Any] = []
    inputs: list[Tensor] = []
    with torch.no_grad():
        for u in _with_added(currents, feedback).unbind(1):
            if states and product is not None:
                u = u + product(_arriving([one.spike for one in states], delays))
            state = step(u, state)
            states.append(state)
            inputs.append(u)
        arrived = torch.stack(inputs, 1)
        names = [field.name for field in fields(state)]
        whole = type(state)(*(torch.stack([getattr(one, name) for one in states], 1) for name in names))
        potentials, through, levels = neuron.seen(arrived, whole)
    return Record(whole.spike, potentials, arrived, through, levels.expand_as(arrived))


def _by_steps(feedback: Feedback | Tensor | None) -> bool:
    """Whether a product is more than a matrix."""
    return isinstance(feedback, Feedback) and feedback.matrix is None


def _matrix(feedback: Feedback | Tensor | None) -> Tensor | None:
    return feedback.matrix if isinstance(feedback, Feedback) else feedback


def _with_added(currents: Tensor, feedback: Feedback | Tensor | None) -> Tensor:
    """Currents with what every product, which begin in the second step, has on top of its matrix."""
    added = feedback.added if isinstance(feedback, Feedback) else None
    if added is None or currents.shape[1] < 2:
        return currents
    by_chip = currents.unflatten(0, (added.shape[0], -1)) if added.dim() == 2 else currents.unsqueeze(0)
    first, rest = by_chip[:, :, :1], by_chip[:, :, 1:]
    shift = added.to(currents).reshape(-1, 1, 1, added.shape[-1])
    return torch.cat([first, rest + shift], 2).flatten(0, 1)


def _product(feedback: Feedback | Tensor | None) -> Callable[[Tensor], Tensor] | None:
    """The product of one step, less what :func:`_with_added` adds."""
    if feedback is None:
        return None
    matrix = _matrix(feedback)
    if matrix is None:
        assert isinstance(feedback, Feedback)
        return partial(_read, feedback.read)
    turned = matrix.transpose(-1, -2)
    if matrix.dim() == 2:
        return lambda spikes: spikes @ turned.to(spikes)
    chips = len(matrix)
    return lambda spikes: (spikes.unflatten(0, (chips, -1)) @ turned.to(spikes)).flatten(0, 1)


def _read(read: Callable[[Tensor], Tensor], spikes: Tensor) -> Tensor:
    if not torch._C._functorch.is_batchedtensor(spikes):
        return read(spikes)
    found: Tensor = _Mapped.apply(spikes, read)
    return found


class _Mapped(torch.autograd.Function):
    """A read inside a vmap over chips: crossbars find their chips on the leading axis, which vmap hides."""

    @staticmethod
    def forward(spikes: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        return read(spikes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, spikes: Tensor, read: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
        # what runs here is below the vmap: ordinary autograd follows it
        by_chip = spikes.movedim(in_dims[0], 0)
        return read(by_chip.flatten(0, 1)).unflatten(0, by_chip.shape[:2]), 0


def _arriving(spikes: list[Tensor], delays: Tensor | None) -> Tensor:
    if delays is None:
        return spikes[-1]
    arriving = torch.zeros_like(spikes[-1])
    for d in delays.unique().tolist():
        if d <= len(spikes):
            arriving = torch.where(delays == d, spikes[-d], arriving)
    return arriving


class Recurrent(nn.Module):
    """Input synapses, neurons, and synapses among them: (samples, steps, inputs) to spikes (samples, steps,
    N).

    u[t] = W_in·x[t] + b + W·s[t − 1], where the diagonal of W does not count, on chips neither.  Weights are
    those of ``input``, an ``nn.Linear``, and ``recurrent``, an :class:`neurosim.feedback.OffDiagonal`; a
    neuron's parameters are in ``neurons``.

    Args:
        inputs: channels of the input.
        size: N.
        neuron: its parameters.
        bias: whether the input has one.
        delay_s, trainable: as of :class:`Neurons`.

    >>> from neurosim.models.spiking import Lif
    >>> layer = Recurrent(4, 8, Lif())
    >>> layer(torch.ones(2, 10, 4)).shape
    torch.Size([2, 10, 8])
    """

    def __init__(
        self,
        inputs: int,
        size: int,
        neuron: Neuron,
        *,
        bias: bool = True,
        delay_s: Value | None = None,
        trainable: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, size, bias=bias)
        self.recurrent = OffDiagonal(size)
        self.neurons = Neurons(neuron, size, delay_s=delay_s, trainable=trainable)
        with torch.no_grad():
            self.recurrent.weight.fill_diagonal_(0.0)

    @property
    def feedback(self) -> Feedback:
        """The synapses among the neurons."""
        return feedback_of(self.recurrent)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.neurons(*_split(self.input(x), self.feedback))
        return spikes

    def record(self, x: Tensor) -> Record:
        """Spikes, potentials, currents and thresholds at every step, without gradients."""
        with torch.no_grad():
            return self.neurons.record(*_split(self.input(x), self.feedback))


def _split(currents: Tensor, feedback: Feedback) -> tuple[Tensor, Feedback | Tensor]:
    """Arguments of :class:`Neurons`: matrices of chips as a tensor, which is split where chips are."""
    if feedback.matrix is None or not feedback.by_chip:
        return currents, feedback
    return _with_added(currents, feedback), feedback.matrix


class Filter(nn.Module):
    """A layer without spikes, (samples, steps, N) to the same: leaky integrators, a readout, DPI synapses.

    Args:
        description: a :class:`LeakyIntegrator`, :class:`CubaLeakyIntegrator`, :class:`Integrator` or
            :class:`DpiSynapse`.
        size: N.
        trainable: names of parameters that are trained.

    >>> from neurosim.models.spiking import LeakyIntegrator
    >>> Filter(LeakyIntegrator(tau_mem_s=0.01), 2)(torch.ones(1, 5, 2)).shape
    torch.Size([1, 5, 2])
    """

    def __init__(self, description: Any, size: int, *, trainable: Iterable[str] = ()) -> None:
        super().__init__()
        trained = set(trainable)
        for name in sorted(trained - set(description.parameter_names)):
            raise unknown("parameter to train:", name, description.parameter_names)
        self.size = size
        self.description = description
        for name, value in description.parameters().items():
            parameter = nn.Parameter(_full(name, value, size), requires_grad=name in trained)
            self.register_parameter(name, parameter)

    @property
    def neuron(self) -> Any:
        """The description with the values of the moment."""
        return self.description.with_values(
            {name: getattr(self, name) for name in self.description.parameter_names}
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.neuron.filtered(x)
        return found

    def extra_repr(self) -> str:
        return f"{type(self.description).__name__}, size={self.size}"


class Delay(nn.Module):
    """Each channel later by a time of its own, rounded to steps: (samples, steps, N) to the same.

    Args:
        delay_s: seconds, one number or one a channel.
        size: N.
        dt_s: length of a step.

    >>> Delay(0.002, 1)(torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)).flatten()
    tensor([0., 0., 1.])
    """

    def __init__(self, delay_s: Value, size: int, *, dt_s: float = 1e-3) -> None:
        super().__init__()
        self.size, self.dt_s = size, dt_s
        self.delay_s = nn.Parameter(_full("delay_s", delay_s, size), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return delayed(x, (self.delay_s / self.dt_s).round().clamp(min=0).to(torch.int64))

    def extra_repr(self) -> str:
        return f"size={self.size}, dt_s={self.dt_s}"
