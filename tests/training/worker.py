"""A small run, the same in every process that makes it."""

from __future__ import annotations

import time

import torch
from torch import nn

from neurosim.training import AdversarialWeights, ForwardNoise, Progress, Standard, train

METHODS = {
    "standard": Standard(),
    "noise": ForwardNoise(0.2, ramp=0.5),
    "adversarial": AdversarialWeights(steps=2),
}


class Shuffled:
    """A loader with an order of its own for each epoch."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, size: int) -> None:
        self.x, self.y, self.size = x, y, size

    def __len__(self) -> int:
        return -(-len(self.x) // self.size)

    def epoch(self, number: int, /):  # type: ignore[no-untyped-def]
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(number))
        return ((self.x[i], self.y[i]) for i in order.split(self.size))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 3)
        )


def loaders(plain: bool = False):  # type: ignore[no-untyped-def]
    g = torch.Generator().manual_seed(0)
    x = torch.rand(70, 1, 6, 6, generator=g)
    y = (x.mean((1, 2, 3)) * 300 % 3).long()
    if plain:
        data = torch.utils.data.TensorDataset(x[:50], y[:50])
        return torch.utils.data.DataLoader(data, batch_size=10, shuffle=True), [(x[50:], y[50:])]
    return Shuffled(x[:50], y[:50], 10), [(x[50:], y[50:])]


EPOCHS = 4
OPTIONS = {
    "epochs": EPOCHS,
    "lr": 0.01,
    "lr_schedule": "cosine",
    "seed": 5,
    "device": "cpu",
    "checkpoint_every_s": 0.0,
}


def slow_run(out: str, method: str) -> None:
    torch.set_num_threads(1)

    def tell(progress: Progress) -> None:
        print("step", flush=True)
        time.sleep(0.01)

    train(network(), loaders(), method=METHODS[method], out=out, resume=True, progress=tell, **OPTIONS)
    print("done", flush=True)
