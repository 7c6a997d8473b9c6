"""A Keras model to a network as ONNX, held against it, and a network as ONNX to what `enlarge` asks for."""

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from loupe.errors import LoupeError, UsageError, first_line
from loupe.geometry import Geometry

# What tf2onnx makes of a mirrored border: of a layer's, and of the picture's.
MIRRORING = [["Pad", "Pad", "Transpose", "Compress", "Compress", "Transpose"], ["Pad", "Pad", "Compress", "Compress"]]


class OnnxEnlarger:
    """A network as ONNX, with the face that `enlarge` asks for.

    Args:
        file: with the geometry in its metadata, as `export` wrote it.
        threads: that work on one picture; 0 is one a core. Several pictures, or strips of one, are done sooner by
            one each, asked for from as many threads.

    Raises:
        UsageError: it is no such file, or its result on a grey picture is not as large as the geometry says.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, too
        options.intra_op_num_threads = threads
        # Threads that wait busily for the next picture would hold the cores that colour this one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for every way a file can be wrong
            raise UsageError(f"model: {str(file)!r} is no ONNX network: {first_line(error)}") from None
        self.geometry = Geometry.of_name(self._session.get_modelmeta().custom_metadata_map.get("loupe", str(file)))
        self._inputs = [part.name for part in self._session.get_inputs()]
        self._refuse_another(file)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Float32 (n, h, w, 1) in [-1, 1] to (n, h p/q, w p/q, 1); h, w multiples of q."""
        return np.asarray(self._session.run(None, dict.fromkeys(self._inputs, pictures))[0])

    def _refuse_another(self, file: Path) -> None:
        side, scale = self.geometry.min_side, self.geometry.scale
        try:
            found = self(np.zeros((1, side, side, 1), "float32"))
        except Exception as error:  # as above
            raise UsageError(f"model: {str(file)!r} takes no grey pictures: {first_line(error)}") from None
        expected = (1, int(side * scale), int(side * scale), 1)
        if found.shape != expected or found.dtype != np.float32:
            raise UsageError(f"model: {str(file)!r} gives {found.dtype} {found.shape}, must give float32 {expected}")


def export(model: object, geometry: Geometry, file: Path) -> float:
    """Write a Keras model as ONNX with its geometry in the metadata, and hold the two against each other.

    Returns:
        The largest difference of the two on noise, in [-1, 1].

    Raises:
        LoupeError: they differ by more than 1e-4.
    """
    import onnx

    from loupe.models import KerasEnlarger

    side = 3 * geometry.min_side
    noise = np.random.default_rng(0).uniform(-1, 1, (1, side, side + geometry.q, 1)).astype("float32")
    expected = KerasEnlarger(model)(noise)
    model(noise)  # type: ignore[operator] # Keras exports only models that have been called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of numpy's, inside Keras' exporter
        model.export(file, format="onnx", verbose=False)  # type: ignore[attr-defined]
    network = _mirrored_at_once(onnx.load(file))
    _drop_leading_axes(network)
    onnx.helper.set_model_props(network, {"loupe": geometry.name})
    onnx.save(network, file)
    found = OnnxEnlarger(file)(noise)
    if found.shape != expected.shape:
        raise LoupeError(f"ONNX gives {found.shape} where Keras gives {expected.shape}")
    difference = float(np.abs(found - expected).max())
    if not difference <= 1e-4:
        raise LoupeError(f"ONNX and Keras differ by {difference}, must be at most 1e-4")
    return difference


def _mirrored_at_once(network: Any) -> Any:
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
