"""Images with huge sizes and PostScript programs are refused in one line and not decoded."""

import struct
import tracemalloc
import zlib

import pytest
from jobs import loupe

from loupe.imaging.decoder import PhotoError
from loupe.imaging.grey import GreyPhoto

TOO_MANY = "too many pixels: must be at most 178,956,970, got {:,}"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *more):
    """Return a PNG with this size in its header and almost no data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(10**5)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + data + chunk(b"IEND", b"")


def tiff(*sizes):
    """Return a TIFF with a page of each size and no data."""
    pages, at = [], 8
    for number, (width, height) in enumerate(sizes):
        tags = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1),
                278: (4, height), 279: (4, 100)}  # fmt: skip
        entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items()))
        at += 6 + len(entries)
        pages.append(struct.pack("<H", len(tags)) + entries + struct.pack("<I", at if number < len(sizes) - 1 else 0))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages) + bytes(100)


def webp(width, height):
    """Return a WebP with a canvas of this size and one frame of 1x1 pixels."""
    frame = b"VP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", 0) + b"\0"
    canvas = b"\x02\0\0\0" + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    moves = b"ANIM" + struct.pack("<I", 6) + bytes(6)
    shown = b"ANMF" + struct.pack("<I", 16 + len(frame)) + bytes(16) + frame
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + moves + shown
    return b"RIFF" + struct.pack("<I", len(body)) + body


# 13,400 x 13,400 is just above the limit; Pillow warns above half the limit
BOMBS = {
    "half.png": (png(13_400, 13_400), 179_560_000),
    "huge.png": (png(60_000, 60_000), 3_600_000_000),
    "vast.png": (png(2**31 - 1, 2**31 - 1), (2**31 - 1) ** 2),
    "half.tif": (tiff((13_400, 13_400)), 179_560_000),
    "huge.tif": (tiff((60_000, 60_000)), 3_600_000_000),
    "half.webp": (webp(16_383, 11_000), 180_213_000),
}
# Only `upscale` reads all frames and pages; the other steps read the first.
MULTI_IMAGE_BOMBS = {
    "frames.png": (png(4000, 4000, chunk(b"acTL", struct.pack(">II", 10**9, 0))), 4000 * 4000 * (10**9 + 1)),
    "pages.tif": (tiff((8, 8), (13_400, 13_400)), 179_560_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_photo_with_too_many_pixels_is_refused_with_size_and_limit(name):
    content, size = BOMBS[name]
    tracemalloc.start()
    with pytest.raises(PhotoError) as caught:
        GreyPhoto(content, lambda size: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value) == TOO_MANY.format(size)
    assert peak < 10**7


def test_largest_permitted_photo_is_not_refused_for_its_size():
    with pytest.raises(PhotoError, match="damaged"):
        GreyPhoto(png(13_377, 13_377), lambda size: None)


def test_postscript_is_refused_and_not_run(tmp_path):
    canary = tmp_path / "canary"
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({canary}) (w) file closefile\nshowpage\n"
    for name in ("photo.eps", "photo.jpg"):
        (tmp_path / name).write_text(program)
        with pytest.raises(PhotoError, match="a PostScript program, not a photo"):
            GreyPhoto((tmp_path / name).read_bytes(), lambda size: None)
    assert not canary.exists()


@pytest.mark.parametrize("name", BOMBS | MULTI_IMAGE_BOMBS)
def test_upscale_refuses_a_huge_image_and_writes_nothing(name, work, refuse):
    content, size = (BOMBS | MULTI_IMAGE_BOMBS)[name]
    (work / name).write_bytes(content)
    error = refuse("upscale", name, "--out", "large", "--model", "tiny", status=1, changes=name == "pages.tif")
    assert f"{name}: " in error
    assert error.endswith(f"{TOO_MANY.format(size)}\n")
    assert not (work / "large" / name).exists()


def test_upscale_continues_after_huge_images(work, photo):
    (work / "photos").mkdir()
    for name, (content, _) in BOMBS.items():
        (work / "photos" / name).write_bytes(content)
    (work / "photos" / "good.png").write_bytes(photo)
    done = loupe("upscale", "photos", "--out", "large", "--model", "tiny", "--quiet", cwd=work, status=1)
    lines = done.stderr.splitlines()
    assert {line.partition(": ")[0] for line in lines[:-1]} == {f"photos/{name}" for name in BOMBS}
    assert lines[-1] == f"loupe upscale: error: {len(BOMBS)} of {len(BOMBS) + 1} photos could not be upscaled"
    assert [file.name for file in (work / "large").iterdir()] == ["good.png"]


def test_preprocess_skips_huge_images_and_counts_them(work, photo):
    (work / "photos").mkdir()
    for name in ("half.png", "huge.tif"):
        (work / "photos" / name).write_bytes(BOMBS[name][0])
    for number in range(3):
        (work / "photos" / f"{number}.png").write_bytes(photo + bytes(number))
    printed = loupe("preprocess", "--source", "photos", "--label_size", "30", cwd=work).stdout
    assert "2 skipped, 2 too many pixels" in printed
