"""Embeddings: a row of devices is read by its number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurosim.analog.crossbar import Crossbar
from neurosim.analog.layers.base import OnCrossbars, Site
from neurosim.analog.operators import Lookup


class EmbeddingOnCrossbars(OnCrossbars, nn.Embedding):
    """``nn.Embedding``."""

    kind = nn.Embedding

    @staticmethod
    def place(site: Site) -> dict[str, Crossbar]:
        assert isinstance(site.layer, nn.Embedding)
        return {"weight": site.crossbar("weight", Lookup(entries=site.layer.num_embeddings))}

    @classmethod
    def why_not(cls, layer: nn.Module) -> str | None:
        assert isinstance(layer, nn.Embedding)
        if layer.max_norm is not None:
            return "max_norm rewrites its weights at each use"
        return "scale_grad_by_freq changes its gradients" if layer.scale_grad_by_freq else None

    def forward(self, input: Tensor) -> Tensor:
        if self._idle:
            return super().forward(input)
        y = self._product("weight", input, self.weight, None)
        return y if self.padding_idx is None else without_gradient(y, input == self.padding_idx)


def without_gradient(y: Tensor, padding: Tensor) -> Tensor:
    """What stands for padding is read, and never learns."""
    return torch.where(padding.unsqueeze(-1), y.detach(), y) if y.requires_grad else y
