"""Converts the colours of an image to a colour space that a format can store."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from loupe.imaging.declarations import CHUNK_UNIT
from loupe.imaging.formats import has_alpha
from loupe.imaging.image_data import ImageStream
from loupe.imaging.luminance import decode_srgb, encode_srgb
from loupe.imaging.profiles import SRGB, is_for_grey, make_profile

UNPROFILED_FORMATS = frozenset(("BMP", "GIF"))
RGB_FORMATS = frozenset(("WEBP", "AVIF"))  # these formats store grey as RGB
D65, ILLUMINANT_C = (0.3127, 0.329), (0.31, 0.316)  # chromaticities x and y of white
# Chromaticities x and y of white, red, green and blue, by the code of the primaries (ITU-T H.273, table 2)
PRIMARIES = {
    1: SRGB,
    4: (*ILLUMINANT_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    8: (*ILLUMINANT_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    22: (*D65, 0.63, 0.34, 0.295, 0.605, 0.155, 0.077),
}  # fmt: skip
WHITE_NITS = 203  # SDR white in HDR images (ITU-R BT.2408)
SRGB_TRANSFER, PQ, HLG, UNSPECIFIED, FULL_RANGE = 13, 16, 18, 2, 1  # codes in the PNG chunk cICP (ITU-T H.273)
Curve = Callable[[np.ndarray], np.ndarray]


def _make_power(exponent: float) -> Curve:
    return lambda values: values**exponent


def _decode_bt709(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0.081, values / 4.5, ((values + 0.099) / 1.099) ** (1 / 0.45))


def _decode_pq(values: np.ndarray) -> np.ndarray:
    """Decode the transfer function PQ (SMPTE ST 2084)."""
    root = values ** (32 / 2523)
    light = np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)
    return light ** (16384 / 2610) * 10_000 / WHITE_NITS


def _decode_hlg(values: np.ndarray) -> np.ndarray:
    """Decode the transfer function HLG (ITU-R BT.2100) for a display of 1,000 nits.

    The exponent 1.2 applies to each channel. In BT.2100, it applies to the luminance, so saturated colours are too
    bright here.
    """
    scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return scene**1.2 * 1000 / WHITE_NITS


# Functions that convert encoded values (0 to 1) to linear light (1: SDR white), by the code of the transfer function
# (H.273, table 3)
TRANSFERS: dict[int, Curve] = {
    **dict.fromkeys((1, 6, 14, 15), _decode_bt709),
    4: _make_power(2.2),
    5: _make_power(2.8),
    8: _make_power(1),
    SRGB_TRANSFER: decode_srgb,
    PQ: _decode_pq,
    17: lambda values: values**2.6 * 52.37 / 48,  # SMPTE ST 428-1
    HLG: _decode_hlg,
}


def fit_colours(stream: ImageStream, name: str) -> ImageStream:
    """Convert an image to a colour space that the format `name` can store.

    A PNG keeps all `Metadata.colour_chunks`. An AVIF keeps only a cICP chunk of full range, which has priority over
    the other chunks and a profile (PNG, third edition). Otherwise, all chunks are removed. If they are removed from
    an image without a profile, its values are converted to the transfer function of sRGB, and a colour image whose
    primaries are not those of sRGB gets a new profile. If the format cannot store the profile of an image, the values
    are converted to sRGB. The names of lost colour information are added to `Metadata.omitted`.
    """
    metadata = stream.metadata
    chunks = metadata.colour_chunks
    cicp = chunks.get(b"cICP", b"")
    if name == "AVIF" and cicp[3:] == bytes([FULL_RANGE]) and not (metadata.icc and UNSPECIFIED in cicp[:2]):
        metadata = replace(metadata, icc=b"", colour_chunks={b"cICP": cicp})
    elif chunks and name != "PNG":
        metadata = replace(metadata, colour_chunks={})
        if not metadata.icc:
            table, chromaticities, losses = _interpret(chunks, stream.dtype)
            if chromaticities and stream.bands > 2:
                try:
                    metadata = replace(metadata, icc=make_profile(chromaticities))
                except (ArithmeticError, ValueError, struct.error):  # for example, if red equals green
                    losses.append("colour space cHRM (damaged)")
            metadata = replace(metadata, omitted=(*metadata.omitted, *losses))
            if table is not None:
                stream = replace(stream, strips=_apply_table(stream, table))
    if metadata.icc and (name in UNPROFILED_FORMATS or (name in RGB_FORMATS and is_for_grey(metadata.icc))):
        stream = replace(stream, strips=_convert_to_srgb(stream, metadata.icc))
        metadata = replace(metadata, icc=b"")
    return replace(stream, metadata=metadata)


def _interpret(
    chunks: dict[bytes, bytes], dtype: np.dtype
) -> tuple[np.ndarray | None, tuple[float, ...] | None, list[str]]:
    """Interpret `Metadata.colour_chunks` for values of the type `dtype`.

    Returns:
        A table from values of the image to values with the transfer function of sRGB; None if no value changes.
        The chromaticities in the order of PRIMARIES; None for sRGB or invalid chromaticities.
        The names of lost colour information.
    """
    white, losses = np.iinfo(dtype).max, []
    levels = np.arange(white + 1) / white
    chromaticities: tuple[float, ...] = SRGB
    decode: Curve = decode_srgb
    if cicp := chunks.get(b"cICP"):
        primaries, transfer, _, full_range = cicp
        if primaries not in (*PRIMARIES, UNSPECIFIED) or transfer not in (*TRANSFERS, UNSPECIFIED):
            losses.append(f"colour space cICP {primaries}/{transfer}")
        elif transfer in (PQ, HLG):
            losses.append("brightness above white (HDR)")
        chromaticities, decode = PRIMARIES.get(primaries, SRGB), TRANSFERS.get(transfer, decode_srgb)
        if not full_range:  # black is 16 and white is 235 at 8 bits
            black = 16 * (white + 1) // 256
            levels = (levels * white - black) / (219 * (white + 1) // 256)
    elif b"sRGB" not in chunks:
        gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big") / CHUNK_UNIT
        if gamma and abs(gamma - 0.45455) > 0.01:  # sRGB files often declare 1 / 2.2: ignore this value
            decode = _make_power(1 / gamma)
        if b"cHRM" in chunks:
            chromaticities = tuple(value / CHUNK_UNIT for value in struct.unpack(">8I", chunks[b"cHRM"]))
    light = np.clip(decode(np.clip(levels, 0, 1)), 0, 1)
    table = np.rint(encode_srgb(light) * white).astype(dtype)
    # Ignore chromaticities with y = 0, which are invalid.
    is_srgb = np.allclose(chromaticities, SRGB, atol=0.002) or not all(chromaticities[1::2])
    return (
        None if (table == np.arange(white + 1)).all() else table,
        None if is_srgb else chromaticities,
        losses,
    )


def _apply_table(stream: ImageStream, table: np.ndarray) -> Iterator[np.ndarray]:
    colours = stream.bands - has_alpha(stream.bands)
    for strip in stream.strips:
        converted = strip.copy()
        converted[..., :colours] = table[strip[..., :colours]]
        yield converted


def _convert_to_srgb(stream: ImageStream, icc: bytes) -> Iterator[np.ndarray]:
    """Convert strips to sRGB. Grey strips stay grey."""
    import pyvips

    colours = stream.bands - has_alpha(stream.bands)
    profile_bands = 1 if is_for_grey(icc) else 3
    interpretation = {1: "grey16", 3: "rgb16"} if stream.dtype == np.uint16 else {1: "b-w", 3: "srgb"}
    for strip in stream.strips:
        pixels = strip[..., :colours].repeat(profile_bands // colours, axis=2)
        image = pyvips.Image.new_from_array(pixels, interpretation=interpretation[profile_bands])
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
        image = image.icc_transform("srgb", embedded=True, intent="relative", depth=8 * stream.dtype.itemsize)
        converted = image.numpy()[..., 1 : 1 + colours] if colours == 1 else image.numpy()
        yield np.concatenate([converted, strip[..., colours:]], axis=2)
