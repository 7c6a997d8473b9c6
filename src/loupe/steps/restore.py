"""Removes noise from photo files."""

from pathlib import Path
from typing import TYPE_CHECKING

from loupe.config.photos import Restore
from loupe.errors import UsageError
from loupe.photos import files

if TYPE_CHECKING:
    from loupe.imaging.image_data import ImageData

METHOD = "non-local means"
MASK_COPIES = 4  # number of copies of the mask's pixels in memory while the edges of the mask are blurred


def run(settings: Restore) -> list[Path]:
    """Denoise the photos. If a photo fails, report it and process the other photos.

    Returns:
        The files that were written.

    Raises:
        LoupeError: at least one photo failed.
    """
    from loupe.imaging.isolated_reader import read_first_image
    from loupe.photos import denoising
    from loupe.tracking import photo_runs

    with files.open_streams(settings) as settings, files.open_photo_readers(settings) as readers:
        mask = None
        if settings.mask is not None:
            if not Path(settings.mask).is_file():
                raise UsageError(f"mask: must be an existing file, got {settings.mask!r}")

            def read(file: Path) -> "ImageData":
                return read_first_image(readers[0], file, files.get_memory(settings), MASK_COPIES)

            mask = denoising.read_mask(Path(settings.mask), settings.feather, read)
        options = denoising.DenoiseOptions(settings.strength, mask, settings.noise)
        photos = files.list_photos(settings)
        if settings.dry_run:
            return []
        with photo_runs.photo_run(settings):
            outcomes = files.process_photos(settings, photos, denoising.DenoiseTransform(options), readers)
            photo_runs.log_outcomes(settings, outcomes, METHOD)
            return files.report_outcomes(settings, photos, outcomes, METHOD)
