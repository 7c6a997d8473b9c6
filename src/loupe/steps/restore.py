"""Photos, cleaned of noise, where a mask says."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.config import Restore
from loupe.errors import UsageError
from loupe.steps import upscale

if TYPE_CHECKING:
    from loupe.data.writing import Coding
    from loupe.upscaling.work import Order


def run(settings: Restore) -> list[Path]:
    """Clean the photos, go on after bad ones, and tell; returns the files that were written.

    Raises:
        LoupeError: some could not be restored.
    """
    from loupe.upscaling import restoring

    mask = None
    if settings.mask is not None:
        if not Path(settings.mask).is_file():
            raise UsageError(f"mask: must be a file that exists, got {settings.mask!r}")
        mask = restoring.mask_of(Path(settings.mask), settings.feather)
    cleaning = restoring.Cleaning(settings.strength, mask, settings.noise)

    def order(coding: "Coding") -> "tuple[Order, Callable[[], str]]":
        from loupe.upscaling.work import Order

        return Order(
            lambda size: size,
            lambda page: restoring.cleaned(page, cleaning),
            coding,
            settings.strip_metadata,
            settings.overwrite,
            settings.resume,
        ), lambda: "non-local means"

    return upscale.files(settings, settings.out, order)


if __name__ == "__main__":
    from loupe.command_line import run_step

    sys.exit(run_step("restore"))
