"""Makes and validates ICC profiles (ICC.1:2022)."""

import io
import struct

import numpy as np
from PIL import ImageCms

# Chromaticities x and y of white, red, green and blue (ITU-T H.273, table 2; Adobe RGB (1998))
SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_RGB = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 563 / 256
# Parameters g, a, b, c, d of ICC's parametric curve of type 3
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
D50 = np.array([0.9642, 1, 0.8249])  # XYZ of white in every profile
# Matrix from XYZ to cone responses (ICC.1:2022, annex E)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
HEAD_BYTES, ENTRY_BYTES = 128 + 4, 12  # header and number of tags; an entry of the tag table
COLOUR_SPACE, CREATION_TIME = slice(16, 20), slice(24, 36)  # fields of the header (7.2)
VERSION = 0x04300000  # 4.3
DATE = struct.pack(">6H", 2016, 1, 1, 0, 0, 0)  # fixed, so that equal photos give equal files
CLASSES = ("scnr", "mntr", "prtr", "spac")  # device classes for images
BANDS = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}  # Pillow's mode by colour space


def make_profile(chromaticities: tuple[float, ...], gamma: float | None = None) -> bytes:
    """Make an RGB profile.

    Args:
        chromaticities: as in `SRGB`.
        gamma: the exponent of the transfer function; None for the transfer function of sRGB.

    Raises:
        ArithmeticError, ValueError or struct.error: the chromaticities are invalid, for example if red equals green.
    """
    white, *colours = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in np.reshape(chromaticities, (4, 2)))
    adaptation = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD
    primaries = np.transpose(colours)
    primaries = adaptation @ primaries * np.linalg.solve(primaries, white)
    parameters = SRGB_CURVE if gamma is None else (gamma,)
    # Curve type 0: an exponent; type 3: the parameters of SRGB_CURVE
    curve = b"para\0\0\0\0" + struct.pack(">HH", 0 if gamma else 3, 0) + _encode_numbers(parameters)
    name = "RGB".encode("utf-16-be")
    # One text in US English, which starts at byte 28
    text = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(name), 28) + name
    tags = {b"desc": text, b"cprt": text, b"wtpt": _encode_xyz(D50)}
    tags[b"chad"] = b"sf32\0\0\0\0" + _encode_numbers(adaptation.ravel())
    tags |= {tag: _encode_xyz(column) for tag, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data, start = struct.pack(">I", len(tags)), b"", HEAD_BYTES + ENTRY_BYTES * len(tags)
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, start + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    # size, version, device class and colour spaces, creation time, signature
    head = struct.pack(">I4xI12s12s4s28x", start + len(data), VERSION, b"mntrRGB XYZ ", DATE, b"acsp")
    return head + _encode_numbers(D50) + bytes(48) + table + data


def make_srgb_profile() -> bytes:
    """Make an sRGB profile with a fixed creation time."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[: CREATION_TIME.start] + DATE + profile[CREATION_TIME.stop :]


def open_profile(icc: bytes, *spaces: str) -> ImageCms.ImageCmsProfile | None:
    """Open a profile; return None if it is damaged, or not for images of one of `spaces` (keys of BANDS)."""
    try:
        profile = ImageCms.getOpenProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        if space in spaces and profile.profile.device_class in CLASSES:
            # If a required tag is missing, buildTransform raises PyCMSError.
            srgb, flags = ImageCms.createProfile("sRGB"), ImageCms.Flags.NOOPTIMIZE
            ImageCms.buildTransform(profile, srgb, BANDS[space], "RGB", flags=flags)
            return profile
    except (OSError, ImageCms.PyCMSError):
        pass
    return None


def is_for_grey(icc: bytes) -> bool:
    """Return whether a profile is for grey images; False for b""."""
    return icc[COLOUR_SPACE] == b"GRAY"


def _encode_numbers(values: np.ndarray | tuple[float, ...]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _encode_xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + _encode_numbers(values)
