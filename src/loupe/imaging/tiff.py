"""A page to a TIFF, row by row, with the tags that go with it."""

from typing import IO

from PIL import TiffImagePlugin

from loupe.imaging.conversion import to_8_bits
from loupe.imaging.decoder import PhotoError
from loupe.imaging.metadata import EXIF_IFD, GPS_IFD, AsRead
from loupe.imaging.reader import LargePage, Page


def write_tiff(stream: IO[bytes], page: LargePage, deep: bool) -> None:
    """Row by row to a TIFF that is not compressed (TIFF 6.0): its directory, and then one strip.

    Args:
        stream: to write to.
        page: that is written.
        deep: whether in 16 bits, not 8.

    Raises:
        PhotoError: it would be too long for one.
    """
    width, height = page.size
    bands = page.about.pixels.shape[2]
    bits = 16 if deep else 8
    length = width * height * bands * bits // 8
    if length > 2**32 - 2**24:
        raise PhotoError("would take more than 4 GB, which a TIFF cannot hold; use .png or .jpg")
    tags = tags_of(page.about)
    tags[256], tags[257], tags[258], tags[259] = width, height, (bits,) * bands, 1
    tags[262], tags[277], tags[278], tags[279] = 2 if bands > 2 else 1, bands, height, length
    if bands in (2, 4):
        tags[338] = 2  # alpha, not premultiplied
    if page.about.dpi:
        tags[282], tags[283], tags[296] = *page.about.dpi, 2
    if page.about.icc:
        tags[34675] = page.about.icc
        tags.tagtype[34675] = 7
    tags[273] = 0  # where the strip begins, from the end of the directory on: Pillow adds where that is
    tags.tagtype[273] = 4
    tags.save(stream)
    for strip in page.strips:
        stream.write((strip if deep else to_8_bits(strip)).astype("<u2" if deep else "u1").tobytes())


def tags_of(about: Page) -> TiffImagePlugin.ImageFileDirectory_v2:
    """What goes with a page, as the tags of a TIFF; not its resolution and colour profile."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if about.exif is not None:
        for tag, value in about.exif.items():
            if tag not in (EXIF_IFD, GPS_IFD):
                tags[tag] = value
        for tag in (EXIF_IFD, GPS_IFD):
            if tag in about.exif:
                tags[tag] = dict(about.exif.get_ifd(tag))
    if about.xmp:
        tags[700] = about.xmp
        tags.tagtype[700] = 1  # bytes
    if "Comment" in about.texts and 270 not in tags:
        tags[270] = AsRead(about.texts["Comment"].encode().decode("latin-1"))
    return tags
