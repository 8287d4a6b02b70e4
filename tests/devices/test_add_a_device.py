"""The pages on devices cannot rot: the example passes the conformance checks, every preset has its page."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from neurosim.devices import hardware_names
from neurosim.random import Draws

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PLUGIN = "from neurosim.devices.catalogue import DEVICES\nfrom leaky import Leaky\nDEVICES['leaky'] = Leaky\n"


def example() -> str:
    """The one file of the page."""
    (found,) = re.findall(r"^```py\n(.*?)^```$", (DOCS / "add-a-device.md").read_text("utf-8"), re.M | re.S)
    return str(found)


@pytest.fixture
def leaky(tmp_path: Path) -> ModuleType:
    file = tmp_path / "leaky.py"
    file.write_text(example(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("leaky", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def conformance(folder: Path) -> subprocess.CompletedProcess[str]:
    """The conformance tests of the device ``leaky`` found in ``folder``, in a pytest of its own."""
    (folder / "row_of_the_page.py").write_text(PLUGIN, encoding="utf-8")
    command = [
        sys.executable, "-m", "pytest", "-q", "-n", "0", "--no-header", "-p", "no:cacheprovider",
        "-p", "row_of_the_page", "-k", "leaky", str(ROOT / "tests" / "devices" / "test_conformance.py"),
    ]  # fmt: skip
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )


def test_the_example_passes_every_conformance_check(leaky: ModuleType, tmp_path: Path):
    done = conformance(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= 36, done.stdout


def test_a_broken_example_would_be_seen(leaky: ModuleType, tmp_path: Path):
    text = example().replace('state["g_siemens"] * (1.0', '1.001 * state["g_siemens"] * (1.0')
    assert text != example()
    (tmp_path / "leaky.py").write_text(text, encoding="utf-8")
    done = conformance(tmp_path)
    assert done.returncode == 1
    assert "test_at_age_zero_devices_hold_what_was_programmed[leaky]" in done.stdout


def test_the_noise_free_constants_of_the_page_are_so(leaky: ModuleType):
    assert '{"spread": 0.0, "loss": 0.0}' in (DOCS / "add-a-device.md").read_text("utf-8")
    device, draws = leaky.Leaky(spread=0.0, loss=0.0), Draws(3, (0, 7), "w+")
    g = torch.linspace(0.0, 25e-6, 50)
    assert torch.equal(device.age(device.program(g, draws), 3e8, draws), g.expand(2, 50))


def test_the_example_fits_a_line():
    assert max(map(len, example().splitlines())) <= 120


@pytest.mark.parametrize("name", hardware_names())
def test_every_preset_has_its_page_and_its_row(name: str):
    pages = [
        page for page in (DOCS / "technologies").glob("*.md") if f"\n## {name}\n" in page.read_text("utf-8")
    ]
    assert len(pages) == 1, name
    picture = f"../images/devices/{name}.svg"
    assert picture in pages[0].read_text("utf-8")
    file = (DOCS / "technologies" / picture).resolve()
    assert 1_000 < file.stat().st_size < 150_000
    choose = (DOCS / "choose-a-technology.md").read_text("utf-8")
    assert f"[`{name}`](technologies/{pages[0].name})" in choose
    assert f"technologies/{pages[0].stem}\n" in (DOCS / "index.md").read_text("utf-8")
