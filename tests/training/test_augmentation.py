"""Augmentation: what it does to images, and that the streams alone decide it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn

from neurosim.errors import UsageError
from neurosim.training import train
from neurosim.training.augmentation import Augmentation
from neurosim.training.running import draws_for_step

IMAGES = torch.rand(200, 2, 9, 7, generator=torch.Generator().manual_seed(3))
DRAWS = draws_for_step(1, 4)


def test_nothing_asked_is_nothing_done() -> None:
    assert Augmentation.of(None)(IMAGES, DRAWS) is IMAGES
    assert torch.equal(Augmentation.of({"flip": False})(IMAGES, DRAWS), IMAGES)


def test_flips_about_half() -> None:
    """200 fair coins: outside 65 to 135 with probability 1e-6."""
    found = Augmentation.of({"flip": True})(IMAGES, DRAWS)
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(found, IMAGES, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(found, IMAGES, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 65 <= sum(flipped) <= 135


def test_shifts_by_whole_pixels_and_fills_with_nothing() -> None:
    image = torch.zeros(300, 1, 9, 9)
    image[:, :, 4, 4] = 1.0
    found = Augmentation.of({"shift": 2})(image, DRAWS)
    places = found.flatten(1).argmax(1)
    rows, columns = places // 9 - 4, places % 9 - 4
    assert torch.allclose(found.flatten(1).sum(1), torch.ones(300), atol=1e-4)
    for moved in (rows, columns):
        assert sorted(set(moved.tolist())) == [-2, -1, 0, 1, 2]


def test_turns_about_the_centre_within_the_angle() -> None:
    image = torch.zeros(100, 1, 33, 33)
    image[:, :, 16, 26] = 1.0  # ten pixels to the right of the centre
    found = Augmentation.of({"rotate_deg": 30.0})(image, DRAWS)
    axis = torch.arange(33.0) - 16
    mass = found.sum((1, 2, 3))
    x = (found.sum((1, 2)) * axis).sum(-1) / mass
    y = (found.sum((1, 3)) * axis).sum(-1) / mass
    angle = torch.rad2deg(torch.atan2(y, x)).abs()
    assert torch.allclose((x.square() + y.square()).sqrt(), torch.full((100,), 10.0), atol=0.3)
    assert 20 < float(angle.max()) <= 31
    assert float(angle.min()) < 5


def test_erases_one_rectangle_of_the_published_ranges() -> None:
    """4,000 images: half of them erased to within four standard errors, areas uniform by KS at 1e-4."""
    found = Augmentation.of({"erase": 0.5})(torch.ones(4000, 2, 60, 60), DRAWS)
    assert torch.equal(found[:, 0], found[:, 1])
    gone = found[:, 0] == 0.0
    erased = gone.flatten(1).any(1)
    assert float(erased.float().mean()) == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)
    gone = gone[erased]
    rows, cols = gone.any(2).sum(1), gone.any(1).sum(1)
    area = gone.flatten(1).sum(1)
    assert torch.equal(area, rows * cols)  # nothing but a rectangle
    uncut = (rows < 60) & (cols < 60)
    fractions = (area / 3600.0)[uncut & (area < 0.2 * 3600)]  # sides cannot be cut at these sizes and shapes
    assert stats.kstest(fractions.numpy(), stats.uniform(0.02, 0.18).cdf).pvalue > 1e-4
    assert float(area.max()) <= 0.42 * 3600
    assert float((rows / cols).max()) == pytest.approx(1 / 0.3, rel=0.15)
    assert float((cols / rows).max()) == pytest.approx(1 / 0.3, rel=0.15)
    assert gone[:, 0].any() and gone[:, -1].any() and gone[:, :, 0].any() and gone[:, :, -1].any()


def test_erases_all_or_none() -> None:
    ones = torch.ones(50, 1, 5, 8)
    assert bool((Augmentation.of({"erase": 1.0})(ones, DRAWS) == 0.0).flatten(1).any(1).all())
    assert torch.equal(Augmentation.of({"erase": 0.0})(ones, DRAWS), ones)


def test_streams_decide() -> None:
    every = Augmentation.of({"flip": True, "shift": 1, "rotate_deg": 10.0, "erase": 0.5})
    before = torch.get_rng_state()
    assert torch.equal(every(IMAGES, DRAWS), every(IMAGES, DRAWS))
    assert not torch.equal(every(IMAGES, DRAWS), every(IMAGES, draws_for_step(1, 5)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"flap": True}, r"augment.*'flap'.*did you mean 'flip'"),
        ({"flip": 2}, r"flip"),
        ({"shift": -1}, r"shift"),
        ({"shift": 1.5}, r"shift"),
        ({"erase": 1.5}, r"expected augment.erase, a probability; got 1.5"),
        ({"erase": -0.5}, r"expected augment.erase, a finite number >= 0"),
        ({"rotate_deg": -5.0}, r"expected augment.rotate_deg, a finite number >= 0"),
    ],
)
def test_names_what_is_wrong(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Augmentation.of(options)


def test_refuses_what_are_not_images() -> None:
    data = [(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))]
    with pytest.raises(UsageError, match=r"augment"):
        train(nn.Linear(3, 2), (data, data), epochs=1, augment={"flip": True})


def test_is_part_of_training() -> None:
    x = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    data = [(x, (x[:, 0, 0, 0] > 0.5).long())]

    def history(**options: Any) -> list[Any]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
        return train(model, (data, data), epochs=3, **options).history

    assert history(augment={"flip": True}) == history(augment={"flip": True})
    assert history(augment={"flip": True}) != history()
    assert history(augment={"flip": False}) == history()
