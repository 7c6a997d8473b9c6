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
LIMIT = "maximum number of photos; the photos with the smallest content hashes are used; none: all photos"


class Pairing(Settings):
    """The settings that cut labels from photos and downscale them to inputs."""

    crop: Annotated[Crop | None, Unset] = field(
        None,
        "how labels (the high-resolution images of the dataset) are cut from a photo. centre: one label from the "
        "centre. fit: one label from the centre after downscaling the shorter side of the photo to label_size. "
        "tiles: as many labels as fit next to each other. random: `crops` labels from random positions; every "
        "second label is cut from a copy of the photo that is downscaled by a random factor",
        rule="centre, fit, tiles or random; default: tiles for the photos of source=sample, centre for other photos",
    )
    crops: int = field(6, "number of labels per photo with crop=random", ge=1, le=1000)
    crops_per_megapixel: Rate = field(
        None,
        "with crop=random, number of labels per million pixels of a photo; the number per photo is rounded and at "
        "least 1. none: `crops` labels per photo",
        rule="none, or above 0 and at most 1000",
    )
    label_size: int = field(150, "side of a label in pixels", ge=6, le=4096)
    shrink: Filter = field(
        "lanczos",
        "antialiased filter that downscales a label to the input of the network. box: the mean of an area; "
        "random: a random filter per label",
    )
    recompress: Quality = field(
        None, "compress labels and inputs as JPEG of this quality (2016 study: 75)", rule="none, or 1 to 95"
    )
    DEPENDS = {
        "crops": {"crop": "random", "crops_per_megapixel": None},
        "crops_per_megapixel": {"crop": "random"},
    }


class Preprocess(DatasetSettings, Pairing):
    """Prepare a dataset from sources of photos."""

    STEP = "preprocess"
    SMOKE = {"limit": 12, "label_size": 90, "crop": "centre"}
    source: Sources = field(
        ("sample",),
        "sources of photos: sample (photos that scikit-learn and scikit-image bundle), caltech256 (downloads "
        "1.2 GB), folders, tar files, or URLs such as s3://bucket/prefix",
        rule="one or more, comma-separated",
    )
    categories: Categories = field(
        (),
        "use only these categories; a category is a top-level folder of a source",
        rule="all, or names, comma-separated",
    )
    limit: Count = field(None, LIMIT, rule="none or >= 1")
    scales: Scales = field(
        UPSCALING_SCALES,
        "scale factors; each label is downscaled to one input per scale factor",
        rule="ratios such as 3:2,2:1",
    )
    luminance: Luminance = field(
        "rec601", "formula that converts colour to luminance; relative: Rec. 709 weights in linear light"
    )
    degrade: Literal["none", "jpeg", "camera"] = field(
        "none",
        "random degradation of the inputs. jpeg: compression as JPEG, with colours of full or half resolution; "
        "camera: noise, then compression as with jpeg. The manifest (the dataset's table of labels) contains the "
        "JPEG quality and the noise of each label's input. If an input is compressed twice, the manifest contains "
        "the quality of the second compression",
    )
    jpeg_qualities: JpegQualities = field(
        (20, 100), "lowest and highest JPEG quality of degraded inputs", rule="two numbers from 1 to 100"
    )
    clean_share: float = field(0.15, "probability that an input is not compressed as JPEG", ge=0, le=1)
    double_share: float = field(
        0.2,
        "probability that a compressed input is compressed a second time; the 8x8 blocks of the first compression "
        "are shifted at random",
        ge=0,
        le=1,
    )
    noise_levels: NoiseLevels = field(
        (0, 10),
        "with degrade=camera, lowest and highest standard deviation of the noise (the sum of Gaussian and Poisson "
        "noise), in grey values from 0 to 255",
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
