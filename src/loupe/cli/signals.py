"""Signals become exceptions that end a step, so that its run is closed and nothing half-done is left."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALLED = 128  # is added to the number of a signal for the status of a process that it ended
RAISED_AGAIN = 5.0  # seconds after a signal, if what it raised was lost
IMPORTING = "<frozen importlib._bootstrap>"  # the file that Python's import has in a frame
SOON = 0.01  # seconds until a signal that came at a bad moment is looked at again


class Terminated(SystemExit):
    """SIGTERM has come; the code is the status that a shell gives such a process."""


@contextmanager
def as_exits() -> Iterator[None]:
    """SIGTERM ends what stands inside as Terminated, a SystemExit, and Ctrl-C as KeyboardInterrupt.

    Python drops what a signal raises while a destructor or a callback of a library runs, and a library may too: so it
    is raised again until it is seen on its way. Where it could leave a lock behind, for which other threads then wait
    for ever, it is raised a moment later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        again = number == getattr(signal, "SIGALRM", None)
        if again and (not received or _is_on_its_way()):
            return
        impatient = bool(received) and not again
        if not received:
            received.append(number)
        if (_may_lock(frame) or (_is_held() and not impatient)) and _raise_again_in(SOON):
            return
        _raise_again_in(RAISED_AGAIN)
        raise KeyboardInterrupt if received[0] == signal.SIGINT else Terminated(SIGNALLED + received[0])

    def dropped(lost: Any) -> None:
        if received and issubclass(lost.exc_type, KeyboardInterrupt | Terminated):
            _raise_again_in(SOON)
        else:
            hook(lost)

    known = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGALRM") if hasattr(signal, name)]
    numbers = [number for number in known if signal.getsignal(number) != signal.SIG_IGN]  # as `nohup` wants it
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        _raise_again_in(0)
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


@contextmanager
def held() -> Iterator[None]:
    """What a first signal raises waits for the end of what stands inside.

    Processes that are started there never hear Ctrl-C, which a terminal sends to all of a step's.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which makes the thread that starts it hear Ctrl-C again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _may_lock(frame: FrameType | None) -> bool:
    """Whether code is about a lock that it has not yet, or no longer, a `with` for."""
    code = frame.f_code if frame is not None else None
    return code is not None and (code.co_filename == IMPORTING or code.co_name in ("__enter__", "__exit__"))


def _is_held() -> bool:
    return hasattr(signal, "pthread_sigmask") and signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def _is_on_its_way() -> bool:
    """Whether the code that a signal has come to is tidying up after one."""
    found = sys.exc_info()[1]
    while found is not None and not isinstance(found, KeyboardInterrupt | Terminated):
        found = found.__context__
    return found is not None


def _raise_again_in(seconds: float) -> bool:
    """0 is never; False where the system has no timers: it stays with the first time."""
    if not hasattr(signal, "setitimer"):
        return False
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return True
