"""From measurements of one's own devices to a hardware description, and how far the data support it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim.devices.hardware import Hardware, Source
from neurosim.devices.measured import Measured
from neurosim.errors import UsageError, unknown

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

LARGEST_BYTES = 64_000_000
LEAST_DEVICES = 20
"""Devices a level: with fewer, a standard deviation is known to no better than 16 %."""
LEAST_LEVELS = 3
_LEAST_SPAN = 0.5  # of g_max that the targets must cover
_HIGHEST_ORDER = 3
_NORMAL_95 = 1.959964
_COLUMNS = ("target", "measured", "time_s", "device")
_UNITS = {"": 1.0, "s": 1.0, "siemens": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12}


@dataclass(frozen=True)
class Data:
    """One row a device and time.

    Attributes:
        target, measured: (rows,) siemens.
        time_s: (rows,) since programming.
        device: (rows,) number of the programmed device: a name and a target.
    """

    target: Array
    measured: Array
    time_s: Array
    device: Array


@dataclass(frozen=True)
class Curve:
    """A mean and a standard deviation as polynomials in x = target/g_max, fitted by maximum likelihood.

    Attributes:
        levels: (L,) targets, siemens; ``counts``, ``means``, ``stds``: (L,) of what was measured there.
        mean, std: coefficients, lowest order first; ``mean_95``, ``std_95``: half widths of their intervals.
        known: (L,) standard deviation of the measurement itself, not counted in ``std``.
        log_likelihood: natural logarithm of the density of the data.
        misfit: deviance against a mean and spread of its own for each level, per degree of freedom;
            about 1 if the polynomials describe the levels; NaN if no degree of freedom is left.
        misfit_p: chance of a larger one if they do.
    """

    levels: Array
    counts: Array
    means: Array
    stds: Array
    known: Array
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mean_95: tuple[float, ...]
    std_95: tuple[float, ...]
    log_likelihood: float
    misfit: float
    misfit_p: float

    def summary(self) -> dict[str, Any]:
        """Everything but the levels, for JSON; None where a number is not defined."""
        names = ("mean", "mean_95", "std", "std_95", "log_likelihood", "misfit", "misfit_p")
        values = {name: getattr(self, name) for name in names}
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in values.items()
        }


@dataclass(frozen=True)
class Fit:
    """What :func:`fit` found.

    Attributes:
        hardware: the description, ready for ``--hardware``.
        programming: error in siemens at the earliest time.
        normality_p: chance of residuals at least as far from normal (D'Agostino and Pearson's K²).
        drift: the exponent ν, None if it was not fitted.
        notes: what was not fitted, and what to beware of, a sentence each.
    """

    hardware: Hardware
    programming: Curve
    normality_p: float
    drift: Curve | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.hardware.name,
            "device": self.hardware.device.model_dump(mode="json"),
            "programming_siemens": self.programming.summary(),
            "normality_p": self.normality_p,
            "drift": None if self.drift is None else self.drift.summary(),
            "notes": list(self.notes),
        }

    def lines(self) -> list[tuple[str, str]]:
        """(what, value with its 95 % interval) for people; x = target/g_max."""
        one = self.programming
        found = [
            ("mean error, µS", _in_words(one.mean, one.mean_95, 1e6)),
            ("standard deviation, µS", _in_words(one.std, one.std_95, 1e6)),
            ("residuals normal", f"p = {self.normality_p:.2g} (D'Agostino-Pearson)"),
            ("levels fitted", f"deviance {one.misfit:.2f} per degree of freedom, p = {one.misfit_p:.2g}"),
            ("log-likelihood", f"{one.log_likelihood:.6g}"),
        ]
        if self.drift is not None:
            found += [
                ("drift exponent, mean", _in_words(self.drift.mean, self.drift.mean_95, 1.0)),
                ("drift exponent, std", _in_words(self.drift.std, self.drift.std_95, 1.0)),
                ("drift levels fitted", f"deviance {self.drift.misfit:.2f}, p = {self.drift.misfit_p:.2g}"),
            ]
        return found


def _in_words(values: Sequence[float], halves: Sequence[float], unit: float) -> str:
    powers = ("", "·x", "·x²", "·x³")
    return " + ".join(
        f"({value * unit:.3g} ± {half * unit:.2g}){power}"
        for value, half, power in zip(values, halves, powers, strict=False)
    )


# ---------------------------------------------------------------- reading


def read(path: str | Path) -> Data:
    """Measurements from a CSV file.

    Columns: ``target`` and ``measured`` in siemens (``target_us`` in microsiemens; also _ms, _ns, _ps),
    ``time_s`` since programming, ``device``, any text.  A device written to several targets counts as one
    device a target.

    Raises:
        UsageError: unreadable or too large a file, a missing column, a cell that is no finite number, a
            negative target or time, a device measured twice at one time.
    """
    import numpy as np

    text = _text(Path(path))
    rows = csv.reader(io.StringIO(text), strict=True)
    try:
        header = next(rows, [])
        found = _columns([name.strip().lower() for name in header], path)
        cells = [(rows.line_num, row) for row in rows if row]
    except csv.Error as error:
        raise UsageError(f"{path}, line {rows.line_num}: not CSV: {error}") from error
    numbers: dict[str, list[float]] = {name: [] for name in _COLUMNS[:3]}
    devices: dict[tuple[str, float], int] = {}
    device = []
    for line, row in cells:
        if len(row) != len(header):
            raise UsageError(f"{path}, line {line}: expected {len(header)} cells; got {len(row)}")
        for name in numbers:
            place, unit = found[name]
            numbers[name].append(_number(row[place], name, unit, f"{path}, line {line}"))
        key = (row[found["device"][0]].strip(), numbers["target"][-1])
        device.append(devices.setdefault(key, len(devices)))
    target, measured, time_s = (np.array(numbers[name]) for name in _COLUMNS[:3])
    data = Data(target, measured, time_s, np.array(device, np.int64))
    if len({*zip(device, numbers["time_s"], strict=True)}) < len(device):
        raise UsageError(f"{path}: a device is measured twice at one time: give each writing its own device")
    return data


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise UsageError(f"cannot read {path}: {'not a file' if path.exists() else 'no such file'}")
        if path.stat().st_size > LARGEST_BYTES:
            raise UsageError(f"{path} is too large: expected at most {LARGEST_BYTES // 1_000_000} MB")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not CSV: it is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def _columns(header: list[str], path: str | Path) -> dict[str, tuple[int, float]]:
    """Column name -> (place, unit in siemens or seconds)."""
    found: dict[str, tuple[int, float]] = {}
    for place, name in enumerate(header):
        stem, _, suffix = name.rpartition("_") if re.match(r"(target|measured)_", name) else (name, "", "")
        if stem in _COLUMNS and suffix in _UNITS:
            if stem in found:
                raise UsageError(f"{path} has two columns for {stem!r}")
            found[stem] = (place, _UNITS[suffix])
    for name in _COLUMNS:
        if name not in found:
            if not any(header):
                raise UsageError(f"{path} is empty: expected the columns {', '.join(_COLUMNS)}")
            raise UsageError(f"{path} lacks a column: {unknown('file without', name, header)}")
    return found


def _number(cell: str, name: str, unit: float, where: str) -> float:
    try:
        value = float(cell) * unit
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (value < 0 and name != "measured"):
        least = "" if name == "measured" else " of at least 0"
        raise UsageError(f"{where}: {name} is {cell.strip()!r}: expected a finite number{least}")
    return value


# ---------------------------------------------------------------- fitting


def fit(data: Data, *, name: str = "measured", g_max_siemens: float | None = None) -> Fit:
    r"""Fit bias, spread and drift.

    Programming, on the rows of the earliest time, with x = target/g_max::

        measured ~ N(target + b(x), σ(x)²)

    Drift, where all devices of at least three levels are measured at three times or more that span a decade:
    ν of each device is the slope of −ln g over ln t by least squares, and ::

        ν ~ N(m(x), s(x)² + e²)

    e is the error of that slope, from the scatter of the points about it: it is no spread of the devices.
    b, σ, m and s are polynomials of order 0 to 3; the Bayesian information criterion chooses.

    Args:
        data: of :func:`read`.
        name: of the hardware.
        g_max_siemens: largest conductance to be used; else the largest target.

    Raises:
        UsageError: fewer than three levels, fewer than 20 devices a level, targets that cover less than half
            of the range, a level without any scatter.
    """
    import numpy as np
    from scipy.stats import normaltest

    largest = float(data.target.max()) if len(data.target) else 0.0
    g_max = largest if g_max_siemens is None else float(g_max_siemens)
    first = data.time_s == (data.time_s.min() if len(data.time_s) else 0.0)
    levels = np.unique(data.target[first])
    _check_levels(levels, data.target[first], g_max)
    late = len(np.unique(data.device)) - int(first.sum())
    if late:
        raise UsageError(
            f"{late} devices are not measured at the earliest time, {data.time_s.min():g} s: "
            "expected all of them"
        )
    error = (data.measured - data.target)[first]
    curve = _fit_curve(levels, [error[data.target[first] == level] for level in levels], None, g_max)
    x = data.target[first] / g_max
    residuals = (error - np.polyval(curve.mean[::-1], x)) / np.polyval(curve.std[::-1], x)
    normality = float(normaltest(residuals).pvalue)
    drift, t0, why = _drift(data, levels, g_max)
    notes = [
        "read noise was not fitted: what scatters between reads at the earliest time counts as spread",
        *([f"drift was not fitted: {why}"] if drift is None else []),
        *([f"{why}"] if drift is not None and why else []),
        *_doubts(curve, normality, drift),
    ]
    times = (float(data.time_s.min()), float(data.time_s.max()) if drift else float(data.time_s.min()))
    device = Measured(
        g_min_siemens=float(levels[0]),
        g_max_siemens=g_max,
        reference_siemens=g_max,
        bias_siemens=curve.mean,
        spread_siemens=curve.std,
        drift_mean=drift.mean if drift else (0.0,),
        drift_std=drift.std if drift else (0.0,),
        drift_t0_s=t0,
        measured_siemens=(float(levels[0]), float(levels[-1])),
        measured_s=times if drift else (0.0, 0.0),
    )
    return Fit(_described(device, name, data, times, notes), curve, normality, drift, tuple(notes))


def _described(
    device: Measured, name: str, data: Data, times: tuple[float, float], notes: Sequence[str]
) -> Hardware:
    count = len({*data.device.tolist()})
    low, high = (g * 1e6 for g in device.measured_siemens or (0.0, 0.0))
    return Hardware(
        name=name,
        description=f"fitted to {count} measured devices",
        device=device,
        source=Source(
            citation=f"own measurement of {count} devices",
            fit_range=f"{low:.4g} to {high:.4g} µS, {times[0]:g} to {times[1]:g} s",
            covers=f"programming error{', drift' if times[1] > times[0] else ''}; {'; '.join(notes)}",
        ),
    )


def _check_levels(levels: Array, target: Array, g_max: float) -> None:
    if len(levels) < LEAST_LEVELS:
        raise UsageError(
            f"the data have {len(levels)} target levels at the earliest time: expected at least "
            f"{LEAST_LEVELS} to tell how the spread depends on conductance"
        )
    for level in levels:
        count = int((target == level).sum())
        if count < LEAST_DEVICES:
            raise UsageError(
                f"{count} devices at target {level * 1e6:.4g} µS: expected at least {LEAST_DEVICES} a level"
            )
    if not levels[-1] <= g_max * (1 + 1e-9):  # also NaN
        raise UsageError(
            f"g_max is {g_max * 1e6:.4g} µS, below the largest target, {levels[-1] * 1e6:.4g} µS"
        )
    if levels[-1] - levels[0] < _LEAST_SPAN * g_max:
        raise UsageError(
            f"the targets go from {levels[0] * 1e6:.4g} to {levels[-1] * 1e6:.4g} µS: expected them to cover "
            f"at least half of the range up to g_max = {g_max * 1e6:.4g} µS"
        )


def _doubts(curve: Curve, normality: float, drift: Curve | None) -> list[str]:
    found = []
    if normality < 0.001:
        found.append(
            f"programming errors are not normal (D'Agostino-Pearson p = {normality:.1g}): "
            "the model has no such tails"
        )
    for what, one in (("programming errors", curve), ("drift", drift)):
        if one is not None and one.misfit_p < 0.001:
            found.append(
                f"polynomials do not describe the levels of the {what} (deviance {one.misfit:.2g} per degree "
                f"of freedom, p = {one.misfit_p:.1g})"
            )
    return found


def _drift(data: Data, levels: Array, g_max: float) -> tuple[Curve | None, float, str]:
    """(the fit or None, t0, why not or what was left out)."""
    import numpy as np

    later = np.unique(data.time_s[data.time_s > 0])
    t0 = float(later[0]) if len(later) else 1.0
    if len(later) < 3 or later[-1] < 10 * later[0] * (1 - 1e-9):
        return None, t0, f"it takes three times over a decade, got {len(later)} above 0 s"
    slopes, squares, kept = _slopes(data)
    by_level = [slopes[kept == level] for level in levels]
    few = [level for level, values in zip(levels, by_level, strict=True) if len(values) < LEAST_DEVICES]
    usable = np.array([level for level in levels if level not in few])
    if len(usable) < LEAST_LEVELS:
        return None, t0, f"fewer than {LEAST_LEVELS} levels have {LEAST_DEVICES} devices with a slope"
    known = np.array([math.sqrt(squares[kept == level].mean()) for level in usable])
    curve = _fit_curve(usable, [slopes[kept == level] for level in usable], known, g_max)
    left = f"drift was fitted without the levels {', '.join(f'{g * 1e6:.4g}' for g in few)} µS" if few else ""
    return curve, t0, left


def _slopes(data: Data) -> tuple[Array, Array, Array]:
    """(ν, its squared error, target) of each device with three positive reads over a decade."""
    import numpy as np

    good = (data.time_s > 0) & (data.measured > 0)
    order = np.lexsort((data.time_s[good], data.device[good]))
    device, time = data.device[good][order], data.time_s[good][order]
    log_g, target = np.log(data.measured[good][order]), data.target[good][order]
    found = []
    for rows in np.split(np.arange(len(device)), np.flatnonzero(np.diff(device)) + 1):
        if len(rows) < 3 or time[rows[-1]] < 10 * time[rows[0]] * (1 - 1e-9):
            continue
        u = np.log(time[rows]) - np.log(time[rows]).mean()
        y = log_g[rows] - log_g[rows].mean()
        slope = (u @ y) / (u @ u)
        scatter = np.sum((y - slope * u) ** 2) / (len(rows) - 2)
        found.append((-slope, scatter / (u @ u), target[rows[0]]))
    slopes, squares, targets = np.array(found).reshape(-1, 3).T
    return slopes, squares, targets


def _fit_curve(levels: Array, samples: Sequence[Array], known: Array | None, g_max: float) -> Curve:
    """The polynomials of least BIC; ``known`` is the measurement's own standard deviation at each level."""
    import numpy as np
    from scipy.stats import chi2

    counts = np.array([len(values) for values in samples], float)
    means = np.array([values.mean() for values in samples])
    variances = np.array([values.var() for values in samples])
    known = np.zeros(len(levels)) if known is None else known
    for level, variance in zip(levels, variances, strict=True):
        if not variance > 0:
            raise UsageError(
                f"all devices at target {level * 1e6:.4g} µS measure the same: there is no spread to fit"
            )
    size = float(np.sqrt(variances.mean()))  # fit numbers near 1, whatever the unit
    moments = (counts, means / size, variances / size**2, (known / size) ** 2)
    orders = range(min(_HIGHEST_ORDER, len(levels) - 2) + 1)
    x = levels / g_max
    tried = [_maximise(x, moments, p, q) for p in orders for q in (-1, *orders)]
    good = [one for one in tried if one is not None]
    mean, std, information, value = min(
        good, key=lambda one: (len(one[0]) + len(one[1])) * math.log(counts.sum()) - 2 * one[3]
    )
    errors = _NORMAL_95 * size * np.sqrt(np.diag(np.linalg.inv(information)))
    saturated = _log_likelihood(counts, moments[2], moments[2])
    freedom = 2 * len(levels) - len(mean) - len(std)
    deviance = 2 * (saturated - value)
    return Curve(
        levels, counts, means, np.sqrt(variances), known,
        mean=tuple((mean * size).tolist()),
        std=tuple((std * size).tolist()) or (0.0,),
        mean_95=tuple(errors[: len(mean)].tolist()),
        std_95=tuple(errors[len(mean) :].tolist()) or (0.0,),
        log_likelihood=value - float(counts.sum()) * math.log(size),
        misfit=deviance / freedom if freedom else math.nan,
        misfit_p=float(chi2.sf(deviance, freedom)) if freedom else math.nan,
    )  # fmt: skip


def _log_likelihood(counts: Array, squares: Array, variances: Array) -> float:
    """Σ n·ln N with mean squared deviation ``squares`` and variance ``variances`` at each level."""
    import numpy as np

    return float(-0.5 * np.sum(counts * (np.log(2 * math.pi * variances) + squares / variances)))


def _maximise(
    x: Array, moments: tuple[Array, ...], p: int, q: int
) -> tuple[Array, Array, Array, float] | None:
    """Maximum likelihood with a mean of order p and a spread of order q (−1: none but the known one).

    Fisher scoring: the mean is a weighted least-squares line given the spread, and the spread takes a step
    along the inverse of its information.  None where no positive spread is found.
    """
    import numpy as np

    counts, means, variances, known = moments
    if q < 0 and not np.all(known > 0):
        return None
    of_mean, of_std = np.vander(x, p + 1, increasing=True), np.vander(x, q + 1, increasing=True)
    grid = np.vander(np.linspace(x[0], 1.0, 101), q + 1, increasing=True)
    std: Array = np.zeros(q + 1)
    mean: Array
    std[:1] = math.sqrt(max(float(np.average(variances - known, weights=counts)), 1e-4))
    for _ in range(200):
        spread = of_std @ std if q >= 0 else np.zeros(len(x))
        total = spread**2 + known
        weight = counts / total
        mean = np.asarray(
            np.linalg.solve(of_mean.T @ (weight[:, None] * of_mean), of_mean.T @ (weight * means)), np.float64
        )
        squares = variances + (means - of_mean @ mean) ** 2
        if q < 0:
            break
        score = of_std.T @ (weight * (squares / total - 1) * spread)
        about = of_std.T @ ((2 * counts * (spread / total) ** 2)[:, None] * of_std)
        step: Array = np.linalg.lstsq(about, score, rcond=None)[0].astype(np.float64)
        part = next((2.0**-k for k in range(30) if np.all(grid @ (std + 2.0**-k * step) > 1e-6)), 0.0)
        std = np.asarray(std + part * step, np.float64)
        if np.max(np.abs(part * step)) < 1e-10:
            break
    if q >= 0 and not np.all(grid @ std > 1e-5):
        return None
    information = np.zeros((p + q + 2, p + q + 2))
    information[: p + 1, : p + 1] = of_mean.T @ (weight[:, None] * of_mean)
    if q >= 0:
        information[p + 1 :, p + 1 :] = about
    if np.linalg.cond(information) > 1e12:
        return None
    return mean, std, information, _log_likelihood(counts, squares, total)
