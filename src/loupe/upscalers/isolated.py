"""Runs the ONNX networks of untrusted files in a child process, whose memory and CPU time the system limits.

A network of a few hundred bytes can run forever, or allocate gigabytes. onnxruntime does not react to signals.
"""

import json
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np

import loupe
from loupe.cli.signals import is_signalled
from loupe.errors import UsageError
from loupe.imaging.decoder import PhotoError
from loupe.imaging.threads import count_cores
from loupe.upscalers.geometry import Geometry

# Options -I and -S: neither the working directory nor the environment adds modules. Python starts 20 ms faster.
START = (
    "import json, sys; sys.path = json.loads(sys.argv[1]); from loupe.upscalers.network_process import main; main()"
)
# An idle thread must not reserve memory, and freed memory must not count against the limit of the next image.
ALLOCATOR = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
MAX_CONNECTIONS = 64
CHECK_INTERVAL_S = 0.2  # how often a thread that waits for a result checks whether the step is ending
LOADING_TIMEOUT_S, CALL_TIMEOUT_S = 20.0, 30.0  # a call is one image; a network with 512 channels takes 6 s
ENDING_TIMEOUT_S = 5.0  # for the end of a process that has closed a connection
LENGTH = struct.Struct("<q")  # of a text or a result in bytes; negative before the text of an error
SHAPE = struct.Struct("<4q")  # of an image: count, height, width, channels
MAX_TEXT_BYTES = 10_000


class IsolatedOnnxUpscaler:
    """An ONNX network of any origin as an upscaling model; see `OnnxUpscaler`.

    Several threads can call the model at the same time. The results are the same as with `OnnxUpscaler`.

    Args:
        file: the ONNX file. Calls do not read the file.
        threads: as in `OnnxUpscaler`.

    Raises:
        UsageError: as in `OnnxUpscaler`, or Loupe does not export such a network, or loading it takes too much
            memory or time. Calling the model raises PhotoError if the call takes too much.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        self._name = str(file)
        self._free: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        pairs = [socket.socketpair() for _ in range(min(count_cores(), MAX_CONNECTIONS))]
        numbers = [theirs.fileno() for _, theirs in pairs]
        request = {"file": self._name, "threads": threads, "sockets": numbers}
        paths = [*sys.path, str(Path(loupe.__file__).parents[1])]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", START, json.dumps(paths), json.dumps(request)],
            env=os.environ | ALLOCATOR, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, pass_fds=numbers,
        )  # fmt: skip
        self._stop = weakref.finalize(self, _end, self._process, [ours for ours, _ in pairs])
        for _, theirs in pairs:
            theirs.close()
        try:
            self.geometry = Geometry.from_name(self._read_text(pairs[0][0], time.monotonic() + LOADING_TIMEOUT_S))
        except PhotoError as error:
            self._stop()
            raise UsageError(str(error)) from None
        except BaseException:  # such as Ctrl-C
            self._stop()
            raise
        for ours, _ in pairs:
            self._free.put(ours)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images; see `UpscalingModel`. The process gets one image at a time, which limits its memory."""
        return np.concatenate([self._upscale(images[index : index + 1]) for index in range(len(images))])

    def _upscale(self, image: np.ndarray) -> np.ndarray:
        scale, (count, height, width, channels) = self.geometry.scale, image.shape
        large = np.empty((count, int(height * scale), int(width * scale), 1), "float32")
        connection, deadline = self._free.get(), time.monotonic() + CALL_TIMEOUT_S
        try:
            connection.sendall(SHAPE.pack(count, height, width, channels))
            connection.sendall(np.ascontiguousarray(image, "float32").data)
            length = self._read_length(connection, deadline)
            if length != large.nbytes:
                raise PhotoError(f"model: {self._name!r} must return {large.nbytes} bytes, got {length}")
            self._read_into(connection, large.data.cast("B"), deadline)
        except OSError:
            raise self._describe_end() from None
        except BaseException:
            self._stop()  # the rest of the result would be in the connection
            raise
        finally:
            self._free.put(connection)
        return large

    def _read_text(self, connection: socket.socket, deadline: float) -> str:
        length = self._read_length(connection, deadline)
        return self._read_bytes(connection, length, deadline).decode(errors="replace")

    def _read_length(self, connection: socket.socket, deadline: float) -> int:
        """Return the length of an answer; raises PhotoError for an error that the process describes."""
        (length,) = LENGTH.unpack(self._read_bytes(connection, LENGTH.size, deadline))
        if length < 0:
            raise PhotoError(self._read_bytes(connection, -length, deadline).decode(errors="replace"))
        return int(length)

    def _read_bytes(self, connection: socket.socket, count: int, deadline: float) -> bytearray:
        content = bytearray(min(count, MAX_TEXT_BYTES))
        self._read_into(connection, memoryview(content), deadline)
        return content

    def _read_into(self, connection: socket.socket, target: memoryview, deadline: float) -> None:
        while target:
            while not select.select([connection], [], [], CHECK_INTERVAL_S)[0]:
                if is_signalled():  # the main thread waits for this thread
                    raise PhotoError(f"model: {self._name!r} was stopped")
                if time.monotonic() > deadline:
                    raise PhotoError(f"model: {self._name!r} takes too long")
            count = connection.recv_into(target)
            if not count:
                raise self._describe_end()
            target = target[count:]

    def _describe_end(self) -> PhotoError:
        """Return the error for a process that has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_TIMEOUT_S)
        self._stop()
        if self._process.returncode == -signal.SIGXCPU:
            return PhotoError(f"model: {self._name!r} takes too long")
        return PhotoError(f"model: {self._name!r} cannot be used: onnxruntime crashed, or needed too much memory")


def _end(process: "subprocess.Popen[bytes]", connections: list[socket.socket]) -> None:
    process.kill()
    process.wait()
    for connection in connections:
        connection.close()
