"""The worst inputs near given ones: attacks of torchattacks on a network, on its chips, and between them.

An attack is made on the network off any chip or on one chip, and tested there and elsewhere: does an input
that fools one chip fool another?  Sources: FGSM (Goodfellow 2015, arXiv 1412.6572), PGD (Madry 2018, arXiv
1706.06083), MI-FGSM (Dong 2018, arXiv 1710.06081), AutoAttack (Croce and Hein 2020, arXiv 2003.01690), all
as in torchattacks 3.3 (Kim 2020, arXiv 2010.01950).
"""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from neurosim.analog import Chips, Deployed
from neurosim.errors import UsageError, unknown
from neurosim.evaluation.blocks import checked, device_of, evaluation_mode
from neurosim.evaluation.passes import Loader, Passes
from neurosim.random import stream

ATTACKS = ("fgsm", "pgd", "pgd-l2", "mifgsm", "autoattack")
CLEAN, DIGITAL = "clean", "digital"
"""Where nothing was made, and the network off any chip: names of places beside the numbers of chips."""
_FEWEST_CLASSES = 4  # of AutoAttack: its targeted loss compares with the third and fourth best class
_FAR = 2.5


@final
@dataclass(frozen=True)
class InputAttack:
    """Which attack, how large, and how long it looks.

    Args:
        name: of :data:`ATTACKS`; ``fgsm``, ``pgd``, ``mifgsm`` and ``autoattack`` keep each number of an
            input within ``size``, ``pgd-l2`` the length of the whole change of a sample.
        size: ε, in units of inputs from 0 to 1.
        steps: of ``pgd``, ``pgd-l2`` and ``mifgsm``; ``fgsm`` takes one, ``autoattack`` its own.
        restarts: of the two with a random start; a sample keeps the first input that is classified wrongly
            where it was made.
        step: of one step, as a fraction of ε; by default 2.5/steps.

    >>> InputAttack("pgd", 8 / 255).steps
    10
    """

    name: str = "pgd"
    size: float = 8 / 255
    steps: int = 10
    restarts: int = 1
    step: float | None = None

    def __post_init__(self) -> None:
        if self.name not in ATTACKS:
            raise unknown("attack on inputs", str(self.name), ATTACKS)
        _check_number("size", self.size)
        for name, value in (("steps", self.steps), ("restarts", self.restarts)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"expected {name} of an attack on inputs, at least 1; got {value!r}")
        if self.step is not None:
            _check_number("step", self.step)

    @property
    def tries(self) -> int:
        """How often it is made: what has no random start need not be made again."""
        return self.restarts if self.name in ("pgd", "pgd-l2") else 1

    def on(self, network: nn.Module, classes: int) -> Callable[[Tensor, Tensor], Tensor]:
        """The attack of torchattacks on a network of inputs (samples, channels, height, width)."""
        import torchattacks as found

        alpha = self.size * (_FAR / self.steps if self.step is None else self.step)
        if self.name == "fgsm":
            return found.FGSM(network, eps=self.size)
        if self.name == "autoattack":
            if classes < _FEWEST_CLASSES:
                raise UsageError(
                    f"autoattack needs {_FEWEST_CLASSES} or more classes; the network has {classes}"
                )
            # its default seed is the time of day
            return found.AutoAttack(network, eps=self.size, n_classes=classes, seed=0)
        kind = {"pgd": found.PGD, "pgd-l2": found.PGDL2, "mifgsm": found.MIFGSM}[self.name]
        return kind(network, eps=self.size, alpha=alpha, steps=self.steps)


@final
@dataclass(frozen=True, eq=False)
class Transfer:
    """Scores of every sample, made at each place and tested at each.

    Attributes:
        attack: what was made.
        made_on: of the rows: ``clean``, ``digital``, then chips by number.
        tested_on: of the columns: ``digital``, then chips.
        scores: 1 where the class is right, else 0: (made on, tested on, samples).
    """

    attack: InputAttack
    made_on: tuple[str | int, ...]
    tested_on: tuple[str | int, ...]
    scores: Tensor

    def accuracy(self, made_on: str | int, tested_on: str | int) -> float:
        """Mean over samples."""
        return float(self.of(made_on, tested_on).mean())

    def of(self, made_on: str | int, tested_on: str | int) -> Tensor:
        """Scores (samples,) of inputs made at one place and tested at another."""
        return self.scores[self.made_on.index(made_on), self.tested_on.index(tested_on)]


def attacked_inputs(
    network: Callable[[Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    attack: InputAttack | None = None,
    *,
    seed: int = 0,
) -> Tensor:
    """Inputs near the given ones that this network classifies wrongly, where the attack finds any.

    torchattacks draws from torch's global generator; it is seeded for the call and put back behind it, so
    that equal seeds give equal bits and nobody else's draws change.

    Args:
        network: a module in the mode in which it is attacked (it is put in eval mode meanwhile), or any
            function of inputs that gives logits (samples, classes).
        inputs: (samples, ...) in [0, 1]; an attack does not leave that range.
        targets: class numbers, (samples,).
        attack: by default ``InputAttack()``.
        seed: of random starts.

    Returns:
        Of the shape of ``inputs``.  A sample whose slope is exactly 0 stays as it is.

    Raises:
        UsageError: inputs outside [0, 1] or of whole numbers; classes that do not fit the outputs.

    >>> net = nn.Linear(2, 2)
    >>> _ = net.weight.data.copy_(torch.eye(2))
    >>> x, y = torch.tensor([[0.6, 0.5]]), torch.tensor([0])
    >>> attacked_inputs(net, x, y, InputAttack("fgsm", 0.1))
    tensor([[0.5000, 0.6000]])
    """
    attack = attack or InputAttack()
    _check_inputs(inputs)
    with _still(network):
        with torch.no_grad():
            clean = checked(network(inputs)[None], 1, targets)[0]
        if attack.size == 0:
            return inputs.clone()
        with _seeded(inputs.device, seed, cuda=attack.name == "autoattack"):
            return _made(network, inputs, targets, attack, clean.shape[1])


def transfer(
    net: Deployed,
    loader: Loader,
    chips: Chips,
    attack: InputAttack | None = None,
    *,
    time_s: float = 0.0,
    made_on: Sequence[str | int] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Transfer:
    """Make the attack on the network off any chip and on chips; test each on all of them.

    A chip is attacked with its own programmed devices and converters in sight (straight-through gradients).
    White noise is another draw at every read, so an attack on a noisy chip follows noisy slopes, and it is
    tested on reads that it has not seen: those that :func:`neurosim.evaluation.evaluate` would give.

    Args:
        net: the deployed network, calibrated if its converters need it.
        loader: batches (inputs in [0, 1], class numbers), the same each time.
        chips: tested on, and made on if ``made_on`` does not say otherwise.
        attack: by default ``InputAttack()``.
        time_s: age of the chips.
        made_on: ``digital`` and numbers of these chips; by default all of them.
        seed: of random starts; batch k of the data starts alike wherever the attack is made.
        progress: called with the passes over the data that are done, and all of them.

    Returns:
        Scores, (2 + chips, 1 + chips, samples) by default: the first row is of clean inputs.

    Raises:
        UsageError: inputs outside [0, 1], classes of pixels, or a place that is neither ``digital`` nor one
            of the chips.

    >>> import neurosim as ns
    >>> net = ns.deploy(nn.Linear(4, 3), ns.hardware("gaussian-mismatch"))
    >>> data = [(torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1]))]
    >>> found = transfer(net, data, ns.Lot(net.hardware)[0:2], InputAttack("fgsm", 0.1))
    >>> found.made_on, found.tested_on, found.scores.shape
    (('clean', 'digital', 0, 1), ('digital', 0, 1), torch.Size([4, 3, 5]))
    """
    attack = attack or InputAttack()
    places = _places(made_on, chips)
    data = Passes(loader, device_of(net))
    batches = list(data.batches())
    for x, y in batches:
        _check_inputs(x)
        if y.dim() != 1:
            raise UsageError(
                "attacks on inputs need one class for each sample; these data have one for each pixel"
            )
    done, everything = 0, (1 + 2 * len(places)) * len(batches)

    def one_more() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, everything)

    rows = []
    with evaluation_mode(net):
        for place in (CLEAN, *places):
            made = _all_made(net, batches, place, chips, attack, time_s, seed, one_more)
            rows.append(_tested(net, made, chips, time_s, one_more))
    return Transfer(attack, (CLEAN, *places), (DIGITAL, *chips.numbers), torch.stack(rows))


_Batches = list[tuple[Tensor, Tensor]]


def _all_made(
    net: Deployed,
    batches: _Batches,
    place: str | int,
    chips: Chips,
    attack: InputAttack,
    time_s: float,
    seed: int,
    one_more: Callable[[], None],
) -> _Batches:
    """The data as one place makes them, batch by batch."""
    if place == CLEAN:
        return batches
    with contextlib.ExitStack() as stack:
        network: Callable[[Tensor], Tensor] = net
        if place != DIGITAL:
            on_chip = stack.enter_context(net.on(chips.lot[[int(place)]], time_s))

            def network(x: Tensor) -> Tensor:
                return on_chip(x)[0]

        made = []
        with _still(net):
            for k, (x, y) in enumerate(batches):
                start = int(stream(seed, k, "inputs", "attack").bits(1))
                made.append((attacked_inputs(network, x, y, attack, seed=start), y))
                one_more()
        return made


def _tested(
    net: Deployed, batches: _Batches, chips: Chips, time_s: float, one_more: Callable[[], None]
) -> Tensor:
    """Scores at every place, (1 + chips, samples); chips read the data from the first vector on."""
    digital, on_chips = [], []
    size = max(1, net.chip_block(batches[0][0]))
    blocks = [chips.numbers[k : k + size] for k in range(0, len(chips), size)]
    digital = [_right(net(x)[None], y) for x, y in batches]
    for block in blocks:
        with net.on(chips.lot[list(block)], time_s) as on:
            on_chips.append(torch.cat([_right(on(x), y) for x, y in batches], dim=1))
    for _ in batches:
        one_more()
    return torch.cat([torch.cat(digital, dim=1), *on_chips])


def _right(logits: Tensor, targets: Tensor) -> Tensor:
    return (checked(logits, len(logits), targets).argmax(2) == targets).double().cpu()


def _places(made_on: Sequence[str | int] | None, chips: Chips) -> tuple[str | int, ...]:
    if made_on is None:
        return DIGITAL, *chips.numbers
    for place in made_on:
        if place != DIGITAL and place not in chips.numbers:
            known = ", ".join(map(str, chips.numbers))
            raise UsageError(
                f"expected an attack to be made on {DIGITAL!r} or a chip of {known}; got {place!r}"
            )
    if len(set(made_on)) < len(made_on):
        raise UsageError(f"expected each place once; got {list(made_on)!r}")
    return tuple(made_on)


class _Pictures(nn.Module):
    """The network as torchattacks wants it: of pictures (samples, channels, height, width)."""

    def __init__(self, network: Callable[[Tensor], Tensor], shape: torch.Size, device: torch.device) -> None:
        super().__init__()
        self._network = [
            network
        ]  # in a list: not a submodule, so that its mode and parameters are left alone
        self._shape = shape
        self.place = nn.Parameter(
            torch.zeros((), device=device)
        )  # torchattacks asks a parameter for the device

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            # channels-last layers give slopes that torchattacks' .view(samples, -1) refuses
            x.register_hook(_plainly_laid_out)
        return self._network[0](x.reshape(len(x), *self._shape[1:]))


def _plainly_laid_out(slope: Tensor) -> Tensor:
    return slope.contiguous()


def _made(
    network: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor, attack: InputAttack, classes: int
) -> Tensor:
    """The attacked inputs of the best of all restarts for each sample; random numbers are seeded."""
    pictures = (inputs if inputs.dim() == 4 else inputs.reshape(len(inputs), 1, 1, -1)).contiguous()
    wrapped = _Pictures(network, inputs.shape, inputs.device).eval()
    made = attack.on(wrapped, classes)
    best = pictures.clone()
    fooled = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
    for _ in range(attack.tries):
        with torch.enable_grad(), contextlib.redirect_stdout(io.StringIO()):
            tried = made(pictures, targets).detach()
        best = torch.where(fooled.view(-1, 1, 1, 1), best, tried)
        if attack.tries > 1:
            with torch.no_grad():
                fooled |= wrapped(tried).argmax(1) != targets
    return best.reshape(inputs.shape)


def _check_inputs(inputs: Tensor) -> None:
    if not inputs.is_floating_point():
        kind = str(inputs.dtype).removeprefix("torch.")
        raise UsageError(f"attacks on inputs need numbers from 0 to 1; these inputs are of {kind}")
    low, high = float(inputs.min()), float(inputs.max())
    if not (low >= 0 and high <= 1):
        raise UsageError(
            f"attacks on inputs need numbers from 0 to 1; these go from {low:.3g} to {high:.3g}: have the "
            "network's first layer normalise them"
        )


def _check_number(name: str, value: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and 0 <= value <= 1000):  # type: ignore[operator]
        raise UsageError(f"expected 0 <= {name} of an attack on inputs <= 1000; got {value!r}")


@contextlib.contextmanager
def _still(network: Any) -> Iterator[None]:
    """The module, if it is one, in eval mode and without gradients of its own; as it was afterwards.

    With frozen weights a chip is programmed once, not anew at every step of an attack.
    """
    if not isinstance(network, nn.Module):
        yield
        return
    wanted = [p for p in network.parameters() if p.requires_grad]
    with evaluation_mode(network):
        try:
            for parameter in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in wanted:
                parameter.requires_grad_(True)


@contextlib.contextmanager
def _seeded(device: torch.device, seed: int, *, cuda: bool) -> Iterator[None]:
    """Python's, NumPy's and torch's global generators at a seed; as they were afterwards.

    Generators are seeded one by one: ``torch.manual_seed`` would also seed GPUs that nobody uses yet.
    ``cuda``: the third party seeds GPUs itself.
    """
    if cuda and torch.cuda.is_available():
        torch.cuda.init()  # else its seed would wait in a queue until somebody uses a GPU
    gpus: Iterable[int] = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    generators = [torch.default_generator, *(torch.cuda.default_generators[gpu] for gpu in gpus)]
    states = [generator.get_state() for generator in generators]
    numbers, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        for generator in generators:
            generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        np.random.set_state(numbers)  # noqa: NPY002
        random.setstate(python)
