"""Small real photos: crops of those that are bundled with scikit-image, in files, folders and tars."""

import functools
import io
import tarfile

import pytest
from PIL import Image

from loupe.config import settings_of
from loupe.data.sources import bundled_photo

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


def encoded(picture, suffix, **options):
    """The bytes of a picture as a file of this suffix."""
    stream = io.BytesIO()
    picture.save(stream, Image.registered_extensions()[suffix], **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def encode():
    return encoded


@pytest.fixture(scope="session")
def real_crop():
    """Cuts a real photo: name, left, top, width, height -> a Pillow image."""

    @functools.cache
    def photo(name):
        return Image.open(bundled_photo().parent / name)

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


@pytest.fixture(scope="session")
def scheduler():
    """Address of a Dask cluster of one process, which all tests of preparing may share."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def preprocess(tmp_path, scheduler):
    """Settings for small photos; `data_dir` is a folder of the test, the cluster is the shared one."""

    def settings(**given):
        defaults = {"data_dir": str(tmp_path / "data"), "scheduler": scheduler, "label_size": "30", "quiet": "true"}
        return settings_of("preprocess", defaults | given)

    return settings
