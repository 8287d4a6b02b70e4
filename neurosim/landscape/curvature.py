"""How curved the loss is at the weights: products with its second derivative, eigenvalue and trace of it.

Mismatch moves each weight in proportion to itself, so that what it feels is not the Hessian H but
|Θ|H|Θ| (the Hessian for relative changes of the weights).  For small ζ and n standard normal,

::

    E[L(Θ·(1 + ζ·n))] - L(Θ) = ½·ζ²·tr(|Θ|H|Θ|) + O(ζ⁴)

which :func:`rise_under_mismatch` samples and :func:`trace` predicts.  A network of ReLUs and maxima is
smooth only piece by piece: derivatives see the piece that the weights lie in, not the kinks between
pieces, which a finite ζ crosses; how much that is, is measured in docs/flatness.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from neurosim.errors import RunError, UsageError
from neurosim.landscape.losses import Data, batches_of, chip_weights, evaluating, moved_along, score_at
from neurosim.landscape.parameters import (
    forward_aside,
    laid_out_as,
    normal_like,
    task_loss,
    uniform_like,
)
from neurosim.landscape.slopes import relative_normal
from neurosim.random import Stream, stream

Told = Callable[[int], None]
"""Told how many products with the Hessian, or draws, are done."""


@final
class Curvature:
    """The second derivative of the mean loss over a data set, as products with vectors.

    ::

        H_ij = ∂²L/∂Θ_i∂Θ_j       relative=False
        |Θ_i|·H_ij·|Θ_j|          relative=True

    over the parameters that sit on chips, and those that the patterns ``parameters`` name beside them, one
    after another and flattened, in the order of ``names``.  A
    product is two backward passes through each batch (Pearlmutter 1994, doi:10.1162/neco.1994.6.1.147),
    added up over the data; nothing of the size of H is ever made.  The network is in evaluation mode and
    stays as it is.  A backward pass of a user's own is differentiated as it is written: that of a spike by
    its surrogate's derivative; one marked ``once_differentiable`` counts, in torch, as a constant.

    Raises:
        UsageError: nothing that sits on chips, or a pattern that matches no parameter.

    >>> net = nn.Linear(1, 2, bias=False)
    >>> data = [(torch.ones(1, 1), torch.tensor([0]))]
    >>> with torch.no_grad():
    ...     _ = net.weight.copy_(torch.tensor([[0.0], [0.0]]))
    >>> Curvature(net, data).times(torch.tensor([1.0, -1.0]))
    tensor([ 0.5000, -0.5000])
    """

    def __init__(
        self, model: nn.Module, data: Data, *, relative: bool = False, parameters: Sequence[str] = ()
    ) -> None:
        self._model, self._data = model, data
        self._weights = chip_weights(model, parameters)
        self.relative = relative
        self.names = tuple(self._weights)

    @property
    def size(self) -> int:
        """How many parameters."""
        return sum(weight.numel() for weight in self._weights.values())

    def times(self, vector: Tensor) -> Tensor:
        """H·v, or |Θ|H|Θ|·v; v and the result are (size,).

        Raises:
            UsageError: a vector of another shape, no data, shapes that do not fit.
            RunError: torch knows no second derivative of something in the network, or it is not finite.
        """
        if vector.shape != (self.size,):
            raise UsageError(f"expected a vector of shape ({self.size},); got {tuple(vector.shape)}")
        direction = list(self.direction(vector).values())
        total = [torch.zeros_like(weight) for weight in self._weights.values()]
        count = 0
        # attention in one kernel has no second derivative
        with evaluating(self._model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for inputs, targets in batches_of(self._data, self._model):
                try:
                    products = self._of_batch(inputs, targets, direction)
                except RuntimeError as error:
                    reason = str(error).partition("\n")[0]
                    raise RunError(f"the loss cannot be differentiated twice: {reason}") from error
                torch._foreach_add_(total, products, alpha=targets.numel())
                count += targets.numel()
        flat = self._flat(self._scaled([part / count for part in total]))
        if not bool(torch.isfinite(flat).all()):
            raise RunError("the second derivative of the loss is not finite at the network's weights")
        return flat

    def _of_batch(self, inputs: Tensor, targets: Tensor, direction: list[Tensor]) -> list[Tensor]:
        """H·v of the mean loss over one batch, parameter by parameter."""
        leaves = {
            name: laid_out_as(weight, weight.clone()).requires_grad_()
            for name, weight in self._weights.items()
        }
        loss = task_loss(forward_aside(self._model, leaves, inputs), targets)
        held = list(leaves.values())
        slopes = torch.autograd.grad(loss, held, create_graph=True, materialize_grads=True)
        curved = [
            k for k, slope in enumerate(slopes) if slope.requires_grad
        ]  # not those the loss is linear in
        if not curved:
            return [torch.zeros_like(leaf) for leaf in held]
        return list(
            torch.autograd.grad(
                [slopes[k] for k in curved], held, [direction[k] for k in curved], materialize_grads=True
            )
        )

    def direction(self, vector: Tensor) -> dict[str, Tensor]:
        """The step in the weights that a vector (size,) stands for, by name: v, or |Θ|·v if relative."""
        parts = vector.split([weight.numel() for weight in self._weights.values()])
        shaped = [part.view(w.shape) for part, w in zip(parts, self._weights.values(), strict=True)]
        return dict(zip(self.names, self._scaled(shaped), strict=True))

    def _scaled(self, parts: list[Tensor]) -> list[Tensor]:
        if not self.relative:
            return parts
        return [part * weight.abs() for part, weight in zip(parts, self._weights.values(), strict=True)]

    def _flat(self, parts: list[Tensor]) -> Tensor:
        return torch.cat([part.reshape(-1) for part in parts])

    def drawn(self, draw: Callable[[Tensor, Stream], Tensor], seed: int, number: int, effect: str) -> Tensor:
        """A random vector (size,), each parameter's part from the stream (seed, number, name, effect)."""
        parts = self._weights.items()
        return self._flat([draw(weight, stream(seed, number, name, effect)) for name, weight in parts])


@dataclass(frozen=True, eq=False)
class Eigen:
    """The largest eigenvalue and its vector (size,) of unit length.

    Some eigenvalue lies within ``residual`` = ‖A·v - value·v‖ of ``value``; ``products`` with the Hessian
    were taken.
    """

    value: float
    vector: Tensor
    residual: float
    products: int


def top_eigenvalue(
    curvature: Curvature,
    *,
    tolerance: float = 1e-3,
    products: int = 100,
    seed: int = 0,
    progress: Told | None = None,
) -> Eigen:
    """The algebraically largest eigenvalue, by Lanczos' method with full reorthogonalisation.

    Lanczos' rather than power iteration, which converges to a negative eigenvalue where that is larger in
    magnitude and needs more products; our own rather than ARPACK's, because that draws from generators of
    its own when it restarts, and copies each vector to the host in float64.  It ends when
    ‖A·v - λ·v‖ ≤ tolerance·max|Ritz value|; one vector a product is kept.  The first vector is normal, from
    the streams (``seed``, 0, parameter, ``"flatness-start"``).

    Args:
        curvature: A.
        tolerance: as above, from 0 to 1.
        products: at most so many.
        seed: another first vector.
        progress: told the number of products done.

    Raises:
        UsageError: a tolerance outside (0, 1), or fewer than one product.
        RunError: the tolerance is not reached.

    >>> net = nn.Linear(1, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = net.weight.zero_()
    >>> found = top_eigenvalue(Curvature(net, [(torch.ones(1, 1), torch.tensor([0]))]))
    >>> round(found.value, 6)
    0.5
    """
    if not 0 < tolerance < 1:
        raise UsageError(f"expected a tolerance between 0 and 1; got {tolerance!r}")
    if products < 1:
        raise UsageError(f"expected at least one product with the Hessian; got {products!r}")
    first = curvature.drawn(normal_like, seed, 0, "flatness-start")
    basis = [first / first.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    residual = math.inf
    for done in range(1, min(products, curvature.size) + 1):
        last = curvature.times(basis[-1])
        diagonal.append(float(last @ basis[-1]))
        kept = torch.stack(basis)
        for _ in range(2):  # twice is enough (Giraud et al. 2005): a second time takes what rounding left
            last = last - kept.T @ (kept @ last)
        length = float(last.norm())
        values, vectors = _tridiagonal(diagonal, beside)
        residual = length * abs(float(vectors[-1, -1]))
        if progress is not None:
            progress(done)
        if residual <= tolerance * float(values.abs().max()) or done == curvature.size:
            vector = kept.T @ vectors[:, -1].to(kept)
            return Eigen(float(values[-1]), vector / vector.norm(), residual, done)
        beside.append(length)
        basis.append(last / length)
    raise RunError(
        f"the largest eigenvalue is not found within {tolerance:g} after {products} products with the"
        f" Hessian (its residual is {residual:.3g}): allow more products or a larger tolerance"
    )


def _tridiagonal(diagonal: list[float], beside: list[float]) -> tuple[Tensor, Tensor]:
    """Eigenvalues in ascending order and vectors (columns) of a small symmetric tridiagonal matrix."""
    whole = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        upper = torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
        whole = whole + upper + upper.T
    values, vectors = torch.linalg.eigh(whole)
    return values, vectors


@dataclass(frozen=True)
class Estimate:
    """The mean of some draws, with its standard error (NaN for a single one)."""

    value: float
    standard_error: float
    draws: int

    @classmethod
    def of(cls, values: list[float]) -> Estimate:
        """From the values drawn.

        >>> Estimate.of([1.0, 3.0])
        Estimate(value=2.0, standard_error=1.0, draws=2)
        """
        count = len(values)
        mean = math.fsum(values) / count
        if count < 2:
            return cls(mean, math.nan, count)
        variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
        return cls(mean, math.sqrt(variance / count), count)


def signs_like(parameter: Tensor, stream: Stream) -> Tensor:
    """-1 or 1 with equal chance (Rademacher), in the type, place and memory layout of a parameter."""
    drawn = uniform_like(parameter, stream)
    return torch.where(drawn < 0, -torch.ones_like(drawn), torch.ones_like(drawn))


def trace(curvature: Curvature, *, draws: int = 20, seed: int = 0, progress: Told | None = None) -> Estimate:
    """The trace by Hutchinson's estimator, tr A ≈ mean of z·A·z, z of independent signs.

    Unbiased; of all z with independent entries, signs give the least variance, 2·Σ_{i≠j} A_ij²
    (Hutchinson 1990, doi:10.1080/03610919008812866).  Draw k takes z from the streams
    (``seed``, k, parameter, ``"flatness-trace"``).

    Raises:
        UsageError: fewer than one draw.

    >>> net = nn.Linear(1, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = net.weight.zero_()
    >>> found = trace(Curvature(net, [(torch.ones(1, 1), torch.tensor([0]))]), draws=100)
    >>> abs(found.value - 0.5) < 4 * found.standard_error
    True
    """
    _check_draws(draws)
    values = []
    for draw in range(draws):
        z = curvature.drawn(signs_like, seed, draw, "flatness-trace")
        values.append(float(z @ curvature.times(z)))
        if progress is not None:
            progress(draw + 1)
    return Estimate.of(values)


def rise_under_mismatch(
    model: nn.Module,
    data: Data,
    zeta: float,
    *,
    parameters: Sequence[str] = (),
    draws: int = 50,
    seed: int = 0,
    progress: Told | None = None,
) -> Estimate:
    """E[L(Θ·(1 + ζ·n))] - L(Θ) over the parameters that sit on chips, by Monte Carlo.

    ``parameters`` are patterns of names of further ones, whose time constants keep their sign
    (:func:`neurosim.landscape.parameters.keeping_signs`).

    Each draw takes the mean of n and -n, which takes the terms odd in ζ away: what is left is
    ½·ζ²·tr(|Θ|H|Θ|) for small ζ.  Draw k takes n from the streams
    (``seed``, k, parameter, ``"flatness-mismatch"``).

    Raises:
        UsageError: ζ not above 0, fewer than one draw, no data.

    >>> net = nn.Linear(1, 2, bias=False)
    >>> data = [(torch.ones(1, 1), torch.tensor([0]))]
    >>> sampled = rise_under_mismatch(net, data, 0.01)
    >>> predicted = 0.5 * 0.01**2 * trace(Curvature(net, data, relative=True)).value
    >>> sampled.draws, sampled.value > 0, predicted > 0
    (50, True, True)
    """
    _check_draws(draws)
    if not (math.isfinite(zeta) and zeta > 0):
        raise UsageError(f"expected a mismatch zeta above 0; got {zeta!r}")
    weights = chip_weights(model, parameters)
    here = score_at(model, data).loss
    values = []
    for draw in range(draws):
        n = relative_normal(weights, seed, draw, "flatness-mismatch")
        sides = [
            score_at(model, data, moved_along(weights, [(side * zeta, n)], parameters)).loss
            for side in (1, -1)
        ]
        values.append(sum(sides) / 2 - here)
        if progress is not None:
            progress(draw + 1)
    return Estimate.of(values)


def _check_draws(draws: int) -> None:
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise UsageError(f"expected draws to be a whole number of at least 1; got {draws!r}")
