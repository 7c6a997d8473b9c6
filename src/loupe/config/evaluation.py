"""The settings of `evaluate`."""

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import model_validator

from loupe.config.base import GIVEN, DatasetSettings, Settings
from loupe.config.datasets import LABEL_SIZE, LABEL_SIZE_RULE, LIMIT, LabelSettings, LabelSize
from loupe.config.fields import DEVICE, Count, Device, Luminance, Names, Qualities, Scale, Text, Unset, field
from loupe.config.photos import ENSEMBLE, MODEL
from loupe.config.training import DATASET, RECOMPOSE, SCALE_RULE, Recompose, validate_scale

LABEL_PROTOCOLS = frozenset({"labels", "study-patches"})  # the other protocol, `classical`, scores whole photos


class Evaluate(DatasetSettings, LabelSettings):
    """Score a model and the baselines on a dataset or on a folder of photos."""

    STEP = "evaluate"
    model: str = field("champion", MODEL)
    others: Names = field((), "further models to score", rule="none, or models, comma-separated")
    scale: Scale = field(Fraction(3, 2), "scale factor, for a model with several scale factors", rule=SCALE_RULE)
    protocol: Literal["labels", "study-patches", "classical"] = field(
        "labels",
        "images that are scored. labels: parts of photos. study-patches: 20 patches per photo, as in the 2016 study. "
        "classical: whole photos, as in most papers",
    )
    dataset: str = field("sample", DATASET)
    split: Literal["test", "validation", "train", "all"] = field("test", "split of the dataset")
    photos: Text = field(
        None, "photos to score instead of `dataset`: a folder, tar file or image", rule="none or a path"
    )
    luminance: Annotated[Luminance | None, Unset] = field(
        None,
        "formula for luminance (brightness) of the photos",
        rule="rec601, rec709 or relative; default: the formula of the model",
    )
    label_size: Annotated[LabelSize | None, Unset] = field(None, LABEL_SIZE, rule=f"6 to 4096, {LABEL_SIZE_RULE}")
    limit: Count = field(None, LIMIT, rule="none or >= 1")
    degrade: Literal["none", "jpeg"] = field(
        "none", "degradation of the inputs; jpeg: one score for each of the `qualities`"
    )
    qualities: Qualities = field(
        (100, 95, 90, 85, 75, 60, 50, 30),
        "JPEG qualities of the inputs, for degrade=jpeg; 100: no compression",
        rule="numbers from 1 to 100, comma-separated",
    )
    recompose: Recompose = field("concatenate", RECOMPOSE)
    ensemble: bool = field(False, f"for `model` and `others`: {ENSEMBLE}")
    device: Device = field("auto", DEVICE)
    out: Text = field(None, "write the scores to this JSON file", rule="none or a path")
    sheet: Text = field(
        None,
        "write an image that compares the results of the models for the most detailed parts of the labels, not for "
        "protocol=classical",
        rule="none or a path",
    )
    HELP_GROUPS = {
        "fields with --photos, not for protocol=classical": (
            "luminance", "crop", "labels_per_photo", "labels_per_megapixel", "label_size", "shrink", "degrade",
            "qualities", "recompress",
        )
    }  # fmt: skip
    SMOKE = {"limit": 6}
    DEPENDS = {
        "recompose": {"protocol": frozenset({"labels", "classical"})},
        "sheet": {"protocol": "labels"},
        "degrade": {"photos": GIVEN, "protocol": "labels"},
        "qualities": {"degrade": "jpeg"},
        **{name: {"photos": None, "protocol": LABEL_PROTOCOLS} for name in ("dataset", "split")},
        # These fields define labels and inputs, which a dataset already contains.
        **{
            name: {"photos": GIVEN, "protocol": LABEL_PROTOCOLS}
            for name in ("crop", "label_size", "luminance", "shrink")
        },
        "recompress": {"photos": GIVEN, "protocol": LABEL_PROTOCOLS, "degrade": "none"},
    }

    @model_validator(mode="after")
    def _validate_scale(self) -> "Evaluate":
        validate_scale(self.scale)
        return self

    @property
    def label_settings(self) -> dict[str, Any]:
        """The values of `label_size` and of the fields of `LabelSettings` by name."""
        return self.select({"label_size", *LabelSettings.model_fields} - Settings.model_fields.keys())
