"""Exports a Keras model to ONNX and compares the results of both."""

import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np

from loupe.errors import LoupeError
from loupe.models.builder import KerasUpscaler
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.onnx import OnnxUpscaler

# The program of the process that exports a model with TensorFlow; its arguments are a .keras file and an ONNX file.
EXPORT = """
import sys
from pathlib import Path
from loupe.models import builder, keras_file, onnx_export
model = keras_file.load(Path(sys.argv[1]))
onnx_export.export(model, builder.KerasUpscaler(model).geometry, Path(sys.argv[2]))
"""
MAX_DIFFERENCE = 1e-4  # maximum difference of two results, which have pixel values from -1 to 1
# The node types that tf2onnx writes for a symmetric padding. The first list is for a padding inside the network, the
# second list for a padding of the input.
PADDING_CHAINS = [
    ["Pad", "Pad", "Transpose", "Compress", "Compress", "Transpose"],
    ["Pad", "Pad", "Compress", "Compress"],
]


def export(model: Any, geometry: Geometry, file: Path) -> float:
    """Write a Keras model as ONNX, with its geometry in the metadata, and compare both models on a noise image.

    Returns:
        The largest absolute difference of the results.

    Raises:
        LoupeError: the results differ by more than MAX_DIFFERENCE, or in their shapes; or another process, which
            converts the model with TensorFlow if Keras has another backend, fails.
    """
    side = 3 * geometry.min_side
    noise = np.random.default_rng(0).uniform(-1, 1, (1, side, side + geometry.q, geometry.channels)).astype("float32")
    expected = KerasUpscaler(model)(noise)
    if keras.backend.backend() == "tensorflow":
        _convert(model, geometry, file)
    else:
        _convert_with_tensorflow(model, file)
    actual = OnnxUpscaler(file)(noise)
    if actual.shape != expected.shape:
        raise LoupeError(f"ONNX: must have the result shape of Keras, {expected.shape}, got {actual.shape}")
    difference = float(np.abs(actual - expected).max())
    if not difference <= MAX_DIFFERENCE:
        raise LoupeError(f"ONNX: must differ from Keras by at most {MAX_DIFFERENCE}, got {difference}")
    return difference


def _convert(model: Any, geometry: Geometry, file: Path) -> None:
    """Write a Keras model, which must have been called, as ONNX, with its geometry in the metadata."""
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from NumPy
        model.export(file, format="onnx", verbose=False)
    network = _merge_padding(onnx.load(file))
    _drop_leading_axes(network)
    onnx.helper.set_model_props(network, {"loupe": geometry.name})
    onnx.save(network, file)


def _convert_with_tensorflow(model: Any, file: Path) -> None:
    """Call `export` in another process, with TensorFlow. Keras needs further packages to convert with JAX."""
    with TemporaryDirectory() as folder:
        saved = Path(folder) / "model.keras"
        model.save(saved)
        found = subprocess.run(
            [sys.executable, "-c", EXPORT, saved, file],
            env=os.environ | {"KERAS_BACKEND": "tensorflow"},
            capture_output=True,
            text=True,
            check=False,
        )
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise LoupeError(f"ONNX: TensorFlow could not convert the network: {reason}")


def _merge_padding(network: Any) -> Any:
    """Replace symmetric paddings of one pixel with single nodes of edge padding, which have the same result.

    The four or six nodes of tf2onnx take a sixth of the run time of a network.
    """
    import onnx

    graph = network.graph
    producers = {output: node for node in graph.node for output in node.output}
    constants = {part.name: onnx.numpy_helper.to_array(part) for part in graph.initializer}
    for node, kinds in itertools.product(graph.node, PADDING_CHAINS):
        chain = [node]
        while len(chain) < len(kinds) and chain[0].input and chain[0].input[0] in producers:
            chain.insert(0, producers[chain[0].input[0]])
        # The second input of a node Pad is the width of the padding per side.
        if [part.op_type for part in chain] == kinds and constants[chain[1].input[1]].max() == 1:
            node.op_type = "Pad"
            node.input[:] = [chain[0].input[0], chain[1].input[1]]
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("mode", "edge"))
    ends = ([part.name for part in side] for side in (graph.input, graph.output))
    return onnx.utils.Extractor(network).extract_model(*ends)


def _drop_leading_axes(network: Any) -> None:
    """Remove the leading axis that tf2onnx adds to the result of a ridge model: (1, n, h, w, 1) to (n, h, w, 1)."""
    import onnx

    output = network.graph.output[0]
    shape = output.type.tensor_type.shape.dim
    extra = len(shape) - 4
    if extra <= 0:
        return
    axes = onnx.numpy_helper.from_array(np.arange(extra), "loupe/axes")
    network.graph.initializer.append(axes)
    for node in network.graph.node:
        node.output[:] = ["loupe/result" if name == output.name else name for name in node.output]
    network.graph.node.append(onnx.helper.make_node("Squeeze", ["loupe/result", axes.name], [output.name]))
    del shape[:extra]
