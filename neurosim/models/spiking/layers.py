"""Modules: neurons whose parameters are tensors, and layers that connect them by ``nn.Linear``.

Weights lie in plain ``nn.Linear`` layers, so that ``neurosim.deploy`` finds them; every parameter of a neuron
is a parameter of the module, one number a neuron, that is not trained unless asked, so that
``Hardware.parameters`` can have it differ from chip to chip.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neurosim.errors import UsageError, unknown
from neurosim.models.spiking.constants import Constants, Row, State, rest, step
from neurosim.models.spiking.neurons import LinearNeuron, Neuron, Value
from neurosim.models.spiking.operators import Record, integrate, record
from neurosim.models.spiking.readout import delayed


@dataclass(frozen=True, eq=False)
class Feedback:
    """Synapses from a layer of neurons to itself.

    Attributes:
        layer: holds the weight, (N, N), to each neuron from each neuron.
        self_connections: whether the diagonal counts; else it is taken for 0.
    """

    layer: nn.Linear
    self_connections: bool = False

    @property
    def plain(self) -> bool:
        """Whether the layer is a product with its weight and nothing else: no hook, no crossbar."""
        layer = self.layer
        own = type(layer).forward is nn.Linear.forward and "forward" not in layer.__dict__
        return own and not layer._forward_hooks and not layer._forward_pre_hooks and layer.bias is None

    @property
    def weight(self) -> Tensor:
        """The weight, without the diagonal where that does not count."""
        weight = self.layer.weight
        if self.self_connections:
            return weight
        return weight * (1 - torch.eye(weight.shape[0], dtype=weight.dtype, device=weight.device))


class Neurons(nn.Module):
    """A layer of neurons: input currents (samples, steps, N) to spikes of that shape.

    LIF, CuBa-LIF, ALIF and IF run all steps in one operation (:func:`neurosim.models.spiking.integrate`);
    other neurons, and recurrent products that something else computes (crossbars with converters), a step at
    a time.

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
        steps = (self.get_parameter("delay_s").detach() / self.description.dt_s).round()
        return steps.clamp(min=1).to(torch.int32)

    def forward(self, currents: Tensor, feedback: Feedback | None = None) -> Tensor:
        neuron = self.neuron
        if isinstance(neuron, LinearNeuron) and (feedback is None or feedback.plain):
            weight = None if feedback is None else feedback.weight
            return integrate(currents, neuron.constants(), weight, None if weight is None else self.delays)
        return stepwise(neuron, currents, feedback, self.delays)

    def record(self, currents: Tensor, feedback: Feedback | None = None) -> Record:
        """Spikes, potentials, currents and thresholds at every step, without gradients.

        Raises:
            UsageError: neurons other than LIF, CuBa-LIF, ALIF and IF.
        """
        neuron = self.neuron
        if not isinstance(neuron, LinearNeuron):
            raise UsageError(f"expected LIF-like neurons to record; got {type(neuron).__name__}")
        if feedback is not None and not feedback.plain:
            return _recorded_stepwise(neuron.constants(), currents, feedback, self.delays)
        weight = None if feedback is None else feedback.weight
        return record(currents, neuron.constants(), weight, None if weight is None else self.delays)

    def extra_repr(self) -> str:
        return f"{type(self.description).__name__}, size={self.size}"


def _full(name: str, value: Value, size: int) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.full((size,), float(value))
    if value.shape not in ((), (size,)):
        raise UsageError(f"expected {name} to be one number or {size} of them; got {tuple(value.shape)}")
    return value.detach().expand(size).clone()


def stepwise(
    neuron: Neuron, currents: Tensor, feedback: Feedback | None = None, delays: Tensor | None = None
) -> Tensor:
    """Spikes a step at a time: any neuron, any recurrent product, followed by autograd.

    Args:
        neuron: any.
        currents: (samples, steps, N).
        feedback: whose layer is called once a step.
        delays: steps that the spikes of each neuron take, (N,); 1 where None.

    Returns:
        (samples, steps, N).
    """
    if feedback is not None and not feedback.plain and torch._C._functorch.is_batchedtensor(currents):
        # crossbars find their chips on the leading axis, which vmap hides: chips must run one at a time
        raise RuntimeError("a recurrent layer on crossbars cannot be mapped over chips")
    state, step = neuron.initial(currents[:, 0]), neuron.stepper(currents.shape[2])
    spikes: list[Tensor] = []
    for u in currents.unbind(1):  # not currents[:, t], whose gradient costs a copy of all steps a step
        if feedback is not None and spikes:
            u = u + _product(feedback, _arriving(spikes, delays))
        state = step(u, state)
        spikes.append(state.spike)
    return torch.stack(spikes, 1)


def _recorded_stepwise(k: Constants, currents: Tensor, feedback: Feedback, delays: Tensor | None) -> Record:
    """The record of the same; arguments as of :func:`stepwise`, with the constants of one chip."""
    state = rest(k, currents[:, 0])
    states: list[State] = []
    inputs: list[Tensor] = []
    with torch.no_grad():
        for u in currents.unbind(1):
            if states:
                u = u + _product(feedback, _arriving([one.spike for one in states], delays))
            state = step(k, u, state)
            states.append(state)
            inputs.append(u)
        spikes, v, i, b = (
            torch.stack([getattr(one, name) for one in states], 1)
            for name in ("spike", "v", "current", "adaptation")
        )
        levels = k.row(Row.THRESHOLD) + k.row(Row.ADA_GAIN) * b  # without adaptation both are 0
    return Record(spikes, v, torch.stack(inputs, 1), i, levels)


def _product(feedback: Feedback, spikes: Tensor) -> Tensor:
    if feedback.plain:
        return spikes @ feedback.weight.t()
    found: Tensor = feedback.layer(spikes)
    return found


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

    u[t] = W_in·x[t] + b + W·s[t − 1], where the diagonal of W does not count.  Weights are those of ``input``
    and ``recurrent``, two ``nn.Linear``; a neuron's parameters are in ``neurons``.

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
        self.recurrent = nn.Linear(size, size, bias=False)
        self.neurons = Neurons(neuron, size, delay_s=delay_s, trainable=trainable)
        with torch.no_grad():
            self.recurrent.weight.fill_diagonal_(0.0)

    @property
    def feedback(self) -> Feedback:
        """The synapses among the neurons."""
        return Feedback(self.recurrent)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.neurons(self.input(x), self.feedback)
        return spikes

    def record(self, x: Tensor) -> Record:
        """Spikes, potentials, currents and thresholds at every step, without gradients."""
        with torch.no_grad():
            return self.neurons.record(self.input(x), self.feedback)


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
