"""NIR: what goes out comes back to the bit; what has no equivalent is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neurosim.errors import UsageError
from neurosim.models.spiking import (
    Alif,
    CubaLeakyIntegrator,
    CubaLif,
    Delay,
    Filter,
    If,
    Integrator,
    LeakyIntegrator,
    Lif,
    Neurons,
    Recurrent,
    Surrogate,
)
from neurosim.models.spiking.interchange import from_nir, to_nir

SIZE = 5


def nir() -> Any:
    return pytest.importorskip(
        "nir", reason="nir is not installed: NIR is NOT tested (pip install 'neurosim[snn]')"
    )


def varied(neuron: Any) -> Any:
    """Parameters that differ from neuron to neuron."""
    values = neuron.parameters()
    return neuron.with_values(
        {
            k: v if k == "refractory_s" else v + 0.1 * abs(v) * torch.rand(SIZE) + 1e-3
            for k, v in values.items()
        }
    )


CHAINS: dict[str, Any] = {
    "lif": lambda: Neurons(
        varied(Lif(dt_s=2e-3, surrogate=Surrogate("arctan", 0.5, 2.0, relative=False))), SIZE
    ),
    "cuba": lambda: Neurons(varied(CubaLif(scheme="euler", v_threshold=0.05)), SIZE),
    "if": lambda: Neurons(varied(If(resistance=90.0)), SIZE),
    "li": lambda: Filter(varied(LeakyIntegrator()), SIZE),
    "cuba li": lambda: Filter(varied(CubaLeakyIntegrator()), SIZE),
    "i": lambda: Filter(varied(Integrator()), SIZE),
    "delay": lambda: Delay(torch.tensor([0.0, 1e-3, 2e-3, 3e-3, 4e-3]), SIZE),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    package = nir()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, SIZE), CHAINS[name](), nn.Linear(SIZE, 2, bias=False))
    package.write(str(tmp_path / "net.nir"), to_nir(net))
    x = 5 * torch.rand(2, 30, 3)
    expected = net(x)
    assert expected.std() > 0
    for graph in (to_nir(net), *([] if name == "delay" else [package.read(str(tmp_path / "net.nir"))])):
        back = from_nir(graph)
        assert torch.equal(back(x), expected)
        for one, other in zip(back[1].parameters(), net[1].parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("delay_s", [None, 3e-3])
def test_a_loop_comes_back_to_the_bit(delay_s: float | None) -> None:
    nir()
    torch.manual_seed(0)
    net = nn.Sequential(Recurrent(3, SIZE, varied(Lif(v_threshold=0.3)), delay_s=delay_s), nn.Linear(SIZE, 2))
    x = 3 * torch.rand(2, 40, 3)
    expected = net(x)
    assert net[0](x).any()
    back = from_nir(to_nir(net))
    assert isinstance(back[0], Recurrent)
    assert torch.equal(back(x), expected)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Neurons(Alif(reset="value", refractory_s=0.0), 2), "whose neurons are Alif"),
        (lambda: Neurons(Lif(reset="subtract"), 2), "reset 'subtract', which has no equivalent"),
        (lambda: Neurons(Lif(refractory_s=1e-3), 2), "NIR's LIF has no refractory_s"),
        (lambda: nn.ReLU(), "NIR has no node for '0', a ReLU"),
    ],
)
def test_what_nir_has_no_word_for_is_refused(make: Any, sentence: str) -> None:
    nir()
    with pytest.raises(UsageError, match=sentence):
        to_nir(nn.Sequential(make()))


def test_foreign_nodes_are_refused() -> None:
    package = nir()
    import numpy as np

    graph = package.NIRGraph.from_list(
        package.Linear(np.ones((2, 3), np.float32)), package.Threshold(np.ones(2))
    )
    with pytest.raises(UsageError, match="is a Threshold, which has no equivalent"):
        from_nir(graph)
    with pytest.raises(UsageError, match=r"expected a nir\.NIRGraph; got int"):
        from_nir(3)


def test_without_nir_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(UsageError, match=r"pip install 'neurosim\[snn\]'"):
        to_nir(nn.Linear(2, 2))
