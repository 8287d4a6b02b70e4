"""Attacks on inputs: closed forms, balls never left, generators left alone, transfer between chips."""

from __future__ import annotations

import ast
import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurosim as ns
from neurosim import data
from neurosim.errors import UsageError
from neurosim.evaluation import evaluate, input_attacks
from neurosim.evaluation.input_attacks import ATTACKS, InputAttack, attacked_inputs, transfer
from neurosim.random import stream

QUICK = [name for name in ATTACKS if name != "autoattack"]
IN_BALL = [name for name in QUICK if name != "pgd-l2"]


def uniforms(name: str, *shape: int) -> Tensor:
    return stream(0, 0, name, "test").uniform(shape)


def filled(net: nn.Module) -> nn.Module:
    """With weights that do not depend on any generator."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_((uniforms(name, *p.shape) - 0.5) * 2 / max(1.0, p[0].numel() ** 0.5))
    return net.eval()


def convolutional() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 5))
    return filled(net)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """Digits, in a second; the first layer normalises."""
    part = data.load("digits").train
    net = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(64, affine=False), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)
    )
    filled(net).train()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(part.inputs), part.targets).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval()


@pytest.fixture(scope="module")
def digits() -> list[tuple[Tensor, Tensor]]:
    return list(data.Batches(data.load("digits").test[:120], 50))


# ---------------------------------------------------------------- one network


def test_fgsm_on_a_linear_softmax_is_its_closed_form():
    net = filled(nn.Linear(6, 4))
    x, y = uniforms("x", 20, 6), torch.arange(20) % 4
    with torch.no_grad():
        p = net(x).softmax(1)
        # ∂(−log p_y)/∂x = Wᵀ(p − e_y)
        slope = (p - nn.functional.one_hot(y, 4)) @ net.weight
    expected = (x + 0.2 * slope.sign()).clamp(0, 1)
    assert torch.allclose(attacked_inputs(net, x, y, InputAttack("fgsm", 0.2)), expected)


def test_one_step_of_pgd_l2_is_along_the_slope():
    net = filled(nn.Linear(6, 4))
    x, y = 0.4 + 0.2 * uniforms("x", 20, 6), torch.arange(20) % 4
    found = attacked_inputs(net, x, y, InputAttack("pgd-l2", 0.1, steps=40))
    with torch.no_grad():
        clean, attacked = (nn.functional.cross_entropy(net(z), y, reduction="none") for z in (x, found))
    assert bool((attacked > clean).all())
    assert torch.allclose(
        (found - x).norm(dim=1), torch.full((20,), 0.1), atol=1e-5
    )  # the loss is convex: the wall


@pytest.mark.parametrize("size", [0.01, 0.3])
@pytest.mark.parametrize("name", QUICK)
def test_attacks_stay_in_their_ball_and_in_0_to_1(name, size):
    net, x, y = convolutional(), uniforms("pictures", 9, 3, 8, 8), torch.arange(9) % 5
    found = attacked_inputs(net, x, y, InputAttack(name, size, steps=6, restarts=2))
    change = (found - x).flatten(1)
    reached = change.norm(dim=1) if name == "pgd-l2" else change.abs().amax(1)
    assert bool((reached <= size * (1 + 1e-5) + 1e-6).all()) and bool((reached > 0).all())
    assert float(found.min()) >= 0 and float(found.max()) <= 1


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("shape", [(7, 12), (7, 3, 4), (7, 1, 3, 4), (7, 1, 3, 2, 2)])
def test_inputs_of_any_shape(name, shape):
    net = filled(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)))
    x, y = uniforms("any", *shape), torch.arange(7) % 4
    flat = attacked_inputs(net, x.reshape(7, 1, 3, 4), y, InputAttack(name, 0.1, steps=3))
    found = attacked_inputs(net, x, y, InputAttack(name, 0.1, steps=3))
    assert found.shape == x.shape
    assert torch.allclose(found.flatten(1), flat.flatten(1), atol=1e-6)


@pytest.mark.parametrize("name", QUICK)
def test_channels_last_layers_and_inputs(name):
    net, x, y = convolutional(), uniforms("pictures", 9, 3, 8, 8), torch.arange(9) % 5
    wanted = attacked_inputs(net, x, y, InputAttack(name, 0.1, steps=3))
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    found = attacked_inputs(last, x.to(memory_format=torch.channels_last), y, InputAttack(name, 0.1, steps=3))
    # a slope of nearly 0 may get another sign from another order of sums
    assert float(((found - wanted).abs() > 1e-4).float().mean()) < 0.01


def test_attacks_fool_a_trained_network_and_more_of_them_fool_it_more(trained, digits):
    x, y = digits[0]

    def right(attack: InputAttack) -> Tensor:
        with torch.no_grad():
            return trained(attacked_inputs(trained, x, y, attack)).argmax(1) == y

    with torch.no_grad():
        assert float((trained(x).argmax(1) == y).float().mean()) > 0.9
    fgsm, pgd, again = (
        right(a)
        for a in (InputAttack("fgsm", 0.2), InputAttack("pgd", 0.2), InputAttack("pgd", 0.2, restarts=4))
    )
    assert float(fgsm.float().mean()) < 0.5
    assert float(pgd.float().mean()) <= float(fgsm.float().mean())
    assert not bool((again & ~pgd).any())  # restarts never lose what the first one found


@pytest.mark.parametrize("name", ["pgd", "pgd-l2"])
def test_equal_seeds_give_equal_bits_and_others_do_not(trained, digits, name):
    x, y = digits[0]
    attack = InputAttack(name, 0.1, steps=3, restarts=2)
    one, again, other = (attacked_inputs(trained, x, y, attack, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ATTACKS)
def test_generators_modes_and_gradients_stay_as_they_are(name):
    net = filled(nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Dropout(0.5), nn.Linear(4, 4)))
    net.train()
    net[1].eval()
    net[3].bias.requires_grad_(False)
    modes, wanted = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    x, y = uniforms("few", 3, 1, 3, 4), torch.arange(3)
    given = x.clone()
    found = attacked_inputs(net, x, y, InputAttack(name, 0.1, steps=2, restarts=2), seed=9)
    again = attacked_inputs(net, x, y, InputAttack(name, 0.1, steps=2, restarts=2), seed=9)
    assert torch.equal(found, again) and torch.equal(x, given) and not found.requires_grad
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == wanted
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


@pytest.mark.parametrize("name", ["fgsm", "mifgsm"])
def test_where_the_slope_vanishes_a_sample_stays_as_it_is(name):
    net = nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
    with torch.no_grad():
        net[1].weight.zero_()
    x = uniforms("flat", 3, 1, 2, 2)
    found = attacked_inputs(nn.Sequential(nn.Flatten(), net), x, torch.arange(3), InputAttack(name, 0.1))
    assert torch.equal(found, x)


def test_size_zero_changes_nothing(trained, digits):
    x, y = digits[0]
    for name in ATTACKS:
        assert torch.equal(attacked_inputs(trained, x, y, InputAttack(name, 0.0)), x)


def test_autoattack_is_at_least_as_bad_as_pgd(trained, digits):
    x, y = (part[:10] for part in digits[0])
    with torch.no_grad():
        pgd, auto = (
            trained(attacked_inputs(trained, x, y, InputAttack(name, 0.1))).argmax(1) == y
            for name in ("pgd", "autoattack")
        )
    assert int(auto.sum()) <= int(pgd.sum())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "pdg"}, "unknown attack on inputs 'pdg': did you mean 'pgd'?"),
        ({"size": -0.1}, "expected 0 <= size of an attack on inputs <= 1000; got -0.1"),
        ({"size": float("nan")}, "expected 0 <= size of an attack on inputs <= 1000; got nan"),
        ({"size": True}, "expected 0 <= size of an attack on inputs <= 1000; got True"),
        ({"step": "x"}, "expected 0 <= step of an attack on inputs <= 1000; got 'x'"),
        ({"steps": 0}, "expected steps of an attack on inputs, at least 1; got 0"),
        ({"restarts": 1.5}, "expected restarts of an attack on inputs, at least 1; got 1.5"),
    ],
)
def test_wrong_settings_are_refused(change, said):
    with pytest.raises(UsageError) as refused:
        InputAttack(**change)
    assert str(refused.value).startswith(said)


def test_inputs_that_cannot_be_attacked_are_refused():
    net = filled(nn.Linear(4, 3))
    x, y = uniforms("x", 2, 4), torch.tensor([0, 1])
    for inputs, said in (
        (x * 255, "attacks on inputs need numbers from 0 to 1; these go from"),
        (x - 0.5, "attacks on inputs need numbers from 0 to 1; these go from"),
        (x * torch.nan, "attacks on inputs need numbers from 0 to 1; these go from nan"),
        (
            torch.ones(2, 4, dtype=torch.int64),
            "attacks on inputs need numbers from 0 to 1; these inputs are of int64",
        ),
    ):
        with pytest.raises(UsageError) as refused:
            attacked_inputs(net, inputs, y)
        assert str(refused.value).startswith(said)
    with pytest.raises(UsageError, match="the target 5 is no class"):
        attacked_inputs(net, x, torch.tensor([0, 5]))
    with pytest.raises(UsageError, match="autoattack needs 4 or more classes; the network has 3"):
        attacked_inputs(net, x, y, InputAttack("autoattack"))


def test_torchattacks_is_imported_only_when_it_attacks():
    tree = ast.parse(Path(input_attacks.__file__).read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [(alias.name, node.col_offset) for node in found for alias in node.names]
    assert [offset for name, offset in names if name.startswith("torchattacks")] == [8]  # inside a method


# ---------------------------------------------------------------- chips


def test_what_a_transfer_holds(trained, digits):
    net = ns.deploy(trained, ns.hardware("gaussian-mismatch"))
    told = []
    chips = ns.Lot(net.hardware, seed=2)[[4, 1, 7]]
    found = transfer(
        net, digits, chips, InputAttack("pgd", 0.1, steps=2), progress=lambda *numbers: told.append(numbers)
    )
    assert found.made_on == ("clean", "digital", 4, 1, 7)
    assert found.tested_on == ("digital", 4, 1, 7)
    assert found.scores.shape == (5, 4, 120)
    assert found.accuracy("digital", 4) == float(found.scores[1, 1].mean())
    assert told == [(k + 1, told[-1][1]) for k in range(len(told))] and told[-1][0] == told[-1][1]


def test_clean_inputs_are_scored_as_by_evaluate(trained, digits):
    hardware = ns.hardware("pcm-joshi-2020", **{"array.output_noise_std": 0.05})
    net = ns.deploy(trained, hardware, calibration=data.load("digits").train[:200].inputs)
    table = evaluate(net, digits, chips=[2, 5], times_s=[3600.0], seed=1)
    found = transfer(
        net,
        digits,
        ns.Lot(hardware, seed=1)[[2, 5]],
        InputAttack("fgsm", 0.1),
        time_s=3600.0,
        made_on=["digital"],
    )
    assert [found.accuracy("clean", chip) for chip in (2, 5)] == table.column("accuracy").tolist()


def test_on_ideal_chips_every_place_is_the_network_itself(trained, digits):
    net = ns.deploy(trained, ns.hardware("ideal"))
    found = transfer(net, digits, ns.Lot(net.hardware)[0:2], InputAttack("pgd", 0.15, steps=3))
    scores = found.scores
    assert float((scores[:, :1] == scores).double().mean()) > 0.99  # but for rounding
    assert float((scores[1:2] == scores[1:]).double().mean()) > 0.97
    assert found.accuracy("digital", "digital") < found.accuracy("clean", "digital") - 0.3


def test_an_attack_works_best_where_it_was_made(trained, digits):
    net = ns.deploy(trained, ns.hardware("gaussian-mismatch", **{"device.relative_std": 0.4}))
    found = transfer(net, digits, ns.Lot(net.hardware)[0:4], InputAttack("pgd", 0.06, steps=5))
    matrix = found.scores[2:, 1:].mean(2)  # made on chip, tested on chip
    own = matrix.diagonal()
    others = (matrix.sum(0) - own) / 3
    assert float(own.mean()) < float(others.mean()) - 0.1
    assert float(others.mean()) < float(found.scores[0, 1:].mean()) - 0.1  # and elsewhere too


def test_a_transfer_repeats_and_leaves_the_network_alone(trained, digits):
    hardware = ns.hardware("pcm-joshi-2020", **{"array.output_noise_std": 0.05})
    net = ns.deploy(trained, hardware, calibration=data.load("digits").train[:200].inputs)
    net.train()
    state = torch.get_rng_state()
    args = (net, digits[:1], ns.Lot(hardware)[0:2], InputAttack("pgd", 0.1, steps=2))
    one, again = transfer(*args), transfer(*args)
    other = transfer(*args, seed=1)
    assert torch.equal(one.scores, again.scores)
    assert other.scores.shape == one.scores.shape
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())


def test_places_and_data_that_do_not_fit_are_refused(trained, digits):
    net = ns.deploy(trained, ns.hardware("gaussian-mismatch"))
    chips = ns.Lot(net.hardware)[0:2]
    with pytest.raises(
        UsageError, match="expected an attack to be made on 'digital' or a chip of 0, 1; got 2"
    ):
        transfer(net, digits, chips, made_on=[2])
    with pytest.raises(UsageError, match="expected each place once"):
        transfer(net, digits, chips, made_on=[0, 0])
    with pytest.raises(UsageError, match="numbers from 0 to 1; these go from"):
        transfer(net, [(16 * x, y) for x, y in digits], chips)
    pixels = ns.deploy(nn.Conv2d(1, 2, 1), ns.hardware("gaussian-mismatch"))
    masks = [(uniforms("x", 2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64))]
    with pytest.raises(
        UsageError, match="need one class for each sample; these data have one for each pixel"
    ):
        transfer(pixels, masks, chips)
