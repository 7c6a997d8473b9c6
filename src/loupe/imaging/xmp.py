"""Updates sizes and positions in the XMP packet of a photo (ISO 16684-1), and removes links to further data."""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from loupe.imaging.placement import Box, Placement

MAX_PACKET_BYTES = 2**22  # parsing a packet takes up to 20 times its size in memory
# Namespaces of XMP properties
ADOBE, GOOGLE = "http://ns.adobe.com/", "http://ns.google.com/photos/1.0/"
STRUCTURES = (f"{ADOBE}xap/1.0/sType/", "http://ns.adobe.com/xmp/sType/", "http://ns.acdsee.com/sType/")
AREAS, DIMENSIONS = ([f"{structure}{name}#" for structure in STRUCTURES] for name in ("Area", "Dimensions"))
CONTAINER = f"{GOOGLE}container/"  # lists the images and videos in a file
# Names of the items of CONTAINER in messages, by the property Semantic ("": no message)
SEMANTICS = {"Primary": "", "GainMap": "gain map", "MotionPhoto": "embedded video"}
PERSON, PANORAMA = "http://ns.microsoft.com/photo/1.2/t/Region#", f"{GOOGLE}panorama/"
IPTC, EXIF = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/", f"{ADOBE}exif/1.0/"
# Properties about further images or data in the file: start of the namespace, pattern for the start of the property's
# name ("": all), and the name of the data in messages ("": no message).
LINKS = (
    (f"{ADOBE}hdr-gain-map/1.0/", "", "gain map"),
    ("http://ns.apple.com/HDRGainMap/1.0/", "", "gain map"),
    (f"{GOOGLE}camera/", "MotionPhoto|MicroVideo", "embedded video"),
    (CONTAINER, "", ""),
    ("http://ns.google.com/photos/dd/1.0/", "", "depth map"),
    (f"{GOOGLE}depthmap/", "", "depth map"),
    (f"{GOOGLE}image/", "", "embedded image"),
    (f"{GOOGLE}audio/", "", "embedded audio"),
    ("http://ns.xiaomi.com/photos/1.0/camera/", "", "embedded files"),
    (f"{ADOBE}xmp/note/", "HasExtendedXMP", "extended XMP"),
    (f"{ADOBE}xap/1.0/", "Thumbnails$", ""),
    ("http://purl.org/dc/terms/", "provenance$", "content credentials"),
)
# `remove_links` parses only packets that match this pattern. Most packets contain the namespace xap/1.0, so the
# pattern contains the property Thumbnails of this namespace instead.
LINK_PATTERN = re.compile("|".join(re.escape(namespace) for namespace, _, _ in LINKS if "xap/" not in namespace)
                       .encode() + rb"|:Thumbnails")  # fmt: skip
POSITION_PATTERN = re.compile(
    rb"sType/Area#|sType/Dimensions#|photo/1\.2/t/Region#|photos/1\.0/panorama/|:rb[XY]\b|:SubjectArea|"
    rb":SubjectLocation|:FocalPlane[XY]Resolution"
)
# For each axis: size of the full panorama; offset of the photo in the panorama; offset and size of the valid
# rectangle in the photo; size of the photo
PANORAMA_NAMES = (
    ("FullPanoWidthPixels", "CroppedAreaLeftPixels", "LargestValidInteriorRectLeft", "LargestValidInteriorRectWidth",
     "CroppedAreaImageWidthPixels"),
    ("FullPanoHeightPixels", "CroppedAreaTopPixels", "LargestValidInteriorRectTop", "LargestValidInteriorRectHeight",
     "CroppedAreaImageHeightPixels"),
)  # fmt: skip
# Properties with the width (axis 0) and the height (axis 1) of the image
SIZES = (("exif:PixelXDimension|tiff:ImageWidth", 0), ("exif:PixelYDimension|tiff:ImageLength", 1))
XMLNS = "http://www.w3.org/2000/xmlns/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
# A parser changes these characters unless they are written as references (XML 1.0, 2.11 and 3.3.3), but minidom only
# writes the characters. Therefore, `_edit` replaces them by characters that XML excludes, and then by references.
PLACEHOLDERS = str.maketrans("\t\n\r", "\x01\x02\x03")
REFERENCES = str.maketrans({"\x01": "&#9;", "\x02": "&#10;", "\x03": "&#13;"})
Fields = dict[str, Any]  # XML nodes by the name of the property


def remove_links(packet: bytes) -> tuple[bytes, list[str]]:
    """Remove links to further data, and make the orientation 1 (upright).

    Return the packet and the names of the linked data.
    """
    packet = re.sub(rb"(tiff:Orientation(?:=[\"']|>))\d", rb"\g<1>1", packet)
    return _edit(packet, _remove_links) if LINK_PATTERN.search(packet) else (packet, [])


def place_xmp(packet: bytes, placement: Placement) -> tuple[bytes, list[str]]:
    """Update sizes, positions and resolutions; return the packet and names of removed properties."""
    for names, axis in SIZES:
        pattern = rb"((?:%s)(?:=[\"']|>))\d+" % names.encode()
        packet = re.sub(pattern, rb"\g<1>%d" % placement.result_size[axis], packet)
    if placement.is_rotated:  # exchange the horizontal and vertical pixels per inch
        packet = re.sub(rb"(?<=tiff:)[XY](?=Resolution)", lambda axis: b"Y" if axis[0] == b"X" else b"X", packet)
    if placement.is_identity or not POSITION_PATTERN.search(packet):
        return packet, []
    return _edit(packet, lambda document: _place(document, placement))


# A packet becomes b"" if it is damaged, is too long, or has a document type. The returned list contains the reason.
def _edit(packet: bytes, change: Callable[[Any], list[str]]) -> tuple[bytes, list[str]]:
    from xml.dom import minidom

    if len(packet) > MAX_PACKET_BYTES or b"<!DOCTYPE" in packet:
        return b"", ["XMP (too long, or with a document type)"]
    try:
        document = minidom.parseString(packet)
        names = change(document)
        _protect_white_space(document)
        return "".join(node.toxml() for node in document.childNodes).translate(REFERENCES).encode(), names
    except Exception:  # damaged XML, an invalid number, an unexpected element, or too deep nesting
        return b"", ["XMP (damaged)"]


def _protect_white_space(document: Any) -> None:
    for element in document.getElementsByTagName("*"):
        for attribute in element.attributes.values():
            attribute.nodeValue = attribute.nodeValue.translate(PLACEHOLDERS)
        for child in element.childNodes:
            if child.nodeType == child.TEXT_NODE:
                child.data = child.data.replace("\r", "\r".translate(PLACEHOLDERS))


def _remove_links(document: Any) -> list[str]:
    semantics = [
        element.getAttributeNS(f"{CONTAINER}item/", "Semantic") for element in document.getElementsByTagName("*")
    ]
    names = dict.fromkeys(SEMANTICS.get(semantic, semantic) for semantic in semantics)
    for element in document.getElementsByTagName("*"):
        for node in (*element.attributes.values(), element):
            for namespace, pattern, name in LINKS:
                declares = node.namespaceURI == XMLNS and not pattern and (node.nodeValue or "").startswith(namespace)
                is_link = (node.namespaceURI or "").startswith(namespace) and re.match(pattern, node.localName or "")
                if is_link or declares:
                    names[name] = None
                    _remove(node)
                    break
    return [name for name in names if name]


def _remove(node: Any) -> None:
    if node.nodeType == node.ATTRIBUTE_NODE and node.ownerElement:
        node.ownerElement.removeAttributeNode(node)
    elif node.parentNode:
        node.parentNode.removeChild(node)


def _place(document: Any, placement: Placement) -> list[str]:
    """Update all positions in the document of a packet; return names of removed properties."""
    omitted: list[str] = []
    for element in document.getElementsByTagName("*"):
        if element.namespaceURI == EXIF and element.localName in ("SubjectArea", "SubjectLocation"):
            _place_subject(element, placement)
        for namespace, place in PLACERS.items():
            if fields := _read_fields(element, namespace):
                omitted += place(element, fields, placement) or ()
    return omitted


def _read_fields(element: Any, namespace: str) -> Fields:
    """Return the XML nodes of an element's properties in a namespace: attributes, and texts of child elements."""
    fields: Fields = {node.localName: node for node in element.attributes.values() if node.namespaceURI == namespace}
    for child in element.childNodes:
        is_text = len(child.childNodes) == 1 and child.firstChild.nodeType == child.TEXT_NODE
        if child.namespaceURI == namespace and is_text:
            fields[child.localName] = child.firstChild
    return fields


def _read_numbers(fields: Fields, *names: str) -> list[float]:
    return [float(fields[name].nodeValue) if name in fields else 0.0 for name in names]


def _write_numbers(fields: Fields, values: Mapping[str, float], pixels: bool) -> None:
    for name, value in values.items():
        if name in fields:
            fields[name].nodeValue = str(round(value)) if pixels else f"{value:.7g}"


def _place_area(element: Any, fields: Fields, placement: Placement) -> None:
    """Update a rectangle, circle or point, stored by its centre (Metadata Working Group, 5.9.1)."""
    if not {"x", "y"} <= {*fields}:
        return
    pixels = "unit" in fields and fields["unit"].nodeValue == "pixel"
    x, y, width, height, diameter = _read_numbers(fields, "x", "y", "w", "h", "d")
    left, top, width, height = _place_box((x - width / 2, y - height / 2, width, height), placement, pixels)
    # A diameter without the unit pixel is a fraction of the shorter side.
    side, result_side = (1, 1) if pixels else (min(placement.size), min(placement.result_size))
    diameter *= placement.scales[0] * side / result_side
    values = {"x": left + width / 2, "y": top + height / 2, "w": width, "h": height, "d": diameter}
    _write_numbers(fields, values, pixels)


def _place_box(box: Box, placement: Placement, pixels: bool) -> Box:
    if not pixels:
        return placement.place(box)
    left, top, width, height = placement.place_pixels(*box)
    return left, top, width, height


def _place_dimensions(element: Any, fields: Fields, placement: Placement) -> None:
    if "AppliedToDimensions" in (element.localName, element.parentNode.localName):
        _write_numbers(fields, dict(zip("wh", placement.result_size, strict=True)), pixels=True)


def _place_person(element: Any, fields: Fields, placement: Placement) -> None:
    """Update the rectangle of a person (Microsoft Photo 1.2)."""
    if "Rectangle" in fields:
        left, top, width, height = map(float, fields["Rectangle"].nodeValue.split(","))
        placed = placement.place((left, top, width, height))
        fields["Rectangle"].nodeValue = ", ".join(f"{value:.7g}" for value in placed)


def _place_boundary(element: Any, fields: Fields, placement: Placement) -> None:
    """Update a rectangle, a circle, or a point of a polygon (IPTC image regions)."""
    if not {"rbX", "rbY"} <= {*fields}:
        return
    pixels = _read_unit(element) == "pixel"
    x, y, width, height, radius = _read_numbers(fields, "rbX", "rbY", "rbW", "rbH", "rbRx")
    left, top, width, height = _place_box((x, y, width, height), placement, pixels)
    radius *= placement.scales[0] * (1 if pixels else placement.size[0] / placement.result_size[0])
    _write_numbers(fields, {"rbX": left, "rbY": top, "rbW": width, "rbH": height, "rbRx": radius}, pixels)


def _read_unit(element: Any) -> str:
    """Return the unit of a boundary, or "". For a point of a polygon, an element around the point has the unit."""
    if element.nodeType != element.ELEMENT_NODE:
        return ""
    # Store the unit: reading it again for each point would take quadratic time.
    unit: str | None = element.getUserData("unit")
    if unit is None:
        fields = _read_fields(element, IPTC)
        unit = fields["rbUnit"].nodeValue if "rbUnit" in fields else _read_unit(element.parentNode)
        element.setUserData("unit", unit, None)
    return unit


def _place_panorama(element: Any, fields: Fields, placement: Placement) -> list[str]:
    """Update the sizes and offsets of a panorama (Google Photo Sphere); return names of removed properties.

    If the image was rotated or flipped, remove all properties of the panorama.
    """
    if placement.orientation != 1:
        for node in fields.values():
            _remove(node if node.nodeType == node.ATTRIBUTE_NODE else node.parentNode)
        return ["panorama"]
    for names, scale, margin, side in zip(
        PANORAMA_NAMES, placement.scales, placement.margins, placement.result_size, strict=True
    ):
        full, offset, left, length = (scale * value for value in _read_numbers(fields, *names[:-1]))
        start, end = (min(max(int(edge - margin + 0.5), 0), side) for edge in (left, left + length))
        values = int(full + 0.5), int(offset + margin + 0.5), start, end - start, side
        _write_numbers(fields, dict(zip(names, values, strict=True)), pixels=True)
    return []


def _place_exif(element: Any, fields: Fields, placement: Placement) -> None:
    """Scale the focal-plane resolutions (pixels per unit of length on the sensor).

    If the image was rotated, exchange the two resolutions first. Unless all resolutions are numbers, change none.
    """
    nodes = [fields[name] for name in ("FocalPlaneXResolution", "FocalPlaneYResolution") if name in fields]
    try:
        values = [_read_ratio(node.nodeValue) for node in nodes]
        ordered = values[::-1] if placement.is_rotated else values
        scaled = [Fraction(value * scale) for value, scale in zip(ordered, placement.scales, strict=False)]
    except (ArithmeticError, ValueError):  # such as 0/0 for an unknown resolution
        return
    for node, resolution in zip(nodes, scaled, strict=False):
        ratio = resolution.limit_denominator(10_000)
        node.nodeValue = f"{ratio.numerator}/{ratio.denominator}"


def _read_ratio(text: str) -> float:
    """Convert a number or a ratio such as `3000/2` to a float.

    `Fraction(text)` is not used, because it computes 10**n for an exponent n, which can take minutes.
    """
    numerator, _, denominator = text.partition("/")
    return float(numerator) / float(denominator or 1)


def _place_subject(element: Any, placement: Placement) -> None:
    """Update SubjectArea or SubjectLocation."""
    texts = [item.firstChild for item in element.getElementsByTagNameNS(RDF, "li") if item.firstChild]
    placed = placement.place_subject([float(text.nodeValue) for text in texts])
    for text, value in zip(texts, placed, strict=True):
        text.nodeValue = str(value)


# Functions that update the properties of an element, by namespace
PLACERS: dict[str, Callable[[Any, Fields, Placement], list[str] | None]] = {
    **dict.fromkeys(AREAS, _place_area),
    **dict.fromkeys(DIMENSIONS, _place_dimensions),
    PERSON: _place_person,
    IPTC: _place_boundary,
    PANORAMA: _place_panorama,
    EXIF: _place_exif,
}
