"""The numbers of a chip against a plain, slow restatement: devices, tiles, converters, noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn as nn
from scipy import stats
from torch import Tensor

import neurosim as ns
from neurosim.analog import Deployed, Lot, deploy
from neurosim.analog.layers import OnCrossbars
from neurosim.analog.operators import layout
from neurosim.devices import Array, Hardware, tile_grid
from neurosim.devices.kernels import pitch
from neurosim.errors import UsageError
from neurosim.random import Draws, stream

from .networks import DAY, LAYERS, Row, filled, lot, read, samples, small, some

# the layers whose one weight is a matrix or the kernel of images
PLAIN = {
    name: row for name, row in LAYERS.items() if name.startswith(("linear", "conv")) and "-D" not in name
}

ALPHA = 1e-5  # chance that a right model fails one statistical test


def rounded(values: np.ndarray, full_scale: float, bits: int | None) -> np.ndarray:
    if bits is None:
        return values
    levels = 2 ** (bits - 1) - 1
    codes = np.clip(np.rint(values * (levels / full_scale)), -levels, levels)
    out: np.ndarray = codes * full_scale / levels
    return out


class Restated:
    """A linear layer on one chip, in float64 and loops."""

    def __init__(self, net: Deployed, chip: int, time_s: float, seed: int = 0) -> None:
        self.hw, self.chip, self.time_s, self.seed = net.hardware, chip, time_s, seed
        self.weight = net.get_parameter("weight").detach().double()
        self.bias = net.get_parameter("bias").detach().double()
        ranges = net.calibration_state()
        self.dac, self.adc = float(ranges["root.dac"]), ranges["root.adc"].double().numpy()

    def legs(self, values: Tensor, what: str) -> tuple[np.ndarray, np.ndarray]:
        """(now, fresh): differences of legs over the span, of values already scaled to ±1."""
        device, pair = self.hw.device, []
        for sign, leg in ((1, "+"), (-1, "-")):
            draws = Draws(self.seed, (self.chip,), f"root.{what}{leg}")
            span = device.g_max_siemens - device.g_min_siemens
            state = device.program(device.g_min_siemens + span * (sign * values).clamp(min=0), draws)
            pair.append((device.age(state, self.time_s, draws)[0] / span, state["g_siemens"][0] / span))
        (plus, fresh_plus), (minus, fresh_minus) = pair
        return (plus - minus).numpy(), (fresh_plus - fresh_minus).numpy()

    def alpha(self, now: np.ndarray, fresh: np.ndarray) -> float:
        """One compensation factor, as a readout of the total current would give it."""
        if self.hw.compensation == "none" or self.time_s == 0:
            return 1.0
        return float(np.abs(fresh).sum() / np.abs(now).sum())

    def noise(self, vectors: int, columns: int, r: int, c: int) -> np.ndarray:
        std = self.hw.array.output_noise_std
        if std == 0:
            return np.zeros((vectors, columns))
        source = stream(self.seed, self.chip, "root.weight", f"output-noise[{r},{c}]@{self.time_s!r}")
        drawn = source.normal((vectors, pitch(columns)))[:, :columns]
        return drawn.double().numpy() * (std * self.dac)

    def read(self, x: Tensor) -> np.ndarray:
        columns, rows = self.weight.shape
        grid = tile_grid(rows, columns, self.hw.array)
        per_column = self.hw.array.scaling == "per-column"
        largest = self.weight.abs().amax(dim=1) if per_column else self.weight.abs().max().expand(columns)
        now, fresh = self.legs(self.weight / largest[:, None], "weight")
        inputs = rounded(x.double().numpy(), self.dac, self.hw.dac.bits)
        out = np.zeros((len(x), columns))
        for r, rs in enumerate(grid.row_slices):
            for c, cs in enumerate(grid.col_slices):
                y = inputs[:, rs] @ now[cs, rs].T + self.noise(len(x), cs.stop - cs.start, r, c)
                y = rounded(y, self.adc[r, c], self.hw.adc.bits)
                out[:, cs] += y * self.alpha(now[cs, rs], fresh[cs, rs]) * largest[cs].numpy()
        return out + self.biases()

    def biases(self) -> np.ndarray:
        if self.hw.array.bias == "digital":
            digital: np.ndarray = self.bias.numpy()
            return digital
        largest = float(self.bias.abs().max())
        now, fresh = self.legs(self.bias[:, None] / largest, "bias")
        held: np.ndarray = now[:, 0] * largest * self.alpha(now, fresh)
        return held


RESTATED = {
    "defaults": ns.hardware("pcm-joshi-2020", **small(16, 16)),
    "odd tiles": ns.hardware("pcm-joshi-2020", **small(7, 5)),
    "per column": ns.hardware("pcm-joshi-2020", array__scaling="per-column", **small(7, 5)),
    "bias on devices": ns.hardware("pcm-joshi-2020", array__bias="device", **small(16, 16)),
    "output noise": ns.hardware("pcm-aihwkit-default", array__output_noise_std=0.3, **small(16, 7)),
    "no compensation": ns.hardware("pcm-joshi-2020", compensation="none"),
    "6 and 5 bits": ns.hardware("pcm-joshi-2020", dac__bits=6, adc__bits=5, **small(16, 16)),
    "no converters": ns.hardware("pcm-joshi-2020", dac__bits=None, adc__bits=None, **small(16, 16)),
    "DAC only": ns.hardware("pcm-joshi-2020", adc__bits=None, **small(16, 16)),
    "ADC only": ns.hardware("pcm-joshi-2020", dac__bits=None, **small(16, 16)),
    "conductance from 5 µS": ns.hardware("pcm-joshi-2020", device__g_min_siemens=5e-6, **small(16, 16)),
    "mismatch": ns.hardware("gaussian-mismatch", **small(16, 16)),
}


@pytest.mark.parametrize("hardware", RESTATED.values(), ids=RESTATED.keys())
@pytest.mark.parametrize("time_s", [0.0, DAY])
def test_a_chip_computes_what_the_restatement_says(hardware: Hardware, time_s: float) -> None:
    x = some(60, 33)
    net = deploy(filled(nn.Linear(33, 20)), hardware, calibration=x[:30])
    got = read(net, lot(net)[[5, 17]], x, time_s)
    for row, chip in enumerate((5, 17)):
        expected = Restated(net, chip, time_s).read(x)
        difference = np.abs(got[row].numpy() - expected)
        wrong = int((difference > 2e-5 * np.abs(expected).max()).sum())
        # float32 rounding of some 1e-6 moves a product across a tie with a chance of 2e-4 a part
        assert wrong <= 3
        code = float(net.calibration_state()["root.adc"].max()) / (2 ** ((hardware.adc.bits or 16) - 1) - 1)
        assert difference.max() <= 1e-4 + 3 * code


def test_ranges_are_those_of_nominal_products_of_each_tile() -> None:
    hardware = ns.hardware("pcm-joshi-2020", **small(16, 16))
    x = some(30, 33)
    net = deploy(filled(nn.Linear(33, 20)), hardware, calibration=x)
    inputs = rounded(x.double().numpy(), float(x.abs().max()), 8)
    matrix = net.get_parameter("weight").detach().double()
    matrix = matrix / matrix.abs().max()
    for r, rs in enumerate(tile_grid(33, 20, hardware.array).row_slices):
        for c, cs in enumerate(tile_grid(33, 20, hardware.array).col_slices):
            largest = np.abs(inputs[:, rs] @ matrix[cs, rs].numpy().T).max()
            assert float(net.calibration_state()["root.adc"][r, c]) == pytest.approx(largest, rel=1e-6)
    assert float(net.calibration_state()["root.dac"]) == float(x.abs().max())


def test_outputs_saturate_at_ranges_that_never_follow_the_batch() -> None:
    net = deploy(
        filled(nn.Linear(33, 20)), ns.hardware("pcm-joshi-2020", **small(64, 64)), calibration=some(9, 33)
    )
    before = net.calibration_state()
    x = some(9, 33)
    small_out, large_out = read(net, lot(net)[0:1], x, 0.0), read(net, lot(net)[0:1], 1000 * x, 0.0)
    weight, bias = net.get_parameter("weight").detach(), net.get_parameter("bias").detach()
    bound = float(before["root.adc"].max() * weight.abs().max() * 1.0001 + bias.abs().max())
    assert float(large_out.abs().max()) <= bound < 20 * float(small_out.abs().max())
    assert all(torch.equal(before[key], value) for key, value in net.calibration_state().items())
    # and what is in range is read alike, whatever else is in the batch
    mixed = read(net, lot(net)[0:1], torch.cat([x, 1000 * x]), 0.0)
    torch.testing.assert_close(mixed[:, :9], small_out, rtol=0, atol=float(small_out.abs().max()) * 0.02)


@pytest.mark.parametrize("layer", PLAIN.values(), ids=PLAIN.keys())
def test_parts_of_a_product_read_their_own_rows_exactly(layer: Row) -> None:
    net = deploy(filled(layer.layer()).double(), ns.hardware("ideal", **small(7, 5)))
    module = next(m for m in net.modules() if isinstance(m, OnCrossbars))
    operator, rows = module._crossbars["weight"].operator, module._crossbars["weight"].layout.row_slices
    x = samples(layer).double()
    x = x[0] if layer is LAYERS["conv, unbatched"] else x
    matrix = module.weight.detach().flatten(1)
    prepared = operator.prepare(operator.batched(x))
    total = torch.zeros(())
    for part in rows:
        kept = torch.zeros_like(matrix)
        kept[:, part] = matrix[:, part]
        expected = operator.ideal(x, kept.reshape(module.weight.shape), None)
        y = operator.partial(prepared, matrix, part)
        assert y.is_contiguous()
        torch.testing.assert_close(operator.restore(y, x, module.weight), expected, rtol=0, atol=1e-13)
        total = total + y
    whole = operator.ideal(x, module.weight.detach(), None)
    torch.testing.assert_close(operator.restore(total, x, module.weight), whole, rtol=0, atol=1e-13)


# ---- statistics; each with a chance of ALPHA to refuse a right model ----


def test_mismatch_is_relative_and_normal() -> None:
    hardware = ns.hardware("gaussian-mismatch", device__relative_std=0.2)
    net = deploy(filled(nn.Linear(300, 200)), hardware)
    eye = torch.cat([torch.eye(300), torch.zeros(1, 300)])
    out = read(net, lot(net)[0:3], eye, 0.0).double()
    held = out[:, :300] - out[:, 300:]
    ideal = net.get_parameter("weight").detach().T
    keep = ideal.abs() > 1e-2  # the difference of two outputs has an absolute rounding
    n = ((held / ideal - 1) / 0.2)[:, keep]
    assert stats.kstest(n.flatten().numpy(), "norm").pvalue > ALPHA
    assert abs(float((n[0] * n[1]).mean())) * math.sqrt(n.shape[1]) < stats.norm.isf(ALPHA / 2)
    biases = (out[:, 300] / net.get_parameter("bias").detach() - 1) / 0.2
    assert stats.kstest(biases.flatten().numpy(), "norm").pvalue > ALPHA


def test_white_noise_is_normal_of_the_stated_size_per_tile() -> None:
    hardware = ns.hardware("ideal", array__output_noise_std=0.04, **small(16, 16))
    plain, x = filled(nn.Linear(33, 20)), some(4000, 33)
    net = deploy(plain, hardware, calibration=x)
    error = (read(net, lot(net)[0:2], x, 0.0) - plain(x).detach()).double()
    parts = 3  # 33 rows on 16
    one = 0.04 * float(x.abs().max()) * float(plain.weight.detach().abs().max())  # type: ignore[operator]
    n = error / (one * math.sqrt(parts))
    assert stats.kstest(n.flatten().numpy(), "norm").pvalue > ALPHA
    flat = n.reshape(2, -1)
    assert abs(float((flat[0] * flat[1]).mean())) * math.sqrt(flat.shape[1]) < stats.norm.isf(ALPHA / 2)
    later = (read(net, lot(net)[0:2], x, DAY) - plain(x).detach()).double() / (one * math.sqrt(parts))
    assert abs(float((later * n).mean())) * math.sqrt(n.numel()) < stats.norm.isf(ALPHA / 2)


def test_white_noise_of_a_conv_differs_by_pixel_channel_and_sample() -> None:
    hardware = ns.hardware("ideal", array__output_noise_std=0.1)
    plain = filled(nn.Conv2d(2, 8, 3))
    net = deploy(plain, hardware, calibration=some(4, 2, 9, 9))
    x = some(1, 2, 9, 9).repeat(6, 1, 1, 1)
    error = read(net, lot(net)[0:1], x, 0.0)[0] - plain(x).detach()
    assert len(error.flatten().unique()) > 0.99 * error.numel()


def test_drift_compensation_restores_the_mean_and_not_more() -> None:
    aged = {}
    for compensation in ("none", "global"):
        hardware = ns.hardware(
            "pcm-joshi-2020", dac__bits=None, adc__bits=None, compensation=compensation,
            device__programming_scale=0.0, device__read_scale=0.0,
        )  # fmt: skip
        net = deploy(filled(nn.Linear(200, 100, bias=False)), hardware)
        aged[compensation] = read(net, lot(net)[0:2], torch.eye(200), 3e7)[0]
    ideal = net.get_parameter("weight").detach().T
    assert 0.2 < float(aged["none"].abs().sum() / ideal.abs().sum()) < 0.7
    assert float(aged["global"].abs().sum()) == pytest.approx(float(ideal.abs().sum()), rel=1e-5)
    assert not torch.allclose(aged["global"], ideal, rtol=0.05)
    ratio = aged["global"] / aged["none"]
    ratio = ratio[aged["none"].abs() > 1e-3]
    assert float(ratio.max() / ratio.min()) == pytest.approx(1.0, rel=1e-4)  # one factor a tile


# ---- tables ----


@pytest.mark.parametrize("layer", PLAIN.values(), ids=PLAIN.keys())
@pytest.mark.parametrize("rows,cols", [(1000, 1000), (16, 16), (7, 5), (1, 1)])
@pytest.mark.parametrize("bias", ["digital", "device"])
def test_explain_counts_every_device_and_tile(layer: Row, rows: int, cols: int, bias: str) -> None:
    net = deploy(filled(layer.layer()), ns.hardware("ideal", array__bias=bias, **small(rows, cols)))
    (row,) = net.explain().layers
    module = next(m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    biases = module.bias.numel() if bias == "device" and module.bias is not None else 0
    assert row.devices == 2 * (module.weight.numel() + biases)
    assert row.shape == tuple(module.weight.shape)
    assert row.kind in ("Linear", "Conv2d")
    assert row.utilisation == pytest.approx(module.weight.numel() / (row.tiles * rows * cols))
    assert 0 < row.utilisation <= 1


@pytest.mark.parametrize(
    "rows,columns,groups", [(33, 20, 1), (9, 64, 64), (18, 12, 3), (5, 4, 2), (300, 8, 4)]
)
@pytest.mark.parametrize("array", [Array(rows=256, cols=256), Array(rows=16, cols=16), Array(rows=7, cols=5)])
def test_a_layout_holds_every_weight_once_and_no_tile_overflows(
    rows: int, columns: int, groups: int, array: Array
) -> None:
    found = layout(rows, columns, groups, array)
    assert [i for s in found.row_slices for i in range(s.start, s.stop)] == list(range(rows))
    assert [i for left, right in found.col_ranges for i in range(left, right)] == list(range(columns))
    per_group = columns // groups
    for left, right in found.col_ranges:
        touched = len({column // per_group for column in range(left, right)})
        tallest = max(s.stop - s.start for s in found.row_slices)
        assert right - left <= array.cols
        assert touched * tallest <= array.rows  # groups lie on the diagonal of a tile
        assert touched == 1 or len(found.row_slices) == 1


def test_explain_names_every_module_and_shows_what_acts() -> None:
    plain = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Sequential(nn.Linear(144, 8), nn.Dropout()), nn.EmbeddingBag(5, 3),
    )  # fmt: skip
    net = deploy(plain, ns.hardware("pcm-aihwkit-default"))
    table = net.explain()
    named = [row.name for row in table.layers] + [row.name for row in table.digital]
    assert sorted(named) == ["0", "1", "2", "3", "4.0", "4.1", "5"]
    assert {row.name: row.parameters for row in table.digital}["5"] == 15
    everything = sum(p.numel() for p in plain.parameters())
    on_chips = sum(row.devices // 2 for row in table.layers)
    biases = 4 + 8  # digital in this preset
    assert on_chips + biases + sum(row.parameters for row in table.digital) == everything
    text = str(table)
    for word in ("4.0", "Conv2d", "4x1x3x3", "EmbeddingBag, 15 parameters", "global drift compensation"):
        assert word in text
    assert table.to_dict()["layers"][0]["tiles"] == 1  # type: ignore[index]
    assert "(nothing)" in str(deploy(nn.ReLU(), ns.hardware("ideal")).explain())
    acts = {effect["name"]: effect["acts"] for effect in table.to_dict()["effects"]}  # type: ignore[attr-defined]
    assert acts["white output noise"] is True
    ideal = deploy(plain, ns.hardware("ideal")).explain()
    assert not any(effect.acts for effect in ideal.effects)


# ---- lots, and what is refused ----


@pytest.mark.parametrize(
    "index,match",
    [
        (slice(0, 2**40), "integers from 0 to 2"),
        (slice(-3, 2), "got -3"),
        (slice(0, 4, 0), "expected a slice of chip numbers"),
        (slice("a", 4), "expected a slice of chip numbers"),
        (slice(0, 2.5), "expected a slice of chip numbers"),
        (True, "expected chip numbers"),
        (1.5, "expected a chip number, a slice or a list"),
        ([0, 2.0], "got 2.0"),
        ([], "expected at least one chip"),
    ],
)
def test_wrong_chips_are_refused_at_once(index: object, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Lot(ns.hardware("ideal"))[index]  # type: ignore[index]


def test_lots_are_indexed_like_lists() -> None:
    chips = Lot(ns.hardware("ideal"), seed=3)
    assert chips[3].numbers == (3,)
    assert chips[4:10:2].numbers == (4, 6, 8)
    assert chips[5:2:-1].numbers == (5, 4, 3)
    assert chips[[7, 1]].numbers == (7, 1)
    assert chips[np.int64(4)].numbers == (4,)  # type: ignore[index]
    assert chips[2**32 - 1].numbers == (2**32 - 1,)
    assert chips[:2].lot.seed == 3
    assert len(chips[0:9]) == 9


@pytest.mark.parametrize("seed", [1.0, True, "0"])
def test_a_wrong_seed_is_refused(seed: object) -> None:
    with pytest.raises(UsageError, match="expected a lot seed, an integer; got"):
        Lot(ns.hardware("ideal"), seed)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected a Hardware, from neurosim"):
        Lot("ideal")  # type: ignore[arg-type]


def test_what_cannot_be_deployed_is_refused() -> None:
    ideal = ns.hardware("ideal")
    inner = deploy(nn.Linear(3, 3), ideal)
    with pytest.raises(UsageError, match="expected a network that is not deployed yet"):
        deploy(nn.Sequential(inner, nn.ReLU()), ideal)
    with pytest.raises(UsageError, match=r"0\.weight is empty"):
        empty = nn.Linear(3, 1)
        empty.weight = nn.Parameter(torch.empty(0, 3))
        deploy(nn.Sequential(empty), ideal)


@pytest.mark.parametrize("data", [torch.empty(0, 33), torch.tensor(1.0), [1.0], None])
def test_calibration_needs_samples(data: object) -> None:
    net = deploy(nn.Linear(33, 2), ns.hardware("pcm-joshi-2020"))
    with pytest.raises(UsageError, match="expected a tensor of calibration inputs with at least one sample"):
        net.calibrate(data)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected finite data to calibrate a converter on"):
        net.calibrate(torch.full((2, 33), math.inf))
    assert not net.calibrated


def test_a_layer_that_calibration_never_reaches_is_named_when_it_is_read() -> None:
    class Parts(nn.Sequential):
        used = (0,)

        def forward(self, x: Tensor) -> Tensor:
            for number in self.used:
                x = self[number](x)
            return x

    plain = Parts(nn.Linear(3, 3), nn.Linear(3, 3)).eval()
    net = deploy(plain, ns.hardware("pcm-joshi-2020"))
    net.calibrate(torch.ones(2, 3))
    assert list(net.calibration_state()) == ["0.dac", "0.adc"]
    assert net.calibrated
    assert read(net, lot(net)[0:2], torch.ones(2, 3)).shape == (2, 2, 3)
    again = deploy(plain, ns.hardware("pcm-joshi-2020"))
    again.load_calibration_state(net.calibration_state())
    for network in (net, again):
        network.used = (0, 1)
        with pytest.raises(UsageError, match="the calibration inputs never reached layer '1'"):
            read(network, lot(network)[0:2], torch.ones(2, 3))
    net.used = ()
    with pytest.raises(UsageError, match="the calibration inputs never reached layer '0', nor any other"):
        net.calibrate(torch.ones(2, 3))
    assert list(net.calibration_state()) == ["0.dac", "0.adc"]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_wrong_ranges_are_refused_and_nothing_is_taken(bad: float) -> None:
    net = deploy(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), ns.hardware("pcm-joshi-2020"))
    net.calibrate(torch.ones(2, 3))
    before = net.calibration_state()
    good = {key: value * 2 for key, value in before.items()}
    for key in ("0.adc", "1.dac"):
        with pytest.raises(UsageError, match="holds a range that is not finite and above 0"):
            net.load_calibration_state({**good, key: torch.full_like(good[key], bad)})
        after = net.calibration_state()
        assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(UsageError, match="calibration of layer '1' does not fit"):
        net.load_calibration_state({key: value for key, value in good.items() if key != "1.dac"})
    with pytest.raises(UsageError, match=r"leave net\.on"), net.on(lot(net)[0]):
        net.calibrate(torch.ones(2, 3))


def test_minus_zero_seconds_is_zero_seconds() -> None:
    net = deploy(
        filled(nn.Linear(8, 4)), ns.hardware("ideal", array__output_noise_std=0.1), calibration=some(3, 8)
    )
    x = samples(Row(lambda: nn.Linear(8, 4), (8,)))
    assert torch.equal(read(net, lot(net)[0:1], x, -0.0), read(net, lot(net)[0:1], x, 0.0))
