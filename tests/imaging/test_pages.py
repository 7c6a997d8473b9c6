"""Files with many pages: their sizes are listed without decoding."""

import io

import pytest
from PIL import Image

from loupe.imaging.decoder import PhotoError
from loupe.imaging.page_sizes import list_page_sizes


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
