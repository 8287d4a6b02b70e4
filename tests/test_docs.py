"""The documentation is true: its Python runs, its commands parse, its reference names every option."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from neurosim.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def fences(page: Path, *languages: str) -> list[str]:
    """The code blocks of a page in these languages."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language.strip() in languages]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


RUNNABLE = [page for page in PAGES if fences(page, "python")]


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "example"}
    for number, body in enumerate(fences(page, "python")):
        exec(compile(body, f"{page.name}, example {number + 1}", "exec"), scope)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for body in fences(page, "bash", "console", "sh"):
            for line in body.splitlines():
                stripped = line.strip().removeprefix("$ ")
                if stripped.startswith("neurosim "):
                    found.append((name(page), stripped))
    return found


def parse(line: str) -> None:
    """Parse a command line as Typer would, without running it."""
    words = shlex.split(re.split(r" [>|] ", line)[0], comments=True)[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"{line!r}: no such command"
        command, words = command.commands[words[0]], words[1:]
    command.make_context("neurosim", words)


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_parse(page: str, line: str):
    parse(line)


def test_a_wrong_command_would_be_seen():
    with pytest.raises(Exception, match="No such option"):
        parse("neurosim train --nonsense 3")
    with pytest.raises(AssertionError, match="no such command"):
        parse("neurosim trian")


def test_the_reference_names_every_command_and_option():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")

    def walk(command: Any, path: str) -> None:
        if hasattr(command, "commands"):
            for sub, inner in command.commands.items():
                walk(inner, f"{path} {sub}")
            return
        assert path.split()[1] in page
        for option in command.params:
            for flag in option.opts:
                if flag.startswith("--") and flag != "--help":
                    assert f"`{flag}`" in page, f"docs/cli.md lacks {flag} of {path}"
        assert (
            f"{path} " in page
            or f"{path}`" in page
            or path.split()[1] in re.findall(r"^## (.+)$", page, re.M)[1]
        )

    walk(typer.main.get_command(app), "neurosim")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name(page)} links to {target}"
