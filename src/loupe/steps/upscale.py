"""Upscales photo files."""

from pathlib import Path

from loupe.cli.progress import print_line
from loupe.config.photos import Upscale
from loupe.photos import files


def run(settings: Upscale) -> list[Path]:
    """Upscale the photos, and return the written files ([] in a dry run).

    Raises:
        UsageError: an input, the output or the model is invalid.
        LoupeError: a photo failed (raised after the last photo), the inputs contain no photo, or the file of
            `compare` cannot be written.
    """
    with files.open_streams(settings) as settings, files.open_photo_readers(settings) as readers:
        from loupe.photos.sizes import Target
        from loupe.photos.upscaling import UpscaleTransform
        from loupe.tracking import photo_runs
        from loupe.tracking.resolver import ResolveOptions, resolve_model

        photos = files.list_photos(settings)
        if settings.dry_run:
            return []
        with photo_runs.open_photo_run(settings):
            networks = resolve_model(settings.model, ResolveOptions(settings.ensemble, device=settings.device))
            networks.check()
            target = Target(settings.scale, settings.box, settings.fit, settings.megapixels, settings.longest_side)
            transform = UpscaleTransform(target, networks, settings.quality_override, settings.noise_override)
            outcomes = files.process_photos(settings, photos, transform, readers)
            photo_runs.log_outcomes(settings, outcomes, networks.used_names, networks.devices)
            for evidence in networks.used_evidence:
                print_line(evidence, settings.quiet)
            return files.report_outcomes(settings, photos, outcomes, networks.used_names)
