"""What a crossbar has become on chips: numbers ready to be multiplied with, and the ranges around them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Realised:
    """A weight as chips hold it.

    Attributes:
        matrices: for each slice what its bit lines deliver, through the wires, (chips, columns, rows): of a
            pair (g+ − g−)/(g_max − g_min), between −1 and 1 before noise.  Columns of references included.
        gain: (chips, slices · row parts, columns), digital, after the ADC: weight of the slice, drift
            compensation and, unless ``scale`` has it, the scale of the weight.
        bias: (chips, outputs), or None.
        legs: conductances of both legs before wires, (chips, columns, rows) siemens, where products need
            them.
        row_scale: (rows,), where each row has a scale of its own; only a lookup reads such a matrix.
        scale: (chips, outputs), after offsets are subtracted; None where there are none.
        shift: (chips, outputs), added digitally by a compensation of offsets; None without.
        offsets: (chips, slices · row parts, columns), of the amplifiers before the ADCs, in units of input ×
            full conductance; None without.
        converters: for each part what is mismatched in its ADCs, entries (chips, …); empty without.
    """

    matrices: tuple[Tensor, ...]
    gain: Tensor
    bias: Tensor | None
    legs: tuple[Tensor, Tensor] | None = None
    row_scale: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    offsets: Tensor | None = None
    converters: tuple[dict[str, Tensor], ...] = ()

    @property
    def requires_grad(self) -> bool:
        """Whether autograd follows what chips hold."""
        biased = self.bias is not None and self.bias.requires_grad
        return biased or any(matrix.requires_grad for matrix in self.matrices)

    def part(self, chips: slice) -> Realised:
        """The same on some of the chips."""
        if chips.start == 0 and chips.stop == len(self.gain):
            return self

        def of(numbers: Tensor | None) -> Tensor | None:
            return None if numbers is None else numbers[chips]

        return Realised(
            tuple(matrix[chips] for matrix in self.matrices),
            self.gain[chips],
            of(self.bias),
            None if self.legs is None else (self.legs[0][chips], self.legs[1][chips]),
            self.row_scale,
            of(self.scale),
            of(self.shift),
            of(self.offsets),
            tuple({key: tensor[chips] for key, tensor in state.items()} for state in self.converters),
        )

    def without_additions(self) -> Realised:
        """Products alone: no bias, no shift."""
        return replace(self, bias=None, shift=None)

    def detached(self) -> Realised:
        """The same without gradients."""
        return replace(
            self,
            matrices=tuple(matrix.detach() for matrix in self.matrices),
            gain=self.gain.detach(),
            bias=None if self.bias is None else self.bias.detach(),
        )

    def corrected(self, gain: Tensor, shift: Tensor) -> Realised:
        """With another gain and something added, (chips, outputs) each; the bias stays as it is.

        The gain acts where the scale does: before an offset is subtracted, unless columns of references
        deliver it.
        """
        if self.scale is not None and self.gain.shape[2] != gain.shape[1]:
            return replace(self, scale=self.scale * gain, shift=shift)
        return replace(self, gain=self.gain * gain[:, None], shift=shift)


@dataclass
class Ranges:
    """What calibration fixes.

    Attributes:
        dac: largest input, in units of the layer's input.
        adc: (slices · row parts, column tiles), largest product in units of input × full conductance.
        inputs: some of the inputs, as the operator takes them, where a compensation is fitted on chips.
    """

    dac: float
    adc: Tensor
    inputs: Tensor | None = None
