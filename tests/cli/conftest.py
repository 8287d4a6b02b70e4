"""A caller of the command line, and two small trained runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from neurosim.cli import main

TINY = ["--epochs", "2", "--limit", "200", "--set", "model.hidden=[16]", "--batch-size", "50"]


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one sentence of a failure; nothing on stdout, no traceback."""
        assert self.out == ""
        lines = [line for line in self.err.splitlines() if line]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


Call = Callable[..., Answer]


@pytest.fixture
def neurosim(capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs "a" (standard) and "b" (noise), not to be changed: copy one to change it."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {"a": folder / "a", "b": folder / "b"}
    assert main(["train", *TINY, "--out", str(runs["a"])]) == 0
    assert main(["train", *TINY, "--method", "noise", "--out", str(runs["b"])]) == 0
    return runs


@pytest.fixture
def runs(trained: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Private copies of the two runs."""
    import shutil

    return {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in trained.items()}
