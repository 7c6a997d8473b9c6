"""Estimates the maximum memory for reading and writing an image. The constants were measured."""

import math
import os
from pathlib import Path

from PIL import Image

from loupe.imaging.decoder import PhotoError, validate_pixel_count
from loupe.imaging.formats import MAX_PIXELS_IN_MEMORY, STREAMED_FORMATS, is_jpeg_xl

# Bytes per pixel while an image is decoded (Pillow's image, its conversion and the result), by Pillow's mode
DECODING_BYTES = {"1": 5, "L": 5, "LA": 9, "P": 10, "I;16": 24, "RGB": 8, "RGBA": 9, "CMYK": 13, "LAB": 13}
TRANSPARENT_BYTES = 13  # bytes per pixel of images with one transparent value
DEEP_BYTES = {1: 8, 2: 12, 3: 16, 4: 20}  # bytes per pixel of images with 16 bits per sample, by number of bands
# Bytes per pixel, by format, for decoders that keep several copies
CODEC_BYTES = {"WEBP": 20, "AVIF": 28, "GIF": 22, "HEIF": 20, "JPEG2000": 32}
OTHER_BYTES = 24  # bytes per pixel of all other images
ROW_BYTES = 20  # additional bytes per pixel of the width
LIBRARY_BYTES = 40_000_000  # additional memory of a decoder
JXL_BYTES = 1_000_000_000  # additional memory to open a JPEG XL of any size
OPENING_BYTES = 150_000_000  # to open a file; `estimate_opening` adds memory for the pixels and copies of the file
# Bytes per decoded pixel at 8 bits per sample, by Pillow's mode. CMYK and LAB become RGB. For 16 bits per sample,
# `get_pixel_bytes` doubles the number.
PIXEL_BYTES = {"1": 1, "L": 1, "LA": 2, "I;16": 1, "RGB": 3, "CMYK": 3, "LAB": 3}
# Bytes per pixel while one image is encoded
DEEP_AVIF_BYTES = 76  # an AVIF with 10 bits per sample
GIF_BYTES = 33
AVIF_BYTES = {"4:2:0": 35, "4:4:4": 56}
# An AVIF animation takes at least AVIF_BYTES * ANIMATED_AVIF_FACTOR bytes per pixel of a frame. The estimate adds
# AVIF_BORDER columns and rows to the frame. The addition matters only for small frames.
ANIMATED_AVIF_FACTOR, AVIF_BORDER = 4.7, 160
OTHER_FORMAT_BYTES = 8  # JPEG, PNG, TIFF and BMP
WEBP_BYTES = {(False, False): 37, (False, True): 16, (True, False): 43, (True, True): 29}  # by lossless, low_memory
WEBP_ALPHA_BYTES = 42  # minimum for a lossy WebP with alpha
OPAQUE_PIXEL_BYTES = 1, 3, 6  # `get_pixel_bytes` returns these numbers only for images without alpha
FRAME_BYTES = {"PNG": 12, "GIF": 10, "WEBP": 18, "AVIF": 80}  # additional bytes per pixel of all frames together


def estimate_opening(path: Path) -> int:
    """Estimate the maximum memory for opening a file.

    Raises:
        PhotoError: the file is unreadable, or is a PNG or WebP with too many pixels.
    """
    try:
        with path.open("rb") as file:
            head = file.read(32)
            file_bytes = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise PhotoError((error.strerror or str(error)).lower()) from None
    pixels, per_pixel, copies, additional = 0, 0, 0, 0
    # Pillow copies a WebP twice, and the decoder keeps two frames of 4 bytes per pixel.
    if head[:4] == b"RIFF":
        pixels, per_pixel, copies = read_webp_pixels(head), 8, 2
    elif head[:4] == b"\x89PNG":  # the pixels are decoded, because EXIF can follow them
        width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))  # in IHDR
        pixels, per_pixel, additional = width * height, 5, width * ROW_BYTES
    elif head[4:8] == b"ftyp":  # Pillow copies an AVIF twice
        copies = 2
    elif is_jpeg_xl(head):
        additional = JXL_BYTES
    validate_pixel_count(pixels)
    return OPENING_BYTES + copies * file_bytes + per_pixel * pixels + additional


def read_webp_pixels(head: bytes) -> int:
    """Read the number of pixels from the first bytes of a WebP (RFC 9649, 2.5 to 2.7)."""
    if head[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return width * height


def get_pixel_bytes(image: Image.Image, deep: bool) -> int:
    """Return the maximum bytes per decoded pixel. `deep` is the same as in `estimate_decoding`."""
    bands = PIXEL_BYTES.get(image.mode, 4)
    if "transparency" in image.info and image.mode != "P":
        bands += 1
    return bands * 2 if deep or image.mode.startswith("I;16") else bands


def estimate_decoding(image: Image.Image, deep: bool, file_bytes: int) -> int:
    """Estimate the maximum memory for decoding the current frame or page.

    Args:
        image: an opened image that is not decoded yet.
        deep: whether libvips or pi_heif decodes the image; the result can then have 16 bits per sample.
        file_bytes: the size of the file.
    """
    name, mode = image.format or "", image.mode
    if deep:
        per_pixel = DEEP_BYTES.get(len(image.getbands()), OTHER_BYTES) + CODEC_BYTES.get(name, 0)
    elif name in CODEC_BYTES:
        per_pixel = CODEC_BYTES[name]
    elif "transparency" in image.info and mode in ("1", "L", "RGB"):
        per_pixel = TRANSPARENT_BYTES
    else:
        per_pixel = DECODING_BYTES.get(mode, OTHER_BYTES)
        if getattr(image, "is_animated", False) and name == "PNG":
            per_pixel += 8  # the previous frame and the canvas
        if name == "JPEG":
            # With several scans, the decoder keeps the coefficients of all bands.
            per_pixel = max(per_pixel, 3 * len(image.getbands()) + 1)
    whole_file = 2 * file_bytes if name in ("WEBP", "AVIF") else 0
    return image.width * image.height * per_pixel + image.width * ROW_BYTES + whole_file + LIBRARY_BYTES


def estimate_encoding(name: str, largest: tuple[int, int], total: int, per_pixel: int | None = None) -> int:
    """Estimate the maximum memory for writing a file; 0 for a large image that is encoded strip by strip.

    Args:
        name: the format.
        largest: width and height of the largest frame or page.
        total: pixels of all frames of an animation; 0 if the images are not frames.
        per_pixel: bytes per pixel for encoding a WebP or AVIF; None for other formats.
    """
    pixels, per_pixel = math.prod(largest), per_pixel or (GIF_BYTES if name == "GIF" else OTHER_FORMAT_BYTES)
    streamed = name in STREAMED_FORMATS and pixels > MAX_PIXELS_IN_MEMORY
    needed = (0 if streamed else pixels * per_pixel) + total * FRAME_BYTES.get(name, 0)
    if name == "AVIF" and total:
        padded = math.prod(side + AVIF_BORDER for side in largest)
        return max(needed, int(padded * per_pixel * ANIMATED_AVIF_FACTOR))
    return needed


def get_webp_bytes(lossless: bool, low_memory: bool, pixel_bytes: int) -> int:
    """Return the maximum bytes per pixel for writing a WebP; `pixel_bytes` is the result of `get_pixel_bytes`."""
    minimum = 0 if pixel_bytes in OPAQUE_PIXEL_BYTES or lossless else WEBP_ALPHA_BYTES
    return max(WEBP_BYTES[lossless, low_memory], minimum)
