"""Ctrl-C at moments when a plain KeyboardInterrupt would be lost, or break something half-way.

Python raises it wherever the program happens to be: inside an import, which stays half done (and where some
C++ ends the process), or inside a callback from C (numba's compiler has some), where it is printed and
forgotten.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

AGAIN_S = 0.02
"""When an interrupt that came during an import is tried again."""


class OutsideImports:
    """A SIGINT handler that interrupts at once, but in an import only after it, or when pressed twice."""

    def __init__(self) -> None:
        self._waiting: threading.Timer | None = None
        self._is_due = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Interrupt, or come back later."""
        again, self._is_due = self._is_due, False
        pressed_twice = self._waiting is not None and not again
        self.cancel()
        if pressed_twice or not _in_an_import(frame):
            raise KeyboardInterrupt
        self._waiting = threading.Timer(AGAIN_S, self._come_back)
        self._waiting.daemon = True
        self._waiting.start()

    def cancel(self) -> None:
        """Do not come back."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = None

    def _come_back(self) -> None:
        self._is_due = True
        main = threading.main_thread().ident
        if main is not None:  # to that thread itself: it may be asleep in C
            signal.pthread_kill(main, signal.SIGINT)


def _in_an_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def outside_imports() -> Iterator[None]:
    """Let Ctrl-C wait for the end of an import, where Python's own handler stands; see OutsideImports."""
    handler = OutsideImports()
    try:
        with installed(lambda before: handler):
            yield
    finally:
        handler.cancel()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Put Ctrl-C off until the end of the ``with``; for imports and other short preparations."""
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)

    with installed(lambda before: note):
        yield
    if pressed:
        raise KeyboardInterrupt


@contextlib.contextmanager
def remembered() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C interrupt at once, and give a function that interrupts again if the first was lost."""
    pressed: list[int] = []

    def noting(before: Handler) -> Handler:
        def note(number: int, frame: FrameType | None) -> None:
            pressed.append(number)
            before(number, frame)

        return note

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    with installed(noting):
        yield check
        check()


Handler = Callable[[int, FrameType | None], Any]


@contextlib.contextmanager
def installed(made: Callable[[Handler], Handler]) -> Iterator[None]:
    """A SIGINT handler made from the one before, for the time of the ``with``.

    Only on the main thread, and only in place of Python's own or :class:`OutsideImports`: a program that has
    its own handler keeps it, and so does what is already held back.
    """
    before = signal.getsignal(signal.SIGINT)
    is_ours = before is signal.default_int_handler or isinstance(before, OutsideImports)
    if threading.current_thread() is not threading.main_thread() or not is_ours or not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, made(before))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
