"""A model and the baselines, scored on a dataset or on any folder of photos."""

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loupe.cli.progress import print_line, print_lines
from loupe.config import parse_settings
from loupe.config.base import DatasetSettings
from loupe.config.fields import format_value
from loupe.config.steps import Evaluate
from loupe.errors import LoupeError, UsageError
from loupe.imaging.atomic import validate_output_file, write_atomically

if TYPE_CHECKING:
    from fractions import Fraction

    import numpy as np

    from loupe.data.dataset import Pairs
    from loupe.data.whole_photos import WholePhotos
    from loupe.photos.networks import LoadedModel
    from loupe.upscalers.tiling import UpscalingModel


# As metrics are called: what `train` logs of the validation split is val/mae, too.
SPLITS = {"test": "test", "validation": "val", "train": "train", "all": "all"}


def run(settings: Evaluate) -> dict[str, Any]:
    """Score, log, print, and write the summary; returns it."""
    from loupe.data import whole_photos
    from loupe.data.dataset import Pairs
    from loupe.evaluation import figures, scoring
    from loupe.tracking import records, runs
    from loupe.upscalers.tiling import SelfEnsemble

    labels = labels_of(settings)
    for name in ("out", "sheet"):
        file = getattr(settings, name)
        if file:
            validate_output_file(name, Path(file))
    if settings.sheet:
        figures.validate_format(Path(settings.sheet))
    if settings.photos and not Path(settings.photos).exists():
        raise UsageError(f"photos: must be a folder or tar that exists, got {settings.photos!r}")
    runs.tag_project_run()
    loaded = _load(settings, settings.model)
    shown, model = loaded.name, loaded.model
    scale = model.geometry.scale
    if "scale" in settings.model_fields_set and settings.scale != scale:
        raise UsageError(f"scale: {shown} upscales {format_value(scale)}, got {format_value(settings.scale)}")
    others = _beside(settings, scale, labels)
    pairs, where = _images(settings, scale, model.geometry.luminance)
    methods = {
        "model": SelfEnsemble(model) if settings.ensemble else model,
        **scoring.build_baselines(pairs, _ridge_of(loaded.run_id, settings, scale), model.geometry.luminance),
        **others,
    }
    with runs.step_run(settings, f"evaluate {shown} on {where}"):
        records.log_tags({"loupe.model": shown})
        if isinstance(pairs, Pairs) and settings.protocol == "study-patches":
            table = scoring.score_patches(methods, pairs, settings.seed)
        else:
            shaved = whole_photos.compute_border(scale) if settings.protocol == "classical" else None
            table = scoring.score(methods, pairs, settings.recompose, border=shaved)
            records.log_figure(figures.plot_comparison(methods, pairs, settings.recompose), "comparison.png")
            if settings.sheet and isinstance(pairs, Pairs):
                ordered = _sheet_order(methods, labels[settings.model])
                figures.save_figure(figures.plot_sheet(ordered, pairs), Path(settings.sheet))
        scores = scoring.summarise(table)
        summary = {
            "model": shown, "on": where, "protocol": settings.protocol, "images": len(pairs), "scores": scores
        }  # fmt: skip
        records.log_table(table, "scores.json")
        records.log_json(_finite(summary), "summary.json")
        records.log_metrics(scoring.to_metrics(scores, _kind(settings)))
    if settings.out:
        _write(Path(settings.out), summary)
    print_line(f"{shown} on {where}, {len(pairs)} images ({settings.protocol})", settings.quiet)
    print_lines(scoring.format_scores(scores), settings.quiet)
    return summary


def _load(settings: Evaluate, name: str, scale: "Fraction | None" = None) -> "LoadedModel":
    """Load a model by name, for `scale` or else its only scale factor or else that of the settings."""
    from loupe.tracking.resolver import ResolveOptions, resolve_model

    networks = resolve_model(name, ResolveOptions(keras=True, threads=0, data_dir=settings.data_dir))
    if len(networks.scales) == 1:
        return networks.get(networks.scales[0])
    return networks.get(scale or settings.scale)


def labels_of(settings: Evaluate) -> dict[str, str]:
    """A unique label per network: the last part of its name if that is unique, otherwise the whole name.

    Args:
        settings: with `model` and `beside`. Baselines in `beside` get no label: every table has them.

    Raises:
        UsageError: two networks have the same name, or a network has the name of a row of the table.
    """
    from loupe.evaluation.scoring import to_metric_name
    from loupe.upscalers.baselines import FILTERS

    baselines = {*FILTERS, "ridge"}
    others = [name for name in settings.beside if name not in baselines]
    names = [settings.model, *others]
    for labels in ([name if ":/" in name else Path(name).stem for name in names], names):
        parts = [to_metric_name(label) for label in labels]
        if len(set(parts)) == len(names) and not {"model", *baselines} & set(parts[1:]):
            return dict(zip(names, labels, strict=True))
    raise UsageError(f"beside: must name different models, none of them 'model', got {', '.join(names)}")


def _beside(settings: Evaluate, scale: "Fraction", labels: dict[str, str]) -> dict[str, "UpscalingModel"]:
    """Load the networks of `beside`; returns them by their labels."""
    found = {}
    for name in settings.beside:
        if name not in labels:  # a baseline
            continue
        loaded = _load(settings, name, scale)
        if loaded.model.geometry.scale != scale:
            own = format_value(loaded.model.geometry.scale)
            raise UsageError(f"beside: {loaded.name} upscales {own}, not {format_value(scale)}")
        found[labels[name]] = loaded.model
    return found


def _sheet_order(methods: dict[str, "UpscalingModel"], label: str) -> dict[str, "UpscalingModel"]:
    """The methods of a sheet, usually from worst to best: nearest, Lanczos, ridge, networks, and the model last."""
    shown = {name: method for name, method in methods.items() if name not in ("model", "bilinear", "bicubic")}
    return shown | {label: methods["model"]}


def _ridge_of(run_id: str | None, settings: Evaluate, scale: "Fraction") -> "np.ndarray":
    """The ridge to stand beside a model: that of the dataset that its run was trained on, else of the sample."""
    from loupe.tracking import models
    from loupe.upscalers import ridge

    with tempfile.TemporaryDirectory() as folder:
        file = models.download_artifact(run_id, f"ridge-{scale.numerator}x{scale.denominator}.npy", folder)
        return _sample_ridge(settings, scale) if file is None else ridge.load_weights(file, scale)


def _sample_ridge(settings: DatasetSettings, scale: "Fraction") -> "np.ndarray":
    """The ridge of the bundled sample."""
    from loupe.data.preparation import open_or_prepare
    from loupe.upscalers import ridge

    return ridge.load_or_fit(open_or_prepare(settings, "sample"), scale)


def _kind(settings: Evaluate) -> str:
    """What the names of logged scores start with: figures of another protocol are no figures of a split."""
    if settings.protocol != "photos":
        return settings.protocol
    return "photos" if settings.photos else SPLITS[settings.split]


def _images(settings: Evaluate, scale: "Fraction", luminance: str) -> tuple["Pairs | WholePhotos", str]:
    """The images to score on, and what to call them."""
    from loupe.data import preparation

    if settings.protocol == "classical":
        from loupe.data.whole_photos import WholePhotos

        source = settings.photos or "sample"
        listed = preparation.find_photos(parse_settings("preprocess", {"source": source} | _shared(settings)))
        return WholePhotos(listed, scale, settings.quiet), source
    if settings.photos is None:
        dataset = preparation.open_or_prepare(settings, settings.dataset)
        return dataset.load_pairs(settings.split, scale, settings.limit), f"{settings.split} of {dataset.folder.name}"
    cut = {name: value for name, value in settings.pairing.items() if name in settings.model_fields_set}
    cut |= {"luminance": settings.luminance or luminance, "scales": [scale], "source": settings.photos}
    cut |= _shared(settings)
    return preparation.prepare_in_memory(parse_settings("preprocess", cut), scale), str(settings.photos)


def _shared(settings: Evaluate) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("limit", "seed", "data_dir", "quiet")}


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON has no word for, such as the ssim of tiny images."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(out: Path, summary: dict[str, Any]) -> None:
    try:
        with write_atomically(out) as partial:
            partial.write_text(json.dumps(_finite(summary), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise LoupeError(f"out: {str(out)!r} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    from loupe.cli.main import entry

    entry("evaluate")
