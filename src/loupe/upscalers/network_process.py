"""Runs a network in the child process of `isolated`.

The child sends the name of the network's geometry, its device, and the reason for another device than the requested
one over the first connection. Then it answers requests on all connections. A request and its answer are the shape of
an image and its float32 values. An error ends the connection.
"""

import threading
from pathlib import Path

import numpy as np

from loupe.errors import UsageError, describe_error
from loupe.imaging.child_process import Connection
from loupe.imaging.limits import limit_process
from loupe.imaging.memory import get_default_budget
from loupe.upscalers.onnx import CPU, OnnxUpscaler
from loupe.upscalers.onnx_file import validate_network

LOADING_LIMIT_S = 10  # of CPU time; the parent limits the elapsed time
CALL_LIMIT_S = 20  # of CPU time, per image
DEVICE_BYTES = 8 * 2**30  # that the libraries of an accelerator may reserve in addition


def serve(connections: list[Connection], file: str, threads: int, device: str) -> None:
    """Load a network, and answer requests until the connections are closed."""
    first, data_bytes = connections[0], get_default_budget() // 2
    try:
        with limit_process(data_bytes + (0 if device == CPU else DEVICE_BYTES), LOADING_LIMIT_S):
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
            with limit_process(data_bytes, CALL_LIMIT_S):
                large = np.ascontiguousarray(network(np.frombuffer(content, "float32").reshape(shape)), "float32")
        except Exception as error:  # onnxruntime raises many classes
            connection.send({"error": f"model: {file!r} cannot upscale an image: {describe_error(error)}"})
            return
        connection.send(large.shape, large)
