"""Attacks as tables: what each column is, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from neurosim.evaluation.attacked import inputs_details, inputs_table, weights_details, weights_table
from neurosim.evaluation.input_attacks import InputAttack, Transfer
from neurosim.evaluation.samples import difference_interval, wilson
from neurosim.landscape.attack import Attacked


def first(right: int, count: int = 20) -> Tensor:
    """Scores of samples, of which the first ones are right."""
    return (torch.arange(count) < right).double()


def weights(size: float, draws: int = 2) -> Attacked:
    gaussian = torch.stack([first(17), first(15)])[:draws]
    corner = torch.stack([first(16), first(14)])[:draws]
    return Attacked(size, first(18), first(3), torch.stack([first(9), first(3)]), gaussian, corner, None)


def test_weights_by_hand():
    (row,) = weights_table([weights(0.1)]).rows()
    assert (row["size"], row["samples"], row["clean"], row["attacked"]) == (0.1, 20, 0.9, 0.15)
    assert (row["attacked_low"], row["attacked_high"]) == wilson(3, 20)[1:]
    assert row["mildest"] == 0.45
    assert (row["gaussian"], row["gaussian_min"]) == (pytest.approx(0.8), 0.75)
    assert (row["corner"], row["corner_min"]) == (0.75, 0.7)
    # the worst of all draws is a corner of 14
    assert [row[f"beyond{end}"] for end in ("", "_low", "_high")] == pytest.approx(
        difference_interval(first(3).numpy(), first(14).numpy())
    )
    details = weights_details([weights(0.1)]).rows()
    assert [(r["made"], r["number"], r["accuracy"]) for r in details] == [
        ("clean", 0, 0.9), ("attack", 0, 0.45), ("attack", 1, 0.15),
        ("gaussian", 0, 0.85), ("gaussian", 1, 0.75), ("corner", 0, 0.8), ("corner", 1, 0.7),
    ]  # fmt: skip


def test_without_draws_there_is_nothing_to_compare_with():
    (row,) = weights_table([weights(0.1, draws=0)]).rows()
    assert all(
        math.isnan(row[name]) for name in ("gaussian", "gaussian_min", "corner", "beyond", "beyond_low")
    )


def test_equal_draws_have_no_interval():
    (row,) = weights_table([weights(0.1, draws=1)]).rows()
    assert row["gaussian"] == 0.85 and math.isnan(row["gaussian_low"])


def test_inputs_by_hand():
    # rows: clean, digital, chips 3 and 5; columns: digital, chips 3, 5
    rights = [[18, 17, 16], [4, 8, 10], [9, 2, 6], [11, 12, 4]]
    scores = torch.stack([torch.stack([first(n) for n in row]) for row in rights])
    found = Transfer(InputAttack("pgd", 0.1), ("clean", "digital", 3, 5), ("digital", 3, 5), scores)
    (row,) = inputs_table([found]).rows()
    expected = {
        "size": 0.1, "samples": 20, "chips": 2, "clean": 18 / 20, "digital": 4 / 20, "clean_chips": 33 / 40,
        "to_chips": 18 / 40, "own_chip": 6 / 40, "other_chips": 18 / 40,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert (row["digital_low"], row["digital_high"]) == wilson(4, 20)[1:]
    assert row["to_chips_low"] == 0.0 and row["to_chips_high"] == 1.0  # two chips: as wide as it can be
    details = inputs_details([found]).rows()
    assert len(details) == 12
    assert (details[-1]["made_on"], details[-1]["tested_on"], details[-1]["accuracy"]) == ("5", "5", 0.2)


def test_inputs_that_were_made_on_some_places_only():
    scores = torch.stack([torch.stack([first(n)] * 2) for n in (18, 5)])
    on_chip = Transfer(InputAttack(), ("clean", 0), ("digital", 0), scores)
    (row,) = inputs_table([on_chip]).rows()
    assert row["own_chip"] == 0.25
    assert all(math.isnan(row[name]) for name in ("digital", "to_chips", "other_chips", "own_chip_low"))
