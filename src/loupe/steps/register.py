"""A run's model becomes a version of its scale's registered model, and champion if it wins."""

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from loupe.cli.progress import print_line
from loupe.config.fields import format_value, parse_scale
from loupe.config.steps import Register
from loupe.errors import UsageError

ENOUGH_PHOTOS = 30  # for the bootstrap interval to mean something
LICENCES = {
    "sample": "photographs bundled with scikit-learn and scikit-image, under the terms of their README files",
    "caltech256": "Caltech-256 (Griffin, Holub, Perona; CaltechDATA nyy15-4j048), CC BY 4.0",
}


@dataclass(frozen=True)
class Verdict:
    """What became of a challenger."""

    name: str
    version: str
    won: bool
    why: str


def run(settings: Register) -> Verdict:
    """Register the run's model, keep it as ONNX too, and make it champion if it passes the gate."""
    from loupe.data import preparation
    from loupe.models.builder import KerasUpscaler
    from loupe.models.onnx_export import export
    from loupe.tracking import models, records, runs

    runs.tag_project_run()
    best = (
        runs.find_best_run(format_value(settings.scale), settings.smoke) if settings.run == "best" else settings.run
    )
    challenger = runs.get_run(best, "run")
    if challenger.data.tags.get("loupe.step") not in ("train", "trial") or challenger.info.status != "FINISHED":
        raise UsageError(f"run: {best} is no finished train run or trial")
    given, tags = runs.read_settings(challenger), challenger.data.tags
    scale = parse_scale(given["scale"])
    dataset = preparation.reopen(settings, tags["loupe.dataset"], tags["loupe.digest"], given["dataset"])
    model = models.load_keras(models.ModelReference(best, f"runs:/{best}/model", best))
    upscaler = KerasUpscaler(model)
    champion = models.get_champion(scale)
    again = champion is not None and champion.run_id == best
    with (
        runs.step_run(settings, f"register {challenger.info.run_name}"),
        tempfile.TemporaryDirectory() as folder,
    ):
        verdict = gate(upscaler, _defender(champion, scale), dataset.pairs("validation", scale))
        onnx = Path(folder) / Path(models.ONNX_FILE).name
        difference = export(model, upscaler.geometry, onnx)
        kept = models.log_onnx(onnx, best)
        licence = "; ".join(LICENCES.get(name, f"{name}: the terms of that source") for name in
                            dataset.settings["source"].split(","))  # fmt: skip
        description = (
            f"{challenger.info.run_name}, trained on {dataset.folder.name}. "
            f"Images (n, h, w, 1), float32 in [-1, 1], sides multiples of {upscaler.geometry.q}, "
            f"at least {upscaler.geometry.min_side}. Data: {licence}."
        )
        facts = models.geometry_tags(upscaler.geometry) | {
            "digest": dataset.digest,
            "commit": tags.get("loupe.commit", ""),
            "data_licence": licence,
            "onnx": kept,
            "onnx_difference": f"{difference:.1e}",
        }
        if champion is not None and given["smoke"] == "true":
            verdict["won"] = False  # what was trained for seconds takes no champion's place
        version = models.register_model(best, scale, description, facts | ({} if again else verdict["tags"]))
        if verdict["won"] and not again:
            # first what follows the champion, so that the same command, if it is killed here, does both
            named = f"{version.name} version {version.version}"
            records.log_tags({"loupe.photo": models.register_photo_model(*_networks(scale, onnx, named, folder))})
            models.set_champion(scale, version.version)
        records.log_tags({"loupe.version": f"models:/{version.name}/{version.version}", **verdict["tags"]})
        records.log_metrics(verdict["numbers"])
    why = "it is the champion already" if again else verdict["tags"]["why"]
    won = verdict["won"] or again
    print_line(
        f"{version.name} version {version.version}: {'champion' if won else 'not champion'}: {why}",
        settings.quiet,
    )
    return Verdict(version.name, str(version.version), won, why)


def _networks(scale: Fraction, onnx: Path, name: str, folder: str) -> tuple[dict[Fraction, Path], str]:
    """What `loupe-photo` consists of: the new champion, those of the other scales, or what ships instead of them."""
    from loupe.tracking import models
    from loupe.upscalers import bundled

    files, names = {scale: onnx}, [name]
    for other in sorted(models.REGISTERED_NAMES.keys() - {scale}):
        there = models.get_champion(other)
        file = (
            models.download_artifact(there.run_id, models.ONNX_FILE, f"{folder}/{models.REGISTERED_NAMES[other]}")
            if there
            else None
        )
        files[other] = file or bundled.find_file(bundled.DEFAULT_SIZE, other)
        names.append(
            f"{there.name} version {there.version}" if file else f"the bundled network of {format_value(other)}"
        )
    return files, f"Photos by {', '.join(names)}."


def gate(challenger: Any, defender: tuple[str, Any], pairs: Any) -> dict[str, Any]:
    """Both scored anew on the challenger's validation photos: who has the lower mae, and how surely.

    Args:
        challenger: a model's face.
        defender: what to call it, and its face.
        pairs: the challenger's validation split.

    Returns:
        won, tags (both numbers, gate, why), numbers (as metrics).
    """
    from loupe.evaluation import scoring

    name, face = defender
    table = scoring.score({"challenger": challenger, "defender": face}, pairs, names=("mae",))
    difference, photos = scoring.compute_mae_differences(table, "challenger", "defender")
    low, high = scoring.bootstrap_intervals(difference[:, None], photos)[0].tolist()
    mean, count = float(difference.mean()), len(set(photos))
    weak = count < ENOUGH_PHOTOS
    won = mean < 0 if weak else high < 0
    maes = table.groupby("method")["mae"].mean()
    photos_word = "photo" if count == 1 else "photos"
    why = (
        f"mae {maes['challenger']:.5f} against {maes['defender']:.5f} of {name} on {count} validation {photos_word}, "
    )
    why += f"difference {mean:+.5f}" + ("" if weak else f", 95 % interval {low:+.5f} to {high:+.5f}")
    tags = {
        "mae": f"{maes['challenger']:.6f}",
        "defender": name,
        "defender_mae": f"{maes['defender']:.6f}",
        "gate": "weak" if weak else "interval",
        "why": why,
    }
    numbers = {"gate/mae": maes["challenger"], "gate/defender_mae": maes["defender"], "gate/difference": mean}
    return {"won": bool(won), "tags": tags, "numbers": numbers}


def _defender(champion: Any, scale: Any) -> tuple[str, Any]:
    from loupe.models.builder import KerasUpscaler
    from loupe.tracking import models
    from loupe.upscalers.baselines import FilterUpscaler

    if champion is None:
        return "nearest", FilterUpscaler("nearest", scale)
    name = f"{champion.name} version {champion.version}"
    return name, KerasUpscaler(
        models.load_keras(models.ModelReference(name, f"models:/{champion.name}/{champion.version}"))
    )


if __name__ == "__main__":
    from loupe.cli.main import entry

    entry("register")
