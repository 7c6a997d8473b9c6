"""The settings of the steps that register, search, report, upload runs, and run the main steps."""

from fractions import Fraction
from typing import Literal

from pydantic import model_validator

from loupe.config.base import DatasetSettings, RunSettings, Settings
from loupe.config.fields import Count, Scale, Seconds, Text, field
from loupe.config.training import DATASET, THREADS

UNSENT_RUNS_FOLDER = "unsent-runs"  # contains buffered runs while the tracking server is unreachable
PHOTO_MODEL_CHANGES = "also changes loupe-photo, the registered model that upscales image files"


class Register(RunSettings):
    """Register a model; if it is better than the champion (the default model of upscale), it becomes champion."""

    STEP = "register"
    run: str = field(
        "best",
        "the model: the id of a train run or of a trial, or a registry or run URI of MLflow. best: the run with the "
        "lowest validation mae among the train runs of the current experiment that use the dataset of the newest run",
    )
    scale: Scale = field(
        Fraction(3, 2), "with run=best, `rollback` or `version`, the scale factor", rule="1:1, 3:2, 2:1 or 3:1"
    )
    gate: Text = field(
        None,
        "gate dataset: the dataset or source of photos on which this model and all later models of the scale factor "
        "are compared with the champion. none: the present gate dataset. The first model with at least 8 test photos "
        "makes its own dataset the gate dataset",
        rule="none, a dataset or a source",
    )
    rollback: bool = field(
        False, f"make the previous champion of the scale factor the champion again; {PHOTO_MODEL_CHANGES}"
    )
    version: Count = field(
        None,
        f"make this version the champion of the scale factor without a comparison; {PHOTO_MODEL_CHANGES}",
        rule="none or >= 1",
    )
    smoke: bool = field(False, "with run=best, include the runs of short tests, which never become champion")
    data_dir: str = field("data", "folder or URL of the prepared datasets, which contain the compared images")
    DEPENDS = {"scale": {"run": "best"}, "gate": {"rollback": False, "version": None}, "version": {"rollback": False}}

    @model_validator(mode="after")
    def _validate_run(self) -> "Register":
        if self.run != "best" and (self.rollback or self.version):
            raise ValueError(f"run: must be best with rollback or version, got {self.run}")
        return self


class Sweep(DatasetSettings):
    """Search hyperparameters with Optuna as defined in a sweep file, and register the best network."""

    STEP = "sweep"
    sweep: str = field("sweeps/smoke.toml", "the sweep file")
    name: Text = field(None, "name of the Optuna study; none: the name in the sweep file", rule="none or a name")
    dataset: Text = field(None, f"{DATASET}. none: the dataset in the sweep file", rule="none, a dataset or a source")
    pruner: Literal["file", "none", "median", "hyperband"] = field(
        "file", "pruner that stops poor trials early; file: the pruner in the sweep file"
    )
    workers: int = field(
        0,
        "number of worker processes; a worker trains one trial at a time. 0 without `scheduler`: one worker per core "
        "of this machine; on a machine with GPUs and with KERAS_BACKEND=jax, one worker per GPU (or group of GPUs "
        "that one trial uses). 0 with `scheduler`: one worker per core of the Dask cluster",
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
    fresh: bool = field(False, "train every trial, even if an earlier run with the same settings and seed exists")
    champion: bool = field(
        True,
        "score the models of the best trials on the test split, and register the model of the best trial; the "
        "setting `keep` of the sweep file is the number of scored models",
    )
    scheduler: Text = field(
        None,
        "address of a Dask scheduler, whose workers prepare the dataset and run the trials; none: this machine "
        "prepares the dataset and runs the trials",
        rule="none, or an address such as tcp://host:port",
    )
    dashboard: bool = field(False, "show the study in optuna-dashboard while the sweep runs, and print the address")
    SMOKE = {"max_trials": 2}


class Report(RunSettings):
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
        None, "dataset whose runs are used; none: the dataset with the most trials", rule="none, a name or a digest"
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
