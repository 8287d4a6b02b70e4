"""A network on chips: one call runs a batch on every chip."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neurosim.analog.bench import Active
from neurosim.analog.crossbar import ContractError
from neurosim.analog.inputs import Inputs, equal, joined
from neurosim.analog.limits import heed_age
from neurosim.analog.lot import Chips
from neurosim.analog.statistics import check_norms, keep_statistics
from neurosim.devices.device import check_time
from neurosim.errors import UsageError

if TYPE_CHECKING:
    from neurosim.analog.deployed import Deployed

# Samples are split so that one activation stays below this (measured, benchmarks/engine.py).
PIECE_BYTES = 32 << 20


class OnChips:
    """A network on chips, inside ``with net.on(chips) as on_chips``.

    ``on_chips(x)`` runs a shared batch (batch, …) on every chip and returns (chips, batch, …) for
    every tensor the network returns, alone or in tuples, lists and dictionaries; numbers, text and None
    among them are passed on.  Chips ride the batch axis when the network treats that axis as an ordinary
    batch (checked once on two samples); else, and always in training mode, whose batch statistics would
    mix the chips, they run one at a time, with equal numbers.

    Networks of several inputs are called as always: ``on_chips(x, mask=m)``.  The first tensor says how large
    the batch is; every tensor whose first axis is as long carries the batch.

    White noise is indexed by the vectors that a layer has read since the last :meth:`age`, each of its
    uses in one forward pass apart: results do not depend on batch size as long as that does not change
    how often a layer is used.
    """

    def __init__(self, net: Deployed) -> None:
        self._net = net

    @property
    def chips(self) -> Chips:
        """The chips that are on."""
        return self._active.chips

    @property
    def time_s(self) -> float:
        """Their age in seconds."""
        return self._active.time_s

    @property
    def _active(self) -> Active:
        active = self._net._bench.active
        if active is None:
            raise UsageError("the chips are off the bench: use them inside their with block")
        return active

    def age(self, time_s: float) -> None:
        """Move the same programmed chips to another age; white noise starts anew."""
        self._active.time_s = check_time(time_s) + 0.0  # -0.0 is the same age as 0.0
        heed_age(self._net.hardware, self._active.time_s, self._net._bench.told)
        self._net._reset(keep_devices=True)
        self._with_statistics()

    def _with_statistics(self) -> OnChips:
        """After re-estimating what the network was told to re-estimate."""
        if (given := self._net.statistics_inputs) is not None:
            args, kwargs = given
            self.reestimate_batchnorm(*args, **kwargs)
        return self

    def reestimate_batchnorm(self, *args: Any, **kwargs: Any) -> None:
        """Give every batch normalisation the mean and variance that its inputs have on each chip.

        As if each chip had been trained for one step of momentum 1 with these inputs; weights stay.  They
        hold until the chips leave the bench, :meth:`age` included: estimate again to follow it.

        Args:
            args, kwargs: inputs of the network (samples, …), from the training data; a few hundred.

        Raises:
            UsageError: the network has no batch normalisation left (folded ones belong to their layers).
        """
        active = self._active
        inputs = Inputs.of(args, kwargs)
        check_norms(self._net)
        keep_statistics(self._net, self._net._bench)
        before = self._net._vectors_read()
        self._net._bench.estimating = True
        try:
            with torch.no_grad():
                for k in range(active.part.start, active.part.stop):
                    self._net._set_vectors_read(before)
                    with self._net._bench.use(slice(k, k + 1), active.linear):
                        inputs.call(self._net)
        finally:
            self._net._bench.estimating = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs of every chip for the shared batch.

        Raises:
            UsageError: the network returns something other than the above, or holds NaN weights.
        """
        inputs = Inputs.of(args, kwargs)
        if not self._rides(inputs):
            return self._one_by_one(inputs)
        step = self._samples_per_piece(inputs)
        if inputs.samples <= step:
            return self._together(inputs)
        # Pieces whose activations stay in cache, and in memory that the allocator can use again.
        outputs = [self._together(piece) for piece in inputs.pieces(step)]
        return joined(lambda ys: torch.cat(ys, dim=1), outputs)

    def samples_per_piece(self, *args: Any, **kwargs: Any) -> int:
        """How many samples of such inputs go through the network at a time."""
        return self._samples_per_piece(Inputs.of(args, kwargs))

    def _samples_per_piece(self, inputs: Inputs) -> int:
        if torch.is_grad_enabled():
            return max(1, inputs.samples)  # the graph keeps every activation: nothing would be gained
        # Not a function of how many chips are on: a chip's products must keep their shapes, and with them
        # their rounding, whatever chips run beside it.
        return max(1, PIECE_BYTES // self._net._activation_bytes(inputs))

    def _together(self, inputs: Inputs) -> Any:
        active = self._active
        count = len(active.numbers)
        with self._net._bench.use(active.part, active.linear, inputs.samples):
            found = inputs.repeated(count).call(self._net)
        return joined(lambda ys: ys[0].unflatten(0, (count, ys[0].shape[0] // count)), [found])

    def _one_by_one(self, inputs: Inputs) -> Any:
        part = self._active.part
        before = self._net._vectors_read()
        outputs = []
        for k in range(part.start, part.stop):
            self._net._set_vectors_read(before)  # every chip reads the same vectors
            with self._net._bench.use(slice(k, k + 1), self._active.linear):
                outputs.append(inputs.call(self._net))
        return joined(torch.stack, outputs)

    def _rides(self, inputs: Inputs) -> bool:
        """Whether chips and samples may share and split axis 0."""
        if self._net.training:
            return False  # batch statistics and dropout would couple chips and samples
        rides = self._net._bench.rides
        chips, samples = min(2, len(self._active.numbers)), min(2, inputs.samples)
        signature = (chips, samples, inputs.signature())
        if chips * samples < 2:
            return False  # one sample on one chip: nothing to split
        if signature not in rides:
            warned = not all(rides.values())
            rides[signature] = self._probe(inputs.only(slice(0, 2)), chips)
            if not rides[signature] and not warned:
                warnings.warn(
                    "this network does not treat axis 0 as an ordinary batch: chips run one at a time",
                    stacklevel=3,
                )
        return rides[signature]

    def _probe(self, inputs: Inputs, chips: int) -> bool:
        """Do two chips and samples together give what they give apart, without noise and converters?"""
        before = self._net._vectors_read()
        start = self._active.part.start
        try:
            with torch.no_grad(), self._net._bench.use(slice(start, start + chips), linear=True):
                together = self._together(inputs)
                apart = [self._one_by_one(sample) for sample in inputs.pieces(1)]
                return equal(together, joined(_side_by_side, apart))
        except UsageError:
            raise
        except (ContractError, RuntimeError, ValueError, IndexError, TypeError, AssertionError):
            return False
        finally:
            self._net._set_vectors_read(before)


def _side_by_side(ys: list[Tensor]) -> Tensor:
    return torch.cat(ys, dim=1)
