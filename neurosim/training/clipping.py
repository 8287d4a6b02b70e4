"""Weight clipping: no weight far from its layer's others, for the largest sets the range of conductances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from neurosim.training.method import analog_parameters, check_number


@final
@dataclass(frozen=True)
class WeightClipping:
    """W ← clip(W, μ − α·σ, μ + α·σ) after every step, μ and σ of all weights of the parameter.

    Acts on parameters with two axes or more; biases stay.

    Args:
        alpha: in standard deviations (2 in Joshi et al.; 2.5 to 3.5 in Rasch et al.).

    Source: Joshi et al., Nat. Commun. 11, 2473 (2020); Rasch et al., Nat. Commun. 14, 5282 (2023).

    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.0, 0.0], [0.0, 4.0]]))
    >>> WeightClipping(0.5).apply_(layer)
    >>> layer.weight.max().item()
    2.0
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        check_number("clip", "alpha", self.alpha, 0.0, 1e9)

    def apply_(self, model: nn.Module) -> None:
        """Clip in place; ``alpha`` 0 is no clipping."""
        if self.alpha == 0.0:
            return
        with torch.no_grad():
            for p in analog_parameters(model).values():
                if p.dim() > 1:
                    spread, mean = torch.std_mean(p)
                    p.clamp_(mean - self.alpha * spread, mean + self.alpha * spread)
