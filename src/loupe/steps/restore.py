"""Removes JPEG artefacts or noise from photo files."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.cli.progress import print_line
from loupe.config.photos import Restore
from loupe.errors import UsageError
from loupe.photos import files

if TYPE_CHECKING:
    import numpy as np

    from loupe.imaging.image_data import ImageData
    from loupe.imaging.isolated_reader import PhotoReader
    from loupe.photos.networks import Networks
    from loupe.photos.processing import Transform

NON_LOCAL_MEANS = "non-local means"
MASK_COPIES = 4  # copies of the mask in memory while its edges are blurred
NETWORK_STRENGTH, DENOISING_STRENGTH = 1.0, 0.7  # defaults of `strength`


def run(settings: Restore) -> list[Path]:
    """Restore the photos, and return the written files ([] in a dry run).

    Raises:
        UsageError: an input, the output, the mask or the model is invalid.
        LoupeError: a photo failed (raised after the last photo), the inputs contain no photo, or the file of
            `compare` cannot be written.
    """
    with files.open_streams(settings) as settings, files.open_photo_readers(settings) as readers:
        from loupe.photos.denoising import DenoiseTransform
        from loupe.photos.restoration import BlendTransform
        from loupe.photos.sizes import Target
        from loupe.photos.upscaling import UpscaleTransform
        from loupe.tracking import photo_runs

        mask = _read_mask(settings, readers[0])
        photos = files.list_photos(settings)
        if settings.dry_run:
            return []
        with photo_runs.open_photo_run(settings):
            networks = _load_network(settings)
            if networks is None:
                strength = DENOISING_STRENGTH
                restore: Transform = DenoiseTransform(settings.noise_override)
            else:
                strength = NETWORK_STRENGTH
                restore = UpscaleTransform(Target(), networks, settings.quality_override, settings.noise_override)
            transform = BlendTransform(restore, strength if settings.strength is None else settings.strength, mask)
            outcomes = files.process_photos(settings, photos, transform, readers)
            method, devices = (networks.used_names, networks.devices) if networks else (NON_LOCAL_MEANS, "")
            photo_runs.log_outcomes(settings, outcomes, method, devices)
            for evidence in networks.used_evidence if networks else ():
                print_line(evidence, settings.quiet)
            return files.report_outcomes(settings, photos, outcomes, method)


def _read_mask(settings: Restore, reader: "PhotoReader") -> "np.ndarray | None":
    from loupe.imaging.isolated_reader import read_first_image
    from loupe.photos.restoration import read_mask

    if settings.mask is None:
        return None
    if not os.path.isfile(settings.mask):
        raise UsageError(f"mask: must be an existing file, got {settings.mask!r}")

    def read(file: Path) -> "ImageData":
        return read_first_image(reader, file, files.get_memory(settings), MASK_COPIES)

    return read_mask(Path(settings.mask), settings.feather, read)


def _load_network(settings: Restore) -> "Networks | None":
    """Load the network with the scale factor 1:1; return None for non-local means."""
    from loupe.tracking.resolver import ResolveOptions, resolve_model

    if settings.method == "nlm":
        return None
    networks = resolve_model(settings.model, ResolveOptions(settings.ensemble, device=settings.device, restore=True))
    networks.check()
    return networks
