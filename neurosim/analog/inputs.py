"""What a network is called with, and what it returns: tensors somewhere in tuples, lists and dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from neurosim.errors import UsageError


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call.

    The first tensor says how large the batch is; every tensor whose first axis is as long carries the batch
    (all of them are split and repeated together), what else there is goes to every chip as it is.
    """

    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec
    carries: tuple[bool, ...]
    samples: int

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        """Raises UsageError where there is no tensor with a batch axis."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() > 0]
        if not tensors:
            raise UsageError("expected inputs with a batch axis: a tensor of at least one axis")
        samples = len(tensors[0])
        carries = tuple(
            isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == samples for leaf in leaves
        )
        return cls(tuple(leaves), spec, carries, samples)

    def each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The same with every tensor that carries the batch changed."""
        changed = [change(x) if own else x for x, own in zip(self.leaves, self.carries, strict=True)]
        samples = next((len(x) for x, own in zip(changed, self.carries, strict=True) if own), self.samples)
        return Inputs(tuple(changed), self.spec, self.carries, samples)

    def only(self, samples: slice) -> Inputs:
        """Some of the samples."""
        return self.each(lambda x: x[samples])

    def repeated(self, count: int) -> Inputs:
        """The batch again and again."""
        return self if count == 1 else self.each(lambda x: x.repeat(count, *(1,) * (x.dim() - 1)))

    def pieces(self, size: int) -> Iterator[Inputs]:
        """The batch, ``size`` samples at a time."""
        for start in range(0, self.samples, size):
            yield self.only(slice(start, start + size))

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named arguments."""
        args, kwargs = pytree.tree_unflatten(list(self.leaves), self.spec)
        return args, kwargs

    def call(self, network: Callable[..., Any]) -> Any:
        """What the network returns."""
        args, kwargs = self.arguments()
        return network(*args, **kwargs)

    def signature(self) -> tuple[Any, ...]:
        """Shapes without the batch, types and places: what a network's treatment of the batch depends on."""
        return tuple(
            (tuple(x.shape[1:]) if own else tuple(x.shape), x.dtype, str(x.device))
            if isinstance(x, Tensor)
            else repr(x)
            for x, own in zip(self.leaves, self.carries, strict=True)
        )

    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        pairs = zip(self.leaves, self.carries, strict=True)
        return sum(x.element_size() * x[:1].numel() for x, own in pairs if own)


def tensors_in(tree: Any) -> list[Tensor]:
    """Every tensor of a network's output."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def joined(join: Callable[[list[Tensor]], Tensor], outputs: list[Any]) -> Any:
    """Outputs of several passes as one: tensors joined, what else a network may return from the first."""

    def leaf(*ys: Any) -> Any:
        if isinstance(ys[0], Tensor):
            return join(list(ys))
        if ys[0] is None or isinstance(ys[0], (bool, int, float, str)):
            return ys[0]
        raise UsageError(
            "expected a network that returns tensors, alone or in tuples, lists or dictionaries; "
            f"got {type(ys[0]).__name__}"
        )

    return pytree.tree_map(leaf, *outputs)


def equal(a: Any, b: Any) -> bool:
    """Whether two outputs are the same but for rounding."""
    left, left_spec = pytree.tree_flatten(a)
    right, right_spec = pytree.tree_flatten(b)
    if left_spec != right_spec:
        return False
    return all(
        x.shape == y.shape and _close(x, y) if isinstance(x, Tensor) else x == y
        for x, y in zip(left, right, strict=True)
    )


def _close(x: Tensor, y: Tensor) -> bool:
    if not (x.is_floating_point() or x.is_complex()):
        return torch.equal(x, y)
    # relative to the largest of all: an absolute tolerance would pass anything where outputs are small
    largest = float(torch.nan_to_num(y.detach().abs(), nan=0.0, posinf=0.0).amax()) if y.numel() else 0.0
    tolerance = largest * max(1e-3, 20 * torch.finfo(x.dtype).eps)
    return torch.allclose(x, y, rtol=0.0, atol=tolerance, equal_nan=True)
