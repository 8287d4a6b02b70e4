"""A layer of spiking neurons over all steps as one operation of torch: ``integrate``.

The operation is a custom operator: autograd, ``torch.func``, ``torch.compile``, the meta device and the
counter of multiply-accumulates see one node, whatever runs inside: for float32 numba's kernels on the CPU and
Triton's on a GPU, and torch elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from neurosim.errors import UsageError
from neurosim.models.spiking import loops
from neurosim.models.spiking.constants import Constants, Flag, Row, State
from neurosim.models.spiking.surrogates import KINDS, Surrogate

Engine = Literal["auto", "torch"]
_NAMESPACE = "neurosim"
_TRITON = importlib.util.find_spec("triton") is not None  # comes with torch for CUDA on Linux


@dataclass(frozen=True)
class Record:
    """What a layer did, each (samples, steps, N), without gradients.

    Attributes:
        spikes: 0 or 1.
        potentials: before the reset that a spike causes.
        inputs: what arrived, recurrent spikes included.
        currents: of the synapse; the inputs where there is none.
        thresholds: the level that the potential had to pass.
    """

    spikes: Tensor
    potentials: Tensor
    inputs: Tensor
    currents: Tensor
    thresholds: Tensor


def integrate(
    currents: Tensor,
    constants: Constants,
    weight: Tensor | None = None,
    delays: Tensor | None = None,
    *,
    engine: Engine = "auto",
) -> Tensor:
    """Spikes of a layer of neurons, recurrently connected or not, from its input currents at all steps.

    The recurrence is that of :mod:`neurosim.models.spiking.constants`, with u[t] = currents[t] + W·s[t − d].
    Sums over spikes add a row of the weight for each spike (in the kernels, float32): a network that is
    mostly silent costs little.  Gradients go back in time by hand, also to the weight and the constants.

    Args:
        currents: (samples, steps, N); where chips differ, (chips · batch, steps, N).
        constants: of the neurons; chips differ where ``values`` is (chips, rows, N).
        weight: (N, N), to a neuron from each neuron, or (chips, N, N).
        delays: steps that the spikes of each neuron take, at least 1, (N,) or (chips, N); 1 where None.
        engine: ``"torch"`` never runs the kernels.

    Returns:
        (samples, steps, N), 0 or 1, of the type of ``currents``.

    Raises:
        UsageError: shapes that do not fit.

    >>> from neurosim.models.spiking import Lif
    >>> s = integrate(torch.full((2, 50, 3), 1.5), Lif(tau_mem_s=0.02).constants(3))
    >>> s.sum(1)
    tensor([[2., 2., 2.],
            [2., 2., 2.]])
    """
    prepared = _prepared(currents, constants, weight, delays)
    needed = torch.is_grad_enabled() and any(
        _followed(one) for one in (currents, prepared.weight, prepared.values)
    )
    spikes = prepared.call(engine, needed, needed and _followed(prepared.values))[0]
    return spikes.flatten(0, 1).to(currents.dtype)


def _followed(x: Tensor) -> bool:
    """Whether anybody takes a gradient, also outside of a ``torch.vmap`` around us, which does not say so."""
    if x.requires_grad or not torch._C._functorch.is_batchedtensor(x):
        return x.requires_grad
    return _followed(torch._C._functorch.get_unwrapped(x))


def record(
    currents: Tensor, constants: Constants, weight: Tensor | None = None, delays: Tensor | None = None
) -> Record:
    """The same with everything on the way, for pictures; arguments as of :func:`integrate`.

    >>> from neurosim.models.spiking import Lif
    >>> r = record(torch.ones(1, 3, 1), Lif(tau_mem_s=0.02).constants(1))
    >>> [round(v, 3) for v in r.potentials.flatten().tolist()]
    [0.049, 0.095, 0.139]
    """
    with torch.no_grad():
        prepared = _prepared(currents, constants, weight, delays)
        spikes, _, v, b, inputs, synaptic = prepared.call("auto", True, True)
        level = prepared.values[:, Row.THRESHOLD, None, None].expand_as(v)
        if constants.flags & Flag.ADAPTIVE:
            level = level + prepared.values[:, Row.ADA_GAIN, None, None] * b
        through = synaptic if constants.flags & Flag.SYNAPSE else inputs
    return Record(*(one.detach().flatten(0, 1) for one in (spikes, v, inputs, through, level)))


@dataclass(frozen=True)
class _Prepared:
    """Arguments with an axis of chips everywhere."""

    currents: Tensor
    weight: Tensor
    values: Tensor
    blocked: Tensor
    delays: Tensor
    flags: Flag
    surrogate: Surrogate

    def call(self, engine: Engine, keep: bool, keep_inputs: bool) -> tuple[Tensor, ...]:
        if engine not in ("auto", "torch"):
            raise UsageError(f"expected engine to be 'auto' or 'torch'; got {engine!r}")
        s = self.surrogate
        found: Any = _run(_layer, _layer_transformed)(
            self.currents, self.weight, self.values, self.blocked, self.delays, int(self.flags), s.number,
            s.height,
            s.steepness, keep, keep_inputs, engine == "torch",
        )  # fmt: skip
        return cast("tuple[Tensor, ...]", found)


def _prepared(currents: Tensor, k: Constants, weight: Tensor | None, delays: Tensor | None) -> _Prepared:
    if currents.dim() != 3:
        raise UsageError(f"expected currents (samples, steps, neurons); got {tuple(currents.shape)}")
    dtype = torch.promote_types(currents.dtype, torch.float32)
    size, device = currents.shape[2], currents.device
    ones = torch.ones(size, dtype=torch.int32, device=device) if delays is None else delays
    wide = [k.values, torch.empty(0, 0, device=device) if weight is None else weight, k.blocked, ones]
    values, matrix, blocked, steps = (
        one if one.dim() == full else one.unsqueeze(0) for one, full in zip(wide, (3, 3, 2, 2), strict=True)
    )
    chips = max(values.shape[0], matrix.shape[0], blocked.shape[0], steps.shape[0])
    if values.shape[-1] != size or (weight is not None and tuple(matrix.shape[1:]) != (size, size)):
        raise UsageError(
            f"expected currents, constants and weight of as many neurons; got {size}, {values.shape[-1]} and "
            f"{'none' if weight is None else tuple(matrix.shape[1:])}"
        )
    if currents.shape[0] % chips:
        raise UsageError(f"expected samples of {chips} chips; got {currents.shape[0]} of them")
    flags = k.flags | (Flag.DELAYED if delays is not None else Flag.NONE)
    flags |= Flag.RELATIVE if k.surrogate.relative else Flag.NONE
    return _Prepared(
        currents.to(dtype).unflatten(0, (chips, currents.shape[0] // chips)),
        matrix.to(dtype).expand(chips, -1, -1),
        values.to(dtype).expand(chips, -1, -1),
        blocked.to(torch.int32).expand(chips, -1),
        steps.to(torch.int32).expand(chips, -1),
        flags,
        k.surrogate,
    )


def _surrogate(kind: int, height: float, steepness: float, flags: int) -> Surrogate:
    return Surrogate(list(KINDS)[kind], height, steepness, bool(flags & Flag.RELATIVE))


def _compiled(x: Tensor, torch_only: bool) -> bool:
    """Whether the kernels compute it."""
    return not torch_only and x.device.type == "cpu" and x.dtype == torch.float32


def _steps(x: Tensor, torch_only: bool) -> Any:
    """Who runs the steps where the kernels for the CPU do not: those for a GPU, or torch."""
    if torch_only or x.device.type != "cuda" or not _TRITON:
        return loops
    from neurosim.models.spiking import gpu_kernels

    return gpu_kernels if gpu_kernels.takes(x) else loops


@torch.library.custom_op(f"{_NAMESPACE}::spiking_layer", mutates_args=())
def _layer(
    currents: Tensor,
    weight: Tensor,
    constants: Tensor,
    blocked: Tensor,
    delays: Tensor,
    flags: int,
    kind: int,
    height: float,
    steepness: float,
    keep: bool,
    keep_inputs: bool,
    torch_only: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    if not blocked.any():  # a refractory time of 0 in a tensor: what it costs is saved
        flags &= ~Flag.REFRACTORY
    if not _compiled(currents, torch_only):
        out = _rooms(currents, flags, keep, keep_inputs, time_first=True)
        _steps(currents, torch_only).forward(currents, weight, constants, blocked, delays, Flag(flags), out)
        return out
    from neurosim.models.spiking import kernels
    from neurosim.random import follow_torch_threads

    out = _rooms(currents, flags, keep, keep_inputs)
    arrays = [one.numpy() for one in out]
    follow_torch_threads()
    kernels.forward(
        _array(currents), _array(weight.transpose(1, 2)), _array(constants), _array(blocked), _array(delays),
        flags,
        *arrays,
    )  # fmt: skip
    return out


@_layer.register_fake
def _(
    currents: Tensor,
    weight: Tensor,
    constants: Tensor,
    blocked: Tensor,
    delays: Tensor,
    flags: int,
    kind: int,
    height: float,
    steepness: float,
    keep: bool,
    keep_inputs: bool,
    torch_only: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _rooms(currents, flags, keep, keep_inputs, time_first=not _compiled(currents, torch_only))


def _rooms(
    currents: Tensor, flags: int, keep: bool, keep_inputs: bool, time_first: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Room for spikes, codes, potentials, adaptations, inputs, synaptic currents: no steps where not kept.

    In memory samples lie one after the other, as kernels compute them, or steps, as torch does.
    """
    chips, samples, steps, size = currents.shape

    def room(wanted: bool, dtype: torch.dtype = currents.dtype) -> Tensor:
        long = steps if wanted else 0
        if time_first:
            return currents.new_empty((long, chips, samples, size), dtype=dtype).permute(1, 2, 0, 3)
        return currents.new_empty((chips, samples, long, size), dtype=dtype)

    return (
        room(True),
        room(keep or not time_first, torch.uint8),
        room(keep),
        room(keep and bool(flags & Flag.ADAPTIVE)),
        room(keep_inputs),
        room(keep_inputs and bool(flags & Flag.SYNAPSE)),
    )


def _array(x: Tensor) -> Any:
    return x.detach().contiguous().numpy()


@cache
def blas_address() -> int:
    """Where torch's own ``sgemm_`` lies, for kernels to call it inside a thread; 0 where it cannot be had.

    It is MKL's, which computes in one thread when it is called from a thread of the OpenMP pool that it
    shares with numba; with another pool each call would start threads of its own.
    """
    from numba.np.ufunc.parallel import threading_layer

    if not torch.backends.mkl.is_available() or threading_layer() != "omp":
        return 0
    with contextlib.suppress(OSError, AttributeError, ValueError):
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(library.sgemm_, ctypes.c_void_p).value or 0
    return 0


@torch.library.custom_op(f"{_NAMESPACE}::spiking_layer_backward", mutates_args=())
def _layer_backward(
    grad_spikes: Tensor,
    weight: Tensor,
    constants: Tensor,
    blocked: Tensor,
    delays: Tensor,
    codes: Tensor,
    potentials: Tensor,
    adaptations: Tensor,
    inputs: Tensor,
    synaptic: Tensor,
    flags: int,
    kind: int,
    height: float,
    steepness: float,
    wants_weight: bool,
    wants_constants: bool,
    torch_only: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    kept = (codes, potentials, adaptations, inputs, synaptic)
    if not blocked.any():
        flags &= ~Flag.REFRACTORY
    if not _compiled(grad_spikes, torch_only):
        wanted = (True, wants_weight, wants_constants)
        surrogate = _surrogate(kind, height, steepness, flags)
        found = _steps(grad_spikes, torch_only).backward(
            grad_spikes, weight, constants, delays, Flag(flags), surrogate, kept, wanted
        )
        return found[0], found[1].clone(), found[2].clone()
    from neurosim.models.spiking import kernels
    from neurosim.random import follow_torch_threads

    chips, samples, _, size = grad_spikes.shape
    rows = size if wants_weight and weight.shape[1] else 0
    tasks = kernels.groups(samples)
    grad_currents = torch.empty_like(grad_spikes, memory_format=torch.contiguous_format)
    grad_weight_t = grad_spikes.new_zeros(tasks, chips, rows, size)
    grad_constants = grad_spikes.new_zeros(chips, samples, len(Row) if wants_constants else 0, size)
    longest = int(delays.max()) if flags & Flag.DELAYED and delays.numel() else 1
    numbers = [grad_spikes.new_tensor([one]).numpy() for one in (height, steepness)]
    follow_torch_threads()
    kernels.backward(
        _array(grad_spikes), _array(weight), _array(constants), _array(delays), longest, flags, kind,
        *numbers,
        *(_array(one) for one in kept), grad_currents.numpy(), grad_weight_t.numpy(), grad_constants.numpy(),
        blas_address(),
    )  # fmt: skip
    grad_weight = grad_weight_t.sum(0).transpose(1, 2).contiguous()
    return grad_currents, grad_weight, grad_constants.sum(1)


@_layer_backward.register_fake
def _(
    grad_spikes: Tensor,
    weight: Tensor,
    constants: Tensor,
    blocked: Tensor,
    delays: Tensor,
    codes: Tensor,
    potentials: Tensor,
    adaptations: Tensor,
    inputs: Tensor,
    synaptic: Tensor,
    flags: int,
    kind: int,
    height: float,
    steepness: float,
    wants_weight: bool,
    wants_constants: bool,
    torch_only: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    chips, _, _, size = grad_spikes.shape
    rows = size if wants_weight and weight.shape[1] else 0
    return (
        torch.empty_like(grad_spikes),
        weight.new_empty(chips, rows, rows or size),
        constants.new_empty(chips, len(Row) if wants_constants else 0, size),
    )


def _transformed(operation: Any, remember: Any, propagate: Any) -> Any:
    """The operation for inside ``torch.func``, which does not know gradients that are registered."""

    class Transformed(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Any:
            return operation(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            remember(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return propagate(ctx, *grads)

    return Transformed.apply


def _nothing_to_remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _no_second_derivative(ctx: Any, *grads: Any) -> Any:
    raise UsageError("expected first derivatives of spiking neurons: a surrogate has no second one")


def _run(operation: Any, transformed: Any) -> Any:
    return transformed if torch._C._are_functorch_transforms_active() else operation


_layer_backward_transformed = _transformed(_layer_backward, _nothing_to_remember, _no_second_derivative)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, weight, constants, blocked, delays, *options = inputs
    ctx.save_for_backward(weight, constants, blocked, delays, *output[1:])
    ctx.options = options
    ctx.set_materialize_grads(False)


def _propagate(ctx: Any, grad_spikes: Tensor | None, *of_kept: Tensor | None) -> tuple[Any, ...]:
    nothing = (None,) * 12
    if any(one is not None for one in of_kept):  # by way of the backward of the first
        _no_second_derivative(ctx)
    if grad_spikes is None:
        return nothing
    weight, constants, blocked, delays, *kept = ctx.saved_tensors
    flags, kind, height, steepness, _, _, torch_only = ctx.options
    _, wants_weight, wants_constants = ctx.needs_input_grad[:3]
    run = _run(_layer_backward, _layer_backward_transformed)
    currents_grad, weight_grad, constants_grad = run(
        grad_spikes, weight, constants, blocked, delays, *kept, flags, kind, height, steepness, wants_weight,
        wants_constants,
        torch_only,
    )  # fmt: skip
    of_weight = weight_grad if wants_weight and weight.shape[1] else None
    return (currents_grad, of_weight, constants_grad if wants_constants else None, *nothing[3:])


_layer.register_autograd(_propagate, setup_context=_remember)


_layer_transformed = _transformed(_layer, _remember, _propagate)


def _over_chips(operation: Any) -> Any:
    """vmap: what it maps over becomes part of the axis of chips."""

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        merged = []
        for arg, dim in zip(args, in_dims, strict=True):
            if isinstance(arg, Tensor):
                mapped = arg.expand(size, *arg.shape) if dim is None else arg.movedim(dim, 0)
                merged.append(mapped.flatten(0, 1))
            else:
                merged.append(arg)
        out = operation(*merged)
        return tuple(one.unflatten(0, (size, one.shape[0] // size)) for one in out), (0,) * len(out)

    return rule


torch.library.register_vmap(_layer, _over_chips(_layer))
torch.library.register_vmap(_layer_backward, _over_chips(_layer_backward))


@register_flop_formula(torch.ops.neurosim.spiking_layer)
def _flops(currents: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    """Two operations for each synapse and step, as if every neuron spiked: a digital matrix product's."""
    chips, samples, steps, size = currents
    return 2 * chips * samples * steps * size * weight[1]


def advances(x: Tensor) -> bool:
    """Whether :func:`advance` takes such inputs: no gradients, and numbers that kernels compute."""
    return not torch.is_grad_enabled() and _compiled(x, False)


def advance(k: Constants, u: Tensor, state: State) -> State:
    """As :func:`neurosim.models.spiking.step`, in one pass over memory and without gradients.

    Args:
        k: constants of one chip.
        u: (samples, N) float32 on the CPU.
        state: before the step.
    """
    values, blocked = k.values.unsqueeze(0), k.blocked.unsqueeze(0)
    each = (state.v, state.spike, state.current, state.adaptation, state.left)
    found: Any = _advance(u.unsqueeze(0), values, blocked, *(one.unsqueeze(0) for one in each), int(k.flags))
    return State(*(one.squeeze(0) for one in found))


@torch.library.custom_op(f"{_NAMESPACE}::spiking_step", mutates_args=())
def _advance(
    given: Tensor,
    constants: Tensor,
    blocked: Tensor,
    v: Tensor,
    spike: Tensor,
    current: Tensor,
    adaptation: Tensor,
    left: Tensor,
    flags: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from neurosim.models.spiking import kernels
    from neurosim.random import follow_torch_threads

    state = (v, spike, current, adaptation, left)
    out = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in state]
    follow_torch_threads()
    kernels.advance(
        _array(given), _array(constants), _array(blocked.to(torch.int32)), flags,
        *(_array(one) for one in state), *(one.numpy() for one in out),
    )  # fmt: skip
    return out[0], out[1], out[2], out[3], out[4]


@_advance.register_fake
def _(
    given: Tensor,
    constants: Tensor,
    blocked: Tensor,
    v: Tensor,
    spike: Tensor,
    current: Tensor,
    adaptation: Tensor,
    left: Tensor,
    flags: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    v, spike, current, adaptation, left = (
        torch.empty_like(one, memory_format=torch.contiguous_format)
        for one in (v, spike, current, adaptation, left)
    )
    return v, spike, current, adaptation, left


torch.library.register_vmap(_advance, _over_chips(_advance))


def leak(x: Tensor, decay: Tensor, *, engine: Engine = "auto") -> Tensor:
    """y[t] = a·y[t − 1] + x[t], y before the first step being 0, for all steps at once.

    Args:
        x: (samples, steps, N), or (chips · batch, steps, N) where chips differ.
        decay: a, (N,) or (chips, N).
        engine: ``"torch"`` never runs the kernel.

    Returns:
        (samples, steps, N).

    >>> leak(torch.tensor([1.0, 0.0, 2.0]).view(1, 3, 1), torch.tensor([0.5])).flatten()
    tensor([1.0000, 0.5000, 2.2500])
    """
    if x.dim() != 3 or decay.shape[-1] != x.shape[2]:
        raise UsageError(
            f"expected inputs (samples, steps, N) and N decays; got {tuple(x.shape)} and {tuple(decay.shape)}"
        )
    dtype = torch.promote_types(x.dtype, torch.float32)
    a = (decay if decay.dim() == 2 else decay.unsqueeze(0)).to(dtype)
    if x.shape[0] % a.shape[0]:
        raise UsageError(f"expected samples of {a.shape[0]} chips; got {x.shape[0]} of them")
    found: Tensor = _run(_leak, _leak_transformed)(
        x.to(dtype).unflatten(0, (a.shape[0], x.shape[0] // a.shape[0])), a, engine == "torch"
    )
    return found.flatten(0, 1).to(x.dtype)


@torch.library.custom_op(f"{_NAMESPACE}::leak", mutates_args=())
def _leak(x: Tensor, decay: Tensor, torch_only: bool) -> Tensor:
    if not _compiled(x, torch_only):
        return cast(Tensor, _steps(x, torch_only).leak_forward(x, decay))
    from neurosim.models.spiking import kernels
    from neurosim.random import follow_torch_threads

    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    follow_torch_threads()
    kernels.leak_forward(_array(x), _array(decay), out.numpy())
    return out


@_leak.register_fake
def _(x: Tensor, decay: Tensor, torch_only: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op(f"{_NAMESPACE}::leak_backward", mutates_args=())
def _leak_backward(grad: Tensor, decay: Tensor, y: Tensor, torch_only: bool) -> tuple[Tensor, Tensor]:
    if not _compiled(grad, torch_only):
        return cast("tuple[Tensor, Tensor]", _steps(grad, torch_only).leak_backward(grad, decay, y))
    from neurosim.models.spiking import kernels
    from neurosim.random import follow_torch_threads

    chips, samples, _, size = grad.shape
    out = torch.empty_like(grad, memory_format=torch.contiguous_format)
    of_decay = grad.new_zeros(chips, samples, size)
    follow_torch_threads()
    kernels.leak_backward(_array(grad), _array(decay), _array(y), out.numpy(), of_decay.numpy())
    return out, of_decay.sum(1)


@_leak_backward.register_fake
def _(grad: Tensor, decay: Tensor, y: Tensor, torch_only: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(grad, memory_format=torch.contiguous_format), torch.empty_like(decay)


_leak_backward_transformed = _transformed(_leak_backward, _nothing_to_remember, _no_second_derivative)


def _leak_remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, decay, ctx.torch_only = inputs
    ctx.save_for_backward(decay, output)


def _leak_propagate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    decay, y = ctx.saved_tensors
    of_x, of_decay = _run(_leak_backward, _leak_backward_transformed)(grad, decay, y, ctx.torch_only)
    return of_x, of_decay, None


_leak.register_autograd(_leak_propagate, setup_context=_leak_remember)


_leak_transformed = _transformed(_leak, _leak_remember, _leak_propagate)


def _one(operation: Any) -> Any:
    """A vmap rule for an operation with a single output."""
    many = _over_chips(lambda *args: (operation(*args),))

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, Any]:
        (out,), _ = many(info, in_dims, *args)
        return out, 0

    return rule


torch.library.register_vmap(_leak, _one(_leak))
torch.library.register_vmap(_leak_backward, _over_chips(_leak_backward))
