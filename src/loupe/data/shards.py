"""Shards of a prepared dataset: files of labels and of their inputs, each made of a few photos by one task."""

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
    number: int, listed: list[SourcePhoto], crop: str, place: str, given: dict[str, str]
) -> dict[str, Any]:
    """One task: decode, cut, shrink, write; gives the manifest's rows, the files' sha256 and pixel sums.

    Raises:
        LoupeError: a photo is not, here, what it was where it was listed.
    """
    settings = parse_settings("preprocess", given)
    rows: list[dict[str, Any]] = []
    labels: list[np.ndarray] = []
    for photo in listed:
        row, found = cut_photo(photo, crop, settings)
        if not found:
            rows.append(vars(row))
        for label in found:
            where = {"x": label.x, "y": label.y, "shrunk": label.shrunk, "shard": number, "row": len(labels)}
            rows.append(vars(row) | where)
            labels.append(label.pixels)
    arrays = {"labels": labels}
    for scale in settings.scales if labels else ():
        small = [shrink_label(label, scale, settings) for label in labels]
        arrays[name_inputs(scale)] = small
    shards, sums = {}, {}
    for name, images in arrays.items():
        if images:
            stacked = np.stack(images)
            with storage.create_file(place, name_shard(name, number)) as file:
                save_array(file, stacked)
                shards[file.name] = hash_file(file)
            values, counts = (
                np.arange(256) / 127.5 - 1,
                np.array(Image.fromarray(stacked.reshape(-1, stacked.shape[-1])).histogram()),
            )
            sums[name] = np.array([stacked.size, counts @ values, counts @ values**2])
    return {"number": number, "rows": rows, "shards": shards, "sums": sums, "photos": len(listed)}


def cut_photo(photo: SourcePhoto, crop: str, settings: Preprocess) -> tuple[Row, list[Label]]:
    """The labels of one photo with its row; a photo that cannot be used has none, and a reason."""
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


def _read_unchanged(photo: SourcePhoto) -> Path | bytes:
    """The file or bytes of a photo; refused where this machine does not see what the one that listed it saw."""
    try:
        content = photo.opened()
        found = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else hash_file(content)
        why = "is another file" if found != photo.sha256 else ""
    except OSError as error:
        why = error.strerror or str(error)
    if why:  # as a photo that cannot be read it would be left out, silently, with all others of its machine
        raise LoupeError(
            "source: must be at an address or in a folder that all machines share, and stay as it is; on "
            f"{socket.gethostname()}, {photo.file!r}: {why}"
        )
    return content


def name_inputs(scale: Fraction) -> str:
    """What the shards of inputs of a scale are called: `inputs-3x2`."""
    return f"inputs-{scale.numerator}x{scale.denominator}"


def name_shard(name: str, number: int) -> str:
    """What the file of a shard is called: `labels-00007.npy`."""
    return f"{name}-{number:05d}.npy"


def save_array(file: Path, images: np.ndarray) -> None:
    """Write uint8 images (n, side, side) as np.save does, which does not tell when the disk is full."""
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(images))
        stream.write(np.ascontiguousarray(images).data)


def hash_file(file: Path) -> str:
    """The content hash of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
