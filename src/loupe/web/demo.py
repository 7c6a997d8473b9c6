"""The demo page: upscales an uploaded photo, compares the result with Lanczos and offers it for download."""

import contextvars
import shutil
from fractions import Fraction
from html import escape
from pathlib import Path

import gradio as gr

from loupe.config.fields import LARGEST_SCALE, parse_scale
from loupe.errors import LoupeError
from loupe.imaging.decoder import MAX_PIXELS, PhotoError
from loupe.imaging.formats import SUFFIXES
from loupe.imaging.reader import read_photo
from loupe.photos.comparison import STYLE as COMPARISON_STYLE
from loupe.photos.comparison import render_figure
from loupe.photos.inputs import PhotoJob
from loupe.photos.networks import Networks
from loupe.photos.processing import ProcessingOptions, process_jobs
from loupe.photos.sizes import Target, choose_scale
from loupe.photos.upscaling import UpscaleTransform, compute_size

MAX_FILE_BYTES = 100 * 2**20
MAX_PHOTO_PIXELS = 30_000_000  # all frames and pages together
MAX_RESULT_PIXELS = MAX_PIXELS  # the limit of the decoder, which reads the result for the comparison
MAX_SHOWN = 870, 660  # fits next to the controls without scaling, on a screen 1280 pixels wide

TITLE = "Loupe: upscale a photo"
DESCRIPTION = f"""# Loupe
Upscales a photo with a trained network. The result has the format and the metadata of the photo. The photo is sent
to the machine that serves this page, and to no other. Limits: {MAX_PHOTO_PIXELS // 10**6} megapixels,
{MAX_FILE_BYTES // 2**20} MB. Formats: {", ".join(SUFFIXES)}."""
NO_RESULT = "<p>The upscaled photo appears here, next to the same photo upscaled by Lanczos.</p>"
# uses fonts of the visitor's machine, so that the page downloads no fonts
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])
STYLE = f"""{COMPARISON_STYLE}
.gradio-container {{ max-width: 1300px !important; margin: 0 auto; }}
.gradio-container :focus-visible {{ outline: 3px solid #28f !important; outline-offset: 2px; }}
.compared {{ margin: 0; }}
.error {{ padding: .5rem .75rem; border-left: 4px solid #c00; background: #c001; }}
"""


def build_page(networks: Networks, folder: Path) -> gr.Blocks:
    """Build the page. It upscales one photo at a time.

    Args:
        networks: the networks that upscale the photos.
        folder: an existing folder for the latest result; Gradio serves a copy.
    """
    bar = gr.Progress()

    def upscale(file: str | None, scale: float, progress: gr.Progress = bar) -> tuple[str, gr.DownloadButton]:
        if file is None:
            return _show_error("photo: must be chosen first")
        photo = Path(file)
        context = contextvars.copy_context()  # other threads need it to update the progress bar of this visitor

        def report(fraction: float) -> None:
            context.run(progress, fraction, desc="upscaling")

        try:
            target = Target(parse_scale(scale, allow_one=True))
            job, network_scale = _plan(photo, target, networks, folder)
            options = ProcessingOptions(UpscaleTransform(target, networks))
            for outcome in process_jobs([job], options, report):
                if outcome.reason:
                    raise PhotoError(outcome.reason)
            method = networks.get(network_scale).name if network_scale else "no network"
            figure = render_figure(job, MAX_SHOWN, note=f", by {method}")
        except LoupeError as error:
            return _show_error(f"{photo.name}: {error}")
        except ValueError as error:
            return _show_error(f"scale: {error}, got {scale}")
        return figure, gr.DownloadButton(f"Download {job.out.name}", value=job.out, interactive=True)

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(DESCRIPTION)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                photo = gr.File(label="Photo", file_types=["image"], height=160)
                scale = gr.Slider(1, LARGEST_SCALE, 1.5, step=0.1, label="Scale factor", buttons=[])
                button = gr.Button("Upscale", variant="primary")
                download = gr.DownloadButton("Download", interactive=False)
            with gr.Column(scale=3, min_width=320):
                result = gr.HTML(NO_RESULT, apply_default_css=False, min_height=160)
        button.click(upscale, [photo, scale], [result, download], show_progress_on=result)
        photo.change(
            lambda: (NO_RESULT, _disable_download()), None, [result, download], queue=False, show_progress="hidden"
        )
    return blocks


def _plan(photo: Path, target: Target, networks: Networks, folder: Path) -> tuple[PhotoJob, Fraction | None]:
    """Check the size of a photo and empty the folder; return the job and the scale factor of its network."""
    opened = read_photo(photo)
    size = compute_size(opened.size, target, networks).upscaled
    for name, (width, height), limit in (
        ("photo", opened.size, MAX_PHOTO_PIXELS),
        ("result", size, MAX_RESULT_PIXELS),
    ):
        pixels = width * height * opened.count
        if pixels > limit:
            raise PhotoError(f"{name}: must have at most {limit // 10**6} megapixels, got {pixels / 1e6:.1f}")
    shutil.rmtree(folder)
    folder.mkdir()
    suffixes = SUFFIXES[opened.format]
    suffix = photo.suffix if photo.suffix.lower() in suffixes else suffixes[0]
    assert target.scale is not None
    out = folder / f"{photo.stem}-{float(target.scale):g}x{suffix}"
    return PhotoJob(photo, out), choose_scale(opened.size, size, networks.scales)


def _show_error(message: str) -> tuple[str, gr.DownloadButton]:
    return f'<p role="alert" class="error">{escape(" ".join(message.split()))}</p>', _disable_download()


def _disable_download() -> gr.DownloadButton:
    return gr.DownloadButton("Download", value=None, interactive=False)
