"""Decodes an opened image to pixels and their colour profile: with Pillow, or with libvips for 16-bit colour."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from loupe.imaging.conversion import PART_PIXELS, to_pixels
from loupe.imaging.decoder import BITS_PER_SAMPLE, PhotoError, expand_12_bit_grey, to_8_bit_mode
from loupe.imaging.profiles import make_srgb_profile, open_profile


def has_deep_colour(image: Image.Image) -> bool:
    """Return whether Pillow would reduce the image from 16 to 8 bits; True for every 16-bit TIFF.

    Call this function before the image is decoded. Animated PNGs return False, because only Pillow decodes frames.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 16 in image.tag_v2.get(BITS_PER_SAMPLE, ()) and image.mode != "F"
    tiles: list[Any] = getattr(image, "tile", [])
    animated = getattr(image, "n_frames", 1) > 1
    return not animated and len(image.getbands()) > 1 and bool(tiles) and ";16" in str(tiles[0][3])


def read_profile(image: Image.Image) -> bytes:
    """Return the colour profile of an opened image; b"" without a profile or if it is damaged or unsuitable."""
    icc = image.info.get("icc_profile") or b""
    spaces = ("CMYK",) if image.mode == "CMYK" else ("RGB", "GRAY", *("Lab",) * (image.mode == "LAB"))
    return icc if icc and open_profile(icc, *spaces) else b""


def match_profile(pixels: np.ndarray, icc: bytes) -> tuple[np.ndarray, bytes]:
    """Make RGB pixels grey if their profile is for grey; without the profile if the pixels have colours."""
    if icc[16:20] != b"GRAY" or pixels.shape[2] < 3:
        return pixels, icc
    if (pixels[..., :1] == pixels[..., 1:3]).all():
        return np.ascontiguousarray(pixels[..., 2:]), icc
    return pixels, b""


def decode_by_vips(source: bytes | Path, number: int, icc: bytes) -> tuple[np.ndarray, bytes]:
    """Decode a 16-bit image with libvips. CMYK becomes sRGB.

    Args:
        source: the bytes of a file, or its path.
        number: the number of the page, from 0.
        icc: the colour profile of the image; b"" if there is none.

    Returns:
        uint16, (height, width, bands), and the profile of these pixels.

    Raises:
        PhotoError: pyvips is not installed, or the image is damaged or has an unsupported pixel format.
    """
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
            profiled, icc = bool(icc), make_srgb_profile()
            if profiled:
                image = image.icc_transform("srgb", embedded=True, intent="relative", depth=16)
                cmyk = False
        pixels = image.numpy().reshape(image.height, image.width, image.bands)
    except pyvips.Error as error:
        raise PhotoError(f"damaged: {' '.join(str(error).split())}") from None
    if pixels.dtype != np.uint16 or not (cmyk or image.interpretation in ("grey16", "rgb16")):
        raise PhotoError(f"{image.bands} bands of {pixels.dtype} as {image.interpretation} are not supported")
    return _cmyk_to_rgb(pixels) if cmyk else pixels, icc


def decode_by_pillow(image: Image.Image, icc: bytes) -> tuple[np.ndarray, bytes]:
    """Decode an image with Pillow. CMYK and Lab become sRGB.

    Args:
        image: an image of any mode.
        icc: the colour profile of the image; b"" if there is none.

    Returns:
        uint8, or uint16 for 16-bit grey, (height, width, bands), and the profile of these pixels.
    """
    image = expand_12_bit_grey(image)
    if image.mode.startswith("I;16"):
        grey = to_pixels(image)
        transparent = image.info.get("transparency")
        if not isinstance(transparent, int):
            return grey, icc
        return np.concatenate([grey, np.where(grey == transparent, 0, 65535).astype(np.uint16)], axis=-1), icc
    if image.mode in ("CMYK", "LAB"):
        if image.mode == "LAB":
            profile: ImageCms.ImageCmsProfile | None = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            profile = open_profile(icc, "CMYK")
        icc = make_srgb_profile()
        image = _to_srgb(image, profile, icc) if profile else image.convert("RGB")
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
