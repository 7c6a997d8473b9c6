"""Fixtures for tests of whole steps: a finished main job and small real photos."""

from pathlib import Path

import pytest
from jobs import loupe


@pytest.fixture(scope="session")
def finished_main(tmp_path_factory):
    """A folder in which `loupe main --smoke true` has run, and its model was made champion by hand.

    Tests may add runs but not delete them.
    """
    folder = tmp_path_factory.mktemp("main")
    done = loupe("main", "--smoke", "true", cwd=folder)
    loupe("register", "--version", "1", cwd=folder)
    (folder / "printed.txt").write_text(done.stdout)
    (folder / "errors.txt").write_text(done.stderr)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of three real photos in two subfolders."""
    import skimage
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("coffee.png", "chelsea.png", "rocket.jpg")):
        (folder / f"{number % 2}").mkdir(exist_ok=True)
        Image.open(Path(skimage.__file__).parent / "data" / name).resize((160, 120)).save(
            folder / f"{number % 2}" / name
        )
    return folder
