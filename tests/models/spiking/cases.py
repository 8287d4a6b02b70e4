"""Layers that every way of computing them is tried on, and the loop of single steps under autograd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosim.models.spiking import Alif, CubaLif, If, Lif, LinearNeuron, Surrogate, integrate, step
from neurosim.models.spiking.constants import Constants, rest

STEPS, BATCH, SIZE = 40, 5, 6
NEURONS: dict[str, LinearNeuron] = {
    "lif": Lif(v_threshold=0.4, v_leak=0.05, v_reset=-0.1),
    "lif refractory": Lif(v_threshold=0.4, refractory_s=3e-3),
    "lif subtract": Lif(v_threshold=0.4, reset="subtract", surrogate=Surrogate("triangle")),
    "lif detached": Lif(v_threshold=0.4, detach_reset=True, surrogate=Surrogate("exponential")),
    "lif subtract detached": Lif(v_threshold=0.4, reset="subtract", detach_reset=True),
    "lif absolute": Lif(v_threshold=0.4, surrogate=Surrogate("arctan", relative=False), scheme="euler"),
    "cuba": CubaLif(v_threshold=0.3, surrogate=Surrogate("arctan"), w_in=2.0),
    "cuba refractory": CubaLif(v_threshold=0.3, refractory_s=2e-3, reset="subtract"),
    "alif": Alif(v_threshold=0.3, beta_ada=1.5),
    "alif to a value": Alif(v_threshold=0.3, reset="value", v_reset=-0.1),
    "if": If(resistance=60.0, v_threshold=0.5),
}
each_neuron = pytest.mark.parametrize("name", NEURONS)
each_delay = pytest.mark.parametrize("delayed", [False, True], ids=["at once", "delayed"])


class Case:
    """Random inputs and parameters that differ from neuron to neuron."""

    def __init__(self, name: str, dtype: torch.dtype, delayed: bool = False, seed: int = 0) -> None:
        source = torch.Generator().manual_seed(seed)
        neuron = NEURONS[name]
        spread = {
            key: value * (1 + 0.1 * torch.rand(SIZE, generator=source, dtype=torch.float64))
            for key, value in neuron.parameters().items()
            if key != "refractory_s"
        }
        self.k = replace(neuron, **spread).constants()
        self.k = replace(self.k, values=self.k.values.to(dtype).detach().requires_grad_())
        u = 3.0 * torch.rand(BATCH, STEPS, SIZE, generator=source, dtype=torch.float64) - 0.1
        w = 1.5 * torch.randn(SIZE, SIZE, generator=source, dtype=torch.float64)
        self.u, self.w = (one.to(dtype).requires_grad_() for one in (u, w))
        self.grad = torch.randn(BATCH, STEPS, SIZE, generator=source, dtype=torch.float64).to(dtype)
        self.delays = torch.tensor([1, 2, 5, 1, 3, 2], dtype=torch.int32) if delayed else None

    def integrated(self, engine: Any) -> list[Tensor]:
        return self.gradients(integrate(self.u, self.k, self.w, self.delays, engine=engine))

    def stepped(self) -> list[Tensor]:
        """The naive loop under autograd."""
        state, spikes = rest(self.k, self.u[:, 0]), []
        for t, u in enumerate(self.u.unbind(1)):
            total = u
            if t:
                arrived = [
                    spikes[t - d][:, j] if t - d >= 0 else torch.zeros_like(u[:, 0])
                    for j, d in enumerate([1] * SIZE if self.delays is None else self.delays.tolist())
                ]
                total = u + torch.stack(arrived, 1) @ self.w.t()
            state = step(self.k, total, state)
            spikes.append(state.spike)
        return self.gradients(torch.stack(spikes, 1))

    def gradients(self, spikes: Tensor) -> list[Tensor]:
        leaves = [self.u, self.w, self.k.values]
        # a row that is not used has no gradient in the loop, and 0 from the layer
        found = torch.autograd.grad(spikes, leaves, self.grad, allow_unused=True, materialize_grads=True)
        return [spikes.detach(), *found]


def close(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert 0.02 < float(expected[0].mean()) < 0.7, "neurons must fire, but not always"
    assert torch.equal(got[0].double(), expected[0].double())
    for one, other in zip(got[1:], expected[1:], strict=True):
        scale = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=tolerance * scale)


def several(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Constants, Tensor]:
    """Three chips with weights and constants of their own, 5 samples each."""
    cases = [Case("alif", dtype, seed=seed) for seed in range(3)]
    u, w, values = (
        torch.stack(x).detach()
        for x in ([c.u for c in cases], [c.w for c in cases], [c.k.values for c in cases])
    )
    return u.requires_grad_(), replace(cases[0].k, values=values.requires_grad_()), w.requires_grad_()
