"""Dropout on the outputs of every hidden crossbar."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from neurosim.random import Stream
from neurosim.training.method import Step, analog_parameters, check_number
from neurosim.training.standard import Standard


@final
@dataclass(frozen=True)
class Dropout:
    """L = cross-entropy(f(Θ, X; m), y): a hidden output is 0 with probability p, else 1/(1 − p) times.

    Hidden layers are all modules that hold weights of a crossbar but the last of them (in the order in
    which the network lists them).  Before a ReLU it is the same as after it.

    Args:
        p: probability of a zero (0.3 in the weight-attack paper).

    Source: Srivastava et al., JMLR 15, 2014; a rival in Büchel et al., ICLR 2022.

    >>> Dropout(0.5).passes
    1.0
    """

    p: float = 0.3

    def __post_init__(self) -> None:
        check_number("dropout", "p", self.p, 0.0, 0.99)

    @property
    def passes(self) -> float:
        """One."""
        return 1.0

    def backward(self, step: Step) -> dict[str, float]:
        """Add ∂L/∂Θ to the gradients; see :class:`neurosim.training.method.Method`."""
        if self.p == 0.0:
            return Standard().backward(step)
        with self._thinned(step):
            return Standard().backward(step)

    @contextlib.contextmanager
    def _thinned(self, step: Step) -> Iterator[None]:
        owners = list(dict.fromkeys(name.rpartition(".")[0] for name in analog_parameters(step.model)))
        modules = dict(step.model.named_modules())
        with contextlib.ExitStack() as stack:
            for name in owners[:-1]:
                handle = modules[name].register_forward_hook(self._hook(step, name))
                stack.callback(handle.remove)
            yield

    def _hook(self, step: Step, name: str) -> Any:
        uses = 0

        def thin(module: nn.Module, args: Any, output: Any) -> Any:
            nonlocal uses
            if not isinstance(output, Tensor):  # a recurrent layer's tuple
                return output
            kept = self._kept(step.draws_for(f"{name}#{uses}:dropout"), output.detach())
            uses += 1
            return output * kept

        return thin

    def _kept(self, draws: Stream, output: Tensor) -> Tensor:
        """0 or 1/(1 − p) for each output, in its type and layout, from 16 random bits: p is met to 2⁻¹⁶."""
        count, shape = output.numel(), list(output.shape)
        words = draws.bits(-(-count // 2), device=str(output.device)).to(torch.int32)
        drawn = words.view(torch.int16)[:count] >= round(self.p * 2**16) - 2**15
        # of images the channels are drawn last, as they lie in training: the same in either layout
        drawn = (
            drawn.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1) if len(shape) > 3 else drawn.view(shape)
        )
        return torch.empty_like(output).copy_(drawn).mul_(1.0 / (1.0 - self.p))
