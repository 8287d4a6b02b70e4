"""Workers, shards and merging from the command line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neurosim.evaluation import Ledger

FAST = ["--chips", "12", "--limit", "100", "--times", "25s,1y"]


def copy(run: Path, name: str) -> Path:
    return Path(shutil.copytree(run, run.with_name(name)))


def test_workers_and_shards_give_the_same_file(neurosim, runs):
    fives = copy(runs["a"], "fives")
    merged = copy(runs["a"], "merged")
    assert neurosim("evaluate", runs["a"], *FAST, "--workers", "1").code == 0
    assert neurosim("evaluate", fives, *FAST, "--workers", "5").code == 0
    whole = (runs["a"] / "chips.csv").read_bytes()
    assert (fives / "chips.csv").read_bytes() == whole

    answers = [neurosim("evaluate", merged, *FAST, "--shard", f"{i}/3", "--json").json for i in (2, 3, 1)]
    assert [answer[0]["chips"] for answer in answers] == [[1, 4, 7, 10], [2, 5, 8, 11], [0, 3, 6, 9]]
    assert not (merged / "chips.csv").exists()
    assert not (merged / "chips.sqlite").exists()
    ledgers = [Path(answer[0]["ledger"]) for answer in answers]
    assert ledgers[0] == merged / "chips-shard-2-of-3.sqlite"
    assert neurosim("merge", merged, *ledgers, "--json").json["new"] == 24
    assert neurosim("merge", merged, *reversed(ledgers), "--json").json["new"] == 0
    from neurosim.evaluation import blocks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_rows", None)  # nothing is computed
        assert neurosim("evaluate", merged, *FAST, "--workers", "1").code == 0
    assert (merged / "chips.csv").read_bytes() == whole
    said = neurosim("evaluate", merged, *FAST, "--shard", "1/3", "--out", merged / "elsewhere").out
    assert f"neurosim merge {merged} {merged}/elsewhere/chips-shard-*-of-3.sqlite" in said


def test_compare_with_workers(neurosim, runs, tmp_path):
    both = ["compare", runs["a"], runs["b"], *FAST, "--out", tmp_path / "c", "--json"]
    with_workers = neurosim(*both, "--workers", "2")
    assert with_workers.code == 0
    for run in runs.values():
        (run / "chips.sqlite").unlink()
    assert with_workers.json == neurosim(*both, "--workers", "1").json


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "0"], "--workers"),
        (["--workers", "5000"], "workers must be a whole number from 1 to 1024; got 5000"),
        (["--engine", "dask"], "unknown engine 'dask'"),
        (["--shard", "0/3"], "expected a shard such as 2/3, from 1/3 to 3/3; got '0/3'"),
        (["--shard", "4/3"], "got '4/3'"),
        (["--shard", "1"], "got '1'"),
        (["--shard", "1/²"], "got '1/²'"),
        (["--shard", "9/9", "--chips", "8"], "shard 9/9 has no chips: there are only 8"),
        (["--shard", "1/2", "--require", "accuracy_min>=0"], "--require needs all chips"),
    ],
)
def test_wrong_values_are_one_sentence(neurosim, runs, arguments, said):
    answer = neurosim("evaluate", runs["a"], *FAST, *arguments)
    assert answer.code == 2
    assert said in answer.error


def test_a_shard_of_two_runs_in_one_place(neurosim, runs, tmp_path):
    answer = neurosim("evaluate", *runs.values(), *FAST, "--shard", "1/2", "--out", tmp_path / "c")
    assert answer.code == 2
    assert "takes one run" in answer.error


# ledgers that are refused


def shard(neurosim, run: Path) -> Path:
    assert neurosim("evaluate", run, *FAST, "--shard", "1/2").code == 0
    return run / "chips-shard-1-of-2.sqlite"


def another_network(ledger: Path, runs: dict[str, Path]) -> None:
    shutil.copy(runs["b"] / ledger.name, ledger)


def another_row(ledger: Path, runs: dict[str, Path]) -> None:
    ledger.unlink()
    with Ledger(runs["a"] / "chips.sqlite", read_only=True) as kept, Ledger(ledger) as other:
        (key,) = kept.keys()
        other.describe(key, kept.experiments()[key])
        other.add(key, [row._replace(loss=row.loss + 1) for row in kept.rows(key)])


def no_description(ledger: Path, runs: dict[str, Path]) -> None:
    with Ledger(ledger) as kept:
        kept.add("0" * 64, kept.rows(kept.keys()[0]))


def a_lie(ledger: Path, runs: dict[str, Path]) -> None:
    """A stranger's rows under a description of this run's network."""
    with Ledger(ledger) as kept:
        (key,) = kept.keys()
        kept.add("0" * 64, kept.rows(key))
        kept.describe("0" * 64, kept.experiments()[key])


def no_ledger(ledger: Path, runs: dict[str, Path]) -> None:
    ledger.write_text(
        "something else, and long enough to be read as the header of a database, which it is not"
    )


def damaged(ledger: Path, runs: dict[str, Path]) -> None:
    ledger.write_bytes(ledger.read_bytes()[:5000])


def missing(ledger: Path, runs: dict[str, Path]) -> None:
    ledger.unlink()


def its_own(ledger: Path, runs: dict[str, Path]) -> None:
    ledger.unlink()
    ledger.symlink_to(runs["a"] / "chips.sqlite")


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (another_network, 2, "holds chips of another network than"),
        (another_row, 2, "which differs from"),
        (no_description, 1, "does not say what its rows 000000000000... are of"),
        (a_lie, 1, "does not say what its rows 000000000000... are of"),
        (no_ledger, 2, "is not a neurosim ledger"),
        (damaged, 1, "is damaged"),
        (missing, 1, "is missing"),
        (its_own, 2, "is the run's own ledger"),
    ],
)
def test_ledgers_that_are_not_merged(neurosim, runs, change, code, said):
    good, other = shard(neurosim, runs["a"]), shard(neurosim, runs["b"])
    assert neurosim("merge", runs["a"], good).code == 0
    with Ledger(runs["a"] / "chips.sqlite", read_only=True) as kept:
        before = kept.rows(kept.keys()[0])
    assert neurosim("merge", runs["b"], other).code == 0
    bad = runs["a"] / "bad.sqlite"
    shutil.copy(good, bad)
    other.rename(runs["b"] / bad.name)
    change(bad, runs)
    answer = neurosim("merge", runs["a"], good, bad)
    assert answer.code == code
    assert said in answer.error
    assert "bad.sqlite" in answer.error or "differs" in answer.error
    with Ledger(runs["a"] / "chips.sqlite", read_only=True) as kept:
        assert kept.keys() == [kept.keys()[0]]
        assert kept.rows(kept.keys()[0]) == before


@pytest.mark.slow
def test_ctrl_c_with_workers_is_clean(runs):
    process = subprocess.Popen(
        [sys.executable, "-m", "neurosim", "evaluate", str(runs["a"]), "--chips", "5000", "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 60
    while not kept(runs["a"]):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1].startswith("interrupted: nothing that was finished is lost")
    assert "Traceback" not in err
    assert 0 < kept(runs["a"]) < 5000 * 4


def kept(run: Path) -> int:
    from neurosim.errors import RunError, UsageError

    try:
        with Ledger(run / "chips.sqlite", read_only=True) as ledger:
            return sum(len(ledger.rows(key)) for key in ledger.experiments())
    except (RunError, UsageError):  # being made this moment
        return 0
