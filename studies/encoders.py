"""One heartbeat (or, without the data, a made one) through the four spike encoders.

    python studies/encoders.py [--plot docs/images/encoders.svg]

prints how well each encoder is read back.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from neurosim import data
from neurosim.data.encoders import ENCODERS, to_unit
from neurosim.errors import UsageError

SETTINGS: dict[str, dict[str, float]] = {
    "rate": {"hold": 10},
    "latency": {"hold": 10},
    "delta": {"threshold": 0.25},
    "current": {"hold": 10},
}


def beat() -> Tensor:
    """The first test beat of kind V of mitdb, (1, 100, 2)."""
    try:
        test = data.load("mitdb").test
    except UsageError:
        t = torch.linspace(-1, 1, 100).view(1, 100, 1)
        return torch.cat([4 * torch.exp(-80 * t**2) - 1, 3 * torch.exp(-40 * (t - 0.1) ** 2) - 1], dim=2)
    return test.inputs[test.targets == 3][:1]


def encoded(name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the encoder makes of a series, and what is read back from it, in units of the series."""
    unit = name in ("rate", "latency")
    given = to_unit(x) if unit else x
    spikes = ENCODERS[name].encode(given, **SETTINGS[name])
    back = ENCODERS[name].decode(spikes, **SETTINGS[name])
    return spikes, 6 * back - 3 if unit else back


def picture(x: Tensor, path: Path) -> None:
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "encoders"
    figure, axes = plt.subplots(5, 1, figsize=(7, 8), sharex=True, layout="constrained")
    steps = range(100)
    axes[0].plot(steps, x[0], label=["lead MLII", "second lead"])
    axes[0].set_ylabel("input")
    axes[0].legend(fontsize=8)
    for ax, name in zip(axes[1:], ENCODERS, strict=True):
        spikes, back = encoded(name, x)
        ax.set_ylabel(name)
        if name == "current":
            ax.plot(torch.arange(1000) / 10, spikes[0])
        else:
            at, channel = spikes[0].nonzero(as_tuple=True)
            scale = len(spikes[0]) / 100
            ax.scatter(at / scale, channel, marker="|", s=30, c=[f"C{int(c) % 2}" for c in channel])
            ax.set_yticks(range(spikes.shape[2]))
            ax.set_ylim(-0.6, spikes.shape[2] - 0.4)
        ax.set_title(
            f"{int((spikes != 0).sum()) if name != 'current' else 'no'} spikes; "
            f"largest error read back {float((back - x).abs().max()):.2g}",
            fontsize=8,
        )
    axes[-1].set_xlabel("step of 5.6 ms")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    x = beat()
    for name in ENCODERS:
        spikes, back = encoded(name, x)
        print(f"{name:8} {int((spikes != 0).sum()):5} non-zero; largest error {(back - x).abs().max():.3f}")
    if options.plot:
        picture(x, options.plot)
        print(options.plot)


if __name__ == "__main__":
    main()
