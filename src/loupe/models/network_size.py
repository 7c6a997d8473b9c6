"""Computes the size of a network from the configuration in its `.keras` file, without building it.

Only layers that `builder` uses are accepted: with other layers, a file of a few bytes could fill the memory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Images with one channel, and images with a second channel for the strength of artefacts
IMAGE_SHAPES = ([None, None, None, 1], [None, None, None, 2])
CONFIG_CLASSES = ("Zeros", "TruncatedNormal", "GlorotUniform", "HeNormal", "DTypePolicy", "__keras_tensor__")
ACTIVATIONS = ("linear", "relu", "sigmoid", "tanh")
# `builder` always gives these settings of a layer these values.
FIXED_VALUES = {
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
        result: the shape of the result for one image.
    """

    weights: int = 0
    largest: int = 0
    products: int = 0
    result: Shape = (0, 0, 0)


def measure_network(model: Any, side: int) -> NetworkSize:
    """Compute the size of a network for one image.

    Args:
        model: the configuration in `config.json` of a `.keras` file.
        side: height and width of the image.

    Raises:
        ValueError: `builder` cannot have built the network. A configuration with missing entries or values of wrong
            types raises other errors, such as KeyError.
    """
    if model["class_name"] != "Functional":
        raise ValueError(f"class_name: must be Functional, got {str(model['class_name'])[:80]!r}")
    layers = model["config"]["layers"]
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"must have at most {MAX_LAYERS} layers, got {len(layers)}")
    image_shapes = [layer["config"].get("batch_shape") for layer in layers if layer["class_name"] == "InputLayer"]
    if len(image_shapes) != 1 or image_shapes[0] not in IMAGE_SHAPES:
        raise ValueError("must take grey images, (n, h, w, 1), or (n, h, w, 2) with the strength of artefacts")
    size, shapes = NetworkSize(), dict[str, Shape]()
    for layer in layers:
        kind, config = layer["class_name"], layer["config"]
        if kind not in LAYERS:
            raise ValueError(f"layers: must be of the classes {', '.join(LAYERS)}, got {str(kind)[:80]!r}")
        _validate_config(config)
        inputs = [shapes[name] for name in _list_inputs(layer)]
        input_count = {"InputLayer": 0, "Add": 2, "Concatenate": 2}.get(kind, 1)
        if len(inputs) != input_count:
            raise ValueError(f"inputs of a layer {kind}: must be {input_count}, got {len(inputs)}")
        shape = LAYERS[kind](size, config, inputs or [(side, side, image_shapes[0][3])])
        # Keras allocates weights for the number of channels in `build_config`, so this number must be right.
        declared = (layer.get("build_config") or {}).get("input_shape")
        if declared is not None and kind in ("Conv2D", "Dense") and declared[-1] != inputs[0][2]:
            raise ValueError(f"input_shape: must have {inputs[0][2]} channels, got {str(declared[-1])[:80]}")
        shapes[layer["name"]] = shape
        size.largest = max(size.largest, math.prod(shape))
    size.result = shapes[_find_output(model["config"]["output_layers"])]
    return size


def _find_output(outputs: Any) -> str:
    """Return the name of the layer whose result is that of the network. Keras stores one output also as a list."""
    outputs = outputs if isinstance(outputs[0], list) else [outputs]
    if len(outputs) != 1:
        raise ValueError(f"output_layers: must be 1, got {len(outputs)}")
    return str(outputs[0][0])


def _list_inputs(layer: Any) -> list[str]:
    """Return the names of the layers whose results a layer reads."""
    nodes = layer["inbound_nodes"]
    if not nodes:
        return []
    if len(nodes) > 1:
        raise ValueError(f"inbound_nodes: must be at most 1 per layer, got {len(nodes)}")
    parts = nodes[0]["args"]
    parts = parts[0] if isinstance(parts[0], list) else parts  # a concatenation has a list of inputs
    return [part["config"]["keras_history"][0] for part in parts if part is not None]


def _validate_config(config: dict[str, Any]) -> None:
    """Check the fixed values, activation, dtype and nested classes in a layer's configuration.

    Raises:
        ValueError: `builder` never uses one of the values.
    """
    for name, value in config.items():
        if name in FIXED_VALUES and (tuple(value) if isinstance(value, list) else value) != FIXED_VALUES[name]:
            raise ValueError(f"{name}: must be {FIXED_VALUES[name]}, got {str(value)[:80]!r}")
        if name == "activation" and value not in ACTIVATIONS:
            raise ValueError(f"activation: must be one of {', '.join(ACTIVATIONS)}, got {str(value)[:80]!r}")
        if isinstance(value, dict) and value["class_name"] not in CONFIG_CLASSES:
            got = str(value["class_name"])[:80]
            raise ValueError(f"{name}: must be one of {', '.join(CONFIG_CLASSES)}, got {got!r}")
        dtype = value["config"]["name"] if name == "dtype" and isinstance(value, dict) else value
        if name == "dtype" and dtype != "float32":
            raise ValueError(f"dtype: must be float32, got {str(dtype)[:80]!r}")


def _measure_convolution(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    (height, width, channels), filters = inputs[0], _validate_count("filters", config["filters"])
    rows, columns = (_validate_count("kernel_size", side) for side in config["kernel_size"])
    if rows > height or columns > width:
        raise ValueError(f"kernel_size: must be at most {height}, {width}, got {str((rows, columns))[:80]}")
    shape = (height - rows + 1, width - columns + 1, filters)
    return _add_products(size, config, shape, rows * columns * channels)


def _measure_dense(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    height, width, channels = inputs[0]
    return _add_products(size, config, (height, width, _validate_count("units", config["units"])), channels)


def _add_products(size: NetworkSize, config: Any, shape: Shape, values: int) -> Shape:
    """Add the weights and multiplications of a layer to `size`, and return `shape`, the shape of its result.

    Each value of the result depends on `values` inputs.
    """
    size.weights += shape[2] * (values + bool(config["use_bias"]))
    size.products += math.prod(shape) * values
    return shape


def _measure_padding(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    height, width, channels = inputs[0]
    images, (above, below), (left, right), bands = config["pad_width"]
    counts = (above, below, left, right)
    if any((*images, *bands)) or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError(f"pad_width: must pad only height and width, got {str(config['pad_width'])[:80]}")
    return height + above + below, width + left + right, channels


def _measure_fold(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    (height, width, channels), q = inputs[0], _validate_count("block_size", config["block_size"])
    if height % q or width % q:
        raise ValueError(f"block_size: must divide the height {height} and the width {width}, got {str(q)[:80]}")
    return height // q, width // q, channels * q * q


def _measure_unfold(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    (height, width, channels), p = inputs[0], _validate_count("block_size", config["block_size"])
    if channels % (p * p):
        raise ValueError(f"block_size: its square must divide the {channels} channels, got the size {str(p)[:80]}")
    return height * p, width * p, channels // (p * p)


def _measure_split(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    height, width, channels = inputs[0]
    found = config["indices_or_sections"], config["axis"], channels
    if found != (2, -1, 2):
        raise ValueError(f"split: sections, axis and channels must be (2, -1, 2), got {str(found)[:80]}")
    return height, width, 1


def _measure_mean(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    found = config["axis"], config["keepdims"]
    if found not in ((-1, True), ([-1], True)):
        raise ValueError(f"mean: axis and keepdims must be (-1, True), got {str(found)[:80]}")
    return *inputs[0][:2], 1


def _measure_concatenation(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    if config["axis"] != -1 or inputs[0][:2] != inputs[1][:2]:
        found = f"axis {str(config['axis'])[:80]} of {inputs}"
        raise ValueError(f"concatenation: must have the axis -1 and inputs with one height and width, got {found}")
    return *inputs[0][:2], inputs[0][2] + inputs[1][2]


def _get_shape(size: NetworkSize, config: Any, inputs: list[Shape]) -> Shape:
    """Return the common shape of all inputs and the result."""
    if len(set(inputs)) > 1:
        raise ValueError(f"inputs of a layer Add: must have the same shape, got {str(inputs)[:80]}")
    return inputs[0]


def _validate_count(name: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: must be an integer of at least 1, got {str(value)[:80]}")
    return value


LAYERS: dict[str, Callable[[NetworkSize, Any, list[Shape]], Shape]] = {
    "InputLayer": _get_shape, "Conv2D": _measure_convolution, "Dense": _measure_dense, "Pad": _measure_padding,
    "SpaceToDepth": _measure_fold, "DepthToSpace": _measure_unfold, "Add": _get_shape, "Dropout": _get_shape,
    "Split": _measure_split, "Mean": _measure_mean, "Concatenate": _measure_concatenation,
}  # fmt: skip
