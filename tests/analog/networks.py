"""Layers, hardware and helpers that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

import neurosim as ns
from neurosim.analog import Chips, Deployed, Lot, OnCrossbars, deploy
from neurosim.devices import Hardware
from neurosim.devices.mappings import MAPPINGS
from neurosim.random import stream

HOUR, DAY = 3600.0, 86400.0


def some(*shape: int, name: str = "x") -> Tensor:
    """Normals that a test may call its data: the same on every run, and nobody's global state."""
    return stream(77, 0, name, "test").normal(shape)


def filled(net: nn.Module) -> nn.Module:
    """Parameters from named streams, of ordinary size."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            size = max(1, parameter[0].numel()) if parameter.dim() > 1 else 4
            parameter.copy_(some(*parameter.shape, name=name) / size**0.5)
    return net.eval()


class Row(NamedTuple):
    """One row of the conformance table: how to make a layer, and the shape of one sample."""

    layer: Callable[[], nn.Module]
    sample: tuple[int, ...]


class EachAlone(nn.Module):
    """A convolution that sees one unbatched image (C, H, W) at a time."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(*args, **options)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.conv(image) for image in x])


class Outputs(nn.Module):
    """A recurrent layer, without its last state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x)[0]
        return outputs


class Steps(nn.Module):
    """A recurrent cell, two steps over the same input."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell(x, self.cell(x))
        found: Tensor = state[0] if isinstance(state, tuple) else state
        return found


class SelfAttention(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(*args, **options)

    def forward(self, x: Tensor) -> Tensor:
        width = self.attention.kdim
        y: Tensor = self.attention(x, x[..., :width], x[..., :width])[0]
        return y


class Halves(nn.Module):
    """A bilinear form of the first four and the other features."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        self.form = nn.Bilinear(*args, **options)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.form(x[..., :4], x[..., 4:])
        return y


class Words(nn.Module):
    """Rows of a table, chosen by the input and scaled by it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(*args, **options)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.table((40 * x.detach()).long() % self.table.num_embeddings)
        return y * x.unsqueeze(-1)


def _conv(sample: tuple[int, ...], *args: Any, **options: Any) -> Row:
    return Row(lambda: nn.Conv2d(*args, **options), sample)


LAYERS: dict[str, Row] = {
    "linear": Row(lambda: nn.Linear(33, 20), (33,)),
    "linear without bias": Row(lambda: nn.Linear(33, 20, bias=False), (33,)),
    "linear, one output": Row(lambda: nn.Linear(40, 1), (40,)),
    "linear, one input": Row(lambda: nn.Linear(1, 9), (1,)),
    "linear, wide": Row(lambda: nn.Linear(20, 130), (20,)),
    "linear, N-D input": Row(lambda: nn.Linear(10, 12), (3, 4, 10)),
    "conv": _conv((5, 9, 8), 5, 6, 3),
    "conv without bias": _conv((5, 9, 8), 5, 6, 3, bias=False),
    "conv, stride, padding, dilation": _conv((4, 11, 12), 4, 6, 3, stride=2, padding=2, dilation=2),
    "conv, uneven everything": _conv(
        (3, 13, 11), 3, 5, (3, 2), stride=(1, 2), padding=(0, 3), dilation=(2, 1)
    ),
    "conv, groups": _conv((6, 7, 7), 6, 9, 3, groups=3, padding=1),
    "conv, depthwise": _conv((8, 6, 6), 8, 8, 3, groups=8, padding=1),
    "conv, depthwise, two outputs a channel": _conv((4, 6, 6), 4, 8, 3, groups=4),
    "conv, same": _conv((3, 8, 9), 3, 4, 3, padding="same"),
    "conv, same, even kernel, dilation": _conv((3, 9, 9), 3, 4, (4, 2), padding="same", dilation=(1, 3)),
    "conv, valid": _conv((3, 8, 9), 3, 4, 3, padding="valid"),
    "conv, even kernel": _conv((3, 8, 8), 3, 4, 2, stride=2),
    "conv, reflect": _conv((2, 8, 7), 2, 5, 3, padding=2, padding_mode="reflect"),
    "conv, replicate, same": _conv((2, 8, 7), 2, 5, 4, padding="same", padding_mode="replicate"),
    "conv, circular": _conv((2, 8, 7), 2, 5, 3, padding=(1, 2), padding_mode="circular"),
    "conv, one channel": _conv((1, 9, 9), 1, 6, 3),
    "conv, one channel out": _conv((3, 6, 6), 3, 1, 3),
    "conv, 1x1": _conv((7, 5, 5), 7, 6, 1),
    "conv, kernel of the image": _conv((4, 3, 3), 4, 10, 3),
    "conv 1-D": Row(lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 11)),
    "conv 1-D, same, circular": Row(
        lambda: nn.Conv1d(4, 6, 4, padding="same", dilation=2, groups=2, padding_mode="circular"), (4, 11)
    ),
    "conv 3-D": Row(
        lambda: nn.Conv3d(3, 5, (3, 2, 1), stride=(1, 2, 1), padding=(1, 0, 2), dilation=(1, 2, 1)),
        (3, 4, 6, 3),
    ),
    "conv 3-D, depthwise": Row(lambda: nn.Conv3d(4, 4, 2, groups=4, bias=False), (4, 3, 3, 4)),
    "transposed 1-D": Row(lambda: nn.ConvTranspose1d(4, 3, 3, stride=2, padding=1, output_padding=1), (4, 6)),
    "transposed": Row(lambda: nn.ConvTranspose2d(9, 4, 3, stride=2, padding=1), (9, 4, 5)),
    "transposed, groups, dilation": Row(
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=3, output_padding=2, bias=False), (4, 3, 4)
    ),
    "transposed 3-D": Row(lambda: nn.ConvTranspose3d(4, 2, 2, stride=2, groups=2), (4, 2, 3, 2)),
    "bilinear": Row(lambda: Halves(4, 6, 5), (10,)),
    "embedding": Row(lambda: Words(23, 8), (4,)),
    "LSTM": Row(lambda: Outputs(nn.LSTM(7, 5, 2, batch_first=True, bidirectional=True)), (4, 7)),
    "LSTM with projection": Row(lambda: Outputs(nn.LSTM(7, 5, proj_size=3, batch_first=True)), (3, 7)),
    "GRU": Row(lambda: Outputs(nn.GRU(7, 5, batch_first=True)), (4, 7)),
    "RNN, ReLU, no bias": Row(
        lambda: Outputs(nn.RNN(7, 5, nonlinearity="relu", bias=False, batch_first=True)), (4, 7)
    ),
    "LSTM cell": Row(lambda: Steps(nn.LSTMCell(7, 5)), (7,)),
    "GRU cell": Row(lambda: Steps(nn.GRUCell(7, 5)), (7,)),
    "RNN cell": Row(lambda: Steps(nn.RNNCell(7, 5)), (7,)),
    "attention": Row(lambda: SelfAttention(8, 2, batch_first=True), (5, 8)),
    "attention, separate, extended": Row(
        lambda: SelfAttention(8, 2, kdim=6, vdim=6, add_zero_attn=True, batch_first=True), (5, 8)
    ),
    "conv, unbatched": Row(lambda: EachAlone(3, 4, 3, padding=1), (3, 6, 6)),
}


def small(rows: int, cols: int) -> dict[str, Any]:
    """Changes that make small tiles, so that every layer has several."""
    return {"array__rows": rows, "array__cols": cols}


HARDWARE: dict[str, Hardware] = {
    "ideal": ns.hardware("ideal"),
    "gaussian-mismatch": ns.hardware("gaussian-mismatch"),
    "pcm-joshi-2020": ns.hardware("pcm-joshi-2020", **small(16, 16)),
    "pcm-joshi-2020, 7x5": ns.hardware("pcm-joshi-2020", **small(7, 5)),
    "pcm-aihwkit-default": ns.hardware("pcm-aihwkit-default"),
    "per column": ns.hardware("pcm-joshi-2020", array__scaling="per-column", **small(16, 16)),
    "bias on devices": ns.hardware("pcm-joshi-2020", array__bias="device", **small(16, 16)),
    "output noise": ns.hardware("pcm-joshi-2020", array__output_noise_std=0.05, **small(16, 16)),
    "noise without converters": ns.hardware(
        "ideal", array__output_noise_std=0.05, compensation="global", **small(16, 16)
    ),
    "percentiles": ns.hardware(
        "pcm-aihwkit-default", dac__range="percentile", adc__range="percentile", adc__percentile=99.0
    ),
}
VARIANTS: dict[str, Hardware] = {
    **{
        name: ns.hardware("pcm-joshi-2020", array__mapping=name, **small(16, 16))
        for name in MAPPINGS
        if name != "differential-pair"
    },
    "offset column, noise, per column": ns.hardware(
        "pcm-joshi-2020", **{"array.mapping": "offset-column", "array.bias": "device"},
        array__output_noise_std=0.05, array__scaling="per-column", **small(7, 5),
    ),
    "unit column, noise, per column": ns.hardware(
        "pcm-joshi-2020", **{"array.mapping": "unit-column", "array.bias": "device"},
        array__output_noise_std=0.05, array__scaling="per-column", **small(7, 5),
    ),
    "binary digits, noise": ns.hardware(
        "pcm-joshi-2020", array__mapping="bit-sliced", array__radix=2, array__slices=5,
        array__output_noise_std=0.05, array__scaling="per-column", **small(7, 5),
    ),
    "significance, closed loop": ns.hardware(
        "pcm-joshi-2020", array__mapping="significance-pairs", array__pairs=3, array__significance=4.0,
        array__pair_programming="closed-loop", compensation="per-column", **small(7, 5),
    ),
    "sar, shared": ns.hardware(
        "pcm-joshi-2020", adc__kind="sar", adc__capacitor_std=0.1, adc__columns_per_adc=4, **small(16, 16)
    ),
    "ramp": ns.hardware(
        "pcm-joshi-2020", adc__kind="ramp", adc__gain_std=0.05, adc__offset_std=0.7, adc__nonlinearity=0.01,
        array__output_noise_std=0.05, **small(7, 5),
    ),
    "pipeline": ns.hardware(
        "pcm-joshi-2020", adc__kind="pipeline", adc__gain_std=0.02, adc__offset_std=0.5, **small(16, 16)
    ),
    "pulse width": ns.hardware("pcm-joshi-2020", dac__kind="pulse-width", dac__jitter_std=0.5, **small(7, 5)),
    "bit-serial": ns.hardware(
        "pcm-joshi-2020", dac__kind="bit-serial", dac__bits=5, array__output_noise_std=0.05,
        adc__range="min-error", **small(7, 5),
    ),
    "bowed, learned": ns.hardware(
        "pcm-joshi-2020", dac__nonlinearity=0.05, dac__range="learned", adc__range="learned",
        adc__bits=5, **small(16, 16),
    ),
    "periphery": ns.hardware(
        "pcm-joshi-2020", periphery__row_gain_std=0.05, periphery__column_gain_std=0.05,
        periphery__column_offset_std=0.2, array__mapping="unit-column", **small(16, 16),
    ),
    "periphery, no converters": ns.hardware(
        "ideal", periphery__row_gain_std=0.05, periphery__column_gain_std=0.05,
        periphery__column_offset_std=0.2, **small(7, 5),
    ),
    "clipped": ns.hardware("pcm-joshi-2020", array__clip_percentile=90.0, **small(16, 16)),
    "gain and offset": ns.hardware("pcm-joshi-2020", compensation="gain-and-offset", **small(7, 5)),
    "gain and offset, noise, offset column": ns.hardware(
        "pcm-joshi-2020", compensation="gain-and-offset", array__mapping="offset-column",
        array__output_noise_std=0.05, array__bias="device", **small(7, 5),
    ),
}  # fmt: skip


# every kind of operator, and what is special about one
REPRESENTATIVE = (
    "linear", "linear, one output", "conv, stride, padding, dilation", "conv, groups", "conv, depthwise",
    "transposed, groups, dilation", "bilinear", "embedding", "LSTM with projection",
)  # fmt: skip
COMBINATIONS = [
    *(
        (row, hardware, f"{name}-{layer}")
        for name, hardware in HARDWARE.items()
        for layer, row in LAYERS.items()
    ),
    *(
        (LAYERS[layer], hardware, f"{name}-{layer}")
        for name, hardware in VARIANTS.items()
        for layer in REPRESENTATIVE
    ),
]
"""Each layer on the common hardware, and some on the rest: (layer, hardware, id)."""


def samples(row: Row, count: int = 6) -> Tensor:
    return some(count, *row.sample)


def deployed(row: Row, hardware: Hardware, count: int = 6) -> tuple[Deployed, Tensor]:
    """The layer on the hardware, calibrated on its inputs, and these inputs."""
    x = samples(row, count)
    return deploy(filled(row.layer()), hardware, calibration=x), x


def read(net: Deployed, chips: Chips, x: Tensor, time_s: float = DAY) -> Tensor:
    """Outputs of the chips without gradients: the fused path."""
    with torch.no_grad(), net.on(chips, time_s) as on_chips:
        out: Tensor = on_chips(x)
        return out


def lot(net: Deployed, seed: int = 0) -> Lot:
    return Lot(net.hardware, seed)


def adc_steps(net: Deployed) -> float:
    """The largest change of an output that one ADC code makes, with a margin for per-chip gains; or 0."""
    bits = net.hardware.adc.bits
    if bits is None:
        return 0.0
    largest = 0.0
    for module in net.modules():
        for key, crossbar in module._crossbars.items() if isinstance(module, OnCrossbars) else ():
            step = float(crossbar.calibrated().adc.max()) / (2 ** (bits - 1) - 1)
            step *= max(crossbar.mapping.digital) * (1 if crossbar.referenced is None else 2)
            largest = max(largest, step * float(module._weight_of(key).detach().abs().max()))
    return largest * 3.0  # drift compensation multiplies by up to about 2.5 in ten years
