"""What the steps that make files of photos share: they list, record what they do, work, and tell."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.cli.progress import ProgressBar, print_error, print_line
from loupe.config.photos import Files
from loupe.errors import LoupeError, UsageError

if TYPE_CHECKING:
    from loupe.imaging.reader import LargePage, Page
    from loupe.photos.inputs import Found, Job
    from loupe.photos.processing import Order, Outcome
    from loupe.photos.sizes import Size

LARGE = 2_000_000  # bytes of a single photo from which on there is a progress bar


def listed(settings: Files) -> "Found":
    """The photos and the names of their results; a dry run tells them.

    Raises:
        UsageError: an input or output does not exist, or makes no sense.
    """
    from loupe.photos import inputs

    if not settings.out.strip():
        raise UsageError("out: must be a folder or a file, got an empty text")
    named = [_bundled() if text == "sample" else text for text in settings.inputs]
    found = inputs.find(named, Path(settings.out), settings.suffix)
    if settings.compare:
        from loupe.photos import comparison

        comparison.refuse(Path(settings.compare), settings.overwrite)
    if settings.dry_run:
        for job in found.jobs:
            print_line(f"{job.photo} -> {job.out}", settings.quiet)
    return found


def order(settings: Files, size: "Callable[[Size], Size]", make: "Callable[[Page], LargePage]") -> "Order":
    """What is to be made of photos, as the settings say; arguments as `work.Order` takes them."""
    from loupe.imaging.writer import Coding
    from loupe.photos.processing import Order

    coding = Coding(settings.quality, settings.compress_level)
    return Order(size, make, coding, settings.strip_metadata, settings.overwrite, settings.resume)


def make(settings: Files, found: "Found", order: "Order") -> "list[Outcome]":
    """Process each photo and write the page of `--compare`; photos that fail do not stop the rest.

    Returns:
        The outcome of each photo, in the order of `found`.
    """
    from loupe.photos import processing

    place = {job: number for number, job in enumerate(found.jobs)}
    with (
        warnings.catch_warnings(),
        ProgressBar(settings.STEP, len(found.jobs), _is_short(settings, found.jobs), "percent") as bar,
    ):
        warnings.simplefilter("ignore")  # Pillow warns of harmless oddities in files
        outcomes = sorted(processing.results(found.jobs, order, bar.update), key=lambda outcome: place[outcome.job])
    if settings.compare:
        from loupe.photos import comparison

        comparison.write(Path(settings.compare), [outcome.job for outcome in outcomes if outcome.size])
    return outcomes


def report(settings: Files, found: "Found", outcomes: "Sequence[Outcome]", by: str) -> list[Path]:
    """Print the outcomes, with a line on standard error for each photo that failed.

    Args:
        settings: of the step.
        found: the photos.
        outcomes: from `make`.
        by: the name of the model or method.

    Returns:
        The files that were written.

    Raises:
        LoupeError: at least one photo failed.
    """
    _tell(settings, found, outcomes, by)
    return [outcome.job.out for outcome in outcomes if outcome.size]


def _bundled() -> str:
    from loupe.data.sources import bundled_photo

    return str(bundled_photo())


def _is_short(settings: Files, jobs: "Sequence[Job]") -> bool:
    """Whether there is nothing to show a progress bar for, or to."""
    several = len(jobs) > 1 or any(job.photo.is_file() and job.photo.stat().st_size > LARGE for job in jobs)
    return settings.quiet or not several


def _tell(settings: Files, found: "Found", outcomes: "Sequence[Outcome]", by: str) -> None:
    """The results, and a line to standard error for each photo that could not be upscaled; then the failure."""
    failures = [*found.failures, *((outcome.job.photo, outcome.reason) for outcome in outcomes if outcome.reason)]
    done = [outcome for outcome in outcomes if outcome.size]
    for outcome in done:
        if outcome.left_out:
            out = outcome.job.out
            print_line(f"{out}: without {' and '.join(outcome.left_out)}, too long for {out.suffix}", settings.quiet)
    there = len(outcomes) - len(done) - sum(outcome.reason != "" for outcome in outcomes)
    if len(found.jobs) + len(found.failures) == 1:
        for outcome in done:
            assert outcome.size is not None
            print_line(f"{outcome.job.out}: {outcome.size[0]}x{outcome.size[1]}, by {by}", settings.quiet)
        if there:
            print_line(f"{outcomes[0].job.out}: there already", settings.quiet)
        if failures:
            raise LoupeError(f"{failures[0][0]}: {failures[0][1]}")
        return
    for path, reason in failures:
        print_error(f"{path}: {reason}")
    for path in found.others:
        print_line(f"{path}: no image, left out", settings.quiet)
    counts = f"{len(done)} photo{'' if len(done) == 1 else 's'} {settings.VERB} by {by}" + (
        f", {there} there already" if there else ""
    )
    print_line(f"{settings.out}: {counts}", settings.quiet)
    if failures:
        raise LoupeError(
            f"{len(failures)} of {len(outcomes) + len(found.failures)} photos could not be {settings.VERB}"
        )
    if not outcomes:
        raise LoupeError(f"no photos in {', '.join(settings.inputs)}")
