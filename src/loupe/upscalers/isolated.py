"""Runs ONNX networks of untrusted files in a child process with limited memory and CPU time.

A network of a few hundred bytes can run forever, or allocate gigabytes.

The child receives the content of the file. It sends the name of the geometry, the device that it uses, and the reason
if this is not the requested device. Then it answers requests on all connections. A request is the shape and the
float32 values of an image. The answer is the shape and the values of the result, or the reason of an error. After an
error, the parent stops the child, and the next request starts a new child.
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
from loupe.upscalers.onnx_file import read_network, validate_network

MAX_CONNECTIONS = 64
LOADING_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 30.0  # per image; a network with 512 channels takes 6 s
LOADING_CPU_S, CALL_CPU_S = 10, 20  # CPU time for loading and for one image
DEVICE_BYTES = 8 * 2**30  # additional memory for the libraries of an accelerator


class StoppedError(PhotoError):
    """Another thread has stopped the child, because the network failed for another image."""


class IsolatedOnnxUpscaler:
    """An ONNX network of any origin, in a child process.

    It gives the same results as `OnnxUpscaler`. Several threads may call it.

    Args:
        file: the ONNX file.
        threads: as in `OnnxUpscaler`.
        device: as in `OnnxUpscaler`, but `auto` is the CPU, because the limits do not cover the memory of a GPU.

    Raises:
        UsageError: as in `OnnxUpscaler`; also if the file has more than `onnx_file.MAX_FILE_BYTES` bytes, if it
            contains operators or tensors that Loupe does not export, or if loading takes too much memory or time.
        PhotoError: a call fails, or takes too much memory or time.
    """

    def __init__(self, file: Path, threads: int = 1, device: str = CPU) -> None:
        self._name = str(file)
        # Kept for later children: after loading, the downloaded file of a registered model is deleted.
        self._content = read_network(file)
        self._options = {"file": self._name, "threads": threads, "device": CPU if device == "auto" else device}
        self._count = min(count_cores(), MAX_CONNECTIONS)
        self._starting = threading.Lock()
        self._idle_indices: queue.SimpleQueue[int] = queue.SimpleQueue()  # connections that no thread uses
        for index in range(self._count):
            self._idle_indices.put(index)
        try:
            self._child, loaded = self._start()
        except PhotoError as error:
            raise UsageError(str(error)) from None
        name, self.device, self.fallback = loaded
        self.geometry = Geometry.from_name(name)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images one by one, which limits the memory of the child; see `UpscalingModel`."""
        return np.concatenate([self._upscale(images[index : index + 1]) for index in range(len(images))])

    def _upscale(self, image: np.ndarray) -> np.ndarray:
        index = self._idle_indices.get()
        try:
            try:
                return self._run(self._get_child(), index, image)
            except StoppedError:  # another image failed, perhaps of another photo
                return self._run(self._get_child(), index, image)
        finally:
            self._idle_indices.put(index)

    def _get_child(self) -> ChildProcess:
        """Return the child; start a new child if the last one was stopped or has ended.

        A child that has ended is not stopped here: `stop` would hide the cause from the thread whose image ended it.
        """
        with self._starting:
            if not self._child.stop.alive or self._child.process.poll() is not None:
                self._child, _ = self._start()
            return self._child

    def _start(self) -> tuple[ChildProcess, Any]:
        """Start a child, and return it with its first message."""
        child = ChildProcess("loupe.upscalers.isolated:serve", self._options, self._count)
        loaded, _ = self._exchange(child, 0, (None, self._content), LOADING_TIMEOUT_S)
        return child, loaded

    def _run(self, child: ChildProcess, index: int, image: np.ndarray) -> np.ndarray:
        scale, (count, height, width, _) = self.geometry.scale, image.shape
        expected = [count, int(height * scale), int(width * scale), 1]
        request = image.shape, np.ascontiguousarray(image, "float32")
        shape, parts = self._exchange(child, index, request, CALL_TIMEOUT_S)
        if shape != expected:
            raise PhotoError(f"model: {self._name!r} must return an image of shape {expected}, got {shape}")
        return np.frombuffer(parts[0], "float32").reshape(shape)

    def _exchange(
        self, child: ChildProcess, index: int, request: tuple[Any, Any], timeout_s: float
    ) -> tuple[Any, list[bytearray]]:
        """Send a request, and receive the answer.

        After any error, stop the child: it may send the answer later, and the next request would receive it.
        """

        def check() -> None:
            if is_signalled():  # a signal is ending the step, which waits for this thread
                raise PhotoError(f"model: {self._name!r} was stopped")

        try:
            child.connections[index].send(*request)
            answer, parts = child.connections[index].receive(timeout_s, check)
            if isinstance(answer, dict):
                raise PhotoError(answer["error"])
            return answer, parts
        except EOFError:
            raise self._describe_end(child) from None
        except BaseException as error:
            child.stop()
            if isinstance(error, TimeoutError):
                raise PhotoError(f"model: {self._name!r} takes too long") from None
            raise

    def _describe_end(self, child: ChildProcess) -> PhotoError:
        """Return the error for a child that has ended."""
        if not child.stop.alive:
            return StoppedError(f"model: {self._name!r} was stopped, because it failed for another image")
        if child.stop_and_check_cpu_limit():
            return PhotoError(f"model: {self._name!r} takes too long")
        return PhotoError(f"model: {self._name!r} cannot be used: onnxruntime crashed, or needed too much memory")


def serve(connections: list[Connection], file: str, threads: int, device: str) -> None:
    """Load a network in the child process, and answer requests."""
    first, data_bytes = connections[0], get_default_budget() // 2
    content = bytes(first.receive()[1][0])
    try:
        with limit_process(data_bytes + (0 if device == CPU else DEVICE_BYTES), LOADING_CPU_S):
            validate_network(Path(file), content)
            network = OnnxUpscaler(Path(file), threads, device, content)
            del content
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
