"""The layers that go on crossbars: one row a type in :data:`LAYERS`, one small file a family."""

from __future__ import annotations

from torch import nn

from neurosim.analog.layers.attention import MultiheadAttentionOnCrossbars
from neurosim.analog.layers.base import OnCrossbars, Site
from neurosim.analog.layers.convolution import (
    Conv1dOnCrossbars,
    Conv2dOnCrossbars,
    Conv3dOnCrossbars,
    ConvTranspose1dOnCrossbars,
    ConvTranspose2dOnCrossbars,
    ConvTranspose3dOnCrossbars,
)
from neurosim.analog.layers.embedding import EmbeddingOnCrossbars
from neurosim.analog.layers.linear import BilinearOnCrossbars, LinearOnCrossbars, OffDiagonalOnCrossbars
from neurosim.analog.layers.recurrent import (
    GRUCellOnCrossbars,
    GRUOnCrossbars,
    LSTMCellOnCrossbars,
    LSTMOnCrossbars,
    RNNCellOnCrossbars,
    RNNOnCrossbars,
)
from neurosim.errors import UsageError

__all__ = ["LAYERS", "OnCrossbars", "Site", "register", "row_of"]

LAYERS: dict[type[nn.Module], type[OnCrossbars]] = {
    row.kind: row
    for row in (
        LinearOnCrossbars,
        OffDiagonalOnCrossbars,
        BilinearOnCrossbars,
        Conv1dOnCrossbars,
        Conv2dOnCrossbars,
        Conv3dOnCrossbars,
        ConvTranspose1dOnCrossbars,
        ConvTranspose2dOnCrossbars,
        ConvTranspose3dOnCrossbars,
        EmbeddingOnCrossbars,
        RNNOnCrossbars,
        LSTMOnCrossbars,
        GRUOnCrossbars,
        RNNCellOnCrossbars,
        LSTMCellOnCrossbars,
        GRUCellOnCrossbars,
        MultiheadAttentionOnCrossbars,
    )
}


def register(row: type[OnCrossbars]) -> type[OnCrossbars]:
    """Have :func:`neurosim.deploy` put another type of layer on crossbars; may decorate the class.

    Args:
        row: a subclass of :class:`OnCrossbars` that names the layer's type in ``kind``, makes its crossbars
            in ``place`` and reads them in ``forward``.

    Raises:
        UsageError: not such a class.

    >>> from neurosim.analog.operators import Matmul
    >>> class Scaled(nn.Module):  # somebody's own layer: y = 2 x W
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.table = nn.Parameter(torch.randn(4, 3))
    ...     def forward(self, x):
    ...         return 2 * x @ self.table
    >>> @register
    ... class ScaledOnCrossbars(OnCrossbars):
    ...     kind = Scaled
    ...     @staticmethod
    ...     def place(site):
    ...         return {"table": site.crossbar("table", Matmul(transposed=True))}
    ...     def forward(self, x):
    ...         return 2 * self._product("table", x, self.table, None)
    >>> import torch, neurosim as ns
    >>> net = ns.deploy(Scaled(), ns.hardware("gaussian-mismatch"))
    >>> with net.on(ns.Lot(net.hardware)[0:5]) as chips:
    ...     chips(torch.ones(2, 4)).shape
    torch.Size([5, 2, 3])
    >>> del LAYERS[Scaled]
    """
    kind = getattr(row, "kind", None)
    if not (isinstance(row, type) and issubclass(row, OnCrossbars) and isinstance(kind, type)):
        raise UsageError(f"expected a subclass of OnCrossbars that names its kind of layer; got {row!r}")
    LAYERS[kind] = row
    return row


def row_of(module: nn.Module) -> type[OnCrossbars] | None:
    """How a module goes on crossbars, if it can.

    A subclass of a known layer counts as that layer unless it computes something else: then it needs a row
    of its own.
    """
    for kind in type(module).__mro__:
        row = LAYERS.get(kind)
        if row is not None:
            return row if row.fits(module) else None
    return None
