"""Registers the model of a run and makes it champion if it is better than the current champion."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.cli.progress import print_line
from loupe.config import parse_settings
from loupe.config.base import DatasetSettings
from loupe.config.fields import format_value
from loupe.config.steps import Register
from loupe.errors import UsageError

if TYPE_CHECKING:
    from loupe.upscalers.geometry import Geometry

LICENCES = {
    "sample": "photographs bundled with scikit-learn and scikit-image, under the terms of their README files",
    "caltech256": "Caltech-256 (Griffin, Holub, Perona; CaltechDATA nyy15-4j048), CC BY 4.0",
}


@dataclass(frozen=True)
class Registration:
    """A registered version.

    Args:
        name: the name of the registered model.
        version: the number of the version.
        is_champion: whether the version is the champion now.
        reason: the result of the comparison with the previous champion.
    """

    name: str
    version: str
    is_champion: bool
    reason: str

    def __str__(self) -> str:
        return f"models:/{self.name}/{self.version}: {self.status}: {self.reason}"

    @property
    def status(self) -> str:
        """`champion` or `not champion`."""
        return "champion" if self.is_champion else "not champion"


def run(settings: Register) -> Registration:
    """Register a run's model with its ONNX file, and make it champion if it is better than the current champion.

    Raises:
        UsageError: the run is not a finished training, or its dataset no longer exists or has changed.
    """
    from loupe.data import preparation
    from loupe.models.builder import KerasUpscaler
    from loupe.models.onnx_export import export
    from loupe.tracking import models, records, registration, runs
    from loupe.tracking.gate import compare_with_champion

    runs.tag_project_run()
    run_id = (
        runs.find_best_run(format_value(settings.scale), settings.smoke) if settings.run == "best" else settings.run
    )
    train_run = runs.get_run(run_id, "run")
    tags = train_run.data.tags
    if tags.get("loupe.step") not in ("train", "trial") or train_run.info.status != "FINISHED":
        raise UsageError(f"run: must be the id of a finished train run or trial, got {run_id!r}")
    train_settings = runs.read_settings(train_run, "scale", "dataset", "smoke")
    scale = parse_settings("train", {"scale": train_settings["scale"]}).scale
    shared = DatasetSettings(**settings.select(["data_dir", "smoke", "quiet"]))
    dataset = preparation.reopen(shared, *runs.read_dataset(train_run), train_settings["dataset"])
    model = models.load_keras(models.ModelReference.of_run(run_id))
    upscaler, champion = KerasUpscaler(model), models.get_champion(scale)
    is_champion = champion is not None and champion.run_id == run_id
    with runs.step_run(settings, f"register {train_run.info.run_name}"), tempfile.TemporaryDirectory() as folder:
        comparison = compare_with_champion(upscaler, champion, dataset.load_pairs("validation", scale))
        onnx = Path(folder) / Path(models.ONNX_FILE).name
        difference = export(model, upscaler.geometry, onnx)
        licence = _describe_licences(dataset.settings["source"])
        version_tags = models.make_geometry_tags(upscaler.geometry) | {
            "digest": dataset.digest,
            "commit": tags.get("loupe.commit", ""),
            "data_licence": licence,
            "onnx": registration.log_onnx(onnx, run_id),
            "onnx_difference": f"{difference:.1e}",
        }
        if not is_champion:
            version_tags |= comparison.tags
        name = f"{train_run.info.run_name}, trained on {dataset.folder.name}"
        description = f"{name}. {_describe_input(upscaler.geometry)}. Data: {licence}."
        version = registration.register_model(run_id, scale, description, version_tags)
        # A run with smoke=true trains only for seconds. Its model must not replace a champion.
        may_replace = champion is None or train_settings["smoke"] != "true"
        if comparison.is_better and may_replace and not is_champion:
            # set_champion is the last action. After a kill, the user repeats the command, which repeats all actions.
            if scale > 1:  # `loupe-photo` only upscales
                records.log_tags({"loupe.photo": registration.register_photo_model(scale, onnx, version)})
            registration.set_champion(scale, version.version)
            is_champion, reason = True, comparison.reason
        else:
            reason = "this model is already the champion" if is_champion else comparison.reason
        records.log_tags({"loupe.version": f"models:/{version.name}/{version.version}", **comparison.tags})
        records.log_metrics(comparison.metrics)
    result = Registration(version.name, str(version.version), is_champion, reason)
    print_line(str(result), settings.quiet)
    return result


def _describe_input(geometry: "Geometry") -> str:
    sides = f"sides multiples of {geometry.q}, at least {geometry.min_side}"
    return f"Images (n, h, w, 1), float32 in [-1, 1], {sides}"


def _describe_licences(sources: str) -> str:
    return "; ".join(LICENCES.get(name, f"{name}: the terms of that source") for name in sources.split(","))
