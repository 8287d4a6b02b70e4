"""Training through wires: solutions carried from step to step survive a stop, and the network learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from neurosim.analog import Deployed, Lot, crossbar, deploy
from neurosim.devices import Hardware, hardware
from neurosim.training import AdversarialWeights, Standard, train
from neurosim.training.place import ThroughChips

from . import worker

STRONG: dict[str, Any] = {"wires.r_row_ohm": 400.0, "wires.r_col_ohm": 300.0, "wires.reuse_steps": 3}
TILES: dict[str, Any] = {"array.rows": 16, "array.cols": 8}


def wired(name: str, **changes: Any) -> Hardware:
    return hardware(name).with_all({**STRONG, **TILES, **{f"wires.{k}": v for k, v in changes.items()}})


CHIPS = {
    "ideal": wired("ideal"),
    "mismatch, both legs in one array": wired("gaussian-mismatch", legs="interleaved", topology="both-ends"),
    "pcm, column gains": wired("pcm-joshi-2020", compensation="columns"),
    "pcm, gains of both, solved every step": wired(
        "pcm-joshi-2020", compensation="rows-and-columns", reuse_steps=1
    ),
    "approximation, rows alone": wired(
        "ideal", model="column-approximation", r_col_ohm=0.0, topology="both-ends"
    ),
}
OPTIONS: dict[str, Any] = {**worker.OPTIONS, "epochs": 2}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(out: Path, chip: Hardware, method: Any, stop: int | None) -> torch.Tensor:
    """Train until the ``stop``-th call back, or to the end; the weights."""
    model, calls = worker.network(), iter(range(1, 100))

    def tell(_: object) -> None:
        if next(calls) == stop:
            raise KeyboardInterrupt

    options = {**OPTIONS, "hardware": chip, "resume": True, "progress": tell}
    if stop is None:
        train(model, worker.loaders(), method=method, out=out, **options)
    else:
        with pytest.raises(KeyboardInterrupt):
            train(model, worker.loaders(), method=method, out=out, **options)
    assert not isinstance(model, Deployed)
    return model[5].weight.detach()  # type: ignore[index, union-attr, return-value]


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_stops_in_the_middle_and_resumes_to_the_bit(tmp_path: Path, chip: Hardware) -> None:
    """Five steps an epoch, exact solutions in 0, 3, 6 and 9; stops between them and across an epoch's end."""
    whole = run(tmp_path / "whole", chip, Standard(), None)
    for stop in (2, 4, 5):
        run(tmp_path / "parts", chip, Standard(), stop)
    parts = run(tmp_path / "parts", chip, Standard(), None)
    assert torch.equal(whole, parts)
    for file in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()


def test_a_method_of_many_passes_a_step_resumes_too(tmp_path: Path) -> None:
    method, chip = AdversarialWeights(steps=2, eta=0.1), CHIPS["pcm, column gains"]
    whole = run(tmp_path / "whole", chip, method, None)
    run(tmp_path / "parts", chip, method, 3)
    assert torch.equal(whole, run(tmp_path / "parts", chip, method, None))


@pytest.mark.parametrize("name", ["ideal", "pcm-joshi-2020"])
def test_the_network_learns_to_compute_through_its_wires(name: str) -> None:
    """On what it was taught, through such chips, its loss is below that of one taught without wires."""
    x, y = worker.loaders()[0].x, worker.loaders()[0].y
    chip = wired(name, r_row_ohm=3000.0, r_col_ohm=3000.0)
    results = {}
    for key, trained_on in (("with", chip), ("without", chip.with_("wires.model", "none"))):
        model = worker.network()
        history = train(model, worker.loaders(), hardware=trained_on, **{**OPTIONS, "epochs": 25}).history
        losses = [row["loss"] for row in history]
        assert losses[-1] < 0.8 * losses[0]
        net = deploy(model.eval(), chip, calibration=x)
        with torch.no_grad(), net.on(Lot(chip)[0:4]) as chips:
            results[key] = float(
                torch.nn.functional.cross_entropy(chips(x).flatten(0, 1), y.repeat(4)).detach()
            )
    assert results["with"] < 0.95 * results["without"]  # measured 0.88 and 0.74 of it


@pytest.mark.parametrize("every", [1, 3])
def test_exact_solutions_are_as_rare_as_asked(monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """Counted at the solver."""
    solved: list[str] = []
    exact = crossbar.MODELS["exact"]

    def counted(*args: Any) -> torch.Tensor:
        solved.append("exact")
        return exact(*args)

    monkeypatch.setitem(crossbar.MODELS, "exact", counted)
    chip = wired("gaussian-mismatch", reuse_steps=every)
    place = ThroughChips(worker.network(), chip, seed=1)
    x = worker.loaders()[1][0][0]
    per_step = []
    for number in range(7):
        solved.clear()
        with place.step(number) as network:
            network(x).square().sum().backward()
        per_step.append(len(solved))
    layers = per_step[0]
    assert layers >= 2  # at least once a layer
    assert per_step == [layers if number % every == 0 else 0 for number in range(7)]


def test_a_step_that_solves_is_the_step_of_a_fresh_network() -> None:
    chip = CHIPS["pcm, column gains"]
    x = worker.loaders()[1][0][0]
    places = [ThroughChips(worker.network(), chip, seed=1) for _ in range(2)]
    for place in places:
        place.network.eval()
        place.calibrate(lambda: x)
    for number in (0, 1, 2):
        with places[0].step(number) as network:
            network(x)
    outs = []
    for place in places:
        with place.step(3) as network:
            outs.append(network(x).detach())
    assert torch.equal(*outs)


def test_state_holds_ranges_and_what_is_carried() -> None:
    chip = CHIPS["pcm, column gains"]
    x = worker.loaders()[1][0][0]
    place, other = (ThroughChips(worker.network(), chip, seed=1) for _ in range(2))
    for each in (place, other):
        each.network.eval()
    place.calibrate(lambda: x)
    with place.step(0) as network:
        network(x)
    state = place.state()
    assert {name.split("/")[0] for name in state} == {"ranges", "wires"}
    other.load_state(state)
    outs = []
    for each in (place, other):
        with each.step(1) as network:
            outs.append(network(x).detach())
    assert torch.equal(*outs)
    ideal = ThroughChips(worker.network(), hardware("pcm-joshi-2020"), seed=1)
    ideal.calibrate(lambda: x)
    with ideal.step(0) as network:
        network(x)
    assert {name.split("/")[0] for name in ideal.state()} == {"ranges"}
