"""Ctrl-C between two steps instead of in the middle of one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from neurosim.interrupts import Handler, installed


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

    def noting(before: Handler) -> Handler:
        def note(number: int, frame: FrameType | None) -> None:
            if interrupt.pressed:
                before(number, frame)
            interrupt.pressed = True

        return note

    with installed(noting):
        yield interrupt
