"""Writes an HTML file in which sliders compare photos with their results."""

import base64
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from loupe.errors import LoupeError, UsageError
from loupe.imaging.atomic import validate_output_file, write_file
from loupe.imaging.colour import fit_colours
from loupe.imaging.conversion import to_8_bits, to_image
from loupe.imaging.decoder import PhotoError
from loupe.imaging.image_data import ImageData, ImageStream
from loupe.imaging.reader import read_photo
from loupe.photos.inputs import PhotoJob
from loupe.photos.sizes import Size, find_uncropped_size

MAX_FIGURES = 12
MAX_FIGURE_SIZE = 1600, 1200  # width and height, in pixels of the result
STRIP_ROWS = 64  # rows whose colours are converted in one step

# An invisible slider moves the line between photo and result. The slider is wider than the image by the width of its
# thumb (the handle), because the centre of a thumb cannot reach the ends of a slider.
STYLE = """
.compared { margin: 0 0 3rem; }
.compared fieldset { display: flex; flex-wrap: wrap; gap: 0 1.25rem; margin: .25rem 0 .75rem; padding: 0; border: 0; }
.compared legend { float: left; padding: 0; }
.compared input[type=radio] { margin: 0 .25rem 0 0; appearance: auto; }
.images { position: relative; display: inline-block; overflow: hidden; max-width: 100%; vertical-align: top;
  background: #fff repeating-conic-gradient(#ddd 0 25%, #fff 0 50%) 0 0 / 20px 20px; }
.images:has(:focus-visible) { outline: 3px solid #28f; outline-offset: 2px; }
.images img { display: block; max-width: 100%; height: auto; margin: 0; }
.images .after { clip-path: inset(0 0 0 var(--at)); }
.images .before { position: absolute; inset: 0; width: 100%; height: 100%;
  clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.compared:has([value=lanczos]:checked) [data-method=pixels],
.compared:has([value=pixels]:checked) [data-method=lanczos] { display: none; }
.images span { position: absolute; top: .5rem; padding: 0 .5rem; border-radius: 4px; font-size: 14px; color: #fff;
  background: #000a; }
.images .left { left: .5rem; }
.images .right { right: .5rem; }
.images .line { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; }
.images .line::after { content: "◂ ▸"; position: absolute; top: 50%; left: -17px; width: 36px; margin-top: -18px;
  border-radius: 18px; font: 16px/36px sans-serif; text-align: center; color: #222; background: #fff;
  box-shadow: 0 0 3px #000; }
.images input { position: absolute; top: 0; left: -22px; width: calc(100% + 44px); height: 100%; margin: 0;
  opacity: 0; cursor: ew-resize; touch-action: pan-y; appearance: none; -webkit-appearance: none; }
.images input::-webkit-slider-runnable-track { height: 100%; }
.images input::-webkit-slider-thumb { width: 44px; height: 100%; -webkit-appearance: none; }
.images input::-moz-range-thumb { width: 44px; height: 100%; border: 0; }
"""
DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Loupe: before and after</title>
<style>
body {{ margin: 1.5rem auto; max-width: 1640px; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: #222; background: #f6f6f4; }}
h1 {{ margin: 0; font-size: 1.75rem; }}
p {{ margin: 0 0 1.5rem; }}
figcaption {{ font-weight: 600; }}
{style}</style>
<h1>Before and after</h1>
<p>Drag the line, or move it with the arrow keys.</p>
{figures}
</html>
"""
FIGURE = """<figure class="compared">
<figcaption>{caption}</figcaption>
{choice}<div class="images" style="--at: 50%">
<img class="after" alt="{name} by Loupe" src="{result}">
{before}
<span class="right">Loupe</span>
<div class="line" aria-hidden="true"></div>
<input type="range" min="0" max="100" value="50" step="0.5" autocomplete="off"
  aria-label="Position of the line in {name}"
  oninput="this.parentElement.style.setProperty('--at', this.value + '%')">
</div>
</figure>"""
CHOICE = """<fieldset>
<legend>Left of the line:</legend>
<label><input type="radio" name="method{number}" value="lanczos" autocomplete="off" checked>Lanczos</label>
<label><input type="radio" name="method{number}" value="pixels" autocomplete="off">original pixels</label>
</fieldset>
"""
BEFORE = """<img class="before" data-method="{method}" alt="{name}{text}" src="{image}">
<span class="left" data-method="{method}">{label}</span>"""
# The images left of the line: label, text after the photo's name, and filter, by method
METHODS = {
    "lanczos": ("Lanczos", " by Lanczos", Image.Resampling.LANCZOS),
    "pixels": ("original pixels", ", original pixels", Image.Resampling.NEAREST),
}
SAME_SIZE_METHODS = {"original": ("original", ", original", Image.Resampling.NEAREST)}


def validate_file(file: Path, overwrite: bool) -> None:
    """Raise UsageError if the extension is not .html or .htm, or the file exists and `overwrite` is False.

    A path that `validate_output_file` refuses also raises this error.
    """
    if file.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"compare: must be an .html or .htm file, got {str(file)!r}")
    validate_output_file("compare", file)
    if os.path.exists(file) and not overwrite:
        raise UsageError(f"compare: {str(file)!r} exists; --overwrite replaces it")


def write_comparison(
    file: Path, jobs: Sequence[PhotoJob], read: Callable[[Path], ImageData], overwrite: bool = True
) -> None:
    """Write the figures of the first MAX_FIGURES photos to one HTML file.

    If a photo or its result cannot be read, the file contains the reason instead of the figure.

    Args:
        file: the file to write.
        jobs: the photos and their results.
        read: a function that reads the first frame or page of a file, such as `read_first`.
        overwrite: replace an existing file.

    Raises:
        LoupeError: the file cannot be written, or it exists and `overwrite` is False.
    """
    figures = [_render_figure_or_error(number, job, read) for number, job in enumerate(jobs[:MAX_FIGURES])]
    try:
        write_file(file, DOCUMENT.format(style=STYLE, figures="\n".join(figures)), overwrite)
    except OSError as error:
        raise LoupeError(f"compare: {str(file)!r} cannot be written: {error.strerror}") from None


def read_first(file: Path) -> ImageData:
    """Read the first frame or page of a file; can raise PhotoError."""
    return next(read_photo(file).images)


def render_figure(
    job: PhotoJob,
    max_size: Size = MAX_FIGURE_SIZE,
    number: int = 0,
    note: str = "",
    read: Callable[[Path], ImageData] = read_first,
) -> str:
    """Render the first frame or page of a photo and of its result as HTML, for a page with the style sheet STYLE.

    Args:
        job: the photo and its result.
        max_size: maximum width and height of the figure, which shows the centre of the result.
        number: the number of the figure in its document.
        note: appended to the caption.
        read: a function that reads the first frame or page of a file.

    Raises:
        PhotoError: a file cannot be read, or has too many pixels.
    """
    after = read(job.out)
    large_width, large_height = _get_size(after)
    size = min(large_width, max_size[0]), min(large_height, max_size[1])
    left, top = (large_width - size[0]) // 2, (large_height - size[1]) // 2
    part = after.pixels[top : top + size[1], left : left + size[0]].copy()
    after = replace(after, pixels=part)  # frees the pixels outside of `part`
    before = read(job.photo)
    width, height = _get_size(before)
    full = find_uncropped_size((width, height), (large_width, large_height))
    across, down = width / full[0], height / full[1]
    full_left, full_top = left + (full[0] - large_width) // 2, top + (full[1] - large_height) // 2
    # The edges of `part` in the photo, in pixels, not rounded
    box = full_left * across, full_top * down, (full_left + size[0]) * across, (full_top + size[1]) * down
    (photo, photo_icc), (result, result_icc) = map(_make_image, (before, after))
    name = escape(job.photo.name)
    is_resized = (width, height) != (large_width, large_height)
    images_before = [
        BEFORE.format(
            method=method, name=name, text=text, label=label,
            image=_make_data_url(photo.resize(size, resampling, box), photo_icc),
        )
        for method, (label, text, resampling) in (METHODS if is_resized else SAME_SIZE_METHODS).items()
    ]  # fmt: skip
    return FIGURE.format(
        name=name,
        choice=CHOICE.format(number=number) if is_resized else "",
        before="\n".join(images_before),
        caption=f"{name}: {width}×{height} to {large_width}×{large_height}{escape(note)}",
        result=_make_data_url(result, result_icc),
    )


def _render_figure_or_error(number: int, job: PhotoJob, read: Callable[[Path], ImageData]) -> str:
    try:
        return render_figure(job, number=number, read=read)
    except PhotoError as error:
        return f"<p>{escape(job.photo.name)} is not shown: {escape(str(error))}</p>"


def _get_size(image: ImageData) -> Size:
    return image.pixels.shape[1], image.pixels.shape[0]


def _make_image(image: ImageData) -> tuple[Image.Image, bytes]:
    """Return an image with colours that a WebP can store, and its profile."""
    (width, height), pixels = _get_size(image), image.pixels
    strips = (pixels[top : top + STRIP_ROWS] for top in range(0, height, STRIP_ROWS))
    stream = ImageStream((width, height), pixels.shape[2], pixels.dtype, strips, image.metadata)
    fitted = fit_colours(stream, "WEBP")
    return to_image(np.concatenate([to_8_bits(strip) for strip in fitted.strips])), fitted.metadata.icc


def _make_data_url(image: Image.Image, icc: bytes) -> str:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=95, icc_profile=icc)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
