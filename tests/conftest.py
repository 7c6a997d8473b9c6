"""What all tests share."""

import fcntl
import functools
import io
import signal
import tarfile
from collections.abc import Generator

import pytest
from hypothesis import settings
from PIL import Image

from loupe.data.sources import find_bundled_photo

# An example that takes long on a machine in other use is no fault.
settings.register_profile("loupe", deadline=None)
settings.load_profile("loupe")
# A shell has what it starts in the background ignore Ctrl-C, and processes that ignore it start others that do.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that is marked `alone` run beside no other of any process: it holds the lock that others share."""
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing would not: processes that a test forked have it open too


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


def encoded(image, suffix, **options):
    """The bytes of a image as a file of this suffix."""
    stream = io.BytesIO()
    image.save(stream, Image.registered_extensions()[suffix], **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def encode():
    return encoded


@pytest.fixture(scope="session")
def real_crop():
    """Cuts a real photo: name, left, top, width, height -> a Pillow image."""

    @functools.cache
    def photo(name):
        return Image.open(find_bundled_photo().parent / name)

    def cut(name, left, top, width, height):
        return photo(name).crop((left, top, left + width, top + height))

    return cut


@pytest.fixture(scope="session")
def crops(real_crop):
    """Path -> bytes of a few small real photos."""
    return {path: encoded(real_crop(*place), path[path.rindex(".") :]) for path, place in CROPS.items()}


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
def photo_folder(tmp_path, crops, write_folder):
    return write_folder(tmp_path / "photos", crops)
