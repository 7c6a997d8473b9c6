"""Photos and their results to one page that holds all it shows, with a slider between before and after."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from loupe.errors import LoupeError, UsageError
from loupe.imaging import reader
from loupe.imaging.atomic import validate_output_file, write_atomically
from loupe.imaging.conversion import to_8_bits
from loupe.imaging.decoder import PhotoError
from loupe.photos.inputs import Job

SHOWN = 12  # photos at most
SIDES = 1600, 1200  # of what is shown of a photo: its middle

# The slider lies over the whole image, unseen: one drags the line itself; keys and screen readers have a slider.
# It is a thumb's width wider than the image, because a thumb's middle never reaches the ends of its slider.
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
.compared:has([value=lanczos]:checked) [data-way=pixels], .compared:has([value=pixels]:checked) [data-way=lanczos] {
  display: none; }
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
PAGE = """<!DOCTYPE html>
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
<p>Drag the line, or move it by the arrow keys.</p>
{figures}
</html>
"""
FIGURE = """<figure class="compared">
<figcaption>{told}</figcaption>
<fieldset>
<legend>Left of the line:</legend>
<label><input type="radio" name="way{number}" value="lanczos" autocomplete="off" checked>Lanczos</label>
<label><input type="radio" name="way{number}" value="pixels" autocomplete="off">the photo's pixels</label>
</fieldset>
<div class="images" style="--at: 50%">
<img class="after" alt="{name} by Loupe" src="{large}">
<img class="before" data-way="lanczos" alt="{name} by Lanczos" src="{lanczos}">
<img class="before" data-way="pixels" alt="{name} before" src="{small}">
<span class="left" data-way="lanczos">Lanczos</span>
<span class="left" data-way="pixels">pixels</span>
<span class="right">Loupe</span>
<div class="line" aria-hidden="true"></div>
<input type="range" min="0" max="100" value="50" step="0.5" autocomplete="off"
  aria-label="Place of the line in {name}"
  oninput="this.parentElement.style.setProperty('--at', this.value + '%')">
</div>
</figure>"""


def refuse(page: Path, overwrite: bool) -> None:
    """Raise UsageError where the page cannot be written, or must not."""
    if page.exists() and not overwrite:
        raise UsageError(f"compare: {str(page)!r} exists; --overwrite replaces it")
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"compare: must be an .html file, got {str(page)!r}")
    validate_output_file("compare", page)


def write(page: Path, jobs: Sequence[Job]) -> None:
    """Write the page of the first photos; the first page of each, and the middle of large ones.

    Raises:
        LoupeError: it cannot be written.
    """
    figures = [_shown(number, job) for number, job in enumerate(jobs[:SHOWN])]
    try:
        with write_atomically(page) as partial:
            text = PAGE.format(style=STYLE, figures="\n".join(figures))
            partial.write_text(text, encoding="utf-8", errors="replace")  # names of files need not be text
    except OSError as error:
        raise LoupeError(f"compare: {str(page)!r} cannot be written: {error.strerror}") from None


def figure(job: Job, sides: tuple[int, int] = SIDES, number: int = 0, more: str = "") -> str:
    """A photo and its result as HTML that STYLE goes with.

    Args:
        job: the two files.
        sides: width and height of what is shown, at most: the middle of the first page.
        number: of the figure on its page.
        more: told behind the sizes.

    Raises:
        PhotoError: one of the two cannot be read, or has too many pixels.
    """
    before, after = (next(reader.read(file).pages) for file in (job.photo, job.out))
    (height, width), (large_height, large_width) = before.pixels.shape[:2], after.pixels.shape[:2]
    shown = min(large_width, sides[0]), min(large_height, sides[1])
    left, top = (large_width - shown[0]) // 2, (large_height - shown[1]) // 2
    part = after.pixels[top : top + shown[1], left : left + shown[0]]
    across, down = width / large_width, height / large_height
    # in fractions of the photo's pixels: the two sides of the line show the same place
    box = left * across, top * down, (left + shown[0]) * across, (top + shown[1]) * down
    photo = _image(before.pixels)
    name = escape(job.photo.name)
    return FIGURE.format(
        number=number,
        name=name,
        told=f"{name}: {width}×{height} to {large_width}×{large_height}{escape(more)}",
        large=_address(_image(part), after.icc),
        lanczos=_address(photo.resize(shown, Image.Resampling.LANCZOS, box), before.icc),
        small=_address(photo.resize(shown, Image.Resampling.NEAREST, box), before.icc),
    )


def _shown(number: int, job: Job) -> str:
    try:
        return figure(job, number=number)
    except PhotoError as error:
        return f"<p>{escape(job.photo.name)} is not shown: {escape(str(error))}</p>"


def _image(pixels: np.ndarray) -> Image.Image:
    """Pixels, uint8 or uint16, (height, width, 1..4), in 8 bits."""
    eight = to_8_bits(pixels)
    return Image.fromarray(eight[..., 0] if eight.shape[2] == 1 else eight)


def _address(image: Image.Image, icc: bytes) -> str:
    """The image as a data: address."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=95, icc_profile=icc)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
