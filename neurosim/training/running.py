"""One training while it runs: batches in, gradients from a method, steps, checkpoints, exact resume.

Exact: a run that was killed at any moment and resumed ends with the bits of one that was not, given the
same device type, thread count and data.  Everything that steers it is in a checkpoint (weights, buffers,
optimiser state, torch's generator, the epoch's running sums) or a function of seed and step number.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from neurosim.errors import RunError, UsageError
from neurosim.landscape.attack import PAPER, attack_weights
from neurosim.random import Stream, stream
from neurosim.training.augmentation import Augmentation
from neurosim.training.combined import as_combined
from neurosim.training.folder import RunFolder, restore
from neurosim.training.freezing import frozen_norms
from neurosim.training.interrupt import Interrupt
from neurosim.training.method import (
    DrawsFor,
    Method,
    Step,
    analog_parameters,
    laid_out_as,
    normal_like,
)
from neurosim.training.optim import clip_adaptive_, optimizer_from, schedule_from
from neurosim.training.place import Place
from neurosim.training.settings import Progress, Settings, TrainResult
from neurosim.training.sources import Batch, Source
from neurosim.training.tally import Tally

# While weights grow, outputs outgrow ranges fixed once an epoch: the CNN on Fashion-MNIST stood at a loss of
# 2.2 for its first 180 steps, and was at 0.57 with ranges fixed anew every 25.
CALIBRATION_BATCHES = 4
CALIBRATE_EVERY = 25  # steps of an epoch
VALIDATION_DRAWS = 4  # networks with mismatched weights, where validation asks for them


@dataclass
class _State:
    """Where a run stands between two steps: all of a checkpoint that is not a tensor."""

    epoch: int = 0  # epochs done
    batch: int = 0  # batches done of the epoch under way
    step: int = 0  # steps done in all
    lr: float = 0.0  # of the last step
    samples: int = 0  # of the epoch under way
    sums: dict[str, float] = field(default_factory=dict)  # metric × samples, of the epoch under way
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float | None = None
    best_loss: float = 0.0  # of the best epoch; it breaks ties in accuracy
    seconds: float = 0.0
    averaged: int = 0  # weights that the average has taken in


def draws_for_step(seed: int, step: int) -> DrawsFor:
    """The streams of one step: "name:effect" -> stream(seed, step, name, effect).

    >>> draws_for_step(7, 3)("fc.weight:attack")
    Stream(lot=7, chip=3, name='fc.weight', effect='attack')
    """

    def draw(what: str) -> Stream:
        name, _, effect = what.rpartition(":")
        return stream(seed, step, name, effect) if name else stream(seed, step, effect, "training")

    return draw


@dataclass
class Run:
    """One training, from its first step or from a checkpoint, to its end.  Call :meth:`all` once."""

    place: Place
    train: Source
    validation: Source | None
    method: Method
    settings: Settings
    folder: RunFolder | None
    interrupt: Interrupt
    device: torch.device
    layout: torch.memory_format
    every_s: float
    progress: Callable[[Progress], None]
    teacher: nn.Module | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        settings = self.settings
        self.model = self.place.network
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = optimizer_from(
            settings.optimizer, self.parameters, settings.lr, settings.weight_decay
        )
        self.parts = as_combined(self.method)
        self.still = frozen_norms(self.model)
        self.factor = schedule_from(settings.lr_schedule)
        self.state = _State()
        self.best: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] = {}  # empty until something is averaged
        self.memory: dict[str, Tensor] = {}  # what the method keeps from step to step
        self.generators: dict[str, Tensor] = {}  # of a checkpoint within an epoch, until put back
        self.whole = True  # whether weights, generators and state describe the same moment
        self.saved = time.monotonic()
        self.origin = self.saved  # when the run would have begun, had it never stopped

    # the course of things

    def all(self) -> TrainResult:
        """Train what is left to train, and put the best weights into model and folder."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self._resume()
            try:
                while self.state.epoch < self.settings.epochs:
                    self._epoch()
            except KeyboardInterrupt:
                if self.whole:
                    self._checkpoint()
                raise
        return self._finish()

    def _epoch(self) -> None:
        state = self.state
        began, before = time.monotonic(), state.samples
        torch.manual_seed(_epoch_seed(self.settings.seed, state.epoch))
        batches = self.train.batches(state.epoch, skip=state.batch)
        self._put_back_generators()
        self._training_mode()
        while True:
            self.whole = False  # reading a batch may draw from torch's generator
            batch = next(batches, None)
            if batch is None:
                break
            self._step(batch)
            self._between_steps()
        if state.batch == 0:
            raise UsageError("training data: expected at least one batch; got none")
        self.whole = True
        row = self._row()
        self.whole = False
        seconds = time.monotonic() - began
        self._close_epoch(row, {"epoch": row["epoch"], "seconds": seconds, "samples": state.samples - before})
        self.whole = True
        self._tell({}, row)
        self.interrupt.check()

    def _step(self, batch: Batch) -> None:
        state = self.state
        x, y = self._moved(batch)
        state.lr = self.settings.lr * self.factor(self._done(), state.epoch / self.settings.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = state.lr
        self.optimizer.zero_grad(set_to_none=True)
        if state.batch % CALIBRATE_EVERY == 0:
            self.place.calibrate(self._first_inputs)
        with self.place.step(state.step) as network, self._precision():
            metrics = self.method.backward(self._asked(network, x, y))
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise RunError(
                    f"{name} became {value} in epoch {state.epoch + 1}, step {state.batch + 1}:"
                    f" try a learning rate below {state.lr:g}"
                )
        if self.settings.clip_adaptive is not None:
            clip_adaptive_(self.parameters, self.settings.clip_adaptive)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        self.optimizer.step()
        if self.parts.constraint is not None:
            self.parts.constraint.apply_(self.model)
        self._average()
        for name, value in metrics.items():
            state.sums[name] = state.sums.get(name, 0.0) + value * len(x)
        state.samples += len(x)
        state.batch += 1
        state.step += 1
        self.last = metrics

    def _asked(self, network: nn.Module, x: Tensor, y: Tensor) -> Step:
        """What the method is asked: the batch, augmented, with the teacher's opinion of it."""
        draws_for = draws_for_step(self.settings.seed, self.state.step)
        x = self.augmentation(x, draws_for).contiguous(
            memory_format=self.layout if x.dim() == 4 else torch.contiguous_format
        )
        soft = None
        if self.parts.distillation is not None and self.teacher is not None:
            soft = self.parts.distillation.soft(self.teacher, x)
        return Step(network, x, y, draws_for, self._done(), self.state.step, soft, self.memory)

    def _average(self) -> None:
        """Take the present weights and running statistics into the average, if there is one."""
        if self.parts.average is None:
            return
        share = self.parts.average.share(self.state.averaged, self._done())
        if share is None:
            return
        present = {name: tensor.detach() for name, tensor in tensors_of(self.model).items()}
        if not self.average:
            self.average = {name: tensor.clone() for name, tensor in present.items()}
        else:
            fractions = [name for name, tensor in present.items() if tensor.is_floating_point()]
            torch._foreach_lerp_([self.average[n] for n in fractions], [present[n] for n in fractions], share)
            for name in present.keys() - set(fractions):
                self.average[name].copy_(present[name])
        self.state.averaged += 1

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The average in place of the weights, as long as there is one."""
        if not self.average:
            yield
            return
        living = tensors_of(self.model)
        present = {name: tensor.detach().clone() for name, tensor in living.items()}
        restore(living, self.average, "average")
        try:
            yield
        finally:
            restore(living, present, "weights")

    @contextlib.contextmanager
    def _validating(self) -> Iterator[None]:
        """The average in evaluation mode, and torch's generators afterwards as they were before.

        Loaders draw from those when they are read, and so may networks.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        self.model.eval()
        with torch.random.fork_rng(devices=devices), torch.no_grad(), self._averaged():
            yield
        self._training_mode()

    def _between_steps(self) -> None:
        self.whole = True
        if self.folder is not None and time.monotonic() - self.saved >= self.every_s:
            self._checkpoint()
        self._tell(self.last, None)
        self.interrupt.check()

    def _row(self) -> dict[str, Any]:
        """The epoch's line: means over its samples, then validation."""
        state = self.state
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "lr": state.lr,
        }
        row |= {name: total / state.samples for name, total in state.sums.items()}
        if self.validation is not None:
            row |= self._validate(self.validation)
        return row

    def _validate(self, source: Source) -> dict[str, float]:
        """Mean cross-entropy, accuracy and, where pixels have classes, Dice; in plain numbers.

        With ``validation_mismatch`` also those of networks whose weights are off, over a few fixed draws;
        with ``validation_attack`` the accuracy with the worst weights that the paper's attack finds.
        """
        tally, mismatched = Tally(), Tally()
        with self._validating():
            others = self._mismatched()
            for batch in source.batches(0):
                x, y = self._moved(batch)
                tally.add(self.model(x), y)
                for weights in others:
                    mismatched.add(functional_call(self.model, weights, (x,)), y)
                self.interrupt.check()
        if tally.count == 0:
            raise UsageError("validation data: expected at least one batch; got none")
        if not math.isfinite(tally.loss):
            raise RunError(
                f"the validation loss became {tally.loss} after epoch {self.state.epoch + 1}:"
                f" try a learning rate below {self.settings.lr:g}"
            )
        row = {f"validation_{name}": value for name, value in tally.measures().items()}
        if mismatched.count:
            row |= {f"validation_mismatch_{name}": v for name, v in mismatched.measures().items()}
        if self.settings.validation_attack is not None:
            row["validation_attack_accuracy"] = self._attacked(source, self.settings.validation_attack)
        return row

    def _attacked(self, source: Source, zeta: float) -> float:
        """Accuracy with every batch's own worst weights in the box Θ ± ζ|Θ|."""
        with self._validating():
            found = attack_weights(
                self.model,
                [self._moved(batch) for batch in source.batches(0)],
                [zeta],
                PAPER,
                draws=0,
                seed=self.settings.seed,
                progress=lambda done, of: self.interrupt.check(),
            )
        return float(found[0].attacked.mean())

    def _mismatched(self) -> list[dict[str, Tensor]]:
        """Θ·(1 + ζ·N(0, 1)) of the analog weights, in every epoch the same few draws."""
        zeta, found = self.settings.validation_mismatch, []
        if zeta is None:
            return []
        for draw in range(VALIDATION_DRAWS):
            weights = {}
            for name, p in analog_parameters(self.model).items():
                noise = normal_like(p, stream(self.settings.seed, draw, name, "validation-mismatch"))
                weights[name] = laid_out_as(p, noise.mul_(zeta).add_(1.0).mul_(p.detach()))
            found.append(weights)
        return found

    def _close_epoch(self, row: dict[str, Any], timing: dict[str, Any]) -> None:
        state = self.state
        accuracy, loss = row.get("validation_accuracy"), _loss(row)
        score = _score(row)
        best = _score(state.history[state.best_epoch - 1]) if state.history else None
        # Small validation sets tie often; the first of equals would be an early, undertrained epoch.
        better = score is None or best is None or (score, -loss) > (best, -state.best_loss)
        if better:
            now = self.average or tensors_of(self.model)
            self.best = {name: tensor.detach().clone() for name, tensor in now.items()}
            state.best_epoch, state.best_accuracy, state.best_loss = row["epoch"], accuracy, loss
        state.history.append(row)
        state.epoch, state.batch, state.samples, state.sums = state.epoch + 1, 0, 0, {}
        if self.folder is not None:
            self.folder.append_row(row)
            self.folder.append_timing(timing)
            if better:
                self._save_model(self.folder)
            self._checkpoint()

    def _finish(self) -> TrainResult:
        state = self.state
        restore(tensors_of(self.model), self.best, "best weights")
        self.model.eval()
        self.optimizer.zero_grad(set_to_none=True)
        if self.folder is not None:
            self.folder.save_rows(state.history)
            self._save_model(self.folder)
        return TrainResult(
            history=state.history,
            best_epoch=state.best_epoch,
            best_validation_accuracy=state.best_accuracy,
            passes=self.method.passes * state.step,
            seconds=time.monotonic() - self.origin,
            path=None if self.folder is None else self.folder.path,
        )

    # small parts

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        """Products of a step in bfloat16, if that is asked; weights and optimiser stay in float32."""
        if self.settings.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _training_mode(self) -> None:
        """All modules train, but frozen normalisations: those keep their running statistics."""
        self.model.train()
        for norm in self.still:
            norm.eval()

    def _done(self) -> float:
        """The fraction of the training that is done; whole epochs only, when their length is unknown."""
        state, length = self.state, self.train.length
        return min(1.0, (state.epoch + (state.batch / length if length else 0.0)) / self.settings.epochs)

    def _moved(self, batch: Batch) -> Batch:
        x, y = (part.to(self.device) for part in batch)
        if x.dim() == 4:
            x = x.contiguous(memory_format=self.layout)
        return x, y

    def _first_inputs(self) -> Tensor:
        """Inputs of the epoch's first training batches, (samples, ...)."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_epoch_seed(self.settings.seed, self.state.epoch))
            batches = self.train.batches(self.state.epoch)
            read = [self._moved(b)[0] for _, b in zip(range(CALIBRATION_BATCHES), batches, strict=False)]
        return torch.cat(read)

    def _tell(self, metrics: dict[str, float], row: dict[str, Any] | None) -> None:
        state = self.state
        epoch = state.epoch if row is not None else state.epoch + 1
        batch = state.batch if row is None else (self.train.length or 0)
        self.progress(Progress(epoch, self.settings.epochs, batch, self.train.length, metrics, row))

    def _save_model(self, folder: RunFolder) -> None:
        facts = {"epoch": self.state.best_epoch, "validation_accuracy": self.state.best_accuracy}
        dice = self.state.history[self.state.best_epoch - 1].get("validation_dice")
        folder.save_model(self.best, facts if dice is None else {**facts, "validation_dice": dice})

    # checkpoints

    def _checkpoint(self) -> None:
        """Write all that resuming needs."""
        if self.folder is None:
            return
        self.state.seconds = time.monotonic() - self.origin
        tensors = {f"model/{name}": tensor for name, tensor in tensors_of(self.model).items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"average/{name}": tensor for name, tensor in self.average.items()}
        tensors |= {f"memory/{name}": tensor for name, tensor in self.memory.items()}
        tensors |= {f"place/{name}": tensor for name, tensor in self.place.state().items()}
        tensors["generator/cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["generator/cuda"] = torch.cuda.get_rng_state(self.device)
        for number, parameter in enumerate(self.parameters):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{number}/{key}"] = value
        self.folder.save_checkpoint(
            self.state.step, tensors, {**asdict(self.state), "batches": self.train.length}
        )
        self.saved = time.monotonic()

    def _resume(self) -> None:
        """Go to the newest checkpoint of the folder, if there is one."""
        found = None if self.folder is None else self.folder.load_checkpoint()
        if found is None or self.folder is None:
            return
        tensors, state = found
        if state.pop("batches") != self.train.length:
            raise UsageError(f"{self.folder.path} cannot be resumed with training data of another size")
        self.state = _State(**state)
        restore(tensors_of(self.model), _below(tensors, "model/"), str(self.folder.path))
        self.best = {name: tensor.to(self.device) for name, tensor in _below(tensors, "best/").items()}
        living = tensors_of(self.model)
        averaged = _below(tensors, "average/")
        self.average = {name: _like(living[name], tensor) for name, tensor in averaged.items()}
        parameters = dict(self.model.named_parameters())
        for name, tensor in _below(tensors, "memory/").items():
            parameter = parameters.get(name.partition("/")[2])
            self.memory[name] = tensor.to(self.device) if parameter is None else _like(parameter, tensor)
        self.place.load_state(_below(tensors, "place/"))
        for number, parameter in enumerate(self.parameters):
            for key, value in _below(tensors, f"optimizer/{number}/").items():
                self.optimizer.state[parameter][key] = value if key == "step" else _like(parameter, value)
        if self.state.batch > 0:
            self.generators = _below(tensors, "generator/")
        self.folder.save_rows(self.state.history)
        self.origin = time.monotonic() - self.state.seconds

    def _put_back_generators(self) -> None:
        generators, self.generators = self.generators, {}
        if "cpu" in generators:
            torch.set_rng_state(generators["cpu"])
        if "cuda" in generators and self.device.type == "cuda":
            torch.cuda.set_rng_state(generators["cuda"], self.device)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network's state, by name."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _score(row: dict[str, Any]) -> float | None:
    """What the best epoch has most of: Dice where pixels have classes, else accuracy; None without data.

    Under attack or of mismatched networks, where validation has them: a robust network is not the one that is
    best without.
    """
    kinds = ("attack_accuracy", "mismatch_dice", "mismatch_accuracy", "dice", "accuracy")
    return next((row[f"validation_{kind}"] for kind in kinds if f"validation_{kind}" in row), None)


def _loss(row: dict[str, Any]) -> float:
    """What breaks ties of the score."""
    loss: float = row.get("validation_mismatch_loss", row.get("validation_loss", 0.0))
    return loss


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _like(parameter: Tensor, stored: Tensor) -> Tensor:
    """Optimiser state with its parameter's memory layout (other layouts may round otherwise)."""
    return torch.empty_like(parameter.detach()).copy_(stored)


def _epoch_seed(seed: int, epoch: int) -> int:
    """What torch's own generator is seeded with when an epoch begins: for dropout and plain loaders."""
    high, low = stream(seed, epoch, "torch", "generator").bits(2).tolist()
    return int(high) << 31 ^ int(low)
