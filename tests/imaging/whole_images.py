"""Decodes a whole image in one step: the expected result for `GreyPhoto`, which converts it in strips."""

import io
from pathlib import Path

from PIL import Image, ImageOps

from loupe.imaging.decoder import (
    expand_12_bit_values,
    has_12_bit_grey,
    scale_transparent_value,
    to_8_bit_mode,
    translate_errors,
)


def open_photo(source):
    """Decode the first frame or page of a file, given by its bytes or its path, to `L`, `RGB`, `LA` or `RGBA`."""
    content = source.read_bytes() if isinstance(source, Path) else source
    with translate_errors(), Image.open(io.BytesIO(content)) as image:
        scale_transparent_value(image)
        image.load()
        image = expand_12_bit_values(image) if has_12_bit_grey(image) else image
        return to_8_bit_mode(ImageOps.exif_transpose(image))
