"""Photos, enlarged by the champion, or by a network that ships with the package."""

import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from loupe import files
from loupe.config.files import Upscale

if TYPE_CHECKING:
    from loupe.enlarging import Enlarger
    from loupe.upscaling.networks import Networks


def run(settings: Upscale) -> list[Path]:
    """Enlarge the photos, go on after bad ones, and tell; returns the files that were written.

    Raises:
        LoupeError: some could not be enlarged.
    """
    from loupe import upscaling

    found = files.listed(settings)
    if settings.dry_run:
        return []
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # a photographer does not wait minutes for a server
    with files.recorded(settings):
        networks = _networks(settings)
        networks.try_one()
        scale, wanted = settings.scale, settings.wanted
        order = files.order(
            settings,
            lambda size: upscaling.size_of(size, scale, wanted, networks),
            upscaling.enlarging(scale, wanted, networks),
        )
        return files.make(settings, found, order, lambda: networks.shown)


def _networks(settings: Upscale) -> "Networks":
    from loupe.upscaler import networks_of
    from loupe.upscaling.networks import SCALES, Networks

    if settings.model != "ridge":
        return networks_of(settings.model, settings.ensemble)

    def ridge(scale: Fraction) -> "tuple[str, Enlarger]":
        from loupe.ridge import RidgeEnlarger
        from loupe.steps.evaluate import sample_ridge

        return "ridge", RidgeEnlarger(sample_ridge(settings, scale), scale, "rec601")

    return Networks(SCALES, ridge, settings.ensemble)


if __name__ == "__main__":
    from loupe.command_line import entry

    entry("upscale")
