"""Runs the ONNX networks of untrusted files in a child process, whose memory and CPU time the system limits.

A network of a few hundred bytes can run forever, or allocate gigabytes. onnxruntime does not react to signals.
"""

import queue
from pathlib import Path
from typing import Any

import numpy as np

from loupe.cli.signals import is_signalled
from loupe.errors import UsageError
from loupe.imaging.child_process import ChildProcess, Connection
from loupe.imaging.decoder import PhotoError
from loupe.imaging.threads import count_cores
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.onnx import CPU

MAX_CONNECTIONS = 64
LOADING_TIMEOUT_S, CALL_TIMEOUT_S = 20.0, 30.0  # a call is one image; a network with 512 channels takes 6 s


class IsolatedOnnxUpscaler:
    """An ONNX network of any origin as an upscaling model; see `OnnxUpscaler`.

    Several threads can call the model at the same time. The results, `device` and `fallback` are the same as with
    `OnnxUpscaler`.

    Args:
        file: the ONNX file. Calls do not read the file.
        threads: as in `OnnxUpscaler`.
        device: as in `OnnxUpscaler`. With `auto`, the network runs on the CPU, because the limits do not cover the
            memory of another device.

    Raises:
        UsageError: as in `OnnxUpscaler`, or Loupe does not export such a network, or loading it takes too much
            memory or time. Calling the model raises PhotoError if the call takes too much.
    """

    def __init__(self, file: Path, threads: int = 1, device: str = CPU) -> None:
        self._name = str(file)
        options = {"file": self._name, "threads": threads, "device": CPU if device == "auto" else device}
        count = min(count_cores(), MAX_CONNECTIONS)
        self._child = ChildProcess("loupe.upscalers.network_process:serve", options, count)
        self._free: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        for connection in self._child.connections:
            self._free.put(connection)
        try:
            loaded, _ = self._receive(self._child.connections[0], LOADING_TIMEOUT_S)
            name, self.device, self.fallback = loaded
            self.geometry = Geometry.from_name(name)
        except PhotoError as error:
            raise UsageError(str(error)) from None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images; see `UpscalingModel`. The process gets one image at a time, which limits its memory."""
        return np.concatenate([self._upscale(images[index : index + 1]) for index in range(len(images))])

    def _upscale(self, image: np.ndarray) -> np.ndarray:
        scale, (count, height, width, _) = self.geometry.scale, image.shape
        expected = [count, int(height * scale), int(width * scale), 1]
        connection = self._free.get()
        try:
            try:
                connection.send(image.shape, np.ascontiguousarray(image, "float32"))
            except EOFError:
                raise self._describe_end() from None
            shape, parts = self._receive(connection, CALL_TIMEOUT_S)
            if shape != expected:
                raise PhotoError(f"model: {self._name!r} must return an image of shape {expected}, got {shape}")
            return np.frombuffer(parts[0], "float32").reshape(shape)
        finally:
            self._free.put(connection)

    def _receive(self, connection: Connection, timeout_s: float) -> tuple[Any, list[bytearray]]:
        """Receive an answer, or stop the process: the rest of the answer would be in the connection."""

        def check() -> None:
            if is_signalled():  # the main thread waits for this thread
                raise PhotoError(f"model: {self._name!r} was stopped")

        try:
            answer, parts = connection.receive(timeout_s, check)
            if isinstance(answer, dict):
                raise PhotoError(answer["error"])
            return answer, parts
        except EOFError:
            raise self._describe_end() from None
        except BaseException as error:
            self._child.stop()
            if isinstance(error, TimeoutError):
                raise PhotoError(f"model: {self._name!r} takes too long") from None
            raise

    def _describe_end(self) -> PhotoError:
        """Return the error for a process that has ended."""
        if self._child.is_over_time():
            return PhotoError(f"model: {self._name!r} takes too long")
        return PhotoError(f"model: {self._name!r} cannot be used: onnxruntime crashed, or needed too much memory")
