"""Every format, colour space and depth to every other format: colours and metadata of the results.

Colours of the results are read with libvips and ImageCms, which do not use Loupe's decoders and encoders.
"""

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from loupe.imaging.avif import set_cicp
from loupe.imaging.declarations import PRIMARY_CHROMATICITIES, TRANSFER_FUNCTION
from loupe.imaging.image_data import ImageStream
from loupe.imaging.metadata import Metadata, make_iptc_resource
from loupe.imaging.profiles import ADOBE_GAMMA, ADOBE_RGB, make_profile
from loupe.imaging.reader import read_photo
from loupe.imaging.writer import EncodeOptions, write_photo

SUFFIXES = ("jpg", "png", "webp", "tif", "avif", "gif", "bmp")
PATCH = 16  # pixels: a flat patch shows the colours of a lossy format without its artefacts
COLOURS = np.array(
    [(0, 0, 0), (255, 255, 255), (10, 10, 10), (40, 30, 20), (100, 130, 105), (150, 110, 110), (100, 100, 150),
     (190, 175, 150), (120, 120, 120), (210, 170, 180), (140, 165, 170), (180, 180, 240)], "uint8"
)  # fmt: skip
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="a hill"/></rdf:RDF></x:xmpmeta>'
)
IPTC = b"\x1c\x02\x50\x00\x06Nobody"
LINEAR = {b"gAMA": (100_000).to_bytes(4, "big")}
P3_CODES = {b"cICP": b"\x0c\x0d\x00\x01"}


def make_grey_profile(gamma: float) -> bytes:
    """A GRAY profile of version 2 with the tags that the specification requires."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(79)
    tags = {
        b"wtpt": white,
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(gamma * 256)),
        b"desc": text,
        b"cprt": b"text\0\0\0\0none",
    }
    start = 132 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, start + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    head = struct.pack(">I4xI12s12x4s28x3i48x", start + len(data), 0x02400000, b"mntrGRAYXYZ ", b"acsp", *white_xyz())
    return head + table + data


def white_xyz() -> tuple[int, int, int]:
    return 63190, 65536, 54061


P3 = bytes(pyvips.Operation.call("profile_load", "p3"))
PROFILES = {
    "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "Display P3": P3,
    "AdobeRGB": make_profile(ADOBE_RGB, ADOBE_GAMMA),
    "grey profile": make_grey_profile(1.8),
}
CHUNKS = {"gAMA": LINEAR, "cICP": P3_CODES}
# The colour spaces and depths that files of a format can have.
SOURCES = [
    *(("jpg", space, 8) for space in PROFILES),
    *(("png", space, bits) for space in (*PROFILES, *CHUNKS) for bits in (8, 16)),
    *(("webp", space, 8) for space in ("sRGB", "Display P3", "AdobeRGB")),
    *(("tif", space, bits) for space in PROFILES for bits in (8, 16)),
    *(("avif", space, 8) for space in ("sRGB", "Display P3", "AdobeRGB", "cICP")),
    ("gif", "sRGB", 8),
    ("bmp", "sRGB", 8),
]


def make_source(file: Path, space: str, bits: int) -> None:
    """Write patches with metadata, without Loupe's encoders."""
    grey = space == "grey profile"
    patches = COLOURS.reshape(3, 4, 3).repeat(PATCH, 0).repeat(PATCH, 1)
    patches = patches[..., 1] if grey else patches
    icc, suffix = PROFILES.get(space), file.suffix
    exif = Image.Exif()
    exif[315] = "Nobody"
    options = {"icc_profile": icc, "exif": exif, "xmp": XMP}
    if bits == 16:
        interpretation = "grey16" if grey else "rgb16"
        image = pyvips.Image.new_from_array(patches.astype("uint16") * 257, interpretation=interpretation).copy()
        if icc:
            image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
        image.write_to_file(str(file))
    elif suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", "a hill")
        Image.fromarray(patches).save(file, icc_profile=icc, exif=exif, pnginfo=info)
    elif suffix == ".jpg":
        resource = b"Photoshop 3.0\0" + make_iptc_resource(IPTC)
        extra = b"\xff\xed" + struct.pack(">H", len(resource) + 2) + resource
        Image.fromarray(patches).save(file, quality=100, subsampling=0, extra=extra, **options)
    elif suffix == ".tif":
        tags = {700: XMP, 315: "Nobody", 33723: IPTC}
        Image.fromarray(patches).save(file, icc_profile=icc, tiffinfo=tags)
    elif suffix == ".webp":
        Image.fromarray(patches).save(file, lossless=True, **options)
    elif suffix == ".avif":
        Image.fromarray(patches).save(file, quality=100, subsampling="4:4:4", **options)
    else:
        Image.fromarray(patches).save(file)
    if space in CHUNKS and suffix == ".png":
        add_chunks(file, CHUNKS[space])
    elif space in CHUNKS:
        file.write_bytes(set_cicp(file.read_bytes(), P3_CODES[b"cICP"]))


def add_chunks(file: Path, chunks: dict[bytes, bytes]) -> None:
    encoded = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )
    content = file.read_bytes()
    file.write_bytes(content[:33] + encoded + content[33:])


def read_colours(file: Path) -> np.ndarray:
    """Return the patches of a file in sRGB, (12, 3), by the colour space that the file declares."""
    image = Image.open(file)
    content = file.read_bytes()
    icc = image.info.get("icc_profile")
    linear = image.info.get("gamma") == 1
    if b"cICP\x0c\x0d\x00\x01" in content or b"colrnclx\x00\x0c\x00\x0d" in content:
        icc = P3
    deep = image.mode.startswith("I;16") or image.format == "AVIF"  # Pillow reduces 10 bits to 8
    if deep or (image.format == "TIFF" and 16 in image.tag_v2[258]) or linear:
        pixels = pyvips.Image.new_from_file(str(file), revalidate=True).numpy().astype(float)
        white = 65535 if pixels.max() > 255 else 255
        pixels = np.rint(encode_srgb(pixels / white) * 255) if linear else pixels / white * 255
        image = Image.fromarray(np.rint(pixels).astype("uint8"))
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    if icc:
        profile = ImageCms.getOpenProfile(io.BytesIO(icc))
        srgb = ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, profile, srgb, renderingIntent=1, outputMode="RGB")
    centres = np.asarray(image.convert("RGB")).astype(float)
    blocks = centres.reshape(3, PATCH, 4, PATCH, 3)[:, 6:10, :, 6:10]
    return blocks.mean((1, 3)).reshape(12, 3)


def encode_srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def convert(file: Path, out: Path) -> list[str]:
    """Write a file in another format, with the pixels unchanged; return the names of omitted metadata."""
    photo = read_photo(file)
    (image,) = photo.images
    height, width, bands = image.pixels.shape
    stream = ImageStream((width, height), bands, image.pixels.dtype, iter([image.pixels]), image.metadata)
    return write_photo(out, [stream], options=EncodeOptions(quality=100))


def list_metadata(file: Path) -> set[str]:
    """Return which of the metadata of `make_source` a file contains."""
    image = Image.open(file)
    image.load()
    found = {"EXIF"} if image.getexif().get(315) == "Nobody" else set()
    if b"a hill" in (image.info.get("xmp") or image.info.get("XML:com.adobe.xmp", "").encode()):
        found.add("XMP")
    if IPTC in file.read_bytes() or IPTC.hex() in image.info.get("Raw profile type iptc", "").replace("\n", ""):
        found.add("IPTC")
    comment = image.getexif().get_ifd(0x8769).get(0x9286, b"")
    if "parameters" in image.info or b"a hill" in comment:
        found.add("texts")
    return found


@pytest.mark.parametrize("space", [*PROFILES, *CHUNKS])
def test_a_png_keeps_colours_and_metadata_in_every_format(tmp_path, space):
    assert find_faults(tmp_path, [("png", space, 8)]) == []


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_format_keeps_colours_and_metadata_in_every_other_format(tmp_path, suffix):
    assert find_faults(tmp_path, [source for source in SOURCES if source[0] == suffix]) == []


def find_faults(folder: Path, sources: list[tuple[str, str, int]]) -> list[str]:
    faults = []
    for source, space, bits in sources:
        file = folder / f"small.{source}"
        make_source(file, space, bits)
        expected, metadata = read_colours(file), list_metadata(file)
        for target in SUFFIXES:
            out = folder / f"large.{target}"
            omitted = convert(file, out)
            error = np.abs(read_colours(out) - expected).max()
            # The conversion to sRGB amplifies the rounding of YUV, which happens twice from a lossy file to AVIF.
            limit = 12 if target == "gif" else 4 if source in ("jpg", "avif") and target == "avif" else 2
            if error > limit:
                faults.append(f"{space}, {bits} bits, to {target}: {error:.1f} levels")
            lost = {
                name for name in metadata - list_metadata(out) if not any(part.startswith(name) for part in omitted)
            }
            if lost:
                faults.append(f"{space}, {bits} bits, to {target}: {lost} neither kept nor named")
    return faults


@pytest.mark.parametrize("codes", [b"\x01\x0d", b"\x0c\x0d", b"\x09\x10"], ids=["sRGB", "P3", "PQ"])
@pytest.mark.parametrize("bands", [3, 4])
def test_10_bits_of_an_avif_stay_10_bits(tmp_path, codes, bands):
    ramp = np.linspace(0, 65535, 64).astype("uint16")
    pixels = np.stack([np.tile(ramp, (48, 1))] * bands, axis=-1)
    pixels[..., 1] //= 2
    chunks = {} if codes == b"\x01\x0d" else {b"cICP": codes + b"\0\x01"}
    exif = Image.Exif()
    exif[315] = "Nobody"
    stream = ImageStream((64, 48), bands, pixels.dtype, iter([pixels]), Metadata(exif, colour_chunks=chunks))
    write_photo(tmp_path / "small.avif", [stream], options=EncodeOptions(quality=100))
    for suffix in ("avif", "png", "jpg") if bands == 3 else ("avif", "png"):
        out = tmp_path / f"large.{suffix}"
        omitted = convert(tmp_path / "small.avif", out)
        assert Image.open(out).getexif()[315] == "Nobody"
        if suffix == "jpg":
            assert omitted == (["brightness above white (HDR)"] if codes == b"\x09\x10" else [])
            continue
        (image,) = read_photo(out).images
        assert image.pixels.dtype == np.uint16
        assert np.abs(image.pixels.astype(float) - pixels).mean() < 64  # 1 of 1,023 levels
        assert image.metadata.colour_chunks == chunks
        assert omitted == []


def test_12_bits_of_an_avif_stay_12_bits(tmp_path):
    samples = np.arange(4096, dtype="uint16").reshape(64, 64)
    image = pyvips.Image.new_from_memory((samples << 4).tobytes(), 64, 64, 1, "ushort")
    image.copy(interpretation="grey16").heifsave(
        str(tmp_path / "small.avif"), bitdepth=12, compression="av1", lossless=True
    )
    (read,) = read_photo(tmp_path / "small.avif").images
    # The highest bits of a sample are repeated in the 4 bits that the file does not have.
    np.testing.assert_array_equal(read.pixels.reshape(64, 64, -1)[..., 0], samples << 4 | samples >> 8)


@pytest.mark.parametrize(
    ("chunks", "named"),
    [
        ({b"cHRM": struct.pack(">8I", *(31_270, 32_900) * 4)}, ["colour space cHRM (damaged)"]),
        ({b"cHRM": bytes(16)}, []),
        ({b"gAMA": bytes(4)}, []),
        ({b"cICP": b"\xc8\xc8\0\1"}, ["colour space cICP 200/200"]),
        ({b"cICP": b"\x09\x10\0\1", b"mDCV": bytes(24), b"cLLI": bytes(8)}, ["HDR mastering data"]),
    ],
)
def test_odd_declarations_of_colours_do_not_fail_and_are_named(tmp_path, chunks, named):
    Image.fromarray(COLOURS[None]).save(tmp_path / "small.png")
    add_chunks(tmp_path / "small.png", chunks)
    omitted = convert(tmp_path / "small.png", tmp_path / "large.jpg")
    assert [name for name in omitted if "HDR)" not in name] == named
    convert(tmp_path / "small.png", tmp_path / "large.avif")
    if b"cLLI" in chunks:
        assert next(read_photo(tmp_path / "large.avif").images).metadata.colour_chunks[b"cICP"] == chunks[b"cICP"]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("other", ["cHRM", "gAMA", "sRGB", "iCCP"])
def test_an_hdr_png_with_other_declarations_becomes_an_hdr_avif(tmp_path, other, bits):
    pixels = np.tile(COLOURS, (2, 1, 1)).astype(f"uint{bits}") * (257 if bits == 16 else 1)
    hdr = b"\x09\x10\0\1"  # BT.2020 and PQ
    others = {b"cHRM": struct.pack(">8I", *(31_270, 32_900) * 4), b"sRGB": b"\0", **LINEAR}
    chunks = {b"cICP": hdr} | {name: content for name, content in others.items() if name.decode() == other}
    metadata = Metadata(icc=P3 if other == "iCCP" else b"", colour_chunks=chunks)
    write_photo(tmp_path / "large.avif", [ImageStream((12, 2), 3, pixels.dtype, iter([pixels]), metadata)])
    found = next(read_photo(tmp_path / "large.avif").images).metadata
    assert (found.icc, found.colour_chunks) == (b"", {b"cICP": hdr})


def test_the_colorimetry_of_a_bmp_is_kept(tmp_path):
    """In a BITMAPV4HEADER: the XYZ of the primaries of Display P3, and a linear curve."""
    primaries = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
    endpoints = [round(value * 2**29) for x, y in primaries for value in (x, y, 1 - x - y)]
    pixels = bytes(range(24))
    head = struct.pack("<IiiHHIIiiII20x9i3I", 108, 2, 3, 1, 24, 0, 24, 0, 0, 0, 0, *endpoints, *(2**16,) * 3)
    (tmp_path / "small.bmp").write_bytes(b"BM" + struct.pack("<III", 146, 0, 122) + head + pixels)
    assert convert(tmp_path / "small.bmp", tmp_path / "large.png") == []
    large = Image.open(tmp_path / "large.png")
    assert large.info["gamma"] == 1
    assert np.allclose(large.info["chromaticity"], (0.3127, 0.329, *np.ravel(primaries)), atol=1e-4)


@pytest.mark.parametrize("level", [65535, 0])
def test_the_primaries_of_a_tiff_are_kept_if_its_curve_is_damaged(tmp_path, level):
    primaries = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[PRIMARY_CHROMATICITIES], tags[TRANSFER_FUNCTION] = primaries, (level,) * 256
    Image.fromarray(COLOURS[None]).save(tmp_path / "small.tif", tiffinfo=tags)
    assert convert(tmp_path / "small.tif", tmp_path / "large.png") == []
    large = Image.open(tmp_path / "large.png")
    assert np.allclose(large.info["chromaticity"], (0.3127, 0.329, *primaries), atol=1e-4)


# A ramp of 256x16 pixels with 10 bits per sample.
HEIC = (
    "c-"
    "muNV30{GsVvAy&8%Pmg51nBLl8SRGck>Ufw4L_wIq=N0u(b+a*CjAhJwuG5(YG&l$n#C3}U!AFfalk5HQY%&_EU^kWkLd%u9oCfmjsCNo9iaGR"
    "l$-K}^1a%#vKVlHZvHMFl|mc4k3xK9DW}DsyIJ;Q%t{?f@y0`@rz$@2_7B4E)RqKpo-^j6970|AQ1TgH<pCmF!}2NCe7hIx#Y$N-"
    "W^u5b&M$YTc}74-^+1XkcLAX#h#IBmq^kxiB6qKG+GgLO3};rzkHurvfO-%fJRy!XT1aT#(8DcO`=Z5NjmoBo;vVAVL5p2?R|4|Np-LqCw&XnH"
    "8BJL1r#4E+8e5S&$10VqmDTHZn1@wg8!exhaXjAZBFMU|i3(iDQ$ZaKj``yDW=U4*%HrxRuVx|FF{8Ccbz7ap#YInLqb`@~F$tI3mdTO>WzqKV"
    "SBk1>ci@XmNe>@+U6}%1Wl~RXBF(^OFe1n4hUnQrA!X&u6;x%S?5%=^y^zXJ2q+mHma3>hqWHl<=(oHs{66z#aQDX80^)dGX0pBk{c*UvPiXRo"
    "|;Gey1}@D{1!C&2WoLU#Pj<;6B5L__$ST{aBK=oLI|ld*@Izw{KI|$rIJ`ZD->Td~?mPeD`m|f{(djiWBF|xEE;i=J%~jmrLbe-"
    "BXI}IoSEeT9P}?fq`XD+LTCpzM$tWtM_P`MuFpHZ-f8N+PTM8ZIypu0FDp_o)Z8J&&t6"
)


def test_10_bits_of_a_heic_stay_10_bits(tmp_path):
    pytest.importorskip("pi_heif")
    (tmp_path / "small.heic").write_bytes(zlib.decompress(base64.b85decode(HEIC)))
    assert convert(tmp_path / "small.heic", tmp_path / "large.png") == []
    (image,) = read_photo(tmp_path / "large.png").images
    assert image.pixels.dtype == np.uint16
    assert (image.pixels % 257).any()  # the values are not 8-bit values
