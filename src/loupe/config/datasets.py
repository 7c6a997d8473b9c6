"""The settings that prepare a dataset."""

from typing import Annotated, Literal

from pydantic import model_validator

from loupe.config.base import DatasetSettings, Settings
from loupe.config.fields import (
    Categories,
    Count,
    JpegQualities,
    NoiseLevels,
    Quality,
    Rate,
    Scales,
    Sources,
    Unset,
    field,
    format_value,
)
from loupe.config.training import UPSCALING_SCALES

Luminance = Literal["rec601", "rec709", "relative"]
Crop = Literal["centre", "fit", "tiles", "random"]
Filter = Literal["lanczos", "bicubic", "box", "hamming", "random"]
LIMIT = "maximum number of photos; none: all photos"


class LabelSettings(Settings):
    """The settings for cutting labels from photos, and for downscaling the labels to inputs."""

    crop: Annotated[Crop | None, Unset] = field(
        None,
        "how labels (high-resolution images) are cut from a photo. centre: one label from the centre. fit: one label "
        "from the centre, after the photo is downscaled until its shorter side is `label_size`. tiles: as many "
        "labels as fit next to each other. random: labels from random positions; every second label is cut from a "
        "copy of the photo that is downscaled by a random factor",
        rule="centre, fit, tiles or random; default centre, but tiles for the bundled photos",
    )
    crops: int = field(6, "with crop=random, number of labels per photo", ge=1, le=1000)
    crops_per_megapixel: Rate = field(
        None,
        "with crop=random, number of labels per million pixels of a photo, but at least 1 per photo. none: the "
        "field `crops` sets the number",
        rule="none, or above 0 and at most 1000",
    )
    label_size: int = field(150, "side of a label in pixels", ge=6, le=4096)
    shrink: Filter = field(
        "lanczos",
        "antialiased filter that downscales a label to the input of the network. box: the mean of the label pixels "
        "under each input pixel. random: for each label, lanczos, bicubic, box or hamming at random",
    )
    recompress: Quality = field(
        None,
        "JPEG quality with which labels and inputs are compressed (2016 study: 75). none: no compression",
        rule="none, or 1 to 95",
    )
    DEPENDS = {"crops": {"crop": "random", "crops_per_megapixel": None}, "crops_per_megapixel": {"crop": "random"}}


class Preprocess(DatasetSettings, LabelSettings):
    """Prepare a dataset from sources of photos."""

    STEP = "preprocess"
    SMOKE = {"limit": 12, "label_size": 90, "crop": "centre"}
    source: Sources = field(
        ("sample",),
        "sources of photos: sample (photos that scikit-learn and scikit-image bundle), caltech256 (downloads "
        "1.2 GB), folders, tar files, images, or URLs such as s3://bucket/prefix",
        rule="one or more, comma-separated",
    )
    categories: Categories = field(
        (),
        "use only photos of these categories; a category is a top-level folder of a source",
        rule="all, or names, comma-separated",
    )
    limit: Count = field(None, LIMIT, rule="none or >= 1")
    scales: Scales = field(
        UPSCALING_SCALES,
        "scale factors. Loupe cuts labels (high-resolution images) from the photos, and downscales each label to one "
        "input per scale factor",
        rule="ratios such as 3:2,2:1",
    )
    luminance: Luminance = field(
        "rec601",
        "formula that converts colour to luminance (brightness). rec601, rec709: the weighted sum of the channels in "
        "this standard. relative: the weights of Rec. 709, applied to linear light",
    )
    degrade: Literal["none", "jpeg", "camera"] = field(
        "none",
        "random degradation of the inputs. jpeg: compression as JPEG, with or without chroma subsampling "
        "(4:2:0) at random. camera: noise, then compression as with jpeg",
    )
    jpeg_qualities: JpegQualities = field(
        (20, 100),
        "with degrade=jpeg or camera, lowest and highest JPEG quality of the inputs",
        rule="two numbers from 1 to 100",
    )
    clean_share: float = field(
        0.15, "with degrade=jpeg or camera, probability that an input is not compressed", ge=0, le=1
    )
    double_share: float = field(
        0.2,
        "with degrade=jpeg or camera, probability that a compressed input is compressed a second time. The 8x8 "
        "blocks of the second compression are shifted by a random distance relative to the blocks of the first "
        "compression",
        ge=0,
        le=1,
    )
    noise_levels: NoiseLevels = field(
        (0, 10),
        "with degrade=camera, lowest and highest standard deviation of the noise, in grey values from 0 to 255. The "
        "noise is the sum of Gaussian and Poisson noise",
        rule="two numbers from 0 to 100",
    )
    DEPENDS = {
        "recompress": {"degrade": "none"},
        **{
            name: {"degrade": frozenset({"jpeg", "camera"})}
            for name in ("jpeg_qualities", "clean_share", "double_share")
        },
        "noise_levels": {"degrade": "camera"},
    }

    @model_validator(mode="after")
    def _validate_label_size(self) -> "Preprocess":
        for scale in self.scales:
            if self.label_size % scale.numerator:
                raise ValueError(
                    f"label_size: must be a multiple of {scale.numerator} for scale {format_value(scale)}, "
                    f"got {self.label_size}"
                )
            if scale == 1 and self.degrade == "none":
                raise ValueError("scales: must be above 1:1 with degrade=none, got 1:1")
        return self
