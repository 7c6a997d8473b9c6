"""Jobs to files: several photos at a time, each read, worked on and written as a whole or not at all."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from loupe.imaging import atomic, reader, writer
from loupe.imaging.decoder import PhotoError
from loupe.photos.inputs import Job, checked
from loupe.photos.sizes import Size

AT_ONCE = 2  # photos: one is decoded or encoded while the other is worked on
LARGE = 30_000_000  # pixels of a result from which on only one such photo is in work


@dataclass(frozen=True)
class Order:
    """What is to be made of photos.

    Args:
        size: width and height of a result, from those of the photo; raises PhotoError where there is none.
        make: a page of the result, from a page of the photo.
        coding: of the files.
        strip: write no metadata but the colour profile.
        overwrite: replace results that exist.
        resume: leave results that exist as they are.
    """

    size: Callable[[Size], Size]
    make: Callable[[reader.Page], reader.LargePage]
    coding: writer.Coding = field(default_factory=writer.Coding)
    strip: bool = False
    overwrite: bool = False
    resume: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Args:
        job: that was to be done.
        size: of the result; None where nothing was written.
        reason: why nothing was made of the photo; "" where it was, or had been before.
        left_out: what of the metadata is too long for the format.
    """

    job: Job
    size: Size | None = None
    reason: str = ""
    left_out: Sequence[str] = ()


class StoppedError(Exception):
    """The work is to end: what is half written is removed."""


def results(jobs: Sequence[Job], order: Order, progress: Callable[[float], None]) -> Iterator[Outcome]:
    """Make a file of each photo; whatever ends the iteration, those in work stop and leave nothing half written.

    Args:
        jobs: to do.
        order: how.
        progress: is told how many photos are done, in fractions; from any thread.

    Yields:
        What became of each, in the order in which they end.
    """
    for folder in {job.out.parent for job in jobs}:
        atomic.remove_leftovers(folder)
    work = _Work(order, progress)
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for future in as_completed([pool.submit(work.outcome, job) for job in jobs]):
            yield future.result()
    finally:
        work.stop.set()
        pool.shutdown(cancel_futures=True)


class _Work:
    """Works on single photos in any thread, and counts how far they all are."""

    def __init__(self, order: Order, progress: Callable[[float], None]) -> None:
        self.stop = threading.Event()
        self._order, self._progress = order, progress
        self._large = threading.Lock()
        self._shares: dict[Job, float] = {}

    def outcome(self, job: Job) -> Outcome:
        """Do one job."""
        order = self._order
        try:
            if os.path.exists(job.out):  # which says no to a name that is too long
                if order.resume:
                    return Outcome(job)
                if not order.overwrite:
                    return Outcome(job, None, f"{job.out} exists; --overwrite replaces it, --resume leaves it")
            return self._written(job)
        except PhotoError as error:
            return Outcome(job, None, str(error))
        except StoppedError:
            raise
        except OSError as error:
            return Outcome(job, None, f"{job.out} cannot be written: {error.strerror or error}")
        except Exception as error:  # encoders raise whatever a image leads them to, and the others go on
            return Outcome(job, None, f"{job.out} cannot be made: {type(error).__name__}: {error}")
        finally:
            self._tell(job, 1)

    def _written(self, job: Job) -> Outcome:
        order = self._order
        photo = reader.read(job.photo, order.strip)
        checked(job.photo, photo.format)
        size = order.size(photo.size)
        first = _without_opaque_alpha(next(photo.pages), photo.count, job.out)
        writer.refuse(job.out, size, photo.count, first.pixels.shape[2])
        large = itertools.chain([order.make(first)], map(order.make, photo.pages))
        counted = (
            replace(page, strips=self._counted(job, page, number, photo.count)) for number, page in enumerate(large)
        )
        job.out.parent.mkdir(parents=True, exist_ok=True)
        alone = size[0] * size[1] > LARGE
        if alone:
            self._large.acquire()
        try:
            coding = replace(order.coding, lossless=photo.lossless)
            left_out = writer.write(job.out, counted, photo.count, photo.loop, coding)
        finally:
            if alone:
                self._large.release()
        return Outcome(job, size, left_out=left_out)

    def _counted(self, job: Job, page: reader.LargePage, number: int, count: int) -> Iterator[np.ndarray]:
        rows = 0
        for strip in page.strips:
            if self.stop.is_set():
                raise StoppedError
            rows += len(strip)
            self._tell(job, (number + rows / page.size[1]) / count)
            yield strip

    def _tell(self, job: Job, share: float) -> None:
        self._shares[job] = share
        self._progress(sum(list(self._shares.values())))


def _without_opaque_alpha(page: reader.Page, count: int, out: Path) -> reader.Page:
    """A lone page without the alpha that hides nothing, where the format of its file has none."""
    pixels = page.pixels
    if count > 1 or pixels.shape[2] in (1, 3) or writer.format_of(out) in writer.ALPHA:
        return page
    opaque = (pixels[..., -1] == np.iinfo(pixels.dtype).max).all()
    return replace(page, pixels=np.ascontiguousarray(pixels[..., :-1])) if opaque else page
