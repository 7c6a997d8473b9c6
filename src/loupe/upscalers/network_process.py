"""The program of the child process that runs a network for `isolated`.

The program sends the name of the network's geometry over the first connection. Then it answers requests on all
connections. A request is the shape of an image and its float32 values. An answer is a length and the values of the
result.
"""

import json
import math
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from loupe.errors import UsageError, describe_error
from loupe.imaging.memory import get_default_budget
from loupe.upscalers.isolated import LENGTH, MAX_TEXT_BYTES, SHAPE
from loupe.upscalers.onnx import OnnxUpscaler
from loupe.upscalers.onnx_file import validate_network

# CPU time, which also ends this process if the parent was killed; the parent limits the elapsed time
LOADING_LIMIT_S = 10
CALL_LIMIT_S = 20  # per image


def main() -> None:
    """Load the network of the last argument, and answer requests until the parent closes the connections."""
    request = json.loads(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in a terminal ends this process inside onnxruntime, too
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _set_limit(resource.RLIMIT_DATA, get_default_budget() // 2)
    connections = [socket.socket(fileno=number) for number in request["sockets"]]
    limit, file = _CpuLimit(), Path(request["file"])
    try:
        with limit.reserve(LOADING_LIMIT_S):
            validate_network(file)
            network = OnnxUpscaler(file, request["threads"])
    except UsageError as error:
        _send_error(connections[0], str(error))
    except MemoryError:
        _send_error(connections[0], f"model: {str(file)!r} needs too much memory")
    else:
        name = network.geometry.name.encode()
        connections[0].sendall(LENGTH.pack(len(name)) + name)
        for connection in connections:
            threading.Thread(target=_serve, args=(network, connection, limit, str(file))).start()


def _serve(network: OnnxUpscaler, connection: socket.socket, limit: "_CpuLimit", name: str) -> None:
    with suppress(OSError):  # the parent has closed the connection
        while shape := _receive(connection, SHAPE.size):
            sides = SHAPE.unpack(shape)
            try:
                content = _receive(connection, 4 * math.prod(sides))
                with limit.reserve(CALL_LIMIT_S):
                    large = network(np.frombuffer(content, "float32").reshape(sides))
                    large = np.ascontiguousarray(large, "float32")
            except Exception as error:  # onnxruntime raises many classes
                _send_error(connection, f"model: {name!r} cannot upscale an image: {describe_error(error)}")
                return
            connection.sendall(LENGTH.pack(large.nbytes))
            connection.sendall(large.data)


def _receive(connection: socket.socket, count: int) -> bytearray:
    """Receive `count` bytes; returns no bytes if the connection was closed."""
    content = bytearray(count)
    rest = memoryview(content)
    while rest:
        received = connection.recv_into(rest)
        if not received:
            return bytearray()
        rest = rest[received:]
    return content


def _send_error(connection: socket.socket, text: str) -> None:
    content = text.encode(errors="backslashreplace")[:MAX_TEXT_BYTES]
    with suppress(OSError):
        connection.sendall(LENGTH.pack(-len(content)) + content)


class _CpuLimit:
    """Limits the CPU time of the process, which several threads share. The system kills the process at the limit."""

    def __init__(self) -> None:
        self._lock, self._active = threading.Lock(), 0

    @contextmanager
    def reserve(self, seconds: int) -> Iterator[None]:
        """Allow this many further seconds of CPU time for each thread that is inside a `reserve` block."""
        with self._lock:
            self._active += 1
            used = resource.getrusage(resource.RUSAGE_SELF)
            _set_limit(resource.RLIMIT_CPU, round(used.ru_utime + used.ru_stime) + 1 + seconds * self._active)
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1


def _set_limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
