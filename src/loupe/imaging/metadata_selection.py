"""Selects the metadata that a format can store, and lists the names of the omitted metadata."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image

from loupe.imaging.exif import EXIF_IFD, IMAGE_DESCRIPTION, MAKER_NOTE, MAKER_NOTE_NAME, ORIENTATION
from loupe.imaging.formats import EXTENSIONS
from loupe.imaging.metadata import XMP_NAME, Metadata, make_iptc_resource

MAX_SEGMENT_BYTES = 65_533  # maximum content of a JPEG segment
PHOTOSHOP_NAME = b"Photoshop 3.0\0"  # precedes Photoshop resources in a JPEG
# Numbers of EXIF tags, and a value of RESOLUTION_UNIT
USER_COMMENT, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, INCHES = 0x9286, 282, 283, 296, 2
# Names of tags that may be too long for a segment
LARGE_TAGS = {MAKER_NOTE: MAKER_NOTE_NAME, USER_COMMENT: "user comment"}
# Values of empty user comments, without spaces and zeros. The first 8 bytes of a value name the encoding.
EMPTY_USER_COMMENTS = (b"", b"ASCII", b"UNICODE", b"JIS")
COMMENT = "Comment"  # keyword of the text that JPEG, GIF and TIFF store
METADATA_KINDS = {
    "JPEG": {"EXIF", "XMP", "IPTC", "comment", "resolution"},
    "PNG": {"EXIF", "XMP", "IPTC", "texts", "comment", "resolution"},
    "WEBP": {"EXIF", "XMP"},
    "TIFF": {"EXIF", "XMP", "IPTC", "comment", "resolution"},
    "AVIF": {"EXIF", "XMP"},
    "GIF": {"comment"},
    "BMP": {"resolution"},
}


def fit_metadata(metadata: Metadata, name: str) -> Metadata:
    """Select the metadata that a format can store; add the names of other metadata to `Metadata.omitted`.

    Texts and a resolution that the format cannot store become tags of `metadata.exif` (changed in place), if the
    format stores EXIF. An existing user comment or resolution in `metadata.exif` is not replaced.
    """
    kinds = METADATA_KINDS[name]
    if name == "TIFF" and metadata.exif is not None and IMAGE_DESCRIPTION in metadata.exif:
        kinds = kinds - {"comment"}  # a TIFF stores the comment as the image description
    omitted = [*metadata.omitted]
    exif, xmp, iptc, texts, dpi = metadata.exif, metadata.xmp, metadata.iptc, metadata.texts, metadata.dpi
    stored_texts = {
        keyword: text
        for keyword, text in texts.items()
        if "texts" in kinds or ("comment" in kinds and keyword == COMMENT)
    }
    other_texts = {keyword: text for keyword, text in texts.items() if keyword not in stored_texts}
    if "EXIF" in kinds:
        exif, other_texts = _move_to_exif(exif, other_texts, None if "resolution" in kinds else dpi)
        dpi = dpi if "resolution" in kinds else None
    elif exif is not None and {*exif} - {ORIENTATION}:
        omitted.append("EXIF")
    if xmp and "XMP" not in kinds:
        omitted.append("XMP")
    if iptc and "IPTC" not in kinds:
        omitted.append("IPTC")
    if dpi and "resolution" not in kinds:
        omitted.append("resolution")
    if other_texts:
        omitted.append(f"texts ({', '.join(other_texts)})")
    metadata = replace(metadata, exif=exif, xmp=xmp, iptc=iptc, texts=stored_texts, omitted=tuple(omitted))
    return _limit_segments(metadata) if name == "JPEG" else metadata


def _move_to_exif(
    exif: Image.Exif | None, texts: dict[str, str], dpi: tuple[float, float] | None
) -> tuple[Image.Exif | None, dict[str, str]]:
    """Add texts (as the user comment) and the resolution to the EXIF tags.

    Returns:
        The tags, or None if there are none. The texts, if they were not added because the tags already contain a
        user comment; otherwise an empty dict.
    """
    exif = exif or Image.Exif()
    if dpi and X_RESOLUTION not in exif:
        exif[X_RESOLUTION], exif[Y_RESOLUTION], exif[RESOLUTION_UNIT] = *dpi, INCHES
    if texts:
        nested = exif.get_ifd(EXIF_IFD)
        if _get_bytes(nested, USER_COMMENT).strip(b" \0") not in EMPTY_USER_COMMENTS:
            return exif, texts
        # As in the files of image generators, the text `parameters` comes first, without its keyword.
        lines = [text if keyword == "parameters" else f"{keyword}: {text}" for keyword, text in texts.items()]
        content = "\n".join(sorted(lines, key=lambda line: line != texts.get("parameters")))
        code = b"ASCII\0\0\0" if content.isascii() else b"UNICODE\0"
        nested[USER_COMMENT] = code + content.encode("ascii" if content.isascii() else "utf-16-be")
        exif[EXIF_IFD] = nested
    return exif if len(exif) else None, {}


def _limit_segments(metadata: Metadata) -> Metadata:
    """Remove metadata that is too long for a segment of a JPEG. From EXIF, remove the LARGE_TAGS first."""
    omitted, reason = [*metadata.omitted], f"too long for {EXTENSIONS['JPEG'][0]}"
    exif, xmp, iptc, texts = metadata.exif, metadata.xmp, metadata.iptc, dict(metadata.texts)
    nested = exif.get_ifd(EXIF_IFD) if exif is not None and EXIF_IFD in exif else {}
    for tag in sorted(LARGE_TAGS, key=lambda tag: len(_get_bytes(nested, tag)), reverse=True):
        if tag in nested and exif is not None and len(exif.tobytes()) > MAX_SEGMENT_BYTES:
            del nested[tag]
            omitted.append(f"{LARGE_TAGS[tag]} ({reason})")
    if exif is not None and len(exif.tobytes()) > MAX_SEGMENT_BYTES:
        exif = None
        omitted.append(f"EXIF ({reason})")
    if len(xmp) > MAX_SEGMENT_BYTES - len(XMP_NAME):
        xmp = b""
        omitted.append(f"XMP ({reason})")
    if len(PHOTOSHOP_NAME + make_iptc_resource(iptc)) > MAX_SEGMENT_BYTES:
        iptc = b""
        omitted.append(f"IPTC ({reason})")
    if len(texts.get(COMMENT, "").encode()) > MAX_SEGMENT_BYTES:
        del texts[COMMENT]
        omitted.append(f"the comment ({reason})")
    return replace(metadata, exif=exif, xmp=xmp, iptc=iptc, texts=texts, omitted=tuple(omitted))


def _get_bytes(tags: Mapping[int, Any], tag: int) -> bytes:
    """Return the bytes of a tag; b"" if it is missing or has numbers. Some programs store text instead of bytes."""
    value = tags.get(tag)
    return value.encode("latin-1") if isinstance(value, str) else value if isinstance(value, bytes) else b""
