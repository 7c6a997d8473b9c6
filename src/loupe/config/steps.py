"""Settings of the steps that prepare, compare, search and report; `train` stands in `variants`."""

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import model_validator

from loupe.config.base import GIVEN, DatasetSettings, Settings
from loupe.config.fields import (
    Categories,
    Count,
    Names,
    Quality,
    Scale,
    Scales,
    Seconds,
    Sources,
    Text,
    Unset,
    field,
    format_value,
    hide_password,
)
from loupe.config.photos import ENSEMBLE
from loupe.config.training import TRAINED_SCALES, Recompose

Luminance = Literal["rec601", "rec709", "relative"]
Crop = Literal["centre", "fit", "tiles", "random"]
Filter = Literal["lanczos", "bicubic", "box"]
UNSENT_RUNS_FOLDER = "unsent-runs"  # folder of runs that their server could not be told of
OF_PAIRS = frozenset({"photos", "study-patches"})  # protocols that take labels and inputs as they were cut


class Pairing(Settings):
    """How labels are cut from photos and shrunk to inputs."""

    crop: Annotated[Crop | None, Unset] = field(
        None,
        "label_size pixels from the middle (centre); shorter side to label_size first (fit); all labels that "
        "fit side by side (tiles); `crops` a photo, half of them from the photo shrunk first (random)",
        rule="centre, fit, tiles or random; tiles for sample and centre for others, where it is not given",
    )
    crops: int = field(6, "labels a photo of crop=random", ge=1, le=1000)
    label_size: int = field(150, "side of a label, in pixels", ge=6, le=4096)
    shrink: Filter = field("lanczos", "filter that makes the input from the label")
    recompress: Quality = field(
        None, "JPEG quality that labels and inputs go through (the study: 75)", rule="none or 1..95"
    )
    DEPENDS = {"crops": {"crop": "random"}}


class Preprocess(DatasetSettings, Pairing):
    """Turn sources of photos into a prepared dataset."""

    STEP = "preprocess"
    SMOKE = {"limit": 12, "label_size": 90, "crop": "centre"}
    source: Sources = field(
        ("sample",), "photos: sample, caltech256, a tar, a folder, also at s3://…; several", rule="comma-separated"
    )
    categories: Categories = field((), "only these category folders", rule="all, or names, comma-separated")
    limit: Count = field(None, "only so many photos, those of the smallest content hashes", rule="none or >= 1")
    scales: Scales = field(
        TRAINED_SCALES, "a set of inputs for each, made from the same labels", rule="ratios such as 3:2,2:1"
    )
    luminance: Luminance = field("rec601", "how grey is made of colour; relative weighs in linear light")

    @model_validator(mode="after")
    def _sizes_divide(self) -> "Preprocess":
        for scale in self.scales:
            if self.label_size % scale.numerator:
                raise ValueError(
                    f"label_size: must be a multiple of {scale.numerator} for scale {format_value(scale)}, "
                    f"got {self.label_size}"
                )
        return self


class Evaluate(DatasetSettings, Pairing):
    """Score a model and the baselines on a dataset, or on a folder of photos."""

    STEP = "evaluate"
    model: str = field(
        "champion",
        "registry or run URI, file, bundled network (tiny, small, base) or baseline; without a champion yet, small",
    )
    beside: Names = field(
        (), "more models to score, each as model", rule="none, or different models, comma-separated"
    )
    scale: Scale = field(Fraction(3, 2), "of the champion or baseline", rule="3:2, 2:1 or 3:1")
    dataset: str = field("sample", "a prepared folder, or a source that is prepared with defaults")
    split: Literal["test", "validation", "train", "all"] = field("test", "photos of the dataset to score on")
    photos: Text = field(
        None,
        "score on this folder or tar instead, cut as crop says; protocol=classical without it: the bundled photos",
        rule="none or a path",
    )
    luminance: Annotated[Luminance | None, Unset] = field(
        None, "of the photos", rule="rec601, rec709 or relative; the model's, where it is not given"
    )
    limit: Count = field(None, "only so many photos, those of the smallest content hashes", rule="none or >= 1")
    recompose: Recompose = field(
        "concatenate", "side by side (the study), or overlapping and weighed by a Gaussian (its wish)"
    )
    protocol: Literal["photos", "study-patches", "classical"] = field(
        "photos",
        "labels and inputs as prepared; study-patches: one random patch a photo, 20 draws; classical: whole photos "
        "by bicubic, luma 16-235, the border shaved, as in papers",
    )
    ensemble: bool = field(False, ENSEMBLE)
    out: Text = field(None, "write a JSON summary to this file", rule="none or a path")
    sheet: Text = field(None, "write a image to this file: the busiest crops by every method", rule="none or a path")
    SMOKE = {"limit": 6}
    DEPENDS = {
        "recompose": {"protocol": frozenset({"photos", "classical"})},
        "sheet": {"protocol": "photos"},
        # a dataset was cut when it was prepared
        **{name: {"photos": None, "protocol": OF_PAIRS} for name in ("dataset", "split")},
        **{
            name: {"photos": GIVEN, "protocol": OF_PAIRS}
            for name in ("crop", "label_size", "luminance", "shrink", "recompress")
        },
    }

    @property
    def pairing(self) -> dict[str, Any]:
        """The fields that only photos, not a dataset, are cut by."""
        return {name: getattr(self, name) for name in Pairing.model_fields if name not in Settings.model_fields}


class Register(DatasetSettings):
    """Make a run's model a version of its scale's registered model; it becomes champion if it wins."""

    STEP = "register"
    run: str = field("best", "a train run's id, or best: of all of the scale (but smoke ones), the lowest mae")
    scale: Scale = field(Fraction(3, 2), "whose best run, where none is named", rule="3:2, 2:1 or 3:1")


class Sweep(DatasetSettings):
    """Search the settings of train: a study of trials, from a sweep file; its best network is registered."""

    STEP = "sweep"
    sweep: str = field("sweeps/smoke.toml", "the sweep file")
    name: Text = field(None, "of the study, not the file's", rule="none or a name")
    dataset: Text = field(None, "not the file's", rule="none, a prepared folder or a source")
    pruner: Literal["file", "none", "median", "hyperband"] = field(
        "file", "that ends poor trials early; file: its own"
    )
    workers: int = field(0, "processes that train, here or on the Dask scheduler; 0 is one a core", ge=0, le=1024)
    threads: int = field(1, "cores of each trial; 0 is all", ge=0, le=1024)
    storage: Text = field(
        None,
        "where Optuna keeps the study: a journal file or a database",
        rule="none, a file, or a URL such as postgresql://…; optuna.journal beside MLflow's store",
    )
    max_trials: Count = field(None, "run only so many trials this time", rule="none or >= 1")
    timeout: Seconds = field(None, "seconds after which no trial starts", rule="none or > 0")
    fresh: bool = field(False, "train what the store has a result of, too")
    champion: bool = field(True, "at the end, score the best networks on test and register the best")
    dashboard: bool = field(False, "only tell how to open optuna-dashboard on the study")
    SMOKE = {"max_trials": 2}

    def to_texts(self) -> dict[str, str]:
        """As of every step, but without a database's password."""
        return {name: hide_password(text) for name, text in super().to_texts().items()}


class Report(DatasetSettings):
    """Judge the study's claims by the runs, and write a page of all results."""

    STEP = "report"
    from_: Text = field(None, "a results.parquet of an earlier report, not MLflow's store", rule="none or a file")
    out: str = field("report", "the folder to write report.html, report.md and results.parquet to")
    sweeps: str = field("sweeps", "folder of the sweep files with the claims")
    dataset: Text = field(None, "judge by runs on this dataset", rule="none, a name or digest; that of most trials")
    readme: Text = field(None, "rewrite the report's tables in this file", rule="none or a file")


class Sync(Settings):
    """Bring in runs whose tracking server did not answer when they ended."""

    STEP = "sync"
    folder: str = field(UNSENT_RUNS_FOLDER, "where they were kept: in the folder that the step was started in")


class Main(DatasetSettings):
    """Prepare, train, compare, register, upscale: the whole job, as nested runs under one."""

    STEP = "main"
    dataset: str = field("sample", "a prepared folder, or a source that is prepared with defaults")
    threads: int = field(0, "cores that train; 0 is all", ge=0, le=1024)
    out: str = field("upscaled.png", "the upscaled photo")
