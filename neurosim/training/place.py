"""Where a training step runs: in plain numbers, or through a chip drawn for that step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, final

from torch import Tensor, nn

if TYPE_CHECKING:
    from neurosim.devices import Hardware


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
        """Fix what has to be fixed on data every few steps; ``read`` gives training inputs (samples, ...)."""
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


@final
class ThroughChips:
    """Step *s* runs on freshly programmed chips of ``Lot(hardware, seed)``: chip *s*, or, with several
    ``chips_per_batch`` = *k*, each *k*-th of the batch on one of the chips *s·k* … *s·k + k − 1*.

    The gradient passes through the chip (converters straight-through) to the ideal weights.  Converter
    ranges are fixed anew every few steps, for the weights move.  Wires are solved exactly in every
    ``hardware.wires.reuse_steps``-th step; between, that solution is carried on (``Deployed.reuse_wires``).
    """

    def __init__(self, model: nn.Module, hardware: Hardware, seed: int, chips_per_batch: int = 1) -> None:
        from neurosim.analog import Lot, deploy

        self.network = self._net = deploy(model, hardware)
        self._lot = Lot(hardware, seed)
        self._chips = chips_per_batch
        if chips_per_batch > 1:
            self._net.share_batches()
        wired = any(variant.wires.act for variant in hardware.variants())
        self._solve_every = hardware.wires.reuse_steps if wired else 1
        if self._solve_every > 1:
            self._net.reuse_wires()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[nn.Module]:
        """The deployed network with chips on its bench: as a module it returns the logits of the batch."""
        if self._solve_every > 1 and number % self._solve_every == 0:
            self._net.forget_wires()
        with self._net.on(self._lot[number * self._chips : (number + 1) * self._chips]):
            yield self._net

    def calibrate(self, read: Callable[[], Tensor]) -> None:
        """Fix converter ranges with the present weights."""
        self._net.calibrate(read())

    def state(self) -> dict[str, Tensor]:
        """Converter ranges, and the solution of the wires that is carried on."""
        ranges = {f"ranges/{name}": tensor for name, tensor in self._net.calibration_state().items()}
        return ranges | {f"wires/{name}": tensor for name, tensor in self._net.wire_state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Both from a checkpoint."""
        parts: dict[str, dict[str, Tensor]] = {"ranges": {}, "wires": {}}
        for name, tensor in state.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self._net.load_calibration_state(parts["ranges"])
        self._net.load_wire_state(parts["wires"])
