"""The settings of the steps that prepare, evaluate, search and report."""

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import model_validator

from loupe.config.base import GIVEN, DatasetSettings, Settings
from loupe.config.fields import (
    DEVICE,
    Categories,
    Count,
    Device,
    JpegQualities,
    Names,
    NoiseLevels,
    Qualities,
    Quality,
    Rate,
    Scale,
    Scales,
    Seconds,
    Sources,
    Text,
    Unset,
    field,
    format_value,
)
from loupe.config.photos import ENSEMBLE, MODEL
from loupe.config.training import DATASET, RECOMPOSE, THREADS, UPSCALING_SCALES, Recompose

Luminance = Literal["rec601", "rec709", "relative"]
Crop = Literal["centre", "fit", "tiles", "random"]
Filter = Literal["lanczos", "bicubic", "box", "hamming", "random"]
UNSENT_RUNS_FOLDER = "unsent-runs"  # contains buffered runs while the tracking server is unreachable
PAIR_PROTOCOLS = frozenset({"photos", "study-patches"})  # protocols that score labels, not whole photos
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


class Register(DatasetSettings):
    """Register the model of a run; the model becomes champion if it is better than the current champion."""

    STEP = "register"
    run: str = field(
        "best",
        "id of a train run; best: the train run with the lowest validation mae",
    )
    scale: Scale = field(Fraction(3, 2), "with run=best, the scale factor of the runs", rule="1:1, 3:2, 2:1 or 3:1")
    smoke: bool = field(False, "with run=best, include the runs of short tests (--smoke)")
    DEPENDS = {"scale": {"run": "best"}}


class Sweep(DatasetSettings):
    """Search hyperparameters with Optuna as defined in a sweep file, and register the best network."""

    STEP = "sweep"
    sweep: str = field("sweeps/smoke.toml", "the sweep file")
    name: Text = field(None, "name of the Optuna study; none: the name in the sweep file", rule="none or a name")
    dataset: Text = field(None, f"{DATASET}; none: the dataset in the sweep file", rule="none, a dataset or a source")
    pruner: Literal["file", "none", "median", "hyperband"] = field(
        "file", "pruner that stops poor trials early; file: the pruner in the sweep file"
    )
    workers: int = field(
        0,
        "number of worker processes. 0: one worker per core of this machine, or of the Dask cluster with "
        "`scheduler`. If KERAS_BACKEND is jax, this machine has GPUs, and `scheduler` is none, 0 means one worker "
        "per group of GPUs. A group has as many GPUs as one trial uses (`devices`)",
        ge=0,
        le=1024,
    )
    threads: int = field(1, "CPU threads per trial; 0: one per core", ge=0, le=1024)
    storage: Text = field(
        None,
        "storage of the Optuna study: a journal file or the URL of a database; none: optuna.journal next to the "
        "store of MLflow",
        rule="none, a path, or a URL such as postgresql://host/studies",
    )
    max_trials: Count = field(None, "run at most this many trials", rule="none or >= 1")
    timeout: Seconds = field(None, "do not start a trial after this many seconds", rule="none or > 0")
    fresh: bool = field(False, "train every trial, even if the store already contains its result")
    champion: bool = field(
        True,
        "register the model of the best trial, and score the best models on the test split; these scores do not "
        "change the choice of the best trial",
    )
    dashboard: bool = field(False, "print the command that opens the study in optuna-dashboard, and exit")
    SMOKE = {"max_trials": 2}


class Report(Settings):
    """Check the claims of the 2016 study (see the README) against the runs, and write a page with all results."""

    STEP = "report"
    from_: Text = field(
        None,
        "read the runs from the results.parquet of an earlier report; none: read the runs from MLflow",
        rule="none or a path",
    )
    out: str = field("report", "folder for report.html, report.md and results.parquet")
    sweeps: str = field("sweeps", "folder of the sweep files, which contain the claims")
    dataset: Text = field(
        None, "use only runs on this dataset; none: the dataset with the most trials", rule="none, a name or a digest"
    )
    data_dir: str = field("data", "folder or URL of the prepared datasets, which contain the images of the report")
    DEPENDS = {"data_dir": {"from_": None}}


class Sync(Settings):
    """Upload runs that were buffered while the tracking server was unreachable."""

    STEP = "sync"
    folder: str = field(UNSENT_RUNS_FOLDER, "folder of the buffered runs")


class Main(DatasetSettings):
    """Run the main steps: prepare a dataset, train, compare, register, and upscale a photo."""

    STEP = "main"
    dataset: str = field("sample", DATASET)
    threads: int = field(0, THREADS, ge=0, le=1024)
    out: str = field("upscaled.png", "file for the upscaled photo")
