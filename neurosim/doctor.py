"""What this machine has: versions, devices, extras, and how to get what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys

from neurosim import __version__

CORE = ("torch", "numpy", "scipy", "numba", "pydantic", "safetensors", "scikit-learn", "torchattacks")
EXTRAS = {
    "report": ("matplotlib",),
    "aihwkit": ("aihwkit",),
    "study": ("optuna",),
    "ray": ("ray",),
    "snn": ("nir", "wfdb"),
    "parquet": ("pyarrow",),
}

_TILE = """
import torch
from aihwkit.nn import AnalogLinear
layer = AnalogLinear(2, 2)
layer(torch.zeros(1, 2))
print("ok")
"""


def examine() -> dict[str, dict[str, str]]:
    """Facts by part: versions, devices, data, extras."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "version": {
            "neurosim": __version__,
            "python": platform.python_version(),
            **{name: _version(name) or "missing" for name in CORE},
        },
        "device": {
            "cpu": f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads",
            "cuda": torch.cuda.get_device_name(0) if cuda else "none that torch can use",
        },
        "data": {"NEUROSIM_DATA": os.environ.get("NEUROSIM_DATA") or "not set"},
        "extra": {extra: _extra(extra, packages) for extra, packages in EXTRAS.items()},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extra(extra: str, packages: tuple[str, ...]) -> str:
    found = {package: _version(package) for package in packages}
    missing = [package for package, version in found.items() if version is None]
    if missing:
        return f"{', '.join(missing)} missing: pip install 'neurosim[{extra}]'"
    text = ", ".join(f"{package} {version}" for package, version in found.items())
    return f"{text}; {probe_aihwkit()}" if extra == "aihwkit" else text


def probe_aihwkit(timeout_s: float = 120.0) -> str:
    """Whether aihwkit's compiled tile works with this torch; tried in a process of its own.

    Its wheels fit one torch only and with another fail at first use, some by ending the process.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TILE], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"its compiled tile could not be tried ({error})"
    if done.returncode == 0 and done.stdout.strip().endswith("ok"):
        return "its compiled tile works"
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return (
        f"its compiled tile does not work with torch {_version('torch')} ({said}): install the torch that "
        "its wheel was built for; its noise models work with any"
    )
