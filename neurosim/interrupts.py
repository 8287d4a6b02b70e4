"""Ctrl-C at moments when a plain KeyboardInterrupt would be lost, or break something half-way.

Python raises it wherever the program happens to be: inside an import, which stays half done, or inside
a callback from C (numba's compiler has some), where it is printed and forgotten.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Put Ctrl-C off until the end of the ``with``; for imports and other short preparations."""
    with _handler(at_once=False) as pressed:
        yield
    if pressed:
        raise KeyboardInterrupt


@contextlib.contextmanager
def remembered() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C interrupt at once, and give a function that interrupts again if the first was lost."""
    with _handler(at_once=True) as pressed:

        def check() -> None:
            if pressed:
                raise KeyboardInterrupt

        yield check
        check()


@contextlib.contextmanager
def _handler(at_once: bool) -> Iterator[list[int]]:
    """Our SIGINT handler, where Python's own stands; the list is no longer empty once it was called."""
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        if at_once:
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
