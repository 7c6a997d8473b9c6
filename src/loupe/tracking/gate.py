"""Compares a new model with the champion of its scale factor on photos of one dataset, the gate dataset.

Tags of the registered model record the gate dataset, so that later models are compared on the same dataset.
"""

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mlflow
import numpy as np

from loupe.cli.progress import print_error
from loupe.config.fields import CHAMPION
from loupe.config.steps import Register
from loupe.data import preparation, storage
from loupe.data.dataset import Dataset
from loupe.data.pairs import Pairs
from loupe.data.sources import SAMPLE_SOURCE
from loupe.errors import UsageError, mask_secrets
from loupe.evaluation import scoring
from loupe.models.builder import KerasUpscaler
from loupe.photos.networks import load_bundled
from loupe.tracking import models, runs
from loupe.tracking.candidates import Candidate, make_dataset_settings, open_training_dataset
from loupe.upscalers import bundled
from loupe.upscalers.tiling import UpscalingModel

MAX_PHOTOS = 1000  # if there are more photos, those with the smallest content hashes are used
SEEN_SPLITS = ("train", "validation")  # the splits of a dataset that influence a model
TAGS = {name: f"loupe.gate_{name}" for name in ("dataset", "digest", "source")}
# Fields of preprocess that must be equal in a model's dataset and in the gate dataset
TASK_FIELDS = (
    "luminance", "shrink", "recompress", "degrade", "jpeg_qualities", "clean_share", "double_share", "noise_levels",
)  # fmt: skip


@dataclass(frozen=True)
class GateResult:
    """The comparison of a new model (the challenger) with the champion or the bundled network (the defender).

    Args:
        mae: the mean absolute error of the challenger.
        defender: the name of the defender.
        defender_mae: the mean absolute error of the defender.
        difference: the challenger's mae minus the defender's, as a mean over all images.
        interval: the 95 % interval of the difference; None for fewer than `scoring.MIN_PHOTOS` photos.
        photos: the number of photos.
        dataset: the name of the gate dataset.
    """

    mae: float
    defender: str
    defender_mae: float
    difference: float
    interval: list[float] | None
    photos: int
    dataset: str

    @property
    def is_better(self) -> bool:
        """Whether the interval exists and is below 0."""
        return self.interval is not None and self.interval[1] < 0

    @property
    def reason(self) -> str:
        """The comparison in one sentence."""
        interval = (
            f"95 % interval {self.interval[0]:+.5f} to {self.interval[1]:+.5f}"
            if self.interval
            else f"no interval with fewer than {scoring.MIN_PHOTOS} photos"
        )
        return (
            f"mae {self.mae:.5f} against {self.defender_mae:.5f} of {self.defender} on "
            f"{scoring.format_count(self.photos)} of {self.dataset}, difference {self.difference:+.5f}, {interval}"
        )

    @property
    def metrics(self) -> dict[str, float]:
        """The comparison as metrics of a run."""
        return {
            "gate/mae": self.mae,
            "gate/defender_mae": self.defender_mae,
            "gate/difference": self.difference,
            "gate/photos": self.photos,
        }


def open_gate(settings: Register, candidate: Candidate, luminance: str) -> tuple[Dataset, dict[str, str]]:
    """Open the gate dataset: `settings.gate`, the recorded dataset, the new model's dataset, or `sample`.

    The gate dataset is the first of these that is given or known. `luminance` is the luminance formula of the new
    model.

    Returns:
        The dataset, and the tags that record it.

    Raises:
        UsageError: the gate dataset does not exist or has changed, or a field of TASK_FIELDS differs between the gate
            dataset and the dataset of the new model. If the dataset of the new model is unknown, only the luminance
            is compared.
    """
    name, shared = models.REGISTERED_NAMES[candidate.scale], make_dataset_settings(settings, candidate.is_smoke)
    recorded = models.get_registered_tags(name)
    source = settings.gate or recorded.get(TAGS["source"]) or candidate.source or SAMPLE_SOURCE
    try:
        if settings.gate is None and TAGS["source"] in recorded:
            dataset = preparation.reopen(
                shared, recorded[TAGS["dataset"]], recorded[TAGS["digest"]], source, candidate.scale
            )
        elif settings.gate is None and candidate.dataset is not None:
            dataset = candidate.dataset
        else:
            dataset = preparation.open_or_prepare(shared, source, candidate.scale)
    except UsageError as error:
        raise UsageError(str(error).replace("dataset:", "gate:", 1)) from None
    task = candidate.dataset.settings if candidate.dataset else dataset.settings | {"luminance": luminance}
    for field in TASK_FIELDS:
        wanted, got = (texts.get(field, "none") for texts in (dataset.settings, task))
        if wanted != got:
            rule = f"must be {wanted} for the new model, as in the gate dataset {dataset.folder.name} of {name}"
            raise UsageError(f"{field}: {rule}, got {got}; --gate selects another gate dataset")
    if source != SAMPLE_SOURCE and os.path.exists(source):
        source = storage.make_absolute(source)
    values = {"dataset": dataset.folder.name, "digest": dataset.digest, "source": mask_secrets(source)}
    return dataset, {TAGS[key]: value for key, value in values.items()}


def record_gate(scale: Fraction, tags: dict[str, str]) -> None:
    """Record the gate dataset in the tags of the registered model."""
    for key, value in tags.items():
        mlflow.MlflowClient().set_registered_model_tag(models.REGISTERED_NAMES[scale], key, value)


def compare_with_champion(
    challenger: UpscalingModel, candidate: Candidate, champion: Any, gate: Dataset, settings: Register
) -> GateResult:
    """Score a new model and the champion on photos of the gate dataset that influenced neither model.

    If the champion is missing (None) or cannot be loaded, the bundled network replaces it. The training photos of the
    bundled network are not excluded.

    Raises:
        UsageError: the gate dataset has no such photo.
    """
    defender, name = _load_defender(champion, candidate.scale)
    datasets = [candidate.dataset] if champion is None else [candidate.dataset, _open_dataset(champion, settings)]
    pairs = _select_unseen(gate, datasets, candidate.scale)
    table = scoring.score({"challenger": challenger, "defender": defender}, pairs, names=("mae",))
    gate.finish_verification()
    # The rows of both methods are in the order of the images, so they can be subtracted.
    rows, other = (table[table["method"] == method] for method in ("challenger", "defender"))
    difference = rows["mae"].to_numpy() - other["mae"].to_numpy()
    (interval,) = scoring.compute_intervals(difference[:, None], rows["photo"].to_numpy())
    maes, count = table.groupby("method")["mae"].mean(), scoring.count_photos(table)
    return GateResult(
        maes["challenger"], name, maes["defender"], float(difference.mean()), interval, count, gate.folder.name
    )


def _load_defender(champion: Any, scale: Fraction) -> tuple[UpscalingModel, str]:
    """Return the defender and its name. A champion that cannot be loaded counts as missing."""
    if champion is not None:
        try:
            reference = models.ModelReference.from_version(champion)
            return KerasUpscaler(models.load_keras(reference)), reference.name
        except UsageError as error:
            print_error(f"{error}; the new model is compared with the bundled network")
    loaded = load_bundled(bundled.DEFAULT_SIZE, scale, threads=0)
    return loaded.model, loaded.name


def _open_dataset(champion: Any, settings: Register) -> Dataset | None:
    """Open the dataset of the champion; return None if it is unknown or missing, or has changed."""
    try:
        run = runs.get_run(champion.run_id or "", CHAMPION)
        return open_training_dataset(run, settings)
    except UsageError:
        return None


def _select_unseen(gate: Dataset, datasets: list[Dataset | None], scale: Fraction) -> Pairs:
    """Return the pairs of up to MAX_PHOTOS photos of the gate dataset that are not in the SEEN_SPLITS of `datasets`.

    None means an unknown dataset: the SEEN_SPLITS of the gate dataset are excluded instead. If no photo remains,
    raise UsageError.
    """
    seen = np.concatenate([(dataset or gate).read_photo_hashes(SEEN_SPLITS) for dataset in datasets])
    pairs = gate.load_pairs("all", scale)
    photos = pairs.read_column("sha256")
    unseen = np.setdiff1d(photos, seen)[:MAX_PHOTOS]
    if not len(unseen):
        raise UsageError(
            "gate: must contain a photo that neither model had for training or validation, got none in "
            f"{gate.folder.name}"
        )
    return pairs.select(np.flatnonzero(np.isin(photos, unseen)))
