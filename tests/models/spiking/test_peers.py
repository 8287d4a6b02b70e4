"""Traces of Norse and snnTorch on the same parameters, where they are installed."""

from __future__ import annotations

import pytest
import torch

from neurosim.models.spiking import CubaLif, Lif, record

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
