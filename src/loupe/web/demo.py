"""The demo page: upscales an uploaded photo, compares the result with Lanczos, and offers it for download."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

import gradio as gr

from loupe.config.fields import LARGEST_SCALE, parse_scale
from loupe.errors import LoupeError
from loupe.imaging.decoder import MAX_PIXELS
from loupe.imaging.formats import EXTENSIONS
from loupe.photos.comparison import STYLE as COMPARISON_STYLE
from loupe.photos.worker import PhotoRequest
from loupe.photos.worker_pool import Control, PhotoWorkers
from loupe.web.guard import MAX_FILE_BYTES
from loupe.web.storage import LIFETIME_S, make_room

MAX_PHOTO_PIXELS = 30_000_000  # in all frames or pages of a photo
MAX_RESULT_PIXELS = MAX_PIXELS  # the decoder, which accepts at most MAX_PIXELS, reads the result for the comparison
MAX_PAGES = 500
MAX_PREVIEW = 870, 660  # width and height in pixels, for a screen 1280 pixels wide
MAX_QUEUED = 60  # waiting photos of all visitors
TIMEOUT_S = 55.0  # per photo, with the wait for other photos

TITLE = "Loupe: upscale a photo"
DESCRIPTION = f"""# Loupe
Upscales a photo with a trained network. The result has the format and the metadata of the photo. The photo is sent
to the machine that serves this page, and to no other. Limits: {MAX_PHOTO_PIXELS // 10**6} megapixels,
{MAX_FILE_BYTES // 10**6} MB. Formats: {", ".join(EXTENSIONS)}."""
NO_RESULT = "<p>The upscaled photo appears here, next to the same photo upscaled by Lanczos.</p>"
# The page uses fonts of the visitor's machine, so that the browser downloads no fonts.
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])
STYLE = f"""{COMPARISON_STYLE}
.gradio-container {{ max-width: 1300px !important; margin: 0 auto; }}
.gradio-container :focus-visible {{ outline: 3px solid #28f !important; outline-offset: 2px; }}
.compared {{ margin: 0; }}
.error {{ padding: .5rem .75rem; border-left: 4px solid #c00; background: #c001; }}
"""


class Visitors:
    """The visitors whose photos are being upscaled, by session."""

    def __init__(self) -> None:
        self._controls: dict[str, set[Control]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def serve(self, session: str) -> Iterator[Control]:
        """Yield a control that ends the work on a photo after TIMEOUT_S, or when `cancel_session` is called."""
        control = Control(TIMEOUT_S)
        with self._lock:
            self._controls.setdefault(session, set()).add(control)
        try:
            yield control
        finally:
            with self._lock:
                self._controls[session].discard(control)
                if not self._controls[session]:
                    del self._controls[session]

    def cancel_session(self, session: str) -> None:
        """End the work for a visitor."""
        with self._lock:
            for control in self._controls.get(session, ()):
                control.cancelled.set()


def build_page(workers: PhotoWorkers, visitors: Visitors, folder: Path) -> gr.Blocks:
    """Build the page; `folder` is an existing folder for the results."""
    bar = gr.Progress()

    def upscale(
        file: str | None, scale: float, request: gr.Request, progress: gr.Progress = bar
    ) -> tuple[str, gr.DownloadButton]:
        if file is None:
            return _show_error("photo: must be chosen first")
        name = Path(file).name
        try:
            target = str(parse_scale(scale))
        except ValueError as error:
            return _show_error(f"scale: {error}, got {scale}")
        if not make_room(folder, 0):
            return _show_error("server: has too many photos, try again in some minutes")
        photo = PhotoRequest(
            file, tempfile.mkdtemp(dir=folder), target, max_pixels=MAX_PHOTO_PIXELS,
            max_result_pixels=MAX_RESULT_PIXELS, max_pages=MAX_PAGES, figure_size=MAX_PREVIEW,
        )  # fmt: skip
        try:
            with visitors.serve(request.session_hash or "") as control:
                answer = workers.upscale(photo, control, lambda done: progress(done, desc="upscaling"))
        except FileNotFoundError:
            return _show_error(f"{name}: was deleted after {LIFETIME_S / 60:.0f} minutes; choose it again")
        except LoupeError as error:
            return _show_error(f"{name}: {error}")
        if answer.reason:
            return _show_error(f"{name}: {answer.reason}")
        out = Path(answer.out)
        return answer.figure, gr.DownloadButton(f"Download {out.name}", value=out, interactive=True)

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
        gr.Markdown(DESCRIPTION)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                photo = gr.File(label="Photo", file_types=["image"], height=160)
                scale = gr.Slider(1, LARGEST_SCALE, 1.5, step=0.1, label="Scale factor", buttons=[])
                button = gr.Button("Upscale", variant="primary")
                download = gr.DownloadButton("Download", interactive=False)
            with gr.Column(scale=3, min_width=320):
                result = gr.HTML(NO_RESULT, apply_default_css=False, min_height=160)
        button.click(upscale, [photo, scale], [result, download], show_progress_on=result, concurrency_limit=None)
        photo.change(
            lambda: (NO_RESULT, _disable_download()), None, [result, download], queue=False, show_progress="hidden"
        )
    return blocks


def _show_error(message: str) -> tuple[str, gr.DownloadButton]:
    return f'<p role="alert" class="error">{escape(" ".join(message.split()))}</p>', _disable_download()


def _disable_download() -> gr.DownloadButton:
    return gr.DownloadButton("Download", value=None, interactive=False)
