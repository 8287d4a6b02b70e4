"""Weights around broken devices: the assignment is the best of all orders, and nothing else changes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import Deployed, deploy
from neurosim.analog.operators import layout
from neurosim.devices import Array, Faults, Hardware, Ideal
from neurosim.devices.fault_map import digest_of, fault_map, to_csv
from neurosim.devices.mappings import OneSidedPair
from neurosim.devices.remapping import Broken, assigned, costs, healed, left_over, remapped
from neurosim.errors import UsageError
from neurosim.random import stream

DEVICE = Ideal(g_min_siemens=2e-6, g_max_siemens=22e-6)
SPAN = 20e-6


def targets_of(columns: int, rows: int, seed: int = 0) -> list[Tensor]:
    x = stream(seed, 0, "w", "test").normal((columns, rows)).double()
    return OneSidedPair().targets(x / x.abs().max(), DEVICE)


def states(columns: int, rows: int, rate: float, seed: int = 0, chips: int = 1) -> list[Tensor]:
    found = []
    for leg in "+-":
        u = stream(seed, 0, leg, "test").uniform((chips, columns, rows))
        code = 1 + (stream(seed, 0, leg, "code").uniform((chips, columns, rows)) * 3).to(torch.uint8)
        found.append(torch.where(u < rate, code, torch.zeros_like(code)))
    return found


def error(targets: list[Tensor], legs: list[Tensor], heal: bool = False) -> float:
    return float(left_over(targets, Broken(tuple(legs)), DEVICE, heal).square().sum())


# ---- the assignment ----


@given(seed=st.integers(0, 1000), heal=st.booleans(), rate=st.sampled_from([0.05, 0.3, 0.9]))
def test_columns_are_in_the_best_of_all_orders(seed: int, heal: bool, rate: float) -> None:
    targets, broken = targets_of(4, 6, seed), states(4, 6, rate, seed)
    faults = Faults(stuck_open_rate=0.1, remapping="columns", pair_compensation=heal)
    tiles = layout(6, 4, 1, Array(rows=8, cols=8))
    found = remapped(targets, broken, None, tiles, DEVICE, faults)
    best = min(
        error(targets, [leg[0, list(order)] for leg in broken], heal)
        for order in itertools.permutations(range(4))
    )
    assert error(targets, [leg[0] for leg in found], heal) == pytest.approx(best, abs=1e-18)
    for before, after in zip(broken, found, strict=True):  # the same columns, in another order
        assert sorted(map(tuple, before[0].tolist())) == sorted(map(tuple, after[0].tolist()))


@given(seed=st.integers(0, 1000))
def test_spares_take_the_worst_columns(seed: int) -> None:
    targets, broken = targets_of(4, 6, seed), states(4, 6, 0.2, seed)
    spares = [leg[:, :2] for leg in states(4, 6, 0.1, seed + 1)]
    tiles = layout(6, 4, 1, Array(rows=8, cols=8))
    for remapping, movable in (("none", False), ("columns", True)):
        faults = Faults(stuck_open_rate=0.1, remapping=remapping, spare_columns=2)  # type: ignore[arg-type]
        found = remapped(targets, broken, spares, tiles, DEVICE, faults)
        every = [torch.cat([leg[0], extra[0]]) for leg, extra in zip(broken, spares, strict=True)]
        best = min(
            error(targets, [leg[list(order)] for leg in every])
            for order in itertools.permutations(range(6), 4)
            if movable or all(p in (j, 4, 5) for j, p in enumerate(order))
        )
        assert error(targets, [leg[0] for leg in found]) == pytest.approx(best, abs=1e-18)


@given(seed=st.integers(0, 1000))
def test_rows_are_in_the_best_of_all_orders(seed: int) -> None:
    targets, broken = targets_of(6, 4, seed), states(6, 4, 0.2, seed)
    faults = Faults(stuck_open_rate=0.1, remapping="rows")
    found = remapped(targets, broken, None, layout(4, 6, 1, Array(rows=8, cols=8)), DEVICE, faults)
    best = min(
        error(targets, [leg[0][:, list(order)] for leg in broken])
        for order in itertools.permutations(range(4))
    )
    assert error(targets, [leg[0] for leg in found]) == pytest.approx(best, abs=1e-18)


@pytest.mark.parametrize(
    ("rows", "columns", "groups", "tile"), [(17, 11, 1, (7, 4)), (5, 12, 3, (16, 16)), (9, 8, 8, (20, 6))]
)
@pytest.mark.parametrize("remapping", ["columns", "rows", "rows-and-columns"])
def test_devices_stay_on_their_tile_and_nothing_gets_worse(
    rows: int, columns: int, groups: int, tile: tuple[int, int], remapping: str
) -> None:
    tiles = layout(rows, columns, groups, Array(rows=tile[0], cols=tile[1]))
    targets, broken = targets_of(columns, rows), states(columns, rows, 0.1, chips=3)
    before = [leg.clone() for leg in broken]
    faults = Faults(stuck_open_rate=0.1, remapping=remapping)  # type: ignore[arg-type]
    found = remapped(targets, broken, None, tiles, DEVICE, faults)
    assert all(torch.equal(a, b) for a, b in zip(before, broken, strict=True))
    width = columns // groups
    for chip in range(3):
        left, lost = (error(targets, [leg[chip] for leg in legs]) for legs in (found, broken))
        assert left < lost or (left == lost and (groups, remapping) == (columns, "columns"))
        for left, right in tiles.col_ranges:
            for part in tiles.row_slices:
                for start in range(left, right, width) if right - left > width else [left]:
                    here = slice(start, min(right, start + width))
                    for a, b in zip(broken, found, strict=True):
                        counts = [leg[chip, here, part].flatten().bincount(minlength=4) for leg in (a, b)]
                        assert torch.equal(*counts)


def test_costs_are_those_of_every_pair_of_column_and_place() -> None:
    targets, broken = targets_of(5, 7), states(5, 7, 0.3)
    one = Broken(tuple(leg[0] for leg in broken))
    for heal in (False, True):
        found = costs(targets, one, DEVICE, heal)
        for j, p in itertools.product(range(5), range(5)):
            expected = error([g[j] for g in targets], [leg[p] for leg in one.legs], heal)
            assert float(found[j, p]) == pytest.approx(expected, rel=1e-9, abs=1e-20)


def test_columns_that_gain_nothing_stay() -> None:
    cost = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.0]], dtype=torch.float64)
    places = assigned(cost, movable=True).tolist()
    assert sorted(places) == [0, 1, 2]
    assert sum(p == j for j, p in enumerate(places)) == 1  # one pair changes places
    assert assigned(torch.ones(4, 4, dtype=torch.float64), movable=True).tolist() == [0, 1, 2, 3]


# ---- the other leg ----


@pytest.mark.parametrize(
    ("x", "plus", "minus", "expected"),
    [
        (0.5, 1, 0, 0.0),  # stuck low where 0.5 should be: the other leg cannot go below g_min
        (-0.5, 1, 0, -0.5),  # nothing lost
        (0.5, 2, 0, 0.5),  # stuck high: the other leg is raised to 0.5
        (-0.5, 2, 0, 0.0),  # stuck high where 0 should be: the other leg at g_max undoes it
        (0.5, 0, 2, 0.0),
        (0.0, 0, 2, 0.0),
        (0.5, 2, 2, 0.0),  # both: nothing to be done
        (0.5, 0, 3, 0.5),  # open: 0 and not g_min: the other leg lies lower
        (0.5, 0, 0, 0.5),
    ],
)
def test_a_healthy_leg_makes_up_for_a_broken_one(x: float, plus: int, minus: int, expected: float) -> None:
    targets = OneSidedPair().targets(torch.tensor([[x]], dtype=torch.float64), DEVICE)
    broken = Broken((torch.tensor([[plus]], dtype=torch.uint8), torch.tensor([[minus]], dtype=torch.uint8)))
    aimed = healed(targets, broken, DEVICE)
    held = [0.0, DEVICE.g_min_siemens, DEVICE.g_max_siemens, 0.0]
    got = [held[s] if s else float(g) for s, g in zip((plus, minus), aimed, strict=True)]
    assert (got[0] - got[1]) / SPAN == pytest.approx(expected, abs=1e-12)
    for g in aimed:
        assert DEVICE.g_min_siemens - 1e-18 <= float(g) <= DEVICE.g_max_siemens + 1e-18


# ---- networks ----

RATES = {"stuck_low_rate": 0.02, "stuck_high_rate": 0.02, "stuck_open_rate": 0.02}
HEALING: dict[str, dict[str, Any]] = {
    "columns": {"remapping": "columns"},
    "rows": {"remapping": "rows"},
    "both": {"remapping": "rows-and-columns"},
    "spares": {"spare_columns": 3},
    "pairs": {"pair_compensation": True},
    "all": {"remapping": "rows-and-columns", "spare_columns": 3, "pair_compensation": True},
}


def chip(preset: str = "ideal", mapping: str = "differential-pair", **faults: Any) -> Hardware:
    return ns.hardware(preset, array={"rows": 32, "cols": 24, "mapping": mapping}, faults={**RATES, **faults})


def linear() -> nn.Linear:
    layer = nn.Linear(40, 30, bias=False)
    with torch.no_grad():
        layer.weight.copy_(stream(3, 0, "w", "test").normal((30, 40)))
    return layer


def read(net: Deployed, chips: list[int], time_s: float = 0.0) -> Tensor:
    x = torch.eye(40)
    with torch.no_grad(), net.on(ns.Lot(net.hardware)[chips], time_s) as on_chips:
        out: Tensor = on_chips(x)
        return out


@pytest.mark.parametrize("name", HEALING)
@pytest.mark.parametrize(
    "mapping", ["differential-pair", "two-sided-pair", "bit-sliced", "significance-pairs"]
)
def test_healing_lowers_the_error_of_weights(name: str, mapping: str) -> None:
    layer = linear()
    plain = deploy(layer, ns.hardware("ideal", array={"rows": 32, "cols": 24, "mapping": mapping}))
    wanted = read(plain, [0])[0]
    errors = []
    for changes in ({}, HEALING[name]):
        net = deploy(layer, chip(mapping=mapping, **changes))
        errors.append((read(net, list(range(8))) - wanted).square().mean(dim=(1, 2)))
    assert bool((errors[1] < errors[0]).all())


@pytest.mark.parametrize("name", HEALING)
def test_a_chip_is_the_same_alone_and_at_every_age(name: str) -> None:
    net = deploy(linear(), chip("pcm-joshi-2020", **HEALING[name]), calibration=torch.eye(40))
    together = read(net, [0, 3, 17], 3600.0)
    assert torch.equal(read(net, [17], 3600.0)[0], together[2])
    with torch.no_grad(), net.on(ns.Lot(net.hardware)[[0, 3, 17]]) as chips:
        for time_s in (3600.0, 0.0, 3600.0):
            chips.age(time_s)
        assert torch.equal(chips(torch.eye(40)), together)


@pytest.mark.parametrize("name", HEALING)
def test_training_with_healing_has_finite_gradients(name: str) -> None:
    net = deploy(linear(), chip("pcm-joshi-2020", **HEALING[name]), calibration=torch.eye(40))
    with net.on(ns.Lot(net.hardware)[0:2]) as chips:
        chips(torch.eye(40)).square().sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())
        assert float(parameter.grad.abs().max()) > 0


def test_without_faults_healing_changes_no_bit() -> None:
    layer = linear()
    plain = ns.hardware("pcm-joshi-2020", array={"rows": 32, "cols": 24})
    idle = plain.with_all({"faults.remapping": "columns", "faults.pair_compensation": True})
    outs = [read(deploy(layer, hw, calibration=torch.eye(40)), [0, 1]) for hw in (plain, idle)]
    assert torch.equal(*outs)


def test_spare_columns_take_room_on_tiles() -> None:
    rows = [deploy(linear(), chip(spare_columns=n)).explain().layers[0].tiles for n in (0, 3, 14)]
    assert rows == [2 * 2, 2 * 2, 3 * 2]


# ---- maps ----


def written(tmp_path: Path, net: Deployed, chips: list[int]) -> Path:
    file = tmp_path / "map.csv"
    file.write_text(to_csv(net.fault_map(ns.Lot(net.hardware)[chips])), encoding="utf-8")
    return file


@pytest.mark.parametrize("mapping", ["differential-pair", "bit-sliced", "unit-column"])
def test_a_map_of_drawn_faults_is_the_same_chips_again(tmp_path: Path, mapping: str) -> None:
    drawn = deploy(linear(), chip(mapping=mapping, row_rate=0.02, column_rate=0.02))
    file = written(tmp_path, drawn, [0, 3])
    known = ns.hardware(
        "ideal", array={"rows": 32, "cols": 24, "mapping": mapping}, faults={"map_file": str(file)}
    )
    net = deploy(linear(), known)
    assert torch.equal(read(net, [0, 3]), read(drawn, [0, 3]))
    with pytest.raises(UsageError, match=r"does not name chip 1: it was tested for \[0, 3\]"):
        read(net, [1])


def test_a_map_is_known_by_its_content(tmp_path: Path) -> None:
    file = written(tmp_path, deploy(linear(), chip()), [0])
    other = tmp_path / "copy.csv"
    other.write_bytes(file.read_bytes())
    made = [ns.hardware("ideal", faults={"map_file": str(path)}) for path in (file, other)]
    assert made[0].digest() == made[1].digest() != ns.hardware("ideal").digest()
    description = tmp_path / "chip.toml"
    description.write_text(made[0].to_toml(), encoding="utf-8")
    assert ns.hardware(description) == made[0]
    with file.open("a", encoding="utf-8") as stream_:
        stream_.write("9,,,,,\n")
    with pytest.raises(UsageError, match="it has changed"):
        ns.hardware(description)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "expected the columns chip,parameter,leg,output,input,state"),
        (200_000 * "w", "line 1: field larger"),
        ("chip,parameter,leg,output,input,state\n", "names no chip"),
        ("chip,parameter,leg,output,input,state\n0,w,+,1,1\n", "line 2: expected 6 columns; got 5"),
        (
            "chip,parameter,leg,output,input,state\n0,,,,,\n-1,w,+,1,1,low\n",
            "line 3: expected a whole number",
        ),
        (
            "chip,parameter,leg,output,input,state\n0,w,+,1,1,dead\n",
            "expected state low, high or open; got 'dead'",
        ),
        (
            "chip,parameter,leg,output,input,state\n0,w,+,1,1,low\n0,w,+,1,1,high\n",
            "line 3: this device of 'w\\+' is listed before in another state",
        ),
        ("chip,parameter,leg,output,input,state\n0," + 200_000 * "w" + ",+,1,1,low\n", "field larger"),
        ("chip,parameter,leg,output,input,state\n0,w,left,1,1,low\n", "a leg such as"),
        ("chip,parameter,leg,output,input,state\n0,w,+,1e9,1,low\n", "as output; got '1e9'"),
    ],
)
def test_a_wrong_map_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "map.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=sentence):
        ns.hardware("ideal", faults={"map_file": str(file)})


@pytest.mark.parametrize("name", ["root.wieght,+", "root.weight,[7]+"])
def test_names_that_the_network_does_not_have_are_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "map.csv"
    file.write_text(f"chip,parameter,leg,output,input,state\n0,{name},1,1,low\n", encoding="utf-8")
    net = deploy(linear(), ns.hardware("ideal", faults={"map_file": str(file)}))
    with pytest.raises(UsageError, match=r"unknown devices 'root\.w.*did you mean 'root\.weight\+'"):
        read(net, [0])


def test_places_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "map.csv"
    file.write_text("chip,parameter,leg,output,input,state\n0,root.weight,+,30,1,low\n", encoding="utf-8")
    net = deploy(linear(), ns.hardware("ideal", faults={"map_file": str(file)}))
    with pytest.raises(UsageError, match="has 30 outputs x 40 inputs; got output 30, input 1"):
        read(net, [0])
    assert fault_map(str(file), digest_of(file)).chips == {0}


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ({"map_file": "nowhere.csv"}, "cannot read fault map 'nowhere.csv'"),
        ({"spare_columns": 256, "stuck_low_rate": 0.1}, "fewer faults.spare_columns than columns"),
        ({"remapping": "tiles"}, "got faults.remapping='tiles'"),
    ],
)
def test_what_cannot_be_is_one_sentence(faults: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        ns.hardware("ideal", faults=faults)


def test_explain_says_what_is_done() -> None:
    net = deploy(linear(), chip(**HEALING["all"]))
    for words in ("fault-aware remapping", "spare columns", "pair compensation"):
        assert words in str(net.explain())
