"""In which range a device was measured, and the warning that a description or an age lies outside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


class FitRangeWarning(UserWarning):
    """A device is used outside the range in which it was measured: its numbers are extrapolated."""


@dataclass(frozen=True)
class FitRange:
    """Where a model was fitted to measured devices; None where it rests on no measurement of its own.

    Attributes:
        g_siemens: least and greatest measured conductance.
        time_s: first and last measured time after programming.  (0, 0): only right after programming.
        kelvin: least and greatest temperature at which devices aged; None where none is stated: then that of
            the laboratory.
    """

    g_siemens: tuple[float, float] | None = None
    time_s: tuple[float, float] | None = None
    kelvin: tuple[float, float] | None = None

    def conductance_beyond(self, kind: str, g_min: float, g_max: float) -> Iterator[tuple[str, str]]:
        """(bound, sentence) for each end of [g_min, g_max] that was not measured.

        >>> measured = FitRange(g_siemens=(1e-6, 40e-6))
        >>> for bound, sentence in measured.conductance_beyond("rram-wan", 1e-6, 50e-6):
        ...     print(f"{bound}: {sentence}")
        g_max: device 'rram-wan' at g_max = 50 µS: measured from 1 to 40 µS, its numbers are extrapolated
        """
        if self.g_siemens is None:
            return
        low, high = self.g_siemens
        measured = f"measured from {low * 1e6:.4g} to {high * 1e6:.4g} µS, its numbers are extrapolated"
        # a part in a million: 10.35e-6 is not the same float as 10.35 * 1e-6
        for bound, value, outside in (
            ("g_min", g_min, g_min < low * (1 - 1e-6)),
            ("g_max", g_max, g_max > high * (1 + 1e-6)),
        ):
            if outside:
                yield bound, f"device {kind!r} at {bound} = {value * 1e6:.4g} µS: {measured}"

    def time_beyond(self, kind: str, time_s: float) -> Iterator[tuple[str, str]]:
        """(bound, sentence) if the age lies beyond the last measured time.

        >>> measured = FitRange(time_s=(20.0, 86400.0))
        >>> for bound, sentence in measured.time_beyond("pcm", 3.15576e7):
        ...     print(f"{bound}: {sentence}")
        time: device 'pcm' aged 1 year: measured up to 1 day after programming, its numbers are extrapolated
        """
        if self.time_s is not None and time_s > self.time_s[1] * (1 + 1e-6):
            last = self.time_s[1]
            until = (
                f"measured up to {in_words(last)} after programming"
                if last
                else "its ageing was not measured"
            )
            measured = f"{until}, its numbers are extrapolated" if last else f"{until}, none is modelled"
            yield "time", f"device {kind!r} aged {in_words(time_s)}: {measured}"

    def heat_beyond(self, kind: str, storage_k: float, reference_k: float) -> Iterator[tuple[str, str]]:
        """(bound, sentence) if devices aged at another temperature than they are stored at.

        Args:
            kind: of the device.
            storage_k: temperature of storage.
            reference_k: that of the measurement, where the device states none.

        >>> measured = FitRange(time_s=(20.0, 86400.0))
        >>> for bound, sentence in measured.heat_beyond("pcm", 358.15, 300.0):
        ...     print(f"{bound}: {sentence}")
        heat: device 'pcm' stored at 358.15 K: aged at 300 K when measured, Arrhenius' law is extrapolated
        """
        if self.time_s is None or self.time_s[1] == 0.0:
            return
        low, high = self.kelvin or (reference_k, reference_k)
        if not low <= storage_k <= high:
            at = f"{low:g} K" if low == high else f"{low:g} to {high:g} K"
            sentence = f"aged at {at} when measured, Arrhenius' law is extrapolated"
            yield "heat", f"device {kind!r} stored at {storage_k:g} K: {sentence}"


_UNITS = (("year", 31557600.0), ("day", 86400.0), ("hour", 3600.0), ("min", 60.0), ("s", 1.0))


def in_words(time_s: float) -> str:
    """A duration as people say it.

    >>> in_words(172800.0), in_words(3600), in_words(90), in_words(0.5)
    ('2 days', '1 hour', '1.5 min', '0.5 s')
    """
    name, size = next((unit for unit in _UNITS if time_s >= unit[1] * 0.9995), _UNITS[-1])
    count = f"{time_s / size:.3g}"
    return f"{count} {name}{'s' if name not in ('s', 'min') and count != '1' else ''}"
