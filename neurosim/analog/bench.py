"""What the crossbars of one deployed network share: which chips are on the bench, and how old they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from neurosim.analog.counting import Counter
from neurosim.analog.lot import Chips
from neurosim.devices import Device


@dataclass
class Active:
    """Chips on the bench.

    Attributes:
        chips: all that were put on.
        time_s: their age.
        part: which of them the present forward pass runs on.
        linear: probe mode: programmed weights, but no converters and no white noise.
        split: whether the inputs have been split among the chips, or repeated for them, already.
        samples: where chips ride the batch axis, how many each has; 0 where they do not.
    """

    chips: Chips
    time_s: float
    part: slice
    linear: bool = False
    split: bool = False
    samples: int = 0

    @property
    def numbers(self) -> tuple[int, ...]:
        """Chip numbers of the present forward pass."""
        return self.chips.numbers[self.part]


@dataclass
class Bench:
    """Shared by every crossbar of one network; a deep copy of the network gets its own."""

    active: Active | None = None
    observing: bool = False
    # statistics of batch normalisations are being taken, on one chip at a time
    estimating: bool = False
    # type of the numbers that are multiplied where nothing needs gradients
    products: torch.dtype = torch.float32
    # training: each chip on the bench takes its share of the batch, and not a batch of its own
    sharing: bool = False
    # training: solve the wires once, then carry that solution on until it is forgotten
    reuse_wires: bool = False
    # what passes the converters is being counted
    counter: Counter | None = None
    # forward passes of the network begun so far: how a layer that is used twice in one tells its uses apart
    passes: int = 0
    # does the network treat chips on the batch axis as an ordinary batch? by input signature
    rides: dict[tuple[object, ...], bool] = field(default_factory=dict)
    # bytes of the largest activation of one sample, by input signature
    activation_bytes: dict[tuple[object, ...], int] = field(default_factory=dict)
    # bounds of measured ranges that are passed, and of which the user has been told
    told: set[tuple[Device, str]] = field(default_factory=set)

    def __deepcopy__(self, memo: dict[int, object]) -> Bench:
        """A bench of its own, with nothing on it: chips stay on the bench of the original."""
        return Bench(
            products=self.products,
            sharing=self.sharing,
            reuse_wires=self.reuse_wires,
            rides=dict(self.rides),
            activation_bytes=dict(self.activation_bytes),
            told=set(self.told),
        )

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Reads that are no work on the inputs of the user."""
        before, self.counter = self.counter, None
        try:
            yield
        finally:
            self.counter = before

    @contextlib.contextmanager
    def use(self, part: slice, linear: bool = False, samples: int = 0) -> Iterator[Active]:
        """Run on some of the chips only, each of which has its inputs."""
        active = self.active
        assert active is not None  # only called between Deployed.on and its end
        before = active.part, active.linear, active.split, active.samples
        active.part, active.linear, active.split, active.samples = part, linear, True, samples
        try:
            yield active
        finally:
            active.part, active.linear, active.split, active.samples = before
