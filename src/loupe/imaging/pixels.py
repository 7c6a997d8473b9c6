"""Decodes an opened image to pixels and their colour profile, with Pillow or libvips (see `needs_vips`)."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from loupe.imaging.avif import fill_lowest_bits, read_bits
from loupe.imaging.conversion import to_pixels
from loupe.imaging.decoder import PhotoError, expand_12_bit_values, get_raw_mode, has_12_bit_grey, to_8_bit_mode
from loupe.imaging.opening import CMYK, LAB, TiffImage
from loupe.imaging.placement import MIRRORED, ROTATED, UPSIDE_DOWN
from loupe.imaging.profiles import is_for_grey, make_srgb_profile, open_profile

# Number of colour bands for each interpretation of libvips. Further bands are alpha or masks.
COLOUR_BANDS = {"b-w": 1, "grey16": 1, "srgb": 3, "rgb": 3, "rgb16": 3, "scrgb": 3, "lab": 3, "labs": 3, "cmyk": 4}
REPLACED_SPACES = {CMYK: "CMYK", LAB: "Lab"}  # colour spaces that become sRGB
PREMULTIPLIED_ALPHA, STRAIGHT_ALPHA = 1, 2  # values of the TIFF tag ExtraSamples


def needs_vips(image: Image.Image) -> bool:
    """Return whether libvips must decode `image`: some pages of TIFFs, and PNGs whose 16 bits Pillow reduces to 8.

    For a TIFF, see `TiffImage.needs_vips`. The result is False for other formats, and for animated PNGs, whose frames
    are reduced to 8 bits. Call this function before the image is decoded, because decoding removes the bit depth of a
    PNG from `image`.
    """
    if isinstance(image, TiffImage):
        return image.needs_vips()
    animated = getattr(image, "n_frames", 1) > 1
    is_deep = image.format == "PNG" and len(image.getbands()) > 1 and ";16" in get_raw_mode(image)
    return is_deep and not animated


def read_profile(image: Image.Image) -> bytes:
    """Return the colour profile of an image; b"" if it is missing, damaged or unusable.

    Images in CMYK need a profile for CMYK. Other images can have profiles for RGB or grey, and images in Lab also
    profiles for Lab.
    """
    icc = image.info.get("icc_profile") or b""
    replaced = get_replaced_space(image)
    spaces = ("CMYK",) if replaced == "CMYK" else ("RGB", "GRAY", *filter(None, (replaced,)))
    return icc if icc and open_profile(icc, *spaces) else b""


def get_replaced_space(image: Image.Image) -> str:
    """Return the name of the colour space that becomes sRGB, `CMYK` or `Lab`; "" for other colour spaces."""
    if isinstance(image, TiffImage):
        # The mode of a page that Pillow cannot decode is not its colour space.
        return REPLACED_SPACES.get(image.get_photometric(), "")
    return {"CMYK": "CMYK", "LAB": "Lab"}.get(image.mode, "")


def match_profile(pixels: np.ndarray, icc: bytes) -> tuple[np.ndarray, bytes]:
    """If RGB pixels have a profile for grey images, change one of the two; return other pairs unchanged.

    If all pixels are grey, the result has one colour band. Otherwise, the result has no profile.

    Args:
        pixels: (height, width, bands).
        icc: the profile, or b"".
    """
    if not is_for_grey(icc) or pixels.shape[2] < 3:
        return pixels, icc
    if (pixels[..., :1] == pixels[..., 1:3]).all():
        return np.ascontiguousarray(pixels[..., 2:]), icc
    return pixels, b""


def decode_by_vips(file: Image.Image, path: Path, icc: bytes) -> tuple[np.ndarray, bytes]:
    """Decode an image with libvips. CMYK and Lab become sRGB, and floats from 0 to 1 become 16-bit integers.

    `file` is at the page to decode, and `icc` is the result of `read_profile`.

    Returns:
        uint8 or uint16, (height, width, bands), and the profile of these pixels.

    Raises:
        PhotoError: pyvips is not installed, or the image is damaged, has an unsupported pixel format, or has floats
            outside of [0, 1].
    """
    try:
        import pyvips
    except (ImportError, OSError):
        raise PhotoError("has a pixel format that needs pyvips") from None
    if isinstance(file, TiffImage):
        file.validate_for_vips()
    try:
        image = _open_by_vips(path, file)
        if image.format == "float" and image.interpretation != "lab":
            statistics = _open_by_vips(path, file).stats()  # row 0 is for all bands
            low, high, total = (statistics(column, 0)[0] for column in (0, 1, 2))
            if math.isnan(total):
                raise PhotoError("floats must be from 0 to 1, got NaN")
            if not 0 <= low <= high <= 1:
                raise PhotoError(f"floats must be from 0 to 1, got {low:g} to {high:g}")
            image = (image * 65535).rint().cast("ushort")
        cmyk = image.interpretation == "cmyk"
        if cmyk or image.interpretation in ("lab", "labs"):
            profiled, icc = bool(icc), make_srgb_profile()
            if not cmyk:
                image = image.icc_export(output_profile="srgb", intent="relative", depth=16)
            elif profiled:
                image = _convert_profiled_cmyk_to_srgb(image)
            else:
                image = _convert_cmyk_to_rgb(image)
        pixels = image.numpy().reshape(image.height, image.width, image.bands)
        if file.format == "AVIF":
            pixels = fill_lowest_bits(pixels, read_bits(path))
    except pyvips.Error as error:
        raise PhotoError(f"damaged: {' '.join(str(error).split())}") from None
    if pixels.dtype not in (np.uint8, np.uint16):
        raise PhotoError(f"{image.bands} bands of {pixels.dtype} as {image.interpretation} are not supported")
    return pixels, icc


def _open_by_vips(path: Path, file: Image.Image) -> Any:
    """Open an image, and keep only the bands of colours and alpha. libvips makes premultiplied alpha straight."""
    import pyvips

    options: dict[str, Any] = {"access": "sequential", "fail_on": "error"}
    if file.tell():
        options["page"] = file.tell()
    try:
        image = pyvips.Image.new_from_file(str(path), revalidate=True, **options)
    except UnicodeEncodeError:  # libvips needs UTF-8 paths
        image = pyvips.Image.new_from_buffer(path.read_bytes(), "", **options)
    interpretation = image.interpretation
    colour_bands = COLOUR_BANDS[interpretation]
    extra_bands = image.bands - colour_bands
    extra_samples = file.get_extra_samples() if isinstance(file, TiffImage) else ()
    if extra_bands != len(extra_samples) and (extra_samples or extra_bands > 1):
        raise PhotoError(f"{image.bands} bands as {interpretation} are not supported")
    meanings = extra_samples or (STRAIGHT_ALPHA,) * extra_bands
    alpha = [number for number, meaning in enumerate(meanings) if meaning in (PREMULTIPLIED_ALPHA, STRAIGHT_ALPHA)]
    if alpha and interpretation.startswith("lab"):
        raise PhotoError("Lab with alpha is not supported")
    colours = image[:colour_bands]
    selected = colours.bandjoin(image[colour_bands + alpha[0]]) if alpha else colours
    return selected.copy(interpretation=interpretation)


def decode_by_pillow(image: Image.Image, icc: bytes) -> tuple[np.ndarray, bytes]:
    """Decode an image with Pillow. CMYK and Lab become sRGB; `icc` is the result of `read_profile`.

    Returns:
        uint8, or uint16 for grey of 12 or 16 bits, (height, width, bands), and the profile of these pixels.

    Raises:
        PhotoError: the range of the values is unknown; see `to_8_bit_mode`.
    """
    image = expand_12_bit_values(image) if has_12_bit_grey(image) else image
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
    """Flip and rotate pixels, (height, width) or (height, width, bands), by an EXIF orientation from 1 to 8."""
    if orientation in ROTATED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in MIRRORED:
        pixels = pixels[:, ::-1]
    if orientation in UPSIDE_DOWN:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _convert_profiled_cmyk_to_srgb(image: Any) -> Any:
    """Convert CMYK to 16-bit sRGB by its profile. Alpha is scaled here, because `icc_transform` scales it wrongly."""
    colours = image[:4].icc_transform("srgb", embedded=True, intent="relative", depth=16)
    if image.bands == 4:
        return colours
    return colours.bandjoin((image[4] * (257 if image.format == "uchar" else 1)).cast("ushort"))


def _convert_cmyk_to_rgb(image: Any) -> Any:
    """Convert CMYK without a profile to RGB, as Pillow does: multiply the inverted C, M and Y by the inverted K."""
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
