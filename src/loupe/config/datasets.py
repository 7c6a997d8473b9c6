"""The settings of `preprocess`, which prepares a dataset, and the settings that it shares with `evaluate`."""

import math
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from loupe.config.base import DatasetSettings, Settings
from loupe.config.fields import (
    SCALES_RULE,
    Categories,
    Count,
    JpegQualities,
    Luminance,
    NoiseLevels,
    Quality,
    Rate,
    Scales,
    Sources,
    Unset,
    field,
    format_value,
)

Crop = Literal["centre", "fit", "tiles", "random"]
Filter = Literal["lanczos", "bicubic", "box", "hamming", "random"]
LIMIT = "maximum number of photos; none: all photos"
DEFAULT_SCALES = (Fraction(3, 2), Fraction(2), Fraction(3))
LABEL_SIZE = "side of a label in pixels"
LABEL_SIZE_RULE = (
    "a multiple of the first number of each scale factor; default: the largest one up to 150, or else the smallest"
)
MIN_INPUT_SIDE = 6  # in pixels; ridge regression mirrors 4 pixels at the border, which smaller crops do not have
LabelSize = Annotated[int, Field(ge=6, le=4096)]


def _choose_label_size(fields: dict[str, Any]) -> int:
    """Return the largest multiple up to 150 (with smoke, 90) of all numerators, or the smallest if it is above."""
    multiple = math.lcm(*(scale.numerator for scale in fields.get("scales", DEFAULT_SCALES)))
    largest = 90 if fields.get("smoke") else 150
    return max(multiple, largest - largest % multiple)


class LabelSettings(Settings):
    """The settings for cutting labels from photos, and for downscaling the labels to inputs."""

    crop: Annotated[Crop | None, Unset] = field(
        None,
        "how labels (high-resolution images) are cut from a photo. centre: one label, from the centre. fit: the "
        "same, after the photo is downscaled until its shorter side is `label_size`. tiles: as many labels as fit "
        "side by side. random: at random positions; every second label is cut from a copy of the photo, downscaled "
        "by a random factor",
        rule="centre, fit, tiles or random; default centre",
    )
    labels_per_photo: int = field(6, "number of labels per photo, for crop=random", ge=1, le=1000)
    labels_per_megapixel: Rate = field(
        None,
        "number of labels per million pixels of a photo, instead of `labels_per_photo`, for crop=random",
        rule="none, or above 0 and at most 1000",
    )
    shrink: Filter = field(
        "lanczos", "filter that downscales a label to the input; random: a random filter for each label"
    )
    recompress: Quality = field(
        None,
        "JPEG quality with which labels and inputs are compressed, if they are not degraded; none: no compression",
        rule="none, or 1 to 95",
    )
    DEPENDS = {
        "labels_per_photo": {"crop": "random", "labels_per_megapixel": None},
        "labels_per_megapixel": {"crop": "random"},
    }


class Preprocess(DatasetSettings, LabelSettings):
    """Prepare a dataset from sources of photos."""

    STEP = "preprocess"
    SMOKE = {"limit": 12, "crop": "centre"}
    source: Sources = field(
        ("sample",),
        "photos: sample (bundled photos; the default of `crop` is then tiles), caltech256 (1.2 GB), folders, tar "
        "files, images or URLs",
        rule="one or more, comma-separated",
    )
    categories: Categories = field(
        (), "use only these top-level folders of the sources", rule="all, or names, comma-separated"
    )
    limit: Count = field(None, LIMIT, rule="none or >= 1")
    scales: Scales = field(
        DEFAULT_SCALES,
        "scale factors; each label is downscaled to one input per scale factor",
        rule=SCALES_RULE,
    )
    label_size: LabelSize = field(
        _choose_label_size, LABEL_SIZE, rule=f"{LABEL_SIZE_RULE}; with `smoke`, up to 90 instead of 150"
    )
    luminance: Luminance = field("rec601", "formula for luminance (brightness); relative: Rec. 709 on linear light")
    degrade: Literal["none", "jpeg", "camera"] = field(
        "none", "random degradation of the inputs. jpeg: JPEG artefacts. camera: noise and JPEG artefacts"
    )
    jpeg_qualities: JpegQualities = field(
        (20, 100), "lowest and highest JPEG quality, for degrade=jpeg and camera", rule="two numbers from 1 to 100"
    )
    clean_share: float = field(
        0.15, "probability that an input is not compressed, for degrade=jpeg and camera", ge=0, le=1
    )
    double_share: float = field(
        0.2, "probability that a compressed input is compressed twice, for degrade=jpeg and camera", ge=0, le=1
    )
    noise_levels: NoiseLevels = field(
        (0, 10),
        "lowest and highest standard deviation of the noise, in grey values from 0 to 255, for degrade=camera",
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
            if self.label_size < MIN_INPUT_SIDE * scale:
                raise ValueError(
                    f"label_size: must be at least {math.ceil(MIN_INPUT_SIDE * scale)} for scale "
                    f"{format_value(scale)}, got {self.label_size}"
                )
            if scale == 1 and self.degrade == "none":
                raise ValueError("scales: must be above 1:1 with degrade=none, got 1:1")
        return self
