"""Train a network: the one function, and the checks of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from neurosim.errors import UsageError
from neurosim.training.augmentation import Augmentation
from neurosim.training.catalogue import describe, method_from, patterns_of
from neurosim.training.combined import as_combined
from neurosim.training.folder import RunFolder, restore
from neurosim.training.freezing import frozen
from neurosim.training.interrupt import put_off
from neurosim.training.method import Method, analog_parameters
from neurosim.training.optim import optimizer_from, schedule_from
from neurosim.training.place import Digital, Place, ThroughChips
from neurosim.training.running import Run, tensors_of
from neurosim.training.settings import Progress, Settings, TrainResult, check_number
from neurosim.training.sources import both

if TYPE_CHECKING:
    from neurosim.devices import Hardware


def train(
    model: nn.Module,
    loaders: Any,
    *,
    method: Method | str = "standard",
    epochs: int,
    out: str | Path | None = None,
    resume: bool = False,
    hardware: Hardware | None = None,
    chips_per_batch: int | None = None,
    seed: int = 0,
    optimizer: str = "adam",
    lr: float = 1e-3,
    lr_schedule: str = "constant",
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    clip_adaptive: float | None = None,
    freeze: Sequence[str] = (),
    autocast: str | None = None,
    augment: Mapping[str, Any] | None = None,
    teacher: nn.Module | None = None,
    validation_mismatch: float | None = None,
    validation_attack: float | None = None,
    device: str = "auto",
    checkpoint_every_s: float = 30.0,
    config: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train a network in place; it ends with the weights of its best epoch, in evaluation mode.

    Args:
        model: float logits (batch, classes) for inputs (batch, ...), or (batch, classes, ...) where each
            pixel has a class; the loss is then the mean over pixels.  It is moved to ``device``, and to
            channels-last memory if it has a ``Conv2d``.
        loaders: ``.train`` and ``.validation`` (an object, a dict, or a pair) of batches (inputs, int64
            targets, (batch,) or a class for each pixel).  A loader with ``.epoch(number)`` gives the order of
            each epoch itself.  Best is the epoch with the highest validation accuracy (validation Dice where
            pixels have classes; of equals that with the lowest loss, then the first), of mismatched networks
            where ``validation_mismatch`` asks for them, under attack where ``validation_attack`` does;
            the last without validation.
        method: an object of ``neurosim.training.METHODS``, a :class:`Method` of your own, or a name.
        epochs: how often to read the training data.
        out: the run's folder; None keeps everything in memory.  Holds ``training.toml`` (these settings),
            ``config.toml`` (``config``, if given), ``metrics.jsonl`` (a row an epoch, equal bits when
            repeated), ``timing.jsonl`` (the clock), ``model.safetensors`` (best) and ``checkpoints/``
            (the last two, with all that resuming needs).
        resume: go on with the run in ``out``; begin if there is none; return at once if it is finished.
        hardware: train through sampled chips: step *s* runs on chip *s* of ``Lot(hardware, seed)``,
            validation in plain numbers.  Converter ranges are fixed anew every 25 steps.
        chips_per_batch: chips of ``hardware`` that share each batch, each a part of the samples: *k* new ones
            a step, chips *s·k* … *s·k + k − 1* in step *s* (the most that divide a batch evenly).
            None: one chip a step.
        seed: of every draw: the method's noise, chips, and torch's generator for dropout and plain loaders.
        optimizer: ``adam``, ``adamw`` or ``sgd`` (Nesterov momentum 0.9).
        lr: learning rate.
        lr_schedule: ``constant``, ``cosine``, ``paper-step`` or ``step-0.75``, see :func:`schedule_from`.
        weight_decay: as the optimiser understands it.
        clip_norm: largest l2 norm of the whole gradient; None for no limit.
        clip_adaptive: largest l2 norm of the gradient of each unit relative to that of its weights, see
            :func:`neurosim.training.optim.clip_adaptive_`; None for no limit.
        freeze: patterns of parameter names, such as ``trunk.*``: these parameters are not trained, and
            methods neither disturb nor attack them; batch normalisations whose parameters are all frozen
            keep their running statistics.  What ``requires_grad`` False freezes already is treated the same.
        autocast: ``bfloat16``: forward and backward passes of training under torch's autocast, on processors
            that have it; losses, weights, optimiser and validation stay in float32.  None: float32.
        augment: how each batch is altered before it is trained on, such as ``{"flip": True, "shift": 2}``:
            see :class:`Augmentation`.  None: not at all.
        teacher: the network whose opinion the method ``distil`` takes in; moved to ``device``.
        validation_mismatch: ζ; validation then also runs four networks of weights Θ·(1 + ζ·N(0, 1)), the same
            in every epoch, and the best epoch is the one that is best on those.  Without it training with
            noise that grows ends with an early epoch: the best in plain numbers.
        validation_attack: ζ; validation then also attacks the weights in the box Θ ± ζ|Θ|, batch by batch as
            :data:`neurosim.landscape.attack.PAPER` does, and the best epoch is the one that keeps most.  11
            forward-and-backward passes over the validation data an epoch.
        device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:1``.
        checkpoint_every_s: seconds between checkpoints within an epoch; each epoch's end has one too.
        config: whatever else describes the run, for ``config.toml``.
        progress: called after every step and every epoch.

    Raises:
        UsageError: a wrong argument, empty data, a folder that is not ours or holds another run.
        RunError: the loss is not finite, or a file could not be written or read.
        KeyboardInterrupt: after a checkpoint, when Ctrl-C was pressed.

    >>> layer = nn.Linear(2, 2)
    >>> data = [(torch.eye(2), torch.tensor([0, 1]))]
    >>> result = train(layer, (data, data), epochs=50, lr=0.1)
    >>> result.best_validation_accuracy, result.passes
    (1.0, 50.0)
    """
    train_source, validation_source = both(loaders)
    chosen = method_from(method) if isinstance(method, str) else method
    settings = Settings(
        method=describe(chosen),
        epochs=epochs,
        seed=seed,
        optimizer=optimizer,
        lr=lr,
        lr_schedule=lr_schedule,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        clip_adaptive=clip_adaptive,
        hardware=None if hardware is None else hardware.model_dump(mode="json"),
        chips_per_batch=1 if chips_per_batch is None else chips_per_batch,
        freeze=tuple(freeze),
        autocast=autocast,
        augment=None if augment is None else dict(augment),
        validation_mismatch=validation_mismatch,
        validation_attack=validation_attack,
    )
    check_number("checkpoint_every_s", checkpoint_every_s, least=0.0)
    optimizer_from(
        optimizer, [nn.Parameter(torch.zeros(()))], lr, weight_decay
    )  # names are wrong before a folder is made
    schedule_from(lr_schedule)
    where = torch_device(device)
    if autocast is not None and where.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        raise UsageError("this processor has no bfloat16 products (avx512_bf16): leave out train.autocast")
    alteration = Augmentation.of(augment)
    taught = as_combined(chosen).distillation
    if taught is not None and taught.alpha > 0.0 and teacher is None:
        raise UsageError(
            "method 'distil' needs a teacher: a run's folder (--set method.teacher=RUN), or teacher=..."
        )
    with frozen(model, settings.freeze):
        _check_model(model)
        analog_parameters(model, patterns_of(chosen))  # patterns are wrong before a folder is made
        layout = _move(model, where)
        if teacher is not None:
            _move(teacher.eval(), where)
        place: Place = (
            Digital(model)
            if hardware is None
            else ThroughChips(model, hardware, seed, settings.chips_per_batch)
        )
        held = nullcontext(None) if out is None else RunFolder.held(out, settings.described(), config, resume)
        with held as folder, put_off() as interrupt:
            run = Run(
                place=place,
                train=train_source,
                validation=validation_source,
                method=chosen,
                settings=settings,
                folder=folder,
                interrupt=interrupt,
                device=where,
                layout=layout,
                every_s=checkpoint_every_s,
                progress=progress or _silent,
                teacher=teacher,
                augmentation=alteration,
            )
            result = run.all()
    if place.network is not model:
        restore(tensors_of(model), run.best, "best weights")
        model.eval()
    return result


def _silent(progress: Progress) -> None:
    """The progress callback of those who gave none."""


def torch_device(name: str) -> torch.device:
    """The device of that name, ``auto`` included; UsageError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"expected device 'auto', 'cpu', 'cuda' or 'cuda:N'; got {name!r} ({reason})"
        ) from error
    return device


def _check_model(model: nn.Module) -> None:
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError(f"expected a network with parameters to train; {type(model).__name__} has none")
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise UsageError(f"expected finite parameters; {name!r} holds NaN or infinity")


def _move(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Put the network on its device, convolutions in channels-last; the layout for its inputs."""
    convolutions = any(isinstance(module, nn.Conv2d) for module in model.modules())
    layout = torch.channels_last if convolutions else torch.contiguous_format
    model.to(device=device)
    if convolutions:
        model.to(memory_format=layout)  # type: ignore[call-overload]
    return layout
