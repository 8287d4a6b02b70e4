"""A run's folder while it trains: its configuration, checkpoints, rows and model, each whole or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import tomli_w
import torch
from torch import Tensor

from neurosim import storage
from neurosim.errors import RunError, UsageError

FORMAT = "neurosim-run/1"
KEPT = 2  # checkpoints


def plain(value: Any) -> Any:
    """The same configuration as TOML can hold it: None left out, tuples as lists, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items() if part is not None}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise UsageError(
        f"configuration: expected numbers, text, lists and tables; got {type(value).__name__} {value!r}"
    )


def first_difference(old: Any, new: Any, place: str = "") -> str | None:
    """Where two configurations differ, as "training.lr was 0.001 and is now 0.01"; None if nowhere.

    >>> first_difference({"training": {"lr": 0.001}}, {"training": {"lr": 0.01}})
    'training.lr was 0.001 and is now 0.01'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            found = first_difference(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
            if found:
                return found
        return None
    if old == new and type(old) is type(new):
        return None
    if isinstance(old, float | int) and isinstance(new, float | int) and float(old) == float(new):
        return None
    return f"{place} was {_show(old)} and is now {_show(new)}"


def _show(value: Any) -> str:
    return "absent" if value is None else repr(value)


class RunFolder:
    """The folder of one run, held by one process at a time.  Make one with :meth:`held`."""

    def __init__(self, path: Path, settings: Mapping[str, Any], config: Mapping[str, Any] | None) -> None:
        self.path = path
        self.files: dict[str, dict[str, Any]] = {"training.toml": {"format": FORMAT, **plain(settings)}}
        if config is not None:
            self.files["config.toml"] = plain(config)
        told = {
            name: {k: v for k, v in table.items() if k != "versions"} for name, table in self.files.items()
        }
        self.digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @classmethod
    @contextlib.contextmanager
    def held(
        cls, path: str | Path, settings: Mapping[str, Any], config: Mapping[str, Any] | None, resume: bool
    ) -> Iterator[RunFolder]:
        """Open or begin a run for the length of a ``with``.

        Args:
            path: the folder; made if need be.
            settings: of the training, kept in ``training.toml``.
            config: of the whole run, kept in ``config.toml``; None leaves that file to the caller.
                Its table ``versions`` may differ when resuming, nothing else.
            resume: whether to go on with the run in it; nothing there yet is no error.

        Raises:
            UsageError: the folder is not ours; it holds a run and ``resume`` is False; it holds a run of
                another configuration.
            RunError: it cannot be written, another process trains in it, or its configuration is damaged.
        """
        path = Path(path)
        folder = cls(path, settings, config)
        begun = folder._examine(resume)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / ".lock").open("a")
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from error
        with lock:
            _lock(lock, path)
            folder._sweep()
            if not begun:  # training.toml last: it says that the rest is there
                for name, table in reversed(folder.files.items()):
                    storage.write_text(path / name, tomli_w.dumps(table))
            yield folder

    def _examine(self, resume: bool) -> bool:
        """Whether the folder holds a run of ours that may go on; refuse everything but that and emptiness."""
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            raise UsageError(f"{self.path} is a file: expected a folder for the run")
        begun = (self.path / "training.toml").exists()
        if not begun:
            self._refuse_strangers()
        elif not resume:
            raise UsageError(
                f"{self.path} already holds a run: use --resume to go on with it, or another folder"
            )
        for name, table in self.files.items():
            if begun or (self.path / name).exists():
                self._compare(name, table)
        return begun

    def _refuse_strangers(self) -> None:
        """Accept only what a process of ours, killed while it began, may have left."""
        for entry in sorted(self.path.iterdir()):
            unfinished = entry.name.startswith(".") and entry.name.endswith(".tmp")
            if not unfinished and entry.name not in (".lock", "config.toml"):
                raise UsageError(
                    f"{self.path} is not a run of neurosim (it holds {entry.name!r}): choose another folder"
                )

    def _compare(self, name: str, table: dict[str, Any]) -> None:
        path = self.path / name
        try:
            old = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error})") from error
        difference = first_difference({**old, "versions": None}, {**table, "versions": None})
        if difference:
            raise UsageError(
                f"{self.path} cannot be resumed with another configuration: {difference} ({name})"
            )

    def _sweep(self) -> None:
        """Remove what a killed process left half-written."""
        for folder in (self.path, self.path / "checkpoints"):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)

    # checkpoints

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, newest first."""
        return sorted((self.path / "checkpoints").glob("step-*.safetensors"), reverse=True)

    def save_checkpoint(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then drop all but the newest two."""
        name = f"step-{step:010d}.safetensors"
        meta = {"config": self.digest, "state": json.dumps(state, allow_nan=False)}
        storage.save_tensors(self.path / "checkpoints" / name, tensors, meta)
        for old in self.checkpoints()[KEPT:]:
            with contextlib.suppress(OSError):
                old.unlink()

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest undamaged checkpoint, None if there is none yet.

        Warns about each damaged one it passes over.

        Raises:
            RunError: there are checkpoints and all are damaged.
        """
        files = self.checkpoints()
        for number, path in enumerate(files):
            try:
                tensors, meta = storage.load_tensors(path)
                if meta.get("config") != self.digest:
                    raise RunError(f"{path} belongs to another run")
                return tensors, json.loads(meta["state"])
            except RunError as error:
                if number == len(files) - 1:
                    raise RunError(
                        f"{error}; no other checkpoint is left: train anew in another folder"
                    ) from error
                warnings.warn(f"{error}; going back to the checkpoint before it", stacklevel=2)
        return None

    # results

    def save_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Make ``metrics.jsonl`` hold exactly these rows; an equal file is not touched."""
        path = self.path / "metrics.jsonl"
        with contextlib.suppress(RunError):
            if path.exists() and storage.read_json_lines(path) == list(rows):
                return
        storage.write_json_lines(path, rows)

    def append_row(self, row: Mapping[str, Any]) -> None:
        """Add one epoch's row to ``metrics.jsonl``."""
        storage.append_json(self.path / "metrics.jsonl", row)

    def append_timing(self, row: Mapping[str, Any]) -> None:
        """Add one line of wall-clock values to ``timing.jsonl``, apart from the reproducible rows."""
        storage.append_json(self.path / "timing.jsonl", row)

    def save_model(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Make ``model.safetensors`` hold these tensors; an equal file is not touched."""
        path = self.path / "model.safetensors"
        meta = {
            "format": "neurosim-model/1",
            "config": self.digest,
            **{k: json.dumps(v) for k, v in facts.items()},
        }
        with contextlib.suppress(RunError):
            if path.exists():
                old, old_meta = storage.load_tensors(path)
                if old_meta == meta and storage.sha256_tensors(old) == storage.sha256_tensors(tensors):
                    return
        storage.save_tensors(path, tensors, meta)


def _lock(file: IO[str], path: Path) -> None:
    """Hold the folder until the file closes, however the process ends; no lock where there is no flock."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise RunError(f"{path} is in use: another process trains in it") from error


def restore(target: Mapping[str, Tensor], stored: Mapping[str, Tensor], what: str) -> None:
    """Copy stored tensors into living ones, in place: layout and identity stay.

    Raises:
        UsageError: names or shapes differ.
    """
    if target.keys() != stored.keys():
        odd = sorted(target.keys() ^ stored.keys())[0]
        raise UsageError(
            f"{what}: expected the network of the checkpoint; tensor {odd!r} is in only one of the two"
        )
    with torch.no_grad():
        for name, tensor in target.items():
            if tensor.shape != stored[name].shape or tensor.dtype != stored[name].dtype:
                raise UsageError(
                    f"{what}: expected {name!r} as in the checkpoint, {stored[name].dtype}"
                    f" {tuple(stored[name].shape)}; got {tensor.dtype} {tuple(tensor.shape)}"
                )
            tensor.copy_(stored[name])
