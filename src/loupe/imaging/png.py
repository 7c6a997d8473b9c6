"""A page to a PNG (ISO/IEC 15948), row by row, in 8 or 16 bits, with the chunks that go with it."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

import numpy as np
from PIL import Image, PngImagePlugin

from loupe.imaging.conversion import to_8_bits
from loupe.imaging.reader import LargePage, Page
from loupe.imaging.threads import run_in_order

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # bands to colour type
SUB, UP, AVERAGE, PAETH = 1, 2, 3, 4
ZLIB, LAST_BLOCK = b"\x78\x01", b"\x03\x00"  # what a stream of RFC 1950 begins with, and an empty block that ends it
BLOCK = 2**18  # bytes that are filtered at once: they stay in the cache of a core
Encoded = tuple[list[np.ndarray], bytes]


def write_png(stream: IO[bytes], page: LargePage, deep: bool, compress_level: int, options: dict[str, Any]) -> None:
    """Write a page while its rows are computed; strips of it are encoded by as many threads as there are cores.

    Args:
        stream: to write to.
        page: that is written.
        deep: whether in 16 bits, not 8.
        compress_level: 0..9; 1 looks for runs only, and at 0 nothing is filtered either.
        options: of what goes with the page, as Pillow's writer of PNG takes them.
    """
    bands = page.about.pixels.shape[2]
    in_front, behind = _chunks(options)
    stream.write(SIGNATURE)
    bits = 16 if deep else 8
    _write(stream, b"IHDR", struct.pack(">IIBBBBB", *page.size, bits, COLOURS[bands], 0, 0, 0))
    stream.write(in_front)
    checksum, data = zlib.adler32(b""), ZLIB
    for filtered, deflated in run_in_order(_tasks(page, deep, compress_level)):
        for part in filtered:
            checksum = zlib.adler32(part.data, checksum)
        _write(stream, b"IDAT", data + deflated)
        data = b""
    _write(stream, b"IDAT", LAST_BLOCK + struct.pack(">I", checksum))
    stream.write(behind)
    _write(stream, b"IEND", b"")


def chunks_of(about: Page) -> PngImagePlugin.PngInfo:
    """The chunks of a PNG that tell a page's colours, its comments and its XMP."""
    chunks = PngImagePlugin.PngInfo()
    for name, data in about.chunks.items():
        chunks.add(name, data)
    for keyword, text in about.texts.items():
        chunks.add_itxt(keyword, text)
    if about.xmp:
        chunks.add_itxt("XML:com.adobe.xmp", about.xmp.decode("utf-8", "replace"))
    return chunks


def _tasks(
    page: LargePage, deep: bool, compress_level: int
) -> Iterator[Callable[[], tuple[list[np.ndarray], bytes]]]:
    """Work for each strip of a page, which needs of the one above no more than its last row."""
    above = None
    for strip in page.strips:
        pixels = strip.astype(">u2") if deep else to_8_bits(strip)
        rows = pixels.reshape(len(pixels), -1).view(np.uint8)
        above = np.zeros_like(rows[0]) if above is None else above
        yield partial(_encoded, rows, above, rows.shape[1] // page.size[0], compress_level)
        above = rows[-1]


def _encoded(rows: np.ndarray, above: np.ndarray, step: int, compress_level: int) -> Encoded:
    """Filtered rows, and the same as blocks of RFC 1951, up to a whole byte; arguments as `_filtered` takes them."""
    # what is left of a photo, once it is filtered, has runs, and little else to be found again
    strategy = zlib.Z_RLE if compress_level == 1 else zlib.Z_DEFAULT_STRATEGY
    deflate = zlib.compressobj(compress_level, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    many = max(1, BLOCK // rows.shape[1])
    filtered, data = [], b""
    for top in range(0, len(rows), many):
        filtered.append(_filtered(rows[top : top + many], above, step, compress_level))
        data += deflate.compress(filtered[-1].data)
        above = rows[top : top + many][-1]
    return filtered, data + deflate.flush(zlib.Z_SYNC_FLUSH)


def _filtered(rows: np.ndarray, above: np.ndarray, step: int, compress_level: int) -> np.ndarray:
    """Rows less what is expected of them, by whichever filter leaves least (the standard's heuristic, 12.8).

    Paeth's, which takes longer than all others together, is tried from level 2 on.

    Args:
        rows: uint8, (height, bytes).
        above: the row in front of them.
        step: bytes of a pixel.
        compress_level: as `write_png` takes it.

    Returns:
        uint8, (height, 1 + bytes); in front the filter of each row.
    """
    if compress_level == 0:
        return np.pad(rows, ((0, 0), (1, 0)))  # filter 0: as they are
    up = np.concatenate([above[None], rows[:-1]])
    left = _shifted(rows, step)
    average = (left & up) + ((left ^ up) >> 1)  # rounded down, in 8 bits
    kinds = {SUB: rows - left, UP: rows - up, AVERAGE: rows - average}
    if compress_level > 1:
        kinds[PAETH] = rows - _paeth(left, up, _shifted(up, step))
    left_over = [np.abs(differences.view(np.int8)).view(np.uint8).sum(1, "uint32") for differences in kinds.values()]
    best = np.argmin(left_over, axis=0)
    filtered = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    for number, (kind, differences) in enumerate(kinds.items()):
        filtered[best == number, 0] = kind
        filtered[best == number, 1:] = differences[best == number]
    return filtered


def _shifted(rows: np.ndarray, step: int) -> np.ndarray:
    shifted = np.zeros_like(rows)
    shifted[:, step:] = rows[:, :-step]
    return shifted


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Whichever of the three is nearest to left + up - corner; the first of those equally near."""
    wide = [part.astype("int16") for part in (left, up, corner)]
    expected = wide[0] + wide[1] - wide[2]
    to_left, to_up, to_corner = (np.abs(expected - part) for part in wide)
    of_two = np.where(to_up <= to_corner, up, corner)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, of_two)


def _chunks(options: dict[str, Any]) -> tuple[bytes, bytes]:
    """The chunks that Pillow writes in front of the pixels and behind them."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG", **options)
    parts = list(_split(file.getvalue()))
    pixels = next(number for number, (kind, _) in enumerate(parts) if kind == b"IDAT")
    in_front, behind = parts[1:pixels], parts[pixels + 1 : -1]
    return b"".join(chunk for _, chunk in in_front), b"".join(chunk for _, chunk in behind)


def _split(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at < len(file):
        end = at + 12 + int.from_bytes(file[at : at + 4], "big")
        yield file[at + 4 : at + 8], file[at:end]
        at = end


def _write(stream: IO[bytes], kind: bytes, data: bytes) -> None:
    if data or kind == b"IEND":
        stream.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
