"""Traces of other simulators on the same parameters, where they are installed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from neurosim.models.spiking import CubaLif, Lif, record
from neurosim.models.spiking.constants import Row

STEPS, SIZE = 200, 8


def inputs() -> torch.Tensor:
    return torch.rand(3, STEPS, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore")
def test_traces_of_snntorch() -> None:
    snntorch = pytest.importorskip(
        "snntorch", reason="snntorch is not installed: its traces are NOT compared"
    )
    cell, u = snntorch.Leaky(beta=0.9, threshold=1.0, reset_mechanism="subtract"), 0.4 * inputs()
    mem, potentials, spikes = torch.zeros(3, SIZE), [], []
    for one in u.unbind(1):
        spike, mem = cell(one, mem)
        spikes.append(spike)
        potentials.append(mem)
    # its decay is 1 − dt/τ, and its input is not scaled
    k = Lif(tau_mem_s=1e-2, scheme="euler", resistance=10.0, reset="subtract").constants(SIZE)
    ours = record(u, k)
    assert 0.02 < float(ours.spikes.mean()) < 0.5
    assert torch.equal(ours.spikes, torch.stack(spikes, 1))
    torch.testing.assert_close(ours.potentials, torch.stack(potentials, 1), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_traces_of_norse() -> None:
    lif = pytest.importorskip(
        "norse.torch.functional.lif", reason="norse is not installed: its traces are NOT compared"
    )
    p = lif.LIFParameters(
        torch.tensor(200.0), torch.tensor(100.0), v_th=torch.tensor(0.8), alpha=torch.tensor(100.0)
    )
    u = 0.6 * inputs()
    state = lif.LIFFeedForwardState(torch.zeros(3, SIZE), torch.zeros(3, SIZE))
    potentials, spikes = [], []
    for one in u.unbind(1):
        spike, state = lif.lif_feed_forward_step(one, state, p, 1e-3)
        spikes.append(spike)
        potentials.append(state.v)
    # there a spike adds its weight to the current: w = τ_s/dt
    cell = CubaLif(tau_mem_s=0.01, tau_syn_s=0.005, w_in=5.0, v_threshold=0.8, scheme="euler")
    ours = record(u, cell.constants(SIZE))
    assert 0.01 < float(ours.spikes.mean()) < 0.5
    assert torch.equal(ours.spikes, torch.stack(spikes, 1))
    after = torch.where(ours.spikes > 0, torch.zeros(()), ours.potentials)  # it gives them after the reset
    torch.testing.assert_close(after, torch.stack(potentials, 1), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_traces_of_sinabs() -> None:
    layers = pytest.importorskip(
        "sinabs.layers", reason="sinabs is not installed: its traces are NOT compared"
    )
    activation = pytest.importorskip("sinabs.activation")
    cell = layers.LIF(
        tau_mem=10.0,
        spike_fn=activation.SingleSpike,
        reset_fn=activation.MembraneReset(),
        record_states=True,
    )
    u = 2.0 * inputs()
    spikes = cell(u).detach()
    ours = record(u, Lif(tau_mem_s=1e-2).constants(SIZE))  # steps of 1 ms, its unit of time
    assert 0.02 < float(ours.spikes.mean()) < 0.5
    assert torch.equal(ours.spikes, spikes)
    after = torch.where(ours.spikes > 0, torch.zeros(()), ours.potentials)
    torch.testing.assert_close(after, cell.recordings["v_mem"].detach(), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_traces_of_spikingjelly() -> None:
    neuron = pytest.importorskip(
        "spikingjelly.activation_based.neuron",
        reason="SpikingJelly is not installed: its traces are NOT compared",
    )
    cell = neuron.LIFNode(tau=10.0, step_mode="m", store_v_seq=True)
    u = 2.0 * inputs()
    spikes = cell(u.movedim(1, 0)).movedim(0, 1).detach()
    ours = record(u, Lif(tau_mem_s=1e-2, scheme="euler").constants(SIZE))
    assert 0.02 < float(ours.spikes.mean()) < 0.5
    assert torch.equal(ours.spikes, spikes)
    after = torch.where(ours.spikes > 0, torch.zeros(()), ours.potentials)
    torch.testing.assert_close(after, cell.v_seq.detach().movedim(0, 1), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("leak", [0.9, 1.0], ids=["leaking, silent", "not leaking, spiking"])
def test_traces_of_rockpool(leak: float) -> None:
    """It takes the threshold off before the membrane leaks, we after: traces where that does not matter."""
    lif = pytest.importorskip(
        "rockpool.nn.modules.torch.lif_torch", reason="rockpool is not installed: its traces are NOT compared"
    )
    silent, u, through = leak < 1.0, 0.05 * inputs(), 0.8
    threshold = 100.0 if silent else 1.0
    decays = (torch.full((SIZE,), leak), torch.full((SIZE, 1), through))
    cell = lif.LIFTorch(
        (SIZE, SIZE), leak_mode="decays", alpha=decays[0], beta=decays[1], threshold=torch.tensor(threshold)
    )
    with torch.no_grad():
        spikes, _, seen = cell(u, record=True)
    k = CubaLif(reset="subtract", v_threshold=threshold).constants(SIZE)
    values = k.values.clone()
    for row, value in ((Row.DECAY, leak), (Row.GAIN, 1.0), (Row.SYN_DECAY, through), (Row.SYN_GAIN, through)):
        values[row] = value
    ours = record(u, replace(k, values=values))
    assert torch.equal(ours.spikes, spikes)
    assert bool(ours.spikes.any()) is not silent
    after = ours.potentials - ours.spikes * threshold
    torch.testing.assert_close(after, seen["vmem"], rtol=0, atol=1e-5)
