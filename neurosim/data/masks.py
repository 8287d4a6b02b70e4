"""Masks by rule, from intensity, for images that nobody drew masks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def otsu(values: Array) -> int:
    """Otsu's threshold t of uint8 values: the smallest that maximises w0 w1 (m1 - m0)².

    w0 and m0 are count and mean of the values <= t, w1 and m1 of those > t (Otsu 1979, eq. 14).

    >>> import numpy as np
    >>> otsu(np.array([3, 5, 200, 210], np.uint8))
    5
    """
    import numpy as np

    counts = np.bincount(values.reshape(-1), minlength=256).astype(np.int64)
    below, sums = counts.cumsum(), (counts * np.arange(256)).cumsum()
    above = below[-1] - below
    # w0 w1 (m1 - m0)^2 = (sums1 w0 - sums0 w1)^2 / (w0 w1)
    difference = (sums[-1] - sums) * below - sums * above
    with np.errstate(divide="ignore", invalid="ignore"):
        between = difference.astype(np.float64) ** 2 / (below * above)
    return int(np.nan_to_num(between, nan=-1.0).argmax())


def ellipse(box: Sequence[float], height: int, width: int) -> Array:
    """Flags of the pixels whose centre lies in the ellipse inscribed in a box (cx, cy, w, h in fractions).

    A box narrower than a pixel is taken as one pixel wide, so that the ellipse is never empty.

    >>> ellipse((0.5, 0.5, 1.0, 1.0), 4, 4).astype(int).tolist()
    [[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]]
    """
    import numpy as np

    cx, cy, w, h = box
    # half a pixel's diagonal at least, so that some centre is inside
    rx, ry = max(w * width / 2, 0.75), max(h * height / 2, 0.75)
    x = (np.arange(width) + 0.5 - cx * width) / rx
    y = (np.arange(height) + 0.5 - cy * height) / ry
    flags: Array = y[:, None] ** 2 + x[None, :] ** 2 <= 1
    return flags


def largest_dark(image: Array, inside: Array, threshold: int) -> Array:
    """Within ``inside``, the largest 4-connected region at or below ``threshold``, its holes filled.

    Nothing is flagged where no pixel inside is that dark.

    >>> import numpy as np
    >>> image = np.array([[9, 1, 9], [1, 9, 1], [1, 1, 1]], np.uint8)
    >>> largest_dark(image, np.ones((3, 3), bool), 5).astype(int).tolist()
    [[0, 0, 0], [1, 0, 1], [1, 1, 1]]
    """
    import numpy as np
    from scipy import ndimage

    regions, count = ndimage.label(inside & (image <= threshold))
    if count == 0:
        return np.zeros(image.shape, bool)
    filled: Array = ndimage.binary_fill_holes(regions == 1 + np.bincount(regions.reshape(-1))[1:].argmax())
    return filled
