"""Reads thousands of damaged image files: each is decoded or raises PhotoError.

    python tests/imaging/fuzz_decoder.py 100000

prints the number of decoded and refused files, the longest time per file, and the growth of memory after the first
tenth. Images have at most two million pixels: many small files find more errors than few large ones.
"""

import io
import random
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pyvips
from PIL import Image, ImageCms, PngImagePlugin

from loupe.imaging import decoder, reader
from loupe.imaging.decoder import PhotoError

MAX_SECONDS = 5.0  # per file
MAX_PIXELS = 2_000_000


def seeds() -> list[bytes]:
    """Small files of all supported formats, modes and depths, with metadata."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :32]
    soft = np.stack([x * 7, y * 9, x + y], axis=-1).astype("uint8")
    photo = Image.fromarray(soft + rng.integers(0, 20, soft.shape).astype("uint8"))
    tags = Image.Exif()
    tags[0x0112], tags[0x010E] = 6, "A image"
    tags.get_ifd(0x8769)[0xA002] = 32
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", "<x tiff:Orientation='6'/>")
    about = {"exif": tags, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    alpha = photo.copy()
    alpha.putalpha(128)
    deep = Image.fromarray(soft[..., 0].astype("uint16") * 257)
    several = {"save_all": True, "append_images": [photo.rotate(90), photo.rotate(180)], "duration": 50}
    found = []
    for image, name, options in [
        (photo, "JPEG", about), (photo, "JPEG", {"progressive": True}), (photo.convert("L"), "JPEG", {}),
        (photo.convert("CMYK"), "JPEG", {}), (photo, "PNG", {**about, "pnginfo": chunks}), (alpha, "PNG", {}),
        (photo.quantize(16), "PNG", {"transparency": 3}), (photo.convert("1"), "PNG", {}), (deep, "PNG", {}),
        (photo, "PNG", several), (photo, "WEBP", about), (alpha, "WEBP", {"lossless": True}),
        (photo, "WEBP", several), (photo, "TIFF", about), (photo, "TIFF", {"compression": "tiff_lzw"}),
        (photo.convert("CMYK"), "TIFF", {"compression": "tiff_adobe_deflate"}), (deep, "TIFF", several),
        (photo.convert("1"), "TIFF", {"compression": "group4"}), (photo, "BMP", {}), (photo.convert("P"), "BMP", {}),
        (photo, "GIF", several), (photo.convert("P"), "GIF", {"transparency": 0}), (photo, "AVIF", about),
    ]:  # fmt: skip
        stream = io.BytesIO()
        image.save(stream, name, **options)
        found.append(stream.getvalue())
    sixteen = pyvips.Image.new_from_array(soft.astype("uint16") * 257, interpretation="rgb16")
    return [*found, sixteen.pngsave_buffer(), sixteen.tiffsave_buffer(compression="deflate")]


def damaged(chance: random.Random, whole: list[bytes]) -> bytes:
    """Change, remove or insert bytes of one of the files, or replace its end by that of another."""
    data = bytearray(chance.choice(whole))
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = (
            min(int(chance.expovariate(1 / 80)), len(data) - 1)
            if chance.random() < 0.6
            else chance.randrange(len(data))
        )
        kind = chance.random()
        if kind < 0.5:
            data[at] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        elif kind < 0.7:
            data[at : at + 4] = chance.choice(
                (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", chance.randbytes(4))
            )
        elif kind < 0.8:
            del data[at : at + chance.randrange(1, 64)]
        elif kind < 0.9:
            data[at:at] = chance.randbytes(chance.randrange(1, 64))
        elif kind < 0.95:
            del data[at:]
        else:
            data[at:] = chance.choice(whole)[at:]
        if not data:
            break
    return bytes(data)


def run(count: int, seed: int = 0) -> dict[str, float]:
    """Read damaged files.

    Args:
        count: the number of files.
        seed: the seed of the random damage.

    Returns:
        read, refused, slowest (seconds), growth (bytes of peak memory after the first tenth), seconds.

    Raises:
        AssertionError: a file raised another error than PhotoError, or took longer than MAX_SECONDS.
    """
    decoder.MAX_PIXELS = Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    warnings.simplefilter("ignore")
    chance, whole = random.Random(seed), seeds()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "photo")
        for data in whole:
            file.write_bytes(data)
            list(reader.read_photo(file).images)
        result = {"read": 0, "refused": 0, "slowest": 0.0, "growth": 0.0, "seconds": 0.0}
        start, settled = time.perf_counter(), 0
        for number in range(count):
            file.write_bytes(damaged(chance, whole))
            before = time.perf_counter()
            try:
                for image in reader.read_photo(file).images:
                    assert image.pixels.ndim == 3
                result["read"] += 1
            except PhotoError:
                result["refused"] += 1
            except BaseException as error:
                raise AssertionError(f"file {number} of seed {seed}: {type(error).__name__}: {error}") from error
            result["slowest"] = max(result["slowest"], time.perf_counter() - before)
            assert result["slowest"] < MAX_SECONDS, f"file {number} of seed {seed} took {result['slowest']:.1f} s"
            if number == count // 10:
                settled = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result["growth"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - settled) * 1024
    result["seconds"] = time.perf_counter() - start
    return result


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
