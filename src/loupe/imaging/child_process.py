"""Runs a function in a child process, which can be killed while a decoder or onnxruntime runs.

This module does not import numpy: a program can start a child first, and load libraries while the child starts.
"""

import importlib
import json
import math
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import loupe

# The program of the child. Its first argument is the module search path of the parent, as JSON.
START = "import json, sys; sys.path = json.loads(sys.argv[1]); from loupe.imaging.child_process import main; main()"
# The first variable saves memory; the second makes the import of numpy faster.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
ENDING_TIMEOUT_S = 5.0  # maximum wait for the exit of a child that has closed a connection
CHECK_INTERVAL_S = 0.05
READER = "loupe.imaging.reader_process:serve"
LENGTH = struct.Struct("<Q")  # a message begins with the length of its JSON text


class Connection:
    """Exchanges messages with another process over a socket. A message is a JSON value, followed by byte strings."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self._sending = threading.Lock()

    def send(self, value: Any, *parts: Any) -> None:
        """Send a message; raise EOFError if the connection is closed, or the other process has ended."""
        views = [memoryview(part).cast("B") for part in parts]
        head = json.dumps([value, [len(view) for view in views]]).encode()
        with self._sending:
            try:
                self.stream.settimeout(None)
                self.stream.sendall(LENGTH.pack(len(head)) + head)
                for view in views:
                    self.stream.sendall(view)
            except OSError:
                raise EOFError from None

    def receive(
        self, timeout_s: float | None = None, check: Callable[[], None] | None = None
    ) -> tuple[Any, list[bytearray]]:
        """Receive a message.

        Args:
            timeout_s: maximum wait; None for no limit.
            check: called repeatedly during the wait; may raise an exception.

        Returns:
            The JSON value, and the byte strings.

        Raises:
            EOFError: the connection is closed, or the other process has ended.
            TimeoutError: the wait took longer than `timeout_s`.
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self.stream.settimeout(None if timeout_s is None and check is None else CHECK_INTERVAL_S)

        def read(length: int) -> bytearray:
            content = bytearray(length)
            rest = memoryview(content)
            while rest:
                if check:
                    check()
                if time.monotonic() > deadline:
                    raise TimeoutError
                try:
                    received = self.stream.recv_into(rest)
                except TimeoutError:
                    continue
                except OSError:
                    received = 0
                if not received:
                    raise EOFError
                rest = rest[received:]
            return content

        (length,) = LENGTH.unpack(read(LENGTH.size))
        value, lengths = json.loads(read(length))
        return value, [read(length) for length in lengths]


class ChildProcess:
    """A child process, which ends when the parent ends.

    Args:
        function: the function that the child runs, such as `loupe.imaging.reader_process:serve`. Its arguments are
            the list of connections and `options`.
        options: keyword arguments of the function, serialisable as JSON.
        count: number of connections. Only one thread at a time may receive from a connection, and meanwhile no other
            thread may send: `send` resets the timeout of `receive`.
        shows_errors: whether the standard output and the standard error of the child go to the standard error of the
            parent; otherwise, they are discarded.

    Attributes:
        process: the process.
        connections: the connections to the child.
        stop: a function that kills the child and closes the connections; also called when this object is deleted, and
            when the program exits.
    """

    def __init__(
        self, function: str, options: dict[str, Any] | None = None, count: int = 1, shows_errors: bool = False
    ) -> None:
        pairs = [socket.socketpair() for _ in range(count)]
        descriptors = [child_end.fileno() for _, child_end in pairs]
        paths = json.dumps([*sys.path, str(Path(loupe.__file__).parents[1])])
        output = 2 if shows_errors else subprocess.DEVNULL
        # -I ignores the working directory and environment variables PYTHON*, and -S skips `site`. This saves 20 ms.
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", START, paths, function, json.dumps([descriptors, options or {}])],
            env=os.environ | ENVIRONMENT, stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=descriptors,
        )  # fmt: skip
        for _, child_end in pairs:
            child_end.close()
        self.connections = [Connection(own_end) for own_end, _ in pairs]
        self.stop = weakref.finalize(self, _stop, self.process, [own_end for own_end, _ in pairs])

    def read_cpu_s(self) -> float:
        """Return the CPU time of the child in seconds.

        Without `/proc`, or after `stop`, return the time of a monotonic clock; a difference is then the elapsed time.
        """
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return time.monotonic()
        user_ticks, system_ticks = map(int, fields[11:13])  # utime and stime (proc_pid_stat)
        return (user_ticks + system_ticks) / os.sysconf("SC_CLK_TCK")

    def stop_and_check_cpu_limit(self) -> bool:
        """Stop a child that has closed a connection; return whether the child reached its limit of CPU time."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDING_TIMEOUT_S)
        self.stop()
        return self.process.returncode == -signal.SIGXCPU


def _stop(process: "subprocess.Popen[bytes]", streams: list[socket.socket]) -> None:
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
    for stream in streams:
        stream.close()


def main() -> None:
    """Run the function that the command line names, in this child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    (module, _, name), (descriptors, options) = sys.argv[2].partition(":"), json.loads(sys.argv[3])
    connections = [Connection(socket.socket(fileno=number)) for number in descriptors]
    with suppress(EOFError):
        getattr(importlib.import_module(module), name)(connections, **options)


def _exit_with_parent() -> None:
    """Exit when the parent has ended: the system closes the pipe to the standard input, and `os.read` returns."""
    os.read(0, 1)
    os._exit(0)
