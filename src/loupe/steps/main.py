"""Runs the main steps: prepares photos, trains, compares and registers networks, and upscales a photo."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loupe.cli.progress import print_lines
from loupe.config import parse_settings
from loupe.config.base import DatasetSettings, RunSettings
from loupe.config.fields import format_value
from loupe.config.steps import Main
from loupe.config.training import validate_backend

if TYPE_CHECKING:
    from loupe.steps.register import Registration
    from loupe.steps.train import Training

VARIANTS: tuple[dict[str, Any], ...] = (
    {"network": "ridge"},
    {"network": "perceptron"},
    {"network": "convolutional", "skip": "ridge"},
)


def run(settings: Main) -> None:
    """Run the steps as nested runs of a main run, and print a table of the scores.

    Raises:
        UsageError: the photos do not exist, the folder or the format of `out` is invalid, or Loupe does not support
            the backend of Keras.
    """
    from loupe.data import preparation
    from loupe.data.sources import list_photos
    from loupe.imaging.atomic import validate_output_file
    from loupe.imaging.formats import get_format
    from loupe.steps import evaluate, preprocess, register, train, upscale
    from loupe.tracking import records, run_notes, runs

    validate_backend()
    get_format(Path(settings.out))
    validate_output_file("out", Path(settings.out))
    shared = settings.select(DatasetSettings.model_fields.keys() - RunSettings.__annotations__)
    preprocess_settings = parse_settings("preprocess", {"source": settings.dataset} | shared)
    location = preparation.find_dataset(settings.data_dir, settings.dataset)
    if location is None:
        list_photos(preprocess_settings)  # raises UsageError without photos
    with runs.open_step_run(settings, f"main {settings.dataset}"):
        location = location or preprocess.run(preprocess_settings).location
        train_fields = {"dataset": location, "threads": settings.threads} | shared
        trainings = [train.run(parse_settings("train", variant | train_fields)) for variant in VARIANTS]
        best = min(trainings, key=lambda training: training.validation_mae)
        evaluate_fields = shared | {"model": f"runs:/{best.run_id}/model", "dataset": location, "quiet": True}
        evaluate_fields["limit"] = None  # train scores each network on the whole test split, also with --smoke
        summary = evaluate.run(parse_settings("evaluate", evaluate_fields))
        register_fields = {"run": best.run_id, "quiet": True, "data_dir": settings.data_dir}
        registration = register.run(parse_settings("register", register_fields))
        upscale.run(parse_settings("upscale", {"out": settings.out, "overwrite": True, "quiet": True}))
        # Omit `model` and `ridge`, because the table contains both as trained networks, marked with `*`.
        scores = {name: means for name, means in summary["scores"].items() if name not in ("model", "ridge")}
        scores |= {f"{training.network} *": training.summary["model"] for training in trainings}
        records.log_json(scores, "table.json")
        records.log_metrics(
            {f"test/{training.network}/{score}": training.summary["model"][score]
             for training in trainings for score in ("mae", "psnr", "ssim")}
        )  # fmt: skip
        title = _describe_table(Path(location).name)
        table = _format_table(scores, {f"{training.network} *": training.seconds for training in trainings})
        run_notes.log_table(settings, title, table)
    print_lines(f"\n{title}:\n{table}", settings.quiet)
    print_lines(_format_next_steps(settings, best, registration, location), settings.quiet)


def _format_table(scores: dict[str, Any], seconds: dict[str, float]) -> str:
    from loupe.evaluation import scoring  # needs pandas, which the light installation lacks

    return scoring.format_scores(scores, seconds)


def _describe_table(dataset: str) -> str:
    scale = format_value(parse_settings("train", {}).scale)
    return f"The test photos of {dataset} at {scale} (* trained here)"


def _format_next_steps(settings: Main, best: "Training", registration: "Registration", location: str) -> str:
    from loupe.data.sources import find_bundled_photo

    network = "perceptron" if best.network == "perceptron" else "convolutional"
    steps = 10 * parse_settings("train", {"network": network}).steps
    is_default = settings.dataset == "sample" and settings.data_dir == Main.model_fields["data_dir"].default
    dataset = "" if is_default else f" --dataset {shlex.quote(str(location))}"
    return f"""
{registration.status}: {best.network}, models:/{registration.name}/{registration.version}: {registration.reason}
compare: {settings.out} with {find_bundled_photo()}
train the network longer: loupe train --network {network} --steps {steps}{dataset} && loupe register
compare the runs: mlflow ui"""
