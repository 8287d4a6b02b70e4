"""The program: ``neurosim`` and ``python -m neurosim``.

Ctrl-C while the first modules load ends the program at once and quietly: nothing has begun yet.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Load the command line and run it."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else the caller ignores it
    if ours:
        signal.signal(signal.SIGINT, _nothing_begun)
    from neurosim.cli import main as run

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


def _nothing_begun(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted: nothing had begun\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
