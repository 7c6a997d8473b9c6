"""Exports a Keras model to ONNX and compares the two."""

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from loupe.errors import LoupeError
from loupe.models.builder import KerasUpscaler
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.onnx import OnnxUpscaler

# What tf2onnx makes of a mirrored border: of a layer's, and of the image's.
MIRRORING = [["Pad", "Pad", "Transpose", "Compress", "Compress", "Transpose"], ["Pad", "Pad", "Compress", "Compress"]]


def export(model: object, geometry: Geometry, file: Path) -> float:
    """Write a Keras model as ONNX with its geometry in the metadata, and hold the two against each other.

    Returns:
        The largest difference of the two on noise, in [-1, 1].

    Raises:
        LoupeError: they differ by more than 1e-4.
    """
    import onnx

    side = 3 * geometry.min_side
    noise = np.random.default_rng(0).uniform(-1, 1, (1, side, side + geometry.q, 1)).astype("float32")
    expected = KerasUpscaler(model)(noise)
    model(noise)  # type: ignore[operator] # Keras exports only models that have been called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of numpy's, inside Keras' exporter
        model.export(file, format="onnx", verbose=False)  # type: ignore[attr-defined]
    network = _merge_padding(onnx.load(file))
    _drop_leading_axes(network)
    onnx.helper.set_model_props(network, {"loupe": geometry.name})
    onnx.save(network, file)
    found = OnnxUpscaler(file)(noise)
    if found.shape != expected.shape:
        raise LoupeError(f"ONNX gives {found.shape} where Keras gives {expected.shape}")
    difference = float(np.abs(found - expected).max())
    if not difference <= 1e-4:
        raise LoupeError(f"ONNX and Keras differ by {difference}, must be at most 1e-4")
    return difference


def _merge_padding(network: Any) -> Any:
    """One node for each border of one mirrored pixel, which is to repeat the edge, where tf2onnx writes six or four.

    Those pad by a black pixel, mirror with it, and cut it out again: copies that cost a sixth of a network's time.
    """
    import onnx

    graph = network.graph
    makers = {output: node for node in graph.node for output in node.output}
    constants = {part.name: onnx.numpy_helper.to_array(part) for part in graph.initializer}
    for node, kinds in itertools.product(graph.node, MIRRORING):
        chain = [node]
        while len(chain) < len(kinds) and chain[0].input and chain[0].input[0] in makers:
            chain.insert(0, makers[chain[0].input[0]])
        if [part.op_type for part in chain] == kinds and constants[chain[1].input[1]].max() == 1:
            node.op_type = "Pad"
            node.input[:] = [chain[0].input[0], chain[1].input[1]]
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("mode", "edge"))
    ends = ([part.name for part in side] for side in (graph.input, graph.output))
    return onnx.utils.Extractor(network).extract_model(*ends)


def _drop_leading_axes(network: Any) -> None:
    """Make the result (n, h, w, 1) where tf2onnx, for the ridge alone, makes it (1, n, h, w, 1)."""
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
