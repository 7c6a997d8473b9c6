"""Metadata that describes positions, colours and further data of a file, and metadata that a format cannot store."""

import io
import re
import shutil
import struct
import subprocess
import time
import zlib
from fractions import Fraction
from functools import partial
from pathlib import Path
from xml.dom import minidom

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from loupe.imaging.attachments import C2PA_UUID, XMP_UUID, _list_boxes, list_attachments, read_skipped_metadata
from loupe.imaging.decoder import PhotoError
from loupe.imaging.exif import place_exif
from loupe.imaging.grey import GreyPhoto
from loupe.imaging.isolated_reader import open_readers
from loupe.imaging.maker_note import EXIF_IFD, MAKER_NOTE, PlacedExif
from loupe.imaging.metadata import INFO_NAMES, make_iptc_resource
from loupe.imaging.metadata_selection import MAX_SEGMENT_BYTES, USER_COMMENT
from loupe.imaging.opening import open_image
from loupe.imaging.pixels import make_upright
from loupe.imaging.placement import ROTATED, Placement
from loupe.imaging.profiles import ADOBE_GAMMA, ADOBE_RGB, make_profile, make_srgb_profile
from loupe.imaging.reader import read_photo, read_pillow_image
from loupe.imaging.writer import write_photo
from loupe.imaging.xmp import place_xmp, remove_links
from loupe.photos.sizes import Target
from loupe.photos.upscaling import UpscaleTransform
from loupe.tracking.resolver import resolve_model

NETWORKS = resolve_model("tiny")
SIZE = (48, 32)
SHORT = 3  # type of an EXIF tag: integers of 2 bytes
IPTC = b"\x1c\x02\x50\x00\x06Nobody"
DOUBLED = Placement((48, 32), (96, 64), (96, 64))
NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
    "ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "GPano": "http://ns.google.com/photos/1.0/panorama/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "Item": "http://ns.google.com/photos/1.0/container/item/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "GDepth": "http://ns.google.com/photos/1.0/depthmap/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
}


def make_xmp(content: str = "", attributes: str = "") -> bytes:
    names = " ".join(
        f'xmlns:{prefix}="{name}"' for prefix, name in NAMESPACES.items() if prefix + ":" in content + attributes
    )
    return (
        f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{NAMESPACES["rdf"]}"><rdf:Description {names} {attributes}>{content}</rdf:Description>'
        f'</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


@pytest.fixture(scope="module")
def image() -> Image.Image:
    columns, rows = np.meshgrid(np.linspace(40, 200, SIZE[0]), np.linspace(60, 180, SIZE[1]))
    return Image.fromarray(np.stack([columns, rows, columns[::-1]], axis=-1).astype("uint8"))


def upscale(file: Path, out: Path, scale: str = "2") -> tuple[Image.Image, list[str]]:
    """Upscale a file; return the opened result, and the names of omitted metadata."""
    photo = read_photo(file)
    omitted = write_photo(out, map(UpscaleTransform(Target(Fraction(scale)), NETWORKS), photo.images), photo.count)
    result = Image.open(out)
    result.load()
    return result, omitted


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_stay_on_the_same_pixels_when_an_image_is_turned_scaled_and_cropped(orientation):
    width, height = SIZE
    mask = np.zeros((height, width, 1), "uint8")
    mask[4:12, 20:44] = 1
    upright = make_upright(mask, orientation)
    turned = Placement(SIZE, upright.shape[1::-1], upright.shape[1::-1], orientation)
    left, top, box_width, box_height = turned.place_pixels(20, 4, 24, 8)
    rows, columns = np.nonzero(upright[..., 0])
    assert (left, top) == (columns.min(), rows.min())
    assert (box_width, box_height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
    assert turned.place_subject((32, 8, 24, 8)) == (
        left + box_width // 2,
        top + box_height // 2,
        box_width,
        box_height,
    )
    cropped = Placement(SIZE, (96, 64), (80, 40)).place_pixels(20, 4, 24, 8)
    assert cropped == [2 * 20 - 8, 0, 48, 12]  # the crop removes 12 rows at the top, and the box starts in row 8


def test_regions_are_placed_as_attributes_and_as_elements():
    area = 'stArea:x="0.75" stArea:y="0.25" stArea:w="0.25" stArea:h="0.125" stArea:unit="normalized"'
    element = re.sub(r'(stArea:\w)="([^"]*)" ?', r"<\1>\2</\1>", area.replace('stArea:unit="normalized"', ""))
    packet = make_xmp(
        f'<mwg-rs:A {area}/><mwg-rs:B rdf:parseType="Resource">{element}</mwg-rs:B>'
        '<mwg-rs:AppliedToDimensions stDim:w="48" stDim:h="32" stDim:unit="pixel"/>'
        '<mwg-rs:C MPReg:Rectangle="0.625, 0.1875, 0.25, 0.125"/>'
        '<mwg-rs:D ext:rbUnit="pixel" ext:rbX="30" ext:rbY="6" ext:rbW="12" ext:rbH="4"/>'
        '<mwg-rs:E><rdf:Description ext:rbUnit="relative" ext:rbX="0.5" ext:rbY="0.5" ext:rbRx="0.25"/></mwg-rs:E>'
        '<mwg-rs:F ext:rbUnit="pixel"><ext:rbVertices><rdf:Seq><rdf:li ext:rbX="48" ext:rbY="0"/></rdf:Seq>'
        "</ext:rbVertices></mwg-rs:F>"
        "<exif:SubjectArea><rdf:Seq><rdf:li>36</rdf:li><rdf:li>8</rdf:li></rdf:Seq></exif:SubjectArea>"
        "<exif:FocalPlaneXResolution>3000/2</exif:FocalPlaneXResolution>"
    )
    turned, omitted = place_xmp(packet, Placement(SIZE, (64, 96), (64, 96), 6))
    text = turned.decode()
    assert omitted == []
    for value in ('x="0.75" stArea:y="0.75" stArea:w="0.125" stArea:h="0.25"', "<stArea:y>0.75</stArea:y>",
                  'stDim:w="64" stDim:h="96"', 'Rectangle="0.6875, 0.625, 0.125, 0.25"',
                  'rbX="44" ext:rbY="60" ext:rbW="8" ext:rbH="24"', 'rbX="0.5" ext:rbY="0.5" ext:rbRx="0.375"',
                  'rbX="64" ext:rbY="96"', "<rdf:li>48</rdf:li><rdf:li>72</rdf:li>", ">3000/1<"):  # fmt: skip
        assert value in text, value
    assert text.startswith('<?xpacket begin="\ufeff"')
    assert place_xmp(packet, Placement(SIZE, SIZE, SIZE)) == (packet, [])  # unchanged, byte by byte


@pytest.mark.parametrize("resolution", ["0/0", "1e3000000", "unknown"])
def test_a_resolution_that_is_no_number_is_kept_and_takes_no_time(resolution):
    attributes = f'exif:FocalPlaneXResolution="{resolution}" exif:FocalPlaneYResolution="1500"'
    start = time.process_time()
    placed, omitted = place_xmp(make_xmp(attributes=attributes), DOUBLED)
    assert time.process_time() - start < 0.5
    assert (omitted, attributes.encode() in placed) == ([], True)


@pytest.mark.parametrize("edit", [remove_links, partial(place_xmp, placement=DOUBLED)])
def test_line_breaks_and_tabs_in_an_edited_packet_are_kept(edit):
    packet = make_xmp(
        "<dc:rights>one&#xD;two\nthree\tfour</dc:rights>",
        'dc:title="one&#xD;&#xA;two&#x9;three &amp; &lt;four&gt;" exif:FocalPlaneXResolution="3" hdrgm:Version="1"',
    )
    edited, _ = edit(packet)
    (title, rights), (new_title, new_rights) = (
        (element.getAttribute("dc:title"), element.getElementsByTagName("dc:rights")[0].firstChild.data)
        for content in (packet, edited)
        for element in minidom.parseString(content).getElementsByTagName("rdf:Description")
    )
    assert edited != packet
    assert new_title == title == "one\r\ntwo\tthree & <four>"
    assert new_rights == rights == "one\rtwo\nthree\tfour"


def test_a_resolution_without_a_denominator_is_scaled():
    assert b'="3001/1"' in place_xmp(make_xmp(attributes='exif:FocalPlaneXResolution="1500.5"'), DOUBLED)[0]


def test_the_time_to_place_a_polygon_is_linear():
    times = []
    for count in (500, 8000):
        packet = make_xmp('<rdf:li ext:rbX="0.5" ext:rbY="0.5"/>' * count)
        start = time.process_time()
        assert place_xmp(packet, DOUBLED)[0].count(b'rbX="0.5"') == count
        times.append(time.process_time() - start)
    assert times[1] < 40 * times[0]


def test_sizes_of_a_panorama_are_scaled_and_a_turned_one_loses_them():
    names = {"FullPanoWidthPixels": 96, "FullPanoHeightPixels": 48, "CroppedAreaImageWidthPixels": 48}
    names |= {"CroppedAreaImageHeightPixels": 32, "CroppedAreaLeftPixels": 12, "CroppedAreaTopPixels": 6}
    names |= {"LargestValidInteriorRectLeft": 4, "LargestValidInteriorRectWidth": 40}
    names |= {"LargestValidInteriorRectTop": 0, "LargestValidInteriorRectHeight": 32}
    packet = make_xmp(attributes=" ".join(f'GPano:{name}="{value}"' for name, value in names.items()))
    large, omitted = place_xmp(packet, Placement(SIZE, (144, 96), (144, 90)))
    values = {name.decode(): int(value) for name, value in re.findall(rb'GPano:(\w+)="(\d+)"', large)}
    expected = {name: 3 * value for name, value in names.items()}
    cropped = {"CroppedAreaImageHeightPixels": 90, "LargestValidInteriorRectHeight": 90}
    assert values == expected | cropped | {"CroppedAreaTopPixels": 18 + 3}
    assert omitted == []
    turned, omitted = place_xmp(packet, Placement(SIZE, (32, 48), (32, 48), 6))
    assert b"GPano:" not in turned.replace(b"xmlns:GPano", b"")
    assert omitted == ["panorama"]


@pytest.mark.parametrize(
    ("content", "attributes", "names"),
    [
        ("", 'hdrgm:Version="1.0"', ["gain map"]),
        ('<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary"/>'
         '</rdf:li><rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="MotionPhoto"/></rdf:li>'
         "</rdf:Seq></Container:Directory>", 'GCamera:MotionPhoto="1"', ["embedded video"]),
        ("<GCamera:MicroVideoOffset>831</GCamera:MicroVideoOffset>", "", ["embedded video"]),
        ("", 'xmpNote:HasExtendedXMP="AC83"', ["extended XMP"]),
        ("", 'GDepth:Format="RangeInverse" GDepth:Mime="image/jpeg"', ["depth map"]),
        ("<xmp:Thumbnails><rdf:Alt><rdf:li>base64</rdf:li></rdf:Alt></xmp:Thumbnails>", "", []),
    ],
)  # fmt: skip
def test_links_to_data_that_results_do_not_contain_are_removed_and_named(content, attributes, names):
    kept = "<dc:source>a hill</dc:source>"
    packet, found = remove_links(make_xmp(kept + content, attributes))
    assert found == names
    assert kept.encode() in packet
    for prefix in ("hdrgm:", "Container:", "Item:", "GCamera:", "HasExtended", "GDepth:", "Thumbnails"):
        assert prefix.encode() not in packet
    plain = make_xmp(kept, 'xmp:Rating="3"')
    assert remove_links(plain) == (plain, [])


@pytest.mark.parametrize("fault", [b"</rdf:RDF>", b"<!DOCTYPE x [<!ENTITY a 'a'>]>"])
def test_xmp_with_links_that_cannot_be_parsed_is_left_out(fault):
    packet, names = remove_links(fault + make_xmp(attributes='hdrgm:Version="1.0"'))
    assert packet == b""
    assert names[0].startswith("XMP")


@pytest.mark.parametrize(
    "content",
    [
        "<exif:SubjectArea><rdf:Seq><rdf:li><rdf:x/></rdf:li><rdf:li>5</rdf:li></rdf:Seq></exif:SubjectArea>",
        '<GPano:Pose stDim:w="4">True</GPano:Pose>',
    ],
)
def test_xmp_with_positions_that_cannot_be_updated_is_left_out(content):
    assert place_xmp(make_xmp(content), Placement(SIZE, (64, 96), (64, 96), 6)) == (b"", ["XMP (damaged)"])


def test_xmp_with_too_many_nested_elements_is_left_out():
    packet = make_xmp("<dc:a>" * 2000 + "</dc:a>" * 2000, 'hdrgm:Version="1.0" stDim:w="4"')
    assert remove_links(packet) == place_xmp(packet, DOUBLED) == (b"", ["XMP (damaged)"])


def test_positions_in_exif_and_on_a_map_are_scaled(image, tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[33550], tags[33922] = (0.5, 0.5, 0.0), (8.0, 4.0, 0.0, 600_000.0, 5_340_000.0, 0.0)
    tags[34735] = (1, 1, 0, 1, 1025, 0, 1, 1)
    image.save(tmp_path / "small.tif", tiffinfo=tags)
    large, omitted = upscale(tmp_path / "small.tif", tmp_path / "large.tif")
    assert large.tag_v2[33550] == (0.25, 0.25, 0.0)
    assert large.tag_v2[33922][:2] == (16.0, 8.0)
    assert omitted == []
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, values in ((33550, (2, 2, 0)), (33922, (8, 4, 0, 60, 50, 0)), (34264, (*[4, 0, 0, 8] * 3, 0, 0, 0, 1))):
        tags.tagtype[tag], tags[tag] = SHORT, values
    image.save(tmp_path / "small.tif", tiffinfo=tags)
    large, omitted = upscale(tmp_path / "small.tif", tmp_path / "large.jpg")
    assert [large.getexif()[tag][:2] for tag in (33550, 33922, 34264)] == [(1, 1), (16, 8), (2, 0)]
    assert omitted == []
    exif = Image.Exif()
    exif[34264] = (0.5, 0, 0, 100, 0, -0.5, 0, 200, 0, 0, 0, 0, 0, 0, 0, 1)
    exif[34735] = (1, 1, 0, 1, 1025, 0, 1, 2)  # coordinates at the centre of a pixel
    nested = exif.get_ifd(0x8769)
    nested[0x9214], nested[0xA20E], nested[0xA20F] = (36, 8, 12, 4), 3000.0, 1500.0
    exif[0x8769] = nested
    assert place_exif(exif, DOUBLED) == []
    assert exif[34264][:8] == (0.25, 0, 0, 100 - 0.125, 0, -0.25, 0, 200 + 0.125)
    assert [nested[tag] for tag in (0x9214, 0xA20E, 0xA20F)] == [(72, 16, 24, 8), 6000, 3000]
    assert place_exif(exif, Placement((96, 64), (64, 96), (64, 96), 6)) == ["GeoTIFF"]
    assert [nested[tag] for tag in (0x9214, 0xA20E, 0xA20F)] == [(48, 72, 8, 24), 3000, 6000]
    assert 34264 not in exif


@pytest.mark.parametrize(
    ("placement", "horizontal", "vertical"),
    [
        (Placement((48, 32), (96, 96), (96, 96)), {0xA20E: 2000}, {0xA20F: 3000}),
        (Placement((48, 32), (32, 96), (32, 96), 6), {0xA20F: 2000}, {0xA20E: 1000}),
    ],
)
def test_one_focal_plane_resolution_is_scaled_on_its_own(placement, horizontal, vertical):
    for tag, expected in ((0xA20E, horizontal), (0xA20F, vertical)):
        exif = Image.Exif()
        exif.get_ifd(EXIF_IFD)[tag] = 1000.0
        exif[EXIF_IFD] = exif.get_ifd(EXIF_IFD)
        assert place_exif(exif, placement) == []
        assert exif.get_ifd(EXIF_IFD) == expected


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("source", ["jpg", "png", "tif"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_rotated_photo_has_exchanged_resolutions(image, tmp_path, source, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112], exif[282], exif[283], exif[296] = orientation, 200.0, 100.0, 2
    file = tmp_path / f"small.{source}"
    image.save(file, dpi=(200, 100), **{"tiffinfo" if source == "tif" else "exif": exif})
    large, omitted = upscale(file, tmp_path / f"large.{suffix}")
    expected = (100, 200) if orientation in ROTATED else (200, 100)
    tags, dpi = large.getexif(), large.info.get("dpi")
    stored = [*([dpi] if dpi else []), *([(tags[282], tags[283])] if 282 in tags else [])]
    assert {tuple(map(round, values)) for values in stored} == {expected}
    assert omitted == []


def test_a_single_resolution_is_moved_to_the_other_axis_and_those_in_xmp_are_exchanged():
    exif, turned = Image.Exif(), Placement(SIZE, SIZE[::-1], SIZE[::-1], 6)
    exif[282] = 200.0
    assert place_exif(exif, turned) == []
    assert dict(exif) == {283: 200}
    xmp = make_xmp("<tiff:YResolution>100/1</tiff:YResolution>", 'tiff:XResolution="200/1"')
    expected = make_xmp("<tiff:XResolution>100/1</tiff:XResolution>", 'tiff:YResolution="200/1"')
    assert place_xmp(xmp, turned) == (expected, [])
    assert place_xmp(xmp, DOUBLED) == (xmp, [])


def test_the_other_tags_survive_one_damaged_tag(image, tmp_path):
    entries = [(271, 2, b"Testcam\0"), (282, 2, b"72\0\0"), (283, 2, b"wide\0\0"), (315, 2, b"Nobody\0")]
    data, table = b"", struct.pack("<H", len(entries))
    start = 8 + 2 + 12 * len(entries) + 4
    for tag, kind, value in entries:
        stored = value if len(value) == 4 else struct.pack("<I", start + len(data))
        data += value if len(value) > 4 else b""
        table += struct.pack("<HHI", tag, kind, len(value)) + stored
    image.save(tmp_path / "small.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + table + bytes(4) + data)
    large, omitted = upscale(tmp_path / "small.jpg", tmp_path / "large.jpg")
    exif = large.getexif()
    assert (exif[271], exif[282], exif[315]) == ("Testcam", 72, "Nobody")
    assert omitted == ["EXIF tag 0x011b"]
    truncated = table.replace(struct.pack("<HHI", 271, 2, 8), struct.pack("<HHI", 271, 2, 70_000))
    image.save(tmp_path / "small.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + truncated + bytes(4) + data)
    large, omitted = upscale(tmp_path / "small.jpg", tmp_path / "large.jpg")
    assert (large.getexif()[282], large.getexif()[315]) == (72, "Nobody")
    assert omitted == ["EXIF tag 0x010f", "EXIF tag 0x011b"]


def test_iptc_is_kept_from_every_place_and_named_without_a_place(image, tmp_path):
    numbers = struct.unpack("<3I", IPTC + b"\0")
    tifffile.imwrite(
        tmp_path / "numbers.tif", np.asarray(image), metadata=None, extratags=[(33723, 4, 3, numbers, True)]
    )
    resources = TiffImagePlugin.ImageFileDirectory_v2()
    resources[34377] = b"8BIM\x04\x0c\0\0\0\0\0\x02ab" + make_iptc_resource(IPTC)
    image.save(tmp_path / "resources.tif", tiffinfo=resources)
    raw = PngImagePlugin.PngInfo()
    content = make_iptc_resource(IPTC)
    raw.add_text("Raw profile type 8bim", f"\n8bim\n{len(content):8}\n{content.hex()}\n")
    image.save(tmp_path / "raw.png", pnginfo=raw)
    for name in ("numbers.tif", "resources.tif", "raw.png"):
        for suffix in ("jpg", "png", "tif"):
            out = tmp_path / f"large.{suffix}"
            assert upscale(tmp_path / name, out)[1] == []
            assert next(read_photo(out).images).metadata.iptc.rstrip(b"\0") == IPTC
        assert upscale(tmp_path / name, tmp_path / "large.webp")[1] == ["IPTC"]


@pytest.mark.parametrize("first", ["iptc", "8bim"])
def test_photoshop_resources_without_iptc_are_named_and_do_not_replace_iptc(image, tmp_path, first):
    contents = {"iptc": make_iptc_resource(IPTC), "8bim": b"8BIM\x04\x0c\0\0\0\0\0\x02ab"}
    raw = PngImagePlugin.PngInfo()
    for kind in sorted(contents, key=lambda kind: kind != first):
        raw.add_text(f"Raw profile type {kind}", f"\n{kind}\n{len(contents[kind]):8}\n{contents[kind].hex()}\n")
    image.save(tmp_path / "raw.png", pnginfo=raw)
    assert upscale(tmp_path / "raw.png", tmp_path / "large.gif")[1] == ["IPTC", "texts (Raw profile type 8bim)"]


@pytest.mark.parametrize("keyword", ["exif", "APP1"])
def test_raw_profiles_of_a_png_are_read_and_written_once(image, tmp_path, keyword):
    exif = Image.Exif()
    exif[0x0112], exif[271] = 6, "Testcam"
    raw = PngImagePlugin.PngInfo()
    for name, content in ((keyword, exif.tobytes()), ("xmp", make_xmp("<dc:source>a hill</dc:source>"))):
        raw.add_text(f"Raw profile type {name}", f"\n{name}\n{len(content):8}\n{content.hex()}\n")
    image.save(tmp_path / "small.png", pnginfo=raw)
    large, omitted = upscale(tmp_path / "small.png", tmp_path / "large.png")
    assert large.size == (64, 96)
    assert (large.getexif()[0x0112], large.getexif()[271]) == (1, "Testcam")
    assert "a hill" in large.info["XML:com.adobe.xmp"]
    assert not [name for name in large.text if name.startswith("Raw profile")]
    assert omitted == []


def test_texts_of_a_png_become_the_user_comment_or_are_named(image, tmp_path):
    info = PngImagePlugin.PngInfo()
    for keyword, text in (("workflow", '{"nodes": []}'), ("parameters", "a hill"), ("Description", "Hügel 山")):
        info.add_itxt(keyword, text)
    image.save(tmp_path / "small.png", pnginfo=info)
    for suffix in ("jpg", "webp", "tif", "avif"):
        large, omitted = upscale(tmp_path / "small.png", tmp_path / f"large.{suffix}")
        comment = large.getexif().get_ifd(0x8769)[0x9286]
        assert comment[:8] == b"UNICODE\0"
        assert comment[8:].decode("utf-16-be") == 'a hill\nworkflow: {"nodes": []}\nDescription: Hügel 山'
        assert omitted == []
    assert upscale(tmp_path / "small.png", tmp_path / "large.gif")[1] == ["texts (workflow, parameters, Description)"]
    info.add_itxt("long", "ü" * MAX_SEGMENT_BYTES)
    image.save(tmp_path / "small.png", pnginfo=info)
    assert upscale(tmp_path / "small.png", tmp_path / "large.jpg")[1] == ["user comment (too long for .jpg)"]


def test_a_tiff_keeps_the_comment_of_a_jpeg_next_to_a_description(image, tmp_path):
    exif = Image.Exif()
    exif[270] = "OLYMPUS DIGITAL CAMERA"
    image.save(tmp_path / "small.jpg", exif=exif, comment="a hill")
    large, omitted = upscale(tmp_path / "small.jpg", tmp_path / "large.tif")
    assert (large.getexif()[270], omitted) == ("OLYMPUS DIGITAL CAMERA", [])
    assert large.getexif().get_ifd(EXIF_IFD)[USER_COMMENT] == b"ASCII\0\0\0Comment: a hill"
    exif[EXIF_IFD] = {USER_COMMENT: b"ASCII\0\0\0a tree"}
    image.save(tmp_path / "small.jpg", exif=exif, comment="a hill")
    assert upscale(tmp_path / "small.jpg", tmp_path / "large.tif")[1] == ["texts (Comment)"]


@pytest.mark.parametrize(
    ("comment", "is_kept"),
    [("note", True), ("a longer note", True), (b"note", True), (b"ASCII\0\0\0  ", False), ("", False), (9, False)],
)
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_a_user_comment_of_any_type_is_kept_unless_it_is_empty(image, tmp_path, suffix, comment, is_kept):
    exif, info = Image.Exif(), PngImagePlugin.PngInfo()
    exif[EXIF_IFD] = {USER_COMMENT: comment, MAKER_NOTE: comment or 1}
    info.add_text("Software", "paint")
    image.save(tmp_path / "small.png", pnginfo=info, exif=exif)
    large, omitted = upscale(tmp_path / "small.png", tmp_path / f"large.{suffix}")
    assert large.getexif().get_ifd(EXIF_IFD)[USER_COMMENT] == (comment if is_kept else b"ASCII\0\0\0Software: paint")
    assert omitted == (["texts (Software)"] if is_kept else [])


@pytest.mark.parametrize("after_pixels", [False, True])
def test_texts_with_the_names_of_other_data_are_kept_and_change_nothing(image, tmp_path, after_pixels):
    """Pillow stores texts, gAMA and other chunks in the same dictionary."""
    names = ("chromaticity", "exif", "gamma", "srgb", *(set(INFO_NAMES) - {"exif"}))
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", 100_000))
    image.save(tmp_path / "plain.png", pnginfo=info)
    for name in names:
        info.add(b"iTXt", f"{name}\0\0\0\0\0a text".encode(), after_idat=after_pixels)
    image.save(tmp_path / "small.png", pnginfo=info)
    plain, _ = upscale(tmp_path / "plain.png", tmp_path / "plain-large.png")
    large, omitted = upscale(tmp_path / "small.png", tmp_path / "large.png")
    assert np.array_equal(plain, large)
    assert omitted == []
    assert large.text == dict.fromkeys(names, "a text")
    assert b"gAMA" + struct.pack(">I", 100_000) in (tmp_path / "large.png").read_bytes()


def test_a_last_box_without_a_length_is_read_and_a_damaged_packet_is_named(image, tmp_path):
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>a hill</x:xmpmeta>"
    image.save(tmp_path / "photo.jp2")
    with (tmp_path / "photo.jp2").open("ab") as stream:
        stream.write(b"\0\0\0\0uuid" + XMP_UUID + xmp)
    with Image.open(tmp_path / "photo.jp2") as opened, (tmp_path / "photo.jp2").open("rb") as file:
        read_skipped_metadata(opened, tmp_path / "photo.jp2")
        assert opened.info["xmp"] == xmp
        assert [kind for kind, _ in _list_boxes(file)][-1] == b"uuid"
    image.save(tmp_path / "photo.gif")
    content = (tmp_path / "photo.gif").read_bytes()
    start = 13 + 3 * 2 ** (1 + (content[10] & 7))
    (tmp_path / "photo.gif").write_bytes(content[:start] + b"\x21\xff\x0bXMP DataXMP\3<x>\0" + content[start:])
    result, omitted = upscale(tmp_path / "photo.gif", tmp_path / "large.png")
    assert omitted == ["XMP (damaged)"]
    assert "xmp" not in result.info


@pytest.mark.parametrize("content", [b"Exif\0\0no tags", b"Exif\0\0MM\0*"])
@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_damaged_exif_data_are_named_and_the_photo_is_upscaled(image, tmp_path, extension, content):
    image.save(tmp_path / f"small.{extension}", exif=content)
    large, omitted = upscale(tmp_path / f"small.{extension}", tmp_path / "large.png")
    assert (large.size, omitted) == ((96, 64), ["EXIF (damaged)"])
    GreyPhoto((tmp_path / f"small.{extension}").read_bytes(), lambda needed: None)


@pytest.mark.parametrize("after_pixels", [False, True])
@pytest.mark.parametrize("text", ["no profile", "\nexif\n 4\n0badcafe"])
def test_a_damaged_raw_profile_does_not_damage_the_photo(image, tmp_path, text, after_pixels):
    info = PngImagePlugin.PngInfo()
    info.add(b"tEXt", f"Raw profile type exif\0{text}".encode(), after_idat=after_pixels)
    image.save(tmp_path / "small.png", pnginfo=info)
    large, _ = upscale(tmp_path / "small.png", tmp_path / "large.png")
    assert large.size == (96, 64)
    GreyPhoto((tmp_path / "small.png").read_bytes(), lambda needed: None)


def test_large_profiles_and_texts_are_read_up_to_a_limit(image, tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("workflow", "x" * 2**21, zip=True)
    image.save(tmp_path / "small.png", pnginfo=info, icc_profile=make_srgb_profile() + bytes(2**21))
    for _ in range(2):  # Loupe also reads its own result
        large, omitted = upscale(tmp_path / "small.png", tmp_path / "large.png")
        assert len(large.text["workflow"]) == 2**21
        assert omitted == []
        shutil.copy(tmp_path / "large.png", tmp_path / "small.png")
    info.add_itxt("bomb", "x" * (2**24 + 1), zip=True)
    image.save(tmp_path / "small.png", pnginfo=info)
    with pytest.raises(PhotoError, match="must have at most 16,777,216 bytes each"):
        upscale(tmp_path / "small.png", tmp_path / "large.png")


def test_a_damaged_or_unsuitable_profile_is_left_out_and_named(image, tmp_path):
    srgb = make_srgb_profile()
    link = srgb[:12] + b"link" + srgb[16:]
    for icc in (b"rubbish", srgb[:200], bytes(400), link, srgb.replace(b"rTRC", b"xxxx"), b"\0" * 128 + srgb[128:]):
        image.save(tmp_path / "small.jpg", icc_profile=icc)
        for suffix in ("jpg", "bmp"):
            large, omitted = upscale(tmp_path / "small.jpg", tmp_path / f"large.{suffix}")
            assert "icc_profile" not in large.info
            assert "colour profile (damaged or unsuitable)" in omitted
    for chunk in (b"", b"x\0\7" + zlib.compress(srgb), b"x\0\0rubbish"):
        image.save(tmp_path / "small.png")
        content = (tmp_path / "small.png").read_bytes()
        encoded = struct.pack(">I", len(chunk)) + b"iCCP" + chunk + struct.pack(">I", zlib.crc32(b"iCCP" + chunk))
        (tmp_path / "small.png").write_bytes(content[:33] + encoded + content[33:])
        assert upscale(tmp_path / "small.png", tmp_path / "large.png")[1] == [
            "colour profile (damaged or unsuitable)"
        ]
    image.convert("CMYK").save(tmp_path / "small.jpg", icc_profile=srgb)
    assert "colour profile (damaged or unsuitable)" in upscale(tmp_path / "small.jpg", tmp_path / "large.jpg")[1]


def test_the_profile_of_a_bmp_is_kept_and_a_linked_profile_is_named(image, tmp_path):
    icc = make_profile(ADOBE_RGB, ADOBE_GAMMA)
    for kind, profile, expected in ((b"DEBM", icc, icc), (b"KNIL", b"c:\\p.icc\0", None), (b" niW", b"", None)):
        pixels = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGR")
        header = struct.pack("<IiiHHIIiiII16s4s36x12xIIIxxxx", 124, *SIZE, 1, 24, 0, len(pixels), 2835, 2835, 0, 0,
                             bytes(16), kind, 4, 124 + len(pixels), len(profile))  # fmt: skip
        content = header + pixels + profile
        (tmp_path / "small.bmp").write_bytes(b"BM" + struct.pack("<III", 14 + len(content), 0, 138) + content)
        large, omitted = upscale(tmp_path / "small.bmp", tmp_path / "large.png")
        assert large.info.get("icc_profile") == expected
        assert ("colour profile (damaged or unsuitable)" in omitted) == (kind == b"KNIL")


def test_data_after_a_jpeg_are_named(image, tmp_path):
    image.save(tmp_path / "small.jpg")
    content = (tmp_path / "small.jpg").read_bytes()
    for tail, names in ((b"", []), (bytes(90), []), (bytes(2**17), []), (b"\0\0\0\x18ftypmp42", ["data after"])):
        (tmp_path / "small.jpg").write_bytes(content + tail)
        omitted = upscale(tmp_path / "small.jpg", tmp_path / "large.jpg")[1]
        assert [name[:10] for name in omitted] == names


def make_png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("position", [200, 900])
def test_a_maker_note_keeps_its_position(image, tmp_path, position):
    """Many maker notes contain positions in the EXIF data."""
    note = bytes(range(100, 180))
    exif = PlacedExif()
    exif[271], exif.note_position = "Maker", position
    exif.get_ifd(EXIF_IFD).update({MAKER_NOTE: note, 36867: "2020:01:01 00:00:00"})
    exif[EXIF_IFD] = exif.get_ifd(EXIF_IFD)
    image.save(tmp_path / "photo.jpg", exif=exif)
    previous = tmp_path / "photo.jpg"
    for suffix in ("png", "webp", "tif", "avif", "jpg"):
        result, omitted = upscale(previous, tmp_path / f"large.{suffix}", "3/2")
        assert omitted == []
        found = result.getexif().get_ifd(EXIF_IFD)
        assert (found[MAKER_NOTE], found[36867]) == (note, "2020:01:01 00:00:00")
        content = (tmp_path / f"large.{suffix}").read_bytes() if suffix == "tif" else result.info["exif"]
        assert content.removeprefix(b"Exif\0\0").index(note) == position
        previous = tmp_path / f"large.{suffix}"


def test_the_orientation_of_a_jpeg_xl_is_not_applied_again(image, tmp_path):
    """The decoder applies the orientation of the image; that of EXIF does not count."""
    pytest.importorskip("pillow_jxl")
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "photo.jxl", exif=exif.tobytes())
    result, _ = upscale(tmp_path / "photo.jxl", tmp_path / "large.jpg")
    assert (result.size, result.getexif()[274]) == ((96, 64), 1)
    with Image.open(tmp_path / "photo.jxl") as opened:
        assert read_pillow_image(opened).pixels.shape[:2] == (32, 48)


def test_a_description_of_the_original_size_is_left_out(image, tmp_path):
    for options in ({}, {"ome": True}, {"imagej": True}):
        tifffile.imwrite(tmp_path / "photo.tif", np.asarray(image), **options)
        result, omitted = upscale(tmp_path / "photo.tif", tmp_path / "large.tif")
        assert omitted == ["image description (with the original size)"]
        assert 270 not in result.tag_v2


def test_metadata_that_pillow_skips_is_kept_or_named(image, tmp_path):
    xmp, adobe = make_xmp("<dc:source>a</dc:source>"), make_profile(ADOBE_RGB, ADOBE_GAMMA)
    streams = {name: io.BytesIO() for name in ("JPEG", "PNG", "JPEG2000", "GIF", "WEBP")}
    image.save(streams["JPEG"], "JPEG", comment=b"two")
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "one")
    text.add_text("Title", "two")
    content = f"\nicc\n{len(adobe):8}\n{adobe.hex()}\n"
    text.add_text("Raw profile type icc", content)
    image.save(streams["PNG"], "PNG", pnginfo=text)
    for name in ("JPEG2000", "GIF", "WEBP"):
        image.save(streams[name], name)
    jpeg, png, jp2, gif, webp = (stream.getvalue() for stream in streams.values())
    segments = b"\xff\xfe\0\x05one" + b"\xff\xed\0\x1dPhotoshop 3.0\x008BIM\x04\x0a\0\0\0\0\0\x01\x01"
    header = jp2.index(b"jp2h") - 4
    colours = jp2.index(b"colr") - 4
    (size,) = struct.unpack_from(">I", jp2, header)
    profile = struct.pack(">I", 11 + len(adobe)) + b"colr\2\0\0" + adobe
    boxes = struct.pack(">I", 24 + len(xmp)) + b"uuid" + XMP_UUID + xmp + b"\0\0\0\x18uuidJpgTiffExif->JP2"
    jp2 = (
        jp2[:header] + struct.pack(">I", size - 15 + len(profile)) + jp2[header + 4 : colours] + profile
        + jp2[colours + 15 : header + size] + boxes + jp2[header + size :]
    )  # fmt: skip
    start = 13 + 3 * 2 ** (1 + (gif[10] & 7))
    blocks = b"".join(
        bytes([len(part)]) + part for part in (adobe[at : at + 255] for at in range(0, len(adobe), 255))
    )
    trailer = b"\1" + bytes(range(255, -1, -1)) + b"\0"
    extensions = b"\x21\xff\x0bXMP DataXMP" + xmp + trailer + b"\x21\xff\x0bICCRGBG1012" + blocks + b"\0"
    credentials = make_png_chunk(b"caBX", b"data")
    riff = webp[:4] + struct.pack("<I", len(webp) + 4) + webp[8:] + b"C2PA\4\0\0\0data"
    cases = {
        "jpg": (jpeg[:2] + segments + jpeg[2:], ["Photoshop resources"]),
        "png": (
            png[:33] + credentials + png[33:],
            ["content credentials", "earlier texts with a repeated keyword"],
        ),
        "jp2": (jp2, ["EXIF"]),
        "gif": (gif[:start] + extensions + gif[start:], []),
        "webp": (riff, ["content credentials"]),
    }
    for suffix, (content, names) in cases.items():
        (tmp_path / f"photo.{suffix}").write_bytes(content)
        result, omitted = upscale(tmp_path / f"photo.{suffix}", tmp_path / "large.jpg")
        assert omitted == names
        assert (result.info.get("icc_profile") == adobe) == (suffix in ("png", "jp2", "gif"))
        assert (result.info.get("xmp") == xmp) == (suffix in ("jp2", "gif"))
        assert (result.info.get("comment") == b"one\ntwo") == (suffix == "jpg")


def test_tags_that_are_too_long_are_omitted_and_named(image, tmp_path):
    """ImageJ stores its metadata in the tags 0xc696 (numbers) and 0xc697 (bytes)."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[315] = "Nobody"
    tags[50839], tags.tagtype[50839] = b"j" * 5_000_000, 1
    tags[50838], tags.tagtype[50838] = tuple(range(600_000)), 4
    tags[50840], tags.tagtype[50840] = b"k" * 1_000_000, 1
    image.save(tmp_path / "photo.tif", tiffinfo=tags)
    with open_readers(1) as (reader,):
        (page,) = reader.open(tmp_path / "photo.tif", 300_000_000).images
    assert page.metadata.omitted == ("EXIF tag 0xc697 (too long)", "EXIF tag 0xc696 (too long)")
    assert page.metadata.exif[315] == "Nobody"
    assert len(page.metadata.exif[50840]) == 1_000_000


@pytest.mark.parametrize("suffix", ["avif", "heic"])
@pytest.mark.parametrize(
    ("kind", "names"),
    [("alpha", []), ("depth", ["depth map"]), ("hdrgainmap", ["gain map"]), ("matte", ["auxiliary image"]),
     ("pages", ["further images"]), ("tmap", ["gain map"]), ("uuid", ["content credentials"]),
     ("mpvd", ["embedded video"])],
)  # fmt: skip
def test_other_images_of_an_avif_or_heic_are_named(tmp_path, suffix, kind, names):
    if suffix == "heic":
        pytest.importorskip("pi_heif")
    pages = pyvips.Image.black(16, 32, bands=3).copy(interpretation="srgb")
    pages.set_type(pyvips.GValue.gint_type, "page-height", 16)
    content = pages.heifsave_buffer(compression="av1")
    if kind == "tmap":  # the type of the second image
        items, mark, rest = content.partition(b"iprp")
        first, _, second = items.rpartition(b"av01")
        content = first + b"tmap" + second + mark + rest
    if kind not in ("pages", "tmap"):
        stream = io.BytesIO()
        Image.new("RGBA", (16, 16), (90, 60, 30, 100)).save(stream, "AVIF")
        urn = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"
        other = {"depth": urn.replace(b"alpha", b"depth"), "matte": b"urn:com:apple:photo:2018:aux:skinmatte",
                 "hdrgainmap": b"urn:com:apple:photo:2020:aux:hdrgainmap"}.get(kind, urn)  # fmt: skip
        content = stream.getvalue().replace(urn, other.ljust(len(urn), b"\0"))
    if kind == "uuid":
        content += struct.pack(">I", 28) + b"uuid" + C2PA_UUID + b"data"
    elif kind == "mpvd":
        content += struct.pack(">I", 12) + b"mpvd" + b"data"
    file = tmp_path / f"photo.{suffix}"
    file.write_bytes(content.replace(b"ftypavif", b"ftyp" + suffix.encode(), 1))
    with open_image(file) as opened:  # pi_heif does not decode AV1
        read_skipped_metadata(opened, file)
        assert list_attachments(opened) == names
    if suffix == "avif":
        assert [page.metadata.omitted for page in read_photo(file).images] == [tuple(names)]


def test_exif_that_declares_adobe_rgb_becomes_a_profile(image, tmp_path):
    exif = Image.Exif()
    nested = exif.get_ifd(0x8769)
    nested[0xA001], nested[0xA005] = 65535, {1: "R03", 0x1001: 48, 0x1002: 32}
    exif[0x8769] = nested
    image.save(tmp_path / "small.jpg", exif=exif, quality=100, subsampling=0)
    expected = np.asarray(image.resize((96, 64), Image.Resampling.BICUBIC)).astype(float)
    for suffix in ("jpg", "png"):
        large, omitted = upscale(tmp_path / "small.jpg", tmp_path / f"large.{suffix}")
        profile = ImageCms.getOpenProfile(io.BytesIO(large.info["icc_profile"]))
        assert profile.profile.green_primary[1][:2] == pytest.approx((0.2149, 0.7098), abs=0.02)  # adapted to D50
        assert np.abs(np.asarray(large) - expected).mean() < 2
        related = large.getexif().get_ifd(0xA005)
        assert (related[1], related[0x1001], related[0x1002]) == ("R03", 96, 64)
        assert omitted == []
    assert np.abs(np.asarray(upscale(tmp_path / "small.jpg", tmp_path / "large.bmp")[0]) - expected).mean() > 3


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("exiftool"), reason="exiftool is not installed")
@pytest.mark.parametrize("source", ["jpg", "png", "webp", "tif", "avif"])
def test_exiftool_reports_no_new_warning(image, tmp_path, source):
    exif = Image.Exif()
    nested, position = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    exif[0x0112], exif[271], exif[34665] = 6, "Tést", nested
    nested[0x9214], nested[0xA20E], nested[0x9286] = (36, 8, 12, 4), 3000.0, b"ASCII\0\0\0 a hill"
    nested[0xA005] = {1: "R98"}
    position[1], position[2] = "N", (48.0, 8.0, 30.5)
    exif[0x8825] = position
    xmp = make_xmp(
        '<mwg-rs:Area stArea:x="0.75" stArea:y="0.25" stArea:w="0.25" stArea:h="0.125"/>',
        'hdrgm:Version="1.0" xmp:Rating="3" GPano:FullPanoWidthPixels="96"',
    )
    small = tmp_path / f"small.{source}"
    if source == "tif":
        image.save(small, tiffinfo={700: xmp, 33723: IPTC, 271: "Test"})
    elif source == "png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        info.add_itxt("parameters", "a hill")
        image.save(small, exif=exif, pnginfo=info, icc_profile=make_srgb_profile())
    else:
        image.save(small, exif=exif, xmp=xmp, icc_profile=make_srgb_profile())
    before = list_warnings(small)
    for suffix in ("jpg", "png", "webp", "tif", "avif", "gif", "bmp"):
        upscale(small, tmp_path / f"large.{suffix}")
        assert list_warnings(tmp_path / f"large.{suffix}") <= before, suffix


def list_warnings(file: Path) -> set[str]:
    command = ["exiftool", "-warning", "-error", "-a", "-s3", file]
    return {*subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()}
