"""Fixtures for all tests: small real photos as files, folders and tar archives; the order of slow tests."""

import functools
import gc
import io
import signal
import sys
import tarfile

import pytest
from hypothesis import settings
from PIL import Image

from loupe.data.sources import find_bundled_photo

# On a busy machine, a slow example of Hypothesis is not a failure.
settings.register_profile("loupe", deadline=None)
settings.load_profile("loupe")
# A shell makes background processes ignore Ctrl-C, and their child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# By default, garbage collections take 4 % of the time of the quick tests.
gc.set_threshold(50_000, 10, 10)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the tests with the most seconds first: a long test that starts last leaves the other cores idle."""
    items.sort(key=lambda item: -max((mark.args[0] for mark in item.iter_markers("slow") if mark.args), default=0))


# Path in the layout of Caltech-256 -> bundled photo, left, top, width, height.
CROPS = {
    "001.cat/001_0001.jpg": ("chelsea.png", 130, 60, 64, 48),
    "001.cat/001_0002.jpg": ("chelsea.png", 200, 100, 50, 66),
    "002.cup/002_0001.jpg": ("coffee.png", 200, 150, 48, 48),
    "002.cup/002_0002.png": ("coffee.png", 300, 100, 70, 52),
    "003.person/003_0001.jpg": ("astronaut.png", 180, 60, 60, 60),
    "003.person/003_0002.png": ("camera.png", 200, 80, 56, 64),
    "003.person/more/003_0003.jpg": ("rocket.jpg", 300, 200, 61, 49),
}


def encode_image(image, suffix, **options):
    """Return the bytes of an image in the file format of a suffix."""
    stream = io.BytesIO()
    image.save(stream, Image.registered_extensions()[suffix], **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def encode():
    return encode_image


@pytest.fixture(scope="session")
def real_crop():
    """A function that crops a bundled photo; returns a Pillow image."""

    @functools.cache
    def photo(name):
        return Image.open(find_bundled_photo().parent / name)

    def cut(name, left, top, width, height):
        return photo(name).crop((left, top, left + width, top + height))

    return cut


@pytest.fixture(scope="session")
def crops(real_crop):
    """Map paths to the bytes of a few small real photos."""
    return {path: encode_image(real_crop(*box), path[path.rindex(".") :]) for path, box in CROPS.items()}


@pytest.fixture(scope="session")
def write_folder():
    def write(folder, files):
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder

    return write


@pytest.fixture(scope="session")
def write_tar():
    def write(file, files, top="256_ObjectCategories/", mode="w"):
        with tarfile.open(file, mode) as tar:
            for path, content in files.items():
                member = tarfile.TarInfo(top + path)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return file

    return write


@pytest.fixture
def unraisable_hook(monkeypatch):
    """Restore the hook for errors in destructors after a test that sends a signal to its own process."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


@pytest.fixture
def photo_folder(tmp_path, crops, write_folder):
    return write_folder(tmp_path / "photos", crops)
