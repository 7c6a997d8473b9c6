"""Files with many pages: their sizes are listed without decoding, and they are written in linear time."""

import io

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from loupe.imaging.decoder import PhotoError
from loupe.imaging.image_data import ImageStream
from loupe.imaging.page_sizes import list_page_sizes
from loupe.imaging.writer import write_photo


def encode_pages(name, *sizes):
    stream = io.BytesIO()
    pages = [Image.new("RGB", size, (90 * number, 0, 0)) for number, size in enumerate(sizes)]
    pages[0].save(stream, name, **({"save_all": True, "append_images": pages[1:]} if len(pages) > 1 else {}))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "sizes"),
    {"TIFF": [(1, 1), (5, 3), (4, 4)], "GIF": [(5, 3)] * 3, "PNG": [(5, 3)] * 3, "WEBP": [(5, 3)] * 3}.items(),
)
def test_sizes_of_all_images_are_listed_up_to_a_limit(name, sizes):
    content = encode_pages(name, *sizes)
    assert list_page_sizes(content, 3) == sizes
    with pytest.raises(PhotoError, match="must have at most 2 frames or pages, got more"):
        list_page_sizes(content, 2)
    assert list_page_sizes(encode_pages("BMP", (5, 3)), 1) == [(5, 3)]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_time_per_page_does_not_grow_with_their_number(dtype, tmp_path, monkeypatch):
    reads, counts = [], []
    read = TiffImagePlugin.AppendingTiffWriter._read
    monkeypatch.setattr(
        TiffImagePlugin.AppendingTiffWriter, "_read", lambda *arguments: reads.append(1) or read(*arguments)
    )
    for number in (10, 60):
        reads.clear()
        pages = (
            ImageStream((4, 3), 3, np.dtype(dtype), iter([np.full((3, 4, 3), page, dtype)])) for page in range(number)
        )
        write_photo(tmp_path / f"{number}.tif", pages, number)
        counts.append(len(reads))
        assert len(list_page_sizes(tmp_path / f"{number}.tif", number)) == number
    assert 0 < counts[1] < 8 * counts[0]
