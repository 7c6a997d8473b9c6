"""An open image to upright pixels, and the colour profile that they are in: by Pillow, or in 16 bits by libvips."""

import io
import struct
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from loupe.imaging.decoder import BITS_PER_SAMPLE, PhotoError, expand_12_bit_grey, to_8_bit_mode

MADE = slice(24, 36)  # date and time in the header of a profile (ICC.1:2022, 7.2.10)


def has_deep_colour(image: Image.Image) -> bool:
    """Whether a page has 16 bits in more than one band, of which Pillow would keep 8; every one of a TIFF in 16 bits.

    To be asked before it is decoded. Frames of an animated PNG are read by Pillow, which alone knows them.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 16 in image.tag_v2.get(BITS_PER_SAMPLE, ()) and image.mode != "F"
    tiles: list[Any] = getattr(image, "tile", [])
    moves = getattr(image, "n_frames", 1) > 1
    return not moves and len(image.getbands()) > 1 and bool(tiles) and ";16" in str(tiles[0][3])


def by_vips(source: bytes | Path, number: int, icc: bytes, ignore_faults: bool) -> tuple[np.ndarray, bytes]:
    """Decoded pixels of 16 bits, and the profile that they are in: CMYK becomes sRGB."""
    profile = _profile(icc, ignore_faults)
    try:
        import pyvips
    except (ImportError, OSError):
        raise PhotoError("has 16 bits a colour, for which pyvips is needed") from None
    options = {"page": number} if number else {}
    try:
        if isinstance(source, Path) and not _is_text(source):
            source = source.read_bytes()  # libvips takes names in UTF-8 only
        if isinstance(source, bytes):
            image = pyvips.Image.new_from_buffer(source, "", **options)
        else:
            image = pyvips.Image.new_from_file(str(source), revalidate=True, **options)
        inks = image.interpretation == "cmyk" and image.bands == 4
        if inks:
            icc = _srgb()
            if _is_of(profile, "CMYK"):
                image = image.icc_transform("srgb", embedded=True, intent="relative", depth=16)
                inks = False
        pixels = image.numpy().reshape(image.height, image.width, image.bands)
    except pyvips.Error as error:
        raise PhotoError(f"damaged: {' '.join(str(error).split())}") from None
    if pixels.dtype != np.uint16 or not (inks or image.interpretation in ("grey16", "rgb16")):
        raise PhotoError(f"{image.bands} bands of {pixels.dtype} as {image.interpretation} are not read")
    if inks:  # what is left of the light, as Pillow has it of 8 bits
        left = 65535 - pixels.astype(np.uint32)
        pixels = ((left[..., :3] * left[..., 3:] + 32767) // 65535).astype(np.uint16)
    return pixels, icc


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def by_pillow(image: Image.Image, icc: bytes, ignore_faults: bool) -> tuple[np.ndarray, bytes]:
    """Decoded pixels, and the profile that they are in: CMYK and Lab become sRGB."""
    profile = _profile(icc, ignore_faults)
    image = expand_12_bit_grey(image)
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16)[..., None]
        hidden = image.info.get("transparency")
        if not isinstance(hidden, int):
            return grey, icc
        return np.concatenate([grey, np.where(grey == hidden, 0, 65535).astype(np.uint16)], axis=-1), icc
    if image.mode in ("CMYK", "LAB"):
        if image.mode == "LAB":
            profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        icc = _srgb()
        srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if not _is_of(profile, "CMYK", "Lab"):
            image = image.convert("RGB")
        else:
            intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
            converted = ImageCms.profileToProfile(image, profile, srgb, renderingIntent=intent, outputMode="RGB")
            assert converted is not None  # it would be changed in place only if asked to
            image = converted
    pixels = np.asarray(to_8_bit_mode(image))
    return pixels.reshape(*pixels.shape[:2], -1), icc


def _srgb() -> bytes:
    """The profile of sRGB, without the second in which it is made: a photo becomes the same file at any time."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return made[: MADE.start] + struct.pack(">6H", 2016, 1, 1, 0, 0, 0) + made[MADE.stop :]


def _profile(icc: bytes, ignore_faults: bool) -> ImageCms.ImageCmsProfile | None:
    if not icc:
        return None
    try:
        return ImageCms.getOpenProfile(io.BytesIO(icc))
    except (OSError, ImageCms.PyCMSError):
        if ignore_faults:
            return None
        raise PhotoError("its colour profile is damaged") from None


def _is_of(profile: ImageCms.ImageCmsProfile | None, *spaces: str) -> TypeGuard[ImageCms.ImageCmsProfile]:
    return profile is not None and profile.profile.xcolor_space.strip() in spaces


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels, (height, width, bands), as EXIF's orientation (1..8) says; other values turn nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
