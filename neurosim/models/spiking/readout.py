"""Leaky integrators, which never spike, and delays: what stands before and behind spiking layers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from neurosim.errors import UsageError
from neurosim.models.spiking.neurons import Neuron, Scheme, Step, Value, decay_of, described
from neurosim.models.spiking.operators import leak


@described
class LeakyIntegrator(Neuron):
    """A membrane without spikes: τ dv/dt = (v_leak − v) + R·u; in steps v ← a·v + (1 − a)(R·u + v_leak).

    The output is v, which rests and starts at v_leak; with a = e^(−dt/τ), or 1 − dt/τ by Euler's rule.

    Attributes:
        tau_mem_s, resistance, v_leak: τ, R, v_leak.
        scheme: ``"exact"`` or ``"euler"``.

    >>> LeakyIntegrator(tau_mem_s=0.02).filtered(torch.ones(1, 40, 1))[0, [0, 19, 39], 0]
    tensor([0.0488, 0.6321, 0.8647])
    """

    tau_mem_s: Value = 0.02
    resistance: Value = 1.0
    v_leak: Value = 0.0
    scheme: Scheme = "exact"

    choices: ClassVar[tuple[str, ...]] = (*Neuron.choices, "scheme")
    above_zero: ClassVar[tuple[str, ...]] = ("tau_mem_s",)

    def initial(self, like: Tensor) -> Tensor:
        return self.v_leak + torch.zeros_like(like)

    def stepper(self, size: int) -> Step:
        a = decay_of(self.tau_mem_s, self.dt_s, self.scheme)
        return lambda u, v: a * v + (1 - a) * (self.resistance * u + self.v_leak)

    def filtered(self, currents: Tensor) -> Tensor:
        """Potentials at all steps, (samples, steps, N), of currents of that shape."""
        a = decay_of(self.tau_mem_s, self.dt_s, self.scheme)
        # what is above v_leak decays to 0
        return self.v_leak + leak((1 - a) * self.resistance * currents, _decays(a, currents))


@described
class CubaLeakyIntegrator(LeakyIntegrator):
    """The same behind a synapse: τ_s di/dt = −i + w·u, then τ dv/dt = (v_leak − v) + R·i."""

    tau_syn_s: Value = 0.01
    w_in: Value = 1.0

    above_zero: ClassVar[tuple[str, ...]] = ("tau_mem_s", "tau_syn_s")

    def initial(self, like: Tensor) -> Any:
        return torch.zeros_like(like), super().initial(like)

    def stepper(self, size: int) -> Step:
        a = decay_of(self.tau_syn_s, self.dt_s, self.scheme)
        membrane = super().stepper(size)

        def step(u: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            i = a * state[0] + (1 - a) * self.w_in * u
            return i, membrane(i, state[1])

        return step

    def filtered(self, currents: Tensor) -> Tensor:
        a = decay_of(self.tau_syn_s, self.dt_s, self.scheme)
        return super().filtered(leak((1 - a) * self.w_in * currents, _decays(a, currents)))


@described
class Integrator(Neuron):
    """A membrane without spikes and without a leak: dv/dt = R·u; in steps v ← v + R·dt·u."""

    resistance: Value = 1.0

    def initial(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like)

    def stepper(self, size: int) -> Step:
        return lambda u, v: v + self.resistance * self.dt_s * u

    def filtered(self, currents: Tensor) -> Tensor:
        """Potentials at all steps, (samples, steps, N), of currents of that shape."""
        return leak(self.resistance * self.dt_s * currents, _decays(1.0, currents))


def _decays(a: Value, like: Tensor) -> Tensor:
    return torch.as_tensor(a, dtype=like.dtype, device=like.device).expand(like.shape[-1])


def delayed(x: Tensor, steps: Tensor) -> Tensor:
    """Each channel as many whole steps later: y[:, t, k] = x[:, t − steps[k], k], and 0 before.

    Args:
        x: (samples, steps in time, N).
        steps: (N,), whole numbers of at least 0.

    >>> delayed(torch.arange(6.0).view(1, 3, 2), torch.tensor([0, 2]))[0].tolist()
    [[0.0, 0.0], [2.0, 0.0], [4.0, 1.0]]
    """
    if x.dim() != 3 or steps.shape != x.shape[2:]:
        raise UsageError(
            f"expected a delay for each channel of {tuple(x.shape)}; got them of shape {tuple(steps.shape)}"
        )
    sent = torch.arange(x.shape[1], device=x.device)[:, None] - steps
    found = x.gather(1, sent.clamp(min=0).expand_as(x))
    return torch.where(sent >= 0, found, torch.zeros((), dtype=x.dtype, device=x.device))
