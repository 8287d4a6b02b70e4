"""The recipes that come with neurosim: they read, and say what the paper says."""

from __future__ import annotations

import pytest

from neurosim.bench.recipe import passes_of, recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_reads_and_names_known_methods(name):
    found = recipe(name)
    assert found.name == name
    assert found.title and found.source
    assert found.reference in found.methods
    for label in found.methods:
        assert passes_of(found, label) >= 1


@pytest.mark.parametrize("name", recipe_names())
def test_networks_and_data_are_there(name):
    from neurosim import data, models

    found = recipe(name)
    assert found.model.name in models.names()
    assert found.data.name in data.names()


def test_the_paper_and_ours_are_there_each_with_a_twin():
    names = set(recipe_names())
    for one in ("paper-fmnist", "paper-ecg", "paper-speech", "best-fmnist"):
        assert {one, f"{one}-budget"} <= names


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.endswith("-budget")])
def test_a_twin_is_cheaper_and_says_what_it_changes(name):
    small, whole = recipe(name), recipe(name.removesuffix("-budget"))
    assert small.changes
    assert small.model == whole.model
    assert small.data.name == whole.data.name
    assert small.evaluate.levels == whole.evaluate.levels

    def cost(one):
        return len(one.seeds) * sum(passes_of(one, label) for label in one.methods)

    assert cost(small) < cost(whole) / 10


@pytest.mark.parametrize("name", ["paper-fmnist", "paper-ecg"])
def test_published_rows_are_whole_and_possible(name):
    found = recipe(name)
    published = {label: row for label, row in found.methods.items() if row.published}
    assert len(published) == 6
    for row in published.values():
        for level in (0, 0.1, 0.2, 0.3, 0.5, 0.7):
            numbers = row.at(level)
            assert 0 <= numbers.min <= numbers.mean <= 100
            assert numbers.std >= 0


@pytest.mark.parametrize(
    ("name", "label", "level", "numbers"),
    [
        ("paper-fmnist", "FN + β", 0.7, (84.19, 2.63, 74.25)),
        ("paper-fmnist", "Standard", 0.5, (61.14, 6.92, 42.46)),
        ("paper-fmnist", "AWP, as in the paper", 0.3, (89.88, 0.95, 85.11)),
        ("paper-ecg", "Dropout", 0.7, (74.24, 12.58, 30.15)),
        ("paper-ecg", "β", 0.0, (99.10, 0.07, 99.03)),
        ("paper-speech", "FN", 0.5, (67.41, None, None)),
    ],
)
def test_published_numbers_are_those_of_the_paper(name, label, level, numbers):
    found = recipe(name).methods[label].at(level)
    assert (found.mean, found.std, found.min) == numbers


def test_the_settings_of_the_paper():
    found = recipe("paper-fmnist")
    assert found.methods["FN + β"].settings == {"beta": 0.1, "zeta": 0.1, "steps": 10, "eta": 0.3}
    assert found.methods["β"].settings["beta"] == 0.25
    weak, strong = (found.methods[f"AWP, {how}"] for how in ("as in the paper", "full strength"))
    assert (weak.settings["size"], strong.settings["size"]) == (0.02, 0.1)
    assert recipe("paper-speech").methods["β"].settings["beta"] == 0.5
    assert found.train.lr == 1e-4
    assert found.train.augment == {"flip": True, "rotate_deg": 10.0}
