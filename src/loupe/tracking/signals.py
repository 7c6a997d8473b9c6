"""Signals become exceptions that end a step, so that its run is closed and nothing half-done is left."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

RAISED_AGAIN = 5.0  # seconds after a signal, if what it raised was lost


@contextmanager
def signals_as_exits() -> Iterator[None]:
    """SIGTERM ends the step as SystemExit does, and Ctrl-C as KeyboardInterrupt.

    Python drops what a signal raises while a destructor or a callback of a library runs. So it is raised again
    every few seconds until `seen` is called.
    """
    received: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        if not received:
            received.append(number)
        _raise_again_in(RAISED_AGAIN)
        raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGALRM") if hasattr(signal, name)]
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        _raise_again_in(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def seen() -> None:
    """The exception has arrived: it need not be raised again."""
    _raise_again_in(0)


def _raise_again_in(seconds: float) -> None:
    """0 is never; where the system has no timers, it stays with the first time."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
