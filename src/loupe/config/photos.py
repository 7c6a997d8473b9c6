"""Settings of the steps that take photos and write photos."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from loupe.config.base import GIVEN, DatasetSettings, Settings
from loupe.config.fields import Factor, Paths, Size, Text, Unset, field

ENSEMBLE = "the mean over eight turns and flips of a image: a little better, eight times as long"
MODEL = (
    "registry or run URI, .onnx file, bundled network (bundled, tiny, small, base) or baseline; without a champion "
    "of the scale, the bundled one"
)


class Files(Settings):
    """What such a step reads, and how it writes."""

    VERB: ClassVar[str] = ""  # what became of the photos
    out: str = field("", "the folder to write to; for a single photo also a file, whose suffix is the format")
    inputs: Paths = field(
        ("sample",),
        "files, folders with all below them, patterns such as 'holiday/**/*.jpg'; sample is a bundled photo",
        rule="paths; behind --inputs comma-separated",
    )
    format: Literal["same", "jpg", "png", "webp", "tif", "avif", "gif", "bmp"] = field(
        "same", "of the results in a folder; same: as each photo's"
    )
    quality: Annotated[Annotated[int, Field(ge=1, le=100)] | None, Unset] = field(
        None, "of JPEG, WebP and AVIF", rule="none or 1..100; 95, 95 (a lossless WebP stays lossless) and 90"
    )
    compress_level: int = field(1, "of PNG: 9 is the smallest file and the longest wait", ge=0, le=9)
    strip_metadata: bool = field(False, "write no EXIF, XMP, resolution or comments; the colour profile stays")
    overwrite: bool = field(False, "replace results that exist")
    resume: bool = field(False, "leave results that exist as they are, and do the others")
    dry_run: bool = field(False, "only tell what would be written")
    compare: Text = field(
        None, "write a page to this file: each photo before and after, with a slider", rule="none or an .html file"
    )

    @model_validator(mode="after")
    def _overwrite_or_resume(self) -> "Files":
        if self.resume and self.overwrite:
            raise ValueError("resume: goes without overwrite, got both")
        return self

    @property
    def suffix(self) -> str | None:
        """Of the results in a folder; None where each keeps its photo's."""
        return None if self.format == "same" else f".{self.format}"


class Upscale(Files, DatasetSettings):
    """Upscale photos: luminance by the champion, colour by Lanczos."""

    STEP = "upscale"
    VERB = "upscaled"
    DEFAULTS = {"out": "upscaled"}
    scale: Factor = field(
        None, "large side over small side", rule="1 to 8, or none: the model's own, 3:2 of the champion"
    )
    size: Size = field(None, "width and height of the results, in the shape of the photos", rule="none or 1920x1080")
    model: str = field("champion", f"{MODEL}; ridge is fitted on the bundled photos")
    ensemble: bool = field(False, ENSEMBLE)

    @model_validator(mode="after")
    def _size_or_scale(self) -> "Upscale":
        if self.size and self.scale:
            raise ValueError("size: goes without scale, got both")
        return self

    @property
    def wanted(self) -> tuple[int, int] | None:
        """The size as width and height."""
        if self.size is None:
            return None
        width, height = map(int, self.size.split("x"))
        return width, height


class Restore(Files):
    """Clean photos of noise, edges kept, by non-local means; only where a mask says, if there is one."""

    STEP = "restore"
    VERB = "restored"
    DEFAULTS = {"out": "restored"}
    mask: Text = field(
        None, "an image of the photos' size: white is cleaned, black stays as it is", rule="none or a file"
    )
    feather: float = field(8, "pixels over which the mask's edges fade", ge=0, le=1000)
    strength: float = field(0.7, "1 is the cleaned photo, 0 the photo itself", ge=0, le=1)
    noise: Annotated[Annotated[float, Field(ge=0, le=100)] | None, Unset] = field(
        None, "standard deviation, of 255 grey values", rule="none: estimated of each photo; or 0..100"
    )
    DEPENDS = {"feather": {"mask": GIVEN}}


class Demo(Settings):
    """Serve a page in the browser, on which photos are upscaled."""

    STEP = "demo"
    model: str = field("champion", MODEL)
    host: str = field("127.0.0.1", "address to serve at: this machine alone; 0.0.0.0 is every one of its addresses")
    port: int = field(7860, "of the address; 0 is any that is free", ge=0, le=65535)
