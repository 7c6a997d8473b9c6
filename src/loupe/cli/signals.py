"""Converts signals to exceptions, so that a step closes its run and removes unfinished files.

Python discards exceptions in destructors and callbacks, and libraries do so in a bare `except`: in a test, one of 58
signals during imports was lost. Therefore a thread sends the signal again if its exception was discarded.
"""

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNAL_STATUS = 128  # the exit status is this number plus the number of the signal
CHECK_INTERVAL_S = 0.5
# Every CHECK_INTERVAL_S, a thread checks the main thread. The check fails if the main thread is not handling the
# signal's exception. After this number of failed checks in a row, the exception counts as lost. One failed check is
# not enough: a library may store the exception and raise it later.
CHECKS_UNTIL_LOST = 2

_received: list[int] = []  # numbers of the signals that arrived in the open block of `raise_on_signals`
_deferring: list[bool] = []  # one entry per open block of `defer_signals`
_deferred: list[int] = []  # number of the signal to raise when the outermost block of `defer_signals` exits


class Terminated(SystemExit):
    """The process received SIGTERM; the attribute `code` is the exit status."""


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """In the block, each SIGTERM raises Terminated, and each Ctrl-C raises KeyboardInterrupt.

    If the exception of the first signal was discarded, the function raises it when the block exits. A signal that the
    process ignores is still ignored, such as Ctrl-C in a background job of a shell script. In a thread other than the
    main thread, the function does nothing.

    After a signal, errors in destructors are no longer printed: the process is ending, and a constructor that the
    signal interrupted has left an incomplete object.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if not _received:
            with suppress(RuntimeError):  # raised if the system cannot start another thread
                # threading.Thread needs locks that the interrupted thread may hold
                _thread.start_new_thread(_repeat_lost_signal, (number,))
        _received.append(number)
        if _deferring and not _deferred:
            _deferred.append(number)
        else:
            _deferred.clear()
            raise _make_exception(number)

    def report_discarded(discarded: Any) -> None:
        if not _received:
            previous_hook(discarded)

    previous_hook, sys.unraisablehook = sys.unraisablehook, report_discarded
    numbers = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    previous_handlers = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook = _ignore if _received else previous_hook
        first = _received[:1]
        _received.clear()
        if first and not _is_signal(sys.exception()):
            raise _make_exception(first[0])


@contextmanager
def stop_at_signal() -> Iterator[None]:
    """End the block normally when a signal arrives, for a step that serves requests."""
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        _received.clear()


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer the first signal until the outermost block exits. A second signal ends the block immediately.

    MLflow rolls back a transaction only after an `Exception`. KeyboardInterrupt and Terminated are not subclasses of
    `Exception`: without this function, the database stayed locked in 21 of 40 tries.
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
            raise _make_exception(_deferred.pop())


def is_signalled() -> bool:
    """Return whether a signal is ending the step."""
    return bool(_received)


def _ignore(discarded: Any) -> None:
    """Print nothing about an error in a destructor."""


def _make_exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(SIGNAL_STATUS + number)


def _is_signal(error: BaseException | None) -> bool:
    """Return whether a signal raised this exception or one of its causes and contexts."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt | Terminated):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _repeat_lost_signal(number: int) -> None:
    """Send a signal again whenever the main thread has discarded the exception of the signal."""
    main_thread, failed_checks = threading.main_thread().ident or 0, 0
    while True:
        time.sleep(CHECK_INTERVAL_S)
        if not _received:
            return
        current: Any = sys._current_exceptions().get(main_thread)
        current = current[1] if isinstance(current, tuple) else current  # a tuple in Python 3.11
        failed_checks = 0 if _deferring or _is_signal(current) else failed_checks + 1
        if failed_checks >= CHECKS_UNTIL_LOST:
            failed_checks = 0
            signal.pthread_kill(main_thread, number)  # also interrupts a system call of the main thread
