"""Layers of any sizes and options, on tiles of any size: without noise they are torch's, with noise too."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import neurosim as ns
from neurosim.analog import Lot
from neurosim.analog.inputs import tensors_in

from .networks import filled, some
from .truth import check_equal, hold, of_chip, read, weighted
from .zoo import Call, call, tokens

pytestmark = [
    pytest.mark.filterwarnings("ignore:this network does not treat axis 0"),  # axis 0 is time in some of them
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),  # torch's own
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

Draw = st.DrawFn
IDEAL, MISMATCH = ns.hardware("ideal"), ns.hardware("gaussian-mismatch", array__bias="digital")
often = settings(max_examples=60, derandomize=True, deadline=None)


@st.composite
def tiles(draw: Draw) -> dict[str, Any]:
    """Small tiles, so that nearly every layer has several."""
    return {
        "array.rows": draw(st.integers(1, 13)),
        "array.cols": draw(st.integers(1, 11)),
    }


def check(layer: nn.Module, inputs: Call, tile: dict[str, Any]) -> None:
    """On chips without noise, and with it, the layer is torch's: its outputs and its gradients."""
    plain = filled(layer)
    with torch.no_grad():
        expected = tensors_in(inputs.of(plain))
    net = ns.deploy(plain, IDEAL.with_all(tile))
    fused = read(net, inputs)
    with net.on(Lot(net.hardware)[0:2]) as chips:
        followed = tensors_in(inputs.of(chips))
    for outputs in (fused, followed):
        for chip in range(2):
            check_equal(of_chip(outputs, chip), expected)

    noisy = ns.deploy(plain, MISMATCH.with_all(tile))
    found = of_chip(read(noisy, inputs), 1)
    twin = copy.deepcopy(plain)
    with torch.no_grad():
        hold(twin, noisy, chip=1)
        check_equal(found, tensors_in(inputs.of(twin)))
    check_gradients(plain, inputs, tile)


def check_gradients(layer: nn.Module, inputs: Call, tile: dict[str, Any]) -> None:
    """Those of two chips without noise are twice those of torch."""
    plain = copy.deepcopy(layer).double()
    net = ns.deploy(plain, IDEAL.with_all(tile))
    ours, theirs = (inputs.each(lambda x: x.double().requires_grad_()) for _ in range(2))
    weighted(tensors_in(theirs.of(plain))).backward()
    with net.on(Lot(net.hardware)[0:2]) as chips:
        weighted(tensors_in(ours.of(chips)), of_chips=True).backward()
    for a, b in zip([*net.parameters(), *ours.real], [*plain.parameters(), *theirs.real], strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None and b.grad is not None:
            largest = max(1.0, float(b.grad.abs().max()))
            assert float((a.grad - 2 * b.grad).abs().max()) <= 1e-11 * largest


# ---- matrices ----


@often
@given(data=st.data(), tile=tiles())
def test_linear(data: st.DataObject, tile: dict[str, Any]) -> None:
    inputs, outputs = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 30))
    more = data.draw(st.lists(st.integers(1, 3), max_size=2))
    layer = nn.Linear(inputs, outputs, bias=data.draw(st.booleans()))
    check(layer, call(some(data.draw(st.integers(1, 4)), *more, inputs)), tile)


@often
@given(data=st.data(), tile=tiles())
def test_bilinear(data: st.DataObject, tile: dict[str, Any]) -> None:
    left, right, outputs = (data.draw(st.integers(1, 7)) for _ in range(3))
    shape = [data.draw(st.integers(1, 4)), *data.draw(st.lists(st.integers(1, 3), max_size=1))]
    layer = nn.Bilinear(left, right, outputs, bias=data.draw(st.booleans()))
    check(layer, call(some(*shape, left), some(*shape, right, name="right")), tile)


@often
@given(data=st.data(), tile=tiles())
def test_embedding(data: st.DataObject, tile: dict[str, Any]) -> None:
    entries, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 12))
    padding = data.draw(st.none() | st.integers(-entries, entries - 1))
    shape = [data.draw(st.integers(1, 4)), *data.draw(st.lists(st.integers(1, 4), max_size=2))]
    check(nn.Embedding(entries, width, padding_idx=padding), call(tokens(*shape, below=entries)), tile)


# ---- convolutions ----


@st.composite
def convolutions(draw: Draw) -> tuple[nn.Module, Call]:
    """A convolution in one, two or three dimensions, and inputs."""
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel, dilation = each(1, 3 if dims == 3 else 4), each(1, 2)
    text = draw(st.sampled_from(["", "same", "valid"]))
    padding: Any = text or each(0, 2)
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    # wide enough for one output, and for a reflection
    sizes = [max(n + 1, 3) + more for n, more in zip(reach, each(0, 3), strict=True)]
    stride = (1,) * dims if text == "same" else each(1, 3)
    channels, outputs = (groups * draw(st.integers(1, 3)) for _ in range(2))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    layer = kind(
        channels,
        outputs,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
    )
    return layer, call(_ordered(draw, some(draw(st.integers(1, 3)), channels, *sizes)))


def _ordered(draw: Draw, x: Tensor) -> Tensor:
    """In either order in memory."""
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    if x.dim() in orders and draw(st.booleans()):
        return x.contiguous(memory_format=orders[x.dim()])
    return x


@settings(often, max_examples=150)
@given(made=convolutions(), tile=tiles())
def test_convolution(made: tuple[nn.Module, Call], tile: dict[str, Any]) -> None:
    check(*made, tile)


@pytest.mark.parametrize("kernel", [(1, 2, 3), (2, 2, 2), (3, 1, 2)])
def test_one_channel_in_three_dimensions(kernel: tuple[int, ...]) -> None:
    # oneDNN is wrong where one channel carries the strides of channels-last
    layer = nn.Conv3d(1, 1, kernel, (1, 1, 2), bias=False)
    check(layer, call(some(3, 1, 3, 3, 3)), {"array.rows": 2, "array.cols": 1})


@st.composite
def transposed(draw: Draw) -> tuple[nn.Module, Call]:
    """A transposed convolution in one, two or three dimensions, perhaps with the output's size."""
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel, stride, dilation, sizes = each(1, 3 if dims == 3 else 4), each(1, 3), each(1, 2), each(2, 4)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    # cuts at most what leaves one output
    whole = [(n - 1) * s + r + 1 for n, s, r in zip(sizes, stride, reach, strict=True)]
    padding = tuple(min(p, (n - 1) // 2) for p, n in zip(each(0, 2), whole, strict=True))
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    channels, outputs = (groups * draw(st.integers(1, 3)) for _ in range(2))
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    layer = kind(channels, outputs, kernel, stride, padding, extra, groups, draw(st.booleans()), dilation)
    x = _ordered(draw, some(draw(st.integers(1, 3)), channels, *sizes))
    if not draw(st.booleans()):
        return layer, call(x)
    least = [n - 2 * p for n, p in zip(whole, padding, strict=True)]
    return layer, call(
        x, output_size=[n + draw(st.integers(0, s - 1)) for n, s in zip(least, stride, strict=True)]
    )


@settings(often, max_examples=150)
@given(made=transposed(), tile=tiles())
def test_transposed_convolution(made: tuple[nn.Module, Call], tile: dict[str, Any]) -> None:
    check(*made, tile)


# ---- recurrent layers ----


class Packed(nn.Module):
    """A recurrent layer that reads sequences of several lengths."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        packed = pack_padded_sequence(x, lengths, self.layer.batch_first, enforce_sorted=False)
        y, last = self.layer(packed)
        return pad_packed_sequence(y, self.layer.batch_first)[0], last


@st.composite
def recurrent(draw: Draw) -> tuple[nn.Module, Call]:
    """A recurrent layer of any kind, and inputs, perhaps with a state or with lengths."""
    kind = draw(st.sampled_from([nn.RNN, nn.LSTM, nn.GRU]))
    inputs, hidden, layers = draw(st.integers(1, 6)), draw(st.integers(2, 6)), draw(st.integers(1, 2))
    options: dict[str, Any] = {
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
    }
    if kind is nn.RNN:
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if kind is nn.LSTM and draw(st.booleans()):
        options["proj_size"] = draw(st.integers(1, hidden - 1))
    layer = kind(inputs, hidden, layers, **options)
    batch, steps = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    x = some(batch, steps, inputs) if layer.batch_first else some(steps, batch, inputs)
    more = draw(st.sampled_from(["nothing", "state", "lengths"]))
    if more == "lengths":
        return Packed(layer), call(x, torch.tensor([steps, *(1 + n % steps for n in range(batch - 1))]))
    if more == "nothing":
        return layer, call(x)
    rows = layers * (2 if layer.bidirectional else 1)
    h = some(rows, batch, layer.proj_size or hidden, name="h")
    return layer, call(x, (h, some(rows, batch, hidden, name="c")) if kind is nn.LSTM else h)


@settings(often, max_examples=100)
@given(made=recurrent(), tile=tiles())
def test_recurrent(made: tuple[nn.Module, Call], tile: dict[str, Any]) -> None:
    check(*made, tile)


@often
@given(data=st.data(), tile=tiles())
def test_cell(data: st.DataObject, tile: dict[str, Any]) -> None:
    kind = data.draw(st.sampled_from([nn.RNNCell, nn.LSTMCell, nn.GRUCell]))
    inputs, hidden, batch = (data.draw(st.integers(1, 7)) for _ in range(3))
    options = {"nonlinearity": data.draw(st.sampled_from(["tanh", "relu"]))} if kind is nn.RNNCell else {}
    layer = kind(inputs, hidden, bias=data.draw(st.booleans()), **options)
    h, c = some(batch, hidden, name="h"), some(batch, hidden, name="c")
    state = data.draw(st.sampled_from([(), ((h, c) if kind is nn.LSTMCell else h,)]))
    check(layer, call(some(batch, inputs), *state), tile)


# ---- attention ----


@st.composite
def attention(draw: Draw) -> tuple[nn.Module, Call]:
    """Multi-head attention with any options, and inputs, perhaps with masks."""
    heads, batch = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    queries, keys = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    size = heads * draw(st.integers(1, 3))
    key_size, value_size = (draw(st.none() | st.integers(1, 6)) for _ in range(2))
    layer = nn.MultiheadAttention(
        size,
        heads,
        bias=draw(st.booleans()),
        add_bias_kv=draw(st.booleans()),
        add_zero_attn=draw(st.booleans()),
        kdim=key_size,
        vdim=value_size,
        batch_first=draw(st.booleans()),
    )
    shapes = [(batch, queries, size), (batch, keys, key_size or size), (batch, keys, value_size or size)]
    three = [some(*shape, name=f"x{n}") for n, shape in enumerate(shapes)]
    options: dict[str, Any] = {
        "need_weights": draw(st.booleans()),
        "average_attn_weights": draw(st.booleans()),
    }
    numbers = draw(st.booleans())
    mask = draw(st.sampled_from([None, (queries, keys), (batch * heads, queries, keys)]))
    if mask is not None:
        options["attn_mask"] = _mask(mask, numbers, "mask")
    if draw(st.booleans()):
        options["key_padding_mask"] = _mask((batch, keys), numbers, "padding")
    return layer, call(*(x if layer.batch_first else x.transpose(0, 1) for x in three), **options)


def _mask(shape: tuple[int, ...], numbers: bool, name: str) -> Tensor:
    """Which keys are hidden, never the first, or numbers to add to scores."""
    values = some(*shape, name=name)
    hidden = values > 0.3
    hidden[..., 0] = False
    return values.masked_fill(hidden, float("-inf")) if numbers else hidden


@settings(often, max_examples=150)
@given(made=attention(), tile=tiles())
def test_attention(made: tuple[nn.Module, Call], tile: dict[str, Any]) -> None:
    check(*made, tile)
