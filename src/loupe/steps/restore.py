"""Photos, cleaned of noise, where a mask says."""

from pathlib import Path

from loupe.config.photos import Restore
from loupe.errors import UsageError
from loupe.photos import files

METHOD = "non-local means"


def run(settings: Restore) -> list[Path]:
    """Clean the photos, go on after bad ones, and tell; returns the files that were written.

    Raises:
        LoupeError: some could not be restored.
    """
    from loupe.photos import denoising
    from loupe.tracking import photo_runs

    mask = None
    if settings.mask is not None:
        if not Path(settings.mask).is_file():
            raise UsageError(f"mask: must be a file that exists, got {settings.mask!r}")
        mask = denoising.mask_of(Path(settings.mask), settings.feather)
    cleaning = denoising.Cleaning(settings.strength, mask, settings.noise)
    found = files.listed(settings)
    if settings.dry_run:
        return []
    with photo_runs.photo_run(settings):
        order = files.order(settings, lambda size: size, lambda page: denoising.cleaned(page, cleaning))
        outcomes = files.make(settings, found, order)
        photo_runs.log_outcomes(settings, outcomes, METHOD)
        return files.report(settings, found, outcomes, METHOD)


if __name__ == "__main__":
    from loupe.cli.main import entry

    entry("restore")
