"""Photos, cleaned of noise, where a mask says."""

from pathlib import Path

from loupe import files
from loupe.config.files import Restore
from loupe.errors import UsageError


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
    found = files.listed(settings)
    if settings.dry_run:
        return []
    with files.recorded(settings):
        order = files.order(settings, lambda size: size, lambda page: restoring.cleaned(page, cleaning))
        return files.make(settings, found, order, lambda: "non-local means")


if __name__ == "__main__":
    from loupe.command_line import entry

    entry("restore")
