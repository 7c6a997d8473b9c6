"""Files with many pages: their sizes are listed without decoding, and the time to write them is linear."""

import io

import numpy as np
import pytest
import pyvips
from PIL import Image

from loupe.imaging import opening
from loupe.imaging.decoder import PhotoError
from loupe.imaging.image_data import ImageStream
from loupe.imaging.page_sizes import list_page_sizes
from loupe.imaging.reader import read_photo
from loupe.imaging.tiff import write_tiff


def save_pages(file, name, *sizes):
    pages = [Image.new("RGB", size, (90 * number, 0, 0)) for number, size in enumerate(sizes)]
    pages[0].save(file, name, **({"save_all": True, "append_images": pages[1:]} if len(pages) > 1 else {}))


@pytest.mark.parametrize(
    ("name", "sizes"),
    {"TIFF": [(1, 1), (5, 3), (4, 4)], "GIF": [(5, 3)] * 3, "PNG": [(5, 3)] * 3, "WEBP": [(5, 3)] * 3}.items(),
)
def test_sizes_of_all_images_are_listed_up_to_a_limit(name, sizes, tmp_path):
    save_pages(tmp_path / "pages", name, *sizes)
    assert list_page_sizes(tmp_path / "pages", 3) == sizes
    with pytest.raises(PhotoError, match="must have at most 2 frames or pages, got more"):
        list_page_sizes(tmp_path / "pages", 2)
    save_pages(tmp_path / "page", "BMP", (5, 3))
    assert list_page_sizes(tmp_path / "page", 1) == [(5, 3)]


def test_only_the_primary_image_of_a_heic_is_counted(tmp_path):
    pytest.importorskip("pi_heif")
    pages = pyvips.Image.black(16, 48, bands=3).copy(interpretation="srgb")
    pages.set_type(pyvips.GValue.gint_type, "page-height", 16)
    content, file = pages.heifsave_buffer(compression="av1"), tmp_path / "photo.heic"
    file.write_bytes(content.replace(b"ftypavif", b"ftypheic", 1))
    assert opening.open_image(file).n_frames == 3
    assert list_page_sizes(file, 1) == [(16, 16)]
    assert read_photo(file).count == 1


def test_the_thumbnails_of_a_tiff_are_limited(monkeypatch, tmp_path):
    monkeypatch.setattr(opening, "MAX_SKIPPED", 3)
    images, file = [Image.new("L", (2, 1))] * 4, tmp_path / "photo.tif"
    images[0].save(file, "TIFF", save_all=True, append_images=images[1:], tiffinfo={opening.SUBFILE_TYPE: 1})
    with pytest.raises(PhotoError, match="must have at most 3 thumbnails and masks, got more"):
        list_page_sizes(file, 9)
    monkeypatch.setattr(opening, "MAX_SKIPPED", 4)
    assert list_page_sizes(file, 9) == [(2, 1)]


class CountingFile(io.BytesIO):
    """A file that counts the bytes that are read or written, and the seeks."""

    work = 0

    def write(self, content):
        self.work += len(content)
        return super().write(content)

    def read(self, size=-1):
        content = super().read(size)
        self.work += len(content)
        return content

    def seek(self, *position):
        self.work += 1
        return super().seek(*position)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_work_per_page_does_not_grow_with_the_number_of_pages(dtype):
    files = []
    for count in (10, 60):
        files.append(CountingFile())
        pages = (
            ImageStream((4, 3), 3, np.dtype(dtype), iter([np.full((3, 4, 3), page, dtype)])) for page in range(count)
        )
        write_tiff(files[-1], pages, count)
        assert Image.open(io.BytesIO(files[-1].getvalue())).n_frames == count
    assert 0 < files[1].work < 8 * files[0].work
