"""Decodes an opened image to pixels and their colour profile: with Pillow, or with libvips for 16-bit colour."""

import io
import struct
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from PIL import Image, ImageCms

from loupe.imaging.conversion import to_pixels
from loupe.imaging.decoder import PhotoError, expand_12_bit_grey, to_8_bit_mode
from loupe.imaging.opening import TiffImage

# The number of colour bands of libvips' interpretations. Further bands are alpha, or masks, which are not read.
COLOUR_BANDS = {"b-w": 1, "grey16": 1, "srgb": 3, "rgb": 3, "rgb16": 3, "scrgb": 3, "lab": 3, "labs": 3, "cmyk": 4}
STRAIGHT_ALPHA, ALPHA_KINDS = 2, (1, 2)  # values of the TIFF tag ExtraSamples: straight, and also premultiplied
CREATION_TIME = slice(24, 36)  # the bytes of the creation time in the header of a profile (ICC.1:2022, 7.2.10)


def has_deep_colour(image: Image.Image) -> bool:
    """Return whether libvips must decode the image: Pillow cannot, or would reduce the image from 16 to 8 bits.

    Call this function before the image is decoded. Animated PNGs return False, because only Pillow decodes frames.
    """
    if isinstance(image, TiffImage):
        return image.needs_vips()
    tiles: list[Any] = getattr(image, "tile", [])
    animated = getattr(image, "n_frames", 1) > 1
    is_deep = image.format == "PNG" and len(image.getbands()) > 1 and bool(tiles) and ";16" in str(tiles[0][3])
    return is_deep and not animated


def decode_by_vips(file: Image.Image, source: bytes | Path, ignore_errors: bool) -> tuple[np.ndarray, bytes]:
    """Decode an image with libvips. CMYK and Lab become sRGB, and floats from 0 to 1 become 16-bit integers.

    Args:
        file: the opened file at the page to decode.
        source: the bytes of the file, or its path.
        ignore_errors: ignore a damaged profile instead of raising PhotoError.

    Returns:
        uint8 or uint16, (height, width, bands), and the profile of these pixels.

    Raises:
        PhotoError: pyvips is not installed, or the image is damaged or has an unsupported pixel format.
    """
    icc: bytes = file.info.get("icc_profile") or b""
    profile = _open_profile(icc, ignore_errors)
    try:
        import pyvips
    except (ImportError, OSError):
        raise PhotoError("has 16 bits per colour, which needs pyvips") from None
    if isinstance(file, TiffImage):
        file.validate_for_vips()
    try:
        image = _open_by_vips(source, file)
        if image.format == "float" and image.interpretation != "lab":
            statistics = _open_by_vips(source, file).stats()
            low, high = statistics(0, 0)[0], statistics(1, 0)[0]
            if not 0 <= low <= high <= 1:
                raise PhotoError(f"floats must be from 0 to 1, got {low:g} to {high:g}")
            image = (image * 65535).rint().cast("ushort")
        cmyk = image.interpretation == "cmyk"
        if cmyk or image.interpretation in ("lab", "labs"):
            icc = _make_srgb_profile()
            if not cmyk:
                image = image.icc_export(output_profile="srgb", intent="relative", depth=16)
            elif _has_colour_space(profile, "CMYK"):
                image = image.icc_transform("srgb", embedded=True, intent="relative", depth=16)
            else:
                image = _cmyk_to_rgb(image)
        pixels = image.numpy().reshape(image.height, image.width, image.bands)
    except pyvips.Error as error:
        raise PhotoError(f"damaged: {' '.join(str(error).split())}") from None
    if pixels.dtype not in (np.uint8, np.uint16):
        raise PhotoError(f"{image.bands} bands of {pixels.dtype} as {image.interpretation} are not supported")
    return pixels, icc


def _open_by_vips(source: bytes | Path, file: Image.Image) -> Any:
    """Open an image with its colours and its alpha, without other bands. libvips reverts premultiplied alpha."""
    import pyvips

    options: dict[str, Any] = {"access": "sequential", "fail_on": "error"}  # sequential: without a copy of all pixels
    if file.tell():
        options["page"] = file.tell()
    if isinstance(source, Path) and not _is_utf8(source):
        source = source.read_bytes()  # libvips accepts only UTF-8 paths
    if isinstance(source, bytes):
        image = pyvips.Image.new_from_buffer(source, "", **options)
    else:
        image = pyvips.Image.new_from_file(str(source), revalidate=True, **options)
    kind = image.interpretation
    missing = image.bands - COLOUR_BANDS[kind]
    kinds = file.get_extra_samples() if isinstance(file, TiffImage) else ()
    alpha = [number for number, value in enumerate(kinds or (STRAIGHT_ALPHA,) * missing) if value in ALPHA_KINDS][:1]
    if missing != len(kinds) and (kinds or missing > 1):
        raise PhotoError(f"{image.bands} bands as {kind} are not supported")
    if alpha and kind.startswith("lab"):
        raise PhotoError("Lab with alpha is not supported")
    kept = image[: COLOUR_BANDS[kind]]
    return (kept.bandjoin(image[COLOUR_BANDS[kind] + alpha[0]]) if alpha else kept).copy(interpretation=kind)


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


def _cmyk_to_rgb(image: Any) -> Any:
    """Convert CMYK without a profile to RGB by multiplication, as Pillow does; further bands are kept."""
    white = 255 if image.format == "uchar" else 65535
    light = image[:4].linear(-1, white)
    colours = (light[:3] * light[3] / white).rint().cast(image.format)
    return colours if image.bands == 4 else colours.bandjoin(image[4])


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
