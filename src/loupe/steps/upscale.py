"""A photo, enlarged by the champion."""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.config import TRAINED_SCALES, Upscale
from loupe.errors import UsageError
from loupe.progress import say

if TYPE_CHECKING:
    from loupe.enlarging import Enlarger


def run(settings: Upscale) -> Path:
    """Enlarge the photo and log what was used; returns the file that was written."""
    from loupe import upscaling
    from loupe.data.sources import bundled_photo
    from loupe.enlarging import Ensemble
    from loupe.tracking import runs

    photo = bundled_photo() if settings.photo == "sample" else Path(settings.photo)
    out = Path(settings.out)
    image = upscaling.read(photo, out)
    runs.claim()
    shown, model = chosen(settings)
    with runs.step_run(settings, f"upscale {photo.name}"):
        width, height = upscaling.upscale(Ensemble(model) if settings.ensemble else model, image, out)
        runs.log_tags({"loupe.model": shown})
        runs.log_file(out)
    say(f"{out}: {width}x{height}, by {shown}", settings.quiet)
    return out


def chosen(settings: Upscale) -> tuple[str, "Enlarger"]:
    """The network that is asked for, as ONNX, or a baseline; and its name for people."""
    from loupe.baselines import FILTERS, Baseline
    from loupe.upscaling import OnnxEnlarger

    scale, name = TRAINED_SCALES[0], settings.model
    if name in FILTERS:
        return name, Baseline(name, scale)
    if name.endswith(".onnx"):
        if not Path(name).is_file():
            raise UsageError(f"model: must be a file that exists, got {name!r}")
        return name, OnnxEnlarger(Path(name))
    if name != "ridge":
        from loupe.tracking import models

        found = models.find(name, scale)
        if found is not None:
            with tempfile.TemporaryDirectory() as folder:
                file = models.artifact(found.run_id, models.ONNX, folder)
                if file is None:
                    raise UsageError(f"model: {found.shown} has no ONNX network beside it; register its run")
                return found.shown, OnnxEnlarger(file)
        say("there is no champion yet: enlarging by ridge", settings.quiet)
    from loupe.models.ridge import RidgeEnlarger
    from loupe.steps.evaluate import sample_ridge

    return "ridge", RidgeEnlarger(sample_ridge(settings, scale), scale, "rec601")


if __name__ == "__main__":
    from loupe.command_line import run_step

    sys.exit(run_step("upscale"))
