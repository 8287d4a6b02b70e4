"""Ctrl-C between two steps instead of in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupt:
    """Whether Ctrl-C was pressed."""

    pressed: bool = False

    def check(self) -> None:
        """Raise the KeyboardInterrupt that was put off, if there was one."""
        if self.pressed:
            raise KeyboardInterrupt


@contextlib.contextmanager
def put_off() -> Iterator[Interrupt]:
    """Note the first Ctrl-C for :meth:`Interrupt.check`; the second one interrupts at once.

    Does nothing off the main thread or where the program has its own handler: there an interrupt arrives
    whenever it does, and only the work since the last checkpoint is done again.
    """
    interrupt = Interrupt()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return

    def note(number: int, frame: FrameType | None) -> None:
        if interrupt.pressed:
            raise KeyboardInterrupt
        interrupt.pressed = True

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
