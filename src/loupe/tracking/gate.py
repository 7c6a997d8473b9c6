"""Compares a model with the champion on the same images."""

from dataclasses import dataclass
from typing import Any

from loupe.data.pairs import Pairs
from loupe.evaluation import scoring
from loupe.models.builder import KerasUpscaler
from loupe.tracking import models
from loupe.upscalers.baselines import build_classical, get_references
from loupe.upscalers.tiling import UpscalingModel

MIN_PHOTOS = 30  # a bootstrap interval over fewer photos is unreliable


@dataclass(frozen=True)
class GateResult:
    """The comparison of a new model (the challenger) with the champion (the defender).

    Both models are scored on the validation photos of the challenger. Without a champion, the defender
    is nearest, or at 1:1 the input.

    Args:
        mae: the mean absolute error of the challenger.
        defender: the name of the defender.
        defender_mae: the mean absolute error of the defender.
        difference: the challenger's mae minus the defender's mae, as a mean over all images.
        interval: the 95 % bootstrap interval of the difference; None for fewer than MIN_PHOTOS photos.
        photos: the number of photos.
    """

    mae: float
    defender: str
    defender_mae: float
    difference: float
    interval: tuple[float, float] | None
    photos: int

    @property
    def is_better(self) -> bool:
        """Whether the upper end of the interval is below 0; without an interval, whether `difference` is below 0."""
        return (self.interval[1] if self.interval else self.difference) < 0

    @property
    def reason(self) -> str:
        """The comparison in one sentence."""
        text = (
            f"mae {self.mae:.5f} against {self.defender_mae:.5f} of {self.defender} on {self.photos} validation "
            f"photo{'' if self.photos == 1 else 's'}, difference {self.difference:+.5f}"
        )
        return text + (f", 95 % interval {self.interval[0]:+.5f} to {self.interval[1]:+.5f}" if self.interval else "")

    @property
    def tags(self) -> dict[str, str]:
        """The comparison as tags of a run or model version."""
        return {
            "mae": f"{self.mae:.6f}",
            "defender": self.defender,
            "defender_mae": f"{self.defender_mae:.6f}",
            "gate": "interval" if self.interval else "weak",
            "why": self.reason,
        }

    @property
    def metrics(self) -> dict[str, float]:
        """The comparison as metrics of a run."""
        return {"gate/mae": self.mae, "gate/defender_mae": self.defender_mae, "gate/difference": self.difference}


def compare_with_champion(challenger: UpscalingModel, champion: Any, pairs: Pairs) -> GateResult:
    """Score a challenger and the champion on the same images. See `GateResult` for the defender.

    Args:
        challenger: the upscaler of the new model.
        champion: the model version of the champion, or None.
        pairs: the validation split of the challenger's dataset.
    """
    defender: UpscalingModel
    if champion is None:
        name, _ = get_references(pairs.scale)
        defender = build_classical(pairs.scale)[name]
    else:
        name, uri = f"{champion.name} version {champion.version}", f"models:/{champion.name}/{champion.version}"
        defender = KerasUpscaler(models.load_keras(models.ModelReference(name, uri)))
    table = scoring.score({"challenger": challenger, "defender": defender}, pairs, names=("mae",))
    # The rows of both methods are in the order of the images.
    challenger_rows, defender_rows = (table[table["method"] == method] for method in ("challenger", "defender"))
    difference = challenger_rows["mae"].to_numpy() - defender_rows["mae"].to_numpy()
    photos = challenger_rows["photo"].to_numpy()
    low, high = scoring.bootstrap_intervals(difference[:, None], photos)[0].tolist()
    maes, photo_count = table.groupby("method")["mae"].mean(), len(set(photos))
    interval = (low, high) if photo_count >= MIN_PHOTOS else None
    return GateResult(maes["challenger"], name, maes["defender"], float(difference.mean()), interval, photo_count)
