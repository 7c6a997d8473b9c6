"""What the steps that make files of photos share: they list, record what they do, work, and tell."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.config.files import Files
from loupe.errors import LoupeError, UsageError
from loupe.progress import Bar, complain, say

if TYPE_CHECKING:
    from loupe.data.pages import LargePage, Page
    from loupe.upscaling.batch import Found, Job
    from loupe.upscaling.sizes import Size
    from loupe.upscaling.work import Order, Outcome

LARGE = 2_000_000  # bytes of a single photo from which on there is a progress bar


def listed(settings: Files) -> "Found":
    """The photos and the names of their results; a dry run tells them.

    Raises:
        UsageError: an input or output does not exist, or makes no sense.
    """
    from loupe.upscaling import batch

    if not settings.out.strip():
        raise UsageError("out: must be a folder or a file, got an empty text")
    inputs = [_bundled() if text == "sample" else text for text in settings.inputs]
    found = batch.find(inputs, Path(settings.out), settings.suffix)
    if settings.compare:
        from loupe.upscaling import comparing

        comparing.refuse(Path(settings.compare), settings.overwrite)
    if settings.dry_run:
        for job in found.jobs:
            say(f"{job.photo} -> {job.out}", settings.quiet)
    return found


def order(settings: Files, size: "Callable[[Size], Size]", make: "Callable[[Page], LargePage]") -> "Order":
    """What is to be made of photos, as the settings say; arguments as `work.Order` takes them."""
    from loupe.data.writing import Coding
    from loupe.upscaling.work import Order

    coding = Coding(settings.quality, settings.compress_level)
    return Order(size, make, coding, settings.strip_metadata, settings.overwrite, settings.resume)


def make(settings: Files, found: "Found", order: "Order", by: Callable[[], str]) -> list[Path]:
    """Make a file of each photo, go on after bad ones, and tell; returns those that were written.

    Args:
        settings: of the step.
        found: the photos.
        order: what is to be made of them.
        by: tells afterwards what they were made by.

    Raises:
        LoupeError: of some photos none could be made.
    """
    from loupe.upscaling import work

    warnings.simplefilter("ignore")  # Pillow's, of what is odd in a file but does no harm
    place = {job: number for number, job in enumerate(found.jobs)}
    with Bar(settings.STEP, len(found.jobs), _is_short(settings, found.jobs), "percent") as bar:
        outcomes = sorted(work.results(found.jobs, order, bar.at), key=lambda outcome: place[outcome.job])
    if settings.compare:
        from loupe.upscaling import comparing

        comparing.write(Path(settings.compare), [outcome.job for outcome in outcomes if outcome.size])
    _log(settings, outcomes, by())
    _tell(settings, found, outcomes, by())
    return [outcome.job.out for outcome in outcomes if outcome.size]


def _bundled() -> str:
    from loupe.data.sources import bundled_photo

    return str(bundled_photo())


@contextmanager
def recorded(settings: Files) -> Iterator[None]:
    """A run of MLflow under `mlflow run`, or inside another step's; elsewhere none, and no store is made."""
    if "MLFLOW_RUN_ID" not in os.environ and not _inside_a_run():
        yield
        return
    from loupe.tracking import runs

    runs.claim()
    with runs.step_run(settings, f"{settings.STEP} {Path(settings.inputs[0]).name}"):
        yield


def _is_short(settings: Files, jobs: "Sequence[Job]") -> bool:
    """Whether there is nothing to show a progress bar for, or to."""
    several = len(jobs) > 1 or any(job.photo.is_file() and job.photo.stat().st_size > LARGE for job in jobs)
    return settings.quiet or not several


def _inside_a_run() -> bool:
    mlflow = sys.modules.get("mlflow")
    return mlflow is not None and mlflow.active_run() is not None


def _log(settings: Files, outcomes: "Sequence[Outcome]", by: str) -> None:
    if not _inside_a_run():
        return
    from loupe.tracking import records

    records.log_tags({"loupe.model": by})
    records.log_metrics({settings.VERB: sum(outcome.size is not None for outcome in outcomes),
                      "failed": sum(outcome.reason != "" for outcome in outcomes)})  # fmt: skip
    if len(outcomes) == 1 and outcomes[0].size:
        records.log_file(outcomes[0].job.out)


def _tell(settings: Files, found: "Found", outcomes: "Sequence[Outcome]", by: str) -> None:
    """The results, and a line to standard error for each photo that could not be enlarged; then the failure."""
    failures = [*found.failures, *((outcome.job.photo, outcome.reason) for outcome in outcomes if outcome.reason)]
    done = [outcome for outcome in outcomes if outcome.size]
    for outcome in done:
        if outcome.left_out:
            out = outcome.job.out
            say(f"{out}: without {' and '.join(outcome.left_out)}, too long for {out.suffix}", settings.quiet)
    there = len(outcomes) - len(done) - sum(outcome.reason != "" for outcome in outcomes)
    if len(found.jobs) + len(found.failures) == 1:
        for outcome in done:
            assert outcome.size is not None
            say(f"{outcome.job.out}: {outcome.size[0]}x{outcome.size[1]}, by {by}", settings.quiet)
        if there:
            say(f"{outcomes[0].job.out}: there already", settings.quiet)
        if failures:
            raise LoupeError(f"{failures[0][0]}: {failures[0][1]}")
        return
    for path, reason in failures:
        complain(f"{path}: {reason}")
    for path in found.others:
        say(f"{path}: no image, left out", settings.quiet)
    counts = f"{len(done)} photo{'' if len(done) == 1 else 's'} {settings.VERB} by {by}" + (
        f", {there} there already" if there else ""
    )
    say(f"{settings.out}: {counts}", settings.quiet)
    if failures:
        raise LoupeError(
            f"{len(failures)} of {len(outcomes) + len(found.failures)} photos could not be {settings.VERB}"
        )
    if not outcomes:
        raise LoupeError(f"no photos in {', '.join(settings.inputs)}")
