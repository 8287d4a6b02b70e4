"""The network of the studies of devices and circuits: a 64-64-10 perceptron on scikit-learn's digits."""

from __future__ import annotations

import torch
from torch import nn

import neurosim as ns


def trained(splits: ns.data.Splits, method: str) -> nn.Module:
    """The same numbers every time: of 40 epochs by ``method``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    loaders = tuple(ns.data.Batches(part, 100) for part in (splits.train, splits.validation))
    ns.train(model, loaders, method=method, epochs=40, seed=1)
    return model
