"""Writes the shards of a prepared dataset: files of labels and of inputs. One task writes shards of a few photos."""

import hashlib
import socket
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loupe.config import parse_settings
from loupe.config.steps import Preprocess
from loupe.data import storage
from loupe.data.labels import Label, cut_labels, shrink_label
from loupe.data.manifest import Row
from loupe.data.sources import SourcePhoto
from loupe.errors import LoupeError
from loupe.imaging import decoder, luminance


def prepare_shard(
    number: int, photos: list[SourcePhoto], crop: str, location: str, texts: dict[str, str]
) -> dict[str, Any]:
    """Decode photos, cut and shrink their labels, and write one shard of labels and one of inputs per scale.

    Args:
        number: the number of the shard.
        photos: the photos of the shard.
        crop: as in `cut_labels`.
        location: the folder or URL of the dataset.
        texts: the settings of preprocess as text.

    Returns:
        A dict with the keys `number`; `rows`, the rows of the manifest; `shards`, the SHA-256 of each file by name;
        `sums`, the result of `_sum_values` by kind of shard; `photos`, the number of photos.

    Raises:
        LoupeError: a photo has changed since it was listed, or this machine cannot read it.
    """
    settings = parse_settings("preprocess", texts)
    rows: list[dict[str, Any]] = []
    labels: list[np.ndarray] = []
    for photo in photos:
        row, cut = cut_photo(photo, crop, settings)
        if not cut:
            rows.append(vars(row))
        for label in cut:
            position = {"x": label.x, "y": label.y, "shrunk": label.shrunk, "shard": number, "row": len(labels)}
            rows.append(vars(row) | position)
            labels.append(label.pixels)
    checksums, sums = {}, {}
    if labels:
        arrays = {"labels": labels}
        for scale in settings.scales:
            arrays[name_inputs(scale)] = [shrink_label(label, scale, settings) for label in labels]
        for kind, images in arrays.items():
            stacked = np.stack(images)
            name = name_shard(kind, number)
            with storage.create_file(location, name) as file:
                save_array(file, stacked)
                checksums[name] = hash_file(file)
            sums[kind] = _sum_values(stacked)
    return {"number": number, "rows": rows, "shards": checksums, "sums": sums, "photos": len(photos)}


def _sum_values(images: np.ndarray) -> np.ndarray:
    """Return the number of pixels of uint8 images, the sum of their values in [-1, 1], and the sum of the squares."""
    values = np.arange(256) / 127.5 - 1
    counts = np.array(Image.fromarray(images.reshape(-1, images.shape[-1])).histogram())
    return np.array([images.size, counts @ values, counts @ values**2])


def cut_photo(photo: SourcePhoto, crop: str, settings: Preprocess) -> tuple[Row, list[Label]]:
    """Cut the labels of one photo; an unusable photo has no labels, and its row contains the reason."""
    row = Row(path=photo.path, category=photo.category, sha256=photo.sha256)
    if photo.reason:
        return replace(row, reason=photo.reason), []
    try:
        image = decoder.open_photo(_read_unchanged(photo))
        row = replace(row, width=image.width, height=image.height)
        grey = luminance.compute_luminance(image, settings.luminance)
        return row, cut_labels(grey, settings, crop, settings.seed, photo.sha256)
    except decoder.PhotoError as error:
        return replace(row, reason=str(error)), []


def _read_unchanged(photo: SourcePhoto) -> bytes:
    """Return the bytes of a photo; raises LoupeError if its hash differs from the listed one."""
    try:
        content = photo.read_bytes()
        reason = "its content has changed" if hashlib.sha256(content).hexdigest() != photo.sha256 else ""
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:  # an error: otherwise, a machine that cannot read the source would skip all photos of its tasks
        raise LoupeError(
            "source: must be a URL or a folder that all machines share, and must not change; on "
            f"{socket.gethostname()}, {photo.file!r}: {reason}"
        )
    return content


def name_inputs(scale: Fraction) -> str:
    """Return the kind of the shards with inputs of a scale, such as `inputs-3x2`."""
    return f"inputs-{scale.numerator}x{scale.denominator}"


def name_shard(kind: str, number: int) -> str:
    """Return the file name of a shard, such as `labels-00007.npy`."""
    return f"{kind}-{number:05d}.npy"


def save_array(file: Path, images: np.ndarray) -> None:
    """Write uint8 images (n, side, side) as a .npy file. np.save is not used, because it ignores a full disk."""
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(images))
        stream.write(np.ascontiguousarray(images).data)


def hash_file(file: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
