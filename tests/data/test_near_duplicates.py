"""Copies of a photo are in the split of their source; different photos are not grouped."""

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from loupe.config import parse_settings
from loupe.data.near_duplicates import SIDE, _merge_groups, find_groups, normalise_thumbnails
from loupe.data.preparation import prepare
from loupe.data.sources import list_photos
from loupe.imaging.grey import GreyPhoto

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
    listed = list_photos(parse_settings("preprocess", {"limit": 16}))
    images = {photo.path: Image.open(photo.file) for photo in listed}
    for image in images.values():
        image.thumbnail((160, 160))
    return {path.replace("/", "-"): image.convert("RGB") for path, image in images.items()}


def test_copies_are_in_the_split_of_their_source(photos, encode, write_folder, preprocess, tmp_path):
    files = {f"{name}/source.png": encode(image, ".png") for name, image in photos.items()}
    alone = prepare(preprocess(source=str(write_folder(tmp_path / "photos", files))))
    assert alone.counts["near_duplicates"] == alone.counts["near_duplicate_groups"] == 0
    assert all(row["group"] is None for row in alone.rows)
    for name, image in photos.items():
        files |= {f"{name}/{copy}": make(image, encode) for copy, make in COPIES.items()}
    dataset = prepare(preprocess(source=str(write_folder(tmp_path / "copies", files))))
    rows = {name: [row for row in dataset.rows if row["category"] == name] for name in photos}
    assert {name: len({row["split"] for row in copies}) for name, copies in rows.items()} == dict.fromkeys(photos, 1)
    smallest = {min(row["sha256"] for row in copies) for copies in rows.values()}
    assert {row["group"] for row in dataset.rows} == smallest
    assert dataset.counts["near_duplicates"] == dataset.counts["photos"] == len(files)
    assert dataset.counts["near_duplicate_groups"] == len(photos)


def test_groups_do_not_depend_on_the_order_and_are_found_among_many_photos():
    """2,000 smooth images, of which 200 have a noisy and flipped copy."""
    rng = np.random.default_rng(0)
    values = np.array([Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                       for image in rng.normal(128, 40, (2000, 5, 5)).astype("float32")])  # fmt: skip
    copies = np.flip(values[:200], axis=2) + rng.normal(0, 1, (200, SIDE, SIDE))
    thumbnails = normalise_thumbnails(
        np.concatenate([values, copies, np.full((9, SIDE, SIDE), 3.0)]).astype("float32")
    )
    hashes = np.array([hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(2209)], "S64")
    order = rng.permutation(len(hashes))
    groups = find_groups(hashes, thumbnails)
    names = hashes.astype(str)
    pairs = zip(names[:200], names[2000:2200], strict=True)
    assert groups == {name: min(pair) for pair in pairs for name in pair}
    assert find_groups(hashes[order], thumbnails[order]) == groups


def test_white_photos_with_a_small_dark_object_are_grouped():
    images = np.full((3, SIDE, SIDE), 255, "float32")
    images[:2, 3, 4] = 0  # the third image has no contrast
    assert find_groups(np.array([b"1", b"2", b"3"]), normalise_thumbnails(images)) == {"1": "1", "2": "1"}


def test_groups_are_connected_through_pairs_of_several_merges():
    """The result of several merges equals the components of all pairs together."""
    rng = np.random.default_rng(0)
    for count in (2, 9, 60):
        smallest, groups = np.arange(count), {number: {number} for number in range(count)}
        for _ in range(4):
            pairs = rng.integers(count, size=(2, count // 3))
            smallest = _merge_groups(smallest, pairs)
            for first, second in pairs.T:
                union = groups[first] | groups[second]
                groups |= dict.fromkeys(union, union)
        assert smallest.tolist() == [min(groups[number]) for number in range(count)]


def test_a_large_photo_is_shrunk_like_a_small_one(real_crop, encode):
    """A photo of several strips, with sides that are not multiples of the strips."""
    crop = real_crop("astronaut.png", 0, 0, 509, 397)
    sizes = ((1531, 1193), (509, 397), (61, 47))
    small = [GreyPhoto(encode(crop.resize(size), ".png"), lambda count: None).shrink(SIDE) for size in sizes]
    assert np.abs(small[0] - small[1]).max() < 3
    assert np.abs(small[2] - small[1]).max() < 8
