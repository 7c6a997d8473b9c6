"""`loupe upscale` and `loupe restore` on the command line, in folders without an MLflow store."""

import ctypes
import io
import os
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import pyvips
from jobs import build_env, loupe, measure_step
from PIL import Image

from loupe.config import parse_settings
from loupe.errors import LoupeError, UsageError
from loupe.imaging import reader
from loupe.photos.comparison import validate_file
from loupe.steps import restore, upscale

GOOD = 40
SIZES = [
    ("--scale", "1.5", (768, 576)),
    ("--scale", "2", (1024, 768)),
    ("--scale", "3.7", (1894, 1421)),
    ("--size", "1920x1440", (1920, 1440)),
    ("--scale", "1", (512, 384)),
    ("--scale", "8", (4096, 3072)),
]


@pytest.fixture(scope="module")
def real() -> Image.Image:
    import skimage

    return Image.open(Path(skimage.__file__).parent / "data" / "coffee.png").convert("RGB").resize((512, 384))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def damage(folder: Path, real: Image.Image) -> list[str]:
    """Write nine files, each damaged differently; return their names."""
    stream = io.BytesIO()
    real.save(stream, "JPEG")
    (folder / "truncated.jpg").write_bytes(stream.getvalue()[:5000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "bomb.png").write_bytes(png(60_000, 60_000, zlib.compress(b"\0" * 1_000_000)))
    (folder / "suffix.png").write_bytes(stream.getvalue())
    (folder / "locked.jpg").write_bytes(stream.getvalue())
    (folder / "locked.jpg").chmod(0)
    os.symlink("loop.jpg", folder / "loop.jpg")
    (folder / "header.png").write_bytes(png(2**31 - 1, 2**31 - 1, b""))
    (folder / "zero.png").write_bytes(png(0, 7, zlib.compress(b"")))
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def many(tmp_path: Path, real: Image.Image) -> tuple[Path, list[str]]:
    folder = tmp_path / "photos"
    folder.mkdir()
    bad = damage(folder, real)
    assert len(bad) == 9
    (folder / "inner").mkdir()
    for number in range(GOOD):
        part = real.crop((number, number, number + 120, number + 80))
        part.save(folder / ("inner" if number % 2 else ".") / f"{number:03}.{('jpg', 'png', 'webp')[number % 3]}")
    return folder, bad


def limit_root() -> None:
    """Apply file permissions to root: drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (capabilities(7))."""
    drop = 24  # PR_CAPBSET_DROP
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(drop, capability, 0, 0, 0)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "loupe", "upscale", *map(str, arguments)]


def results(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_damaged_files_are_reported_and_a_killed_step_resumes(many, tmp_path):
    folder, bad = many
    out = tmp_path / "out"
    options = {
        "cwd": tmp_path,
        "env": build_env(),
        "capture_output": True,
        "text": True,
        "preexec_fn": limit_root,
    }
    whole = subprocess.run(command(folder, "--out", out), check=False, **options)
    assert whole.returncode == 1, whole.stderr
    lines = whole.stderr.splitlines()
    reported = {Path(line.split(": ")[0]).name: line for line in lines if str(folder) in line.split(": ")[0]}
    assert sorted(reported) == bad
    assert len({line.partition(": ")[2] for line in reported.values()}) >= 7  # different reasons
    print(*reported.values(), sep="\n")
    assert lines[-1] == f"loupe upscale: error: 9 of {GOOD + 9} photos could not be upscaled"
    assert "Traceback" not in whole.stderr
    expected = results(out)
    assert len(expected) == GOOD
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "mlruns").exists()

    again = subprocess.run(command(folder, "--out", out), check=False, **options)  # no result is overwritten
    assert again.returncode == 1
    assert again.stderr.count("exists; --overwrite replaces it") == GOOD
    assert results(out) == expected

    killed = tmp_path / "killed"
    for stop in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        before = len(list(killed.rglob("*.*g"))) if killed.exists() else 0
        running = subprocess.Popen(
            command(folder, "--out", killed, "--resume"), cwd=tmp_path, env=build_env(), preexec_fn=limit_root,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + 60
        while time.monotonic() < until and running.poll() is None:
            if killed.exists() and len(list(killed.rglob("*.*g"))) > before + 3:
                break
            time.sleep(0.01)
        running.send_signal(stop)
        running.wait(60)
        left = list(killed.rglob(".loupe-*"))
        assert stop == signal.SIGKILL or not left
        for path in killed.rglob("*.*"):
            if path.is_file() and not path.name.startswith("."):
                Image.open(path).load()
    last = subprocess.run(command(folder, "--out", killed, "--resume"), check=False, **options)
    assert last.returncode == 1
    assert results(killed) == expected


@pytest.mark.parametrize(("flag", "value", "size"), SIZES)
def test_sizes_are_exact(real, tmp_path, flag, value, size):
    real.save(tmp_path / "photo.png")
    printed = loupe("upscale", "photo.png", flag, value, "--out", "large.png", "--model", "bundled", cwd=tmp_path)
    assert Image.open(tmp_path / "large.png").size == size
    name = r", by the bundled network small of [1234]:[12](, assumed JPEG quality 100 \(100: no artefacts\))?"
    name = "" if size == real.size else name
    assert re.fullmatch(f"large.png: {size[0]}x{size[1]}{name}\n", printed.stdout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.png", "photo.png"]


@pytest.mark.parametrize("step", [upscale, restore], ids=["upscale", "restore"])
def test_settings_of_files_and_networks_change_the_results(step, real, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tags = Image.Exif()
    tags[0x010E] = "A cup"
    real.resize((90, 60)).save("photo.png", exif=tags)
    given = {"compress_level": 9, "strip_metadata": True, "jpeg_quality": 50, "denoise": 7}
    results = []
    for number, more in enumerate(({"compress_level": 0}, given, given | {"ensemble": True})):
        settings = {"inputs": "photo.png", "out": f"{number}.png", "model": "bundled"} | more
        step.run(parse_settings(step.__name__.rpartition(".")[2], settings))
        results.append(Image.open(f"{number}.png"))
    printed = capsys.readouterr().out
    assert printed.count("assumed JPEG quality 50; removed noise (standard deviation 7.0)") == 2
    assert [dict(image.getexif()).get(0x010E) for image in results] == ["A cup", None, None]
    assert Path("1.png").stat().st_size < 0.7 * Path("0.png").stat().st_size
    assert not np.array_equal(results[1], results[2])


def test_memory_limits_the_images(real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    real.resize((1600, 1200)).save("photo.png")
    settings = {"inputs": "photo.png", "out": "large.webp", "scale": 8, "model": "lanczos", "memory": 200}
    rule = r"memory: must be at least (\d+) MB for .+, got 200 MB; --memory \1 allows it"
    with pytest.raises(LoupeError, match=rule):
        upscale.run(parse_settings("upscale", settings))
    assert not Path("large.webp").exists()


def test_feather_sets_the_width_of_the_edges_of_the_mask(real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = real.resize((60, 40))
    photo.save("photo.png")
    mask = Image.new("L", (60, 40))
    mask.paste(255, (30, 0, 60, 40))
    mask.save("mask.png")
    shared = {"inputs": "photo.png", "method": "nlm", "denoise": 40, "mask": "mask.png"}
    columns = []
    for feather in (0, 20):
        restore.run(parse_settings("restore", shared | {"feather": feather, "out": f"{feather}.png"}))
        changed = np.asarray(Image.open(f"{feather}.png")) != np.asarray(photo)
        columns.append(np.flatnonzero(changed.any(axis=(0, 2))).min())
    assert columns[0] >= 30 > columns[1]


def test_a_size_with_another_aspect_ratio_is_fitted(real, tmp_path):
    (tmp_path / "in").mkdir()
    real.save(tmp_path / "in" / "wide.png")
    real.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "in" / "tall.png")
    for fit, expected in {"inside": [(810, 1080), (1440, 1080)], "cover": [(1920, 1080)] * 2}.items():
        loupe(
            "upscale",
            "in",
            "--size",
            "1920x1080",
            "--fit",
            fit,
            "--out",
            fit,
            "--compare",
            f"{fit}.html",
            cwd=tmp_path,
        )
        assert [Image.open(tmp_path / fit / name).size for name in ("tall.png", "wide.png")] == expected
    inside = Image.open(tmp_path / "inside" / "wide.png").resize((1920, 1440)).crop((0, 180, 1920, 1260))
    cover = np.asarray(Image.open(tmp_path / "cover" / "wide.png"), float)
    assert np.abs(cover - np.asarray(inside)).mean() < 3
    failed = loupe("upscale", "in/wide.png", "--size", "1920x1080", "--fit", "exact", cwd=tmp_path, status=1)
    assert "1920x1440 or 1440x1080, got 1920x1080" in failed.stderr
    assert not (tmp_path / "upscaled").exists()
    alone = loupe("upscale", "in/wide.png", "--fit", "cover", cwd=tmp_path, status=2)
    assert "fit: has no effect with size=none" in alone.stderr


def test_a_dry_run_prints_the_results_and_writes_nothing(real, tmp_path):
    (tmp_path / "in").mkdir()
    real.save(tmp_path / "in" / "photo.png")
    printed = loupe("upscale", "in", "--dry_run", "--format", "webp", cwd=tmp_path).stdout
    assert printed == "in/photo.png -> upscaled/photo.png.webp\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_results_fit_a_longest_side_or_a_number_of_pixels(real, tmp_path):
    (tmp_path / "in").mkdir()
    real.resize((60, 40)).save(tmp_path / "in" / "small.png")
    real.resize((200, 300)).save(tmp_path / "in" / "large.png")
    flags = ["--model", "bilinear", "--overwrite", "--out", "out"]
    printed = loupe("upscale", "in", "--longest-side=120", "--skip-larger", *flags, cwd=tmp_path).stdout
    assert printed.endswith(": 1 photo upscaled by bilinear, 1 skipped, larger than the requested size\n")
    assert Image.open(tmp_path / "out" / "small.png").size == (120, 80)
    loupe("upscale", "in", "--megapixels=0.09", "--suffix=_big", *flags, cwd=tmp_path)
    sizes = {name: Image.open(tmp_path / "out" / f"{name}_big.png").size for name in ("small", "large")}
    assert sizes == {"small": (367, 245), "large": (245, 367)}
    failed = loupe("upscale", "in", "--longest-side=120", *flags, cwd=tmp_path, status=1)
    assert "large.png: longest_side: must be 1 to 8 times the photo's 300, got 120" in failed.stderr
    failed = loupe("upscale", "in", "--megapixels=0.01", *flags, cwd=tmp_path, status=1)
    assert "large.png: megapixels: must be 1 to 64 times the photo's 0.06, got 0.01" in failed.stderr
    for flag in ("--scale=2", "--megapixels=1"):
        refused = loupe("upscale", "in", "--longest-side=120", flag, *flags, cwd=tmp_path, status=2)
        assert "longest_side: must not be used with" in refused.stderr
    refused = loupe("upscale", "in", "--skip-larger", *flags, cwd=tmp_path, status=2)
    assert "skip_larger: must be used with size, longest_side or megapixels, got none of them" in refused.stderr


def test_photos_are_replaced_in_place_with_their_permissions_and_times(real, tmp_path):
    for name in ("photo.png", "other.png"):
        real.resize((60, 40)).save(tmp_path / name)
    (tmp_path / "cut.png").write_bytes((tmp_path / "photo.png").read_bytes()[:900])
    (tmp_path / "link.png").symlink_to("other.png")
    os.chmod(tmp_path / "photo.png", 0o640)
    os.utime(tmp_path / "photo.png", (10**9, 10**9))
    arguments = ["upscale", ".", "--in-place", "--model", "bilinear", "--keep-times", "--scale", "2"]
    failed = loupe(*arguments, cwd=tmp_path, status=1)
    assert "link.png: links are not replaced" in failed.stderr
    status = (tmp_path / "photo.png").stat()
    assert (status.st_mode & 0o777, status.st_mtime) == (0o640, 10**9)
    assert Image.open(tmp_path / "photo.png").size == Image.open(tmp_path / "other.png").size == (120, 80)
    assert (tmp_path / "cut.png").stat().st_size == 900
    assert sorted(os.listdir(tmp_path)) == ["cut.png", "link.png", "other.png", "photo.png"]
    refused = loupe(*arguments, "--out", "out", cwd=tmp_path, status=2)
    assert "in_place: must not be used with out, got both" in refused.stderr


def test_a_photo_is_read_from_and_written_to_standard_streams(real, tmp_path):
    photo = io.BytesIO()
    real.resize((60, 40)).save(photo, "PNG")
    command = [sys.executable, "-m", "loupe", "upscale", "-", "--out", "-", "--model", "bilinear"]
    for content, flags, expected in [
        (photo.getvalue(), ["--format", "webp"], 0), (b"text", [], 2), (photo.getvalue()[:900], [], 1)
    ]:  # fmt: skip
        done = subprocess.run([*command, *flags], input=content, capture_output=True, cwd=tmp_path, env=build_env())
        assert done.returncode == expected, done.stderr
        assert done.stderr.count(b"\n") == (1 if expected else 0)
        if expected:
            assert done.stdout == b""
            assert b"the standard input" in done.stderr
            assert b"stdin" not in done.stderr
        else:
            with Image.open(io.BytesIO(done.stdout)) as result:
                assert (result.format, result.size) == ("WEBP", (90, 60))
    with open("/dev/full", "wb") as full:
        failed = subprocess.run(command, input=photo.getvalue(), stdout=full, stderr=subprocess.PIPE, env=build_env())
    assert failed.returncode == 1
    line = b"loupe upscale: error: out: the standard output cannot be written: No space left on device\n"
    assert failed.stderr.endswith(line)
    assert os.listdir(tmp_path) == []


def test_a_lossless_webp_stays_lossless_without_a_quality(real, tmp_path):
    real.resize((60, 40)).save(tmp_path / "photo.webp", lossless=True)
    loupe("upscale", "photo.webp", "--out", "same.webp", cwd=tmp_path)
    loupe("upscale", "photo.webp", "--out", "same.png", cwd=tmp_path)
    loupe("upscale", "photo.webp", "--out", "lossy.webp", "--quality", "90", cwd=tmp_path)
    assert reader.read_photo(tmp_path / "same.webp").lossless
    same, png = (np.asarray(Image.open(tmp_path / f"same.{suffix}")) for suffix in ("webp", "png"))
    assert np.array_equal(same, png)
    assert not reader.read_photo(tmp_path / "lossy.webp").lossless


def test_no_slow_package_is_imported(real, tmp_path):
    real.resize((60, 40)).save(tmp_path / "photo.jpg")
    code = (
        "import sys; from loupe.cli.main import main; status = main(['upscale', 'photo.jpg', '--out', 'o.jpg']); "
        "slow = {'tensorflow', 'keras', 'mlflow', 'scipy', 'sklearn', 'pyvips'}; "
        "slow |= {'loupe.config.training', 'loupe.config.datasets', 'loupe.data.sources'}; "
        "assert not slow & sys.modules.keys(); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=build_env(), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "no champion" in done.stdout


def test_unusual_file_names_are_accepted(real, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = [
        "-dash.png",
        "new\nline.png",
        "ünïcode 😀.png",
        "spaces and, commas.png",
        "'quotes\".png",
        "a" * 250 + ".png",
    ]
    for name in names:
        real.resize((30, 20)).save(folder / name)
    loupe("upscale", "in", "--out", "out", cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    loupe("upscale", "--out", "single", "--", "-dash.png", cwd=folder)
    assert (folder / "single" / "-dash.png").exists()


def test_the_comparison_is_self_contained(real, tmp_path):
    real.save(tmp_path / "a<b>.jpg")
    loupe("upscale", "a<b>.jpg", "--out", "large.jpg", "--compare", "page.html", cwd=tmp_path)
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/webp;base64,") == 3
    assert "a&lt;b&gt;.jpg" in page
    assert "a<b>" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    (tmp_path / "a<b>.jpg").rename(tmp_path / "b.jpg")
    shutil.copy(tmp_path / "large.jpg", tmp_path / "b_large.jpg")
    resumed = ("--resume", "--compare", "page.html")
    loupe("upscale", "b.jpg", "--out", "b_large.jpg", *resumed, cwd=tmp_path)
    page = (tmp_path / "page.html").read_text()
    assert (page.count("data:image/webp;base64,"), "b.jpg" in page) == (3, True)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_one_megapixel_takes_less_than_400_megabytes_including_the_start(real, tmp_path, suffix):
    real.resize((1152, 864)).save(tmp_path / "photo.jpg", quality=92)
    command = ["upscale", "photo.jpg", "--out", f"large.{suffix}", "--overwrite", "--quiet", "--model", "bundled"]
    seconds, memory = zip(*(measure_step(*command, cwd=tmp_path) for _ in range(3)), strict=True)
    print(f"one megapixel of JPEG to {suffix}, including the start: {min(seconds):.2f} s, {max(memory):.0f} MB")
    assert max(memory) < 400
    assert os.environ.get("LOUPE_STRICT_TIMINGS") != "1" or min(seconds) <= 1.2


@pytest.mark.slow
def test_108_megapixels_take_less_than_one_and_a_half_gigabytes(real, tmp_path):
    huge = real.resize((12_000, 9_000), Image.Resampling.BICUBIC)
    for suffix, height in (("jpg", 9_000), ("png", 2_000)):  # rows of the PNG are written one after the other
        huge.crop((0, 0, 12_000, height)).save(tmp_path / "huge.jpg", quality=85)
        out = tmp_path / f"large.{suffix}"
        seconds, memory = measure_step(
            "upscale", "huge.jpg", "--out", out, "--quiet", "--model", "tiny", cwd=tmp_path
        )
        print(f"12,000x{height:,} to {suffix}: {seconds:.0f} s, {memory:.0f} MB")
        assert memory < (1500 if height == 9_000 else 800)
        large = pyvips.Image.new_from_file(str(out), access="sequential")
        assert (large.width, large.height) == (18_000, 1.5 * height)
        out.unlink()


def test_restore_denoises_where_the_mask_is_white_and_keeps_metadata(real, tmp_path):
    tags = Image.Exif()
    tags[0x010E] = "A cup"
    noise = np.random.default_rng(0).normal(0, 12, (384, 512, 3))
    rough = Image.fromarray(np.clip(np.asarray(real) + noise, 0, 255).astype("uint8"))
    rough.save(tmp_path / "photo.png", exif=tags)
    mask = Image.new("L", (512, 384))
    mask.paste(255, (256, 0, 512, 384))
    mask.save(tmp_path / "mask.png")
    arguments = ("photo.png", "--method=nlm", "--mask", "mask.png", "--strength", "0.9", "--out", "clean.png")
    printed = loupe("restore", *arguments, cwd=tmp_path).stdout
    assert re.fullmatch(
        r"clean\.png: 512x384, by non-local means, removed noise \(standard deviation 1[012]\.\d\)\n", printed
    )
    clean = Image.open(tmp_path / "clean.png")
    assert clean.getexif()[0x010E] == "A cup"
    before, after, truth = (np.asarray(image).astype(float) for image in (rough, clean, real))
    assert np.array_equal(after[:, :230], before[:, :230])
    assert np.abs(after - truth)[:, 280:].mean() < 0.6 * np.abs(before - truth)[:, 280:].mean()
    wrong = loupe("restore", "photo.png", "--mask", "photo.txt", cwd=tmp_path, status=2)
    assert "mask: must be an existing file, got 'photo.txt'" in wrong.stderr
    mask.resize((10, 10)).save(tmp_path / "mask.png")
    wrong = loupe("restore", "photo.png", "--mask", "mask.png", cwd=tmp_path, status=1)
    assert "512x384 pixels, got 10x10" in wrong.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.png", "mask.png", "photo.png"]


def test_file_names_with_invalid_utf8_are_accepted(real, tmp_path):
    name = os.fsdecode(b"\xff\xfe.jpg")
    real.resize((30, 20)).save(tmp_path / name)
    printed = loupe("upscale", ".", "--out", "out", "--compare", "page.html", cwd=tmp_path).stdout
    assert "45x30" in printed
    assert os.listdir(tmp_path / "out") == [name]
    loupe("upscale", ".", "--dry_run", "--out", "other", cwd=tmp_path)


def test_only_the_photo_with_a_name_that_is_too_long_fails(real, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a" * 251 + ".jpg", "b.jpg"):
        real.resize((30, 20)).save(tmp_path / "in" / name)
    for _ in range(2):
        failed = loupe("upscale", "in", "--out", "out", "--format", "webp", "--resume", cwd=tmp_path, status=1)
        assert "1 of 2 photos could not be upscaled" in failed.stderr
        assert os.listdir(tmp_path / "out") == ["b.jpg.webp"]


@pytest.mark.parametrize("model", ["models:/loupe@champion", "runs:/123/model"])
def test_a_model_of_a_missing_store_creates_no_store(real, tmp_path, model):
    real.save(tmp_path / "photo.png")
    failed = loupe("upscale", "photo.png", "--model", model, cwd=tmp_path, status=2)
    assert "needs an MLflow store that exists" in failed.stderr
    assert os.listdir(tmp_path) == ["photo.png"]


def test_with_an_unreachable_server_the_bundled_network_is_used_after_one_line(real, tmp_path):
    for number in range(3):
        real.resize((60, 40)).save(tmp_path / f"{number}.png")
    done = loupe("upscale", ".", "--quiet", cwd=tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.stderr == "tracking: http://127.0.0.1:9 is unreachable; the bundled networks are used\n"
    assert len(list((tmp_path / "upscaled").iterdir())) == 3


def test_the_comparison_does_not_replace_a_file(real, tmp_path):
    real.save(tmp_path / "photo.png")
    (tmp_path / "page.html").write_text("precious")
    loupe("upscale", "photo.png", "--out", "l.png", "--compare", "page.html", cwd=tmp_path, status=2)
    assert (tmp_path / "page.html").read_text() == "precious"
    assert not (tmp_path / "l.png").exists()


def test_the_comparison_does_not_suggest_to_replace_a_folder(tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UsageError, match="compare: must be a file, got the folder"):
        validate_file(tmp_path / "page.html", overwrite=False)


def test_with_a_store_of_another_version_the_bundled_network_upscales(real, tmp_path):
    real.save(tmp_path / "photo.png")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table alembic_version (version_num varchar(32))")
        database.execute("insert into alembic_version values ('deadbeef1234')")
    done = loupe("upscale", "photo.png", cwd=tmp_path)
    assert "by the bundled network small" in done.stdout
    assert "Traceback" not in done.stderr
    assert "deadbeef1234" in done.stderr.splitlines()[-1]
