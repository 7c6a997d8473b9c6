"""Hundreds of small photos, cut from the photos of scikit-image."""

import io

import pytest
from PIL import Image

from loupe.data.sources import find_bundled_photo

CUT_FROM = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg")


@pytest.fixture(scope="session")
def cut_photos():
    """A function that maps paths to `count` different JPEGs of 72x60 pixels, of which every 40th is damaged."""

    def cut(count):
        found = {}
        for number in range(count):
            name = CUT_FROM[number % len(CUT_FROM)]
            left, top = 7 * number % 350, 11 * number % 220
            with Image.open(find_bundled_photo().parent / name) as photo:
                stream = io.BytesIO()
                photo.convert("RGB").crop((left, top, left + 72, top + 60)).save(stream, "JPEG", quality=90)
            content = stream.getvalue()
            found[f"{number % 3:03}.{name[:-4]}/{number:04}.jpg"] = content[:300] if number % 40 == 39 else content
        return found

    return cut


@pytest.fixture(scope="session")
def photo_folder(cut_photos, tmp_path_factory):
    """A folder of 300 of these photos."""
    folder = tmp_path_factory.mktemp("photos") / "cut"
    for path, content in cut_photos(300).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder
