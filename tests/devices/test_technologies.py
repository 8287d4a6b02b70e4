"""Every technology of the list: measured spreads against their formula, what is shown, what ageing may do."""

from __future__ import annotations

import itertools
import json
import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

from neurosim.analog.limits import heed_age
from neurosim.cli import app
from neurosim.devices import DEVICES, FitRangeWarning, Hardware, hardware, hardware_names
from neurosim.devices.conditions import Endurance
from neurosim.devices.fit_range import FitRange
from neurosim.random import Draws
from neurosim.technologies import as_table, in_full, technology

ALPHA = 1e-5
SAMPLES = 1_000_000
DAY, YEAR = 86400.0, 31557600.0
every = pytest.mark.parametrize("name", hardware_names())


def written(name: str, target: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    device = hardware(name).device
    g = torch.full((SAMPLES,), target, dtype=torch.float64)
    made: np.ndarray[Any, np.dtype[np.float64]] = device.program(g, Draws(5, (3,), "w+"))["g_siemens"][
        0
    ].numpy()
    return made


# ---- what was measured since 2023, from the publications' own sentences ----


@pytest.mark.parametrize(
    ("name", "targets_us", "mean_us", "std_us"),
    [
        # "a near-zero mean (0.108 µS) and a standard deviation of 3.894 µS" over 0 to 150 µS
        ("rram-taox-he-2026", (40.0, 75.0, 150.0), 0.108, 3.894),
        # "σ values around 2.73 µS" at 100, 150 ... 400 µS
        ("rram-taox-hong-2025", (100.0, 250.0, 400.0), 0.0, 2.73),
    ],
)
def test_tantalum_oxide_misses_its_targets_as_published(
    name: str, targets_us: tuple[float, ...], mean_us: float, std_us: float
) -> None:
    for target in targets_us:
        error_us = written(name, target * 1e-6) * 1e6 - target
        assert stats.kstest(error_us, stats.norm(mean_us, std_us).cdf).pvalue > ALPHA


def test_weak_states_of_tantalum_oxide_do_not_fall_below_zero() -> None:
    made = written("rram-taox-he-2026", 0.0)
    assert made.min() == 0.0
    # n < -0.108/3.894 is cut
    cut = stats.norm(0.108, 3.894).cdf(0.0)
    assert stats.binomtest(int((made == 0.0).sum()), SAMPLES, cut).pvalue > ALPHA


@pytest.mark.parametrize(("ohm", "std_ohm"), [(3363.7, 171.8), (9199.2, 480.7)])
def test_tunnel_junctions_resist_as_published(ohm: float, std_ohm: float) -> None:
    found = 1.0 / written("stt-mram-li-2025", 1.0 / ohm)
    assert found.mean() == pytest.approx(ohm, rel=5e-4)
    assert found.std() == pytest.approx(std_ohm, rel=5e-3)  # published to four digits, stored to three


def test_the_two_states_of_a_junction_vary_together_as_their_ratio_does() -> None:
    # TMR of 173.5 % with a standard deviation of 3.9 %: independent states would give 20 %
    device = hardware("stt-mram-li-2025").device
    low, high = (
        device.program(torch.full((SAMPLES,), g, dtype=torch.float64), Draws(5, (3,), "w+"))["g_siemens"][0]
        for g in (device.g_min_siemens, device.g_max_siemens)
    )
    tmr = high / low - 1
    assert float(tmr.mean()) == pytest.approx(1.735, abs=0.005)
    assert float(tmr.std()) < 0.039


# ---- wear, against MemTorch's own line of code ----


@pytest.mark.parametrize("cell_nm", [10.0, 20.0])
@pytest.mark.parametrize("cycles", [2e7, 1e9])
def test_wear_is_that_of_memtorch(cell_nm: float, cycles: float) -> None:
    # model_endurance_retention_gradual without temperature: 10**(p_3*p_1*cell*log10(x) + log10(R)
    # - p_3*p_1*cell*log10(threshold)), threshold = p_0*exp(p_1*cell); p_3*p_1 as in its authors' scripts
    threshold = 10.0 * np.exp(0.6907755278982137 * cell_nm)
    for ohm, slope in ((4400.0, 0.012171029136082496), (65000.0, -0.015855563129903612)):
        expected = 10 ** (
            slope * cell_nm * np.log10(cycles) + np.log10(ohm) - slope * cell_nm * np.log10(threshold)
        )
        g = torch.tensor([1.0 / ohm], dtype=torch.float64)
        found = 1.0 / Endurance(cycles=cycles, cell_size_nm=cell_nm).apply(g)
        assert float(found) == pytest.approx(expected, rel=1e-9)


# ---- ageing ----


@pytest.mark.parametrize("kind", ["pcm", "pcm-hermes", "rram-cmo"])
def test_the_mean_conductance_falls_with_every_decade(kind: str) -> None:
    device = DEVICES[kind]()
    g = torch.full((300_000,), 0.5 * device.g_max_siemens, dtype=torch.float64)
    state = device.program(g, Draws(2, (0,), "w+"))
    means = [
        float(device.age(state, time_s, Draws(2, (0,), "w+")).mean()) for time_s in 10.0 ** np.arange(2, 9)
    ]
    assert all(later < earlier for earlier, later in itertools.pairwise(means))


@every
def test_no_chip_depends_on_the_others_when_hot_worn_and_noisy(name: str) -> None:
    hw = hardware(name)
    device, draws = hw.device, Draws(4, (0, 7, 9_000_000), "w+")
    hot = hardware(name, heat__storage_kelvin=350.0, heat__activation_energy_ev=0.9)
    g = torch.linspace(device.g_min_siemens, device.g_max_siemens, 257)
    worn, noise = Endurance(cycles=1e8), hardware(name, read_noise__relative_std=0.01).read_noise

    def seen(draws: Draws) -> torch.Tensor:
        aged = device.age(device.program(g, draws), hot.equivalent_s(DAY), draws)
        return noise.apply(worn.apply(aged), DAY, draws)

    together = seen(draws)
    for row, chip in enumerate(draws.chips):
        assert torch.equal(together[row], seen(Draws(4, (chip,), "w+"))[0])


# ---- temperatures that were not measured ----


def told(hw: Hardware, time_s: float = 3600.0) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        heed_age(hw, time_s, set())
    assert all(issubclass(one.category, FitRangeWarning) for one in caught)
    return [str(one.message) for one in caught if "stored at" in str(one.message)]


def test_storage_at_another_temperature_is_beyond_the_measurement() -> None:
    hot: dict[str, Any] = {"heat__storage_kelvin": 358.15, "heat__activation_energy_ev": 1.1}
    assert told(hardware("pcm-joshi-2020", **hot)) == [
        "device 'pcm' stored at 358.15 K: aged at 300 K when measured, Arrhenius' law is extrapolated"
    ]
    assert told(hardware("pcm-joshi-2020")) == []
    # the loss of charge of flash is quoted for 125 degrees Celsius
    assert "aged at 398.15 K when measured" in told(hardware("flash-guo-2016", **hot))[0]
    oven = {
        "heat__storage_kelvin": 398.15,
        "heat__reference_kelvin": 300.0,
        "heat__activation_energy_ev": 1.1,
    }
    assert told(hardware("flash-guo-2016", **oven)) == []
    # nothing that could age, or a law of the device's own
    assert told(hardware("rram-milo-2021", **hot)) == []
    assert told(hardware("stt-mram-typical", heat__storage_kelvin=400.0)) == []


@pytest.mark.parametrize("kelvin,count", [(299.9, 1), (300.0, 0), (350.0, 0), (400.0, 0), (400.1, 1)])
def test_a_range_of_temperatures_holds_its_ends(kelvin: float, count: int) -> None:
    measured = FitRange(time_s=(0.0, DAY), kelvin=(300.0, 400.0))
    found = list(measured.heat_beyond("x", kelvin, 300.0))
    assert len(found) == count
    assert all("300 to 400 K" in sentence for _, sentence in found)


# ---- the list ----


def test_the_list_has_its_columns_within_a_terminal() -> None:
    rows = [technology(hardware(name)) for name in hardware_names()]
    lines = as_table(rows).splitlines()
    assert max(map(len, lines)) <= 100
    measured = [row for row in rows if row["doi"]]
    assert len(measured) >= 16
    for row in measured:
        line = next(text for text in lines if text.startswith(f"{row['name']} "))
        assert str(row["year"]) in line
        assert row["doi"] in line
        low, high = row["g_min_siemens"] * 1e6, row["g_max_siemens"] * 1e6
        shown = re.search(r" ([\d.]+)-([\d.]+) ", line)
        assert shown is not None
        assert [float(part) for part in shown.groups()] == pytest.approx([low, high], rel=1e-3)
        assert row["covers"]
        assert row["source"]


def test_in_full_every_technology_says_what_it_covers() -> None:
    rows = [technology(hardware(name)) for name in hardware_names()]
    paragraphs = in_full(rows).split("\n\n")
    assert len(paragraphs) == len(rows)
    for row, paragraph in zip(rows, paragraphs, strict=True):
        flat = " ".join(paragraph.split())
        for words in (row["covers"], row["source"], row["fit_range"], row["device"]):
            assert " ".join(words.split()) in flat
        assert max(map(len, paragraph.splitlines())) <= 100


def test_the_command_prints_all_three() -> None:
    run = CliRunner().invoke
    table, full, rows = (run(app, ["hardware", "list", *more]) for more in ([], ["--long"], ["--json"]))
    assert [result.exit_code for result in (table, full, rows)] == [0, 0, 0]
    assert "rram-taox-he-2026" in table.output
    assert "covers: " in full.output
    found = {row["name"]: row for row in json.loads(rows.output)}
    assert set(found) == set(hardware_names())
    assert found["rram-taox-he-2026"]["node_nm"] == 180.0
    assert found["rram-taox-he-2026"]["measured_s"] == [0.0, 1e5]


@every
def test_numbers_of_a_source_are_numbers_of_its_device(name: str) -> None:
    """Where a range is stated in numbers, the description stays inside it."""
    hw = hardware(name)
    measured = hw.device.fit_range()
    if measured.g_siemens is not None:
        low, high = measured.g_siemens
        assert low * (1 - 1e-6) <= hw.device.g_min_siemens < hw.device.g_max_siemens <= high * (1 + 1e-6)
    if measured.time_s is not None:
        assert 0.0 <= measured.time_s[0] <= measured.time_s[1]
    assert hw.source.doi or hw.source.citation.startswith("none: ")
    assert hw.source.year is None or 2000 < hw.source.year <= 2026
    assert math.isfinite(hw.source.node_nm or 0.0)
