"""Upscales photo files in a child process of a server. The server kills the process if a photo takes too long.

The process first sends `{"ready": device, "fallbacks": lines}`, or `{"failed": reason}`. Each line gives the reason
why a network does not run on the requested device. For each request, the process sends `{"progress": fraction}`
any number of times, and then the fields of a `PhotoAnswer`.
"""

import os
import resource
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from html import escape
from pathlib import Path

from loupe.errors import LoupeError
from loupe.imaging.child_process import Connection
from loupe.imaging.decoder import PhotoError
from loupe.imaging.formats import FORMATS, READ_EXTENSIONS, choose_extension
from loupe.imaging.isolated_reader import PhotoReader
from loupe.imaging.limits import STATUS, read_data_bytes, read_status_bytes, set_limit
from loupe.imaging.page_sizes import list_page_sizes
from loupe.imaging.reader import read_photo
from loupe.imaging.writer import EncodeOptions
from loupe.photos.inputs import PhotoJob
from loupe.photos.networks import LoadedModel, Networks
from loupe.photos.processing import ProcessingOptions, process_jobs
from loupe.photos.sizes import Size, Target, choose_scale
from loupe.photos.upscaling import UpscaleTransform, compute_size
from loupe.upscalers.onnx import OnnxUpscaler

MAX_SMALL_PIXELS, MAX_SMALL_PAGES = 2_000_000, 20  # limits for the result of a small photo
LOW_MEMORY_PIXELS = 20_000_000  # larger results are encoded with less memory
NICENESS = 5  # reduces the priority of the process for large photos
# Texts in the error messages of libraries that cannot allocate memory
MEMORY_SIGNS = "MemoryError", "alloc", "memory", "new thread", "encoding error 1", "Encoding of color planes failed"
MIN_AVIF_BYTES = 26  # per pixel of the result; the AVIF encoder fails or crashes with less memory
RESTART_SHARE = 0.5  # a process that has used this share of its memory ends after the answer


@dataclass(frozen=True)
class PhotoRequest:
    """A photo to upscale.

    Args:
        photo: the file.
        folder: an existing folder for the result.
        scale: the scale factor, such as `3/2`.
        extension: the extension of the result, such as .png; "" keeps the photo's format, or uses .jpg if Loupe
            only reads that format.
        max_pixels: maximum pixels of the photo, in all frames or pages together.
        max_result_pixels: maximum pixels of the result, in all frames or pages together.
        max_pages: maximum number of frames or pages.
        small: decline a photo if its result exceeds MAX_SMALL_PIXELS or MAX_SMALL_PAGES, or needs too much memory.
        figure_size: width and height of a figure that compares photo and result, or None.
    """

    photo: str
    folder: str
    scale: str
    extension: str = ""
    max_pixels: int = 0
    max_result_pixels: int = 0
    max_pages: int = 1
    small: bool = False
    figure_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class PhotoAnswer:
    """The answer to a request.

    Args:
        out: the file of the result, or "".
        reason: the reason for a missing result, or "".
        declined: whether the photo was declined because of `PhotoRequest.small`.
        figure: the HTML of the figure, or "".
        last: the process ends after this answer.
    """

    out: str = ""
    reason: str = ""
    declined: bool = False
    figure: str = ""
    last: bool = False


def serve_files(connections: list[Connection], files: dict[str, str], max_bytes: int, large: bool) -> None:
    """Answer requests with ONNX networks. `files` maps scale factors, such as `3/2`, to the paths of the networks."""
    paths = {Fraction(scale): Path(path) for scale, path in files.items()}
    networks = Networks(sorted(paths), lambda scale: LoadedModel(paths[scale].name, OnnxUpscaler(paths[scale])))
    serve_requests(connections[0], lambda: networks, max_bytes, large)


def serve_requests(
    connection: Connection, load_networks: Callable[[], Networks], max_bytes: int, large: bool
) -> None:
    """Load the networks, and answer requests until `PhotoAnswer.last` is set.

    If the networks cannot be loaded, send the reason and return.

    Args:
        connection: the connection to the server.
        load_networks: loads the networks; called once.
        max_bytes: memory for the photos, in addition to the loaded networks.
        large: whether this is the process for large photos.

    Raises:
        EOFError: the connection was closed.
    """
    warnings.simplefilter("ignore")  # Pillow's warnings of harmless faults
    try:
        networks, fallbacks = load_networks(), list[str]()
        networks.report_fallback = fallbacks.append
        device = networks.check()
    except LoupeError as error:
        connection.send({"failed": str(error)})
        return
    if large and hasattr(os, "nice"):
        os.nice(NICENESS)
    set_limit(resource.RLIMIT_DATA, read_data_bytes() + max_bytes)
    connection.send({"ready": device, "fallbacks": fallbacks})
    start_bytes = read_status_bytes("VmHWM")
    last = False
    while not last:
        request, _ = connection.receive()
        answer = answer_request(
            PhotoRequest(**request), networks, max_bytes, lambda fraction: connection.send({"progress": fraction})
        )
        last = read_status_bytes("VmHWM") - start_bytes > RESTART_SHARE * max_bytes
        connection.send(asdict(answer) | {"last": last})


def answer_request(
    request: PhotoRequest, networks: Networks, max_bytes: int, report: Callable[[float], None]
) -> PhotoAnswer:
    """Upscale a photo with `max_bytes` of memory; an error becomes the reason of the answer.

    If `request.small` is set and the memory is not enough, the photo is declined instead. `report` is called with the
    finished fraction, possibly from another thread.
    """
    try:
        return _upscale(request, networks, max_bytes, report)
    except MemoryError:
        return _refuse_for_memory(request, max_bytes)
    except LoupeError as error:
        text = str(error)
    except Exception as error:
        text = f"cannot be upscaled: {type(error).__name__}: {' '.join(str(error).split())}"
    return _refuse_for_memory(request, max_bytes) if _is_memory_error(text) else PhotoAnswer(reason=text)


def _is_memory_error(text: str) -> bool:
    return any(sign in text for sign in MEMORY_SIGNS)


def _upscale(
    request: PhotoRequest, networks: Networks, max_bytes: int, report: Callable[[float], None]
) -> PhotoAnswer:
    photo, target = Path(request.photo), Target(Fraction(request.scale))
    sizes = list_page_sizes(photo, request.max_pages)
    result_pixels = _validate_pixels(request, sizes, target, networks)
    if request.small and (result_pixels > MAX_SMALL_PIXELS or len(sizes) > MAX_SMALL_PAGES):
        return PhotoAnswer(declined=True)
    opened = read_photo(photo)
    extensions = READ_EXTENSIONS[opened.format]
    own_extension = photo.suffix if photo.suffix.lower() in extensions else extensions[0]
    extension = request.extension or choose_extension(own_extension)
    if FORMATS[extension.lower()] == "AVIF" and result_pixels * MIN_AVIF_BYTES > max_bytes:
        return _refuse_for_memory(request, max_bytes)
    out = Path(request.folder) / f"{photo.stem}-{float(Fraction(request.scale)):g}x{extension}"
    job = PhotoJob(photo, out)
    options = ProcessingOptions(
        UpscaleTransform(target, networks),
        EncodeOptions(low_memory=result_pixels > LOW_MEMORY_PIXELS),
        overwrite=True,
        # On Linux, the system limits the memory. Loupe's estimates, which are too high for some photos, are ignored.
        memory=sys.maxsize if STATUS.exists() else max_bytes,
        readers=[PhotoReader(isolated=False)],
    )
    for outcome in process_jobs([job], options, report):
        if _is_memory_error(outcome.reason.replace(str(out), "")):  # the name may contain one of MEMORY_SIGNS
            return _refuse_for_memory(request, max_bytes)
        if outcome.reason:
            return PhotoAnswer(reason=outcome.reason.replace(str(out), out.name))
    figure = _render(job, opened.size, request, networks) if request.figure_size else ""
    return PhotoAnswer(str(out), figure=figure)


def _validate_pixels(request: PhotoRequest, sizes: list[Size], target: Target, networks: Networks) -> int:
    """Return the number of pixels of the result; raise PhotoError if the photo or the result has too many pixels."""
    large = [compute_size(size, target, networks).upscaled for size in sizes]
    totals = [sum(width * height for width, height in group) for group in (sizes, large)]
    limits = request.max_pixels, request.max_result_pixels
    for name, total, limit in zip(("photo", "result"), totals, limits, strict=True):
        if total > limit:
            raise PhotoError(f"{name}: must have at most {limit // 10**6} megapixels, got {total / 1e6:.1f}")
    return totals[1]


def _render(job: PhotoJob, size: Size, request: PhotoRequest, networks: Networks) -> str:
    from loupe.photos.comparison import render_figure

    assert request.figure_size is not None
    target = Target(Fraction(request.scale))
    scale = choose_scale(size, compute_size(size, target, networks).upscaled, networks.scales)
    note = f", by {networks.get(scale).name}" if scale else ""
    try:
        return render_figure(job, request.figure_size, note=note)
    except (PhotoError, MemoryError) as error:
        return f"<p>{escape(job.photo.name)} is not shown: {escape(str(error) or 'too large')}</p>"


def _refuse_for_memory(request: PhotoRequest, max_bytes: int) -> PhotoAnswer:
    if request.small:
        return PhotoAnswer(declined=True)
    hint = "try a smaller scale factor, or a JPEG, PNG or TIFF file"
    return PhotoAnswer(reason=f"needs more than {max_bytes // 10**6} MB of memory; {hint}")
