"""Processes photo files in parallel: each is read, transformed, and written completely or not at all."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from loupe.imaging.atomic import remove_leftovers
from loupe.imaging.decoder import PhotoError
from loupe.imaging.formats import ALPHA_FORMATS, get_format, has_alpha, validate_output, validate_suffix
from loupe.imaging.image_data import ImageData, ImageStream
from loupe.imaging.reader import read_photo
from loupe.imaging.writer import EncodeOptions, write_photo
from loupe.photos.inputs import PhotoJob
from loupe.photos.sizes import Size

MAX_CONCURRENT_PHOTOS = 2  # one is read or written while the other is transformed
LARGE_PIXELS = 30_000_000  # larger results are written one at a time


@dataclass(frozen=True)
class ProcessingOptions:
    """Options for all photos.

    Args:
        transform: makes the result of one frame or page; raises PhotoError.
        encoding: the encode options of the files.
        strip: omit the metadata except the colour profile.
        overwrite: replace existing results.
        resume: keep existing results.
    """

    transform: Callable[[ImageData], ImageStream]
    encoding: EncodeOptions = field(default_factory=EncodeOptions)
    strip: bool = False
    overwrite: bool = False
    resume: bool = False


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Args:
        job: the job.
        size: width and height of the result; None if it was not written.
        reason: the reason for a failure; "" if the result was written or existed before.
        omitted: names of metadata that is too long for the format.
    """

    job: PhotoJob
    size: Size | None = None
    reason: str = ""
    omitted: Sequence[str] = ()


class StoppedError(Exception):
    """The caller has ended the iteration over the outcomes; partial results are removed."""


def process_jobs(
    jobs: Sequence[PhotoJob], options: ProcessingOptions, report_progress: Callable[[float], None]
) -> Iterator[Outcome]:
    """Write the result of each photo. If the caller ends the iteration early, partial results are removed.

    Args:
        jobs: the photos.
        options: the options for all photos.
        report_progress: called from any thread with the number of finished photos, including fractions.

    Yields:
        The outcome of each job, in the order of completion.
    """
    for folder in {job.out.parent for job in jobs}:
        remove_leftovers(folder)
    processor = _Processor(options, report_progress)
    pool = ThreadPoolExecutor(MAX_CONCURRENT_PHOTOS)
    try:
        for future in as_completed([pool.submit(processor.process, job) for job in jobs]):
            yield future.result()
    finally:
        processor.stop.set()
        pool.shutdown(cancel_futures=True)


class _Processor:
    """Processes single photos, in several threads, and sums their progress."""

    def __init__(self, options: ProcessingOptions, report_progress: Callable[[float], None]) -> None:
        self.stop = threading.Event()
        self._options, self._report = options, report_progress
        self._large = threading.Lock()
        self._progress: dict[PhotoJob, float] = {}

    def process(self, job: PhotoJob) -> Outcome:
        """Process one photo; every error but StoppedError becomes the reason of the outcome."""
        options = self._options
        try:
            if os.path.exists(job.out):  # unlike Path.exists, False for a name that is too long
                if options.resume:
                    return Outcome(job)
                if not options.overwrite:
                    return Outcome(job, None, f"{job.out} exists; --overwrite replaces it, --resume keeps it")
            return self._write_result(job)
        except PhotoError as error:
            return Outcome(job, None, str(error))
        except StoppedError:
            raise
        except OSError as error:
            return Outcome(job, None, f"{job.out} cannot be written: {error.strerror or error}")
        except Exception as error:  # encoders raise errors of many types
            return Outcome(job, None, f"{job.out} cannot be written: {type(error).__name__}: {error}")
        finally:
            self._update_progress(job, 1)

    def _write_result(self, job: PhotoJob) -> Outcome:
        options = self._options
        photo = read_photo(job.photo, options.strip)
        validate_suffix(job.photo, photo.format)
        images = itertools.chain([_drop_opaque_alpha(next(photo.images), photo.count, job.out)], photo.images)
        results = map(options.transform, images)
        first = next(results)
        validate_output(job.out, first.size, photo.count, first.bands)
        counted = (
            replace(result, strips=self._count_rows(job, result, number, photo.count))
            for number, result in enumerate(itertools.chain([first], results))
        )
        job.out.parent.mkdir(parents=True, exist_ok=True)
        alone = first.pixel_count > LARGE_PIXELS
        if alone:
            self._large.acquire()
        try:
            encoding = replace(options.encoding, lossless=photo.lossless)
            omitted = write_photo(job.out, counted, photo.count, photo.loop, encoding)
        finally:
            if alone:
                self._large.release()
        return Outcome(job, first.size, omitted=omitted)

    def _count_rows(self, job: PhotoJob, image: ImageStream, number: int, count: int) -> Iterator[np.ndarray]:
        rows = 0
        for strip in image.strips:
            if self.stop.is_set():
                raise StoppedError
            rows += len(strip)
            self._update_progress(job, (number + rows / image.size[1]) / count)
            yield strip

    def _update_progress(self, job: PhotoJob, fraction: float) -> None:
        self._progress[job] = fraction
        self._report(sum(list(self._progress.values())))


def _drop_opaque_alpha(image: ImageData, count: int, out: Path) -> ImageData:
    """Remove the alpha of a single image if it is opaque everywhere and the format of the result has none."""
    pixels = image.pixels
    if count > 1 or not has_alpha(pixels.shape[2]) or get_format(out) in ALPHA_FORMATS:
        return image
    opaque = (pixels[..., -1] == np.iinfo(pixels.dtype).max).all()
    return replace(image, pixels=np.ascontiguousarray(pixels[..., :-1])) if opaque else image
