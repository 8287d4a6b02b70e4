"""Embeddings: a row of devices is read by its number."""

from __future__ import annotations

from torch import Tensor, nn

from neurosim.analog.crossbar import Crossbar
from neurosim.analog.layers.base import OnCrossbars, Site
from neurosim.analog.operators import Lookup


class EmbeddingOnCrossbars(OnCrossbars, nn.Embedding):
    """``nn.Embedding``."""

    kind = nn.Embedding

    @staticmethod
    def place(site: Site) -> dict[str, Crossbar]:
        return {"weight": site.crossbar("weight", Lookup())}

    @classmethod
    def why_not(cls, layer: nn.Module) -> str | None:
        assert isinstance(layer, nn.Embedding)
        return None if layer.max_norm is None else "max_norm rewrites its weights at each use"

    def forward(self, input: Tensor) -> Tensor:
        if self._idle:
            return super().forward(input)
        return self._product("weight", input, self.weight, None)
