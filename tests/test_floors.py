"""A room imports only from floors below: every import is read, lazy and type-checking ones too.

The floors come from the table in docs/architecture.md, so the page and the code cannot part.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "neurosim"
UNBOUND = {"__init__"}  # the lazy public surface may name every room
LIGHT = {
    "cli",
    "commands",
    "console",
    "doctor",
    "runs",
    "__main__",
    "errors",
    "storage",
    "__init__",
}  # quick `--help`
HEAVY = {"torch", "numpy", "numba", "scipy", "sklearn", "matplotlib", "torchattacks", "safetensors"}


def floors_of(page: str) -> dict[str, int]:
    """Room name -> floor, from the rows ``| 4 | `training/`, `evaluation/` | ... |``."""
    floors = {}
    for floor, rooms in re.findall(r"^\| (\d) \| ([^|]*) \|", page, flags=re.MULTILINE):
        for room in re.findall(r"`([\w/]+?)(?:\.py|/)`", rooms):
            floors[room] = int(floor)
    return floors


FLOORS = floors_of((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
TOP = max(FLOORS.values())


def room_of(module: str) -> str:
    """``neurosim.analog.deploy`` -> ``analog``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Every neurosim module a source names in an import, at any depth of nesting, with its line."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            if origin == "neurosim":
                yield from ((node.lineno, f"neurosim.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, origin
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            text = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            yield node.lineno, str(text)


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """One sentence for each import of the same floor or a higher one."""
    here = room_of(module)
    if here in UNBOUND:
        return []
    floor = TOP if here == "__main__" else FLOORS[here]
    found = []
    for line, name in imports(source, module, is_package):
        if name.split(".")[0] != "neurosim":
            continue
        there = room_of(name)
        if there in (here, "__version__") or (here == "__main__" and there == "cli"):
            continue
        if there == "__init__" or there not in FLOORS:
            found.append(f"{module}:{line} imports {name}: name the room it comes from")
        elif FLOORS[there] >= floor and not floor == FLOORS[there] == 0:
            found.append(f"{module}:{line} (floor {floor}) imports {name} (floor {FLOORS[there]})")
    return found


def heavy(source: str) -> list[str]:
    """Heavy packages imported when the module is, outside functions and TYPE_CHECKING."""
    found: list[str] = []

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.extend(a.name for a in node.names if a.name.split(".")[0] in HEAVY)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in HEAVY:
                found.append(node.module or "")
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                visit(node.orelse)
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for field in ("body", "orelse", "finalbody", "handlers"):
                    visit(getattr(node, field, []))

    visit(ast.parse(source).body)
    return found


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> tuple[str, bool]:
    parts = ["neurosim", *path.relative_to(PACKAGE).with_suffix("").parts]
    is_package = parts[-1] == "__init__" and len(parts) > 2
    return ".".join(parts[:-1] if is_package else parts), is_package


def test_the_table_is_read():
    assert FLOORS["cli"] == 7
    assert FLOORS["training"] == FLOORS["evaluation"] == 4
    assert FLOORS["errors"] == FLOORS["random"] == 0
    assert len(FLOORS) >= 13


def test_every_module_stands_on_a_floor():
    rooms = {room_of(name_of(path)[0]) for path in modules()} - UNBOUND - {"__main__"}
    assert rooms <= FLOORS.keys(), "a room without a floor: add it to the table of docs/architecture.md"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_from_floors_below(path: Path):
    name, is_package = name_of(path)
    assert violations(path.read_text(encoding="utf-8"), name, is_package) == []


@pytest.mark.parametrize(
    "path",
    [p for p in modules() if room_of(name_of(p)[0]) in LIGHT],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_light_modules_import_nothing_heavy(path: Path):
    assert heavy(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("neurosim.devices.pcm", "from neurosim.analog import deploy"),
        ("neurosim.devices.pcm", "import neurosim.analog.deploy as d"),
        ("neurosim.devices.pcm", "from neurosim import analog"),
        ("neurosim.devices.pcm", "from .. import analog"),
        ("neurosim.devices.pcm", "from ..analog.deploy import Deployed"),
        ("neurosim.devices.pcm", "def f():\n    from neurosim.training import train"),
        ("neurosim.devices.pcm", "if TYPE_CHECKING:\n    from neurosim.models import create"),
        ("neurosim.devices.pcm", "import importlib\nimportlib.import_module('neurosim.analog')"),
        ("neurosim.devices.pcm", "import neurosim"),
        ("neurosim.training.loop", "from neurosim.evaluation import evaluate"),
        ("neurosim.evaluation.table", "from neurosim.training import train"),
        ("neurosim.models.zoo", "from neurosim.data import load"),
        ("neurosim.data.digits", "import neurosim.models"),
        ("neurosim.runs", "from neurosim.report import figure"),
        ("neurosim.storage", "from neurosim.devices import hardware"),
        ("neurosim.report.figure", "from neurosim.cli import main"),
    ],
)
def test_the_checker_sees_an_upward_or_sideways_import(module: str, source: str):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("neurosim.storage", "from neurosim.errors import RunError"),
        ("neurosim.analog.deploy", "from neurosim.devices import Hardware\nfrom .layers import Linear"),
        ("neurosim.analog.deploy", "from . import layers\nimport torch"),
        ("neurosim.cli", "from neurosim import runs, training, __version__"),
        ("neurosim.__main__", "from neurosim.cli import main"),
        ("neurosim.__init__", "from neurosim import cli"),
    ],
)
def test_the_checker_lets_downward_imports_pass(module: str, source: str):
    assert violations(source, module) == []


def test_the_checker_sees_a_heavy_import():
    assert heavy("import torch") == ["torch"]
    assert heavy("try:\n    from numpy import array\nexcept ImportError:\n    pass") == ["numpy"]
    assert heavy("class A:\n    import torch.nn") == ["torch.nn"]
    assert heavy("if TYPE_CHECKING:\n    import torch\n\ndef f():\n    import torch") == []
