"""Converts signals to exceptions, so that a step closes its run and removes unfinished files before the step ends.

Python discards an exception that a signal raises in a destructor or a callback. A library may discard the exception
in a bare `except`. In a test, one of 58 signals was lost during imports. Therefore, after a signal, a thread checks
whether the main thread still handles the exception. If the exception is lost, the thread sends the signal again.
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

SIGNAL_STATUS = 128  # if a signal ends a process, its exit status is this number plus the number of the signal
CHECK_INTERVAL_S = 0.5
# An exception counts as lost if this number of checks in a row does not find the exception. One check is not enough,
# because a library may store an exception and raise the exception later.
CHECKS_UNTIL_LOST = 2

_received: list[int] = []  # the signals that were received in the open block of `raise_on_signals`
_deferring: list[bool] = []  # one entry per open block of `defer_signals`
_deferred: list[int] = []  # the signal that is raised when the last open block of `defer_signals` exits


class Terminated(SystemExit):
    """The process received SIGTERM. The code is the exit status of the process."""


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """In the block, raise Terminated on SIGTERM and KeyboardInterrupt on Ctrl-C; a second signal raises again.

    A signal whose exception was discarded raises again after a second, or at the end of the block. A signal that the
    process already ignores, for example because of `nohup`, is still ignored. Only the main thread can handle
    signals, so the context manager has no effect in other threads.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if not _received:
            with suppress(RuntimeError):  # the system cannot start another thread
                # threading.Thread is not used: it needs locks that the interrupted main thread may hold
                _thread.start_new_thread(_repeat_lost_signal, (number,))
        _received.append(number)
        if _deferring and not _deferred:
            _deferred.append(number)
        else:
            _deferred.clear()
            raise _make_exception(number)

    def report_discarded(discarded: Any) -> None:
        if not _is_signal(discarded.exc_value):
            previous_hook(discarded)

    previous_hook, sys.unraisablehook = sys.unraisablehook, report_discarded
    numbers = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    previous_handlers = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook = previous_hook
        first = _received[:1]
        _received.clear()
        if first and not _is_signal(sys.exception()):
            raise _make_exception(first[0])


@contextmanager
def stop_at_signal() -> Iterator[None]:
    """Leave the block without an error when a signal arrives: the normal end of a step that serves requests."""
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        _received.clear()


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer the first signal until the block exits, such as during a transaction of MLflow's database.

    A second signal is raised immediately and ends the block. MLflow rolls a transaction back only after an
    `Exception`, and the exceptions of signals are not of this class. If a signal interrupts the transaction, the
    database stays locked: in 21 of 40 tries, the run could then not be closed.
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
    """Return whether a signal is ending the step. Other threads ask this before work that would delay the end."""
    return bool(_received)


def _make_exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(SIGNAL_STATUS + number)


def _is_signal(error: BaseException | None) -> bool:
    """Return whether a signal raised this exception, or an exception in its chain of causes and contexts."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt | Terminated):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _repeat_lost_signal(number: int) -> None:
    """Send a signal again whenever the main thread has discarded the exception of the signal and continues."""
    main_thread, failed_checks = threading.main_thread().ident or 0, 0
    while True:
        time.sleep(CHECK_INTERVAL_S)
        if not _received:
            return
        current: Any = sys._current_exceptions().get(main_thread)
        current = current[1] if isinstance(current, tuple) else current  # Python 3.11: (class, exception, traceback)
        failed_checks = 0 if _deferring or _is_signal(current) else failed_checks + 1
        if failed_checks >= CHECKS_UNTIL_LOST:
            failed_checks = 0
            signal.pthread_kill(main_thread, number)  # this call also interrupts a system call
