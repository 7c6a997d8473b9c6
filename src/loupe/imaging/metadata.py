"""Reads the metadata of an image, and adapts it to a result."""

import struct
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image, TiffImagePlugin

from loupe.imaging.attachments import PHOTOSHOP_TAG, list_attachments
from loupe.imaging.exif import place_exif, read_exif
from loupe.imaging.placement import ROTATED, Placement
from loupe.imaging.xmp import place_xmp, remove_links

IPTC_RESOURCE = 0x0404  # number of the Photoshop resource with IPTC fields
IPTC_TAG = 33723  # number of a TIFF tag
IPTC_START = b"\x1c"  # first byte of an IPTC field
RESOURCE_MARK = b"8BIM\x04\x04"  # start of the Photoshop resource with IPTC fields
XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"  # precedes XMP in a JPEG
MAX_DPI = 65535  # the highest resolution that a JPEG can store
# Keys that Pillow or Loupe uses in `Image.info` for other data than texts. Pillow also stores texts of a PNG there.
INFO_NAMES = (
    "attachments",
    "default_image",
    "dpi",
    "duration",
    "exif",
    "icc_profile",
    "loop",
    "photoshop",
    "start",
    "transparency",
    "unreadable_tags",
    "xmp",
)
RAW_PROFILE = "Raw profile type "  # start of the keywords of PNG texts in which ImageMagick stores metadata


@dataclass(frozen=True)
class Metadata:
    """Metadata of one image of a file.

    Args:
        exif: the EXIF tags, with the orientation 1 (upright); None without tags.
        icc: the colour profile, or b"".
        xmp: the XMP packet, or b"".
        dpi: horizontal and vertical pixels per inch; None if unknown.
        texts: comments by keyword.
        colour_chunks: the colour space, written as PNG chunks (type to content) also if the file is not a PNG. If
            `icc` is given, only the chunk cICP is kept.
        duration_ms: display time of a frame.
        iptc: the IPTC fields (format IIM), or b"".
        omitted: names of metadata that the result does not contain.
    """

    exif: Image.Exif | None = None
    icc: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    colour_chunks: dict[bytes, bytes] = field(default_factory=dict)
    duration_ms: float = 0
    iptc: bytes = b""
    omitted: tuple[str, ...] = ()


def read_metadata(image: Image.Image, exif: Image.Exif, decoded: Metadata, orientation: int) -> Metadata:
    """Collect the metadata of an opened image.

    Args:
        image: the opened image, positioned at a frame or page.
        exif: the tags of the image; changed in place.
        decoded: metadata from the decoder: only `icc`, `colour_chunks`, `duration_ms` and `omitted`.
        orientation: the EXIF orientation of the file.
    """
    dpi = tuple(map(float, image.info.get("dpi") or ()))
    tags, unreadable = read_exif(image, exif)
    texts = _read_texts(image)
    raw = _take_raw_profiles(texts)
    xmp, linked = remove_links(_read_xmp(image.info) or raw.get("xmp", b""))
    # Do not report a gain map twice: if `linked` names it, the attachment `further images` is the same data.
    attached = [name for name in list_attachments(image) if name != "further images" or "gain map" not in linked]
    metadata = Metadata(
        exif=tags,
        icc=decoded.icc,
        xmp=xmp,
        dpi=(dpi[0], dpi[1]) if dpi and all(0 < value <= MAX_DPI for value in dpi) else None,
        texts=texts,
        colour_chunks=decoded.colour_chunks,
        duration_ms=decoded.duration_ms,
        iptc=_read_iptc(image) or raw.get("iptc", b""),
        omitted=tuple(dict.fromkeys((*decoded.omitted, *unreadable, *linked, *attached))),
    )
    # Pillow has already exchanged width and height of a rotated TIFF. `size` is before the rotation.
    size = image.size[::-1] if image.format == "TIFF" and orientation in ROTATED else image.size
    orientation = orientation if orientation in range(1, 9) else 1
    upright = size[::-1] if orientation in ROTATED else size
    turn = Placement(size, upright, upright, orientation)
    return metadata if turn.is_identity else place_metadata(metadata, turn)


def place_metadata(metadata: Metadata, placement: Placement) -> Metadata:
    """Adapt sizes, positions and resolutions to a rotated, flipped, scaled or cropped image; EXIF in place."""
    omitted = [] if metadata.exif is None else place_exif(metadata.exif, placement)
    xmp, removed = place_xmp(metadata.xmp, placement)
    dpi = metadata.dpi[::-1] if metadata.dpi and placement.is_rotated else metadata.dpi
    return replace(metadata, xmp=xmp, dpi=dpi, omitted=tuple(dict.fromkeys((*metadata.omitted, *omitted, *removed))))


def remove_texts(image: Image.Image) -> None:
    """Remove PNG texts whose keyword is in INFO_NAMES from `image.info`."""
    if image.format == "PNG":
        for name in INFO_NAMES:
            if isinstance(image.info.get(name), str):
                del image.info[name]


def correct_info(image: Image.Image) -> None:
    """Correct `image.info` before the first call of `image.getexif`.

    Do the same as `remove_texts`. Add missing EXIF and ICC data from ImageMagick's texts `Raw profile type ...` of a
    PNG. If Pillow cannot parse the EXIF data, remove them and name them in `info["unreadable_tags"]`.
    """
    remove_texts(image)
    if image.format == "PNG":
        texts = {str(name): text for name, text in image.info.items() if isinstance(text, str)}
        found = _take_raw_profiles(texts)
        for name, key in (("exif", "exif"), ("icc", "icc_profile")):
            if name in found:
                image.info.setdefault(key, found[name])
        image.info.pop(f"{RAW_PROFILE}exif", None)  # Pillow would parse it, even if it is damaged
    if image.info.get("exif") is not None:
        try:
            Image.Exif().load(image.info["exif"])
        except Exception:  # Pillow's parser raises errors of several classes
            del image.info["exif"]
            image.info["unreadable_tags"] = ["EXIF (damaged)"]


def _take_raw_profiles(texts: dict[str, str]) -> dict[str, bytes]:
    """Remove metadata in ImageMagick's encoding from the texts; return it by kind: `exif`, `xmp`, `iptc`, `icc`."""
    found = {}
    for keyword in [name for name in texts if name.startswith(RAW_PROFILE)]:
        kind = keyword.removeprefix(RAW_PROFILE).lower()
        with suppress(ValueError):
            lines = texts[keyword].split("\n")[3:]  # the first lines contain the kind and the length
            content = bytes.fromhex("".join(lines))
            if kind == "app1":
                kind = "exif" if content.startswith(b"Exif") else "xmp"
            if kind in ("iptc", "8bim"):
                kind, content = "iptc", _find_iptc(content)
            kind = "icc" if kind == "icm" else kind
            if kind in ("exif", "xmp", "iptc", "icc") and content:
                found[kind] = content.removeprefix(XMP_NAME)
                del texts[keyword]
    return found


def make_iptc_resource(iptc: bytes) -> bytes:
    """Return IPTC fields as a Photoshop resource."""
    return RESOURCE_MARK + b"\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)


def _read_xmp(info: dict[Any, Any]) -> bytes:
    content = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    return (content.encode() if isinstance(content, str) else bytes(content)).strip(b"\0")


def _read_iptc(image: Image.Image) -> bytes:
    if image.format != "TIFF":
        return bytes(image.info.get("photoshop", {}).get(IPTC_RESOURCE, b""))
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    # Read the original bytes, because `tag_v2` can contain a number instead.
    content = getattr(image.tag_v2, "_tagdata", {}).get(IPTC_TAG, b"")
    resources = image.tag_v2.get(PHOTOSHOP_TAG, b"")
    return _find_iptc(content) or _find_iptc(resources if isinstance(resources, bytes) else b"")


def _find_iptc(content: bytes) -> bytes:
    """Return IPTC fields. `content` begins with the fields, or contains them in a Photoshop resource."""
    if content.startswith(IPTC_START):
        return content
    _, mark, resource = content.partition(RESOURCE_MARK)
    if not mark or not resource:
        return b""
    start = (resource[0] + 2) // 2 * 2  # after the name of the resource
    length = int.from_bytes(resource[start : start + 4], "big")
    return resource[start + 4 : start + 4 + length]


def _read_texts(image: Image.Image) -> dict[str, str]:
    texts = {name: str(text) for name, text in getattr(image, "text", {}).items() if name != "XML:com.adobe.xmp"}
    # For a JPEG, `info` contains only the last comment, but `applist` contains all comments.
    comments = [content for marker, content in getattr(image, "applist", ()) if marker == "COM"]
    comment = b"\n".join(comments) or image.info.get("comment")
    if comment:
        texts["Comment"] = _decode_comment(comment) if isinstance(comment, bytes) else str(comment)
    return texts


def _decode_comment(comment: bytes) -> str:
    try:
        return comment.decode()
    except UnicodeDecodeError:  # files do not state the encoding of comments
        return comment.decode("latin-1")
