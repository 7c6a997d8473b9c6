"""Removes noise from photo files."""

from pathlib import Path

from loupe.config.photos import Restore
from loupe.errors import UsageError
from loupe.photos import files

METHOD = "non-local means"


def run(settings: Restore) -> list[Path]:
    """Denoise the photos; a photo that fails is reported, and the rest continue.

    Returns:
        The files that were written.

    Raises:
        LoupeError: at least one photo failed.
    """
    from loupe.photos import denoising
    from loupe.tracking import photo_runs

    mask = None
    if settings.mask is not None:
        if not Path(settings.mask).is_file():
            raise UsageError(f"mask: must be an existing file, got {settings.mask!r}")
        mask = denoising.read_mask(Path(settings.mask), settings.feather)
    options = denoising.DenoiseOptions(settings.strength, mask, settings.noise)
    found = files.list_photos(settings)
    if settings.dry_run:
        return []
    with photo_runs.photo_run(settings):
        outcomes = files.process_photos(settings, found, lambda image: denoising.denoise_image(image, options))
        photo_runs.log_outcomes(settings, outcomes, METHOD)
        return files.report_outcomes(settings, found, outcomes, METHOD)


if __name__ == "__main__":
    from loupe.cli.main import entry

    entry("restore")
