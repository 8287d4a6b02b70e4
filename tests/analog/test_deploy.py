"""What a user of a deployed network relies on: keys, ranges, tables, and errors in one sentence."""

from __future__ import annotations

import copy
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import Chips, Deployed, Lot
from neurosim.errors import UsageError

PCM = ns.hardware("pcm-joshi-2020").with_all({"array.rows": 16, "array.cols": 8})
MISMATCH = ns.hardware("gaussian-mismatch")


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


def inputs(samples: int = 7) -> Tensor:
    return torch.rand(samples, 20, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> Deployed:
    return ns.deploy(network(), PCM, calibration=inputs(50)).eval()  # type: ignore[return-value]


def test_the_same_class_keys_and_numbers_off_the_bench(net: Deployed) -> None:
    plain = network()
    assert isinstance(net, nn.Sequential)
    assert isinstance(net[0], nn.Linear)
    assert list(net.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(net.state_dict())
    net.load_state_dict(plain.state_dict())
    assert torch.equal(net(inputs()), plain(inputs()))


def test_the_original_is_left_alone() -> None:
    plain = network()
    ns.deploy(plain, PCM)
    assert type(plain) is nn.Sequential
    assert type(plain[0]) is nn.Linear


def test_a_deep_copy_has_its_own_bench(net: Deployed) -> None:
    twin = copy.deepcopy(net)
    with torch.no_grad(), net.on(Lot(PCM)[0:2]) as chips:
        assert torch.equal(twin(inputs()), network()(inputs()))
        assert not torch.equal(chips(inputs())[0], network()(inputs()))


def test_a_shared_weight_stays_shared() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    deployed = ns.deploy(tied, MISMATCH)
    assert deployed[1].weight is deployed[0].weight  # type: ignore[index]


def test_a_subclass_with_its_own_forward_stays_digital() -> None:
    class Mine(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    explanation = ns.deploy(nn.Sequential(Mine(4, 4), nn.Linear(4, 2)), MISMATCH).explain()
    assert [row.name for row in explanation.layers] == ["1"]
    assert [(row.name, row.parameters) for row in explanation.digital] == [("0", 20)]


def test_explain_counts_tiles_and_devices(net: Deployed) -> None:
    explanation = net.explain()
    first, last = explanation.layers
    assert (first.tiles, first.devices, last.tiles) == (4, 2 * 20 * 12, 1)  # 20 rows on 16, 12 columns on 8
    assert first.utilisation == pytest.approx(20 * 12 / (4 * 16 * 8))
    acting = {effect.name: effect.acts for effect in explanation.effects}
    assert acting["programming noise"] and acting["drift"] and acting["ADC quantisation"]
    assert not acting["white output noise"] and not acting["wire resistance (IR drop)"]
    assert "1 (ReLU)" in str(explanation)


def test_devices_of_biases_are_counted_where_devices_hold_them() -> None:
    layers = ns.deploy(network(), MISMATCH).explain().layers
    assert [row.devices for row in layers] == [2 * (20 * 12 + 12), 2 * (12 * 3 + 3)]


def test_ranges_never_follow_the_batch_under_test(net: Deployed) -> None:
    before = net.calibration_state()
    with torch.no_grad(), net.on(Lot(PCM)[0]) as chips:
        chips(inputs() * 10)
    after = net.calibration_state()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_calibration_round_trip(net: Deployed) -> None:
    other = ns.deploy(network(), PCM).eval()
    assert not other.calibrated
    other.load_calibration_state(net.calibration_state())
    assert other.calibrated
    with torch.no_grad(), net.on(Lot(PCM)[4]) as a, other.on(Lot(PCM)[4]) as b:
        assert torch.equal(a(inputs()), b(inputs()))


def test_calibration_that_does_not_fit_is_refused(net: Deployed) -> None:
    state = net.calibration_state()
    with pytest.raises(UsageError, match=r"names layer 'head', which is not on a crossbar"):
        net.load_calibration_state({"head.dac": torch.tensor(1.0)})
    with pytest.raises(UsageError, match=r"calibration of layer '0' does not fit"):
        net.load_calibration_state({**state, "0.adc": torch.ones(1, 1)})
    with pytest.raises(UsageError, match=r"range that is not"):
        net.load_calibration_state({**state, "0.adc": -state["0.adc"]})


def test_uncalibrated_converters_say_what_to_call() -> None:
    deployed = ns.deploy(network(), PCM)
    with pytest.raises(UsageError, match=r"call net\.calibrate\(inputs\) first"), deployed.on(Lot(PCM)[0]):
        pass


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (slice(0, None), "a lot is endless"),
        (slice(3, 3), "expected at least one chip"),
        ([1, 1], "got a number twice"),
        (-1, "expected chip numbers"),
        (2**32, "expected chip numbers"),
        ("a", "expected"),
    ],
)
def test_chips_that_do_not_exist(index: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Lot(PCM)[index]  # type: ignore[index]


def test_wrong_use_is_one_sentence(net: Deployed) -> None:
    lot = Lot(PCM)
    with pytest.raises(UsageError, match="deploy it on the hardware of the lot"), net.on(Lot(MISMATCH)[0]):
        pass
    with pytest.raises(UsageError, match="expected chips of a lot"), net.on(3):  # type: ignore[arg-type]
        pass
    with pytest.raises(UsageError, match=r"got time_s=-1"), net.on(lot[0], time_s=-1):
        pass
    with (
        net.on(lot[0]),
        pytest.raises(UsageError, match="chips are on the bench already"),
        net.on(lot[1]),
    ):
        pass
    with pytest.raises(UsageError, match="expected a torch module"):
        ns.deploy(3, PCM)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected a Hardware"):
        ns.deploy(network(), "pcm")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not deployed yet"):
        ns.deploy(net, PCM)


def test_the_bench_is_cleared_after_an_error(net: Deployed) -> None:
    with pytest.raises(ZeroDivisionError), net.on(Lot(PCM)[0]):
        raise ZeroDivisionError
    assert torch.equal(net(inputs()), network()(inputs()))


def test_nan_weights_name_their_layer() -> None:
    broken = network()
    with torch.no_grad():
        broken[2].weight[0, 0] = float("nan")
    with pytest.raises(UsageError, match=r"NaN or infinity in 2\.weight"):
        ns.deploy(broken, PCM)


def test_ages_return_and_never_redraw(net: Deployed) -> None:
    with torch.no_grad(), net.on(Lot(PCM)[0:3], time_s=25.0) as chips:
        young = chips(inputs())
        chips.age(3.15e7)
        old = chips(inputs())
        chips.age(25.0)
        assert torch.equal(chips(inputs()), young)
    assert not torch.equal(old, young)
    with torch.no_grad(), net.on(Lot(PCM)[2], time_s=3.15e7) as alone:
        assert torch.equal(alone(inputs())[0], old[2])


def test_a_digital_bias_is_exact_and_a_held_one_is_not() -> None:
    layer = nn.Linear(3, 5)
    nn.init.zeros_(layer.weight)
    zero = torch.zeros(1, 3)
    for held, exact in (("digital", True), ("device", False)):
        hw = MISMATCH.with_("array.bias", held)
        with torch.no_grad(), ns.deploy(layer, hw).on(Lot(hw)[0:4]) as chips:
            seen = chips(zero)[:, 0]
        assert bool((seen == layer.bias).all()) is exact


def test_mismatch_has_the_papers_statistics() -> None:
    """Θ(1 + ζN) on weights and biases: 4 σ of the estimators of mean and deviation."""
    layer = nn.Linear(200, 100)
    chips: Chips = Lot(MISMATCH)[0:4]
    with torch.no_grad(), ns.deploy(layer, MISMATCH).on(chips) as on:
        bias = on(torch.zeros(1, 200))
        weight = on(torch.eye(200)) - bias
    for seen, ideal in ((weight, layer.weight.T), (bias[:, 0], layer.bias)):
        n = ((seen / ideal - 1) / 0.3).detach().flatten()
        n = n[(ideal.detach().abs() > 1e-3).expand_as(seen).flatten()]
        assert abs(n.mean()) < 4 / len(n) ** 0.5
        assert abs(n.std() - 1) < 4 / (2 * len(n)) ** 0.5 + 1e-3


class SequenceFirst(nn.Module):
    """(batch, time, features) handled as (time, batch, features): chips would land on the time axis."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class Centred(nn.Module):
    """Every sample minus the batch's mean: samples are not independent."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(0))


@pytest.mark.parametrize(("kind", "shape"), [(SequenceFirst, (6, 4, 5)), (Centred, (6, 5))])
def test_networks_that_couple_axis_0_run_one_chip_at_a_time(
    kind: type[nn.Module], shape: tuple[int, ...]
) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    deployed = ns.deploy(kind().eval(), MISMATCH).eval()
    lot = Lot(MISMATCH)
    with torch.no_grad():
        with warnings.catch_warnings(), deployed.on(lot[0:3]) as chips:
            warnings.simplefilter("ignore")
            together = chips(x)
            assert torch.equal(chips(x), together)
        for k in range(3):
            with warnings.catch_warnings(), deployed.on(lot[k]) as chips:
                warnings.simplefilter("ignore")
                assert torch.equal(chips(x)[0], together[k])
        fresh = ns.deploy(kind().eval(), MISMATCH).eval()
        with fresh.on(lot[0:3]) as chips, pytest.warns(UserWarning, match="chips run one at a time") as seen:
            chips(x), chips(x)
        assert len(seen) == 1


def test_gradients_reach_the_weights(net: Deployed) -> None:
    with net.on(Lot(PCM)[0:2], time_s=25.0) as chips:
        chips(inputs()).square().sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0


def test_ideal_gradients_are_those_of_plain_torch() -> None:
    ideal = ns.hardware("ideal")
    plain = network().double()
    deployed = ns.deploy(plain, ideal)
    x = inputs().double()
    plain(x).square().sum().backward()
    with deployed.on(Lot(ideal)[0]) as chips:
        chips(x).square().sum().backward()
    for a, b in zip(plain.parameters(), deployed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)


def test_chip_blocks_keep_within_their_budget(net: Deployed) -> None:
    big = net.chip_block(inputs(), budget_bytes=1 << 30)
    small = net.chip_block(inputs(), budget_bytes=1 << 12)
    assert big >= 16
    assert small == 1
    assert net.chip_block(inputs().repeat(10_000, 1)) < big


def test_pieces_of_a_large_batch_give_what_the_whole_gives(
    net: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad(), net.on(Lot(PCM)[0:2], time_s=25.0) as chips:
        whole = chips(inputs(40))
        room = sys.modules["neurosim.analog.on_chips"]
        monkeypatch.setattr(room, "PIECE_BYTES", 7 * 20 * 4)  # seven samples
        chips.age(25.0)
        torch.testing.assert_close(chips(inputs(40)), whole)
