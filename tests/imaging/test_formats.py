"""Reading, upscaling and writing all formats, modes, depths and metadata."""

import contextlib
import io
import itertools
import re
import resource
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin, TiffImagePlugin
from whole_images import open_photo

from loupe.imaging import tiff, writer
from loupe.imaging.decoder import PhotoError
from loupe.imaging.exif import RawText, load_exif
from loupe.imaging.formats import validate_output
from loupe.imaging.image_data import ImageStream
from loupe.imaging.metadata import Metadata
from loupe.imaging.page_sizes import list_page_sizes
from loupe.imaging.profiles import ADOBE_GAMMA, ADOBE_RGB, make_profile
from loupe.imaging.reader import read_photo, read_pillow_image
from loupe.imaging.writer import EncodeOptions, write_photo
from loupe.photos.inputs import PhotoJob, find_photos
from loupe.photos.outcomes import Outcome
from loupe.photos.processing import ProcessingOptions, process_jobs
from loupe.photos.sizes import Target
from loupe.photos.upscaling import UpscaleTransform, upscale_image
from loupe.tracking.resolver import resolve_model

SIZE = (45, 31)
LARGE = (68, 47)  # at 3:2
UNSUITABLE_PROFILE = "colour profile (damaged or unsuitable)"  # in `Metadata.omitted`
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
    b'tiff:Orientation="1" exif:PixelXDimension="45" exif:PixelYDimension="31"/></rdf:RDF></x:xmpmeta>'
)
NETWORKS = resolve_model("tiny")
FORMATS = {
    "png": ["1", "L", "LA", "P", "P+alpha", "RGB", "RGBA", "I;16"],
    "jpg": ["L", "RGB", "CMYK"],
    "webp": ["RGB", "RGBA"],
    "tif": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16"],
    "bmp": ["1", "L", "P", "RGB"],
    "avif": ["RGB", "RGBA"],
    "gif": ["L", "P", "P+alpha"],
}
BECOMES = {"1": "L", "P": "RGB", "P+alpha": "RGBA", "CMYK": "RGB", "LAB": "RGB"}
LOSSLESS = {"png", "tif", "bmp"}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A real photo with transparent, soft and opaque parts."""
    import skimage

    image = Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png").convert("RGB").resize(SIZE)
    alpha = np.zeros(SIZE[::-1], "uint8")
    alpha[:, 15:30] = np.linspace(0, 255, 15).astype("uint8")
    alpha[:, 30:] = 255
    image.putalpha(Image.fromarray(alpha))
    return image


def of_mode(photo: Image.Image, mode: str) -> Image.Image:
    rgb = photo.convert("RGB")
    if mode == "P+alpha":
        colours = rgb.quantize(255)
        pixels = np.where(np.asarray(photo)[..., 3] < 128, 255, np.asarray(colours)).astype("uint8")
        image = Image.fromarray(pixels)
        image.putpalette([*colours.getpalette()[: 255 * 3], 0, 0, 0])
        image.info["transparency"] = 255
        return image
    if mode == "P":
        return rgb.quantize(256)
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgb.convert("L")).astype("uint16") * 257 + 3)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(rgb, srgb, lab, outputMode="LAB")
    return photo.convert(mode)


def upscaled(file: Path, out: Path, scale: str = "3/2", strip: bool = False) -> Image.Image:
    found = read_photo(file, strip)
    large = map(UpscaleTransform(Target(Fraction(scale)), NETWORKS), found.images)
    write_photo(out, large, found.count, found.loop)
    assert sorted(out.parent.glob(".*")) == []
    image = Image.open(out)
    image.load()
    return image


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in FORMATS.items() for mode in modes])
def test_all_formats_keep_mode_and_colours(photo, tmp_path, suffix, mode):
    image = of_mode(photo, mode)
    file, out = tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}"
    image.save(file, lossless=True) if suffix == "webp" else image.save(file)
    large = upscaled(file, out)
    assert large.size == LARGE
    expected_mode = BECOMES.get(mode, mode)
    if suffix == "gif":
        large = large.convert("RGBA")  # every result has a transparent colour, which opaque results do not use
        if "A" not in expected_mode:
            assert large.getchannel("A").getextrema() == (255, 255)
            large = large.convert("RGB")
        expected_mode = large.mode
    assert large.mode == expected_mode
    page = next(read_photo(file).images)
    seen = Image.open(file)
    seen = seen if mode == "I;16" else seen.convert("RGBA" if "A" in large.mode else "RGB")
    if mode == "LAB":
        seen = of_mode(photo, "RGB")
    if mode == "I;16":
        assert np.asarray(large).max() > 255
        expected = Image.fromarray(np.asarray(seen).astype("float32")).resize(LARGE, Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(large).astype(float) - np.asarray(expected)).mean() < 8 * 257
        return
    lanczos = np.asarray(seen.resize(LARGE, Image.Resampling.LANCZOS).convert("RGBA")).astype(int)
    got = np.asarray(large.convert("RGBA")).astype(int)
    shown = (lanczos[..., 3:] > 200) & (got[..., 3:] > 200)
    assert (np.abs(got - lanczos)[..., :3] * shown).sum() / shown.sum() / 3 < (60 if mode == "1" else 9)
    if large.mode in ("LA", "RGBA"):
        alpha = np.asarray(large.getchannel("A"))
        assert page.pixels.shape[2] in (2, 4)
        assert (alpha[:, :16] == 0).all()
        assert (alpha[:, 52:] == 255).all()


@pytest.mark.parametrize(("suffix", "bands"), [*itertools.product(["png", "tif"], [1, 3, 4]), ("png", 2)])
@pytest.mark.parametrize("keep", ["all", "none"])
def test_16_bits_stay_16_bits(photo, tmp_path, suffix, bands, keep):
    rng = np.random.default_rng(0)
    smooth = np.linspace(10_000, 12_000, SIZE[0])[None, :, None] + np.linspace(0, 900, SIZE[1])[:, None, None]
    pixels = (smooth + rng.uniform(0, 30, (*SIZE[::-1], bands))).astype("uint16")
    if bands in (2, 4):
        pixels[..., -1] = 65535
    image = pyvips.Image.new_from_array(pixels, interpretation="grey16" if bands < 3 else "rgb16")
    file, out = tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}"
    image.write_to_file(str(file), keep=keep)  # libvips adds EXIF by default
    upscaled(file, out)
    large = pyvips.Image.new_from_file(str(out), revalidate=True).numpy().reshape(*LARGE[::-1], bands)
    assert large.dtype == np.uint16
    assert len(np.unique(large[..., 0])) > 1000  # 8 bits would leave 12
    expected = np.asarray(Image.fromarray(pixels[..., 0].astype("float32")).resize(LARGE, Image.Resampling.LANCZOS))
    assert np.abs(large[..., 0] - expected)[3:-3, 3:-3].max() < 150
    if bands in (2, 4):
        assert (large[..., -1] == 65535).all()


def test_16_bits_become_8_in_formats_without_16_bits(photo, tmp_path):
    of_mode(photo, "I;16").save(tmp_path / "small.png")
    assert upscaled(tmp_path / "small.png", tmp_path / "large.jpg").mode == "L"


def exif(orientation: int = 1) -> Image.Exif:
    tags = Image.Exif()
    tags[0x010E], tags[0x8298], tags[0x0112] = "A image", "Somebody", orientation
    inner = tags.get_ifd(0x8769)
    inner[0x9003], inner[0xA002], inner[0xA003], inner[0x927C] = "2026:01:02 03:04:05", 45, 31, b"a maker's note"
    place = tags.get_ifd(0x8825)
    place[1], place[2] = "N", (52.0, 31.0, 12.5)
    return tags


@pytest.mark.parametrize(
    ("suffix", "out_suffix"),
    [("jpg", "jpg"), ("png", "png"), ("webp", "webp"), ("tif", "tif"), ("avif", "avif"), ("jpg", "png"),
     ("png", "jpg"), ("tif", "jpg"), ("jpg", "tif"), ("webp", "png")],
)  # fmt: skip
@pytest.mark.parametrize("large", [False, True], ids=["whole", "streamed"])
def test_metadata_are_kept_with_the_new_size(photo, tmp_path, monkeypatch, suffix, out_suffix, large):
    if large:
        if out_suffix in ("webp", "avif"):
            pytest.skip("never streamed")
        monkeypatch.setattr(writer, "MAX_PIXELS_IN_MEMORY", 0)
    file, out = tmp_path / f"small.{suffix}", tmp_path / f"large.{out_suffix}"
    options = {"exif": exif(), "icc_profile": SRGB, "dpi": (300, 300), "xmp": XMP}
    if suffix == "png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", XMP.decode())
        chunks.add_text("Author", "Somebody")
        options["pnginfo"] = chunks
    if suffix == "tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x010E], tags[0x8298], tags[700] = "A image", "Somebody", XMP
        tags.tagtype[700] = 1
        tags[0x8769] = dict(exif().get_ifd(0x8769))
        tags[0x8825] = dict(exif().get_ifd(0x8825))
        options = {"icc_profile": SRGB, "dpi": (300, 300), "tiffinfo": tags}
    photo.convert("RGB").save(file, **options)
    result = upscaled(file, out)
    assert result.info["icc_profile"] == SRGB
    tags = result.getexif()
    assert tags[0x010E] == "A image"
    assert tags[0x8298] == "Somebody"
    inner = tags.get_ifd(0x8769)
    assert inner[0x9003] == "2026:01:02 03:04:05"
    assert (inner[0xA002], inner[0xA003]) == LARGE
    assert inner[0x927C] == b"a maker's note"
    assert tags.get_ifd(0x8825)[1] == "N"
    assert [float(part) for part in tags.get_ifd(0x8825)[2]] == [52.0, 31.0, 12.5]
    xmp = result.info.get("xmp") or result.info.get("XML:com.adobe.xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    assert b'PixelXDimension="68" exif:PixelYDimension="47"' in xmp
    if out_suffix in ("jpg", "png", "tif") and suffix in ("jpg", "png", "tif"):
        assert tuple(round(float(side)) for side in result.info["dpi"]) == (300, 300)
    if suffix == out_suffix == "png":
        assert result.text["Author"] == "Somebody"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_results_are_upright_for_all_orientations(photo, tmp_path, suffix, orientation):
    upright = Image.new("RGB", (40, 24), "black")
    upright.paste("white", (0, 0, 20, 12))  # the upper left quarter
    turn = {
        2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE",
        8: "ROTATE_270",
    }.get(orientation)  # fmt: skip
    stored = upright.transpose(Image.Transpose[turn]) if turn else upright
    file, out = tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}"
    xmp = XMP.replace(b'Orientation="1"', b'Orientation="%d"' % orientation)
    tags, chunks = exif(orientation), PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", xmp.decode())
    if suffix == "tif":
        tags[700] = xmp
    stored.save(file, exif=tags, xmp=xmp, pnginfo=chunks)
    large = upscaled(file, out)
    assert large.size == (60, 36)
    assert large.getexif().get(0x0112, 1) == 1
    packet = large.info.get("xmp") or large.info["XML:com.adobe.xmp"].encode()
    assert b"exif:PixelXDimension" in packet
    assert set(re.findall(rb'tiff:Orientation="(.)"', packet)) <= {b"1"}
    grey = np.asarray(large.convert("L")).astype(int)
    assert grey[:15, :26].min() > 200
    assert max(grey[21:].max(), grey[:, 34:].max()) < 60


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_animations_keep_frames_and_durations(photo, tmp_path, suffix):
    frames = [photo.convert("RGB").rotate(30 * number) for number in range(4)]
    file, out = tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}"
    durations = [100, 200, 300, 400]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=durations, loop=3)
    large = upscaled(file, out)
    assert large.n_frames == 4
    assert large.size == LARGE
    assert suffix == "avif" or large.info["loop"] == 3  # AVIF does not store it
    found = []
    for number in range(4):
        large.seek(number)
        large.load()
        found.append(large.info["duration"])
        expected = np.asarray(frames[number].resize(LARGE, Image.Resampling.LANCZOS)).astype(int)
        assert np.abs(np.asarray(large.convert("RGB")).astype(int) - expected).mean() < 12
    assert found == durations


def save_frames(file: Path, **options: int) -> None:
    frames = [Image.new("L", (6, 4), grey) for grey in (0, 90, 180)]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=50, **options)


def read_loop(file: Path) -> int | None:
    """Return the number in a GIF's NETSCAPE block (None without this block), a WebP's ANIM or a PNG's acTL chunk."""
    content = file.read_bytes()
    mark, skipped, form = {
        ".gif": (b"NETSCAPE2.0\3\1", 0, "<H"), ".webp": (b"ANIM", 8, "<H"), ".png": (b"acTL", 4, ">I")
    }[file.suffix]  # fmt: skip
    start = content.find(mark)
    assert start > 0 or file.suffix == ".gif"
    return struct.unpack_from(form, content, start + len(mark) + skipped)[0] if start > 0 else None


@pytest.mark.parametrize("result", ["gif", "webp", "png"])
@pytest.mark.parametrize(
    ("source", "runs"),
    [(source, runs) for source in ("gif", "webp", "png") for runs in (0, 1, 2, 3, 65_535)]
    + [("gif", 65_536), ("png", 65_536)],
)
def test_an_animation_runs_as_often_as_before(tmp_path, source, result, runs):
    """A GIF stores the number of repetitions, one less than the number of runs, and no number for a single run.

    A WebP stores at most 65535 runs.
    """
    file, out = tmp_path / f"source.{source}", tmp_path / f"result.{result}"
    repetitions = {0: 0, 1: None}.get(runs, runs - 1)
    save_frames(file, **{} if source == "gif" and runs == 1 else {"loop": repetitions if source == "gif" else runs})
    photo = read_photo(file)
    streams = (ImageStream((6, 4), image.pixels.shape[2], image.pixels.dtype, iter([image.pixels]), image.metadata)
               for image in photo.images)  # fmt: skip
    write_photo(out, streams, photo.count, photo.loop)
    expected = repetitions if result == "gif" else min(runs, 65_535 if result == "webp" else runs)
    assert photo.loop == runs
    assert read_loop(out) == expected
    with Image.open(out) as written:
        assert (written.n_frames, written.info.get("loop")) == (3, expected)


def test_a_transparent_animation_stays_transparent(tmp_path):
    frames = []
    for at in (5, 15, 25):
        frame = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
        frame.paste((220, 30, 30, 255), (at, 5, at + 10, 15))
        frames.append(frame)
    frames[0].save(tmp_path / "small.gif", save_all=True, append_images=frames[1:], duration=80, disposal=2, loop=0)
    large = upscaled(tmp_path / "small.gif", tmp_path / "large.gif", "2")
    for number, at in enumerate((5, 15, 25)):
        large.seek(number)
        pixels = np.asarray(large.convert("RGBA")).astype(int)
        assert (pixels[:4, :, 3] == 0).all()
        assert (pixels[14:26, 2 * at + 4 : 2 * at + 16, 3] == 255).all()
        assert np.abs(pixels[14:26, 2 * at + 4 : 2 * at + 16, :3] - (220, 30, 30)).max() < 12
        assert pixels[14:26, : 2 * at - 4, 3].max(initial=0) == 0


def draw_sprite(at: int) -> Image.Image:
    """A disc with a soft edge at a position, and a disc that does not move."""
    image = Image.new("RGBA", (60, 40), (40, 160, 90, 0))
    for left, top, colour in ((at, 4, (220, 90, 30, 255)), (38, 18, (40, 70, 200, 255))):
        disc = Image.new("RGBA", (120, 120), (*colour[:3], 0))
        ImageDraw.Draw(disc).ellipse((0, 0, 119, 119), fill=colour)
        image.alpha_composite(disc.resize((14, 14), Image.Resampling.LANCZOS), (left, top))
    return image


def test_a_gif_has_no_rings_around_transparent_edges(tmp_path):
    """Alpha is cut at half, and the disc that does not move is equal in all frames."""
    frames = [draw_sprite(at) for at in (4, 12, 20)]
    frames[0].save(tmp_path / "small.png", save_all=True, append_images=frames[1:], duration=50)
    large = upscaled(tmp_path / "small.png", tmp_path / "large.gif", "2")
    found = []
    for number in range(3):
        large.seek(number)
        found.append(np.asarray(large.convert("RGBA")).astype(int))
        opaque = found[-1][found[-1][..., 3] > 0]
        assert set(found[-1][..., 3].flat) == {0, 255}
        assert len(opaque) == pytest.approx(2 * np.pi * 14**2, rel=0.03)
        near = np.stack([np.abs(opaque[:, :3] - colour).max(1) for colour in ((220, 90, 30), (40, 70, 200))]).min(0)
        assert near.max() < 40  # no pixel of a hidden colour or of a darker ring
    assert all((frame[36:, 76:] == found[0][36:, 76:]).all() for frame in found)


def test_standing_pixels_of_an_animation_stay_equal(photo, tmp_path):
    """Also with a network that adapts to the JPEG quality, and with few bytes per frame."""
    background = photo.convert("RGB").resize((90, 60))
    frames = []
    for at in (10, 16, 22, 28):
        frames.append(background.copy())
        frames[-1].paste((255, 255, 0), (at, 8, at + 6, 14))
    frames[0].save(tmp_path / "small.png", save_all=True, append_images=frames[1:], duration=50)
    (outcome,) = process_jobs(
        [PhotoJob(tmp_path / "small.png", tmp_path / "large.gif")],
        ProcessingOptions(UpscaleTransform(Target(Fraction(2)), resolve_model("bundled"))), lambda _: None,
    )  # fmt: skip
    assert outcome.reason == ""
    with Image.open(tmp_path / "large.gif") as large:
        found = []
        for number in range(4):
            large.seek(number)
            found.append(np.asarray(large.convert("RGB")))
    assert all((frame[40:] == found[0][40:]).all() for frame in found)
    Image.fromarray(found[0]).save(tmp_path / "still.gif")
    assert (tmp_path / "large.gif").stat().st_size < 1.5 * (tmp_path / "still.gif").stat().st_size


def test_pages_of_a_tiff_keep_their_sizes_and_modes(photo, tmp_path):
    several = [photo.convert("L"), photo.convert("RGB").resize((20, 30)), of_mode(photo, "I;16")]
    several[0].save(tmp_path / "small.tif", save_all=True, append_images=several[1:])
    large = upscaled(tmp_path / "small.tif", tmp_path / "large.tif")
    assert large.n_frames == 3
    found = []
    for number in range(3):
        large.seek(number)
        found.append((large.size, large.mode))
    assert found == [(LARGE, "L"), ((30, 45), "RGB"), (LARGE, "I;16")]


def write_tiff_kinds(folder: Path, colours: np.ndarray) -> dict[str, int | str]:
    """Write TIFFs with `colours`, uint8 (height, width, 3); return the bands of each, or the reason for a failure."""
    grey, alpha = colours[..., 1], np.full(colours.shape[:2], 255, "uint8")
    alpha[:, :10] = 0
    cmyk = np.dstack([255 - colours, np.zeros_like(grey)])
    lab = pyvips.Image.new_from_array(colours, interpretation="srgb").icc_import(input_profile="srgb", pcs="lab")
    lab.colourspace("labs", source_space="lab").tiffsave(str(folder / "lab16.tif"))
    deep = {"dtype": "uint16", "scale": 257}
    floats = {"dtype": "float32", "scale": 1 / 255}
    kinds = {
        "grey16 alpha": (2, [grey, alpha], 1, [2], deep),
        "rgb16 masks": (3, [colours, grey, grey], 2, [0, 0], deep),
        "rgb8 mask alpha": (4, [colours, grey, alpha], 2, [0, 2], {}),
        "cmyk8 alpha": (4, [cmyk, alpha], 5, [2], {}),
        "rgb floats": (3, [colours], 2, None, floats),
        "grey half floats alpha": (2, [grey, alpha], 1, [2], floats | {"dtype": "float16"}),
        "negative floats": ("floats must be from 0 to 1, got -0.4", [colours], 2, None, floats | {"offset": -0.5}),
        "doubles": ("of floats with 64 bits per sample", [colours], 2, None, floats | {"dtype": "float64"}),
        "signed": ("signed integers", [colours // 2], 2, None, {"dtype": "int8"}),
        "long": ("32 bits per sample", [colours], 2, None, {"dtype": "uint32"}),
    }
    for name, (_, bands, photometric, extra, options) in kinds.items():
        values = np.dstack(bands).astype(float) * options.get("scale", 1) + options.get("offset", 0)
        pixels = values.astype(options.get("dtype", "uint8"))
        tifffile.imwrite(folder / f"{name}.tif", pixels, photometric=photometric, extrasamples=extra)
    return {name: kind[0] for name, kind in kinds.items()} | {"lab16": 3}


def test_tiffs_that_pillow_rejects_are_read_or_refused_with_the_reason(photo, tmp_path):
    colours = np.asarray(photo.convert("RGB"))
    for name, expected in write_tiff_kinds(tmp_path, colours).items():
        if isinstance(expected, str):
            with pytest.raises(PhotoError, match=expected):
                list(read_photo(tmp_path / f"{name}.tif").images)
            continue
        (image,) = read_photo(tmp_path / f"{name}.tif").images
        pixels = image.pixels / (257 if image.pixels.dtype == np.uint16 else 1)
        assert pixels.shape[2] == expected, name
        reference = colours if expected > 2 else colours[..., 1:2]
        assert np.abs(pixels[..., : reference.shape[2]] - reference).max() < 2, name
        if expected in (2, 4):
            assert (pixels[:, :10, -1] == 0).all(), name
            assert (pixels[:, 10:, -1] == 255).all(), name


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("value", "got"), [(np.nan, "NaN"), (np.inf, r".* to inf"), (-np.inf, r"-inf to .*")])
def test_a_tiff_with_nan_or_infinite_pixels_is_refused(tmp_path, value, got, whole):
    pixels = np.full((8, 9, 3), value if whole else 0.5, "float32")
    pixels[3, 4, 1] = value
    tifffile.imwrite(tmp_path / "floats.tif", pixels, photometric="rgb")
    with pytest.raises(PhotoError, match=f"^floats must be from 0 to 1, got {got}$"):
        next(read_photo(tmp_path / "floats.tif").images)


def make_bmp(masks: tuple[int, ...], pixels: np.ndarray) -> bytes:
    """Encode a BMP with 16 bits per pixel and bit fields; pixels: uint16 (height, width), with an even width."""
    info = struct.pack("<IiiHHIIiiII", 40, pixels.shape[1], pixels.shape[0], 1, 16, 3, 0, 0, 0, 0, 0)
    header = info + struct.pack("<3I", *masks)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(header)) + header + pixels[::-1].astype("<u2").tobytes()


def test_bmps_with_bit_fields_and_deep_jpegs_are_read_or_refused_with_the_reason(photo, tmp_path):
    red = np.full((6, 8), 0xF800, "uint16")
    (tmp_path / "photo.bmp").write_bytes(make_bmp((0xF800, 0x7E0, 0x1F), red))
    assert (next(read_photo(tmp_path / "photo.bmp").images).pixels == (255, 0, 0)).all()
    photo.convert("RGB").save(tmp_path / "photo.jpg")
    jpeg = bytearray((tmp_path / "photo.jpg").read_bytes())
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12  # the bits per sample
    unsupported = {
        make_bmp((0xF000, 0xF00, 0xF0), red): "Unsupported BMP bitfields",
        bytes(jpeg): "cannot handle 12-bit",
    }
    for content, reason in unsupported.items():
        (tmp_path / "photo").write_bytes(content)
        with pytest.raises(PhotoError, match=f"^not supported: {reason}"):
            read_photo(tmp_path / "photo")


def test_an_avif_has_full_colours_unless_photo_and_quality_are_lower(tmp_path):
    edges = Image.new("RGB", (40, 30), (230, 20, 20))
    edges.paste((20, 20, 230), (0, 0, 13, 30))
    edges.save(tmp_path / "full.png")
    edges.save(tmp_path / "full.jpg", quality=100, subsampling="4:4:4")
    edges.save(tmp_path / "less.jpg", quality=100, subsampling="4:2:0")
    edges.save(tmp_path / "full.avif", quality=100, subsampling="4:4:4")
    errors = {}
    names = ("full.png", "full.jpg", "full.avif", "less.jpg")
    jobs = [(name, quality) for name in names for quality in (None, 85)]
    for name, quality in jobs:
        options = ProcessingOptions(
            UpscaleTransform(Target(Fraction(1)), NETWORKS), EncodeOptions(quality), overwrite=True
        )
        out = tmp_path / "large.avif"
        assert [
            outcome.reason for outcome in process_jobs([PhotoJob(tmp_path / name, out)], options, lambda _: None)
        ] == [""]
        photo, result = (np.asarray(Image.open(file).convert("RGB")).astype(int) for file in (tmp_path / name, out))
        errors[name, quality] = np.abs(photo - result)[:, 11:15].max()
    assert errors.pop(("less.jpg", 85)) > 8
    assert max(errors.values()) < 5


HEADS = {"HEIC": b"\0\0\0\x1cftypheic", "JPEG XL": b"\xff\x0a"}


@pytest.mark.parametrize("name", ["HEIC", "JPEG XL"])
def test_a_format_of_a_missing_extra_is_named_with_the_extra(name, tmp_path, monkeypatch):
    module, extra = {"HEIC": ("pi_heif", "heic"), "JPEG XL": ("pillow_jxl", "jxl")}[name]
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "photo.dat").write_bytes(HEADS[name] + bytes(40))
    with pytest.raises(PhotoError, match=rf"^is a {name} file, which needs .*'loupe-upscale\[{extra}\]'$"):
        read_photo(tmp_path / "photo.dat")
    (tmp_path / f"photo.{extra}").write_bytes(HEADS[name] + bytes(40))
    found = find_photos([str(tmp_path)], tmp_path / "out")
    assert [(job.photo.name, job.out.name) for job in found.jobs] == [(f"photo.{extra}", f"photo.{extra}.jpg")]
    assert [path.name for path, _ in found.failures] == ["photo.dat"]


def test_jpeg_xl_and_jpeg_2000_are_read(photo, tmp_path):
    suffixes = [".jp2"]
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401

        suffixes.append(".jxl")
    for suffix in suffixes:
        photo.convert("RGB").save(tmp_path / f"photo{suffix}", quality=95)
        (image,) = read_photo(tmp_path / f"photo{suffix}").images
        assert np.abs(image.pixels.astype(int) - np.asarray(photo.convert("RGB"))).mean() < 4


def test_thumbnails_and_pyramid_levels_are_not_pages(photo, tmp_path):
    colours = np.asarray(photo.convert("RGB"))
    for name, types in {"last": (0, 1, 1), "before": (1, 0), "pages": (2, 2), "only": (1,)}.items():
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as file:
            for kind in types:
                file.write(colours if kind != 1 else colours[::2, ::2], photometric="rgb", subfiletype=kind)
        opened = read_photo(tmp_path / f"{name}.tif")
        sizes = [image.pixels.shape[1::-1] for image in opened.images]
        assert sizes == {"pages": [SIZE, SIZE], "only": [(23, 16)]}.get(name, [SIZE])
        assert (opened.count, opened.page_sizes) == (len(sizes), tuple(sizes))
        assert list_page_sizes(tmp_path / f"{name}.tif", 10) == sizes


@pytest.mark.parametrize("kind", ["DNG", "NEF", "CR2"])
def test_the_preview_of_a_raw_photo_is_not_upscaled(photo, tmp_path, kind):
    """A DNG and a NEF begin with a thumbnail, and contain the raw image in a subdirectory; CR2 has a signature."""
    tags = {"DNG": {254: 1, 50706: b"\1\4\0\0"}, "NEF": {254: 1, 330: 8}, "CR2": {}}[kind]
    photo.convert("RGB").save(tmp_path / "photo.tif", tiffinfo=tags)
    content = (tmp_path / "photo.tif").read_bytes()
    if kind == "CR2":  # write the directory to the end of the file
        start = int.from_bytes(content[4:8], "little")
        moved = content + content[start : start + 2 + 12 * int.from_bytes(content[start : start + 2], "little") + 4]
        content = moved[:4] + len(content).to_bytes(4, "little") + b"CR\2\0" + moved[12:]
    (tmp_path / "photo.tif").write_bytes(content)
    refusal = "is a raw photo of a camera, which is not supported; convert it to a TIFF or JPEG"
    assert upscale_job(PhotoJob(tmp_path / "photo.tif", tmp_path / "large.jpg")).reason == refusal
    with pytest.raises(PhotoError, match=refusal):
        list_page_sizes(tmp_path / "photo.tif", 9)


@pytest.mark.parametrize("is_big", [False, True])
def test_pages_of_a_tiff_are_compressed_and_keep_their_metadata(tmp_path, monkeypatch, is_big):
    """Also in a BigTIFF, and with several strips per page."""
    monkeypatch.setattr(tiff, "MAX_PIXEL_BYTES", 10 if is_big else 10**9)
    monkeypatch.setattr(tiff, "STRIP_BYTES", 2000)
    exif = Image.Exif()
    exif[271], exif.get_ifd(0x8769)[0x829A], exif.get_ifd(0x8825)[1] = "Maker", 0.01, "N"
    metadata = Metadata(load_exif(exif.tobytes()), SRGB, XMP, (300, 150))
    ramp = np.arange(90 * 60, dtype="uint16").reshape(60, 90, 1)
    images = [np.concatenate([ramp * (band + 1) for band in range(bands)], -1) for bands in (1, 2, 3, 4)]
    images += [(image // 257).astype("uint8") for image in images]
    strips = (iter([image[:7], image[7:40], image[40:]]) for image in images)
    streams = [
        ImageStream((90, 60), image.shape[2], image.dtype, strip, metadata)
        for image, strip in zip(images, strips, strict=True)
    ]
    write_photo(tmp_path / "large.tif", iter(streams), len(streams))
    content = (tmp_path / "large.tif").read_bytes()
    assert content[2] == (43 if is_big else 42)
    assert len(content) < sum(image.nbytes for image in images) / 4 + len(images) * 4000
    for image, page in zip(images, read_photo(tmp_path / "large.tif").images, strict=True):
        assert (page.pixels == image).all()
        found = page.metadata
        assert (found.icc, found.xmp, found.dpi) == (SRGB, XMP, (300, 150))
        assert (found.exif[271], found.exif.get_ifd(0x8769)[0x829A], found.exif.get_ifd(0x8825)[1]) == (
            "Maker",
            0.01,
            "N",
        )


@pytest.mark.parametrize(("limit", "version"), [((3 * 3 + 30 * 15) * 3, 42), ((3 * 3 + 30 * 15) * 3 - 1, 43)])
def test_a_tiff_with_a_small_first_page_is_a_bigtiff_if_all_pages_need_it(tmp_path, monkeypatch, limit, version):
    monkeypatch.setattr(tiff, "MAX_PIXEL_BYTES", limit)
    pages = [Image.new("RGB", size) for size in ((2, 2), (20, 10))]
    pages[0].save(tmp_path / "small.tif", save_all=True, append_images=pages[1:])
    assert upscale_job(PhotoJob(tmp_path / "small.tif", tmp_path / "large.tif")).size == (3, 3)
    assert (tmp_path / "large.tif").read_bytes()[2] == version


def test_cmyk_is_converted_by_its_profile_to_srgb(photo, tmp_path, cmyk_profile):
    srgb = ImageCms.createProfile("sRGB")
    profile = ImageCms.getOpenProfile(io.BytesIO(cmyk_profile)) if cmyk_profile else None
    if profile is None:
        photo.convert("CMYK").save(tmp_path / "small.tif")
    else:
        ImageCms.profileToProfile(photo.convert("RGB"), srgb, profile, outputMode="CMYK").save(
            tmp_path / "small.tif", icc_profile=cmyk_profile
        )
    large = upscaled(tmp_path / "small.tif", tmp_path / "large.png")
    assert large.mode == "RGB"
    described = ImageCms.getProfileDescription(ImageCms.getOpenProfile(io.BytesIO(large.info["icc_profile"])))
    assert "sRGB" in described


@pytest.mark.parametrize(
    ("name", "mode", "named"),
    [("a.jpg", "CMYK", "CMYK"), ("a.tif", "CMYK", "CMYK"), ("deep.tif", "CMYK", "CMYK"), ("a.tif", "LAB", "Lab"),
     ("a.tif", "RGB", "")],
)  # fmt: skip
def test_cmyk_and_lab_are_named_because_results_are_rgb(photo, tmp_path, name, mode, named):
    image = photo.convert("RGB").convert(mode) if mode != "LAB" else of_mode(photo, mode)
    image.save(tmp_path / name, icc_profile=None)
    if name == "deep.tif":
        deep = np.asarray(image).astype("uint16") * 257
        tifffile.imwrite(tmp_path / name, deep, photometric="separated", metadata=None)
    (page,) = read_photo(tmp_path / name).images
    assert page.metadata.omitted == ((f"{named} colours (converted to sRGB)",) if named else ())


@pytest.mark.parametrize("horizontal", [(0, 0), (1, 0), (0, 1), (10**9, 1)], ids=str)
def test_an_invalid_resolution_of_a_tiff_is_not_written(horizontal, tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[282], tags[283], tags[296] = TiffImagePlugin.IFDRational(*horizontal), 72.0, 2
    Image.new("RGB", (32, 24)).save(tmp_path / "small.tif", tiffinfo=tags)
    assert next(iter(read_photo(tmp_path / "small.tif").images)).metadata.dpi is None


def test_only_pages_with_a_resolution_have_one(tmp_path):
    """Pillow returns 1 dpi for a page without a resolution, or the resolution of the page before."""
    tags = [{}, {282: 300.0, 283: 150.0, 296: 2}, {}, {282: 300.0, 296: 2}, {282: 4.0, 283: 3.0, 296: 1}]
    pages = [Image.new("L", (8, 8)) for _ in tags]
    for page, resolution in zip(pages, tags, strict=True):
        page.encoderinfo = {"tiffinfo": resolution}
    pages[0].save(tmp_path / "small.tif", save_all=True, append_images=pages[1:])
    found = [page.metadata.dpi for page in read_photo(tmp_path / "small.tif").images]
    assert found == [None, (300, 150), None, None, None]
    upscale_job(PhotoJob(tmp_path / "small.tif", tmp_path / "large.tif"))
    with Image.open(tmp_path / "large.tif") as large:
        assert 282 not in large.tag_v2


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_lossless_webp_is_detected(photo, tmp_path, mode, frames, lossless):
    several = [of_mode(photo, mode).rotate(90 * number) for number in range(frames)]
    several[0].save(
        tmp_path / "small.webp", lossless=lossless, icc_profile=SRGB, exif=exif(1), save_all=frames > 1,
        append_images=several[1:],
    )  # fmt: skip
    assert read_photo(tmp_path / "small.webp").lossless == lossless


def test_the_profile_of_a_cmyk_photo_does_not_contain_the_present_time(photo, tmp_path):
    photo.convert("CMYK").save(tmp_path / "cmyk.tif")
    icc = next(read_photo(tmp_path / "cmyk.tif").images).metadata.icc
    assert int.from_bytes(icc[24:26], "big") == 2016  # the year of the creation
    assert ImageCms.getProfileDescription(ImageCms.getOpenProfile(io.BytesIO(icc))).startswith("sRGB")


@pytest.mark.parametrize("profiled", [False, True])
def test_16_bit_cmyk_equals_8_bit_cmyk_to_rounding(photo, tmp_path, cmyk_profile, profiled):
    eight = photo.convert("CMYK")
    deep = pyvips.Image.new_from_array(np.asarray(eight).astype("uint16") * 257).copy(interpretation="cmyk")
    if profiled:
        deep.set_type(pyvips.GValue.blob_type, "icc-profile-data", cmyk_profile)
    eight.save(tmp_path / "eight.tif", icc_profile=cmyk_profile if profiled else b"")
    deep.tiffsave(str(tmp_path / "deep.tif"))
    coarse, fine = (next(read_photo(tmp_path / f"{name}.tif").images) for name in ("eight", "deep"))
    assert fine.pixels.dtype == np.uint16
    assert fine.metadata.icc == coarse.metadata.icc
    differences = np.abs(fine.pixels / 257 - coarse.pixels)
    assert differences.mean() < 0.5
    assert differences.max() < (3 if profiled else 1.01)  # two colour engines


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_cmyk_with_alpha_is_converted_by_its_profile(photo, tmp_path, cmyk_profile, dtype):
    inks = np.asarray(photo.convert("CMYK"))
    alpha = np.full(inks.shape[:2], 128, "uint8")
    for name, bands, extra in (("opaque", inks, ()), ("soft", np.dstack([inks, alpha]), (2,))):
        pixels = bands.astype(dtype) * np.array(257 if dtype == "uint16" else 1, dtype)
        tifffile.imwrite(
            tmp_path / f"{name}.tif", pixels, photometric="separated", extrasamples=extra, iccprofile=cmyk_profile
        )
    opaque, soft = (next(read_photo(tmp_path / f"{name}.tif").images) for name in ("opaque", "soft"))
    assert (soft.pixels[..., 3] == 128 * 257).all()
    differences = np.abs(soft.pixels[..., :3] / 257 - opaque.pixels / (257 if dtype == "uint16" else 1))
    assert differences.max() < 3  # two colour engines
    assert soft.metadata.icc == opaque.metadata.icc
    assert UNSUITABLE_PROFILE not in soft.metadata.omitted


@pytest.mark.parametrize("first", ["rgb", "separated"])
def test_a_page_of_a_tiff_does_not_get_the_profile_of_an_earlier_page(photo, tmp_path, cmyk_profile, first):
    pages = {mode: np.asarray(photo.convert(mode)) for mode in ("RGB", "CMYK")}
    profile = make_profile(ADOBE_RGB, ADOBE_GAMMA) if first == "rgb" else cmyk_profile
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        file.write(pages["RGB" if first == "rgb" else "CMYK"], photometric=first, iccprofile=profile)
        file.write(pages["RGB"], photometric="rgb")
    images = [image.metadata for image in read_photo(tmp_path / "pages.tif").images]
    assert images[0].icc
    assert not images[1].icc
    assert UNSUITABLE_PROFILE not in images[1].omitted


@pytest.fixture
def cmyk_profile() -> bytes:
    """The CMYK profile of libvips."""
    tiny = pyvips.Image.black(2, 2, bands=3).copy(interpretation="srgb")
    try:
        return tiny.icc_transform("cmyk").get("icc-profile-data")
    except pyvips.Error:
        return b""


def test_strip_keeps_the_colour_profile_only(photo, tmp_path):
    photo.convert("RGB").save(
        tmp_path / "small.jpg", exif=exif(6), icc_profile=SRGB, dpi=(300, 300), xmp=XMP, comment="secret"
    )
    large = upscaled(tmp_path / "small.jpg", tmp_path / "large.jpg", strip=True)
    assert large.size == LARGE[::-1]
    assert large.info["icc_profile"] == SRGB
    assert not dict(large.getexif())
    assert not large.info.keys() & {"xmp", "comment", "exif"}


@pytest.mark.parametrize(
    ("mode", "frames", "out", "word"),
    [
        ("RGBA", 1, "x.jpg", "transparency"),
        ("RGBA", 1, "x.bmp", "transparency"),
        ("RGB", 3, "x.jpg", "3 pages or frames"),
    ],
)
def test_a_result_that_the_format_cannot_store_is_an_error(mode, frames, out, word):
    with pytest.raises(PhotoError, match=word):
        validate_output(Path(out), (10, 10), frames, len(mode))
    with pytest.raises(PhotoError, match="at most 16383, got 20000x10"):
        validate_output(Path("x.webp"), (20_000, 10), 1, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_an_error_while_rows_are_computed_leaves_no_file(photo, tmp_path, monkeypatch, suffix):
    photo.convert("RGB").save(tmp_path / "small.png")
    found = read_photo(tmp_path / "small.png")

    def broken(page):
        large = upscale_image(page, Target(Fraction(3, 2)), NETWORKS)

        def strips():
            yield next(large.strips)[:5]
            raise OSError("no more")

        return replace(large, strips=strips())

    for limit in (10**9, 0):
        monkeypatch.setattr(writer, "MAX_PIXELS_IN_MEMORY", limit)
        with pytest.raises(OSError, match="no more"):
            write_photo(tmp_path / f"large.{suffix}", [broken(next(read_photo(tmp_path / "small.png").images))])
    assert [path.name for path in tmp_path.iterdir()] == ["small.png"]
    assert found.count == 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_full_disk_raises_an_error_and_leaves_no_file(tmp_path, suffix):
    """Stream a file in a process whose files are limited to 100 kB."""
    code = f"""
import resource, sys
import numpy as np
from pathlib import Path
from loupe.imaging import tiff, writer
from loupe.imaging.image_data import ImageStream
writer.MAX_PIXELS_IN_MEMORY = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
noise = np.random.default_rng(0).integers(0, 256, (3000, 2000, 3)).astype("uint8")
image = ImageStream((2000, 3000), 3, noise.dtype, iter(np.array_split(noise, 30)))
try:
    writer.write_photo(Path({str(tmp_path / f"large.{suffix}")!r}), [image])
except OSError as error:
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == 7
    assert list(tmp_path.iterdir()) == []


def test_pages_of_a_tiff_keep_16_bit_colour(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (62, 45, 3)).astype("uint16")
    several = pyvips.Image.new_from_array(pixels, interpretation="rgb16").copy()
    several.set_type(pyvips.GValue.gint_type, "page-height", 31)
    several.tiffsave(str(tmp_path / "small.tif"))
    found = read_photo(tmp_path / "small.tif")
    assert found.count == 2
    write_photo(tmp_path / "large.tif", map(UpscaleTransform(Target(Fraction(3, 2)), NETWORKS), found.images), 2)
    for number in range(2):
        large = pyvips.Image.new_from_file(str(tmp_path / "large.tif"), page=number)
        assert (large.width, large.height, large.format, large.bands) == (68, 47, "ushort", 3)


@pytest.mark.parametrize(("bands", "interpretation"), [(1, "grey16"), (3, "rgb16"), (4, "rgb16")])
def test_16_bit_tiffs_are_read_by_their_interpretation(tmp_path, bands, interpretation):
    pixels = np.random.default_rng(0).integers(0, 65536, (31, 45, bands)).astype("uint16")
    image = pyvips.Image.new_from_array(pixels, interpretation=interpretation)
    image.tiffsave(str(tmp_path / "small.tif"), miniswhite=bands == 1)
    assert np.array_equal(next(read_photo(tmp_path / "small.tif").images).pixels, pixels)


def test_a_transparent_grey_value_becomes_alpha(tmp_path):
    deep = np.array([[7, 9], [9, 7]], "uint16")
    Image.fromarray(deep).save(tmp_path / "deep.png", transparency=7)
    page = next(read_photo(tmp_path / "deep.png").images)
    assert page.pixels[..., 1].tolist() == [[0, 65535], [65535, 0]]
    two = Image.fromarray(np.array([[0, 255], [255, 0]], "uint8")).convert("1")
    two.save(tmp_path / "two.png", transparency=1)
    page = next(read_photo(tmp_path / "two.png").images)
    assert page.pixels.tolist() == [[[0, 255], [255, 0]], [[255, 0], [0, 255]]]


def test_pages_of_different_sizes_fit_only_a_tiff(tmp_path):
    several = [Image.new("RGB", (10, 10)), Image.new("RGB", (20, 10))]
    several[0].save(tmp_path / "small.tif", save_all=True, append_images=several[1:])
    with pytest.raises(PhotoError, match="different sizes"):
        upscaled(tmp_path / "small.tif", tmp_path / "large.webp")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.tif"]


@pytest.mark.parametrize("suffix", ["png", "webp", "gif", "avif"])
@pytest.mark.parametrize(
    ("first", "second"),
    [((1, "uint16"),) * 2, ((2, "uint16"),) * 2, ((2, "uint8"), (3, "uint8")), ((3, "uint8"), (1, "uint16")),
     ((1, "uint8"), (2, "uint8"))],
    ids=str,
)  # fmt: skip
def test_an_animation_of_pages_keeps_brightness_and_transparency(tmp_path, suffix, first, second):
    """Pillow clips 16-bit grey at 255, and merges frames that are then equal."""
    pages = []
    for brightness, (bands, dtype) in ((100, first), (200, second)):
        pixels = np.full((8, 8, bands), brightness * (257 if dtype == "uint16" else 1), dtype)
        if bands == 2:
            pixels[..., 1] = np.iinfo(dtype).max
            pixels[2:6, :4, 1] = 0
        pages.append(ImageStream((8, 8), bands, pixels.dtype, iter([pixels])))
    write_photo(tmp_path / f"out.{suffix}", pages, 2)
    with Image.open(tmp_path / f"out.{suffix}") as image:
        assert image.n_frames == 2
        for number, (brightness, bands) in enumerate(((100, first[0]), (200, second[0]))):
            image.seek(number)
            found = np.asarray(image.convert("RGBA")).astype(int)
            assert np.abs(found[:, 4:] - (*[brightness] * 3, 255)).max() <= 3
            assert (found[2:6, :4, 3] == (0 if bands == 2 else 255)).all()


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_pages_with_different_profiles_fit_only_a_tiff(tmp_path, suffix):
    profiles = [make_profile(ADOBE_RGB, ADOBE_GAMMA), SRGB]

    def make_pages() -> list[ImageStream]:
        strips = np.zeros((8, 8, 3), "uint8")
        return [ImageStream((8, 8), 3, strips.dtype, iter([strips]), Metadata(icc=icc)) for icc in profiles]

    with pytest.raises(PhotoError, match=r"has pages with different colour spaces, which .* cannot store; use \.tif"):
        write_photo(tmp_path / f"large.{suffix}", make_pages(), 2)
    write_photo(tmp_path / "large.tif", make_pages(), 2)
    assert [page.metadata.icc for page in read_photo(tmp_path / "large.tif").images] == profiles


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_size_of_a_photo_is_upright(photo, tmp_path, orientation):
    for suffix in ("jpg", "png", "tif", "webp"):
        photo.convert("RGB").save(tmp_path / f"small.{suffix}", exif=exif(orientation))
        found = read_photo(tmp_path / f"small.{suffix}")
        assert found.size == (SIZE if orientation == 1 else SIZE[::-1])
        assert next(found.images).pixels.shape[1::-1] == found.size


def test_colour_chunks_of_a_png_are_kept(photo, tmp_path):
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", (100_000).to_bytes(4, "big"))
    primaries = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    chunks.add(b"cHRM", b"".join(value.to_bytes(4, "big") for value in primaries))
    photo.convert("RGB").save(tmp_path / "small.png", pnginfo=chunks, icc_profile=None)
    large = upscaled(tmp_path / "small.png", tmp_path / "large.png")
    assert large.info["gamma"] == 1.0
    assert [round(value * 1e5) for value in large.info["chromaticity"]] == list(primaries)


def test_a_transparent_16_bit_colour_becomes_alpha(tmp_path):
    image = pyvips.Image.new_from_array(np.full((8, 9, 3), 700, "uint16"), interpretation="rgb16")
    image.pngsave(str(tmp_path / "small.png"), keep="none")
    whole = (tmp_path / "small.png").read_bytes()
    (tmp_path / "small.png").write_bytes(whole[:33] + chunk(b"tRNS", struct.pack(">HHH", 700, 700, 700)) + whole[33:])
    page = next(read_photo(tmp_path / "small.png").images)
    assert page.pixels.shape == (8, 9, 4)
    assert not page.pixels[..., 3].any()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(("bits", "row", "hidden"), [(2, b"\x1b", 2), (4, b"\x05\xbf", 11)])
def test_a_transparent_grey_of_2_or_4_bits_becomes_alpha(tmp_path, bits, row, hidden):
    """A row of four greys from black to white; the third is transparent."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)) + chunk(b"tRNS", struct.pack(">H", hidden))
    file = tmp_path / "small.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b""))
    page = next(read_photo(file).images)
    assert page.pixels[0, :, 1].tolist() == [255, 255, 0, 255]
    assert np.asarray(open_photo(file))[0, :, 1].tolist() == [255, 255, 0, 255]
    with Image.open(file) as image:
        for _ in range(2):
            assert read_pillow_image(image).pixels[0, :, 1].tolist() == [255, 255, 0, 255]


def test_12_bit_grey_is_scaled_to_the_full_range(tmp_path):
    samples = b"".join((low << 12 | high).to_bytes(3, "big") for low, high in [(0, 4095), (3000, 3000)])
    tags = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 8 * 12 + 4), (278, 2), (279, 6)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    (tmp_path / "small.tif").write_bytes(head + directory + struct.pack("<I", 0) + samples)
    page = next(read_photo(tmp_path / "small.tif").images)
    assert page.pixels[..., 0].tolist() == [[0, 65535], [3000 * 65535 // 4095] * 2]
    assert np.asarray(open_photo(tmp_path / "small.tif")).tolist() == [[0, 255], [187, 187]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("large", [False, True], ids=["whole", "streamed"])
def test_text_in_exif_keeps_its_bytes(photo, tmp_path, monkeypatch, suffix, large):
    if large:
        monkeypatch.setattr(writer, "MAX_PIXELS_IN_MEMORY", 0)
    tags = exif()
    tags[0x8298] = RawText("© 2026 José 日本".encode().decode("latin-1"))
    tags.get_ifd(0x8769)[0xA433] = RawText("Müller")
    photo.convert("RGB").save(tmp_path / "small.jpg", exif=tags, comment="Grüße 日本")
    found = upscaled(tmp_path / "small.jpg", tmp_path / f"large.{suffix}").getexif()
    assert found[0x8298].encode("latin-1").decode() == "© 2026 José 日本"
    assert found.get_ifd(0x8769)[0xA433] == "Müller"


@pytest.mark.parametrize("comment", ["Grüße 日本", "Grüße"])
def test_comments_of_all_encodings_are_kept(photo, tmp_path, comment):
    encoding = "latin-1" if comment.isascii() or len(comment) == 5 else "utf-8"
    photo.convert("RGB").save(tmp_path / "small.jpg", comment=comment.encode(encoding))
    for suffix, format_value in {
        "jpg": lambda image: image.info["comment"].decode(), "png": lambda image: image.text["Comment"],
        "tif": lambda image: image.tag_v2[270].encode("latin-1").decode(),
    }.items():  # fmt: skip
        assert format_value(upscaled(tmp_path / "small.jpg", tmp_path / f"large.{suffix}")) == comment


def test_a_gif_keeps_the_transparency_of_grey(photo, tmp_path):
    photo.convert("LA").save(tmp_path / "small.png")
    alpha = np.asarray(upscaled(tmp_path / "small.png", tmp_path / "large.gif").convert("RGBA"))[..., 3]
    assert (alpha[:, :16] == 0).all()
    assert (alpha[:, 52:] == 255).all()


@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
def test_a_streamed_png_keeps_colour_chunks_and_texts(photo, tmp_path, monkeypatch, deep):
    chunks = chunk(b"gAMA", (100_000).to_bytes(4, "big"))
    title = PngImagePlugin.PngInfo()
    title.add_itxt("Title", "日本 ü", "ja", "題")
    chunks += b"".join(chunk(kind, data) for kind, data, *_ in title.chunks)
    photo.convert("RGB").save(tmp_path / "small.png", icc_profile=None)
    if deep:
        pixels = np.asarray(photo.convert("RGB")).astype("uint16") * 257
        pyvips.Image.new_from_array(pixels, interpretation="rgb16").pngsave(str(tmp_path / "small.png"), keep="none")
    else:
        monkeypatch.setattr(writer, "MAX_PIXELS_IN_MEMORY", 0)
    whole = (tmp_path / "small.png").read_bytes()
    (tmp_path / "small.png").write_bytes(whole[:33] + chunks + whole[33:])
    large = upscaled(tmp_path / "small.png", tmp_path / "large.png")
    assert large.info["gamma"] == 1.0
    assert large.text["Title"] == "日本 ü"
    assert pyvips.Image.new_from_file(str(tmp_path / "large.png")).format == ("ushort" if deep else "uchar")


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_metadata_too_long_for_a_jpeg_are_omitted_and_reported(photo, tmp_path, monkeypatch, streamed):
    if streamed:
        monkeypatch.setattr(writer, "MAX_PIXELS_IN_MEMORY", 0)
    tags, padded = exif(), XMP.replace(b"</rdf:RDF>", b" " * 70_000 + b"</rdf:RDF>")
    tags.get_ifd(0x8769)[0x927C] = b"n" * 66_000
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", padded.decode())
    photo.convert("RGB").save(tmp_path / "small.png", exif=tags, pnginfo=chunks)
    job = PhotoJob(tmp_path / "small.png", tmp_path / "large.jpg")
    assert upscale_job(job).omitted == [f"{part} (too long for .jpg)" for part in ("the camera's maker note", "XMP")]
    found = Image.open(job.out).getexif()
    assert found[0x8298] == "Somebody"
    assert found.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"
    assert upscale_job(PhotoJob(job.photo, tmp_path / "large.png")).omitted == []


def make_camera_metadata(is_empty: bool) -> Metadata:
    """Make metadata with a rating and a maker note at position 74, or no metadata."""
    if is_empty:
        return Metadata()
    tags = load_exif(exif().tobytes())
    tags.note_position, tags[0x4746] = 74, 5
    del tags[0x0112]  # Pillow omits the orientation of an AVIF
    return Metadata(tags, SRGB, XMP, (300, 150), {"Comment": "Grüße"}, iptc=b"\x1c\x02\x50\x00\x06Nobody")


@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_streamed_jpeg_has_the_metadata_of_a_whole_jpeg(tmp_path, monkeypatch, bands, is_empty):
    pixels, segments = np.full((31, 45, bands), 90, "uint8"), []
    for limit in (10**9, 0):
        monkeypatch.setattr(writer, "MAX_PIXELS_IN_MEMORY", limit)
        stream = ImageStream(SIZE, bands, pixels.dtype, iter([pixels]), make_camera_metadata(is_empty))
        assert write_photo(tmp_path / "large.jpg", [stream]) == []
        with Image.open(tmp_path / "large.jpg") as image:
            segments.append(image.applist)
            assert np.abs(np.asarray(image).reshape(pixels.shape).astype(int) - 90).max() <= 1
    assert segments[0] == segments[1]
    assert len(segments[0]) == (1 if is_empty else 6)


@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("bands", [1, 3])
def test_an_avif_with_10_bits_has_the_metadata_of_an_avif_with_8_bits(tmp_path, bands, is_empty):
    found = []
    for dtype, grey in (("uint8", 90), ("uint16", 90 * 257)):
        pixels = np.full((31, 45, bands), grey, dtype)
        stream = ImageStream(SIZE, bands, pixels.dtype, iter([pixels]), make_camera_metadata(is_empty))
        write_photo(tmp_path / "large.avif", [stream])
        with Image.open(tmp_path / "large.avif") as image:
            found.append([image.info.get(name) for name in ("exif", "xmp", "icc_profile")])
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - 90).max() <= 2
    assert found[0] == found[1]
    assert (found[0][0] is None) == is_empty


def upscale_job(job: PhotoJob) -> Outcome:
    """Upscale a photo by 3:2."""
    options = ProcessingOptions(UpscaleTransform(Target(Fraction(3, 2)), NETWORKS))
    (outcome,) = process_jobs([job], options, lambda fraction: None)
    return outcome


def test_photoshop_layers_are_omitted(photo, tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[37724], tags[34377] = b"Adobe Photoshop Document Data Block\0" + b"l" * 80_000, b"8BIM"
    photo.convert("RGB").save(tmp_path / "small.tif", tiffinfo=tags)
    assert not {37724, 34377} & set(upscaled(tmp_path / "small.tif", tmp_path / "large.tif").tag_v2)
    upscaled(tmp_path / "small.tif", tmp_path / "large.jpg")


def test_the_default_image_of_an_animated_png_is_not_a_frame(tmp_path):
    frames = [Image.new("RGB", (12, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(
        tmp_path / "small.png", save_all=True, append_images=frames[1:], default_image=True, duration=[100, 200]
    )
    large = upscaled(tmp_path / "small.png", tmp_path / "large.png")
    found = []
    for number in range(large.n_frames):
        large.seek(number)
        found.append((large.convert("RGB").getpixel((5, 5)), large.info["duration"]))
    assert found == [((0, 128, 0), 100), ((0, 0, 255), 200)]


@pytest.mark.parametrize(("mode", "becomes"), [("RGBA", "RGB"), ("LA", "L")])
def test_opaque_alpha_is_removed_for_formats_without_alpha(photo, tmp_path, mode, becomes):
    photo.convert("RGB").convert(mode).save(tmp_path / "opaque.png")
    job = PhotoJob(tmp_path / "opaque.png", tmp_path / "large.jpg")
    assert upscale_job(job).size == LARGE
    assert Image.open(job.out).mode == becomes
    photo.convert(mode).save(tmp_path / "soft.png")
    assert "transparency" in upscale_job(PhotoJob(tmp_path / "soft.png", tmp_path / "soft.jpg")).reason
    assert upscale_job(PhotoJob(tmp_path / "opaque.png", tmp_path / "large.png")).size == LARGE
    assert Image.open(tmp_path / "large.png").mode == mode


def test_a_result_too_large_for_a_jpeg_is_an_error():
    with pytest.raises(PhotoError, match="at most 65500, got 65520x10"):
        validate_output(Path("x.jpg"), (65_520, 10), 1, 3)
    with pytest.raises(PhotoError, match="at most 32768, got 10x32769"):  # libavif does not read such an image
        validate_output(Path("x.avif"), (10, 32_769), 1, 3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [([70_123, 50], [70_120, 50]), ([40_001, 40_000, 50], [80_000, 50]), ([10_001] * 7 + [50], [70_010, 50])],
)
def test_a_png_stores_long_display_times_and_keeps_black_frames(given, expected, tmp_path):
    """The frames before the last are equal, so Pillow merges them."""
    frames = [Image.new("RGB", (8, 8), "red")] * (len(given) - 1) + [Image.new("RGB", (8, 8), "black")]
    images = [
        replace(read_pillow_image(frame), metadata=Metadata(duration_ms=ms))
        for frame, ms in zip(frames, given, strict=True)
    ]
    streams = map(UpscaleTransform(Target(Fraction(2)), NETWORKS), images)
    assert write_photo(tmp_path / "out.png", streams, len(given), 0) == []
    with Image.open(tmp_path / "out.png") as image:
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
        assert durations == expected
        assert image.convert("RGB").getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".avif", ".gif"])
def test_a_write_that_stores_a_part_of_the_data_fails(suffix, tmp_path, monkeypatch):
    """A write at the end of a full disk stores some bytes and reports no error."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for large in (False, True):
        monkeypatch.setattr(writer, "MAX_PIXELS_IN_MEMORY", 0 if large else 60 * 90)
        write_photo(tmp_path / f"whole{suffix}", [ImageStream((90, 60), 3, pixels.dtype, iter([pixels]))])
        size = (tmp_path / f"whole{suffix}").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limits[1]))
        try:
            with pytest.raises(OSError):  # noqa: PT011
                write_photo(tmp_path / f"cut{suffix}", [ImageStream((90, 60), 3, pixels.dtype, iter([pixels]))])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [file.stem for file in tmp_path.iterdir()] == ["whole"]
