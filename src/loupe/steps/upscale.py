"""Photos, enlarged by the champion, or by a network that ships with the package."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.config import Upscale
from loupe.errors import LoupeError
from loupe.progress import Bar, say

if TYPE_CHECKING:
    from loupe.enlarging import Enlarger
    from loupe.upscaling.batch import Found, Job
    from loupe.upscaling.networks import Networks
    from loupe.upscaling.work import Outcome

LARGE = 2_000_000  # bytes of a single photo from which on there is a progress bar


def run(settings: Upscale) -> list[Path]:
    """Enlarge the photos, go on after bad ones, and tell; returns the files that were written.

    Raises:
        LoupeError: some could not be enlarged.
    """
    from loupe.data.sources import bundled_photo
    from loupe.data.writing import Coding
    from loupe.upscaling import batch, comparing, work

    inputs = [str(bundled_photo()) if text == "sample" else text for text in settings.inputs]
    found = batch.find(inputs, Path(settings.out), settings.suffix)
    if settings.dry_run:
        for job in found.jobs:
            say(f"{job.photo} -> {job.out}", settings.quiet)
        return []
    if settings.compare:
        comparing.refuse(Path(settings.compare))
    warnings.simplefilter("ignore")  # Pillow's, of what is odd in a file but does no harm
    with _termination_as_exit(), _recorded(settings, inputs):
        order = work.Order(
            _networks(settings),
            settings.scale,
            settings.wanted,
            Coding(settings.quality, settings.compress_level),
            settings.strip_metadata,
            settings.overwrite,
            settings.resume,
        )
        with Bar("enlarging", len(found.jobs), _is_short(settings, found.jobs), "percent") as bar:
            outcomes = sorted(
                work.enlarge(found.jobs, order, bar.at), key=lambda outcome: found.jobs.index(outcome.job)
            )
        if settings.compare:
            comparing.write(Path(settings.compare), [outcome.job for outcome in outcomes if outcome.size])
        _log(outcomes, order.networks)
    _tell(settings, found, outcomes, order.networks)
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


def _is_short(settings: Upscale, jobs: "Sequence[Job]") -> bool:
    """Whether there is nothing to show a progress bar for, or to."""
    several = len(jobs) > 1 or any(job.photo.is_file() and job.photo.stat().st_size > LARGE for job in jobs)
    return settings.quiet or not several


@contextmanager
def _recorded(settings: Upscale, inputs: list[str]) -> Iterator[None]:
    """A run of MLflow under `mlflow run`, or inside another step's; elsewhere none, and no store is made."""
    if "MLFLOW_RUN_ID" not in os.environ and not _inside_a_run():
        yield
        return
    from loupe.tracking import runs

    runs.claim()
    with runs.step_run(settings, f"upscale {Path(inputs[0]).name}"):
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


def _log(outcomes: "Sequence[Outcome]", networks: "Networks") -> None:
    if not _inside_a_run():
        return
    from loupe.tracking import runs

    runs.log_tags({"loupe.model": networks.shown})
    runs.log_metrics({"enlarged": sum(outcome.size is not None for outcome in outcomes),
                      "failed": sum(outcome.reason != "" for outcome in outcomes)})  # fmt: skip
    if len(outcomes) == 1 and outcomes[0].size:
        runs.log_file(outcomes[0].job.out)


def _tell(settings: Upscale, found: "Found", outcomes: "Sequence[Outcome]", networks: "Networks") -> None:
    """The results, and a line to standard error for each photo that could not be enlarged; then the failure."""
    failures = [*found.failures, *((outcome.job.photo, outcome.reason) for outcome in outcomes if outcome.reason)]
    done = [outcome for outcome in outcomes if outcome.size]
    there = len(outcomes) - len(done) - sum(outcome.reason != "" for outcome in outcomes)
    if len(found.jobs) + len(found.failures) == 1:
        for outcome in done:
            assert outcome.size is not None
            say(f"{outcome.job.out}: {outcome.size[0]}x{outcome.size[1]}, by {networks.shown}", settings.quiet)
        if there:
            say(f"{outcomes[0].job.out}: there already", settings.quiet)
        if failures:
            raise LoupeError(f"{failures[0][0]}: {failures[0][1]}")
        return
    for path, reason in failures:
        print(f"{path}: {' '.join(reason.split())}", file=sys.stderr)
    for path in found.others:
        say(f"{path}: no image, left out", settings.quiet)
    counts = f"{len(done)} photos enlarged by {networks.shown}" + (f", {there} there already" if there else "")
    say(f"{settings.out}: {counts}", settings.quiet)
    if failures:
        raise LoupeError(f"{len(failures)} of {len(outcomes) + len(found.failures)} photos could not be enlarged")
    if not outcomes:
        raise LoupeError(f"no photos in {', '.join(settings.inputs)}")


if __name__ == "__main__":
    from loupe.command_line import run_step

    sys.exit(run_step("upscale"))
