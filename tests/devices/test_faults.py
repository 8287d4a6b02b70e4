"""Faults: how many, where, of which kind, and that they stay; on matrices here, on deployed networks below.

Statistical tests use fixed streams and a false-alarm rate of ALPHA each: they fail for a reason.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import Lot, deploy
from neurosim.analog.cells import Cells
from neurosim.analog.operators import Layout, layout
from neurosim.devices import Array, Faults, Hardware, Ideal, hardware
from neurosim.devices.faults import Defects, counts_up_to, defects
from neurosim.errors import UsageError
from neurosim.random import Draws

ALPHA = 1e-5
CHIPS = (0, 1, 17, 4_000_000_000)
CODES = {"low": 1, "high": 2, "open": 3}


def drawn(
    faults: Faults, tiles: Layout, shape: tuple[int, int], chips: tuple[int, ...] = CHIPS, leg: str = "+"
) -> Defects:
    draws = Draws(3, chips, f"fc.weight{leg}")
    return defects(faults, tiles, draws, draws, shape)


def state_of(faults: Faults, tiles: Layout, shape: tuple[int, int], chips: tuple[int, ...] = CHIPS) -> Tensor:
    state = drawn(faults, tiles, shape, chips).state
    assert state is not None
    return state


def tiled(rows: int, columns: int, groups: int, array: tuple[int, int]) -> Layout:
    return layout(rows, columns, groups, Array(rows=array[0], cols=array[1]))


# ---- single devices ----


def test_each_state_has_its_own_rate() -> None:
    faults = Faults(stuck_low_rate=0.02, stuck_high_rate=0.005, stuck_open_rate=0.001)
    state = state_of(faults, tiled(500, 500, 1, (256, 256)), (256, 256))
    for name, rate in (("low", 0.02), ("high", 0.005), ("open", 0.001)):
        count = int((state == CODES[name]).sum())
        assert stats.binomtest(count, state.numel(), rate).pvalue > ALPHA


def test_rates_of_zero_and_one() -> None:
    tiles = tiled(20, 30, 1, (256, 256))
    assert drawn(Faults(), tiles, (256, 256)) == (None, None, None)
    assert bool((state_of(Faults(stuck_high_rate=1.0), tiles, (256, 256)) == CODES["high"]).all())
    assert bool((state_of(Faults(row_rate=1.0), tiles, (256, 256)) == CODES["open"]).all())


def test_a_device_holds_what_its_state_says() -> None:
    device = Ideal(g_min_siemens=2e-6, g_max_siemens=25e-6)
    g = torch.full((1, 1, 4), 10e-6, requires_grad=True)
    found = Defects(torch.tensor([[[0, 1, 2, 3]]], dtype=torch.uint8), None, None).apply(g, device)
    torch.testing.assert_close(found, torch.tensor([[[10e-6, 2e-6, 25e-6, 0.0]]]))
    found.sum().backward()
    assert g.grad is not None
    assert g.grad.tolist() == [[[1.0, 0.0, 0.0, 0.0]]]


# ---- lines ----


@pytest.mark.parametrize("rows,columns,groups", [(300, 200, 1), (9, 64, 64), (40, 48, 4)])
def test_word_lines_break_whole_and_within_a_tile(rows: int, columns: int, groups: int) -> None:
    tiles = tiled(rows, columns, groups, (128, 96))
    state = state_of(Faults(row_rate=0.3), tiles, (128, 96), tuple(range(50)))
    width, lines, broken = columns // groups, 0, 0
    for left, right in tiles.col_ranges:
        for start in range(left, right, min(width, right - left)):
            block = state[:, start : min(start + width, right)]
            assert bool((block == block[:, :1]).all())  # the same for all devices on the line
            lines += block[:, 0].numel()
            broken += int((block[:, 0] == CODES["open"]).sum())
    assert int(((state != 0) & (state != CODES["open"])).sum()) == 0
    assert stats.binomtest(broken, lines, 0.3).pvalue > ALPHA


def test_bit_lines_break_whole_and_within_a_tile() -> None:
    tiles = tiled(300, 200, 1, (128, 96))
    state = state_of(Faults(column_rate=0.2), tiles, (128, 96), tuple(range(50)))
    lines = broken = 0
    for rows in tiles.row_slices:
        part = state[:, :, rows]
        assert bool((part == part[:, :, :1]).all())
        lines += part[:, :, 0].numel()
        broken += int((part[:, :, 0] == CODES["open"]).sum())
    assert stats.binomtest(broken, lines, 0.2).pvalue > ALPHA
    whole = [bool((state[:, :, a] == state[:, :, b]).all()) for a, b in ((0, 299), (0, 150))]
    assert not any(whole)  # another part of the rows has bit lines of its own


def test_a_broken_line_outranks_a_stuck_device() -> None:
    tiles = tiled(50, 60, 1, (128, 96))
    state = state_of(Faults(stuck_high_rate=1.0, row_rate=0.5), tiles, (128, 96))
    assert set(state.unique().tolist()) == {CODES["high"], CODES["open"]}


# ---- clusters ----


@pytest.mark.parametrize("mean,alpha", [(3.0, 0.5), (2.0, 2.0), (10.0, 50.0)])
def test_the_number_of_defects_of_an_array_is_negative_binomial(mean: float, alpha: float) -> None:
    tiles = tiled(64, 48, 1, (16, 16))  # 4 x 3 full arrays
    state = state_of(Faults(cluster_mean=mean, cluster_alpha=alpha), tiles, (16, 16), tuple(range(1500)))
    counts = (state == CODES["open"]).unflatten(1, (3, 16)).unflatten(3, (4, 16)).sum((2, 4)).flatten()
    law = stats.nbinom(alpha, alpha / (alpha + mean))
    edges = np.arange(0, law.ppf(1 - 20 / len(counts)) + 1)
    observed = np.array([int((counts == k).sum()) for k in edges] + [int((counts > edges[-1]).sum())])
    expected = len(counts) * np.append(law.pmf(edges), law.sf(edges[-1]))
    big = expected >= 5
    observed, expected = (np.append(x[big], x[~big].sum()) for x in (observed, expected))
    keep = expected > 0
    assert stats.chisquare(observed[keep], expected[keep] * observed.sum() / expected.sum()).pvalue > ALPHA


def test_a_partly_used_array_has_its_share() -> None:
    tiles = tiled(8, 8, 1, (16, 16))  # a quarter of one array
    state = state_of(Faults(cluster_mean=8.0, cluster_alpha=2.0), tiles, (16, 16), tuple(range(4000)))
    counts = (state == CODES["open"]).sum((1, 2)).double()
    deviation = math.sqrt((2.0 + 2.0**2 / 2.0) / 4000)
    assert abs(float(counts.mean()) - 2.0) < stats.norm.isf(ALPHA / 2) * deviation


def test_places_in_an_array_are_uniform() -> None:
    tiles = tiled(8, 8, 1, (8, 8))
    chips = tuple(range(6000))
    state = state_of(Faults(cluster_mean=5.0, cluster_state="high"), tiles, (8, 8), chips)
    per_place = (state == CODES["high"]).sum(0).flatten().numpy()
    # given their number, defects are spread without repeats: less variable than a multinomial
    assert stats.chisquare(per_place).pvalue > ALPHA


@pytest.mark.parametrize("mean,alpha", [(0.3, 0.1), (5.0, 0.5), (200.0, 3.0)])
def test_cumulative_probabilities_are_those_of_scipy(mean: float, alpha: float) -> None:
    found = counts_up_to(mean, alpha, 100_000).numpy()
    law = stats.nbinom(alpha, alpha / (alpha + mean))
    np.testing.assert_allclose(found[:-1], law.cdf(np.arange(len(found) - 1)), atol=1e-9)
    assert found[-1] == 1.0


def test_no_more_devices_break_than_there_are() -> None:
    state = state_of(Faults(cluster_mean=1e5), tiled(4, 4, 1, (4, 4)), (4, 4))
    assert bool((state == CODES["open"]).all())


# ---- the die ----


def test_gradients_are_linear_over_a_tile_and_the_same_on_all() -> None:
    tiles = tiled(60, 40, 1, (30, 20))
    found = drawn(Faults(gradient_std=0.1), tiles, (30, 20))
    assert found.of_columns is not None
    assert found.of_rows is not None
    scale = (found.of_columns + found.of_rows).double()
    first = scale[:, :20, :30]
    torch.testing.assert_close(scale[:, 20:, 30:], first)
    for axis in (1, 2):
        assert float(first.diff(dim=axis).diff(dim=axis).abs().max()) < 1e-6
    middle = first.mean((1, 2))
    torch.testing.assert_close(middle, torch.ones_like(middle), atol=1e-6, rtol=0)


def test_groups_on_a_diagonal_lie_further_down() -> None:
    tiles = tiled(9, 8, 4, (64, 64))  # 4 groups of 9 rows and 2 columns in one tile
    found = drawn(Faults(gradient_std=0.1), tiles, (64, 64))
    assert found.of_columns is not None
    assert found.of_rows is not None
    scale = (found.of_columns + found.of_rows).double()
    slope_y = scale[:, 0, 1] - scale[:, 0, 0]
    slope_x = scale[:, 1, 0] - scale[:, 0, 0]
    expected = scale[:, 0, 0] + 6 * slope_x + 3 * 9 * slope_y  # the first device of the fourth group
    torch.testing.assert_close(scale[:, 6, 0], expected, atol=1e-5, rtol=0)


def test_a_die_scales_everything_and_both_legs_alike() -> None:
    tiles, chips = tiled(5, 5, 1, (64, 64)), tuple(range(20_000))
    plus, minus = (drawn(Faults(die_std=0.05), tiles, (64, 64), chips, leg) for leg in "+-")
    assert plus.of_columns is not None
    assert minus.of_columns is not None
    assert plus.of_rows is not None
    assert torch.equal(plus.of_columns, minus.of_columns)
    assert float(plus.of_rows.abs().max()) == 0.0
    assert stats.kstest(((plus.of_columns[:, 0, 0] - 1) / 0.05).numpy(), stats.norm().cdf).pvalue > ALPHA


def test_die_and_gradient_multiply_what_devices_hold() -> None:
    found = drawn(Faults(die_std=0.1, gradient_std=0.1), tiled(5, 6, 1, (64, 64)), (64, 64))
    g = torch.rand(4, 6, 5, dtype=torch.float64)
    assert found.of_columns is not None
    assert found.of_rows is not None
    torch.testing.assert_close(found.apply(g, Ideal()), g * (found.of_columns + found.of_rows))


# ---- every kind ----

EVERY = Faults(
    stuck_low_rate=0.02, stuck_high_rate=0.02, stuck_open_rate=0.02, row_rate=0.02, column_rate=0.02,
    cluster_mean=20, cluster_alpha=1, die_std=0.1, gradient_std=0.1,
)  # fmt: skip


@pytest.mark.parametrize("rows,columns,groups", [(300, 200, 1), (9, 64, 64), (1, 1, 1), (7, 10, 2)])
def test_a_chip_does_not_depend_on_its_batch(rows: int, columns: int, groups: int) -> None:
    tiles = tiled(rows, columns, groups, (128, 96))
    together = drawn(EVERY, tiles, (128, 96))
    for place, chip in enumerate(CHIPS):
        alone = drawn(EVERY, tiles, (128, 96), (chip,))
        for all_chips, one in zip(together, alone, strict=True):
            assert all_chips is not None
            assert one is not None
            row = all_chips[place] if len(all_chips) == len(CHIPS) else all_chips[0]
            assert torch.equal(row, one[0])


def test_chips_differ_and_legs_differ() -> None:
    tiles = tiled(100, 100, 1, (128, 96))
    plus, minus = (drawn(EVERY, tiles, (128, 96), leg=leg).state for leg in "+-")
    assert plus is not None
    assert minus is not None
    assert not torch.equal(plus[0], plus[1])
    assert not torch.equal(plus, minus)


# ---- on networks ----


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 50), nn.ReLU(), nn.Linear(50, 3)
    )


X = torch.rand(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))
FAULTY = {
    "stuck_high_rate": 0.05,
    "row_rate": 0.02,
    "cluster_mean": 50.0,
    "die_std": 0.05,
    "gradient_std": 0.05,
}


def chip(name: str, **faults: object) -> Hardware:
    return hardware(name, array={"rows": 64, "cols": 32}, faults=faults)


def outputs(
    hw: Hardware, numbers: list[int], ages: tuple[float, ...] = (0.0,), dtype: torch.dtype = torch.float32
) -> Tensor:
    net = deploy(network().to(dtype), hw, calibration=X.to(dtype))
    with torch.no_grad(), net.on(Lot(hw, 1)[numbers], time_s=ages[0]) as chips:
        found = [chips(X.to(dtype))]
        for age in ages[1:]:
            chips.age(age)
            found.append(chips(X.to(dtype)))
    return torch.stack(found)


@pytest.mark.parametrize("name", ["ideal", "gaussian-mismatch", "pcm-joshi-2020", "sonos-agrawal-2022"])
def test_networks_see_faults_and_chips_stay_themselves(name: str) -> None:
    hw = chip(name, **FAULTY)
    together = outputs(hw, [0, 5, 9], ages=(0.0, 86400.0))
    assert not torch.allclose(together, outputs(chip(name), [0, 5, 9], ages=(0.0, 86400.0)))
    for place, number in enumerate([0, 5, 9]):
        assert torch.equal(outputs(hw, [number], ages=(0.0, 86400.0))[:, 0], together[:, place])


def test_no_faults_leave_every_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a chip without faults draws none")

    expected = outputs(hardware("pcm-joshi-2020"), [0, 1], ages=(0.0, 86400.0))
    monkeypatch.setattr("neurosim.analog.cells.defects", never)
    found = hardware("pcm-joshi-2020", faults=Faults(cluster_alpha=7.0))
    assert torch.equal(outputs(found, [0, 1], ages=(0.0, 86400.0)), expected)


def legs_of(hw: Hardware, ages: tuple[float, ...]) -> list[list[Tensor]]:
    """Conductances of both legs of a layer of 100 inputs and 60 outputs, at each age."""
    net = deploy(nn.Linear(100, 60), hw, calibration=torch.rand(4, 100))
    crossbar = next(iter(net._crossbars.values()))
    found = []
    for age in ages:
        with torch.no_grad(), net.on(Lot(hw, 1)[0:3], time_s=age):
            found.append(crossbar.held(net.weight)[0])
    return found


def test_the_same_devices_are_stuck_at_every_age() -> None:
    hw = chip("pcm-joshi-2020", stuck_high_rate=0.1, row_rate=0.05)
    ages = legs_of(hw, (0.0, 3600.0, 3e8))
    for leg in (0, 1):
        stuck = [age[leg] == hw.device.g_max_siemens for age in ages]
        broken = [(age[leg] == 0).all(dim=1) for age in ages]
        # programmed conductances never meet g_max exactly, and drift away from it
        assert int(stuck[0].sum()) > 1000
        assert torch.equal(stuck[1], stuck[2])
        assert torch.equal(stuck[0], stuck[1])
        assert bool((broken[0] <= broken[1]).all())
    assert not torch.equal(ages[0][0] == hw.device.g_max_siemens, ages[0][1] == hw.device.g_max_siemens)


def test_interleaved_legs_share_their_word_lines() -> None:
    for legs, same in (("interleaved", True), ("separate", False)):
        hw = hardware("ideal", array__cols=64, faults={"row_rate": 0.3}, wires={"legs": legs})
        found = legs_of(hw, (0.0,))[0]
        cells = Cells("w", hw, "per-layer")
        draws = tuple(Draws(1, (0,), f"w{leg}") for leg in "+-")
        plus, minus = (leg.state for leg in cells._plane_faults((60, 100), draws, None))
        assert plus is not None
        assert minus is not None
        assert torch.equal(plus, minus) == same
        off = [(leg == 0).all(dim=1) for leg in found]
        assert torch.equal(off[0], off[1]) == same


def test_fused_and_plain_ways_agree() -> None:
    hw = chip("pcm-joshi-2020", **FAULTY).with_all({"dac.bits": None, "adc.bits": None})
    ages = (0.0, 86400.0)
    single, double = outputs(hw, [0, 3], ages), outputs(hw, [0, 3], ages, torch.float64)
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-4)


def test_gradients_stop_at_stuck_devices() -> None:
    hw = chip("ideal", stuck_open_rate=0.5)
    torch.manual_seed(0)
    layer = nn.Linear(40, 30, bias=False)
    net = deploy(layer, hw)
    with net.on(Lot(hw, 2)[0]) as chips:
        chips(torch.rand(5, 40)).sum().backward()
    grad = net.weight.grad
    assert grad is not None
    # a weight lies on one leg, and has no gradient where that one is stuck
    stuck = float((grad == 0).double().mean())
    assert 0.45 < stuck < 0.55


def test_tied_and_split_parameters_have_one_set_of_faults() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 12)
            self.head = nn.Linear(12, 20, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            found: Tensor = self.head(self.embed(tokens))
            return found

    torch.manual_seed(0)
    hw, tokens = hardware("ideal", faults={"stuck_open_rate": 0.3}), torch.arange(20).reshape(4, 5)
    net = deploy(Tied(), hw, calibration=tokens)
    with torch.no_grad(), net.on(Lot(hw, 1)[0:2]) as chips:
        found = chips(tokens)
        held = next(iter(net.embed._crossbars.values())).held(net.embed.weight)[0]
        scale = net.embed.weight.abs().max() / hw.device.g_max_siemens
    weight = (held[0] - held[1]) * scale  # (chips, columns = 12, rows = 20)
    for k in range(2):
        expected = weight[k].T[tokens] @ weight[k]
        torch.testing.assert_close(found[k], expected, atol=1e-5, rtol=1e-4)


def test_attention_draws_faults_for_each_part() -> None:
    torch.manual_seed(0)
    net, x = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval(), torch.rand(3, 5, 16)
    hw = hardware("ideal", faults={"stuck_open_rate": 0.2, "row_rate": 0.1})
    on = deploy(net, hw, calibration=x)
    with torch.no_grad(), on.on(Lot(hw, 0)[0:2]) as chips:
        found = chips(x)
    assert found.shape == (2, 3, 5, 16)
    assert not torch.allclose(found[0], found[1])


# ---- the description ----


def test_faults_come_back_from_toml_and_count_in_the_digest(tmp_path: Path) -> None:
    plain = hardware("pcm-joshi-2020")
    hw = plain.with_("faults.stuck_low_rate", 0.01).with_("faults.cluster_state", "low")
    path = tmp_path / "faulty.toml"
    path.write_text(hw.to_toml())
    assert hardware(path) == hw
    assert "[faults]" in hw.to_toml()
    assert "faults" not in plain.to_toml()
    assert hw.digest() != plain.digest()
    assert hw.with_all({"faults.stuck_low_rate": 0, "faults.cluster_state": "open"}) == plain
    assert plain.with_("faults", {}).digest() == plain.digest()


def test_a_layer_may_have_faults_or_none() -> None:
    hw = hardware(
        "ideal", faults={"row_rate": 0.1}, layers={"a": {"faults.row_rate": 0}, "b": {"faults.die_std": 0.2}}
    )
    assert hw.for_layer("a").faults == Faults()
    assert hw.for_layer("b").faults == Faults(row_rate=0.1, die_std=0.2)
    assert hw.for_layer("c").faults == Faults(row_rate=0.1)


def test_explain_and_effects_list_what_is_broken() -> None:
    hw = chip("ideal", **FAULTY)
    names = {effect.name for effect in hw.faults.effects()}
    assert names == {
        "stuck high",
        "broken word lines",
        "clustered defects",
        "die to die",
        "gradient over a tile",
    }
    text = str(deploy(network(), hw, calibration=X).explain())
    assert "5 % of the devices, at g_max" in text
    assert "50 a full array on average, negative-binomial, alpha 2, open" in text
    sound = str(deploy(network(), hardware("ideal"), calibration=X).explain())
    assert "none: every device and line works" in sound
    assert not Faults().effects()[0].acts
    assert len(EVERY.effects()) == 8


def test_impossible_faults_are_refused() -> None:
    with pytest.raises(UsageError, match=r"of at most 1; got 0\.6 \+ 0\.6 \+ 0"):
        Faults(stuck_low_rate=0.6, stuck_high_rate=0.6)
    with pytest.raises(UsageError, match=r"expected at most 1; got faults\.row_rate=2"):
        hardware("ideal", faults={"row_rate": 2.0})
    with pytest.raises(
        UsageError, match=r"unknown field 'faults\.row_rat': did you mean 'faults\.row_rate'\?"
    ):
        hardware("ideal").with_("faults.row_rat", 0.1)
    assert ns.hardware("ideal").faults == Faults()
