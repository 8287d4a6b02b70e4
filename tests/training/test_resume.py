"""A run that was stopped anywhere and resumed equals one that was not, to the bit."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import neurosim.storage
from neurosim.errors import RunError, UsageError
from neurosim.training import Progress, TrainResult, train

from . import worker

STEPS = 5 * worker.EPOCHS


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(out: Path | None, method: str = "standard", plain: bool = False, **changes: Any) -> TrainResult:
    options: dict[str, Any] = {**worker.OPTIONS, "resume": True, **changes}
    return train(worker.network(), worker.loaders(plain), method=worker.METHODS[method], out=out, **options)


def results(out: Path) -> tuple[bytes, bytes]:
    return (out / "model.safetensors").read_bytes(), (out / "metrics.jsonl").read_bytes()


class Stop:
    """A progress callback that raises at its n-th call."""

    def __init__(self, call: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.left, self.error = call, error

    def __call__(self, progress: Progress) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error("stopped by the test")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """The results of uninterrupted runs."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    for method in worker.METHODS:
        run(folder / method, method)
    run(folder / "plain", plain=True)
    return {path.name: results(path) for path in folder.iterdir()}


@pytest.mark.parametrize("call", range(1, STEPS + worker.EPOCHS + 1))
def test_interrupted_at_every_step(tmp_path: Path, whole: Any, call: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=Stop(call), checkpoint_every_s=1e9)
    run(tmp_path)
    assert results(tmp_path) == whole["standard"]


@pytest.mark.parametrize("method", ["noise", "adversarial"])
@pytest.mark.parametrize("every", [0.0, 1e9])
def test_interrupted_again_and_again_by_an_error(
    tmp_path: Path, whole: Any, method: str, every: float
) -> None:
    """An error leaves no checkpoint of its own: the last regular one must do."""
    for call in (9, 8, 3):
        with pytest.raises(RuntimeError, match="stopped by the test"):
            run(tmp_path, method, progress=Stop(call, RuntimeError), checkpoint_every_s=every)
    run(tmp_path, method)
    assert results(tmp_path) == whole[method]


@pytest.mark.parametrize("call", [1, 4, 6, 7, 13])
def test_a_plain_loader_that_shuffles_by_torchs_generator(tmp_path: Path, whole: Any, call: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, plain=True, progress=Stop(call))
    torch.manual_seed(call)  # what the program drew meanwhile must not matter
    run(tmp_path, plain=True)
    assert results(tmp_path) == whole["plain"]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer(tmp_path: Path, optimizer: str) -> None:
    changes: dict[str, Any] = {"optimizer": optimizer, "weight_decay": 1e-3, "clip_norm": 0.5}
    run(tmp_path / "whole", **changes)
    for call in (7, 8):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", progress=Stop(call), **changes)
    run(tmp_path / "parts", **changes)
    assert results(tmp_path / "parts") == results(tmp_path / "whole")


def test_a_folder_changes_nothing(tmp_path: Path) -> None:
    model, other = worker.network(), worker.network()
    in_memory = train(model, worker.loaders(), **worker.OPTIONS)
    in_folder = train(other, worker.loaders(), out=tmp_path, **worker.OPTIONS)
    assert (
        in_memory.history == in_folder.history == neurosim.storage.read_json_lines(tmp_path / "metrics.jsonl")
    )
    saved, _ = neurosim.storage.load_tensors(tmp_path / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
        assert torch.equal(tensor, saved[name])


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    first = run(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    model = worker.network()
    again = train(model, worker.loaders(), out=tmp_path, resume=True, **worker.OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()} == stamps
    assert again.history == first.history
    assert again.best_validation_accuracy == first.best_validation_accuracy
    assert again.passes == first.passes == STEPS
    saved, _ = neurosim.storage.load_tensors(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_what_is_lost_of_a_finished_run_is_written_again(tmp_path: Path, whole: Any) -> None:
    run(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "metrics.jsonl").write_text('{"torn')
    run(tmp_path)
    assert results(tmp_path) == whole["standard"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "pickle"])
def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(
    tmp_path: Path, whole: Any, damage: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=Stop(15))
    newest, older = sorted((tmp_path / "checkpoints").iterdir(), reverse=True)
    data = bytearray(newest.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
    newest.write_bytes({"flip": data, "truncate": data[:-9], "empty": b"", "pickle": b"\x80\x04N."}[damage])
    with pytest.warns(UserWarning, match=rf"{newest.name} .*going back to the checkpoint before it"):
        run(tmp_path)
    assert results(tmp_path) == whole["standard"]
    assert older.name < newest.name


def test_only_damaged_checkpoints_are_an_error_and_stay(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=Stop(15))
    files = sorted((tmp_path / "checkpoints").iterdir())
    assert len(files) == 2
    for path in files:
        path.write_bytes(path.read_bytes()[:-1])
    with (
        pytest.warns(UserWarning, match="going back"),
        pytest.raises(
            RunError, match=r"is damaged .*no other checkpoint is left: train anew in another folder"
        ),
    ):
        run(tmp_path)
    assert sorted((tmp_path / "checkpoints").iterdir()) == files


def test_leftovers_of_a_kill_are_swept(tmp_path: Path, whole: Any) -> None:
    (tmp_path / ".config.toml.abc.tmp").write_text("half")  # killed while the folder was begun
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=Stop(8))
    (tmp_path / "checkpoints" / ".step.abc.tmp").write_text("half")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    run(tmp_path)
    assert results(tmp_path) == whole["standard"]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.02}, r"training|lr was 0.01 and is now 0.02"),
        ({"epochs": 9}, r"epochs was 4 and is now 9"),
        ({"seed": 6}, r"seed was 5 and is now 6"),
        ({"method": "noise"}, r"method.name was 'standard' and is now 'noise'"),
        ({"clip_norm": 1.0}, r"clip_norm was absent and is now 1.0"),
        ({"config": {"model": {"name": "mlp"}}}, r"model.name was 'cnn' and is now 'mlp'"),
    ],
)
def test_another_configuration_is_refused_by_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    base: dict[str, Any] = {"config": {"model": {"name": "cnn"}, "versions": {"torch": "1"}, "none": None}}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=Stop(3), **base)
    with pytest.raises(UsageError, match=rf"cannot be resumed with another configuration: .*{message}"):
        run(tmp_path, **{**base, **changes})
    base["config"]["versions"]["torch"] = "2"  # another version is no other run
    run(tmp_path, checkpoint_every_s=5.0, **base)


def test_another_network_or_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=Stop(3))
    options = {**worker.OPTIONS, "out": tmp_path, "resume": True}
    with pytest.raises(UsageError, match=r"tensor '1.bias' is in only one of the two"):
        train(worker.network()[:1].append(torch.nn.Flatten()), worker.loaders(), **options)
    wide = worker.network()
    wide[5] = torch.nn.Linear(64, 4)
    with pytest.raises(
        UsageError, match=r"expected '5.weight' as in the checkpoint, torch.float32 \(3, 64\); got"
    ):
        train(wide, worker.loaders(), **options)
    x, y = worker.loaders()[1][0]
    with pytest.raises(UsageError, match="with training data of another size"):
        train(worker.network(), ([(x, y)], None), **options)


class TestFolders:
    def test_a_run_without_resume(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, progress=Stop(3), resume=False)
        with pytest.raises(UsageError, match=r"already holds a run: use --resume"):
            run(tmp_path, resume=False)

    @pytest.mark.parametrize("resume", [True, False])
    def test_a_stranger(self, tmp_path: Path, resume: bool) -> None:
        (tmp_path / "thesis.tex").write_text("precious")
        with pytest.raises(UsageError, match=r"is not a run of neurosim \(it holds 'thesis.tex'\)"):
            run(tmp_path, resume=resume)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("x")
        with pytest.raises(UsageError, match="is a file: expected a folder"):
            run(tmp_path / "f")
        with pytest.raises(RunError, match="cannot write"):
            run(tmp_path / "f" / "below")

    def test_damaged_settings(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, progress=Stop(3))
        (tmp_path / "training.toml").write_text("= 3")
        with pytest.raises(RunError, match=r"training\.toml is damaged"):
            run(tmp_path)

    def test_a_config_written_by_the_caller(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").write_text('name = "a"\n')
        with pytest.raises(UsageError, match=r"name was 'a' and is now 'b' \(config.toml\)"):
            run(tmp_path, config={"name": "b"})
        run(tmp_path, config={"name": "a"})
        assert (tmp_path / "config.toml").read_text() == 'name = "a"\n'

    def test_two_processes(self, tmp_path: Path) -> None:
        def inner(progress: Progress) -> None:
            with pytest.raises(RunError, match="is in use: another process trains in it"):
                run(tmp_path)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, progress=inner)

    def test_a_full_disk(self, tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = itertools.count()

        def fsync(handle: int) -> None:
            if next(calls) > 20:
                raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(neurosim.storage.os, "fsync", fsync)
            with pytest.raises(RunError, match=r"cannot write .*: No space left on device"):
                run(tmp_path)
        run(tmp_path)
        assert results(tmp_path) == whole["standard"]


def test_a_signal_waits_for_the_end_of_the_step(tmp_path: Path, whole: Any) -> None:
    """SIGINT in the middle of a step: the step is finished, a checkpoint written, then KeyboardInterrupt."""
    steps: list[Progress] = []

    def tell(progress: Progress) -> None:
        steps.append(progress)
        if len(steps) == 8:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # the handler runs here, in the middle of the callback
            steps.append(progress)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=tell, checkpoint_every_s=1e9)
    assert len(steps) == 9
    assert signal.getsignal(signal.SIGINT) is handler
    newest = max((tmp_path / "checkpoints").iterdir())
    assert newest.name == "step-0000000007.safetensors"
    run(tmp_path)
    assert results(tmp_path) == whole["standard"]


def test_off_the_main_thread(tmp_path: Path, whole: Any) -> None:
    thread = threading.Thread(target=run, args=(tmp_path,))
    thread.start()
    thread.join()
    assert results(tmp_path) == whole["standard"]


def kill_until_done(folder: Path, method: str, kills: int, seed: int) -> int:
    """One run undisturbed in ``whole``, one in ``parts`` killed -9 at random moments; how often it died.

    Both in forked processes, where torch takes other convolution kernels than in a fresh one.
    """
    chance = random.Random(seed)
    died = 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(worker.__file__).with_name("forks.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        for kill in [False, *[True] * kills, False]:
            print(folder / ("parts" if died or kill else "whole"), method, file=server.stdin, flush=True)
            child, line = int(server.stdout.readline()), ""
            if kill:
                for _ in range(chance.randint(0, max(2, STEPS // kills))):  # let it get somewhere
                    line = server.stdout.readline()
                time.sleep(chance.random() * 0.03)  # anywhere within a step or a checkpoint
                with contextlib.suppress(ProcessLookupError):  # it had ended
                    os.kill(child, signal.SIGKILL)
            while not line.startswith("ended"):
                line = server.stdout.readline()
                assert line, "the server has gone"
            assert line in ("ended 0\n", f"ended {int(signal.SIGKILL)}\n")
            died += line != "ended 0\n"
        server.stdin.close()
    return died


def test_killed_six_times(tmp_path: Path) -> None:
    assert kill_until_done(tmp_path, "adversarial", kills=6, seed=1) >= 3
    assert results(tmp_path / "parts") == results(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("method", worker.METHODS)
def test_killed_twenty_times(tmp_path: Path, method: str) -> None:
    assert kill_until_done(tmp_path, method, kills=20, seed=2) >= 10
    assert results(tmp_path / "parts") == results(tmp_path / "whole")
