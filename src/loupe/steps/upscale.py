"""Photos, enlarged by the champion, or by a network that ships with the package."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.config import Upscale
from loupe.config.files import Files
from loupe.errors import LoupeError
from loupe.progress import Bar, say

if TYPE_CHECKING:
    from loupe.data.writing import Coding
    from loupe.enlarging import Enlarger
    from loupe.upscaling.batch import Found, Job
    from loupe.upscaling.networks import Networks
    from loupe.upscaling.work import Order, Outcome

LARGE = 2_000_000  # bytes of a single photo from which on there is a progress bar


def run(settings: Upscale) -> list[Path]:
    """Enlarge the photos, go on after bad ones, and tell; returns the files that were written.

    Raises:
        LoupeError: some could not be enlarged.
    """
    from loupe import upscaling

    def order(coding: "Coding") -> "tuple[Order, Callable[[], str]]":
        from loupe.upscaling.work import Order

        networks = _networks(settings)
        scale, wanted = settings.scale, settings.wanted
        return Order(
            lambda size: upscaling.size_of(size, scale, wanted, networks),
            upscaling.enlarging(scale, wanted, networks),
            coding,
            settings.strip_metadata,
            settings.overwrite,
            settings.resume,
        ), lambda: networks.shown

    return files(settings, settings.out, order)


def files(settings: Files, out: str, order: "Callable[[Coding], tuple[Order, Callable[[], str]]]") -> list[Path]:
    """Make a file of each photo, go on after bad ones, and tell; returns those that were written.

    Args:
        settings: of the step.
        out: its folder or file.
        order: gives what is to be made, and afterwards what it was made by.

    Raises:
        LoupeError: of some photos none could be made.
    """
    from loupe.data.sources import bundled_photo
    from loupe.data.writing import Coding
    from loupe.upscaling import batch, comparing, work

    inputs = [str(bundled_photo()) if text == "sample" else text for text in settings.inputs]
    found = batch.find(inputs, Path(out), settings.suffix)
    if settings.dry_run:
        for job in found.jobs:
            say(f"{job.photo} -> {job.out}", settings.quiet)
        return []
    if settings.compare:
        comparing.refuse(Path(settings.compare))
    warnings.simplefilter("ignore")  # Pillow's, of what is odd in a file but does no harm
    with _termination_as_exit(), _recorded(settings, inputs):
        what, by = order(Coding(settings.quality, settings.compress_level))
        with Bar(f"{settings.STEP}", len(found.jobs), _is_short(settings, found.jobs), "percent") as bar:
            outcomes = sorted(work.results(found.jobs, what, bar.at), key=lambda done: found.jobs.index(done.job))
        if settings.compare:
            comparing.write(Path(settings.compare), [outcome.job for outcome in outcomes if outcome.size])
        _log(settings, outcomes, by())
    _tell(settings, out, found, outcomes, by())
    return [outcome.job.out for outcome in outcomes if outcome.size]


def _networks(settings: Upscale) -> "Networks":
    from loupe.upscaler import networks_of
    from loupe.upscaling.networks import SCALES, Networks

    if settings.model != "ridge":
        return networks_of(settings.model, settings.ensemble)

    def ridge(scale: Fraction) -> "tuple[str, Enlarger]":
        from loupe.models.ridge import RidgeEnlarger
        from loupe.steps.evaluate import sample_ridge

        return "ridge", RidgeEnlarger(sample_ridge(settings, scale), scale, "rec601")

    return Networks(SCALES, ridge, settings.ensemble)


def _is_short(settings: Files, jobs: "Sequence[Job]") -> bool:
    """Whether there is nothing to show a progress bar for, or to."""
    several = len(jobs) > 1 or any(job.photo.is_file() and job.photo.stat().st_size > LARGE for job in jobs)
    return settings.quiet or not several


@contextmanager
def _recorded(settings: Files, inputs: list[str]) -> Iterator[None]:
    """A run of MLflow under `mlflow run`, or inside another step's; elsewhere none, and no store is made."""
    if "MLFLOW_RUN_ID" not in os.environ and not _inside_a_run():
        yield
        return
    from loupe.tracking import runs

    runs.claim()
    with runs.step_run(settings, f"{settings.STEP} {Path(inputs[0]).name}"):
        yield


def _inside_a_run() -> bool:
    mlflow = sys.modules.get("mlflow")
    return mlflow is not None and mlflow.active_run() is not None


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """SIGTERM ends the step as Ctrl-C does, so that nothing half written is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _log(settings: Files, outcomes: "Sequence[Outcome]", by: str) -> None:
    if not _inside_a_run():
        return
    from loupe.tracking import runs

    runs.log_tags({"loupe.model": by})
    runs.log_metrics({settings.VERB: sum(outcome.size is not None for outcome in outcomes),
                      "failed": sum(outcome.reason != "" for outcome in outcomes)})  # fmt: skip
    if len(outcomes) == 1 and outcomes[0].size:
        runs.log_file(outcomes[0].job.out)


def _tell(settings: Files, out: str, found: "Found", outcomes: "Sequence[Outcome]", by: str) -> None:
    """The results, and a line to standard error for each photo that could not be enlarged; then the failure."""
    failures = [*found.failures, *((outcome.job.photo, outcome.reason) for outcome in outcomes if outcome.reason)]
    done = [outcome for outcome in outcomes if outcome.size]
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
        print(f"{path}: {' '.join(reason.split())}", file=sys.stderr)
    for path in found.others:
        say(f"{path}: no image, left out", settings.quiet)
    counts = f"{len(done)} photos {settings.VERB} by {by}" + (f", {there} there already" if there else "")
    say(f"{out}: {counts}", settings.quiet)
    if failures:
        raise LoupeError(
            f"{len(failures)} of {len(outcomes) + len(found.failures)} photos could not be {settings.VERB}"
        )
    if not outcomes:
        raise LoupeError(f"no photos in {', '.join(settings.inputs)}")


if __name__ == "__main__":
    from loupe.command_line import run_step

    sys.exit(run_step("upscale"))
