"""Sounds as numbers: wave files, mu-law codes, and mel-frequency cepstral coefficients (MFCC).

>>> import numpy as np
>>> Mfcc()(np.zeros(8000)).shape  # one second: 98 steps of 40 coefficients
(98, 40)
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MAX_SECONDS = 600.0


def read_wav(path: str | Path, max_seconds: float = MAX_SECONDS) -> tuple[Array, int]:
    """Samples, float64 in [-1, 1), and samples a second of a mono 16-bit PCM wave file.

    No size that the file claims is believed: at most ``max_seconds`` are read, and a file that holds less
    than its header says is refused.

    Raises:
        UsageError: missing, damaged, or of another kind.
    """
    import numpy as np

    path = Path(path)
    try:
        with wave.open(str(path), "rb") as file:
            kind = (file.getnchannels(), file.getsampwidth(), file.getcomptype())
            rate, claimed = file.getframerate(), file.getnframes()
            if kind != (1, 2, "NONE") or not 1 <= rate <= 192_000:
                raise UsageError(
                    f"{path}: expected one channel of 16-bit PCM, at most 192,000 samples a second; "
                    f"got {kind[0]} channels of {8 * kind[1]} bits, {rate:,} samples a second"
                )
            if not 0 < claimed <= max_seconds * rate:
                raise UsageError(
                    f"{path} has {claimed:,} samples: expected 1 to {int(max_seconds * rate):,} "
                    f"({max_seconds:g} s)"
                )
            content = file.readframes(claimed)
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # whatever wave meets in a damaged file
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UsageError(f"{path} is damaged or not a PCM wave file ({reason})") from error
    if len(content) != 2 * claimed:
        raise UsageError(f"{path} ends after {len(content) // 2:,} of {claimed:,} samples")
    return np.frombuffer(content, "<i2") / 32768.0, rate


def from_mu_law(codes: Array) -> Array:
    """Amplitudes in [-1, 1] of mu-law codes u, 0 to 255 (continuous mu-law, mu = 255)::

        s = u / 127.5 - 1;   z = sign(s) (256^|s| - 1) / 255

    The inverse of u = round((s + 1) 127.5), s = sign(z) ln(1 + 255 |z|) / ln 256.

    >>> import numpy as np
    >>> from_mu_law(np.array([0, 255])).tolist()
    [-1.0, 1.0]
    """
    import numpy as np

    s = np.asarray(codes, np.float64) / 127.5 - 1
    amplitudes: Array = np.sign(s) * (256 ** np.abs(s) - 1) / 255
    return amplitudes


@dataclass(frozen=True)
class Mfcc:
    """Mel-frequency cepstral coefficients, step by step (Davis and Mermelstein 1980, as in HTK)::

        frame t, sample n:   f[t, n] = x[t hop + n] hann[n],   hann[n] = 0.5 - 0.5 cos(2 pi n / window)
        power:               P[t, k] = |sum_n f[t, n] exp(-2 pi i k n / fft)|^2,  k = 0 ... fft/2
        mel scale:           mel(f) = 2595 log10(1 + f / 700)
        bands:               M[t, m] = sum_k H[m, k] P[t, k];  H[m] a triangle in Hz, 0 at e[m], 1 at e[m+1],
                             0 at e[m+2], the e being bands + 2 equal steps of mel from low_hz to high_hz
        logarithm:           L[t, m] = ln max(M[t, m], floor)
        cosine transform:    c[t, q] = s_q sum_m L[t, m] cos(pi q (2 m + 1) / (2 bands)),
                             s_0 = sqrt(1 / bands), other s_q = sqrt(2 / bands)
        lifter, if not 0:    c[t, q] (1 + lifter/2 sin(pi q / lifter))

    There is no pre-emphasis, and frames are not padded: ``samples`` give 1 + (samples - window) // hop steps.

    Args:
        rate_hz: samples a second.
        window_s, hop_s: length of a frame and distance of frames, in seconds.
        fft: points of the Fourier transform; frames are filled up with zeros.
        bands, low_hz, high_hz: mel bands, and where they begin and end.
        coefficients: how many are kept, from c_0 on; at most ``bands``.
        floor: the least energy of a band, so that silence has a logarithm.
        lifter: of HTK (22 is usual), or 0 for none.

    Raises:
        UsageError: a frame of less than two samples or longer than ``fft``, bands beyond half the rate,
            more coefficients than bands, a floor that is not above 0, or a negative lifter.
    """

    rate_hz: int = 8000
    window_s: float = 0.030
    hop_s: float = 0.010
    fft: int = 512
    bands: int = 40
    low_hz: float = 20.0
    high_hz: float = 4000.0
    coefficients: int = 40
    floor: float = 1e-6
    lifter: float = 0.0

    def __post_init__(self) -> None:
        if not (2 <= self.window <= self.fft and self.hop >= 1):
            raise UsageError(
                f"expected frames of 2 to fft={self.fft} samples, at least one apart; got {self.window} and "
                f"{self.hop}"
            )
        if not 0 <= self.low_hz < self.high_hz <= self.rate_hz / 2:
            raise UsageError(
                f"expected 0 <= low_hz < high_hz <= {self.rate_hz / 2:g} Hz, half the rate; "
                f"got {self.low_hz:g} and {self.high_hz:g}"
            )
        if not 1 <= self.coefficients <= self.bands:
            raise UsageError(f"expected 1 to bands={self.bands} coefficients; got {self.coefficients}")
        if not (self.floor > 0 and self.lifter >= 0):
            raise UsageError(
                f"expected a floor above 0 and a lifter of at least 0; got {self.floor:g}, {self.lifter:g}"
            )

    @property
    def window(self) -> int:
        """Samples a frame."""
        return round(self.window_s * self.rate_hz)

    @property
    def hop(self) -> int:
        """Samples from frame to frame."""
        return round(self.hop_s * self.rate_hz)

    def filters(self) -> Array:
        """The triangles H, (bands, fft / 2 + 1).

        >>> H = Mfcc().filters()
        >>> H.shape, float(H.max()) <= 1.0, bool((H.sum(1) > 0).all())
        ((40, 257), True, True)
        """
        import numpy as np

        low, high = (2595 * np.log10(1 + f / 700) for f in (self.low_hz, self.high_hz))
        edges = 700 * (10 ** (np.linspace(low, high, self.bands + 2) / 2595) - 1)
        f = np.arange(self.fft // 2 + 1) * self.rate_hz / self.fft
        left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
        return np.clip(np.minimum((f - left) / (centre - left), (right - f) / (right - centre)), 0, None)

    def energies(self, samples: Array) -> Array:
        """The energies M of the bands: (..., samples) -> (..., steps, bands), before floor and logarithm."""
        import numpy as np

        samples = np.asarray(samples, np.float64)
        if samples.shape[-1:] < (self.window,):
            raise UsageError(f"expected at least {self.window} samples; got shape {samples.shape}")
        frames = np.lib.stride_tricks.sliding_window_view(samples, self.window, axis=-1)[..., :: self.hop, :]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        spectrum = np.fft.rfft(frames * hann, self.fft)
        energies: Array = (spectrum.real**2 + spectrum.imag**2) @ self.filters().T
        return energies

    def __call__(self, samples: Array) -> Array:
        """Coefficients c: (..., samples) -> (..., steps, coefficients), float64."""
        import numpy as np
        from scipy.fft import dct

        logarithms = np.log(np.maximum(self.energies(samples), self.floor))
        cepstra: Array = dct(logarithms, type=2, norm="ortho")[..., : self.coefficients]
        if self.lifter:
            q = np.arange(self.coefficients)
            cepstra = cepstra * (1 + self.lifter / 2 * np.sin(np.pi * q / self.lifter))
        return cepstra
