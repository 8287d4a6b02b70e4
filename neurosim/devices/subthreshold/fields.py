"""Where circuits lie on a die, and what varies smoothly over it: gradients and fields of a voltage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from neurosim.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws


def grid_positions(count: int, device: str = "cpu") -> Tensor:
    """Places of ``count`` circuits on a square grid, row by row: (count, 2), x and y from −1 to 1, float64.

    >>> grid_positions(4).tolist()
    [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]
    >>> grid_positions(1).tolist()
    [[0.0, 0.0]]
    """
    import torch

    width = max(math.ceil(math.sqrt(count)), 1)
    height = max(math.ceil(count / width), 1)
    number = torch.arange(count, dtype=torch.float64, device=device)
    columns, rows = number.remainder(width), (number / width).floor()
    ends = [(columns, width), (rows, height)]
    return torch.stack([2 * n / (size - 1) - 1 if size > 1 else 0 * n for n, size in ends], dim=-1)


def gradient_shape(shape: tuple[int, ...], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """x and y of the elements of a parameter, (\\*shape) each: its last axis counts circuits on a grid.

    >>> x, y = gradient_shape((2, 4))
    >>> x.tolist()
    [[-1.0, 1.0, -1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]]
    """
    x, y = grid_positions(shape[-1] if shape else 1, device).unbind(-1)
    if not shape:
        return x[0], y[0]
    return x.expand(shape), y.expand(shape)


def linear_field(positions: Tensor, std: float, draws: Draws) -> Tensor:
    """A linear gradient, std·(a·x + b·y) with a, b ~ N(0, 1) once per chip: (chips, places).

    σ at the middle of an edge is ``std``, in its unit; at a corner √2·std.  Of a threshold voltage, the
    current of a device moves by exp(−κ·ΔV/U_T).

    Args:
        positions: (places, 2).
        std: in the unit of the field.
        draws: of one die, "gradient".
    """
    slopes = std * draws.normal("gradient", (2,)).to(positions)
    return slopes @ positions.T


def smooth_field(
    positions: Tensor, std: float, correlation_length: float, draws: Draws, waves: int = 256
) -> Tensor:
    r"""A stationary field with correlation exp(−d²/(2·ℓ²)) between places d apart: (chips, places).

    By random Fourier features (A. Rahimi and B. Recht, NIPS 2007): a sum of ``waves`` plane waves::

        f(p) = std·√(2/K)·Σ_k cos(k·p + φ)         k ~ N(0, 1/ℓ²) per axis, φ ~ U[0, 2π)

    Its mean is 0, its variance std² and its correlation as above, exactly, over chips; it is normal in the
    limit of many waves.  Places are drawn independently of each other's number, so any may be left out.

    Args:
        positions: (places, 2).
        std: in the unit of the field.
        correlation_length: ℓ, in the unit of positions.
        draws: of one die, "field waves" and "field phases".
        waves: K.

    Raises:
        UsageError: ``correlation_length`` is not positive.

    >>> from neurosim.random import Draws
    >>> places = grid_positions(64)
    >>> f = smooth_field(places, 5e-3, 0.5, Draws(0, tuple(range(200)), "die"))
    >>> f.shape, abs(float(f.std()) - 5e-3) < 5e-4
    (torch.Size([200, 64]), True)
    """
    if not correlation_length > 0:
        raise UsageError(f"expected a correlation_length of more than 0; got {correlation_length!r}")
    vectors = draws.normal("field waves", (waves, 2)).to(positions) / correlation_length
    phases = draws.uniform("field phases", (waves,)).to(positions) * (2 * math.pi)
    angle = vectors @ positions.T + phases.unsqueeze(-1)
    return std * math.sqrt(2.0 / waves) * angle.cos().sum(1)
