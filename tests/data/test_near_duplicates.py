"""Copies of a photo are in the split of their source, however many photos there are; different photos are not grouped."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from loupe.data import near_duplicates
from loupe.data.near_duplicates import SIDE, find_groups
from loupe.data.preparation import prepare
from loupe.data.sources import SAMPLE, list_photos
from loupe.imaging.decoder import open_photo

COPIES = {
    "png": lambda image, encode: encode(image, ".png"),
    "jpeg 90": lambda image, encode: encode(image, ".jpg", quality=90),
    "jpeg 40": lambda image, encode: encode(image, ".jpg", quality=40),
    "mirrored": lambda image, encode: encode(ImageOps.mirror(image), ".png"),
    "upside down": lambda image, encode: encode(ImageOps.flip(image), ".jpg", quality=75),
    "turned": lambda image, encode: encode(image.transpose(Image.Transpose.ROTATE_90), ".png"),
    "smaller": lambda image, encode: encode(image.resize([side * 5 // 9 for side in image.size]), ".png"),
    "larger": lambda image, encode: encode(image.resize([side * 4 // 3 for side in image.size]), ".jpg"),
    "palette": lambda image, encode: encode(image.quantize(64), ".png"),
    "grey": lambda image, encode: encode(image.convert("L"), ".png"),
    "transparent": lambda image, encode: encode(image.convert("RGBA"), ".png"),
}


@pytest.fixture(scope="module")
def photos():
    """16 different photos, RGB, by name."""
    images = {photo.path: open_photo(photo.read_bytes()) for photo in list_photos(("sample",), (), 16, "", True)}
    for image in images.values():
        image.thumbnail((300, 300))
    return {path.replace("/", "-"): image.convert("RGB") for path, image in images.items()}


def test_copies_are_in_the_split_of_their_source(photos, encode, write_folder, preprocess, tmp_path):
    files = {f"{name}/source.png": encode(image, ".png", compress_level=1) for name, image in photos.items()}
    alone = prepare(preprocess(source=str(write_folder(tmp_path / "photos", files))))
    assert alone.counts["near_duplicates"] == 0
    assert all(row["group"] is None for row in alone.rows)
    for name, image in photos.items():
        files |= {f"{name}/{copy}": make(image, encode) for copy, make in COPIES.items()}
    dataset = prepare(preprocess(source=str(write_folder(tmp_path / "copies", files))))
    groups = {
        name: {(row["group"], row["split"]) for row in dataset.rows if row["category"] == name} for name in photos
    }
    assert all(len(found) == 1 for found in groups.values()), groups
    assert len({group for found in groups.values() for group, _ in found}) == len(photos)
    assert dataset.counts["near_duplicates"] == dataset.counts["photos"] == len(files)
    assert dataset.counts["near_duplicate_groups"] == len(photos)
