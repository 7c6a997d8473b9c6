"""The settings of `evaluate`."""

from fractions import Fraction
from typing import Annotated, Any, Literal

from loupe.config.base import GIVEN, DatasetSettings, Settings
from loupe.config.datasets import LIMIT, Luminance, Pairing
from loupe.config.fields import DEVICE, Count, Device, Names, Qualities, Scale, Text, Unset, field
from loupe.config.photos import ENSEMBLE, MODEL
from loupe.config.training import DATASET, RECOMPOSE, Recompose

PAIR_PROTOCOLS = frozenset({"photos", "study-patches"})  # protocols that score labels, not whole photos


class Evaluate(DatasetSettings, Pairing):
    """Score a model and the baselines on a dataset or on a folder of photos."""

    STEP = "evaluate"
    model: str = field("champion", f"model to score: {MODEL}")
    beside: Names = field(
        (), "further models to score; accepts the values of `model`", rule="none, or models, comma-separated"
    )
    scale: Scale = field(
        Fraction(3, 2), "scale factor, for a model with several scale factors", rule="1:1, 3:2, 2:1 or 3:1"
    )
    dataset: str = field("sample", DATASET)
    split: Literal["test", "validation", "train", "all"] = field("test", "split of the dataset")
    photos: Text = field(
        None,
        "folder or tar file of photos to use instead of a dataset; `crop`, `crops`, `label_size`, `shrink` and "
        "`recompress` apply only to these photos. none: protocol=classical uses the bundled photos, and the other "
        "protocols use the dataset",
        rule="none or a path",
    )
    luminance: Annotated[Luminance | None, Unset] = field(
        None,
        "formula that converts the colour of the photos to luminance",
        rule="rec601, rec709 or relative; default: the formula of the model",
    )
    limit: Count = field(None, LIMIT, rule="none or >= 1")
    degrade: Literal["none", "jpeg"] = field(
        "none",
        "degradation of the inputs. jpeg: compression as grey JPEG; the scores of every method are computed for each "
        "of the `qualities`",
    )
    qualities: Qualities = field(
        (100, 95, 90, 85, 75, 60, 50, 30),
        "JPEG qualities of the inputs with degrade=jpeg; 100 means no compression",
        rule="numbers from 1 to 100, comma-separated",
    )
    recompose: Recompose = field(
        "concatenate",
        RECOMPOSE,
    )
    protocol: Literal["photos", "study-patches", "classical"] = field(
        "photos",
        "the images that are scored. photos: the labels (images that are cut from photos). study-patches: 20 draws "
        "of one random patch per photo (2016 study). classical: whole photos; the inputs are downscaled with a "
        "bicubic filter, and the scores compare luma values from 16 to 235 without the border pixels, as in "
        "most papers",
    )
    ensemble: bool = field(False, ENSEMBLE)
    device: Device = field("auto", DEVICE)
    out: Text = field(None, "write a JSON summary to this file", rule="none or a path")
    sheet: Text = field(
        None,
        "write an image of the most detailed crops, upscaled by every method, to this file; with degrade=jpeg, the "
        "inputs have the lowest quality",
        rule="none or a path",
    )
    SMOKE = {"limit": 6}
    DEPENDS = {
        "recompose": {"protocol": frozenset({"photos", "classical"})},
        "sheet": {"protocol": "photos"},
        "degrade": {"photos": GIVEN, "protocol": "photos"},
        "qualities": {"degrade": "jpeg"},
        **{name: {"photos": None, "protocol": PAIR_PROTOCOLS} for name in ("dataset", "split")},
        # These fields cut labels from photos. A dataset already contains labels.
        **{
            name: {"photos": GIVEN, "protocol": PAIR_PROTOCOLS}
            for name in ("crop", "label_size", "luminance", "shrink")
        },
        "recompress": {"photos": GIVEN, "protocol": PAIR_PROTOCOLS, "degrade": "none"},
    }

    @property
    def pairing(self) -> dict[str, Any]:
        """The values of the fields of `Pairing` by name."""
        return self.select(Pairing.model_fields.keys() - Settings.model_fields.keys())
