"""Tables and figures of a comparison, against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from neurosim.errors import UsageError
from neurosim.evaluation import Table
from neurosim.report.robust import (
    Comparison,
    accuracy_figure,
    cost_figure,
    differences,
    failed,
    markdown,
    pareto,
    summary,
)


def comparison(methods=("a", "b"), seeds=(0, 1), levels=(0.0, 0.5), chips=4, **changes) -> Comparison:
    rng = np.random.default_rng(1)
    rows, costs = [], []
    for number, method in enumerate(methods):
        for seed in seeds:
            costs.append(
                {
                    "method": method, "seed": seed, "passes": 4.0 * (number % 7 + 1),
                    "seconds": 10.0 + number, "best_epoch": 2, "validation_accuracy": 0.9,
                }
            )  # fmt: skip
            for level in levels:
                for chip in range(chips):
                    spread = 0.02 * rng.normal() * (level > 0)
                    accuracy = round(0.9 - 0.3 * level + 0.01 * (number % 5) + 0.005 * seed + spread, 3)
                    rows.append(
                        {
                            "method": method, "seed": seed, "level": level, "chip": chip,
                            "accuracy": accuracy, "samples": 200,
                        }
                    )  # fmt: skip
    settings = {
        "title": "A comparison",
        "setting": "device.relative_std",
        "levels": levels,
        "cost_level": levels[-1],
        "reference": methods[0],
        "chips": Table.from_rows(rows),
        "costs": Table.from_rows(costs),
    }
    return Comparison(**{**settings, **changes})


def accuracies(found: Comparison, method: str, level: float) -> np.ndarray:
    """In the order of seeds, then chips."""
    rows = [r for r in found.chips.rows() if r["method"] == method and r["level"] == level]
    return np.array([r["accuracy"] for r in sorted(rows, key=lambda r: (r["seed"], r["chip"]))])


def test_summary_pools_chips_of_all_seeds():
    found = comparison()
    for row in summary(found).rows():
        values = accuracies(found, row["method"], row["level"])
        assert (row["seeds"], row["chips"]) == (2, 8)
        assert row["mean"] == pytest.approx(values.mean(), abs=1e-12)
        assert row["std"] == pytest.approx(math.sqrt(((values - values.mean()) ** 2).mean()), abs=1e-12)
        assert row["min"] == values.min()
        each = values.reshape(2, 4).mean(1)
        assert (row["seed_low"], row["seed_high"]) == pytest.approx((each.min(), each.max()))
        half = stats.t.ppf(0.975, 7) * values.std(ddof=1) / math.sqrt(8)
        assert row["mean_high"] - row["mean"] == pytest.approx(half, abs=1e-12)
        assert math.isnan(row["p05"]), "of eight chips there is none"
        assert row["passes"] == (4.0 if row["method"] == "a" else 8.0)


def test_the_percentile_of_enough_chips():
    found = comparison(chips=50)
    row = next(row for row in summary(found).rows() if row["level"] == 0.5)
    assert row["p05"] == pytest.approx(np.quantile(accuracies(found, "a", 0.5), 0.05))
    assert row["p05_low"] <= row["p05"] <= row["p05_high"]


def test_differences_are_paired_by_seed_and_chip():
    found = comparison()
    rows = differences(found).rows()
    assert [(row["method"], row["against"]) for row in rows] == [("b", "a")] * 2
    for row in rows:
        d = accuracies(found, "b", row["level"]) - accuracies(found, "a", row["level"])
        half = stats.t.ppf(0.975, 7) * d.std(ddof=1) / math.sqrt(8)
        assert row["difference"] == pytest.approx(d.mean(), abs=1e-12)
        assert (row["low"], row["high"]) == pytest.approx((d.mean() - half, d.mean() + half), abs=1e-12)
        assert row["better"] == np.mean(d > 0)
        assert row["seeds_better"] == sum(d.reshape(2, 4).mean(1) > 0)


def test_the_order_of_rows_does_not_matter():
    found = comparison()
    rows = found.chips.rows()
    turned = [row for method in ("a", "b") for row in reversed(rows) if row["method"] == method]
    other = comparison(chips=4)
    other = Comparison(**{**vars(other), "chips": Table.from_rows(turned)})
    assert summary(other) == summary(found)
    assert differences(other) == differences(found)


def test_only_shared_seeds_are_paired_and_no_reference_is_no_table():
    found = comparison()
    kept = [row for row in found.chips.rows() if (row["method"], row["seed"]) != ("b", 1)]
    less = Comparison(**{**vars(found), "chips": Table.from_rows(kept)})
    assert [(row["seeds"], row["chips"]) for row in differences(less).rows()] == [(1, 4)] * 2
    assert differences(Comparison(**{**vars(found), "reference": "c"})) is None
    assert differences(comparison(methods=("a",))) is None


def test_the_page_writes_as_the_paper_does():
    found = comparison(
        published={"b": {0.5: (74.24, 12.58, 30.15), 0.0: (99.5, None, None)}},
        remarks={"b": "a remark", "gone": "of a row that is not there"},
        missing=["c, seed 0"],
    )
    page = markdown(found, summary(found), differences(found))
    values = 100 * accuracies(found, "a", 0.5)
    assert f"{values.mean():.2f} ± {values.std():.2f} ({values.min():.2f})" in page
    assert "| *b, published* | *99.50* | *74.24 ± 12.58 (30.15)* |" in page
    assert "4 chips under each of 2 training seeds, 200 samples" in page
    assert "- b: a remark" in page and "gone" not in page
    assert "not done yet: c, seed 0" in page
    best = next(line for line in page.splitlines() if line.startswith("| b |"))
    assert best.count("**") == 4, "the best of each column is bold"


def test_labels_cannot_break_the_page():
    found = comparison(methods=("a|b", "c"))
    lines = [line for line in markdown(found, summary(found), None).splitlines() if line.startswith("| a")]
    assert lines[0].startswith("| a\\|b |")


@pytest.mark.parametrize("count", [1, 2, 6, 7, 18])
def test_figures_for_any_number_of_methods(tmp_path: Path, count):
    found = comparison(methods=tuple(f"method {n}" for n in range(count)), chips=2, seeds=(0,))
    for draw in (accuracy_figure, cost_figure):
        path = draw(found, path=tmp_path / f"{draw.__name__}.svg")
        first = path.read_bytes()
        assert first.lstrip().startswith(b"<?xml")
        assert draw(found, path=path).read_bytes() == first, "the same numbers give the same bytes"


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_figures_at_the_edges(tmp_path: Path, accuracy):
    found = comparison(levels=(0.3,))
    rows = [{**row, "accuracy": accuracy} for row in found.chips.rows()]
    flat = Comparison(**{**vars(found), "chips": Table.from_rows(rows)})
    assert accuracy_figure(flat, path=tmp_path / "a.png").stat().st_size > 1000
    assert cost_figure(flat, path=tmp_path / "c.png").stat().st_size > 1000


@pytest.mark.parametrize("count", [3, 9])
def test_a_training_that_failed_does_not_set_the_scale(tmp_path: Path, drawn: list, count: int):
    whole = comparison(methods=tuple(f"method {n}" for n in range(count)), seeds=(0,))
    lost = [{**row, "accuracy": 0.1} if row["method"] == "method 1" else row for row in whole.chips.rows()]
    found = Comparison(**{**vars(whole), "chips": Table.from_rows(lost)})
    assert failed(found) == ["method 1"] and failed(whole) == []
    for one in (whole, found):
        accuracy_figure(one, path=tmp_path / "a.png")
        cost_figure(one, path=tmp_path / "c.png")
    bottoms = [next(iter(figure.axes)).get_ylim()[0] for figure in drawn]
    assert bottoms[2] == pytest.approx(bottoms[0], abs=3.0)
    assert bottoms[3] == pytest.approx(bottoms[1], abs=0.1)  # log error
    said = [" ".join(text.get_text() for text in figure.texts) for figure in drawn]
    assert ["below: method 1 (10 %)" in one for one in said] == [False, False, True, True]


def test_refusals(tmp_path: Path):
    with pytest.raises(UsageError, match=r"\.svg or \.png"):
        cost_figure(comparison(), path=tmp_path / "a.pdf")
    found = comparison()
    with pytest.raises(UsageError, match="at least one chip"):
        Comparison(**{**vars(found), "chips": found.chips.where(method="c")})


def test_the_front():
    assert pareto({"a": 1, "b": 1, "c": 2, "d": 3}, {"a": 5, "b": 4, "c": 6, "d": 6}) == {"a", "c"}
    assert pareto({"a": 1, "b": 1}, {"a": 5, "b": 5}) == {"a", "b"}
