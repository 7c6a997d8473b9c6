"""Lists the sizes of all frames or pages of an image file without decoding."""

import warnings
from pathlib import Path

from PIL import Image

from loupe.imaging.decoder import PhotoError, translate_errors
from loupe.imaging.opening import TiffImage, count_images, list_pages, open_image


def list_page_sizes(path: Path, limit: int) -> list[tuple[int, int]]:
    """Return width and height of each frame or page: upright for a TIFF, before the EXIF rotation for other formats.

    Raises:
        PhotoError: the file is unreadable, damaged or not a supported image, or has more than `limit` frames or
            pages.
    """
    with translate_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with open_image(path) as image:
            if not isinstance(image, TiffImage):
                count = count_images(image)
                _validate_count(count, limit)
                return [image.size] * count
            sizes: list[tuple[int, int]] = []
            for _ in list_pages(image):
                sizes.append(image.size)
                _validate_count(len(sizes), limit)
            return sizes


def _validate_count(count: int, limit: int) -> None:
    if count > limit:
        raise PhotoError(f"must have at most {limit} frames or pages, got more")
