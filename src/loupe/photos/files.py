"""Lists, processes and reports photos, for the steps that process photos."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.cli.progress import ProgressBar, print_error, print_line
from loupe.config.photos import STREAM, STREAM_FOLDER, PhotoSettings
from loupe.errors import LoupeError, UsageError

if TYPE_CHECKING:
    from loupe.imaging.isolated_reader import PhotoReader
    from loupe.photos.inputs import PhotoJob, PhotoList
    from loupe.photos.outcomes import Outcome
    from loupe.photos.processing import Transform
    from loupe.photos.streams import StepSettings

# Files with these extensions are decoded in a child process. If an input is such a file, the process starts early.
ISOLATED_EXTENSIONS = frozenset((".webp", ".avif", ".gif", ".tif", ".tiff", ".bmp", ".heic", ".jxl"))
PROGRESS_BYTES = 2_000_000  # a single photo gets a progress bar if its file is larger


@contextmanager
def open_streams(settings: "StepSettings") -> "Iterator[StepSettings]":
    """Yield the settings, with temporary files in place of `-`. In the block, Pillow's warnings are ignored."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # about harmless faults and large images
        if STREAM not in (settings.out, *settings.inputs):
            yield settings
            return
        from loupe.photos.streams import replace_streams

        replaced = settings.model_copy(update={"inputs": _replace_sample(settings.inputs)})
        with replace_streams(replaced) as opened:
            yield opened


def list_photos(settings: PhotoSettings) -> "PhotoList":
    """List the photos and the files for their results; a dry run prints this list, with existing files marked.

    Raises:
        UsageError: an input does not exist, or `out` or `compare` is not valid.
    """
    from loupe.photos.inputs import find_photos, find_photos_in_place

    if not settings.out.strip():
        raise UsageError("out: must be a folder or a file, got an empty text")
    inputs = _replace_sample(settings.inputs)
    if settings.in_place:
        found = find_photos_in_place(inputs)
    else:
        found = find_photos(inputs, Path(settings.out), settings.format_extension, settings.suffix or "")
    if settings.compare:
        from loupe.photos.comparison import validate_file

        validate_file(Path(settings.compare), settings.overwrite or settings.resume)
    if settings.dry_run:
        note = "kept, it already exists" if settings.resume else "exists; --overwrite replaces it, --resume keeps it"
        for job in found.jobs:
            is_kept = os.path.exists(job.out) and not (settings.overwrite or settings.in_place)
            print_line(f"{_name_photo(job.photo)} -> {job.out}{f' ({note})' if is_kept else ''}", settings.quiet)
    return found


def open_photo_readers(settings: PhotoSettings) -> "AbstractContextManager[list[PhotoReader]]":
    """Return a context manager that yields the readers for `process_photos`.

    If an input has one of ISOLATED_EXTENSIONS, a child process starts first. The child loads its libraries while this
    function imports the readers.
    """
    from loupe.imaging.child_process import READER, ChildProcess

    isolated = any(Path(name).suffix.lower() in ISOLATED_EXTENSIONS for name in settings.inputs)
    process = ChildProcess(READER) if isolated else None
    from loupe.imaging.isolated_reader import open_readers
    from loupe.photos.processing import MAX_CONCURRENT_PHOTOS

    return open_readers(MAX_CONCURRENT_PHOTOS, process)


def get_memory(settings: PhotoSettings) -> int:
    """Return the maximum memory for images in bytes."""
    from loupe.imaging.memory import MEGABYTE, get_default_budget

    return get_default_budget() if settings.memory is None else settings.memory * MEGABYTE


def process_photos(
    settings: PhotoSettings, found: "PhotoList", transform: "Transform", readers: "Sequence[PhotoReader]"
) -> "list[Outcome]":
    """Process each photo and write the file of `--compare`. Failed photos do not stop the others.

    Returns:
        The outcomes, in the order of `found.jobs`.

    Raises:
        LoupeError: the file of `--compare` cannot be written.
    """
    from loupe.imaging.writer import EncodeOptions
    from loupe.photos.processing import ProcessingOptions, process_jobs

    encoding = EncodeOptions(settings.quality, settings.compress_level)
    memory = get_memory(settings)
    options = ProcessingOptions(
        transform,
        encoding,
        strip=settings.strip_metadata,
        overwrite=settings.overwrite,
        resume=settings.resume,
        skip_larger=getattr(settings, "skip_larger", False),
        in_place=settings.in_place,
        keep_times=settings.keep_times,
        memory=memory,
        readers=readers,
    )
    order = {job: number for number, job in enumerate(found.jobs)}
    with (
        warnings.catch_warnings(),
        ProgressBar(settings.STEP, len(found.jobs), not _needs_progress(settings, found.jobs), "percent") as bar,
    ):
        warnings.simplefilter("ignore")  # Pillow warns about harmless faults
        outcomes = sorted(process_jobs(found.jobs, options, bar.update), key=lambda outcome: order[outcome.job])
    if settings.compare:
        from loupe.imaging.isolated_reader import read_first_image
        from loupe.photos.comparison import write_comparison

        jobs = [outcome.job for outcome in outcomes if not (outcome.reason or outcome.skipped)]
        write_comparison(
            Path(settings.compare),
            jobs,
            lambda file: read_first_image(readers[0], file, memory),
            settings.overwrite or settings.resume,
        )
    return outcomes


def report_outcomes(
    settings: PhotoSettings, found: "PhotoList", outcomes: "Sequence[Outcome]", method: str
) -> list[Path]:
    """Print the results, and return the written files. With several photos, print failures on standard error.

    `method` is the name of the model or method, or "".

    Raises:
        LoupeError: a photo failed, or the inputs contain no photo.
    """
    from loupe.photos.outcomes import describe_assumptions

    method = ", ".join(filter(None, (method, describe_assumptions(outcomes))))
    failures = [*found.failures, *((outcome.job.photo, outcome.reason) for outcome in outcomes if outcome.reason)]
    done = [outcome for outcome in outcomes if outcome.size]
    for outcome in done:
        if outcome.omitted:
            print_line(f"{outcome.job.out}: metadata omitted: {', '.join(outcome.omitted)}", settings.quiet)
    if len(found.jobs) + len(found.failures) == 1:
        for outcome in outcomes:
            if outcome.size:
                text = f"{outcome.size[0]}x{outcome.size[1]}{f', by {method}' if method else ''}"
                print_line(f"{outcome.job.out}: {text}", settings.quiet)
            elif outcome.skipped:
                print_line(
                    f"{_name_photo(outcome.job.photo)}: skipped, larger than the requested size", settings.quiet
                )
            elif not outcome.reason:
                print_line(f"{outcome.job.out}: kept, it already exists", settings.quiet)
        if failures:
            raise LoupeError(f"{_name_photo(failures[0][0])}: {failures[0][1]}")
    else:
        for path, reason in failures:
            print_error(f"{path}: {reason}")
        for path in found.others:
            print_line(f"{path}: skipped, not an image", settings.quiet)
        skipped = sum(outcome.skipped for outcome in outcomes)
        existing = sum(not outcome.size and not outcome.reason for outcome in outcomes) - skipped
        target = "in place" if settings.in_place else settings.out
        print_line(
            f"{target}: {len(done)} photo{'' if len(done) == 1 else 's'} {settings.VERB}"
            + (f" by {method}" if method else "")
            + (f", {existing} kept" if existing else "")
            + (f", {skipped} skipped, larger than the requested size" if skipped else ""),
            settings.quiet,
        )
        if failures:
            total = len(outcomes) + len(found.failures)
            raise LoupeError(f"{len(failures)} of {total} photos could not be {settings.VERB}")
        if not outcomes:
            raise LoupeError(f"no photos in {', '.join(settings.inputs)}")
    return [outcome.job.out for outcome in done]


def _name_photo(path: Path) -> str:
    """Return the name of a photo for messages."""
    return "the standard input" if path.parent.name.startswith(STREAM_FOLDER) else str(path)


def _replace_sample(inputs: Sequence[str]) -> tuple[str, ...]:
    """Replace `sample` by the path of the bundled photo."""
    if "sample" not in inputs:
        return tuple(inputs)
    from loupe.data.sources import find_bundled_photo

    return tuple(str(find_bundled_photo()) if text == "sample" else text for text in inputs)


def _needs_progress(settings: PhotoSettings, jobs: "Sequence[PhotoJob]") -> bool:
    large = any(os.path.isfile(job.photo) and job.photo.stat().st_size > PROGRESS_BYTES for job in jobs)
    return not settings.quiet and (len(jobs) > 1 or large)
