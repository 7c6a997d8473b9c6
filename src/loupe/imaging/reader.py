"""Reads the images of a file, with upright pixels and metadata."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin

from loupe.imaging.attachments import read_skipped_metadata
from loupe.imaging.avif import decode_deep_heif, has_deep_samples, is_subsampled
from loupe.imaging.declarations import HDR_CHUNKS, read_bmp_profile, read_colour_chunks, read_exif_profile
from loupe.imaging.decoder import PhotoError, scale_transparent_value, translate_errors, validate_pixel_count
from loupe.imaging.estimates import estimate_decoding, get_pixel_bytes
from loupe.imaging.exif import EXIF_IFD, ORIENTATION, disable_truncated_tags
from loupe.imaging.image_data import ImageData
from loupe.imaging.jpeg_quality import read_jpeg_quality
from loupe.imaging.jpeg_scans import validate_scans
from loupe.imaging.jpeg_traces import estimate_jpeg_quality
from loupe.imaging.maker_note import MAX_POSITION
from loupe.imaging.metadata import Metadata, correct_info, read_metadata, remove_texts
from loupe.imaging.opening import TiffImage, count_images, list_pages, open_image
from loupe.imaging.pixels import (
    decode_by_pillow,
    decode_by_vips,
    get_replaced_space,
    make_upright,
    match_profile,
    needs_vips,
    read_profile,
)
from loupe.imaging.placement import ROTATED

END_OF_IMAGE = b"\xff\xd9"  # marker at the end of a JPEG
PADDING = b"\0\xff\r\n "  # bytes that may follow END_OF_IMAGE
TAIL_BYTES = 2**16  # only this number of bytes at the end of a JPEG is searched for END_OF_IMAGE
# If `Metadata.omitted` contains one of these names, it already names the data after the image.
TAIL_NAMES = {
    "further images",
    "gain map",
    "depth map",
    *(f"embedded {kind}" for kind in ("video", "image", "audio", "files")),
}
FULL_SAMPLING = 0  # Pillow's number for 4:4:4


@dataclass(frozen=True)
class Photo:
    """An opened image file.

    Args:
        format: Pillow's name of the format; "JPEG" for an MPO.
        count: the number of frames or pages.
        size: width and height of the first image, upright.
        loop: how many times an animation runs (0: forever); None if the file is not an animation.
        images: the frames or pages, decoded on demand.
        lossless: whether the file is a lossless WebP.
        subsampled: whether the colours have a lower resolution than the luminance (see `_is_subsampled`); False for
            a TIFF.
        page_sizes: upright width and height of each page of a TIFF; () for other files.
        decoding_bytes: maximum memory for decoding the largest image.
        pixel_bytes: maximum bytes per decoded pixel.
    """

    format: str
    count: int
    size: tuple[int, int]
    loop: int | None
    images: Iterator[ImageData]
    lossless: bool = False
    page_sizes: tuple[tuple[int, int], ...] = ()
    decoding_bytes: int = 0
    pixel_bytes: int = 8
    subsampled: bool = False


@dataclass(frozen=True)
class _OpenFile:
    image: Image.Image
    path: Path
    strip: bool


def read_photo(path: Path, strip: bool = False) -> Photo:
    """Open an image file. `strip` omits all metadata except the colour space and the display times of frames.

    Raises:
        PhotoError: the file cannot be read, is empty, unsupported or damaged, or has too many pixels or JPEG scans.
            Iterating over the images can also raise this error.
    """
    with translate_errors():
        file_bytes = path.stat().st_size
        if not file_bytes:
            raise PhotoError("is empty")
        image = open_image(path)
        if isinstance(image, TiffImage):
            return _read_tiff(image, path, strip)
        count = count_images(image)
        if image.format == "MPO":  # a JPEG with further images
            image.format = "JPEG"
        _validate_not_empty(image)
        if image.format == "JPEG":
            validate_scans(path)
        read_skipped_metadata(image, path)
        if image.format == "BMP" and (profile := read_bmp_profile(path)) is not None:
            image.info["icc_profile"] = profile
        # Call needs_vips before getexif, which may decode a PNG and so hide its bit depth.
        by_vips = needs_vips(image) or (image.format == "AVIF" and count == 1 and has_deep_samples(path))
        by_vips |= image.format == "HEIF" and image.info.get("bit_depth", 8) > 8
        validate_pixel_count(image.width * image.height * count)
        _correct_info(image)
        # If an animated PNG has a default image, this image is not a frame.
        first = 1 if image.info.get("default_image") else 0
        is_rotated = image.getexif().get(ORIENTATION, 1) in ROTATED
        size = image.size[::-1] if is_rotated else image.size
        loop = _read_loop(image) if count > 1 else None
        lossless = image.format == "WEBP" and _is_lossless(path)
        images = _read_images(_OpenFile(image, path, strip), range(first, count), by_vips)
        photo = Photo(image.format or "", count - first, size, loop, images, lossless)
        decoding_bytes = estimate_decoding(image, by_vips, file_bytes)
        return replace(
            photo,
            decoding_bytes=decoding_bytes,
            pixel_bytes=get_pixel_bytes(image, by_vips),
            subsampled=_is_subsampled(image, path, lossless),
        )


def read_pillow_image(image: Image.Image) -> ImageData:
    """Convert a Pillow image to upright pixels with the colour profile; can raise PhotoError."""
    with translate_errors():
        _validate_not_empty(image)
        _correct_info(image)
        pixels, icc = match_profile(*decode_by_pillow(image, read_profile(image)))
        upright = make_upright(pixels, image.getexif().get(ORIENTATION, 1))
        return ImageData(upright, Metadata(icc=icc), _find_jpeg_quality(image, pixels))


def _read_tiff(image: TiffImage, path: Path, strip: bool) -> Photo:
    """Open a TIFF, and check the sizes of all pages before a page is decoded."""
    numbers, sizes, decoding_bytes, pixel_bytes = [], [], 0, 0
    # Open the file a second time, because Pillow keeps the metadata of all visited pages.
    with open_image(path) as pages:
        for number in list_pages(pages):
            _validate_not_empty(pages)
            validate_pixel_count(pages.width * pages.height)
            by_vips = needs_vips(pages)
            numbers.append(number)
            sizes.append(pages.size)  # Pillow returns the upright size of a TIFF
            decoding_bytes = max(decoding_bytes, estimate_decoding(pages, by_vips, 0))
            pixel_bytes = max(pixel_bytes, get_pixel_bytes(pages, by_vips))
    images = _read_images(_OpenFile(image, path, strip), numbers, needs_vips(image))
    return Photo("TIFF", len(sizes), sizes[0], None, images, False, tuple(sizes), decoding_bytes, pixel_bytes)


def _correct_info(image: Image.Image) -> None:
    """Correct `image.info` and the EXIF tags of an opened image in place."""
    remove_texts(image)
    scale_transparent_value(image)
    if image.format == "PNG" and "exif" not in image.info:
        image.load()  # `getexif` would do this too, because texts and EXIF data can follow the pixels
    correct_info(image)
    if isinstance(image.info.get("exif"), bytes):
        content, image.info["unreadable_tags"] = disable_truncated_tags(image.info["exif"])
        if image.info["unreadable_tags"]:
            image.getexif().load(content)
    if image.format == "JXL" and not getattr(image, "jpeg", False) and ORIENTATION in image.getexif():
        # If the file does not contain a compressed JPEG (`image.jpeg`), the decoder has already rotated the pixels
        # (ISO/IEC 18181-2).
        image.getexif()[ORIENTATION] = 1


def _validate_not_empty(image: Image.Image) -> None:
    if min(image.size) < 1:
        raise PhotoError(f"must have at least one pixel, got {image.width}x{image.height}")


def _read_loop(image: Image.Image) -> int:
    """Return how many times an animation runs (0: forever)."""
    if image.format != "GIF":
        return int(image.info.get("loop", 0))
    repetitions = image.info.get("loop")  # a GIF without this number runs once
    return 1 if repetitions is None else repetitions + (repetitions > 0)


def _is_lossless(path: Path) -> bool:
    """Return whether the first image of a WebP is in a VP8L chunk (lossless; RFC 9649)."""
    with path.open("rb") as stream:
        stream.seek(12)  # the header of the file has 12 bytes
        while len(head := stream.read(8)) == 8:
            kind, size = head[:4], int.from_bytes(head[4:], "little")
            if kind in (b"VP8L", b"VP8 "):
                return kind == b"VP8L"
            # Enter an ANMF chunk after its header of 16 bytes; skip other chunks.
            stream.seek(16 if kind == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return False


def _has_data_after_image(path: Path) -> bool:
    """Return whether a JPEG ends with other data than an image, such as a video. An appended JPEG is not detected."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        tail = file.read()
    _, _, rest = tail.rpartition(END_OF_IMAGE)  # without this marker, the whole tail
    return bool(rest.strip(PADDING))


def _is_subsampled(image: Image.Image, path: Path, lossless: bool) -> bool:
    """Return whether a file stores the colours with a lower resolution than the luminance.

    The result is True for grey and CMYK JPEGs and all lossy WebPs, and False for formats that are not checked here.
    """
    if image.format == "JPEG":
        return JpegImagePlugin.get_sampling(image) != FULL_SAMPLING
    if image.format in ("AVIF", "HEIF"):
        return is_subsampled(path)
    return image.format == "WEBP" and not lossless


def _read_images(file: _OpenFile, numbers: Sequence[int], by_vips: bool) -> Iterator[ImageData]:
    with file.image as image:
        size = image.size
        for number in numbers:
            with translate_errors():
                if number:
                    image.seek(number)
                    by_vips = needs_vips(image)
                if image.format != "TIFF" and image.size != size:
                    raise PhotoError(f"damaged: frame {number + 1} must have {size[0]}x{size[1]} pixels")
                # A variable for the frame would keep its pixels while the next frame is decoded.
                yield _decode(file, by_vips, number == numbers[-1])


def _decode(file: _OpenFile, by_vips: bool, is_last: bool) -> ImageData:
    image = file.image
    exif, icc = image.getexif(), read_profile(image)
    is_unsuitable = "icc_profile" in image.info and not icc
    replaced = get_replaced_space(image)
    stored_orientation = orientation = exif.get(ORIENTATION, 1)
    if by_vips and image.format == "HEIF":
        pixels = decode_deep_heif(file.path)
    elif by_vips:
        pixels, icc = decode_by_vips(image, file.path, icc)
        orientation = 1 if image.format == "AVIF" else orientation  # libvips has already rotated an AVIF
    else:
        image.load()
        remove_texts(image)  # texts that follow the pixels in the file
        orientation = exif.get(ORIENTATION, 1)  # 1 for a TIFF, whose pixels Pillow has rotated
        pixels, icc = decode_by_pillow(image, icc)
    pixels, matched_icc = match_profile(pixels, icc)
    metadata = _read_colours(file, matched_icc, exif)
    if is_unsuitable or matched_icc != icc:
        metadata = replace(metadata, omitted=(*metadata.omitted, "colour profile (damaged or unsuitable)"))
    if replaced:
        metadata = replace(metadata, omitted=(*metadata.omitted, f"{replaced} colours (converted to sRGB)"))
    if not file.strip:
        if image.format == "TIFF" and EXIF_IFD in exif:
            with file.path.open("rb") as stream:
                # `read_exif` searches these bytes for the maker note, which must start below MAX_POSITION.
                image.info["start"] = stream.read(2 * MAX_POSITION)
        metadata = read_metadata(image, exif, metadata, stored_orientation)
        if image.format == "JPEG" and not TAIL_NAMES & {*metadata.omitted} and _has_data_after_image(file.path):
            metadata = replace(metadata, omitted=(*metadata.omitted, "data after the image, such as a video"))
    if is_last:
        image.close()
        vars(image).pop("_decoder", None)  # WebP and AVIF decoders keep several frames
    return ImageData(make_upright(pixels, orientation), metadata, _find_jpeg_quality(image, pixels))


def _find_jpeg_quality(image: Image.Image, pixels: np.ndarray) -> int | None:
    """Return the lowest quality of the file and of an earlier compression; None if the file is not a JPEG."""
    quality = read_jpeg_quality(image)
    return None if quality is None else estimate_jpeg_quality(pixels, quality)


def _read_colours(file: _OpenFile, icc: bytes, exif: Image.Exif) -> Metadata:
    """Return metadata with the colour space, the display time, and names of unused colour data."""
    image = file.image
    omitted = []
    chunks = read_colour_chunks(image, file.path)
    if HDR_CHUNKS & chunks.keys():
        omitted.append("HDR mastering data")
        chunks = {name: chunk for name, chunk in chunks.items() if name not in HDR_CHUNKS}
    if icc:  # only cICP has priority over a profile (PNG, third edition)
        chunks = {name: chunk for name, chunk in chunks.items() if name == b"cICP"}
    elif not chunks:
        icc = read_exif_profile(exif)
    duration_ms = float(image.info.get("duration") or 0)
    return Metadata(icc=icc, colour_chunks=chunks, duration_ms=duration_ms, omitted=tuple(omitted))
