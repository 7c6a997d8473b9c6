"""Computes how large a network is from the configuration in its `.keras` file, without building it.

Only the layers of `builder` are accepted, so that a file of a few bytes cannot describe a network of any size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

IMAGES = ([None, None, None, 1], [None, None, None, 2])  # shapes of inputs; the second has a channel of strengths
INITIALIZERS = frozenset(("Zeros", "TruncatedNormal", "GlorotUniform", "HeNormal"))
PARTS = INITIALIZERS | {"DTypePolicy", "__keras_tensor__"}  # that the configurations of layers contain
ACTIVATIONS = ("linear", "relu", "sigmoid", "tanh")
# Values that the builder never changes; other values would make a layer larger or slower, or run another function.
FIXED = {
    "strides": (1, 1), "dilation_rate": (1, 1), "groups": 1, "padding": "valid", "data_format": "channels_last",
    "kernel_regularizer": None, "bias_regularizer": None, "kernel_constraint": None, "bias_constraint": None,
    "activity_regularizer": None, "quantization_config": None, "lora_rank": None, "noise_shape": None,
    "mode": "symmetric",
}  # fmt: skip
MAX_LAYERS = 2000
Shape = tuple[int, int, int]  # height, width, channels


@dataclass
class NetworkSize:
    """The size of a network.

    Args:
        weights: the number of weights.
        largest: the number of values of the largest intermediate result for one image.
        products: the number of multiplications for one image.
    """

    weights: int = 0
    largest: int = 0
    products: int = 0


def measure_network(model: Any, side: int) -> NetworkSize:
    """Compute the size of a network for one image.

    Args:
        model: the configuration of the model, as in `config.json` of a `.keras` file.
        side: height and width of the image.

    Raises:
        ValueError: the network is not one that `builder` builds. A configuration of other types may raise KeyError,
            TypeError, AttributeError and others.
    """
    if model["class_name"] != "Functional":
        raise ValueError(f"must be a network of layers, got {str(model['class_name'])[:80]!r}")
    layers = model["config"]["layers"]
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"must have at most {MAX_LAYERS} layers, got {len(layers)}")
    inputs = [layer["config"].get("batch_shape") for layer in layers if layer["class_name"] == "InputLayer"]
    if len(inputs) != 1 or inputs[0] not in IMAGES:
        raise ValueError("must take grey images, (n, h, w, 1), or (n, h, w, 2) with the strength of artefacts")
    size, shapes = NetworkSize(), dict[str, Shape]()
    for layer in layers:
        kind, config = layer["class_name"], layer["config"]
        if kind not in LAYERS:
            raise ValueError(f"must contain only layers that Loupe builds, got {str(kind)[:80]!r}")
        _validate_parts(config)
        before = [shapes[name] for name in _list_inputs(layer)]
        if len(before) != {"InputLayer": 0, "Add": 2, "Concatenate": 2}.get(kind, 1):
            raise ValueError(f"must have layers of one input, got {len(before)} of {str(layer['name'])[:80]!r}")
        shape = LAYERS[kind](size, config, before or [(side, side, inputs[0][3])])
        declared = (layer.get("build_config") or {}).get("input_shape")
        if declared is not None and kind in ("Conv2D", "Dense") and declared[-1] != before[0][2]:
            raise ValueError(f"must have {before[0][2]} channels before a layer, got {declared[-1]}")
        shapes[layer["name"]] = shape
        size.largest = max(size.largest, math.prod(shape))
    return size


def _list_inputs(layer: Any) -> list[str]:
    """Return the names of the layers whose results a layer takes."""
    nodes = layer["inbound_nodes"]
    if not nodes:
        return []
    if len(nodes) > 1:
        raise ValueError(f"must use each layer once, got {len(nodes)} uses of {str(layer['name'])[:80]!r}")
    parts = nodes[0]["args"]
    parts = parts[0] if isinstance(parts[0], list) else parts  # of a concatenation
    return [part["config"]["keras_history"][0] for part in parts if part is not None]


def _validate_parts(config: dict[str, Any]) -> None:
    """Check the values in a configuration that have no effect on the size of the layer."""
    for name, value in config.items():
        if name in FIXED and _to_tuple(value) != FIXED[name]:
            raise ValueError(f"{name}: must be {FIXED[name]}, got {str(value)[:80]!r}")
        if name == "activation" and value not in ACTIVATIONS:
            raise ValueError(f"activation: must be one of {', '.join(ACTIVATIONS)}, got {str(value)[:80]!r}")
        if isinstance(value, dict) and value["class_name"] not in PARTS:
            raise ValueError(f"{name}: must be a part that Loupe uses, got {str(value['class_name'])[:80]!r}")
        dtype = value["config"]["name"] if name == "dtype" and isinstance(value, dict) else value
        if name == "dtype" and dtype != "float32":
            raise ValueError(f"dtype: must be float32, got {str(dtype)[:80]!r}")


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _convolve(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    (height, width, channels), filters = inputs[0], _count(config["filters"])
    rows, columns = map(_count, config["kernel_size"])
    return _multiply(size, config, (height - rows + 1, width - columns + 1, filters), rows * columns * channels)


def _connect(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    height, width, channels = inputs[0]
    return _multiply(size, config, (height, width, _count(config["units"])), channels)


def _multiply(size: NetworkSize, config: Any, shape: Shape, values: int) -> Shape:
    """Add the weights and products of a layer, in which each value of the result depends on `values` inputs."""
    if min(shape) < 1:
        raise ValueError("must have kernels that are smaller than the image")
    size.weights += shape[2] * (values + bool(config["use_bias"]))
    size.products += math.prod(shape) * values
    return shape


def _pad(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    height, width, channels = inputs[0]
    images, (above, below), (left, right), bands = config["pad_width"]
    counts = (above, below, left, right)
    if any((*images, *bands)) or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("must pad only height and width")
    return height + above + below, width + left + right, channels


def _fold(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    (height, width, channels), q = inputs[0], _count(config["block_size"])
    if height % q or width % q:
        raise ValueError(f"must fold blocks that divide the image, got {q}")
    return height // q, width // q, channels * q * q


def _unfold(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    (height, width, channels), p = inputs[0], _count(config["block_size"])
    if channels % (p * p):
        raise ValueError(f"must unfold {p * p} channels per block, got {channels}")
    return height * p, width * p, channels // (p * p)


def _split(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    height, width, channels = inputs[0]
    if (config["indices_or_sections"], config["axis"], channels) != (2, -1, 2):
        raise ValueError("must split only 2 channels")
    return height, width, 1


def _average(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    if (config["axis"], config["keepdims"]) not in ((-1, True), ([-1], True)):
        raise ValueError("must average only channels")
    return *inputs[0][:2], 1


def _join(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    if config["axis"] != -1 or inputs[0][:2] != inputs[1][:2]:
        raise ValueError("must join only channels")
    return *inputs[0][:2], inputs[0][2] + inputs[1][2]


def _keep(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    if len(set(inputs)) > 1:
        raise ValueError("must add results of one shape")
    return inputs[0]


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"must have sizes of at least 1, got {str(value)[:80]}")
    return value


LAYERS: dict[str, Callable[[NetworkSize, Any, list[Shape]], Shape]] = {
    "InputLayer": _keep, "Conv2D": _convolve, "Dense": _connect, "Pad": _pad, "SpaceToDepth": _fold,
    "DepthToSpace": _unfold, "Add": _keep, "Dropout": _keep,
    "Split": _split, "Mean": _average, "Concatenate": _join,
}  # fmt: skip
