"""The same numbers wherever a network computes: the CPU's two paths, and a GPU where there is one.

The streams give the same bits everywhere; products and normals differ by rounding, so that a code of a
converter may now and then be its neighbour.
"""

from __future__ import annotations

import pytest
import torch

import neurosim as ns
from neurosim.analog import deploy
from neurosim.devices import Hardware
from neurosim.random import stream

from .networks import DAY, HARDWARE, LAYERS, Row, adc_steps, filled, lot, read, samples

pytestmark = [
    pytest.mark.filterwarnings("ignore:this network does not treat axis 0"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

PLACES = ["cpu", "cuda"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("NO GPU HERE: the CUDA path of chips is not tested on this machine")
    return torch.device(request.param)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("name", ["gaussian-mismatch", "pcm-joshi-2020, 7x5", "output noise"])
def test_every_layer_gives_the_numbers_of_the_fused_path(layer: Row, name: str, place: torch.device) -> None:
    hardware, x = HARDWARE[name], samples(layer)
    net = deploy(filled(layer.layer()), hardware, calibration=x)
    expected = read(net, lot(net)[[0, 3, 17]], x)
    net.to(place)
    with torch.enable_grad(), net.on(lot(net)[[0, 3, 17]], DAY) as chips:  # the torch path on a CPU too
        found = chips(x.to(place)).detach().cpu()
    parts = -(-33 // hardware.array.rows) + 8
    off = (found - expected).abs() > 2e-5 * expected.abs().max()
    assert int(off.sum()) <= 3 + 1e-3 * parts * found.numel()
    assert float((found - expected).abs().max()) <= 2e-5 * float(
        expected.abs().max()
    ) + 2 * parts * adc_steps(net)


@pytest.mark.parametrize("hardware", HARDWARE.values(), ids=HARDWARE.keys())
def test_training_reaches_every_parameter(hardware: Hardware, place: torch.device) -> None:
    row = LAYERS["conv, stride, padding, dilation"]
    x = samples(row)
    net = deploy(filled(row.layer()), hardware, calibration=x).to(place)
    with net.on(lot(net)[0:2], DAY) as chips:
        chips(x.to(place)).square().sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert parameter.grad.device.type == place.type
        assert bool(torch.isfinite(parameter.grad).all())


@pytest.mark.parametrize("offset", [0, 5, 63, 2**33 + 7])
def test_streams_are_the_same(place: torch.device, offset: int) -> None:
    """One kernel a tensor on a GPU: no multiple of a group, large numbers of chips."""
    family, chips, where = stream(3, 17, "fc.weight", "noise"), [0, 5, 2**31 + 9], str(place)
    for shape in [(1,), (37, 129), (300_000,)]:
        assert torch.equal(family.bits(shape, offset, where).cpu(), family.bits(shape, offset))
        found, expected = family.normals(shape, chips, offset, where), family.normals(shape, chips, offset)
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-6)


def test_chips_are_evaluated(place: torch.device) -> None:
    plain = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    filled(plain)
    x = samples(Row(torch.nn.Identity, (6,)), 50)
    data = [(x, plain(x).argmax(1))]
    net = deploy(plain, ns.hardware("pcm-joshi-2020"), calibration=x).to(place)
    table = ns.evaluate(net, data, chips=4, times_s=[0.0, DAY])
    assert table.column("accuracy").min() > 0.5
    assert len(table.column("chip")) == 8
