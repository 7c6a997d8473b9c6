"""Writes a GIF. Most frames store only the pixels that differ from the previous frame."""

from collections.abc import Iterable
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from loupe.imaging.conversion import to_8_bits
from loupe.imaging.decoder import PhotoError
from loupe.imaging.formats import has_alpha
from loupe.imaging.image_data import ImageStream

EFFORT = 7  # of 10. Compared with Pillow's encoder, encoding takes 1.4 times as long, and the error is 13 % smaller.
# A pixel keeps the value of the previous frame if its new value differs by at most this number of levels per band.
# Without this rule, still pixels around a moving object would flicker, because a network's results for them change
# from frame to frame. With the bundled networks, 99 % of these changes are at most 6 levels if the object is more
# than 3 pixels of the photo away.
MAX_DIFFERENCE = 6
OPAQUE_ALPHA = 128  # pixels with less alpha become transparent
MAX_COLOURS = 255  # maximum colours of a palette, in addition to the transparent entry
SAMPLE_PIXELS = 2**16  # a shared palette is computed from about this number of pixels
COMMENT_START, MAX_BLOCK_BYTES = b"\x21\xfe", 255  # GIF89a, section 24


def write_gif(file: Path, frames: Iterable[ImageStream], count: int, loop: int) -> None:
    """Encode `count` frames with libvips, and write them to a file. The animation runs `loop` times; 0: forever.

    Raises:
        PhotoError: the frames have different sizes.
        OSError: the frames cannot be encoded, or the file cannot be written.
    """
    import pyvips

    rest = iter(frames)
    first = next(rest)
    (width, height), durations_ms = first.size, list[int]()
    pixels = np.empty((count, height, width, 4), np.uint8)
    for number, frame in enumerate(chain([first], rest)):
        if frame.size != first.size:
            raise PhotoError("has pages of different sizes, which GIF cannot store; use .tif")
        durations_ms.append(round(frame.metadata.duration_ms))
        top = 0
        for strip in frame.strips:
            rows = slice(top, top + len(strip))
            _fill(pixels[number, rows], to_8_bits(strip))
            if number:
                _keep_similar(pixels[number, rows], pixels[number - 1, rows])
            top += len(strip)
    palette = _find_shared_palette(pixels)
    image = pyvips.Image.new_from_memory(pixels.data, width, height * count, 4, "uchar").copy(interpretation="srgb")
    image.set_type(pyvips.GValue.gint_type, "page-height", height)
    image.set_type(pyvips.GValue.gint_type, "loop", loop)  # libvips stores the number of repetitions, loop - 1
    image.set_type(pyvips.GValue.array_int_type, "delay", durations_ms)
    if palette:
        image.set_type(pyvips.GValue.array_int_type, "gif-palette", palette)
    try:
        content = image.gifsave_buffer(dither=0, effort=EFFORT, reuse=bool(palette), keep_duplicate_frames=True)
    except pyvips.Error as error:
        raise OSError(" ".join(str(error).split())) from None
    file.write_bytes(_insert_comment(content, first.metadata.texts.get("Comment", "").encode()))


def _fill(target: np.ndarray, strip: np.ndarray) -> None:
    """Write a strip to `target`, uint8, (rows, width, 4).

    The alpha becomes 0 or 255, and transparent pixels become black.
    """
    target[..., 3] = 255
    if has_alpha(strip.shape[2]):
        visible = strip[..., -1:] >= OPAQUE_ALPHA
        target[...] = visible * np.uint8(255)
        strip = strip[..., :-1] * visible
    target[..., :3] = strip


def _keep_similar(pixels: np.ndarray, previous: np.ndarray) -> None:
    """Copy pixels from the previous frame where the difference is at most MAX_DIFFERENCE."""
    difference = np.abs(pixels.astype(np.int16) - previous).max(-1, keepdims=True)
    np.copyto(pixels, previous, where=difference <= MAX_DIFFERENCE)


def _find_shared_palette(frames: np.ndarray) -> list[int]:
    """Choose one palette for all frames if a visible pixel is transparent in the next frame; otherwise return [].

    libvips stores all pixels of a frame in which a visible pixel becomes transparent. With a palette of its own, this
    frame would show unchanged pixels in other colours than the previous frame.

    Args:
        frames: uint8, (frames, height, width, 4).

    Returns:
        The colours, then a transparent entry, as signed 32-bit integers: red in the lowest byte, green, blue, alpha.
    """
    if not any((before > after).any() for before, after in pairwise(frames[..., 3])):
        return []
    step = max(1, frames[..., 3].size // SAMPLE_PIXELS)
    sample = np.concatenate([frame[frame[..., 3] > 0][::step, :3] for frame in frames])
    colours = Image.fromarray(sample[np.newaxis]).quantize(MAX_COLOURS, kmeans=1).getpalette() or []
    packed = np.full((len(colours) // 3 + 1, 4), 255, np.uint8)
    packed[:-1, :3] = np.reshape(colours, (-1, 3))
    packed[-1] = 0
    return packed.view("<i4").ravel().tolist()


def _insert_comment(content: bytes, comment: bytes) -> bytes:
    """Insert a comment before the first frame."""
    if not comment:
        return content
    # Byte 10 of the 13-byte header contains a bit for a palette, and a number n: the palette has 2^(n + 1) colours.
    end = 13 + (3 * 2 ** (1 + (content[10] & 7)) if content[10] & 0x80 else 0)
    blocks = (comment[at : at + MAX_BLOCK_BYTES] for at in range(0, len(comment), MAX_BLOCK_BYTES))
    encoded = b"".join(bytes([len(block)]) + block for block in blocks)
    return content[:end] + COMMENT_START + encoded + b"\0" + content[end:]
