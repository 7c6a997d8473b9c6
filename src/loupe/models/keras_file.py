"""Loads untrusted .keras files. Only networks of Loupe are accepted; no code from a file runs."""

import json
import zipfile
from pathlib import Path

import keras

from loupe.models.network_size import measure_network
from loupe.models.weights_file import WEIGHTS, validate_weights
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.tiling import compute_largest_input

CONFIG = "config.json"
# Maximum sizes of the files in the archive; other files are refused
MAX_BYTES = {"metadata.json": 10_000, CONFIG: 10_000_000, WEIGHTS: 400_000_000}
MAX_TILE_BYTES = 2**29  # maximum size of an intermediate result for a tile
MAX_PRODUCTS = 2 * 10**12  # multiplications per tile, which take about a minute on one core


def load(file: Path) -> keras.Model:
    """Load an uncompiled network in Keras's safe mode, which refuses code.

    Raises:
        ValueError, UsageError or zipfile.BadZipFile: the file is not a .keras file of Loupe, or the network is too
            large. Damaged or malicious files can cause other exceptions.
    """
    if file.suffix != ".keras":
        raise ValueError("must be a .keras file")
    with zipfile.ZipFile(file) as archive:
        _validate_members(archive.infolist())
        config = json.loads(archive.read(CONFIG))
    _validate_network(file, config)
    model = keras.saving.load_model(file, compile=False, safe_mode=True)
    channels = Geometry.from_name(config["config"]["name"]).channels
    if not isinstance(model, keras.Model) or [part.shape for part in model.inputs] != [(None, None, None, channels)]:
        raise ValueError(f"must take images of {channels} channels")
    # Replaces a list of one input by the input, because Keras warns about such a list.
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def _validate_members(members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    unexpected = set(names) - MAX_BYTES.keys()
    if unexpected:
        raise ValueError(f"must contain only {', '.join(MAX_BYTES)}, got {min(unexpected)[:80]!r}")
    if sorted(names) != sorted(MAX_BYTES):
        raise ValueError(f"must contain {', '.join(MAX_BYTES)}, each once, got {', '.join(names[:10]) or 'nothing'}")
    for member in members:
        limit = MAX_BYTES[member.filename]
        if member.file_size > limit:
            raise ValueError(f"must have at most {limit} bytes in {member.filename}, got {member.file_size}")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"must not be compressed, got a compressed {member.filename}")


def _validate_network(file: Path, config: object) -> None:
    """Check the layers, the size and the weights of a network before Keras allocates memory for it."""
    weights = validate_size(config, file.stat().st_size)
    validate_weights(file, weights)


def validate_size(config: object, max_bytes: int = MAX_BYTES[WEIGHTS]) -> int:
    """Return the number of weights of a network, after a check of its sizes.

    Args:
        config: the configuration of the network, as in `config.json`.
        max_bytes: a further limit of the size of the weights.

    Raises:
        ValueError: the network is larger than `load` accepts, or its result does not match the scale factor in its
            name.
    """
    geometry = Geometry.from_name(config["config"]["name"])  # type: ignore[index] # callers handle the TypeError
    side = compute_largest_input(geometry)
    size = measure_network(config, side)
    limit = min(MAX_BYTES[WEIGHTS], max_bytes)
    if 4 * size.weights > limit:
        raise ValueError(f"must have at most {limit} bytes of weights, got {4 * size.weights}")
    if 4 * size.largest > MAX_TILE_BYTES or size.products > MAX_PRODUCTS:
        raise ValueError(
            f"must need at most {MAX_TILE_BYTES} bytes and {MAX_PRODUCTS} multiplications per tile, "
            f"got {4 * size.largest} and {size.products}"
        )
    expected = (side * geometry.p // geometry.q,) * 2 + (1,)
    if size.result != expected:
        raise ValueError(f"must return {expected} for {(side, side, geometry.channels)}, got {size.result}")
    return size.weights
