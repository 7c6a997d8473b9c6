"""A photo, enlarged by the champion, or by a network that ships with the package."""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.config import Upscale
from loupe.errors import UsageError
from loupe.progress import say

if TYPE_CHECKING:
    from loupe.enlarging import Enlarger
    from loupe.tracking.models import Found


def run(settings: Upscale) -> Path:
    """Enlarge the photo and log what was used; returns the file that was written."""
    from loupe import upscaling
    from loupe.data.sources import bundled_photo
    from loupe.enlarging import Ensemble
    from loupe.steps.evaluate import named
    from loupe.tracking import runs

    photo = bundled_photo() if settings.photo == "sample" else Path(settings.photo)
    out = Path(settings.out)
    image = upscaling.read(photo, out)
    runs.claim()
    shown, model, _ = named(settings.model, settings, _with_onnx)
    with runs.step_run(settings, f"upscale {photo.name}"):
        width, height = upscaling.upscale(Ensemble(model) if settings.ensemble else model, image, out)
        runs.log_tags({"loupe.model": shown})
        runs.log_file(out)
    say(f"{out}: {width}x{height}, by {shown}", settings.quiet)
    return out


def _with_onnx(found: "Found") -> "Enlarger":
    from loupe.tracking import models
    from loupe.upscaling import OnnxEnlarger

    with tempfile.TemporaryDirectory() as folder:
        file = models.artifact(found.run_id, models.ONNX, folder)
        if file is None:
            raise UsageError(f"model: {found.shown} has no ONNX network beside it; register its run")
        return OnnxEnlarger(file)


if __name__ == "__main__":
    from loupe.command_line import run_step

    sys.exit(run_step("upscale"))
