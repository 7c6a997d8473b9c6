"""Decodes an opened image to pixels and their colour profile: with Pillow, or with libvips for 16-bit colour."""

import io
import struct
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from loupe.imaging.conversion import PART_PIXELS, to_pixels
from loupe.imaging.decoder import BITS_PER_SAMPLE, PhotoError, expand_12_bit_grey, to_8_bit_mode

CREATION_TIME = slice(24, 36)  # the bytes of the creation time in the header of a profile (ICC.1:2022, 7.2.10)


def has_deep_colour(image: Image.Image) -> bool:
    """Return whether Pillow would reduce the image from 16 to 8 bits; True for every 16-bit TIFF.

    Call this function before the image is decoded. Animated PNGs return False, because only Pillow decodes frames.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 16 in image.tag_v2.get(BITS_PER_SAMPLE, ()) and image.mode != "F"
    tiles: list[Any] = getattr(image, "tile", [])
    animated = getattr(image, "n_frames", 1) > 1
    return not animated and len(image.getbands()) > 1 and bool(tiles) and ";16" in str(tiles[0][3])


def decode_by_vips(source: bytes | Path, number: int, icc: bytes, ignore_errors: bool) -> tuple[np.ndarray, bytes]:
    """Decode a 16-bit image with libvips. CMYK becomes sRGB.

    Args:
        source: the bytes of a file, or its path.
        number: the number of the page, from 0.
        icc: the colour profile of the image; b"" if there is none.
        ignore_errors: ignore a damaged profile instead of raising PhotoError.

    Returns:
        uint16, (height, width, bands), and the profile of these pixels.

    Raises:
        PhotoError: pyvips is not installed, or the image is damaged or has an unsupported pixel format.
    """
    profile = _open_profile(icc, ignore_errors)
    try:
        import pyvips
    except (ImportError, OSError):
        raise PhotoError("has 16 bits per colour, which needs pyvips") from None
    options: dict[str, Any] = {"access": "sequential"}  # otherwise libvips first copies all pixels
    if number:
        options["page"] = number
    try:
        if isinstance(source, Path) and not _is_utf8(source):
            source = source.read_bytes()  # libvips accepts only UTF-8 paths
        if isinstance(source, bytes):
            image = pyvips.Image.new_from_buffer(source, "", **options)
        else:
            image = pyvips.Image.new_from_file(str(source), revalidate=True, **options)
        cmyk = image.interpretation == "cmyk" and image.bands == 4
        if cmyk:
            icc = _make_srgb_profile()
            if _has_colour_space(profile, "CMYK"):
                image = image.icc_transform("srgb", embedded=True, intent="relative", depth=16)
                cmyk = False
        pixels = image.numpy().reshape(image.height, image.width, image.bands)
    except pyvips.Error as error:
        raise PhotoError(f"damaged: {' '.join(str(error).split())}") from None
    if pixels.dtype != np.uint16 or not (cmyk or image.interpretation in ("grey16", "rgb16")):
        raise PhotoError(f"{image.bands} bands of {pixels.dtype} as {image.interpretation} are not supported")
    return _cmyk_to_rgb(pixels) if cmyk else pixels, icc


def decode_by_pillow(image: Image.Image, icc: bytes, ignore_errors: bool) -> tuple[np.ndarray, bytes]:
    """Decode an image with Pillow. CMYK and Lab become sRGB.

    Args:
        image: an image of any mode.
        icc: the colour profile of the image; b"" if there is none.
        ignore_errors: as in `decode_by_vips`.

    Returns:
        uint8, or uint16 for 16-bit grey, (height, width, bands), and the profile of these pixels.
    """
    profile = _open_profile(icc, ignore_errors)
    image = expand_12_bit_grey(image)
    if image.mode.startswith("I;16"):
        grey = to_pixels(image)
        transparent = image.info.get("transparency")
        if not isinstance(transparent, int):
            return grey, icc
        return np.concatenate([grey, np.where(grey == transparent, 0, 65535).astype(np.uint16)], axis=-1), icc
    if image.mode in ("CMYK", "LAB"):
        if image.mode == "LAB":
            profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        icc = _make_srgb_profile()
        image = _to_srgb(image, profile, icc) if _has_colour_space(profile, "CMYK", "Lab") else image.convert("RGB")
    return to_pixels(to_8_bit_mode(image)), icc


def make_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Flip and rotate pixels, (height, width, bands), by an EXIF orientation (1..8); other values have no effect."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _cmyk_to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Convert CMYK without a profile to RGB by multiplication, as Pillow does for 8 bits."""
    height, width = pixels.shape[:2]
    colours = np.empty((height, width, 3), np.uint16)
    rows = max(1, PART_PIXELS // width)
    for top in range(0, height, rows):
        reflected = 65535 - pixels[top : top + rows].astype(np.uint32)
        colours[top : top + rows] = (reflected[..., :3] * reflected[..., 3:] + 32767) // 65535
    return colours


def _to_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile, srgb: bytes) -> Image.Image:
    target = ImageCms.ImageCmsProfile(io.BytesIO(srgb))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    converted = ImageCms.profileToProfile(image, profile, target, renderingIntent=intent, outputMode="RGB")
    assert converted is not None  # Pillow returns None only for a conversion in place
    return converted


def _make_srgb_profile() -> bytes:
    """Make an sRGB profile with a fixed creation time, so that equal photos give identical files."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[: CREATION_TIME.start] + struct.pack(">6H", 2016, 1, 1, 0, 0, 0) + profile[CREATION_TIME.stop :]


def _open_profile(icc: bytes, ignore_errors: bool) -> ImageCms.ImageCmsProfile | None:
    if not icc:
        return None
    try:
        return ImageCms.getOpenProfile(io.BytesIO(icc))
    except (OSError, ImageCms.PyCMSError):
        if ignore_errors:
            return None
        raise PhotoError("the colour profile is damaged") from None


def _has_colour_space(profile: ImageCms.ImageCmsProfile | None, *spaces: str) -> TypeGuard[ImageCms.ImageCmsProfile]:
    return profile is not None and profile.profile.xcolor_space.strip() in spaces
