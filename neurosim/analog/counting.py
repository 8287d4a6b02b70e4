"""What passes the converters of chips while they read, and how much of it saturates."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Counts:
    """What passed the converters of one layer.

    Attributes:
        inputs, inputs_beyond: numbers that word lines carried, and those beyond the range of the DAC.
        outputs, outputs_beyond: conversions of the ADCs, and those beyond their range.
        squares: Σ (value/range)² of the conversions.
    """

    inputs: int = 0
    inputs_beyond: int = 0
    outputs: int = 0
    outputs_beyond: int = 0
    squares: float = 0.0

    def drive(self, x: Tensor, full_scale: float) -> None:
        """Count inputs."""
        self.inputs += x.numel()
        self.inputs_beyond += int((x.detach().abs() > full_scale).sum())

    def digitise(self, y: Tensor, full_scale: Tensor) -> None:
        """Count values in front of the ADCs, ranges of which broadcast."""
        share = (y.detach() / full_scale).abs()
        self.outputs += share.numel()
        self.outputs_beyond += int((share > 1).sum())
        self.squares += float(share.clamp(max=1).double().square().sum())


@dataclass
class Counter:
    """Counts by name of the crossbar."""

    layers: dict[str, Counts] = field(default_factory=dict)

    def of(self, name: str) -> Counts:
        """Those of one crossbar."""
        return self.layers.setdefault(name, Counts())
