"""Processes photo files in parallel. Each result is written completely or not at all."""

import itertools
import math
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from loupe.errors import LoupeError
from loupe.imaging.atomic import remove_leftovers
from loupe.imaging.estimates import AVIF_BYTES, DEEP_AVIF_BYTES, estimate_encoding, estimate_opening, get_webp_bytes
from loupe.imaging.formats import ALPHA_FORMATS, get_format, has_alpha, validate_extension, validate_output
from loupe.imaging.image_data import ImageData, ImageStream
from loupe.imaging.isolated_reader import PhotoReader, open_readers
from loupe.imaging.memory import MemoryBudget, get_default_budget
from loupe.imaging.reader import Photo
from loupe.imaging.threads import StoppedError, stop_after
from loupe.imaging.writer import EncodeOptions, write_photo
from loupe.photos.inputs import PhotoJob
from loupe.photos.outcomes import Outcome
from loupe.photos.sizes import LargerPhotoError, Size

RGBA_BYTES = 4  # bytes per pixel of 8-bit RGBA; an image with more bytes per pixel has 16 bits per sample
RESULT_BYTES = 4  # bytes per pixel of a result that is encoded as a whole
MAX_CONCURRENT_PHOTOS = 2  # one photo is read or written while another is transformed


class Transform(Protocol):
    """Makes the result of one frame or page."""

    def compute_size(self, size: Size) -> Size:
        """Compute the size of the result; can raise LoupeError."""
        ...

    def estimate_memory(self, size: Size, pixel_bytes: int) -> int:
        """Estimate the bytes for the computation. The image and the whole result are not included."""
        ...

    def __call__(self, image: ImageData) -> ImageStream:
        """Make the result; can raise LoupeError."""
        ...


@dataclass(frozen=True)
class ProcessingOptions:
    """Options for all photos.

    Args:
        transform: makes the result of one frame or page.
        encoding: the encode options of the files.
        strip: omit all metadata except the colour space.
        overwrite: replace existing results.
        resume: keep existing results.
        skip_larger: skip photos that are larger than the requested size.
        in_place: replace each photo by its result.
        keep_times: give results the times and permissions of the photos.
        memory: maximum bytes for the images of all photos.
        readers: one reader per thread; None opens MAX_CONCURRENT_PHOTOS readers.
    """

    transform: Transform
    encoding: EncodeOptions = field(default_factory=EncodeOptions)
    strip: bool = False
    overwrite: bool = False
    resume: bool = False
    skip_larger: bool = False
    in_place: bool = False
    keep_times: bool = False
    memory: int = field(default_factory=get_default_budget)
    readers: Sequence[PhotoReader] | None = None


def process_jobs(
    jobs: Sequence[PhotoJob], options: ProcessingOptions, report_progress: Callable[[float], None]
) -> Iterator[Outcome]:
    """Write the result of each photo. If the caller ends the iteration early, partial results are removed.

    Args:
        jobs: the photos.
        options: the options for all photos.
        report_progress: called from any thread with the number of finished photos, plus the finished fractions of the
            other photos.

    Yields:
        The outcomes, in the order of completion.
    """
    for folder in {job.out.parent for job in jobs}:
        with suppress(OSError):  # the outcome of the job reports the error
            remove_leftovers(folder)
    own_readers = open_readers(MAX_CONCURRENT_PHOTOS) if options.readers is None else nullcontext(options.readers)
    with own_readers as readers:
        processor = _Processor(options, readers, report_progress)
        pool = ThreadPoolExecutor(len(readers))
        try:
            for future in as_completed([pool.submit(processor.process, job) for job in jobs]):
                yield future.result()
        except BaseException:
            processor.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


class _Processor:
    """Processes one photo per call, from several threads, and sums the progress of all photos."""

    def __init__(
        self, options: ProcessingOptions, readers: Sequence[PhotoReader], report_progress: Callable[[float], None]
    ) -> None:
        self._options, self._report = options, report_progress
        self._budget = MemoryBudget(options.memory)
        self._opening = threading.Lock()  # only one thread at a time reserves memory; see `MemoryBudget.reserve`
        self._stopped = threading.Event()
        self._readers, self._idle_readers = readers, queue.SimpleQueue[PhotoReader]()
        for reader in readers:
            self._idle_readers.put(reader)
        self._progress: dict[PhotoJob, float] = {}

    def stop(self) -> None:
        """End all threads as soon as possible."""
        self._stopped.set()
        for reader in self._readers:
            reader.interrupt()

    def process(self, job: PhotoJob) -> Outcome:
        """Process one photo; an error becomes the reason of the outcome. Raises StoppedError after `stop`."""
        options = self._options
        try:
            # Path.exists would raise an exception for a name that is too long.
            if not (options.overwrite or options.in_place) and os.path.exists(job.out):
                return self._report_existing(job)
            with stop_after(self._stopped):
                return self._read_and_write(job)
        except LoupeError as error:  # of the photo, or of the network
            if options.skip_larger and isinstance(error, LargerPhotoError):
                return Outcome(job, skipped=True)
            return Outcome(job, None, str(error))
        except StoppedError:
            raise
        except OSError as error:
            if isinstance(error, FileExistsError) and os.path.exists(job.out):  # another process wrote the file
                return self._report_existing(job)
            return Outcome(job, None, f"{job.out} cannot be written: {error.strerror or error}")
        except Exception as error:
            return Outcome(job, None, f"unexpected error: {type(error).__name__}: {error}")
        finally:
            self._update_progress(job, 1)

    def _report_existing(self, job: PhotoJob) -> Outcome:
        reason = "" if self._options.resume else f"{job.out} exists; --overwrite replaces it, --resume keeps it"
        return Outcome(job, None, reason)

    def _read_and_write(self, job: PhotoJob) -> Outcome:
        opening_bytes = estimate_opening(job.photo)
        reader = self._idle_readers.get()
        try:
            with self._budget.reserve() as reserve_bytes:
                with self._opening:
                    reserve_bytes(opening_bytes, "the file")
                    photo = reader.open(job.photo, opening_bytes, self._options.strip)
                    validate_extension(job.photo, photo.format)
                    encoding = replace(
                        self._options.encoding,
                        lossless=photo.lossless,
                        subsampled=photo.subsampled,
                        overwrite=self._options.overwrite or self._options.in_place,
                        attributes_of=job.photo if self._options.in_place or self._options.keep_times else None,
                        keep_times=self._options.keep_times,
                        total_bytes=self._count_pixels(photo.page_sizes) * photo.pixel_bytes,
                    )
                    needed, purpose = self._estimate_memory(photo, job.out, encoding)
                    if needed > self._budget.total:
                        encoding = replace(encoding, low_memory=True)
                        needed, purpose = self._estimate_memory(photo, job.out, encoding)
                    reserve_bytes(needed, purpose)
                return self._write_result(job, photo, encoding)
        finally:
            reader.close()
            self._idle_readers.put(reader)

    def _count_pixels(self, sizes: Sequence[Size]) -> int:
        """Return the total number of result pixels for images with these sizes."""
        return sum(math.prod(self._options.transform.compute_size(size)) for size in sizes)

    def _estimate_memory(self, photo: Photo, out: Path, encoding: EncodeOptions) -> tuple[int, str]:
        """Return the estimated bytes for a photo, and a description of the result for an error message.

        Raises:
            LoupeError: the photo does not fit the requested size, or the format of `out` cannot store the result.
        """
        transform, sizes, name = self._options.transform, photo.page_sizes or (photo.size,), get_format(out)
        largest = max((transform.compute_size(size) for size in sizes), key=math.prod)
        validate_output(out, largest, photo.count, bands=1)
        total = math.prod(largest) * photo.count if photo.count > 1 and name != "TIFF" else 0
        pixels = max(map(math.prod, sizes)) * photo.pixel_bytes
        work = max(transform.estimate_memory(size, photo.pixel_bytes) for size in {*sizes})
        lossless = encoding.lossless and encoding.quality is None
        per_pixel = None
        if name == "AVIF":
            is_deep = photo.pixel_bytes > RGBA_BYTES and photo.count == 1  # an animation has 8 bits per sample
            per_pixel = DEEP_AVIF_BYTES if is_deep else AVIF_BYTES[encoding.avif_subsampling]
        if name == "WEBP":
            per_pixel = get_webp_bytes(lossless, encoding.low_memory, photo.pixel_bytes)
        encoded = estimate_encoding(name, largest, total, per_pixel)
        # A streamed result (encoded == 0) is never in memory as a whole.
        if photo.count == 1:
            writing = pixels + max(work + RESULT_BYTES * math.prod(largest) * bool(encoded), encoded)
        else:
            writing = pixels + work + encoded
        # Both this process and the reader's process store the pixels.
        reading = max(photo.decoding_bytes, 2 * pixels)
        # While one of several images is written, the next image is decoded.
        needed = reading + writing if photo.count > 1 else max(reading, writing)
        images = f"{photo.count} images of " if photo.count > 1 else ""
        return needed, f"{images}{largest[0]}x{largest[1]} pixels as {name}"

    def _write_result(self, job: PhotoJob, photo: Photo, encoding: EncodeOptions) -> Outcome:
        images: Iterator[ImageData] = itertools.chain(
            [_drop_opaque_alpha(next(photo.images), photo.count, job.out)], photo.images
        )
        first = self._options.transform(next(images))
        validate_output(job.out, first.size, photo.count, first.bands)
        # With another quality or noise for each frame, pixels that are equal in all frames would flicker.
        if photo.loop is not None:
            images = map(partial(replace, jpeg_quality=first.assumed_quality, noise=first.removed_noise), images)
        results = map(self._options.transform, images)
        streams = (
            replace(result, strips=self._count_rows(job, result, number, photo.count))
            for number, result in enumerate(itertools.chain([first], results))
        )
        job.out.parent.mkdir(parents=True, exist_ok=True)
        omitted = write_photo(job.out, streams, photo.count, photo.loop, encoding)
        return Outcome(
            job,
            first.size,
            omitted=omitted,
            assumed_quality=first.assumed_quality,
            removed_noise=first.removed_noise,
        )

    def _count_rows(self, job: PhotoJob, image: ImageStream, number: int, count: int) -> Iterator[np.ndarray]:
        rows = 0
        for strip in image.strips:
            if self._stopped.is_set():
                raise StoppedError
            rows += len(strip)
            self._update_progress(job, (number + rows / image.size[1]) / count)
            yield strip

    def _update_progress(self, job: PhotoJob, fraction: float) -> None:
        self._progress[job] = fraction
        self._report(sum(list(self._progress.values())))


def _drop_opaque_alpha(image: ImageData, count: int, out: Path) -> ImageData:
    """Remove an opaque alpha of a single image if the result's format does not support alpha."""
    pixels = image.pixels
    if count > 1 or not has_alpha(pixels.shape[2]) or get_format(out) in ALPHA_FORMATS:
        return image
    opaque = (pixels[..., -1] == np.iinfo(pixels.dtype).max).all()
    return replace(image, pixels=np.ascontiguousarray(pixels[..., :-1])) if opaque else image
