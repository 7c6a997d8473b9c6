"""Checks that an ONNX file contains only operators and tensors that Loupe exports, before onnxruntime reads the file.

This module parses the bytes itself, because the base installation does not contain the package onnx. Field numbers
are those of onnx.proto.
"""

from collections.abc import Iterator
from pathlib import Path

from loupe.errors import UsageError

MAX_FILE_BYTES = 420_000_000  # the weights of the largest network that `keras_file` accepts, and the graph
MAX_NODES = 5000
MAX_RANK = 8
# The operators of `models.onnx_export`
OPERATORS = frozenset((
    "Add", "Cast", "Compress", "Concat", "ConstantOfShape", "Conv", "DepthToSpace", "Gather", "MatMul", "Pad",
    "ReduceMean", "ReduceProd", "Relu", "Reshape", "ScatterElements", "Shape", "Sigmoid", "SpaceToDepth", "Split",
    "Squeeze", "Tanh", "Transpose", "Unsqueeze",
))  # fmt: skip
ITEM_BYTES = {1: 4, 6: 4, 7: 8, 9: 1, 10: 2}  # bytes per value by type number: float, int32, int64, bool, float16
DOMAINS = ("", "ai.onnx.ml")  # the exporter declares the second domain, but does not use it
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5  # wire types of Protocol Buffers
# The accepted fields of each kind of message
MODEL_FIELDS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 14))  # refused: training_info, functions
SET_FIELDS = frozenset((1, 2))
GRAPH_FIELDS = frozenset((1, 2, 5, 10, 11, 12, 13))  # refused: quantization_annotation, sparse_initializer
NODE_FIELDS = frozenset((1, 2, 3, 4, 5, 6, 7))
# Refused fields of attributes: graphs, lists of texts, lists of tensors, sparse tensors, types, references
ATTRIBUTE_FIELDS = frozenset((1, 2, 3, 4, 5, 7, 8, 13, 20))
# Refused fields of tensors: segments, external data, values of the types string, double and uint64
TENSOR_FIELDS = frozenset((1, 2, 4, 5, 7, 8, 9, 12, 14))
# Field numbers, one line per message: model, set of operators, graph, node, attribute, tensor
GRAPH, OPERATOR_SETS = 7, 8
SET_DOMAIN = 1
NODES, INITIALIZERS = 1, 5
OPERATOR, ATTRIBUTES, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_TENSOR = 5
SHAPE, TYPE, FLOATS, INT32_VALUES, INT64_VALUES, NAME, RAW_DATA, DATA_LOCATION = 1, 2, 4, 5, 7, 8, 9, 14
Fields = dict[int, list[int | memoryview]]  # the values of a message by field number


def read_network(file: Path) -> bytes:
    """Read an ONNX file.

    Raises:
        UsageError: the file cannot be read, or is too large.
    """
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"must have at most {MAX_FILE_BYTES} bytes, got {size}")
        return file.read_bytes()
    except (ValueError, OSError) as error:
        raise UsageError(f"model: {str(file)!r} is not an ONNX network of Loupe: {error}") from None


def validate_network(file: Path, content: bytes) -> None:
    """Check the operators and the tensors in the content of an ONNX file.

    Raises:
        UsageError: the content is not an ONNX network, or Loupe does not export such a network.
    """
    try:
        model = _parse(memoryview(content), MODEL_FIELDS)
        for operators in _parse_all(model.get(OPERATOR_SETS, []), SET_FIELDS):
            domain = _read_text(operators, SET_DOMAIN)
            if domain not in DOMAINS:
                raise ValueError(f"must use only ONNX's own operators, got operators of {domain!r}")
        _validate_graph(_parse(_merge(model.get(GRAPH, [])), GRAPH_FIELDS))
    except ValueError as error:
        raise UsageError(f"model: {str(file)!r} is not an ONNX network of Loupe: {error}") from None


def _validate_graph(graph: Fields) -> None:
    nodes = graph.get(NODES, [])
    if not 0 < len(nodes) <= MAX_NODES:
        raise ValueError(f"must have 1 to {MAX_NODES} nodes, got {len(nodes)}")
    for node in _parse_all(nodes, NODE_FIELDS):
        operator, domain = _read_text(node, OPERATOR), _read_text(node, NODE_DOMAIN)
        if operator not in OPERATORS or domain:
            name = f"{domain}.{operator}" if domain else operator
            raise ValueError(f"must contain only operators that Loupe exports, got {name[:80]!r}")
        for attribute in _parse_all(node.get(ATTRIBUTES, []), ATTRIBUTE_FIELDS):
            if ATTRIBUTE_TENSOR in attribute:
                _validate_tensor(_parse(_merge(attribute[ATTRIBUTE_TENSOR]), TENSOR_FIELDS))
    for tensor in _parse_all(graph.get(INITIALIZERS, []), TENSOR_FIELDS):
        _validate_tensor(tensor)


def _validate_tensor(tensor: Fields) -> None:
    """Check that a tensor contains its values, and that their size matches the type and the shape."""
    kind = tensor.get(TYPE, [0])[-1]
    item_bytes = ITEM_BYTES.get(kind) if isinstance(kind, int) else None
    if item_bytes is None:
        raise ValueError(f"must contain only tensors of float, float16, int32, int64 or bool, got type {kind}")
    if tensor.get(DATA_LOCATION, [0])[-1] != 0:
        name = _read_text(tensor, NAME)[:80]
        raise ValueError(f"must contain the values of the tensor {name!r}, got a reference to another file")
    shape = _read_integers(tensor.get(SHAPE, []))
    count = 1
    for side in shape:
        count *= side
        if side > MAX_FILE_BYTES or count > MAX_FILE_BYTES or len(shape) > MAX_RANK:
            raise ValueError(f"must contain only tensors that fit in the file, got shape {tuple(shape[:MAX_RANK])}")
    size = sum(len(_get_bytes(part)) for part in tensor.get(RAW_DATA, []))
    if RAW_DATA not in tensor:
        numbers = (FLOATS, INT32_VALUES, INT64_VALUES)
        size = item_bytes * sum(_count_values(number, tensor.get(number, [])) for number in numbers)
    if size != count * item_bytes:
        raise ValueError(
            f"must contain {count * item_bytes} bytes in the tensor {_read_text(tensor, NAME)[:80]!r}, got {size}"
        )


def _count_values(number: int, parts: list[int | memoryview]) -> int:
    """Count the values of a numeric field; `number` is its field number."""
    if number == FLOATS:
        return sum(len(part) // 4 if isinstance(part, memoryview) else 1 for part in parts)
    return len(_read_integers(parts))


def _read_integers(parts: list[int | memoryview]) -> list[int]:
    """Return the values of a repeated field of integers."""
    values: list[int] = []
    for part in parts:
        if isinstance(part, int):
            values.append(part)
            continue
        position = 0
        while position < len(part):
            value, position = _read_varint(part, position)
            values.append(value)
    return values


def _parse_all(messages: list[int | memoryview], known: frozenset[int]) -> Iterator[Fields]:
    for message in messages:
        yield _parse(_get_bytes(message), known)


def _parse(message: memoryview, known: frozenset[int]) -> Fields:
    """Return the values of each field of a message, or raise ValueError for invalid bytes or unknown fields."""
    fields: Fields = {}
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        number, kind = key >> 3, key & 7
        if number not in known:
            raise ValueError(f"must contain only fields that Loupe exports, got field {number}")
        value: int | memoryview
        if kind == VARINT:
            value, position = _read_varint(message, position)
        elif kind in (FIXED_64, FIXED_32, BYTES):
            length = {FIXED_64: 8, FIXED_32: 4}.get(kind)
            if length is None:
                length, position = _read_varint(message, position)
            value = message[position : position + length]
            if len(value) < length:
                raise ValueError("must be a message of Protocol Buffers, got an incomplete message")
            position += length
            value = int.from_bytes(value, "little") if kind != BYTES else value
        else:
            raise ValueError(f"must be a message of Protocol Buffers, got wire type {kind}")
        fields.setdefault(number, []).append(value)
    return fields


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return an integer of variable length, and the position after it."""
    value = 0
    for index, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError("must be a message of Protocol Buffers, got an integer without an end")


def _merge(parts: list[int | memoryview]) -> memoryview:
    """Join the parts of a message, because Protocol Buffers allows a message in several parts."""
    return memoryview(b"".join(_get_bytes(part) for part in parts)) if len(parts) != 1 else _get_bytes(parts[0])


def _get_bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("must be a message of Protocol Buffers, got an integer in place of bytes")
    return value


def _read_text(fields: Fields, number: int) -> str:
    """Return the last value of a text field, or ""."""
    return bytes(_get_bytes(fields[number][-1])).decode(errors="replace") if number in fields else ""
