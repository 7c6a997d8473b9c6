"""Modes x formats x depths x metadata: nothing lost, and nothing changed that should not be."""

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from loupe import upscaling
from loupe.data import pages, writing
from loupe.data.photos import PhotoError
from loupe.upscaling.networks import bundled

SIZE = (45, 31)
LARGE = (68, 47)  # by 3:2
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
    b'tiff:Orientation="1" exif:PixelXDimension="45" exif:PixelYDimension="31"/></rdf:RDF></x:xmpmeta>'
)
NETWORKS = bundled("tiny")
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
    """A real photo with a soft, in places flat, alpha."""
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
    found = pages.read(file, strip)
    large = upscaling.large_pages(found, Fraction(scale), None, NETWORKS)
    writing.write(out, large, found.count, found.loop)
    assert sorted(out.parent.glob(".*")) == []
    image = Image.open(out)
    image.load()
    return image


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in FORMATS.items() for mode in modes])
def test_every_mode_of_every_format_keeps_its_kind_and_colours(photo, tmp_path, suffix, mode):
    image = of_mode(photo, mode)
    file, out = tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}"
    image.save(file, lossless=True) if suffix == "webp" else image.save(file)
    large = upscaled(file, out)
    assert large.size == LARGE
    expected_mode = BECOMES.get(mode, mode)
    if suffix == "gif":
        large = large.convert("RGBA" if "A" in expected_mode or "transparency" in large.info else "RGB")
        expected_mode = {"L": "RGB", "P": "RGB"}.get(mode, expected_mode)
    assert large.mode == expected_mode
    page = next(pages.read(file).pages)
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


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_sixteen_bits_stay_sixteen_bits(photo, tmp_path, suffix, bands):
    rng = np.random.default_rng(0)
    smooth = np.linspace(10_000, 12_000, SIZE[0])[None, :, None] + np.linspace(0, 900, SIZE[1])[:, None, None]
    pixels = (smooth + rng.uniform(0, 30, (*SIZE[::-1], bands))).astype("uint16")
    if bands == 4:
        pixels[..., 3] = 65535
    image = pyvips.Image.new_from_array(pixels, interpretation={1: "grey16"}.get(bands, "rgb16"))
    file, out = tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}"
    image.write_to_file(str(file))
    upscaled(file, out)
    large = pyvips.Image.new_from_file(str(out), revalidate=True).numpy().reshape(*LARGE[::-1], bands)
    assert large.dtype == np.uint16
    assert len(np.unique(large[..., 0])) > 1000  # 8 bits would leave 12
    expected = np.asarray(Image.fromarray(pixels[..., 0].astype("float32")).resize(LARGE, Image.Resampling.LANCZOS))
    assert np.abs(large[..., 0] - expected)[3:-3, 3:-3].max() < 150
    if bands == 4:
        assert (large[..., 3] == 65535).all()


def test_sixteen_bits_become_eight_where_the_format_has_no_more(photo, tmp_path):
    of_mode(photo, "I;16").save(tmp_path / "small.png")
    assert upscaled(tmp_path / "small.png", tmp_path / "large.jpg").mode == "L"


def exif(orientation: int = 1) -> Image.Exif:
    tags = Image.Exif()
    tags[0x010E], tags[0x8298], tags[0x0112] = "A picture", "Somebody", orientation
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
def test_metadata_stay_and_tell_the_new_size(photo, tmp_path, monkeypatch, suffix, out_suffix, large):
    if large:
        if out_suffix in ("webp", "avif"):
            pytest.skip("written whole")
        monkeypatch.setattr(writing, "WHOLE", 0)
    file, out = tmp_path / f"small.{suffix}", tmp_path / f"large.{out_suffix}"
    options = {"exif": exif(), "icc_profile": SRGB, "dpi": (300, 300), "xmp": XMP}
    if suffix == "png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", XMP.decode())
        chunks.add_text("Author", "Somebody")
        options["pnginfo"] = chunks
    if suffix == "tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x010E], tags[0x8298], tags[700] = "A picture", "Somebody", XMP
        tags.tagtype[700] = 1
        tags[0x8769] = dict(exif().get_ifd(0x8769))
        tags[0x8825] = dict(exif().get_ifd(0x8825))
        options = {"icc_profile": SRGB, "dpi": (300, 300), "tiffinfo": tags}
    photo.convert("RGB").save(file, **options)
    result = upscaled(file, out)
    assert result.info["icc_profile"] == SRGB
    tags = result.getexif()
    assert tags[0x010E] == "A picture"
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
def test_all_orientations_come_out_upright_once(photo, tmp_path, suffix, orientation):
    upright = Image.new("RGB", (40, 24), "black")
    upright.paste("white", (0, 0, 20, 12))  # the upper left quarter
    turn = {
        2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE",
        8: "ROTATE_270",
    }.get(orientation)  # fmt: skip
    stored = upright.transpose(Image.Transpose[turn]) if turn else upright
    file, out = tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}"
    xmp = XMP.replace(b'Orientation="1"', b'Orientation="%d"' % orientation)
    stored.save(file, exif=exif(orientation), xmp=xmp)
    large = upscaled(file, out)
    assert large.size == (60, 36)
    assert large.getexif().get(0x0112, 1) == 1
    assert b'tiff:Orientation="6"' not in (large.info.get("xmp") or b"") or orientation == 1
    grey = np.asarray(large.convert("L")).astype(int)
    assert grey[:15, :26].min() > 200
    assert max(grey[21:].max(), grey[:, 34:].max()) < 60


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_animations_keep_their_frames_and_their_time(photo, tmp_path, suffix):
    frames = [photo.convert("RGB").rotate(30 * number) for number in range(4)]
    file, out = tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}"
    durations = [100, 200, 300, 400]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=durations, loop=3)
    large = upscaled(file, out)
    assert large.n_frames == 4
    assert large.size == LARGE
    assert suffix == "avif" or large.info["loop"] == 3  # an AVIF does not tell
    found = []
    for number in range(4):
        large.seek(number)
        large.load()
        found.append(large.info["duration"])
        expected = np.asarray(frames[number].resize(LARGE, Image.Resampling.LANCZOS)).astype(int)
        assert np.abs(np.asarray(large.convert("RGB")).astype(int) - expected).mean() < 12
    assert found == durations


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


def test_every_page_of_a_tiff_is_enlarged_with_its_own_size_and_mode(photo, tmp_path):
    several = [photo.convert("L"), photo.convert("RGB").resize((20, 30)), of_mode(photo, "I;16")]
    several[0].save(tmp_path / "small.tif", save_all=True, append_images=several[1:])
    large = upscaled(tmp_path / "small.tif", tmp_path / "large.tif")
    assert large.n_frames == 3
    found = []
    for number in range(3):
        large.seek(number)
        found.append((large.size, large.mode))
    assert found == [(LARGE, "L"), ((30, 45), "RGB"), (LARGE, "I;16")]


def test_a_cmyk_photo_goes_through_its_profile_and_carries_srgb(photo, tmp_path, cmyk_profile):
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


@pytest.fixture
def cmyk_profile() -> bytes:
    """The profile that libvips brings along."""
    tiny = pyvips.Image.black(2, 2, bands=3).copy(interpretation="srgb")
    try:
        return tiny.icc_transform("cmyk").get("icc-profile-data")
    except pyvips.Error:
        return b""


def test_stripped_of_metadata_the_colour_profile_stays(photo, tmp_path):
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
def test_what_a_format_cannot_hold_is_refused(mode, frames, out, word):
    with pytest.raises(PhotoError, match=word):
        writing.refuse(Path(out), (10, 10), frames, len(mode))
    with pytest.raises(PhotoError, match="at most 16383 a side"):
        writing.refuse(Path("x.webp"), (20_000, 10), 1, 3)


def test_a_file_that_cannot_be_finished_leaves_nothing(photo, tmp_path):
    photo.convert("RGB").save(tmp_path / "small.png")
    found = pages.read(tmp_path / "small.png")

    def broken(page):
        large = upscaling.large_page(page, LARGE, NETWORKS)

        def strips():
            yield next(large.strips)[:5]
            raise OSError("no more")

        return pages.LargePage(large.size, strips(), large.about)

    for limit in (10**9, 0):
        writing.WHOLE, before = limit, writing.WHOLE
        try:
            with pytest.raises(OSError, match="no more"):
                writing.write(tmp_path / "large.png", [broken(next(pages.read(tmp_path / "small.png").pages))])
        finally:
            writing.WHOLE = before
    assert [path.name for path in tmp_path.iterdir()] == ["small.png"]
    assert found.count == 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_disk_that_is_full_fails_and_leaves_nothing(tmp_path, suffix):
    """In a process that may write no file of more than 100 kB, row by row."""
    code = f"""
import resource, sys
import numpy as np
from pathlib import Path
from loupe.data import pages, writing
writing.WHOLE = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
noise = np.random.default_rng(0).integers(0, 256, (3000, 2000, 3)).astype("uint8")
page = pages.LargePage((2000, 3000), iter(np.array_split(noise, 30)), pages.Page(noise))
try:
    writing.write(Path({str(tmp_path / f"large.{suffix}")!r}), [page])
except OSError as error:
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == 7
    assert list(tmp_path.iterdir()) == []


def test_pages_of_a_tiff_keep_sixteen_bits_of_colour(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (62, 45, 3)).astype("uint16")
    several = pyvips.Image.new_from_array(pixels, interpretation="rgb16").copy()
    several.set_type(pyvips.GValue.gint_type, "page-height", 31)
    several.tiffsave(str(tmp_path / "small.tif"))
    found = pages.read(tmp_path / "small.tif")
    assert found.count == 2
    writing.write(tmp_path / "large.tif", upscaling.large_pages(found, Fraction(3, 2), None, NETWORKS), 2)
    for number in range(2):
        large = pyvips.Image.new_from_file(str(tmp_path / "large.tif"), page=number)
        assert (large.width, large.height, large.format, large.bands) == (68, 47, "ushort", 3)


@pytest.mark.parametrize(("bands", "interpretation"), [(1, "grey16"), (3, "rgb16"), (4, "cmyk")])
def test_sixteen_bits_of_a_tiff_are_read_by_what_they_mean(tmp_path, bands, interpretation):
    pixels = np.random.default_rng(0).integers(0, 65536, (31, 45, bands)).astype("uint16")
    image = pyvips.Image.new_from_array(pixels, interpretation=interpretation)
    image.tiffsave(str(tmp_path / "small.tif"), miniswhite=bands == 1)
    if interpretation == "cmyk":
        with pytest.raises(PhotoError, match="cmyk"):
            next(pages.read(tmp_path / "small.tif").pages)
        return
    assert np.array_equal(next(pages.read(tmp_path / "small.tif").pages).pixels, pixels)


def test_a_transparent_value_of_grey_is_transparency(tmp_path):
    deep = np.array([[7, 9], [9, 7]], "uint16")
    Image.fromarray(deep).save(tmp_path / "deep.png", transparency=7)
    page = next(pages.read(tmp_path / "deep.png").pages)
    assert page.pixels[..., 1].tolist() == [[0, 65535], [65535, 0]]
    two = Image.fromarray(np.array([[0, 255], [255, 0]], "uint8")).convert("1")
    two.save(tmp_path / "two.png", transparency=1)
    page = next(pages.read(tmp_path / "two.png").pages)
    assert page.pixels.tolist() == [[[0, 255], [255, 0]], [[255, 0], [0, 255]]]


def test_frames_of_different_sizes_go_into_a_tiff_alone(tmp_path):
    several = [Image.new("RGB", (10, 10)), Image.new("RGB", (20, 10))]
    several[0].save(tmp_path / "small.tif", save_all=True, append_images=several[1:])
    with pytest.raises(PhotoError, match="different sizes"):
        upscaled(tmp_path / "small.tif", tmp_path / "large.webp")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.tif"]


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_size_that_is_told_is_upright(photo, tmp_path, orientation):
    for suffix in ("jpg", "png", "tif", "webp"):
        photo.convert("RGB").save(tmp_path / f"small.{suffix}", exif=exif(orientation))
        found = pages.read(tmp_path / f"small.{suffix}")
        assert found.size == (SIZE if orientation == 1 else SIZE[::-1])
        assert next(found.pages).pixels.shape[1::-1] == found.size


def test_a_png_that_tells_its_colours_without_a_profile_tells_them_still(photo, tmp_path):
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", (100_000).to_bytes(4, "big"))
    primaries = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    chunks.add(b"cHRM", b"".join(value.to_bytes(4, "big") for value in primaries))
    photo.convert("RGB").save(tmp_path / "small.png", pnginfo=chunks, icc_profile=None)
    large = upscaled(tmp_path / "small.png", tmp_path / "large.png")
    assert large.info["gamma"] == 1.0
    assert [round(value * 1e5) for value in large.info["chromaticity"]] == list(primaries)
