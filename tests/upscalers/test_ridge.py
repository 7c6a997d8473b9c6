"""Ridge weights are stored in the dataset that they were fitted on, and other files are refused."""

import io
import threading
import tracemalloc
import zipfile
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest

from loupe.config import parse_settings
from loupe.data import dataset as data
from loupe.data.pairs import Pairs
from loupe.data.preparation import prepare
from loupe.errors import LoupeError
from loupe.upscalers import ridge

SCALE = Fraction(3, 2)


@pytest.fixture
def dataset(photo_folder, tmp_path):
    settings = {"source": str(photo_folder), "label_size": "30", "data_dir": str(tmp_path / "data"), "quiet": "true"}
    return prepare(parse_settings("preprocess", settings))


@pytest.mark.parametrize("scale", [Fraction(2), Fraction(3, 2), Fraction(1)])
def test_the_memory_of_a_fit_does_not_grow_with_the_images(scale, monkeypatch):
    labels = np.random.default_rng(0).integers(0, 256, (2, 240, 240), "uint8")
    side = int(240 / scale)
    pairs = Pairs.from_images([{}, {}], labels[:, :side, :side], labels, scale)
    expected = ridge.fit(pairs)
    monkeypatch.setattr(ridge, "MAX_BLOCKS", 1000)
    tracemalloc.start()
    weights = ridge.fit(pairs)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert peak_bytes < 5e6  # with all blocks in one matrix: more than 10 MB


def make_zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("weights.npy", b"")
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", make_zip(), b"\x93NUMPY\x01\x00\x09\x00{'descr':", b"\x93NUMPY\x01\x00\x06\x00{[]:1}"],
    ids=["empty", "cut zip", "zip", "cut header", "list as a key"],
)
def test_files_that_are_not_arrays_are_refused(content, tmp_path):
    (tmp_path / "ridge.npy").write_bytes(content)
    with pytest.raises(LoupeError, match=r"^ridge: .* is not a ridge of 3:2: ") as caught:
        ridge.load_weights(tmp_path / "ridge.npy", SCALE)
    assert "\n" not in str(caught.value)


def test_weights_of_another_dataset_at_the_same_location_are_not_used(dataset):
    weights = ridge.load_or_fit(dataset, SCALE)
    (file,) = dataset.folder.glob("ridge-*")
    np.save(file, weights + 1)
    np.testing.assert_array_equal(ridge.load_or_fit(dataset, SCALE), weights + 1)
    dataset.digest = "0123456789ab"
    np.testing.assert_array_equal(ridge.load_or_fit(dataset, SCALE), weights)


def test_weights_are_not_stored_in_a_read_only_folder(dataset, monkeypatch):
    monkeypatch.setattr(ridge.os, "access", lambda folder, mode: False)  # root can write to every folder
    weights = ridge.load_or_fit(dataset, SCALE)
    assert not list(dataset.folder.glob("ridge-*"))
    monkeypatch.undo()
    np.testing.assert_array_equal(ridge.load_or_fit(dataset, SCALE), weights)
    assert list(dataset.folder.glob("ridge-*"))


def test_weights_of_a_shard_that_is_found_damaged_in_the_background_are_not_stored(dataset, monkeypatch):
    monkeypatch.setattr(data, "VERIFY_FIRST_BYTES", 0)
    for file in dataset.folder.glob("labels-*"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with suppress(LoupeError):  # raised if the damage is found before the end of the fit
        ridge.load_or_fit(dataset, SCALE)
    with pytest.raises(LoupeError, match="is missing or changed"):
        dataset.finish_verification()
    assert not list(dataset.folder.glob("ridge-*"))


def test_weights_are_returned_without_a_wait_and_stored_only_if_all_shards_are_verified(dataset, monkeypatch):
    hash_file, released = data.hash_file, threading.Event()
    monkeypatch.setattr(data, "VERIFY_FIRST_BYTES", 0)
    monkeypatch.setattr(data, "_hashes", {})
    monkeypatch.setattr(data, "hash_file", lambda file: released.wait() and hash_file(file))
    weights = ridge.load_or_fit(dataset, SCALE)
    assert not list(dataset.folder.glob("ridge-*"))
    released.set()
    dataset.finish_verification()
    np.testing.assert_array_equal(ridge.load_or_fit(dataset, SCALE), weights)
    assert len(list(dataset.folder.glob("ridge-*"))) == 1
