"""Where a training step runs: in plain numbers, or through a chip drawn for that step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol, final

from torch import Tensor, nn


class Place(Protocol):
    """Lends, for each step, the network to run."""

    @property
    def network(self) -> nn.Module:
        """The network in plain numbers: what is validated, optimised and saved."""
        ...

    def step(self, number: int) -> contextlib.AbstractContextManager[nn.Module]:
        """The network of step ``number``: same parameters, logits (batch, classes)."""
        ...

    def calibrate(self, read: Callable[[], Tensor]) -> None:
        """Fix what has to be fixed on data before the first step; ``read`` gives inputs (samples, ...)."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What :meth:`calibrate` fixed."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` gave."""
        ...


@final
class Digital:
    """Plain numbers: every step runs the network itself."""

    def __init__(self, model: nn.Module) -> None:
        self.network = model

    def step(self, number: int) -> contextlib.AbstractContextManager[nn.Module]:
        """The network."""
        return contextlib.nullcontext(self.network)

    def calibrate(self, read: Callable[[], Tensor]) -> None:
        """Nothing needs to be fixed."""

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing."""
