"""What is wrong with a recipe is said at once, with the nearest right name."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurosim.bench.recipe import passes_of, recipe, slug, with_sources
from neurosim.errors import UsageError

GOOD = """
title = "A small one"
reference = "b"
seeds = [3]
[model]
name = "mlp"
hidden = [8]
[data]
name = "digits"
[train]
epochs = 2
[evaluate]
levels = [0.0, 0.3]
chips = 4
[[methods]]
label = "a"
method = "standard"
[[methods]]
label = "b"
method = "noise+ema"
settings = { noise = { eta = 0.5 }, ema = { decay = 0.9 } }
train = { epochs = 5 }
published = { "0.3" = [70.5, 2.0, 60.0], "0" = [90.0] }
"""


@pytest.fixture
def write(tmp_path: Path):
    def made(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return made


def refused(path: Path, changes=None) -> str:
    with pytest.raises(UsageError) as error:
        recipe(path, changes)
    return str(error.value)


def test_a_good_one(write):
    found = recipe(write(GOOD))
    assert found.name == "mine"
    assert found.settings_of("a") == {"epochs": 2}
    assert found.settings_of("b") == {"epochs": 5}
    assert (passes_of(found, "a"), passes_of(found, "b")) == (2.0, 5.0)
    assert found.methods["b"].at(0.3).std == 2.0
    assert found.methods["b"].at(0.0).min is None
    assert found.methods["b"].at(0.7) is None
    assert found.evaluate.chosen_level == 0.0
    assert found.model.model_dump() == {"name": "mlp", "hidden": [8]}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("epochs = 2", "epoch = 2", "unknown field 'train.epoch': did you mean 'train.epochs'?"),
        ("epochs = 2", "epochs = 0", "expected at least 1; got train.epochs=0"),
        ("epochs = 2", 'optimizer = "adm"', "did you mean 'adam'?"),
        ("epochs = 2", 'lr_schedule = "cosin"', "did you mean 'cosine'?"),
        ("epochs = 2", 'lr_schedule = "step-2"', "expected the fraction of the epochs"),
        ("epochs = 2", "augment = { flop = true }", "did you mean 'flip'?"),
        ("epochs = 2", 'autocast = "float16"', "'bfloat16'"),
        ('reference = "b"', 'reference = "c"', "unknown reference 'c'"),
        ('reference = "b"\n', "", "field 'reference' is missing"),
        ("seeds = [3]", "seeds = [3, 3]", "each once"),
        ("chips = 4", "chip = 4", "did you mean 'evaluate.chips'?"),
        ("chips = 4", 'hardware = "gausian-mismatch"', "did you mean 'gaussian-mismatch'?"),
        ("chips = 4", 'vary = "device.relativ_std"', "did you mean 'device.relative_std'?"),
        ("chips = 4", "cost_level = 0.5", "one of 0, 0.3; got 0.5"),
        ("[0.0, 0.3]", "[0.3, 0.0]", "in ascending order"),
        ('"standard"', '"standrad"', "did you mean 'standard'?"),
        ("eta = 0.5", "eta = -1", "methods.b: method 'noise': expected 0 <= eta <= 10"),
        ("eta = 0.5", "etha = 0.5", "did you mean 'eta'?"),
        ("[70.5, 2.0, 60.0]", "[1, 2, 3, 4]", "[mean, std, min]"),
        ('"0.3" =', "high =", "such as '0.3'; got 'high'"),
        ('label = "b"', 'label = "a"', "the label 'a' is there already"),
        ('label = "b"', 'lable = "b"', "expected a label"),
        ('"noise+ema"', '"noise+damp+ema"', "do not go together"),
        ('title = "A small one"', 'title = "x"\nname = "x"', "leave out 'name'"),
        ('method = "standard"', 'method = "standard"\nteacher = "b"', "teacher is for the method 'distil'"),
        ('method = "standard"', 'method = "distil"', "needs a teacher"),
        ('method = "standard"', 'method = "distil"\nteacher = "c"', "unknown teacher 'c'"),
        (
            'method = "standard"',
            'method = "distil"\nteacher = "a"',
            "its teacher 'a' is itself trained after it",
        ),
        ('method = "standard"', 'method = "standard"\ninit = "c"', "unknown init 'c'"),
        ('method = "standard"', 'method = "standard"\ninit = "a"', "its init 'a' is itself trained after it"),
    ],
)
def test_one_thing_wrong(write, old, new, sentence):
    assert old in GOOD
    assert sentence in refused(write(GOOD.replace(old, new, 1)))


def test_all_at_once(write):
    text = GOOD.replace("epochs = 2", "epoch = 2").replace("chips = 4", "chips = 0").replace("[3]", "[-1]")
    said = refused(write(text))
    for part in ("train.epoch", "evaluate.chips", "seeds"):
        assert part in said
    said = refused(write(GOOD.replace("eta = 0.5", "etha = 0.5").replace('"standard"', '"standrad"')))
    assert "etha" in said and "standrad" in said


def test_no_rows(write):
    assert "[[methods]]" in refused(write(GOOD.partition("[[methods]]")[0]))


def test_not_toml_and_not_there(write, tmp_path):
    assert "is not valid TOML" in refused(write("title = "))
    assert "no such file" in refused(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="did you mean 'digits-smoke'"):
        recipe("digit-smoke")


def test_changes_on_the_way(write):
    path = write(GOOD)
    found = recipe(
        path,
        {
            "train.epochs": 7,
            "methods.b.settings.noise.eta": 0.1,
            "methods.b.train.epochs": "none",
            "evaluate.part": "validation",
        },
    )
    assert found.methods["b"].settings["noise"] == {"eta": 0.1}
    assert found.settings_of("b") == {"epochs": 7}
    assert found.evaluate.part == "validation"
    assert "unknown row 'c'" in refused(path, {"methods.c.settings.eta": 1})
    assert "no table" in refused(path, {"title.x": 1})
    assert "did you mean 'train.epochs'" in refused(path, {"train.epoch": 1})


def test_teachers_come_first(write):
    rows = """
[[methods]]
label = "pupil"
method = "noise+distil"
teacher = "middle"
[[methods]]
label = "middle"
method = "distil"
teacher = "a"
"""
    found = recipe(write(GOOD + rows))
    assert with_sources(found, ["pupil"]) == ["a", "middle", "pupil"]
    assert with_sources(found, list(found.methods)) == ["a", "b", "middle", "pupil"]
    circle = (GOOD + rows).replace(
        'label = "a"\nmethod = "standard"', 'label = "a"\nmethod = "distil"\nteacher = "pupil"'
    )
    assert "'pupil' is itself trained after it" in refused(write(circle))


def test_a_row_may_need_two_others_and_those_more(write):
    rows = """
[[methods]]
label = "both"
method = "noise+distil"
teacher = "middle"
init = "b"
[[methods]]
label = "middle"
method = "noise"
init = "b"
"""
    found = recipe(write(GOOD + rows))
    assert with_sources(found, ["both"]) == ["b", "middle", "both"]
    assert with_sources(found, ["middle", "a"]) == ["a", "b", "middle"]
    assert with_sources(found, list(found.methods)) == ["a", "b", "middle", "both"]
    circle = (GOOD + rows).replace('label = "b"\n', 'label = "b"\ninit = "both"\n')
    assert "methods.middle: its init 'b' is itself trained after it" in refused(write(circle))


def test_a_recipe_may_say_all_that_a_run_may():
    from neurosim.bench.recipe import DataChoice, TrainChoice
    from neurosim.runs import DataPart, TrainPart

    elsewhere = {"seed", "init", "teacher", "chips_per_batch"}  # "init" and "teacher" are of a row
    assert set(TrainChoice.model_fields) == set(TrainPart.model_fields) - elsewhere
    assert set(DataChoice.model_fields) == set(DataPart.model_fields) - {"sha256", "task"}


def test_labels_as_folders():
    assert slug("FN + β") == "FN-+-β"
    assert slug("../../etc") == "etc"
    assert slug("///") == "row"


def test_the_one_in_the_documentation(write):
    page = (Path(__file__).resolve().parents[2] / "docs" / "robust.md").read_text(encoding="utf-8")
    found = recipe(write(page.partition("```toml\n")[2].partition("```")[0]))
    assert with_sources(found, ["pupil"]) == ["none", "pupil"]
    assert with_sources(found, ["noise, more"]) == ["noise", "noise, more"]
    assert found.methods["noise"].at(1.0).std == 0.4
