"""The two worker processes of a server that upscales photos: one for small photos, and one for all others."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from loupe.cli.progress import print_error_once
from loupe.errors import LoupeError, UsageError
from loupe.imaging.child_process import ChildProcess
from loupe.imaging.memory import get_default_budget
from loupe.photos.worker import PhotoAnswer, PhotoRequest

LARGE_SHARE, SMALL_SHARE = 0.55, 0.15  # shares of the memory budget; the rest is for the server
MAX_SMALL_BYTES = 4_000_000  # maximum file size of a small photo
# A small photo moves to the process for large photos when its elapsed time and its CPU time both reach this limit.
SMALL_TIMEOUT_S = 3.0
MAX_WAITING = 32  # maximum number of large photos that wait or are being upscaled
ENDED = "cannot be upscaled: the worker process ended, perhaps for lack of memory"
START_TIMEOUT_S = 120.0
POLL_INTERVAL_S = 0.05


class RequestStoppedError(LoupeError):
    """The time limit of a request has passed, or its client has closed the connection."""


class BusyError(LoupeError):
    """Too many large photos wait."""


@dataclass(frozen=True)
class Control:
    """Decides whether the work for a request must end.

    Args:
        timeout_s: the maximum time since `started`; None for no limit.
        cancelled: set when the client no longer waits.
        started: the creation time of this object, from `time.monotonic`.
    """

    timeout_s: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise RequestStoppedError if the work must end."""
        if self.cancelled.is_set():
            raise RequestStoppedError("the client has closed the connection")
        if self.timeout_s is not None and time.monotonic() - self.started > self.timeout_s:
            raise RequestStoppedError(f"took longer than {self.timeout_s:g} s")

    def get_remaining_s(self) -> float:
        """Return the remaining time in seconds; infinity without a limit."""
        return math.inf if self.timeout_s is None else self.started + self.timeout_s - time.monotonic()


class PhotoWorkers:
    """Upscales photos in two processes, so that small photos do not wait for large ones.

    A process that works for too long is killed and started again.

    Args:
        function: the function that the processes run, as in `ChildProcess`; it calls `worker.serve_requests`.
        options: the keyword arguments of the function, without `max_bytes` and `large`.
    """

    def __init__(self, function: str, options: dict[str, Any]) -> None:
        budget = get_default_budget()
        self._small, self._large = (
            _Worker(function, options | {"max_bytes": int(share * budget), "large": large})
            for share, large in ((SMALL_SHARE, False), (LARGE_SHARE, True))
        )
        self._waiting = threading.Semaphore(MAX_WAITING)

    def start(self) -> str:
        """Start both processes, wait until they are ready, and return the device of the networks.

        Raises:
            UsageError: the networks cannot be loaded.
            LoupeError: the processes are not ready after START_TIMEOUT_S.
        """
        for worker in (self._small, self._large):
            worker.start()
        control = Control(START_TIMEOUT_S)
        try:
            for worker in (self._small, self._large):
                worker.wait_until_ready(control)
        except RequestStoppedError as error:
            raise LoupeError(f"model: cannot be loaded: {error}") from None
        return self._large.device

    def upscale(
        self, request: PhotoRequest, control: Control, report: Callable[[float], None] = lambda _: None
    ) -> PhotoAnswer:
        """Upscale a photo.

        Args:
            request: the request; `small` must be False.
            control: decides whether the work must end.
            report: called with the finished fraction.

        Raises:
            RequestStoppedError: the work must end; see `Control`.
            BusyError: too many large photos wait.
            UsageError: the process was started again, and the networks cannot be loaded.
            FileNotFoundError: the photo was deleted.
        """
        if os.path.getsize(request.photo) <= MAX_SMALL_BYTES:
            answer = self._try_small(request, control, report)
            if answer is not None:
                return answer
        if not self._waiting.acquire(blocking=False):
            raise BusyError(f"server: is busy with {MAX_WAITING} large photos; try again later")
        try:
            with self._large.use(control):
                answer = self._large.upscale(request, control, report)
        finally:
            self._waiting.release()
        return answer or PhotoAnswer(reason=ENDED)

    def close(self) -> None:
        """Kill the processes."""
        self._small.kill()
        self._large.kill()

    def _try_small(
        self, request: PhotoRequest, control: Control, report: Callable[[float], None]
    ) -> PhotoAnswer | None:
        """Try the process for small photos; return None if it declines, ends or takes too long."""
        with self._small.use(control):
            try:
                answer = self._small.upscale(replace(request, small=True), control, report, SMALL_TIMEOUT_S)
            except RequestStoppedError:
                control.check()
                return None
        return None if answer is None or answer.declined else answer


class _Worker:
    """A process that only one thread at a time uses."""

    def __init__(self, function: str, options: dict[str, Any]) -> None:
        self._function, self._options = function, options
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._ready = False
        self.device = ""

    @contextmanager
    def use(self, control: Control) -> Iterator[None]:
        """Wait for other threads, and reserve the process until the block exits."""
        while not self._lock.acquire(timeout=POLL_INTERVAL_S):
            control.check()
        try:
            yield
        finally:
            self._lock.release()

    def start(self) -> None:
        """Start the process."""
        self._child = ChildProcess(self._function, self._options, shows_errors=True)
        self._ready = False

    def wait_until_ready(self, control: Control) -> None:
        """Wait until the networks are loaded; raise UsageError if they cannot be loaded."""
        if self._ready:
            return
        try:
            message = self._receive(control.check)
        except EOFError:
            message = {"failed": "model: the process that loads the model has ended"}
        if "failed" in message:
            self.kill()
            raise UsageError(message["failed"])
        for line in message["fallbacks"]:
            print_error_once(line)
        self.device, self._ready = message["ready"], True

    def upscale(
        self, request: PhotoRequest, control: Control, report: Callable[[float], None], timeout_s: float | None = None
    ) -> PhotoAnswer | None:
        """Upscale a photo; return None if the process ended.

        Raises:
            RequestStoppedError: as in `control.check`, or the elapsed time and the CPU time of the request have both
                reached `timeout_s`.
            UsageError: the networks cannot be loaded.
        """

        def check() -> None:
            control.check()
            if timeout_s is not None and min(time.monotonic() - started, child.read_cpu_s() - cpu_s) >= timeout_s:
                raise RequestStoppedError(f"took longer than {timeout_s:g} s")

        try:
            if self._child is None or self._child.process.poll() is not None:
                self.start()
            self.wait_until_ready(control)
            assert self._child is not None
            child, started, cpu_s = self._child, time.monotonic(), self._child.read_cpu_s()
            child.connections[0].send(asdict(request))
            while "progress" in (message := self._receive(check)):
                report(message["progress"])
        except EOFError:
            self._restart()
            return None
        except BaseException:
            self._restart()
            raise
        answer = PhotoAnswer(**message)
        if answer.last:
            self._restart()
        return answer

    def kill(self) -> None:
        """Kill the process."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _restart(self) -> None:
        """Kill the process, and start a new process for the next request."""
        self.kill()
        self.start()

    def _receive(self, check: Callable[[], None]) -> dict[str, Any]:
        """Return the next message of the process; raise EOFError if the process has ended."""
        assert self._child is not None
        message: dict[str, Any] = self._child.connections[0].receive(check=check)[0]
        return message
