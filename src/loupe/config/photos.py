"""Settings of the steps that process photo files."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from loupe.config.base import GIVEN, Settings
from loupe.config.fields import (
    BUNDLED_SIZES,
    DEVICE,
    Denoise,
    Device,
    Factor,
    Host,
    HostNames,
    JpegQuality,
    Paths,
    Size,
    Text,
    Unset,
    field,
)

MODELS = (
    f"champion, bundled, {', '.join(BUNDLED_SIZES)}, nearest, bilinear, bicubic, lanczos, ridge, an MLflow URI, or a "
    ".keras or .onnx file"
)
MODEL = f"model: {MODELS}"
RESTORE_MODELS = "champion, bundled, tiny, small, base, an MLflow URI, or a .keras or .onnx file"
STREAM = "-"  # the standard input or the standard output
STREAM_FOLDER = "loupe-stream-"  # start of the name of the temporary folder for their files
ENSEMBLE = "average the results for 8 flips and rotations: slightly better, 8 times slower"
DENOISE = (
    "standard deviation of the noise that is removed from the photos, in grey values from 0 to 255; 0: none; auto: "
    "estimated per photo"
)
DENOISE_RULE = "auto, or 0 to 100"


class NetworkFields(Settings):
    """Fields of the steps that apply a network to photos."""

    model: str = field("champion", MODEL)
    ensemble: bool = field(False, ENSEMBLE)
    jpeg_quality: JpegQuality = field(
        "auto",
        "JPEG quality of the photos, for networks that adapt to it; auto: estimated per photo; 100: no artefacts",
        rule="auto, or 1 to 100",
    )
    denoise: Denoise = field(
        "auto",
        f"{DENOISE}, and 0 if the estimate is below 3",
        rule=DENOISE_RULE,
    )
    device: Device = field("auto", DEVICE)

    @property
    def quality_override(self) -> int | None:
        """The JPEG quality to assume for all photos; None for `auto`."""
        return None if isinstance(self.jpeg_quality, str) else self.jpeg_quality

    @property
    def noise_override(self) -> float | None:
        """The noise to remove from all photos; None for `auto`."""
        return None if isinstance(self.denoise, str) else self.denoise


class PhotoSettings(Settings):
    """Fields of the steps that read photos and write one result per photo."""

    VERB: ClassVar[str] = ""  # past participle such as "upscaled", for messages
    out: str = field("", "output folder or file; -: the standard output")
    inputs: Paths = field(
        ("sample",),
        "photos: files, folders or patterns such as 'holiday/**/*.jpg'; sample: a bundled photo",
        rule="paths",
    )
    format: Literal["same", "jpg", "png", "webp", "tif", "avif", "gif", "bmp"] = field(
        "same",
        "file format of the results; same: the format of `out` if it is a file, otherwise of each photo; JPEG if "
        "Loupe cannot write that format",
    )
    quality: Annotated[Annotated[int, Field(ge=1, le=100)] | None, Unset] = field(
        None, "quality of JPEG, WebP and AVIF results", rule="1 to 100; default 95, but 90 for AVIF"
    )
    compress_level: int = field(1, "compression of PNG results; 0: fastest, 9: smallest", ge=0, le=9)
    strip_metadata: bool = field(False, "omit all metadata except the colour space and the display times of frames")
    overwrite: bool = field(False, "replace existing results")
    resume: bool = field(False, "keep existing results and process the other photos")
    memory: Annotated[Annotated[int, Field(ge=200, le=10**6)] | None, Unset] = field(
        None,
        "maximum memory for images, in MB",
        rule="200 to 1000000; default 2000, but at most half of the machine's memory",
    )
    suffix: Text = field(
        None,
        "text at the end of the names of results: _big makes photo_big.jpg from photo.jpg",
        rule="none or a text",
    )
    in_place: bool = field(False, "replace each photo by its result")
    keep_times: bool = field(False, "give results the modification time and the permissions of the photos")
    dry_run: bool = field(False, "only print which files would be written")
    compare: Text = field(
        None,
        "write an HTML page that compares the first 12 photos with their results",
        rule="none or an .html or .htm file",
    )

    @model_validator(mode="after")
    def _validate_overwrite_or_resume(self) -> "PhotoSettings":
        if self.resume and self.overwrite:
            raise ValueError("resume: must not be used with overwrite, got both")
        return self

    @model_validator(mode="after")
    def _validate_in_place(self) -> "PhotoSettings":
        names = ("compare", "format", "out", "resume", "suffix")
        # `mlflow run` also passes the default of `out`.
        others = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if self.in_place and others:
            raise ValueError(f"in_place: must not be used with {others[0]}, got both")
        if self.in_place and STREAM in self.inputs:
            raise ValueError("in_place: must not be used with the standard input, got both")
        return self

    @model_validator(mode="after")
    def _validate_dry_run(self) -> "PhotoSettings":
        if self.dry_run and self.out == STREAM:
            raise ValueError("dry_run: must not be used with the standard output, got both")
        return self

    @model_validator(mode="after")
    def _validate_inputs(self) -> "PhotoSettings":
        if not self.inputs:
            raise ValueError("inputs: must be files, folders or patterns, got none")
        return self

    @model_validator(mode="after")
    def _validate_suffix(self) -> "PhotoSettings":
        if self.suffix and "/" in self.suffix:
            raise ValueError(f"suffix: must not contain /, got {self.suffix!r}")
        return self

    @property
    def format_extension(self) -> str | None:
        """The extension of the file format `format`, such as `.png`; None for `same`."""
        return None if self.format == "same" else f".{self.format}"


class Upscale(PhotoSettings, NetworkFields):
    """Upscale photos: luminance with a network, colour with Lanczos."""

    STEP = "upscale"
    VERB = "upscaled"
    DEFAULTS = {"out": "upscaled"}
    DEPENDS = {"fit": {"size": GIVEN}}
    scale: Factor = field(
        None,
        "scale factor",
        rule="a ratio or number from 1 to 8, such as 3:2 or 3.7; default: the scale factor of the model, or 3:2 if "
        "it has several",
    )
    size: Size = field(
        None,
        "width and height in pixels into which the results fit (see `fit`), instead of a scale factor",
        rule="none, or a size such as 1920x1080",
    )
    fit: Literal["inside", "exact", "cover"] = field(
        "inside",
        "what happens if the aspect ratio of a photo is not that of `size`. inside: the result fits in `size`. "
        "cover: the result is cropped to `size`. exact: the photo fails",
    )
    longest_side: Annotated[Annotated[int, Field(ge=1, le=10**6)] | None, Unset] = field(
        None, "longest side of the results in pixels, instead of a scale factor",
        rule="none, or 1 to 1000000",
    )  # fmt: skip
    megapixels: Annotated[Annotated[float, Field(gt=0, le=10**5)] | None, Unset] = field(
        None, "number of pixels of the results, in millions, instead of a scale factor", rule="none, or up to 100000"
    )
    skip_larger: bool = field(False, "skip photos that are larger than the requested size; otherwise they fail")

    @model_validator(mode="after")
    def _validate_size_or_scale(self) -> "Upscale":
        sizes = [name for name in ("size", "longest_side", "megapixels", "scale") if getattr(self, name) is not None]
        if len(sizes) > 1:
            raise ValueError(f"{sizes[0]}: must not be used with {sizes[1]}, got both")
        if self.skip_larger and sizes in ([], ["scale"]):
            raise ValueError("skip_larger: must be used with size, longest_side or megapixels, got none of them")
        if self.skip_larger and self.out == STREAM:
            raise ValueError("skip_larger: must not be used with the standard output, got both")
        return self

    @property
    def box(self) -> tuple[int, int] | None:
        """The value of `size` as width and height."""
        if self.size is None:
            return None
        width, height = map(int, self.size.split("x"))
        return width, height


class Restore(PhotoSettings, NetworkFields):
    """Remove JPEG artefacts and noise from photos."""

    STEP = "restore"
    VERB = "restored"
    DEFAULTS = {"out": "restored"}
    DEPENDS = {
        "feather": {"mask": GIVEN},
        **{name: {"method": "network"} for name in ("model", "ensemble", "jpeg_quality", "device")},
    }
    HELP_GROUPS = {"fields with --method network": ("model", "ensemble", "jpeg_quality", "device")}
    method: Literal["network", "nlm"] = field(
        "network",
        "network: strong noise is removed, then a network removes JPEG artefacts. nlm: only noise is removed, by "
        "non-local means",
    )
    model: str = field("champion", f"network that restores photos (scale factor 1:1): {RESTORE_MODELS}")
    mask: Text = field(
        None,
        "image of the same size as the photos: white pixels are restored, black pixels are kept",
        rule="none or a file",
    )
    denoise: Denoise = field(
        "auto", f"{DENOISE}, and with method=network 0 if the estimate is below 3", rule=DENOISE_RULE
    )
    feather: float = field(8, "width of the soft edge of the mask, in pixels", ge=0, le=1000)
    strength: Annotated[Annotated[float, Field(ge=0, le=1)] | None, Unset] = field(
        None,
        "weight of the restored image in the result; 0 does not change the photo",
        rule="0 to 1; default 1, but 0.7 with method=nlm",
    )


class Demo(Settings):
    """Serve a web page that upscales photos."""

    STEP = "demo"
    model: str = field("champion", MODEL)
    device: Device = field("auto", DEVICE)
    host: Host = field("127.0.0.1", "address to listen on; 0.0.0.0: all addresses of this machine")
    port: int = field(7860, "port to listen on; 0: any free port", ge=0, le=65535)
    host_names: HostNames = field(
        (),
        "further host names under which browsers may open the page, such as the name of a proxy",
        rule="none, or host names, comma-separated",
    )
