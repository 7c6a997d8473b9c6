"""The image formats: suffixes and limits."""

from pathlib import Path

from loupe.errors import UsageError
from loupe.imaging.decoder import PhotoError

# Suffixes of file names by format; the first suffix is the default.
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png", ".apng"), "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"), "BMP": (".bmp", ".dib"), "AVIF": (".avif",), "GIF": (".gif",),
}  # fmt: skip
FORMATS = {suffix: name for name, suffixes in SUFFIXES.items() for suffix in suffixes}
# HEIF needs the extra `heic`, and JXL needs the extra `jxl`.
READ_SUFFIXES = SUFFIXES | {
    "HEIF": (".heic", ".heif", ".hif"), "JXL": (".jxl",), "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".j2c"),
}  # fmt: skip
READ_FORMATS = {suffix: name for name, suffixes in READ_SUFFIXES.items() for suffix in suffixes}
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
ALPHA_FORMATS = FRAME_FORMATS = frozenset(("PNG", "WEBP", "TIFF", "AVIF", "GIF"))
DEEP_FORMATS = frozenset(("PNG", "TIFF"))  # formats with 16 bits per sample
STREAMED_FORMATS = frozenset(("JPEG", "PNG", "TIFF"))  # these formats can be encoded strip by strip
MAX_PIXELS_IN_MEMORY = 60_000_000  # larger images of STREAMED_FORMATS are encoded strip by strip
# libavif can write larger AVIFs, but cannot read them.
MAX_SIDE_PIXELS = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768, "GIF": 65_535}


def get_format(out: Path) -> str:
    """Return the format for the suffix of a file, or raise UsageError."""
    try:
        return FORMATS[out.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"out: must end in the extension of an image format, {', '.join(FORMATS)}, got {str(out)!r}"
        ) from None


def choose_suffix(suffix: str) -> str:
    """Return the suffix of the result: the suffix of the photo, or .jpg for formats that are only read."""
    return suffix if suffix.lower() in FORMATS else SUFFIXES["JPEG"][0]


def is_heif(head: bytes) -> bool:
    """Return whether a file with these first 12 bytes is a HEIF."""
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS


def is_jpeg_xl(head: bytes) -> bool:
    """Return whether a file with these first bytes is a JPEG XL."""
    return head.startswith(b"\xff\x0a") or head[4:8] == b"JXL "


def has_alpha(bands: int) -> bool:
    """Return whether images with this number of bands have transparency."""
    return bands in (2, 4)


def validate_output(out: Path, size: tuple[int, int], count: int, bands: int) -> None:
    """Raise PhotoError if the format of `out` cannot store `count` images of this size and number of bands."""
    name = get_format(out)
    if count > 1 and name not in FRAME_FORMATS:
        raise PhotoError(
            f"has {count} pages or frames, but {out.suffix} can store only one; use .tif, .webp, .gif or .png"
        )
    if has_alpha(bands) and name not in ALPHA_FORMATS:
        raise PhotoError(f"has transparency, which {out.suffix} cannot store; use .png or .webp")
    largest = MAX_SIDE_PIXELS.get(name, 2**31 - 1)
    if max(size) > largest:
        raise PhotoError(f"{out.suffix}: width and height must be at most {largest}, got {size[0]}x{size[1]}")


def validate_suffix(path: Path, format_name: str) -> None:
    """Raise PhotoError if the suffix of a photo is for another format than `format_name`."""
    suffix_format = READ_FORMATS.get(path.suffix.lower())
    if suffix_format is not None and suffix_format != format_name:
        raise PhotoError(f"is a {format_name} file with the extension {path.suffix}; rename it")
