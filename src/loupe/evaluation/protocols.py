"""Opens the images that the settings of `evaluate` select, and scores methods on the images by the protocol."""

from collections.abc import Mapping
from fractions import Fraction

import pandas as pd

from loupe.config import parse_settings
from loupe.config.evaluation import Evaluate
from loupe.data import preparation, whole_photos
from loupe.data.pairs import Pairs
from loupe.data.whole_photos import WholePhotos
from loupe.errors import UsageError
from loupe.evaluation import qualities, scoring
from loupe.upscalers.tiling import UpscalingModel


def open_images(settings: Evaluate, scale: Fraction, luminance: str) -> tuple[Pairs | WholePhotos, str]:
    """Return the images that the settings select, and their short description.

    Args:
        settings: the settings of evaluate.
        scale: the scale factor of the models.
        luminance: the luminance formula for photos if the settings do not contain a formula.
    """
    shared = {name: getattr(settings, name) for name in ("limit", "seed", "data_dir", "quiet")}
    if scale == 1:
        _validate_restoration(settings)
    if settings.protocol == "classical":
        source = settings.photos or "sample"
        photos = preparation.find_photos(parse_settings("preprocess", {"source": source} | shared))
        return WholePhotos(photos, scale, settings.quiet), source
    if settings.photos is None:
        dataset = preparation.open_or_prepare(settings, settings.dataset)
        pairs = dataset.load_pairs(settings.split, scale, settings.limit)
        return pairs, f"{settings.split} of {dataset.folder.name}"
    fields = {name: value for name, value in settings.label_settings.items() if name in settings.model_fields_set}
    fields |= {"luminance": settings.luminance or luminance, "scales": [scale], "source": settings.photos}
    if scale == 1:  # clean_share=1: the inputs are clean; `score_qualities` compresses them later
        fields |= {"degrade": "jpeg", "clean_share": 1}
    return preparation.prepare_in_memory(parse_settings("preprocess", fields | shared), scale), settings.photos


def _validate_restoration(settings: Evaluate) -> None:
    """Raise UsageError if the inputs would be equal to the labels, as undegraded photos at 1:1 are."""
    if settings.protocol == "classical":
        raise UsageError("protocol: must be labels or study-patches at scale 1:1, got classical")
    if settings.photos is not None and settings.degrade == "none":
        raise UsageError("degrade: must be jpeg for photos at scale 1:1, got none")


def score_images(
    settings: Evaluate, methods: Mapping[str, UpscalingModel], pairs: Pairs | WholePhotos
) -> pd.DataFrame:
    """Score the methods by the protocol of the settings. With degrade=jpeg, the table has a column `quality`."""
    if isinstance(pairs, WholePhotos):
        return scoring.score(methods, pairs, settings.recompose, border=whole_photos.compute_border(pairs.scale))
    if settings.protocol == "study-patches":
        return scoring.score_patches(methods, pairs, settings.seed)
    if settings.degrade == "jpeg":
        return qualities.score_qualities(methods, pairs, settings.qualities, settings.recompose)
    return scoring.score(methods, pairs, settings.recompose)
