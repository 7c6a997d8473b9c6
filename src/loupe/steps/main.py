"""The whole job: prepare, train three networks, compare, register the best, upscale a photo with it."""

from pathlib import Path
from typing import Any

from loupe.cli.progress import print_lines
from loupe.config import parse_settings
from loupe.config.base import DatasetSettings
from loupe.config.fields import format_value
from loupe.config.steps import Main
from loupe.imaging.atomic import validate_output_file

# What is trained: the study's perceptron, the closed form, and a small convolutional network.
TRAINED: tuple[dict[str, Any], ...] = (
    {"network": "ridge"},
    {"network": "perceptron"},
    {"network": "convolutional", "skip": "ridge"},
)


def run(settings: Main) -> None:
    """Run every step as a nested run under one, and tell what came out."""
    from loupe.data import preparation
    from loupe.imaging.formats import get_format
    from loupe.steps import evaluate, preprocess, register, train, upscale
    from loupe.tracking import records, runs

    out = Path(settings.out)
    get_format(out)
    validate_output_file("out", out)
    shared = settings.select(DatasetSettings.model_fields)
    prepared = parse_settings("preprocess", {"source": settings.dataset} | shared)
    there = preparation.find_dataset(settings.data_dir, settings.dataset)
    if there is None:  # a source that is not there is refused before anything starts
        preparation.find_photos(prepared)
    with runs.step_run(settings, f"main {settings.dataset}"):
        dataset = there or preprocess.run(prepared).location
        trained = [
            train.run(parse_settings("train", {"dataset": dataset, "threads": settings.threads} | given | shared))
            for given in TRAINED
        ]
        best = min(trained, key=lambda result: result.validation_mae)
        summary = evaluate.run(
            parse_settings(
                "evaluate",
                {"model": f"runs:/{best.run_id}/model", "dataset": dataset} | shared | {"quiet": True},
            )
        )
        registered = register.run(parse_settings("register", {"run": best.run_id} | shared | {"quiet": True}))
        upscale.run(parse_settings("upscale", {"out": settings.out, "overwrite": True, "quiet": True}))
        scores = {name: means for name, means in summary["scores"].items() if name != "model"}
        scores |= {f"{result.name} *": result.summary["model"] for result in trained}
        records.log_json(scores, "table.json")
        records.log_metrics(
            {f"test/{result.name}/{score}": result.summary["model"][score]
             for result in trained for score in ("mae", "psnr", "ssim")}
        )  # fmt: skip
    print_lines(_report(settings, scores, trained, best, registered, out, dataset), settings.quiet)


def _report(
    settings: Main,
    scores: dict[str, Any],
    trained: list[Any],
    best: Any,
    registered: Any,
    out: Path,
    dataset: str,
) -> str:
    from loupe.data.sources import find_bundled_photo
    from loupe.evaluation import scoring

    seconds = {f"{result.name} *": result.seconds for result in trained}
    longer = parse_settings("train", {"network": "perceptron" if best.name == "perceptron" else "convolutional"})
    named = "" if settings.dataset == "sample" else f" --dataset {dataset}"
    return f"""
The test photos of {Path(dataset).name} at {format_value(longer.scale)} (* trained here):
{scoring.format_scores(scores, seconds)}

{registered.status}: {best.name}, models:/{registered.name}/{registered.version}: {registered.reason}
look at: {out} (beside {find_bundled_photo()})
train it longer: loupe train --network {longer.network} --steps {10 * longer.steps}{named} && loupe register
compare the runs: mlflow ui"""


if __name__ == "__main__":
    from loupe.cli.main import entry

    entry("main")
