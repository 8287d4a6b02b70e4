"""How well the ranges of the converters fit what passes them, as a table."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from neurosim.analog.counting import Counter
from neurosim.analog.explain import aligned


@dataclass(frozen=True)
class ConversionRow:
    """One layer.

    Attributes:
        name: of the layer.
        conversions: of its ADCs, for each sample and chip.
        inputs_clipped: fraction of the inputs that saturate the DAC; None where it is ideal.
        outputs_clipped: fraction of the conversions that saturate; None where the ADC is ideal.
        use: root mean square of the converted values as a fraction of full scale; None as above.
    """

    name: str
    conversions: float
    inputs_clipped: float | None
    outputs_clipped: float | None
    use: float | None


@dataclass(frozen=True)
class ConversionReport:
    """A row a layer; ``str`` is a table for people, ``to_dict`` for programs."""

    hardware: str
    chips: int
    samples: int
    layers: tuple[ConversionRow, ...]

    def to_dict(self) -> dict[str, object]:
        """Plain lists and dictionaries, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("layer", "conversions a sample", "inputs clipped", "outputs clipped", "use of the range")
        ]
        for row in self.layers:
            shares = (row.inputs_clipped, row.outputs_clipped, row.use)
            rows.append((row.name, f"{row.conversions:,.0f}", *(_percent(share) for share in shares)))
        chips = "1 chip" if self.chips == 1 else f"{self.chips} chips"
        return f"Converters of {self.hardware!r}, {chips}, {self.samples} samples:\n{aligned(rows)}"


def report_of(
    hardware: str, counter: Counter, chips: int, samples: int, ideal: dict[str, tuple[bool, bool]]
) -> ConversionReport:
    """The report of what was counted; ``ideal`` says which of DAC and ADC of a layer convert exactly."""
    rows = []
    for name, counts in counter.layers.items():
        no_dac, no_adc = ideal[name]
        rows.append(
            ConversionRow(
                name,
                counts.outputs / (chips * samples),
                None if no_dac else counts.inputs_beyond / max(1, counts.inputs),
                None if no_adc else counts.outputs_beyond / max(1, counts.outputs),
                None if no_adc else math.sqrt(counts.squares / max(1, counts.outputs)),
            )
        )
    return ConversionReport(hardware, chips, samples, tuple(rows))


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.3g} %"
