"""Multi-head attention: its four projections on crossbars, scores and softmax digital."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurosim.analog.crossbar import Crossbar
from neurosim.analog.layers.base import OnCrossbars, Site
from neurosim.analog.operators import Matmul
from neurosim.errors import UsageError

_PARTS = ("q", "k", "v")


class MultiheadAttentionOnCrossbars(OnCrossbars, nn.MultiheadAttention):
    """``nn.MultiheadAttention``.

    softmax(Q Kᵀ/√d + mask) V between crossbars for Q, K and V (three of them, whether the weights are packed
    or separate: each has an input and a range of its own) and the layer ``out_proj``, which is deployed as
    any other linear layer.
    """

    kind = nn.MultiheadAttention
    digital = ("bias_k", "bias_v")

    @staticmethod
    def place(site: Site) -> dict[str, Crossbar]:
        layer = site.layer
        assert isinstance(layer, nn.MultiheadAttention)
        size = layer.embed_dim
        parts = {part: (part, slice(n * size, (n + 1) * size)) for n, part in enumerate(_PARTS)}
        if layer._qkv_same_embed_dim:
            return {
                part: site.crossbar("in_proj_weight", Matmul(), bias="in_proj_bias", part=parts[part])
                for part in _PARTS
            }
        bias = {part: f"in_proj_bias[{part}]" for part in _PARTS}
        return {part: site.crossbar(f"{part}_proj_weight", Matmul(), bias=bias[part]) for part in _PARTS}

    def forward(  # the signature is torch's
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        options: dict[str, Any] = {
            "key_padding_mask": key_padding_mask,
            "need_weights": need_weights,
            "attn_mask": attn_mask,
        }
        if self._idle:
            return super().forward(
                query, key, value, average_attn_weights=average_attn_weights, is_causal=is_causal, **options
            )
        if is_causal and attn_mask is None:
            raise UsageError("expected an attn_mask beside is_causal=True, as torch does")
        batched = query.dim() == 3
        # (batch, sequence, features): crossbars find the samples of a chip on the leading axis
        inputs = [self._batch_first(x, batched) for x in (query, key, value)]
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        q, k, v = (self._project(part, x) for part, x in zip(_PARTS, inputs, strict=True))
        k, v, added = self._extended(k, v)
        mask = self._mask(attn_mask, key_padding_mask, q, added)
        y, weights = self._attend(q, k, v, mask, need_weights)
        y = self.out_proj(y)
        if weights is not None:
            weights = weights.mean(dim=1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        if not batched:
            return y.squeeze(0), weights
        return (y if self.batch_first else y.transpose(0, 1)), weights

    def _batch_first(self, x: Tensor, batched: bool) -> Tensor:
        if not batched:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _project(self, part: str, x: Tensor) -> Tensor:
        """(batch, heads, sequence, features a head)."""
        return self._heads(self._product(part, x, self._weight_of(part), self._bias_of(part)))

    def _heads(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _weight_of(self, key: str) -> Tensor:
        # where weights are packed each crossbar knows its part
        found: Tensor = (
            self.in_proj_weight if self._qkv_same_embed_dim else getattr(self, f"{key}_proj_weight")
        )
        return found

    def _bias_of(self, key: str) -> Tensor | None:
        return None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[_PARTS.index(key)]

    def _extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Keys and values with the learned ones and the zeros that the layer adds, and how many those are."""
        added = 0
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self._heads(self.bias_k).expand(len(k), -1, -1, -1).to(k)], dim=2)
            v = torch.cat([v, self._heads(self.bias_v).expand(len(v), -1, -1, -1).to(v)], dim=2)
            added += 1
        if self.add_zero_attn:
            k, v = (F.pad(one, (0, 0, 0, 1)) for one in (k, v))
            added += 1
        return k, v, added

    def _mask(self, attention: Tensor | None, padding: Tensor | None, q: Tensor, added: int) -> Tensor | None:
        """Both masks as one to add to scores, (batch or 1, heads or 1, queries, keys)."""
        total: Tensor | None = None
        if attention is not None:
            by_head = attention.unflatten(0, (-1, self.num_heads)) if attention.dim() == 3 else attention
            total = F.pad(_to_add(by_head, q), (0, added))
        if padding is not None:
            keys = F.pad(_to_add(padding, q), (0, added))[:, None, None, :]
            total = keys if total is None else total + keys
        return total

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(batch, queries, features), and attention weights by head if wanted."""
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout)
            return y.transpose(1, 2).flatten(2), None
        scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        weights = F.dropout(weights, dropout) if dropout else weights
        return (weights @ v).transpose(1, 2).flatten(2), weights


def _to_add(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of numbers as it is; True in a mask of truths hides a key."""
    if mask.is_floating_point():
        return mask.to(like)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask.bool(), float("-inf"))
