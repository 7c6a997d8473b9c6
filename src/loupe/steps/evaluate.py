"""A model and the baselines, scored on a dataset or on any folder of photos."""

import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loupe.config import Evaluate, Prepares, settings_of
from loupe.errors import LoupeError, UsageError
from loupe.fields import text_of
from loupe.progress import say
from loupe.steps.train import metrics_of

if TYPE_CHECKING:
    from fractions import Fraction

    import numpy as np

    from loupe.data.classical import WholePhotos
    from loupe.data.dataset import Pairs
    from loupe.enlarging import Enlarger


# As metrics are called: what `train` logs of the validation split is val/mae, too.
SPLITS = {"test": "test", "validation": "val", "train": "train", "all": "all"}


def run(settings: Evaluate) -> dict[str, Any]:
    """Score, log, print, and write the summary; returns it."""
    from loupe import evaluation, figures
    from loupe.data import classical
    from loupe.data.dataset import Pairs
    from loupe.enlarging import Ensemble
    from loupe.tracking import runs

    if settings.out and not Path(settings.out).resolve().parent.is_dir():
        raise UsageError(f"out: must lie in a folder that exists, got {settings.out!r}")
    if settings.photos and not Path(settings.photos).exists():
        raise UsageError(f"photos: must be a folder or tar that exists, got {settings.photos!r}")
    runs.claim()
    shown, model, weights = chosen(settings)
    scale = model.geometry.scale
    if "scale" in settings.model_fields_set and settings.scale != scale:
        raise UsageError(f"scale: {shown} enlarges {text_of(scale)}, got {text_of(settings.scale)}")
    pairs, where = _pictures(settings, scale, model.geometry.luminance)
    methods = {
        "model": Ensemble(model) if settings.ensemble else model,
        **evaluation.baselines(pairs, weights, model.geometry.luminance),
    }
    with runs.step_run(settings, f"evaluate {shown} on {where}"):
        runs.log_tags({"loupe.model": shown})
        if isinstance(pairs, Pairs) and settings.protocol == "study-patches":
            table = evaluation.score_patches(methods, pairs, settings.seed)
        else:
            shaved = classical.border(scale) if settings.protocol == "classical" else None
            table = evaluation.score(methods, pairs, settings.recompose, border=shaved)
            runs.log_figure(figures.comparison_sheet(methods, pairs, settings.recompose), "comparison.png")
        scores = evaluation.summarise(table)
        summary = {
            "model": shown, "on": where, "protocol": settings.protocol, "images": len(pairs), "scores": scores
        }  # fmt: skip
        runs.log_table(table, "scores.json")
        runs.log_json(_finite(summary), "summary.json")
        runs.log_metrics(metrics_of(scores, _kind(settings)))
    if settings.out:
        _write(Path(settings.out), summary)
    say(f"{shown} on {where}, {len(pairs)} pictures ({settings.protocol})", settings.quiet)
    say(evaluation.as_text(scores), settings.quiet)
    return summary


def chosen(settings: Evaluate) -> tuple[str, "Enlarger", "np.ndarray"]:
    """The model that is asked for: its name for people, its face, and the ridge to stand beside it."""
    import numpy as np

    from loupe.baselines import FILTERS, Baseline
    from loupe.models.ridge import RidgeEnlarger

    name = settings.model
    found = None
    if name not in (*FILTERS, "ridge"):
        from loupe.tracking import models

        found = models.find(name, settings.scale)
        if found is None:
            name = "ridge"
            say(f"there is no champion of scale {text_of(settings.scale)} yet: scoring ridge", settings.quiet)
    if found is None:
        weights = sample_ridge(settings, settings.scale)
        if name == "ridge":
            return name, RidgeEnlarger(weights, settings.scale, "rec601"), weights
        return name, Baseline(name, settings.scale), weights
    from loupe.models import KerasEnlarger
    from loupe.tracking import models

    model = KerasEnlarger(models.load_keras(found))
    scale = model.geometry.scale
    with tempfile.TemporaryDirectory() as folder:
        file = models.artifact(found.run_id, f"ridge-{scale.numerator}x{scale.denominator}.npy", folder)
        weights = sample_ridge(settings, scale) if file is None else np.load(file, allow_pickle=False)
    return found.shown, model, weights


def sample_ridge(settings: Prepares, scale: "Fraction") -> "np.ndarray":
    """The ridge of the bundled sample."""
    from loupe.data.preparing import open_or_prepare
    from loupe.models import ridge

    return ridge.kept(open_or_prepare(settings, "sample"), scale)


def _kind(settings: Evaluate) -> str:
    """What the names of logged scores start with: figures of another protocol are no figures of a split."""
    if settings.protocol != "photos":
        return settings.protocol
    return "photos" if settings.photos else SPLITS[settings.split]


def _pictures(settings: Evaluate, scale: "Fraction", luminance: str) -> tuple["Pairs | WholePhotos", str]:
    """The pictures to score on, and what to call them."""
    from loupe.data import preparing

    if settings.protocol == "classical":
        from loupe.data.classical import WholePhotos

        source = settings.photos or "sample"
        listed = preparing.listed(settings_of("preprocess", {"source": source} | _shared(settings)))
        return WholePhotos(listed, scale), source
    if settings.photos is None:
        dataset = preparing.open_or_prepare(settings, settings.dataset)
        return dataset.pairs(settings.split, scale, settings.limit), f"{settings.split} of {dataset.folder.name}"
    cut = {name: value for name, value in settings.pairing.items() if name in settings.model_fields_set}
    cut |= {"luminance": settings.luminance or luminance, "scales": [scale], "source": settings.photos}
    cut |= _shared(settings)
    return preparing.pairs_in_memory(settings_of("preprocess", cut), scale), str(settings.photos)


def _shared(settings: Evaluate) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("limit", "seed", "data_dir", "quiet")}


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON has no word for, such as the ssim of tiny pictures."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(out: Path, summary: dict[str, Any]) -> None:
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        partial.write_text(json.dumps(_finite(summary), indent=2, allow_nan=False) + "\n")
        partial.rename(out)
    except OSError as error:
        raise LoupeError(f"out: {str(out)!r} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    from loupe.command_line import run_step

    sys.exit(run_step("evaluate"))
