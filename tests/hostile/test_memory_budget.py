"""Small files that unpack to gigabytes, or need minutes: `upscale` and `restore` keep to their memory budget."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib

import pytest
from jobs import build_env, loupe
from peak_memory import measure_command
from PIL import Image

from loupe.imaging import isolated_reader

OVERHEAD_MB = 300  # of Python and the libraries


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def make_png(width, height, colour_type=0, bits=8):
    """Return a black PNG; colour types: 0 grey, 2 RGB."""
    row_bytes = 1 + width * (3 if colour_type == 2 else 1) * bits // 8
    deflate, rest, data = zlib.compressobj(9), row_bytes * height, []
    while rest:
        data.append(deflate.compress(bytes(min(rest, 10**7))))
        rest -= min(rest, 10**7)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    body = chunk(b"IDAT", b"".join(data) + deflate.flush())
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def make_frames(suffix, count, side):
    """Return an animation of frames with one colour each."""
    stream = io.BytesIO()
    first, *others = [Image.new("RGB", (side, side), (number % 256, 90, 0)) for number in range(count)]
    first.save(stream, Image.registered_extensions()[suffix], save_all=True, append_images=others, duration=20)
    return stream.getvalue()


def make_scans(side, count):
    """Return a progressive JPEG whose last scan is repeated."""
    stream = io.BytesIO()
    Image.new("L", (side, side), 100).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:]


def make_bmp(width, height):
    """Return a run-length encoded BMP that skips far ahead in each run."""
    runs = b"\x00\x02\xff\xff" * 1000 + b"\0\1"
    start = 14 + 40 + 1024
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 2835, 2835, 256, 256)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + sizes + bytes(1024) + runs


def make_webp(width, height):
    """Return a WebP with a canvas of this size and one frame of 1x1 pixels."""
    frame = b"VP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", 0) + b"\0"
    canvas = b"\x02\0\0\0" + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    shown = b"ANMF" + struct.pack("<I", 16 + len(frame)) + bytes(16) + frame
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6) + shown
    return b"RIFF" + struct.pack("<I", len(body)) + body


def make_tile_tiff(side):
    """Return a TIFF of 1x1 pixels with a tile of this side."""
    tags = {256: (4, 1), 257: (4, 1), 258: (3, 8), 259: (3, 8), 262: (3, 1), 277: (3, 1), 322: (4, side),
            323: (4, side), 324: (4, 8), 325: (4, 100)}  # fmt: skip
    page = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items())
    )
    return b"II*\0" + struct.pack("<I", 8) + page + bytes(204)


def make_lying_avif(side):
    """Return an AVIF whose container says 8x8 pixels."""
    stream = io.BytesIO()
    Image.new("L", (side, side), 100).save(stream, "AVIF", speed=10, quality=10)
    content = stream.getvalue()
    at = content.index(b"ispe") + 8
    return content[:at] + struct.pack(">II", 8, 8) + content[at + 8 :]


NEEDS = r"memory: must be at least \d+ MB for .+, got 2000 MB; --memory \d+ allows it"
SMALL = {
    "frames.gif": (lambda: make_frames(".gif", 100, 400), NEEDS),
    "frames.png": (lambda: make_frames(".png", 100, 400), NEEDS),
    "scans.jpg": (lambda: make_scans(64, 200), "must have at most 100 scans, got more"),
    "runs.bmp": (lambda: make_bmp(170_000_000, 1), NEEDS),
    "canvas.webp": (lambda: make_webp(16_000, 11_000), r"\.webp: width and height must be at most 16383, got .+"),
    "tile.tif": (lambda: make_tile_tiff(60_000), ".+"),
}
LARGE = {
    "wide.png": (lambda: make_png(178_000_000, 1), NEEDS),
    "wide_rgb.png": (lambda: make_png(178_000_000, 1, 2), NEEDS),
    "deep.png": (lambda: make_png(13_300, 13_300, 2, 16), NEEDS),
    "lying.avif": (lambda: make_lying_avif(10_000), ".+"),
    "scans.jpg": (lambda: make_scans(12_000, 1000), "must have at most 100 scans, got more"),
}


@pytest.fixture
def check(work, photo):
    """A function that runs a step on hostile files and a good photo, and checks the errors, memory and result."""

    def run(step, files, *arguments):
        (work / "photos").mkdir()
        for name, (make, _) in files.items():
            (work / "photos" / name).write_bytes(make())
        (work / "photos" / "good.png").write_bytes(photo)
        command = [sys.executable, "-m", "loupe", step, "photos", "--out", "large", "--quiet", "--memory", "2000"]
        done = measure_command([*command, *arguments], work, build_env())
        assert done.killed == ""
        assert done.peak_mb < 2000 + OVERHEAD_MB
        assert done.status == 1, done.stderr
        *lines, last = done.stderr.splitlines()
        assert {line.partition(": ")[0] for line in lines} == {f"photos/{name}" for name in files}
        for line in lines:
            name, _, reason = line.removeprefix("photos/").partition(": ")
            assert re.fullmatch(files[name][1], reason), line
        assert last.startswith(f"loupe {step}: error: {len(files)} of {len(files) + 1} photos could not be")
        assert [file.name for file in (work / "large").iterdir()] == ["good.png"]

    return run


def test_upscale_refuses_small_files_that_need_much_memory(check):
    check("upscale", SMALL, "--model", "tiny", "--scale", "8")


@pytest.mark.slow
@pytest.mark.parametrize("step", ["upscale", "restore"])
def test_files_that_unpack_to_gigabytes_stay_within_the_budget(step, check):
    files = {name: case for name, case in LARGE.items() if step == "upscale" or name != "deep.png"}
    check(step, files, *(["--model", "tiny"] if step == "upscale" else []))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["avif", "gif"])
def test_a_result_of_108_megapixels_is_refused_if_its_format_needs_more(suffix, work, refuse):
    (work / "photo.png").write_bytes(make_png(8000, 6000))
    error = refuse("upscale", "photo.png", f"--format={suffix}", "--model=tiny", "--memory=2000", status=1)
    assert re.search(NEEDS, error)


def test_an_animated_avif_of_few_columns_is_refused_if_the_encoder_needs_more(work, refuse):
    frames = [Image.new("L", (31, 4000), colour) for colour in (0, 255)]
    frames[0].save(work / "tall.gif", save_all=True, append_images=frames[1:])
    options = ("--format=avif", "--model=nearest", "--scale=8", "--memory=2000")
    assert re.search(NEEDS, refuse("upscale", "tall.gif", *options, status=1))


def test_a_webp_is_encoded_with_less_memory_if_the_budget_requires_it(work):
    Image.effect_noise((1600, 1500), 90).convert("RGB").save(work / "photo.png")
    command = ["upscale", "photo.png", "--model=nearest", "--scale=2", "--format=webp", "--quiet"]
    for memory in (1000, 350):
        loupe(*command, f"--out={memory}", f"--memory={memory}", cwd=work)
    large, small = ((work / f"{memory}" / "photo.png.webp").read_bytes() for memory in (1000, 350))
    assert large != small


@pytest.mark.slow
def test_a_webp_of_108_megapixels_stays_within_the_budget(work):
    Image.effect_noise((8000, 6000), 90).convert("RGB").save(work / "photo.jpg")
    command = [sys.executable, "-m", "loupe", "upscale", "photo.jpg", "--format=webp", "--model=tiny"]
    done = measure_command([*command, "--out=large", "--memory=2000"], work, build_env(), timeout_s=300)
    assert done.status == 0, done.stderr
    assert done.peak_mb < 2000 + OVERHEAD_MB


def test_a_smaller_budget_is_kept(work, refuse):
    (work / "photo.png").write_bytes(make_png(4000, 4000))
    error = refuse("upscale", "photo.png", "--model", "tiny", "--memory", "200", status=1)
    assert re.search(r"memory: must be at least \d+ MB for .+, got 200 MB; --memory \d+ allows it", error)


def test_a_path_that_is_too_long_does_not_end_the_batch(work, photo):
    (work / "photos").mkdir()
    (work / "photos" / "good.png").write_bytes(photo)
    folder = os.open(work / "photos", os.O_RDONLY)
    for _ in range(22):
        os.mkdir("d" * 200, dir_fd=folder)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    done = loupe("upscale", "photos", "--out", "large", "--model", "tiny", "--quiet", cwd=work, status=1)
    assert "file name too long" in done.stderr
    assert done.stderr.endswith("loupe upscale: error: 1 of 2 photos could not be upscaled\n")
    assert (work / "large" / "good.png").exists()
    subprocess.run(["rm", "-rf", work / "photos" / ("d" * 200)], check=True)  # pytest cannot remove long paths


def test_a_large_file_is_read_in_a_child_process(work, photo, monkeypatch):
    (work / "photo.png").write_bytes(photo)
    monkeypatch.setattr(isolated_reader, "ChildProcess", lambda function: pytest.fail("started", pytrace=False))
    with isolated_reader.open_readers(1) as (reader,):
        assert reader.open(work / "photo.png", 10**9).format == "PNG"
        monkeypatch.setattr(isolated_reader, "MAX_DIRECT_BYTES", len(photo) - 1)
        with pytest.raises(pytest.fail.Exception):
            reader.open(work / "photo.png", 10**9)
