"""Opens the images that `evaluate` selects, and scores methods on them by the protocol."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import pandas as pd

from loupe.config import parse_settings
from loupe.config.evaluation import Evaluate
from loupe.config.fields import format_value
from loupe.data import preparation, whole_photos
from loupe.data.dataset import Dataset
from loupe.data.pairs import Pairs
from loupe.data.sources import list_photos, name_sources
from loupe.data.whole_photos import WholePhotos
from loupe.errors import LoupeError, UsageError
from loupe.evaluation import qualities, scoring
from loupe.upscalers.tiling import UpscalingModel

# Fields of preprocess that are not part of the digest, because they do not change the images of a photo
UNHASHED_FIELDS = frozenset({"source", "data_dir", "scheduler", "smoke", "limit", "categories"})
CONTEXTS = {"train": "training", "validation": "validation", "test": "test", "all": "all"}  # use of images, by split


@dataclass(frozen=True)
class Images:
    """The images that evaluate selects.

    Args:
        pairs: the inputs with their labels.
        description: a short description.
        name: the name of the dataset, or of the source of the photos.
        digest: the digest of the dataset, or a hash of the photos and the settings.
        dataset: the prepared dataset; None for photos.
        context: the use of the images, such as `test`.
        source: for photos, their source and the settings that prepare the images.
    """

    pairs: Pairs | WholePhotos
    description: str
    name: str
    digest: str
    dataset: Dataset | None = None
    context: str = "test"
    source: dict[str, str] = field(default_factory=dict)

    def link_metrics(self, model_id: str | None) -> dict[str, str]:
        """Return fields that link scores to a logged model and to the images; {} without a model."""
        names = {"dataset_name": self.name, "dataset_digest": self.digest}
        return {"model_id": model_id} | names if model_id else {}


def open_images(settings: Evaluate, scale: Fraction, luminance: str) -> Images:
    """Open the images that the settings select; `luminance` is the default formula for photos."""
    if scale == 1:
        _validate_restoration(settings)
    try:
        return _open_images(settings, scale, luminance)
    except LoupeError as error:
        if settings.photos is None:
            raise
        # `source` is a field of preprocess.
        raise type(error)(re.sub("^source:", "photos:", str(error))) from None


def _open_images(settings: Evaluate, scale: Fraction, luminance: str) -> Images:
    shared = {name: getattr(settings, name) for name in ("limit", "seed", "data_dir", "quiet")}
    if settings.protocol == "classical":
        photos = list_photos(parse_settings("preprocess", {"source": _list_sources(settings)} | shared))
        whole = WholePhotos(photos, scale, settings.quiet)
        return _make_images(whole, settings.photos or "sample", {"protocol": "classical"})
    if settings.photos is None:
        dataset = preparation.open_or_prepare(settings, settings.dataset, scale)
        pairs = dataset.load_pairs(settings.split, scale, settings.limit)
        description = f"{settings.split} of {dataset.folder.name}"
        return Images(pairs, description, dataset.folder.name, dataset.digest, dataset, CONTEXTS[settings.split])
    given = {name: value for name, value in settings.label_settings.items() if name in settings.model_fields_set}
    given |= {"luminance": settings.luminance or luminance, "scales": [scale], "source": _list_sources(settings)}
    if scale == 1:  # the inputs are equal to the labels (`clean_share` is 1); `score_qualities` compresses them later
        given |= {"degrade": "jpeg", "clean_share": 1}
    label_settings = parse_settings("preprocess", given | shared)
    texts = {name: text for name, text in label_settings.to_texts().items() if name not in UNHASHED_FIELDS}
    return _make_images(preparation.prepare_in_memory(label_settings, scale), settings.photos, texts)


def _list_sources(settings: Evaluate) -> list[str]:
    """Return the sources for preprocess.

    The path is absolute, so that a folder named `sample` does not mean the bundled photos. It is in a list, so that a
    comma does not split it.
    """
    return ["sample"] if settings.photos is None else [str(Path(settings.photos).absolute())]


def _make_images(pairs: Pairs | WholePhotos, source: str, settings: dict[str, str]) -> Images:
    content = [settings, format_value(pairs.scale), [[row["path"], row["sha256"]] for row in pairs.rows]]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    return Images(pairs, source, name_sources((source,)), digest, source={"photos": source} | settings)


def _validate_restoration(settings: Evaluate) -> None:
    """Raise UsageError for settings whose inputs equal the labels at the scale factor 1:1."""
    if settings.protocol == "classical" or (settings.photos is not None and settings.protocol != "labels"):
        allowed = "labels or study-patches" if settings.photos is None else "labels for photos"
        raise UsageError(f"protocol: must be {allowed} at scale 1:1, got {settings.protocol}")
    if settings.photos is not None and settings.degrade == "none":
        raise UsageError("degrade: must be jpeg for photos at scale 1:1, got none")


def score_images(
    settings: Evaluate, methods: Mapping[str, UpscalingModel], pairs: Pairs | WholePhotos
) -> pd.DataFrame:
    """Return the table of the methods' scores by the protocol. With degrade=jpeg, it has a column `quality`."""
    if isinstance(pairs, WholePhotos):
        return scoring.score(methods, pairs, settings.recompose, border=whole_photos.compute_border(pairs.scale))
    if settings.protocol == "study-patches":
        return scoring.score_patches(methods, pairs, settings.seed)
    if settings.degrade == "jpeg":
        return qualities.score_qualities(methods, pairs, settings.qualities, settings.recompose)
    return scoring.score(methods, pairs, settings.recompose)
