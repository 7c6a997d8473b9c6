"""Writes a TIFF (TIFF 6.0) while its rows are computed.

Pillow needs all pixels in memory and has no 16-bit colour. libvips does not write EXIF, and tifffile
does not write nested directories.
"""

from typing import IO

import numpy as np
from PIL import TiffImagePlugin

from loupe.imaging.conversion import to_8_bits
from loupe.imaging.decoder import PhotoError
from loupe.imaging.exif import EXIF_IFD, GPS_IFD, STRUCTURE, RawText
from loupe.imaging.formats import has_alpha
from loupe.imaging.image_data import ImageStream
from loupe.imaging.metadata import IPTC_TAG, Metadata

MAX_BYTES = 2**32 - 2**24  # 4 GB minus space for the metadata


def write_tiff(file: IO[bytes], stream: ImageStream) -> None:
    """Write an image without compression: the directory, then one strip.

    Args:
        file: the file to write.
        stream: the image; uint16 is written with 16 bits per sample.

    Raises:
        PhotoError: the file would exceed 4 GB.
    """
    (width, height), bands = stream.size, stream.bands
    length = stream.pixel_count * bands * stream.dtype.itemsize
    if length > MAX_BYTES:
        raise PhotoError("would take more than 4 GB, the limit of a TIFF; use .png or .jpg")
    tags = make_tags(stream.metadata)
    tags[256], tags[257], tags[258], tags[259] = width, height, (8 * stream.dtype.itemsize,) * bands, 1
    tags[262], tags[277], tags[278], tags[279] = 2 if bands > 2 else 1, bands, height, length
    if has_alpha(bands):
        tags[338] = 2  # alpha that is not premultiplied
    if stream.metadata.dpi:
        tags[282], tags[283], tags[296] = *stream.metadata.dpi, 2
    if stream.metadata.icc:
        tags[34675] = stream.metadata.icc
        tags.tagtype[34675] = 7
    tags[273] = 0  # the offset of the strip from the end of the directory; Pillow adds the position of this end
    tags.tagtype[273] = 4
    tags.save(file)
    for strip in stream.strips:
        file.write((strip.astype("<u2") if stream.dtype == np.uint16 else to_8_bits(strip)).tobytes())


def make_tags(metadata: Metadata) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Make the tags for all metadata except resolution and colour profile."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if metadata.exif is not None:
        for tag, value in metadata.exif.items():
            if tag not in {EXIF_IFD, GPS_IFD, *STRUCTURE}:
                tags[tag] = value
        for tag in (EXIF_IFD, GPS_IFD):
            if tag in metadata.exif:
                tags[tag] = dict(metadata.exif.get_ifd(tag))
    if metadata.xmp:
        tags[700] = metadata.xmp
        tags.tagtype[700] = 1  # the type BYTE
    if metadata.iptc:
        tags[IPTC_TAG] = metadata.iptc
        tags.tagtype[IPTC_TAG] = 7
    if "Comment" in metadata.texts and 270 not in tags:
        tags[270] = RawText(metadata.texts["Comment"].encode().decode("latin-1"))
    return tags
