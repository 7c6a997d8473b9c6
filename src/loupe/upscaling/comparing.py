"""Photos and their results to one page that holds all it shows, with a slider between before and after."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image, ImageOps

from loupe.data.writing import beside
from loupe.errors import LoupeError, UsageError
from loupe.upscaling.batch import Job

SHOWN = 12  # photos at most
SIDES = 1600, 1200  # of what is shown of a photo: its middle

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Loupe: before and after</title>
<style>
body {{ margin: 2rem auto; max-width: 1640px; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: #222; background: #f6f6f4; }}
figure {{ margin: 0 0 3rem; }}
.pictures {{ position: relative; overflow: hidden; display: inline-block; max-width: 100%; }}
.pictures img {{ display: block; max-width: 100%; }}
.pictures .before {{ position: absolute; inset: 0; width: 100%; height: 100%;
  clip-path: inset(0 calc(100% - var(--at)) 0 0); }}
.pictures .pixels {{ image-rendering: pixelated; }}
.pictures::after {{ content: ""; position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px;
  margin-left: -1px; background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }}
input[type=range] {{ width: 100%; }}
label {{ margin-right: 1.5rem; }}
</style>
<h1>Before and after</h1>
<p>Left of the line the chosen way, right of it Loupe. Drag the slider, or use the arrow keys.</p>
{figures}
<script>
for (const figure of document.querySelectorAll("figure")) {{
  const pictures = figure.querySelector(".pictures");
  const move = () => pictures.style.setProperty("--at", figure.querySelector("[type=range]").value + "%");
  figure.querySelector("[type=range]").addEventListener("input", move);
  for (const way of figure.querySelectorAll("[type=radio]"))
    way.addEventListener("change", () => {{
      for (const image of figure.querySelectorAll(".before")) image.hidden = image.dataset.way !== way.value;
    }});
  move();
}}
</script>
</html>
"""
FIGURE = """<figure>
<figcaption>{name}, {before} to {after}</figcaption>
<div class="pictures" style="--at: 50%">
<img class="after" alt="{name} by Loupe" src="{large}">
<img class="before" data-way="lanczos" alt="{name} by Lanczos" src="{lanczos}">
<img class="before pixels" data-way="pixels" alt="{name} before" src="{small}" hidden>
</div>
<input type="range" min="0" max="100" value="50" step="0.5" aria-label="place of the line in {name}">
<label><input type="radio" name="way{number}" value="lanczos" checked> Lanczos</label>
<label><input type="radio" name="way{number}" value="pixels"> before, its pixels</label>
</figure>"""


def refuse(page: Path) -> None:
    """Raise UsageError where the page cannot be written."""
    if page.suffix.lower() not in (".html", ".htm") or not page.resolve().parent.is_dir():
        raise UsageError(f"compare: must be an .html file in a folder that exists, got {str(page)!r}")


def write(page: Path, jobs: Sequence[Job]) -> None:
    """Write the page of the first photos; the first page of each, and the middle of large ones.

    Raises:
        LoupeError: it cannot be written.
    """
    figures = [_figure(number, job) for number, job in enumerate(jobs[:SHOWN])]
    try:
        with beside(page) as partial:
            partial.write_text(PAGE.format(figures="\n".join(figures)), encoding="utf-8")
    except OSError as error:
        raise LoupeError(f"compare: {str(page)!r} cannot be written: {error.strerror}") from None


def _figure(number: int, job: Job) -> str:
    before, after = _opened(job.photo), _opened(job.out)
    scale = after.width / before.width, after.height / before.height
    shown = [min(side, most) for side, most in zip(after.size, SIDES, strict=True)]
    small = [max(1, int(side / of)) for side, of in zip(shown, scale, strict=True)]
    left, top = ((side - part) // 2 for side, part in zip(before.size, small, strict=True))
    part = before.crop((left, top, left + small[0], top + small[1]))
    shown = [round(side * of) for side, of in zip(small, scale, strict=True)]
    corner = round(left * scale[0]), round(top * scale[1])
    middle = after.crop((*corner, corner[0] + shown[0], corner[1] + shown[1]))
    return FIGURE.format(
        number=number,
        name=escape(job.photo.name, quote=True),
        before=f"{before.width}×{before.height}",
        after=f"{after.width}×{after.height}",
        large=_address(middle),
        lanczos=_address(part.resize(middle.size, Image.Resampling.LANCZOS)),
        small=_address(part),
    )


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return ImageOps.exif_transpose(image).convert("RGBA").convert("RGB")


def _address(image: Image.Image) -> str:
    """The image as a data: address."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=95)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
