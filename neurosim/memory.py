"""Keeping freed memory in the process: what one chip leaves behind serves the next.

Evaluating a chip allocates tens of megabytes and frees them, again and again.  The C library gives blocks of
that size back to the kernel, which clears each page when it is touched anew: 8,300 page faults a chip, and a
third of the time, for a perceptron of 669,000 weights.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_KEPT_BYTES = 256 << 20
_MOST_KEPT_BYTES = 1 << 30


@cache
def keep_freed_memory() -> bool:
    """Have the C library keep freed blocks of up to 256 MB, and at most 1 GB at the end of its heap.

    Once a process; True where it could be done (glibc).  Memory in use does not grow by it.
    """
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return all(
            mallopt(option, size) == 1
            for option, size in (
                (_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES),
                (_M_TRIM_THRESHOLD, _MOST_KEPT_BYTES),
            )
        )
    return False
