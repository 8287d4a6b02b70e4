"""Workers: the same bits for any number of them, whoever is killed and whenever; and nobody left behind."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import neurosim as ns
from neurosim.errors import RunError, UsageError
from neurosim.evaluation import Ledger, Row, Table, blocks, evaluate, pool, ray_engine, recipe
from neurosim.evaluation.blocks import tasks
from neurosim.evaluation.store import Store
from neurosim.runs import Shard

IMPORTABLE = Path(__file__).parent / "importable"
sys.path.insert(0, str(IMPORTABLE))
pooled: Any = importlib.import_module("pooled")
sys.path.remove(str(IMPORTABLE))
TIMES = pooled.TIMES


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(IMPORTABLE))
    monkeypatch.setattr(blocks, "_WORKERS_BLOCK", 2)


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have every recipe from now on spoilt."""

    def apply(**how: Any) -> None:
        honest = recipe.recipe_of
        for engine in (pool, ray_engine):
            monkeypatch.setattr(engine, "recipe_of", lambda job: pooled.Spoilt(honest(job), **how))

    return apply


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Process numbers of the workers, as they are started."""
    numbers: list[int] = []
    start = pool._start

    def note(data: int) -> Any:
        worker = start(data)
        numbers.append(worker.pid)
        return worker

    monkeypatch.setattr(pool, "_start", note)
    return numbers


def run(workers: int | None = 2, chips: int = 24, net: Any = None, **more: Any) -> Table:
    return evaluate(
        net or pooled.network(), pooled.batches(), chips=chips, times_s=TIMES, workers=workers, **more
    )


def rows(path: Path) -> list[Row]:
    with Ledger(path, read_only=True) as ledger:
        return [row for key in ledger.keys() for row in ledger.rows(key)]  # noqa: SIM118


@pytest.fixture(scope="module")
def whole() -> Table:
    """Twenty-four chips, by one worker."""
    return run(workers=1)


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# ---------------------------------------------------------------- the same bits


def test_one_two_and_five_workers_give_the_same_bytes(whole: Table, tmp_path: Path) -> None:
    kept = []
    for workers in (1, 2, 5):
        table = run(workers, ledger=tmp_path / f"{workers}.sqlite")
        table.to_csv(tmp_path / f"{workers}.csv")
        kept.append(rows(tmp_path / f"{workers}.sqlite"))
        assert table == whole
    assert kept[0] == kept[1] == kept[2] == [Row(**row) for row in whole.rows()]
    assert len({(tmp_path / f"{workers}.csv").read_bytes() for workers in (1, 2, 5)}) == 1


def test_threads_of_the_parent_do_not_matter_and_stay(whole: Table, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for workers in (1, 2):
            assert run(workers, ledger=tmp_path / f"{workers}.sqlite") == whole
            assert torch.get_num_threads() == 3
            with Ledger(tmp_path / f"{workers}.sqlite") as ledger:
                assert [about["threads"] for about in ledger.experiments().values()] == [1]
    finally:
        torch.set_num_threads(before)


def test_a_network_with_a_digital_product_does_not_feel_its_company() -> None:
    net = pooled.network(exclude=["digital"])
    job = recipe.Job(net, blocks.Passes(pooled.batches(), torch.device("cpu")), ns.Lot(net.hardware))
    assert blocks.workers_block_size(net, job.data) == 1
    assert run(1, chips=6, net=net) == run(2, chips=6, net=net)
    assert run(1, chips=6, net=net) == Table.from_rows(
        [row for part in ([0, 1, 2], [3], [4, 5]) for row in run(1, chips=part, net=net).rows()]
    )


def test_chips_in_the_ledger_are_not_computed_again(whole: Table, tmp_path: Path, started: list[int]) -> None:
    path = tmp_path / "chips.sqlite"
    first = evaluate(pooled.network(), pooled.batches(), chips=5, times_s=TIMES[:2], ledger=path, workers=2)
    assert len(started) == 2
    assert run(ledger=path) == whole
    assert {tuple(row.items()) for row in first.rows()} < {tuple(row.items()) for row in whole.rows()}
    started.clear()
    assert run(ledger=path) == whole
    assert started == []


def test_batches_keep_type_shape_and_order_in_memory() -> None:
    images = torch.rand(5, 3, 4, 6)
    inputs = [images, images.to(memory_format=torch.channels_last), images[:, :, ::2], images.half()]
    inputs += [torch.arange(5), images[:1].expand(5, 3, 4, 6)]
    targets = torch.arange(5)
    with Store([(x, targets) for x in inputs]) as store:
        for x, (found, labels) in zip(inputs, store, strict=True):
            assert torch.equal(found, x)
            assert found.dtype == x.dtype
            assert found.stride() == x.clone().stride()
            assert torch.equal(labels, targets)
    assert torch.equal(next(iter(store))[0], images), "the memory stays after the file is closed"


@given(
    st.lists(st.integers(0, 60), min_size=1, unique=True).map(sorted),
    st.lists(st.sampled_from(TIMES), min_size=1, unique=True).map(sorted),
    st.sets(st.tuples(st.integers(0, 60), st.sampled_from(TIMES))),
    st.integers(1, 9),
)
def test_tasks_hold_what_is_lacking_once(
    chips: list[int], ages: list[float], have: set[tuple[int, float]], size: int
) -> None:
    found = tasks(chips, ages, have, size)
    pairs = [(chip, age) for task in found for chip in task.chips for age in task.ages]
    assert sorted(pairs) == sorted({(chip, age) for chip in chips for age in ages} - have)
    assert all(0 < len(task.chips) <= size for task in found)
    assert all(list(task.ages) == sorted(task.ages) for task in found)


# ---------------------------------------------------------------- shards


@given(st.integers(1, 12), st.integers(12, 60))
def test_shards_share_out_the_chips(count: int, chips: int) -> None:
    shares = [Shard(index, count).chips(range(chips)) for index in range(1, count + 1)]
    assert sorted(chip for share in shares for chip in share) == list(range(chips))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shards")
    for index in (1, 2, 3):
        shard = Shard(index, 3)
        chips = shard.chips(range(24))
        evaluate(
            pooled.network(),
            pooled.batches(),
            chips=chips,
            times_s=TIMES,
            workers=1,
            ledger=folder / shard.ledger,
        )
    return sorted(folder.iterdir())


@settings(max_examples=10)
@given(st.permutations(range(3)), st.booleans())
def test_shards_merged_in_any_order_equal_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    whole: Table,
    shards: list[Path],
    order: list[int],
    at_once: bool,
) -> None:
    chosen = [shards[number] for number in order]
    with Ledger(tmp_path_factory.mktemp("merged") / "chips.sqlite") as merged:
        if at_once:
            assert merged.merge(*chosen) == 24 * 3
        else:
            assert [merged.merge(path) for path in chosen] == [8 * 3] * 3
        assert merged.merge(*chosen) == 0
        (key,) = merged.keys()
        assert [row._asdict() for row in merged.rows(key)] == whole.rows()


def test_a_merge_that_fails_leaves_nothing(shards: list[Path], tmp_path: Path) -> None:
    with Ledger(shards[0], read_only=True) as one, Ledger(tmp_path / "other.sqlite") as other:
        (key,) = one.keys()
        row = one.rows(key)[0]
        other.add(key, [row._replace(accuracy=1 - row.accuracy / 2)])
    with Ledger(tmp_path / "chips.sqlite") as merged:
        with pytest.raises(UsageError, match=r"already holds .* which differs"):
            merged.merge(*shards, tmp_path / "other.sqlite")
        assert merged.keys() == []
        assert merged.experiments() == {}


# ---------------------------------------------------------------- deaths


def test_workers_killed_at_random_moments(
    whole: Table, tmp_path: Path, spoil: Callable[..., None], started: list[int]
) -> None:
    spoil(pause_s=0.03)
    draw, kills, over = random.Random(0), [], threading.Event()

    def kill() -> None:
        # a task that lost its worker goes to the end of the queue, where these kills do not reach it again
        while len(kills) < 5 and not over.wait(draw.uniform(0.02, 0.15)):
            with contextlib.suppress(ProcessLookupError):
                if victims := [number for number in started[-2:] if alive(number)]:
                    kills.append(draw.choice(victims))
                    os.kill(kills[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert run(ledger=tmp_path / "chips.sqlite") == whole
    finally:
        over.set()
        killer.join()
    assert len(kills) == 5
    assert len(started) > 2
    assert [row._asdict() for row in rows(tmp_path / "chips.sqlite")] == whole.rows()


def test_a_worker_that_dies_once_costs_nothing_but_time(
    whole: Table, tmp_path: Path, spoil: Callable[..., None], started: list[int]
) -> None:
    (tmp_path / "once").touch()
    spoil(once=tmp_path / "once")
    assert run() == whole
    assert len(started) == 3


def test_chips_that_kill_are_named_after_three_attempts_and_the_others_kept(
    whole: Table, tmp_path: Path, spoil: Callable[..., None], started: list[int]
) -> None:
    spoil(deadly=frozenset([5]))
    with pytest.raises(RunError, match=r"^chips 4, 5 could not .* in each of 3 attempts .*all other"):
        run(ledger=tmp_path / "chips.sqlite")
    assert 3 <= len(started) <= 5, "two, and one for a death unless another worker is idle by then"
    others = [row for row in whole.rows() if row["chip"] not in (4, 5)]
    assert [row._asdict() for row in rows(tmp_path / "chips.sqlite")] == others


def test_where_every_worker_dies_nobody_goes_through_all_chips(
    spoil: Callable[..., None], started: list[int]
) -> None:
    spoil(deadly=frozenset(range(24)))
    with pytest.raises(RunError, match=r"^6 workers in a row ended without a result, the last with chips"):
        run()
    assert len(started) in (6, 7), "the other worker may have been replaced already"


def test_a_killed_starter_is_replaced(whole: Table) -> None:
    run(chips=2)
    assert pool._current is not None
    before = pool._current._process
    before.kill()
    before.wait()
    assert run() == whole
    assert pool._current._process is not before


def test_a_killed_parent_leaves_no_process_and_keeps_its_rows(whole: Table, tmp_path: Path) -> None:
    path = tmp_path / "chips.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", "import pooled, sys; pooled.main(sys.argv[1])", str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(IMPORTABLE)},
    ) as parent:
        assert parent.stdout
        done, starter = 0, 0
        while done < 20:
            done, starter = map(int, parent.stdout.readline().split())
        parent.kill()
    assert parent.returncode == -signal.SIGKILL
    wait_until(lambda: not _group_alive(starter))
    kept = rows(path)
    assert done <= len(kept) < 48 * 3
    table = run(ledger=path)
    assert table == whole
    assert set(kept) < set(rows(path)) | {row for row in kept if row.chip >= 24}


def _group_alive(group: int) -> bool:
    """Whether anyone of the starter's process group, which workers belong to, is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_interrupt_lets_the_workers_go(
    tmp_path: Path, spoil: Callable[..., None], started: list[int]
) -> None:
    spoil(pause_s=0.5)

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(ledger=tmp_path / "chips.sqlite", progress=interrupt)
    wait_until(lambda: not any(map(alive, started)))
    assert len(rows(tmp_path / "chips.sqlite")) == 2


# ---------------------------------------------------------------- what workers say, and refusals


def test_an_exception_in_a_worker_names_its_chips(spoil: Callable[..., None], tmp_path: Path) -> None:
    spoil(failing=7)
    with pytest.raises(
        RunError, match=r"^a worker failed on chips 6, 7: ZeroDivisionError: no luck\n"
    ) as caught:
        run(ledger=tmp_path / "chips.sqlite")
    assert "Traceback" in caught.value.__notes__[0]
    assert rows(tmp_path / "chips.sqlite")


def test_our_own_errors_are_the_same_as_without_workers() -> None:
    wrong = [(x, y + 9) for x, y in pooled.batches()]
    for workers in (None, 1, 2):
        with pytest.raises(UsageError, match=r"the target 12 is no class: the network has 0 ... 3"):
            evaluate(pooled.network(), wrong, chips=4, workers=workers)
    infinite = pooled.network()
    with torch.no_grad():
        infinite.digital.bias[0] = float("inf")
    for workers in (None, 1):
        with pytest.raises(RunError, match="gave outputs that are not finite"):
            evaluate(infinite, pooled.batches(), chips=1, workers=workers)


def test_a_warning_in_workers_is_said_here(spoil: Callable[..., None]) -> None:
    spoil(warning="chips run one at a time")
    with pytest.warns(UserWarning, match="chips run one at a time"):
        run(chips=4)


def a_function(x: torch.Tensor) -> torch.Tensor:
    return x


class Holder(nn.Module):
    """A network that holds something."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.layer, self.what = nn.Linear(8, 4), what

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def in_the_script() -> Any:
    """A class as a user's script defines it."""
    space: dict[str, Any] = {"__name__": "__main__", "nn": nn}
    exec("class Mine(nn.Module):\n    def forward(self, x):\n        return x[:, :4]", space)
    return space["Mine"]()


def closure() -> Callable[[], int]:
    kept = 3
    return lambda: kept


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (in_the_script, r"\(Mine is defined in the script that runs\)"),
        (
            lambda: nn.Sequential(nn.Linear(8, 4), in_the_script()),
            r"\(Mine is defined in the script that runs\)",
        ),
        (lambda: Holder(closure()), r"\(.*[Pp]ickle.*lambda"),
        (lambda: Holder(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))), r"\(.*parametrized"),
    ],
)
def test_networks_that_cannot_travel(model: Callable[[], nn.Module], sentence: str) -> None:
    net = ns.deploy(model(), ns.hardware("ideal"))
    with pytest.raises(
        UsageError, match=f"cannot be sent to a worker {sentence}.*of their own, or .*workers=1"
    ):
        evaluate(net, pooled.batches(), chips=2, workers=2)
    assert len(evaluate(net, pooled.batches(), chips=2, workers=1)) == 2


@pytest.mark.parametrize("workers", [0, -1, True, 2.0, "2", 5000])
def test_numbers_of_workers_that_are_none(workers: Any) -> None:
    with pytest.raises(UsageError, match="workers must be a whole number from 1 to 1024; got"):
        evaluate(pooled.network(), pooled.batches(), chips=2, workers=workers)


def test_engines_by_name() -> None:
    with pytest.raises(UsageError, match="unknown engine 'rai': did you mean 'ray'"):
        run(engine="rai")
    assert run(None, chips=2, engine="local") == run(None, chips=2)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)


def test_without_ray_one_sentence_says_how_to_get_it(no_ray: None) -> None:
    with pytest.raises(RunError, match=r"needs Ray, which is not installed: pip install 'neurosim\[ray\]'"):
        run(engine="ray")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:123456789"])
def test_a_cluster_that_is_not_there(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(is_initialized=lambda: False))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RunError, match=f"cannot reach Ray at RAY_ADDRESS={address} .*expected host:port"):
        run(engine="ray")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    found = pytest.importorskip("ray", reason="Ray is not installed: pip install 'neurosim[ray]'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield found


@pytest.mark.filterwarnings("default")
def test_ray_gives_the_same_bytes(whole: Table, tmp_path: Path, ray: Any) -> None:
    assert run(2, engine="ray", ledger=tmp_path / "chips.sqlite") == whole
    assert not ray.is_initialized()
    assert [row._asdict() for row in rows(tmp_path / "chips.sqlite")] == whole.rows()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_tries_again_names_chips_and_leaves_a_session_of_the_user_alone(
    whole: Table, tmp_path: Path, ray: Any, spoil: Callable[..., None]
) -> None:
    path = os.pathsep.join([str(IMPORTABLE), *sys.path])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}},
    )
    try:
        (tmp_path / "once").touch()
        spoil(once=tmp_path / "once")
        assert run(2, engine="ray") == whole
        assert not (tmp_path / "once").exists()
        spoil(deadly=frozenset([5]))
        with pytest.raises(
            RunError, match=r"^chips 4, 5 could not be computed: Ray gave up after 3 attempts"
        ):
            run(2, engine="ray", ledger=tmp_path / "chips.sqlite")
        kept = {row.chip for row in rows(tmp_path / "chips.sqlite")}
        assert kept
        assert not kept & {4, 5}
        spoil(failing=7)
        with pytest.raises(RunError, match=r"^a worker failed on chips 6, 7: ZeroDivisionError"):
            run(2, engine="ray")
        assert ray.is_initialized()
    finally:
        ray.shutdown()
