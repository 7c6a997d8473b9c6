"""Replaces `-` (standard input or output) by temporary files."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from loupe.cli.streams import write_output
from loupe.config.photos import STREAM, STREAM_FOLDER, PhotoSettings
from loupe.errors import UsageError
from loupe.imaging.decoder import PhotoError, translate_errors
from loupe.imaging.formats import READ_EXTENSIONS, choose_extension
from loupe.imaging.opening import open_image
from loupe.photos.inputs import expand_input

StepSettings = TypeVar("StepSettings", bound=PhotoSettings)


@contextmanager
def replace_streams(settings: StepSettings) -> Iterator[StepSettings]:
    """Yield settings with temporary files in place of `-`.

    If `out` is `-`, the settings also have `quiet=True`, and the result is written to the standard output after
    the block.

    Raises:
        UsageError: `inputs` is not a single file, or the standard input is not a readable image.
        LoupeError: the standard output cannot be written.
    """
    inputs = [Path(text) for text in settings.inputs]
    if len(inputs) == 1 and STREAM not in settings.inputs:
        inputs = expand_input(settings.inputs[0], Path(settings.out))
    if len(inputs) != 1 or os.path.isdir(inputs[0]):
        rule = f"must be a single file if inputs or out is {STREAM!r}"
        raise UsageError(f"inputs: {rule}, got {', '.join(settings.inputs)}")
    with tempfile.TemporaryDirectory(prefix=STREAM_FOLDER) as folder:
        changes: dict[str, object] = {}
        photo = inputs[0]
        if STREAM in settings.inputs:
            photo = Path(folder, "stdin")
            if sys.stdin is None:
                raise UsageError("inputs: the standard input is closed")
            photo.write_bytes(sys.stdin.buffer.read())
            try:
                with translate_errors(), open_image(photo) as image:
                    name = "JPEG" if image.format == "MPO" else image.format
                    photo = photo.rename(photo.with_suffix(READ_EXTENSIONS[name or ""][0]))
            except (KeyError, PhotoError) as error:
                raise UsageError(f"the standard input must be an image that Loupe can read: {error}") from None
            changes["inputs"] = (str(photo),)
        if settings.out == STREAM:
            result = Path(folder, f"stdout{settings.format_extension or choose_extension(photo.suffix)}")
            changes |= {"out": str(result), "quiet": True}
        yield settings.model_copy(update=changes)
        if settings.out == STREAM:
            write_output(result)
