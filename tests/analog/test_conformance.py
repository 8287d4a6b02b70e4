"""What every layer must do on every hardware: one row a layer, one row a hardware, all tests for all."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import neurosim as ns
from neurosim.analog import deploy
from neurosim.devices import Hardware

from .networks import (
    COMBINATIONS,
    DAY,
    HOUR,
    LAYERS,
    Row,
    adc_steps,
    deployed,
    filled,
    lot,
    read,
    samples,
    small,
    some,
)

# the one layer that breaks the batch contract, by design; test_batch_contract.py counts its warning
pytestmark = [
    pytest.mark.filterwarnings("ignore:this network does not treat axis 0"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),  # torch's own
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),  # torch's own
]

layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
combinations = pytest.mark.parametrize(
    ("layer", "hardware"),
    [(layer, hardware) for layer, hardware, _ in COMBINATIONS],
    ids=[name for _, _, name in COMBINATIONS],
)
TINY = [small(1_000_000, 1_000_000), small(16, 16), small(7, 5), small(2, 1)]
CHIPS = [0, 3, 17]


def close(a: Tensor, b: Tensor, relative: float) -> bool:
    return bool((a - b).abs().max() <= relative * b.abs().max())


def off_by_codes(a: Tensor, b: Tensor, step: float) -> int:
    """How many entries differ by more than rounding; none may by more than two codes."""
    difference = (a - b).abs()
    assert float(difference.max()) <= 2e-5 * float(b.abs().max()) + 2 * step
    return int((difference > 2e-5 * b.abs().max()).sum())


# ---- without noise ----


@layers
@pytest.mark.parametrize("tile", TINY, ids=lambda tile: f"{tile['array__rows']}x{tile['array__cols']}")
@pytest.mark.parametrize("scaling,bias", [("per-layer", "digital"), ("per-column", "device")])
@pytest.mark.parametrize("dtype,relative", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_ideal_hardware_equals_plain_torch(
    layer: Row, tile: dict[str, int], scaling: str, bias: str, dtype: torch.dtype, relative: float
) -> None:
    plain, x = filled(layer.layer()).to(dtype), samples(layer).to(dtype)
    net = deploy(plain, ns.hardware("ideal", array__scaling=scaling, array__bias=bias, **tile))
    out, expected = read(net, lot(net)[CHIPS], x), plain(x).detach()
    assert out.shape == (3, *expected.shape)
    assert out.dtype == dtype
    for row in out:
        assert close(row, expected, relative)


@layers
def test_pcm_with_every_effect_off_equals_plain_torch_at_every_age(layer: Row) -> None:
    off = {"device__programming_scale": 0.0, "device__drift_scale": 0.0, "device__read_scale": 0.0}
    hardware = ns.hardware("pcm-joshi-2020", dac__bits=None, adc__bits=None, array__bias="device", **off)
    net, x = deployed(layer, hardware.with_all({"array.rows": 7, "array.cols": 5}))
    for time_s in (0.0, HOUR, 3e8):
        # a scale and back, three float32 roundings more than plain torch
        assert close(read(net, lot(net)[CHIPS], x, time_s)[1], net(x).detach(), 1.5e-6)


@layers
def test_a_partial_sum_passes_its_own_converter(layer: Row) -> None:
    # converters of 16 bits resolve 1/65534 of their range: many parts add up to the product
    hardware = ns.hardware("ideal", dac__bits=16, adc__bits=16, **small(7, 5))
    net, x = deployed(layer, hardware)
    out, expected = read(net, lot(net)[0:1], x)[0], net(x).detach()
    assert close(out, expected, 2e-3)
    assert not torch.equal(out, expected)


# ---- off the bench ----


@combinations
def test_off_the_bench_it_is_the_original(layer: Row, hardware: Hardware) -> None:
    plain, x = filled(layer.layer()), samples(layer)
    net = deploy(plain, hardware, calibration=x)
    assert torch.equal(net(x), plain(x))
    read(net, lot(net)[0:2], x)
    assert torch.equal(net(x), plain(x))
    if x.dim() == 4:
        other = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(net(other), plain(other))
        assert net(other).stride() == plain(other).stride()


@layers
def test_on_the_bench_the_order_in_memory_is_torchs(layer: Row) -> None:
    # a network may .view() what a layer returns
    for order in (torch.contiguous_format, torch.channels_last):
        plain, x = filled(layer.layer()), samples(layer)
        if x.dim() == 4:
            plain, x = plain.to(memory_format=order), x.contiguous(memory_format=order)  # type: ignore[call-overload]
        net = deploy(plain, ns.hardware("pcm-joshi-2020"), calibration=x)
        with torch.no_grad(), net.on(lot(net)[0:1]):
            ours, torchs = net(x), plain(x)
        assert ours.is_contiguous() or not torchs.is_contiguous()
        if ours.dim() == 4:
            flags = [out.is_contiguous(memory_format=torch.channels_last) for out in (ours, torchs)]
            assert flags[0] == flags[1]


# ---- the same chip ----


@combinations
def test_chips_together_equal_one_at_a_time_to_the_bit(layer: Row, hardware: Hardware) -> None:
    net, x = deployed(layer, hardware)
    together = read(net, lot(net)[0:18], x)
    assert all(net._bench.rides.values()) == (layer is not LAYERS["conv, unbatched"])
    for chips in ([17], [0], [9, 17, 3], [17, 3, 9]):
        apart = read(net, lot(net)[chips], x)
        for row, chip in enumerate(chips):
            assert torch.equal(apart[row], together[chip])
    if hardware.device.kind != "ideal":
        assert not torch.equal(together[0], together[1])
        other = read(net, lot(net, seed=1)[0:1], x)
        assert not torch.equal(together[0], other[0])


@combinations
def test_autograd_path_equals_fused_path(layer: Row, hardware: Hardware) -> None:
    net, x = deployed(layer, hardware)
    fused = read(net, lot(net)[CHIPS], x)
    with net.on(lot(net)[CHIPS], DAY) as chips:
        followed = chips(x)
    assert followed.requires_grad
    assert not fused.requires_grad
    # A product within rounding of a tie of its converter may round the other way: rounding is about 3e-6
    # of the range (normals, programming), times 2·127 codes, a chance of 1e-3 a product and part; and
    # 10 parts of 7 rows at most.
    parts = -(-33 // hardware.array.rows) + 8
    allowed = 3 + 1e-3 * parts * fused.numel()
    assert off_by_codes(fused, followed.detach(), adc_steps(net) * parts) <= allowed


@combinations
def test_results_do_not_depend_on_batch_size(layer: Row, hardware: Hardware) -> None:
    noisy = hardware.array.output_noise_std > 0
    if layer is LAYERS["conv, unbatched"] and noisy:
        pytest.skip("a layer called once a sample is used more often in a larger batch, as documented")
    net, x = deployed(layer, hardware, count=7)
    whole = read(net, lot(net)[CHIPS], x)
    with torch.no_grad(), net.on(lot(net)[CHIPS], DAY) as chips:
        for sizes in ([3, 4], [1] * 7, [6, 1]):
            chips.age(DAY)  # white noise starts anew
            pieces = torch.cat([chips(piece) for piece in x.split(sizes)], dim=1)
            # products of other shapes may be summed in another order: rounding, and rare codes (1e-4 each)
            assert off_by_codes(pieces, whole, adc_steps(net)) <= 2 + 1e-3 * whole.numel()


@combinations
def test_ages_back_and_forth_are_the_same_bits(layer: Row, hardware: Hardware) -> None:
    net, x = deployed(layer, hardware)
    alone = {time_s: read(net, lot(net)[CHIPS], x, time_s) for time_s in (0.0, HOUR, 30 * DAY)}
    with torch.no_grad(), net.on(lot(net)[CHIPS]) as chips:
        for time_s in (0.0, 30 * DAY, HOUR, 0.0, HOUR, 30 * DAY):
            chips.age(time_s)
            assert chips.time_s == time_s
            assert torch.equal(chips(x), alone[time_s])
    if hardware.device.kind == "pcm":
        assert not torch.equal(alone[HOUR], alone[30 * DAY])


# ---- still a network ----


@combinations
def test_keys_of_the_state_are_unchanged_and_load_both_ways(layer: Row, hardware: Hardware) -> None:
    net, x = deployed(layer, hardware)
    other = layer.layer().eval()
    assert list(net.state_dict()) == list(other.state_dict())
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    fresh = deploy(layer.layer().eval(), hardware, calibration=x)
    fresh.load_state_dict(other.state_dict())
    fresh.load_calibration_state(net.calibration_state())
    assert torch.equal(read(fresh, lot(net)[CHIPS], x), read(net, lot(net)[CHIPS], x))


@combinations
def test_a_deep_copy_is_independent(layer: Row, hardware: Hardware) -> None:
    net, x = deployed(layer, hardware)
    expected = read(net, lot(net)[CHIPS], x)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert torch.equal(read(net, lot(net)[CHIPS], x), expected)
    assert not torch.equal(read(twin, lot(net)[CHIPS], x), expected)
    with net.on(lot(net)[CHIPS]):
        assert torch.equal(twin(x), twin(x))  # off the bench: nothing of the original's chips
        with torch.no_grad(), twin.on(lot(net)[0:1], DAY) as chips:
            assert chips(x).shape[0] == 1


@layers
def test_gradient_on_ideal_hardware_is_plain_torchs(layer: Row) -> None:
    plain, x = filled(layer.layer()).double(), samples(layer).double()
    net = deploy(plain, ns.hardware("ideal", array__bias="device", **small(7, 5)))
    weighting = torch.linspace(-1, 1, plain(x).numel(), dtype=torch.float64).reshape(plain(x).shape)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    (plain(inputs[0]) * weighting).sum().backward()
    with net.on(lot(net)[CHIPS]) as chips:
        (chips(inputs[1]) * weighting).sum().backward()
    for (name, p), q in zip(net.named_parameters(), plain.parameters(), strict=True):
        assert p.grad is not None, name
        assert q.grad is not None
        assert close(p.grad, 3 * q.grad, 1e-12)
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert close(inputs[1].grad, 3 * inputs[0].grad, 1e-12)


@combinations
def test_gradients_reach_every_parameter_and_the_input(layer: Row, hardware: Hardware) -> None:
    net, x = deployed(layer, hardware)
    x.requires_grad_()
    with net.on(lot(net)[CHIPS], HOUR) as chips:
        chips(x).square().sum().backward()
    for name, tensor in [*net.named_parameters(), ("input", x)]:
        assert tensor.grad is not None, name
        assert bool(torch.isfinite(tensor.grad).all()), name
        assert float(tensor.grad.abs().max()) > 0, name


@layers
@pytest.mark.parametrize("name", ["gaussian-mismatch", "pcm-joshi-2020"])
def test_gradient_matches_finite_differences(layer: Row, name: str) -> None:
    changes = {"dac__bits": None, "adc__bits": None, "compensation": "none", "array__bias": "device"}
    net = deploy(filled(layer.layer()).double(), ns.hardware(name, **changes, **small(7, 5)))
    # PCM: the scale of the mapping is a constant of calibration, but moves with the largest weight
    kept = [p for p in net.parameters() if name == "gaussian-mismatch"]

    def outputs(*tensors: Tensor) -> Tensor:
        with torch.no_grad():
            for parameter, value in zip(kept, tensors[1:], strict=True):
                parameter.copy_(value)
        with net.on(lot(net)[[0, 17]], HOUR) as chips:
            out: Tensor = chips(tensors[0])
            return out

    x = samples(layer, 2).double().requires_grad_()
    directions = [some(*t.shape, name="way").double() for t in (x, *kept)]
    values = [x.detach(), *(p.detach().clone() for p in kept)]
    step = 1e-6
    ends = [outputs(*(v + s * step * d for v, d in zip(values, directions, strict=True))) for s in (1, -1)]
    weighting = torch.linspace(-1, 1, ends[0].numel(), dtype=torch.float64).reshape(ends[0].shape)
    numeric = float(((ends[0] - ends[1]).detach() * weighting).sum()) / (2 * step)
    net.zero_grad()
    (outputs(x, *values[1:]) * weighting).sum().backward()
    analytic = 0.0
    for tensor, direction in zip((x, *kept), directions, strict=True):
        assert tensor.grad is not None
        analytic += float((tensor.grad * direction).sum())
    assert analytic == pytest.approx(numeric, rel=1e-6)
