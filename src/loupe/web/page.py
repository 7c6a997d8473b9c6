"""A photo that is dropped on a page to its larger one: beside Lanczos's, and as a file to take away."""

import contextvars
import shutil
from fractions import Fraction
from html import escape
from pathlib import Path

import gradio as gr

from loupe.config.fields import parse_scale
from loupe.errors import LoupeError
from loupe.imaging import reader
from loupe.imaging.decoder import PhotoError
from loupe.photos import comparison, processing, sizes, upscaling
from loupe.photos.inputs import Job
from loupe.photos.networks import Networks

MOST_BYTES = 100 * 2**20  # of a file
MOST_PIXELS = 30_000_000  # of a photo, all its pages together
MOST_LARGE = reader.MAX_PIXELS  # of a result: what can be read again to be shown
SIDES = 870, 660  # of what is shown: pixel by pixel beside the controls on a screen of 1280

TITLE = "Loupe: a photo, upscaled"
ABOUT = f"""# Loupe
Upscales a photo by a trained network, and keeps its format and metadata. The photo goes to the machine that serves
this page, and no further. At most {MOST_PIXELS // 10**6} megapixels and {MOST_BYTES // 2**20} MB, of the formats
{", ".join(reader.SUFFIXES)}."""
EMPTY = "<p>The upscaled photo appears here, beside what Lanczos makes of it.</p>"
# fonts of the visitor's machine, so that none are loaded
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])
STYLE = f"""{comparison.STYLE}
.gradio-container {{ max-width: 1300px !important; margin: 0 auto; }}
.gradio-container :focus-visible {{ outline: 3px solid #28f !important; outline-offset: 2px; }}
.compared {{ margin: 0; }}
.refused {{ padding: .5rem .75rem; border-left: 4px solid #c00; background: #c001; }}
"""


def page(networks: Networks, folder: Path) -> gr.Blocks:
    """The page, on which one photo is upscaled at a time.

    Args:
        networks: that photos go through.
        folder: that exists, for the result of the last photo; Gradio serves a copy.
    """
    bar = gr.Progress()

    def upscaled(file: str | None, scale: float, progress: gr.Progress = bar) -> tuple[str, gr.DownloadButton]:
        if file is None:
            return _refused("photo: choose one first")
        photo = Path(file)
        context = contextvars.copy_context()  # by which Gradio finds whose progress it is, in the thread that works
        try:
            factor = parse_scale(scale, least_itself=True)
            job, network = _planned(photo, factor, networks, folder)
            order = processing.Order(
                lambda size: upscaling.size_of(size, factor, None, networks),
                upscaling.page_upscaler(factor, None, networks),
            )
            for outcome in processing.results(
                [job], order, lambda share: context.run(progress, share, desc="upscaling")
            ):
                if outcome.reason:
                    raise PhotoError(outcome.reason)
            by = networks.get(network).name if network else "no network"
            figure = comparison.figure(job, SIDES, more=f", by {by}")
        except LoupeError as error:
            return _refused(f"{photo.name}: {error}")
        except ValueError as error:
            return _refused(f"scale: {error}, got {scale}")
        return figure, gr.DownloadButton(f"Download {job.out.name}", value=job.out, interactive=True)

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                photo = gr.File(label="Photo", file_types=["image"], height=160)
                scale = gr.Slider(1, sizes.LARGEST, 1.5, step=0.1, label="Scale", buttons=[])
                button = gr.Button("Upscale", variant="primary")
                download = gr.DownloadButton("Download", interactive=False)
            with gr.Column(scale=3, min_width=320):
                result = gr.HTML(EMPTY, apply_default_css=False, min_height=160)
        button.click(upscaled, [photo, scale], [result, download], show_progress_on=result)
        photo.change(lambda: (EMPTY, _no_download()), None, [result, download], queue=False, show_progress="hidden")
    return blocks


def _planned(photo: Path, scale: Fraction, networks: Networks, folder: Path) -> tuple[Job, Fraction | None]:
    """What is to be done, in an empty folder, and the scale of the network that does it."""
    opened = reader.read(photo)
    size = upscaling.size_of(opened.size, scale, None, networks)
    for what, (width, height), most in (("has", opened.size, MOST_PIXELS), ("would have", size, MOST_LARGE)):
        if width * height * opened.count > most:
            pixels = f"{width * height * opened.count / 1e6:.1f}"
            raise PhotoError(f"{what} {pixels} megapixels, must have at most {most // 10**6}")
    shutil.rmtree(folder)
    folder.mkdir()
    suffixes = reader.SUFFIXES[opened.format]
    suffix = photo.suffix if photo.suffix.lower() in suffixes else suffixes[0]
    out = folder / f"{photo.stem}-{float(scale):g}x{suffix}"
    return Job(photo, out), sizes.network_scale(opened.size, size, networks.scales)


def _refused(reason: str) -> tuple[str, gr.DownloadButton]:
    return f'<p role="alert" class="refused">{escape(" ".join(reason.split()))}</p>', _no_download()


def _no_download() -> gr.DownloadButton:
    return gr.DownloadButton("Download", value=None, interactive=False)
