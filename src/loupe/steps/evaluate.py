"""Scores models and baselines on a dataset or on photos."""

import json
import math
import os
import re
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loupe.cli.progress import print_line, print_lines
from loupe.config.evaluation import Evaluate
from loupe.config.fields import format_value
from loupe.errors import LoupeError, UsageError
from loupe.imaging.atomic import validate_output_file, write_file
from loupe.imaging.formats import READ_FORMATS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from loupe.data.pairs import Pairs
    from loupe.data.whole_photos import WholePhotos
    from loupe.photos.networks import LoadedModel
    from loupe.upscalers.tiling import UpscalingModel

# Keys of methods that are not in the image `sheet`. It shows the model under its short name instead, and `plot_sheet`
# adds the input.
OMITTED_COLUMNS = ("model", "input", "bilinear", "bicubic")
# Prefixes of the names of metrics, by split
SPLIT_PREFIXES = {"test": "test", "validation": "val", "train": "train", "all": "all"}


def run(settings: Evaluate) -> dict[str, Any]:
    """Score the models, log and print the scores, write the files of `out` and `sheet`, and return the summary.

    Returns:
        A dictionary: the model, the images, the protocol, the numbers of photos and images, and the entries from
            `_log_scores`.

    Raises:
        UsageError: a model or the images do not exist, a model has another scale factor than `model` or `scale`, or
            the names of the models (see `choose_names`), `out` or `sheet` are invalid.
        LoupeError: the file of `out` or `sheet` cannot be written.
    """
    from loupe.evaluation import protocols, scoring
    from loupe.tracking import dataset_inputs, project_run, records, run_notes, runs

    short_names = choose_names(settings)
    _validate_files(settings)
    project_run.begin_step(settings.quiet)
    loaded = _load_model(settings, settings.model)
    scale = loaded.model.geometry.scale
    if "scale" in settings.model_fields_set and settings.scale != scale:
        got = format_value(settings.scale)
        raise UsageError(f"scale: must be {format_value(scale)} for {loaded.name}, got {got}")
    others = _load_others(settings, scale, short_names)
    images = protocols.open_images(settings, scale, loaded.model.geometry.luminance)
    pairs, description = images.pairs, images.description
    ridge = _load_ridge(loaded.run_id, settings, scale)
    baselines = scoring.build_baselines(pairs, ridge, loaded.model.geometry.luminance)
    networks = {"model": loaded, **others}
    methods = {"model": loaded.model, **baselines, **{name: other.model for name, other in others.items()}}
    # MLflow's table of runs shows only the start of a name, so that start must differ between networks.
    name = loaded.name.removeprefix("the bundled network ")
    with runs.open_step_run(settings, f"evaluate {name} on {description}"):
        records.log_model_tags(loaded.name, loaded.device)
        records.log_model_inputs(network.model_id for network in networks.values())
        table = protocols.score_images(settings, methods, pairs)
        if images.dataset:
            images.dataset.finish_verification()
        photos, image_count = scoring.count_photos(table), scoring.count_images(table)
        dataset_inputs.log_images(images, photos)
        _draw_figures(settings, methods, short_names[settings.model], pairs)
        records.log_table(table, "scores.json")
        scores, text = _log_scores(settings, table, [*networks], images.link_metrics(loaded.model_id))
        summary = {"model": loaded.name, "on": description, "protocol": settings.protocol}
        summary |= {"photos": photos, "images": image_count} | scores
        records.log_json(_replace_nan(summary), "summary.json")
        counts = f"{scoring.format_count(image_count, 'image')} of {scoring.format_count(photos)}"
        title = f"{loaded.name} on {description}, {counts} ({settings.protocol})"
        run_notes.log_table(settings, title, text)
    if settings.out:
        _write_json(Path(settings.out), summary)
    print_line(title, settings.quiet)
    print_lines(text, settings.quiet)
    return summary


def choose_names(settings: Evaluate) -> dict[str, str]:
    """Choose short names of networks for tables: file names without extension if they are valid, otherwise paths.

    Names are valid if their metric names differ (see `to_metric_name`), and no name in `others` is `model` or that
    of a baseline. An MLflow URI is not shortened.

    Returns:
        The short names of `model` and of the networks in `others`, by their names in the settings, without baselines.

    Raises:
        UsageError: neither the file names nor the paths are valid.
    """
    from loupe.evaluation.scoring import to_metric_name
    from loupe.upscalers.baselines import FILTERS

    baselines = {*FILTERS, "ridge"}
    names = [settings.model, *(name for name in settings.others if name not in baselines)]
    for short_names in ([name if ":/" in name else Path(name).stem for name in names], names):
        metric_names = [to_metric_name(name) for name in short_names]
        reserved = {"model", "input", "nlm", *baselines}
        # The first network can have a reserved name, because its metrics do not contain a name.
        if len(set(metric_names)) == len(names) and not reserved & set(metric_names[1:]):
            return dict(zip(names, short_names, strict=True))
    raise UsageError(
        f"others: must name different models, none of them 'model', 'input' or 'nlm', got {', '.join(names)}"
    )


def _validate_files(settings: Evaluate) -> None:
    from loupe.evaluation import figures

    files = {name: Path(file) for name in ("out", "sheet") if (file := getattr(settings, name))}
    for name, file in files.items():
        validate_output_file(name, file)
        if settings.photos and _is_photo(file, Path(settings.photos)):
            raise UsageError(f"{name}: must not replace one of the `photos`, got {str(file)!r}")
    if len(set(map(os.path.realpath, files.values()))) < len(files):
        raise UsageError(f"sheet: must be another file than `out`, got {settings.sheet!r}")
    if settings.sheet:
        figures.validate_format(Path(settings.sheet))
    if settings.photos and not os.path.exists(settings.photos):
        raise UsageError(f"photos: must be a folder, tar file or image that exists, got {settings.photos!r}")


def _is_photo(file: Path, photos: Path) -> bool:
    """Return whether an existing file is `photos`, or is in the folder `photos` and has the extension of an image."""
    if not file.exists() or not photos.exists():
        return False
    is_image = file.suffix.lower() in READ_FORMATS
    return file.samefile(photos) or (is_image and photos.resolve() in file.resolve().parents)


def _load_model(settings: Evaluate, name: str, scale: Fraction | None = None) -> "LoadedModel":
    """Load a model by its name.

    If the name selects networks with several scale factors, load the network for `scale`, or for `settings.scale`
    if `scale` is None.
    """
    from loupe.tracking.resolver import ResolveOptions, resolve_model

    options = ResolveOptions(
        settings.ensemble, keras=True, threads=0, data_dir=settings.data_dir, device=settings.device, restore=None
    )
    networks = resolve_model(name, options)
    return networks.get(networks.scales[0] if len(networks.scales) == 1 else scale or settings.scale)


def _load_others(settings: Evaluate, scale: Fraction, short_names: dict[str, str]) -> dict[str, "LoadedModel"]:
    """Load the networks in `others`, and return them by short name. Baselines in `others` are skipped.

    Raises:
        UsageError: a network cannot be loaded or has another scale factor than `scale`, or `scale` is 1:1 and
            `others` has a baseline.
    """
    models = {}
    for name in settings.others:
        if name not in short_names:  # a baseline
            if scale == 1:
                raise UsageError(f"others: must be models of scale 1:1, got {name}")
            continue
        try:
            loaded = _load_model(settings, name, scale)
        except LoupeError as error:
            raise type(error)(re.sub("^(model|scale):", "others:", str(error))) from None
        own_scale = loaded.model.geometry.scale
        if own_scale != scale:
            raise UsageError(
                f"others: must be models of scale {format_value(scale)}, got {loaded.name} of "
                f"{format_value(own_scale)}"
            )
        models[short_names[name]] = loaded
    return models


def _load_ridge(run_id: str | None, settings: Evaluate, scale: Fraction) -> "np.ndarray | None":
    """Load the ridge weights that the model's run logged. Without them, load or fit those of the dataset `sample`.

    At scale 1:1, return None instead of the weights of `sample`.
    """
    from loupe.data.preparation import open_or_prepare
    from loupe.tracking import models
    from loupe.upscalers import ridge

    with tempfile.TemporaryDirectory() as folder:
        file = models.download_artifact(run_id, f"ridge-{scale.numerator}x{scale.denominator}.npy", folder)
        if file is not None:
            return ridge.load_weights(file, scale)
    if scale == 1:
        return None
    return ridge.load_or_fit(open_or_prepare(settings, "sample", scale), scale)


def _log_scores(
    settings: Evaluate, table: "pd.DataFrame", networks: list[str], link: dict[str, str]
) -> tuple[dict[str, Any], str]:
    """Log the scores of a table as metrics; return the entries of the summary that contain them, and a text.

    With degrade=jpeg, the scores are per JPEG quality, and the PSNR is also logged as a text and a figure.

    Args:
        settings: the settings of evaluate.
        table: the table of scores.
        networks: the names of the networks in the table, among them `model`.
        link: links the scores of `model` to its logged model and the images; see `records.log_metrics`.
    """
    from loupe.evaluation import figures, qualities, scoring
    from loupe.tracking import records

    def log(scores: dict[str, Any], prefix: str) -> None:
        metrics, own = (scoring.to_metrics(part, prefix) for part in (scores, {"model": scores["model"]}))
        records.log_metrics(own, link=link)
        records.log_metrics({name: value for name, value in metrics.items() if name not in own})

    prefix = _choose_prefix(settings)
    if settings.degrade == "none":
        scores = scoring.summarise(table)
        log(scores, prefix)
        return {"scores": scores}, scoring.format_scores(scores)
    by_quality = qualities.summarise_qualities(table)
    for quality, scores in by_quality.items():
        log(scores, f"{prefix}/q{quality}")
    psnr = qualities.compute_psnr(table)
    baseline = "lanczos" if "lanczos" in psnr else "input"
    worse_qualities = qualities.find_qualities_below(baseline, psnr, networks)
    text = qualities.format_psnr(psnr, baseline, worse_qualities, scoring.count_photos(table))
    records.log_text(text, "psnr.txt")
    records.log_figure(figures.plot_psnr(psnr), "psnr.png")
    return {"qualities": by_quality, f"below_{baseline}": worse_qualities}, text


def _draw_figures(
    settings: Evaluate, methods: dict[str, "UpscalingModel"], name: str, pairs: "Pairs | WholePhotos"
) -> None:
    """Log a comparison of the methods on whole images, and write the file of `sheet`, if given.

    With protocol=study-patches, no comparison is logged. With degrade=jpeg, both figures are for the lowest JPEG
    quality. `name` is the title of the model's column in the sheet.
    """
    from loupe.data.pairs import Pairs
    from loupe.evaluation import figures
    from loupe.tracking import records

    if settings.degrade == "jpeg":
        assert isinstance(pairs, Pairs)
        pairs = pairs.compress_inputs(min(settings.qualities))
    if settings.protocol != "study-patches":
        records.log_figure(figures.plot_comparison(methods, pairs, settings.recompose), "comparison.png")
    if settings.sheet:
        assert isinstance(pairs, Pairs)
        columns = {key: method for key, method in methods.items() if key not in OMITTED_COLUMNS}
        title = f"{name} (model)" if name in columns else name  # a file can have the name of a baseline
        figure = figures.plot_sheet(columns | {title: methods["model"]}, pairs, settings.recompose)
        figures.save_figure(figure, Path(settings.sheet))


def _choose_prefix(settings: Evaluate) -> str:
    """Return the prefix of the metrics, such as `photos` or `val`."""
    if settings.protocol != "labels":
        return settings.protocol
    return "photos" if settings.photos else SPLIT_PREFIXES[settings.split]


def _replace_nan(value: Any) -> Any:
    """Replace NaN and infinite numbers with None for JSON. The SSIM of tiny images is NaN."""
    if isinstance(value, dict):
        return {key: _replace_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_replace_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_json(out: Path, summary: dict[str, Any]) -> None:
    try:
        write_file(out, json.dumps(_replace_nan(summary), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise LoupeError(f"out: {str(out)!r} cannot be written: {error.strerror}") from None
