"""Runs ONNX networks of untrusted files in a child process with limited memory and CPU time.

A network of a few hundred bytes can run forever, or allocate gigabytes.

The child first sends the name of the geometry, the device that it uses, and the reason if this is not the requested
device. Then it answers requests on all connections. A request or answer is the shape and the float32 values of an
image. After an error, the parent stops the child.
"""

import queue
import threading
from pathlib import Path
from typing import Any

import numpy as np

from loupe.cli.signals import is_signalled
from loupe.errors import UsageError, describe_error
from loupe.imaging.child_process import ChildProcess, Connection
from loupe.imaging.decoder import PhotoError
from loupe.imaging.limits import limit_process
from loupe.imaging.memory import get_default_budget
from loupe.imaging.threads import count_cores
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.onnx import CPU, OnnxUpscaler
from loupe.upscalers.onnx_file import validate_network

MAX_CONNECTIONS = 64
LOADING_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 30.0  # per image; a network with 512 channels takes 6 s
LOADING_CPU_S, CALL_CPU_S = 10, 20  # CPU time for loading and for one image
DEVICE_BYTES = 8 * 2**30  # additional memory for the libraries of an accelerator


class IsolatedOnnxUpscaler:
    """An ONNX network of any origin, in a child process.

    It gives the same results as `OnnxUpscaler`. Several threads may call it.

    Args:
        file: the ONNX file.
        threads: as in `OnnxUpscaler`.
        device: as in `OnnxUpscaler`; `auto` is the CPU, because the limits do not cover the memory of a GPU.

    Raises:
        UsageError: as in `OnnxUpscaler`; also for operators or tensors that Loupe does not export, or if
            loading takes too much memory or time.
        PhotoError: a call takes too much memory or time.
    """

    def __init__(self, file: Path, threads: int = 1, device: str = CPU) -> None:
        self._name = str(file)
        options = {"file": self._name, "threads": threads, "device": CPU if device == "auto" else device}
        count = min(count_cores(), MAX_CONNECTIONS)
        self._child = ChildProcess("loupe.upscalers.isolated:serve", options, count)
        self._idle_connections: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        for connection in self._child.connections:
            self._idle_connections.put(connection)
        try:
            loaded, _ = self._receive(self._child.connections[0], LOADING_TIMEOUT_S)
            name, self.device, self.fallback = loaded
            self.geometry = Geometry.from_name(name)
        except PhotoError as error:
            raise UsageError(str(error)) from None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images one by one, which limits the memory of the child; see `UpscalingModel`."""
        return np.concatenate([self._upscale(images[index : index + 1]) for index in range(len(images))])

    def _upscale(self, image: np.ndarray) -> np.ndarray:
        scale, (count, height, width, _) = self.geometry.scale, image.shape
        expected = [count, int(height * scale), int(width * scale), 1]
        connection = self._idle_connections.get()
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
            self._idle_connections.put(connection)

    def _receive(self, connection: Connection, timeout_s: float) -> tuple[Any, list[bytearray]]:
        """Receive an answer. After any error, stop the child, so that no later call reads the rest of this answer."""

        def check() -> None:
            if is_signalled():  # a signal is ending the step, which waits for this thread
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
        """Return the error for a child that has ended."""
        if self._child.stop_and_check_cpu_limit():
            return PhotoError(f"model: {self._name!r} takes too long")
        return PhotoError(f"model: {self._name!r} cannot be used: onnxruntime crashed, or needed too much memory")


def serve(connections: list[Connection], file: str, threads: int, device: str) -> None:
    """Load a network in the child process, and answer requests."""
    first, data_bytes = connections[0], get_default_budget() // 2
    try:
        with limit_process(data_bytes + (0 if device == CPU else DEVICE_BYTES), LOADING_CPU_S):
            validate_network(Path(file))
            network = OnnxUpscaler(Path(file), threads, device)
    except UsageError as error:
        first.send({"error": str(error)})
    except MemoryError:
        first.send({"error": f"model: {file!r} needs too much memory"})
    else:
        data_bytes += 0 if network.device == CPU else DEVICE_BYTES
        first.send([network.geometry.name, network.device, network.fallback])
        for connection in connections[1:]:
            threading.Thread(target=_answer, args=[network, connection, data_bytes, file], daemon=True).start()
        _answer(network, first, data_bytes, file)


def _answer(network: OnnxUpscaler, connection: Connection, data_bytes: int, file: str) -> None:
    while True:
        shape, (content,) = connection.receive()
        try:
            with limit_process(data_bytes, CALL_CPU_S):
                large = np.ascontiguousarray(network(np.frombuffer(content, "float32").reshape(shape)), "float32")
        except Exception as error:
            connection.send({"error": f"model: {file!r} cannot upscale an image: {describe_error(error)}"})
            return
        connection.send(large.shape, large)
