"""What a crossbar has become on chips: numbers ready to be multiplied with, and the ranges around them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Realised:
    """A weight as chips hold it.

    Attributes:
        matrix: (chips, columns, rows), (g+ − g−)/(g_max − g_min), through the wires: between −1 and 1 before
            noise.
        gain: (chips, row parts, columns), from matrix products back to units of the layer: weight
            scale times drift compensation.
        bias: (chips, outputs), or None.
        legs: conductances of both legs before wires, (chips, columns, rows) siemens, where products need
            them.
        row_scale: (rows,), where each row has a scale of its own; only a lookup reads such a matrix.
    """

    matrix: Tensor
    gain: Tensor
    bias: Tensor | None
    legs: tuple[Tensor, Tensor] | None = None
    row_scale: Tensor | None = None

    @property
    def requires_grad(self) -> bool:
        """Whether autograd follows what chips hold."""
        return self.matrix.requires_grad or (self.bias is not None and self.bias.requires_grad)

    def part(self, chips: slice) -> Realised:
        """The same on some of the chips."""
        if chips.start == 0 and chips.stop == len(self.matrix):
            return self
        bias = None if self.bias is None else self.bias[chips]
        legs = None if self.legs is None else (self.legs[0][chips], self.legs[1][chips])
        return Realised(self.matrix[chips], self.gain[chips], bias, legs, self.row_scale)


@dataclass
class Ranges:
    """Full scales of the converters, fixed by calibration.

    Attributes:
        dac: largest input, in units of the layer's input.
        adc: (row parts, column tiles), largest product in units of input × full conductance.
    """

    dac: float
    adc: Tensor
