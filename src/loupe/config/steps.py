"""The settings of the steps `register`, `sweep`, `report`, `sync` and `main`."""

from fractions import Fraction
from typing import Literal

from pydantic import model_validator

from loupe.config.base import MAX_SEED, DatasetSettings, RunSettings, Settings
from loupe.config.fields import Count, Scale, Seconds, Text, field
from loupe.config.training import DATASET, SCALE_RULE, THREADS, validate_scale

# This folder contains a file per run with its records, until the tracking server has all of them.
UNSENT_RUNS_FOLDER = "unsent-runs"


class Register(RunSettings):
    """Register a model, and make it the champion (the best registered model) if it wins a comparison."""

    STEP = "register"
    run: str = field(
        "best",
        "id of the MLflow run of a training or a trial, or an MLflow URI. best: of the finished runs for this "
        "`scale` on the dataset of the newest one, the run with a model and the lowest validation mae",
    )
    scale: Scale = field(Fraction(3, 2), "scale factor of the model, unless `run` is an id or a URI", rule=SCALE_RULE)
    gate: Text = field(
        None,
        "prepared dataset, or photos to prepare, on which the new model is compared with the champion",
        rule="a dataset or a source; default: the dataset of earlier comparisons, or else the dataset of the "
        "training, or else sample",
    )
    rollback: bool = field(False, "make the previous champion the champion again")
    version: Count = field(None, "make this version the champion without a comparison", rule="none or >= 1")
    include_smoke: bool = field(
        False,
        "with run=best, also consider models of short tests (train --smoke); such a model becomes champion only by "
        "`register --version`",
    )
    data_dir: str = field("data", "folder or URL of the prepared datasets")
    DEPENDS = {
        "scale": {"run": "best"},
        "gate": {"rollback": False, "version": None},
        "version": {"rollback": False},
        "include_smoke": {"run": "best", "rollback": False, "version": None},
    }

    @model_validator(mode="after")
    def _validate_scale(self) -> "Register":
        validate_scale(self.scale)
        return self

    @model_validator(mode="after")
    def _validate_run(self) -> "Register":
        if self.run != "best" and (self.rollback or self.version):
            raise ValueError(f"run: must be 'best' if rollback or version is given, got {self.run!r}")
        return self


class Sweep(DatasetSettings):
    """Search hyperparameters with Optuna as defined in a sweep file, and register the best network."""

    STEP = "sweep"
    sweep: str = field("sweeps/smoke.toml", "the sweep file")
    seed: int = field(
        0,
        "first seed of the trainings",
        ge=0,
        le=MAX_SEED,
        rule="default: as in the sweep file, or else 0",
    )
    name: Text = field(None, "name of the Optuna study", rule="a name; default: as in the sweep file")
    dataset: Text = field(None, DATASET, rule="a dataset or a source; default: as in the sweep file")
    pruner: Literal["file", "none", "median", "hyperband"] = field(
        "file", "pruner that stops poor trials early; file: as in the sweep file"
    )
    workers: int = field(
        0,
        "number of worker processes; 0: one per core; with KERAS_BACKEND=jax and GPUs, one per GPU or group of GPUs",
        ge=0,
        le=1024,
    )
    threads: int = field(1, "CPU threads per trial; 0: one per core", ge=0, le=1024)
    storage: Text = field(
        None,
        "file or database that contains the Optuna study",
        rule="a path, or a URL such as postgresql://host/studies; default optuna.journal",
    )
    max_trials: Count = field(
        None, "maximum number of trials in this call, without those of earlier calls", rule="none or >= 1"
    )
    timeout: Seconds = field(None, "do not start a trial after this many seconds", rule="none or > 0")
    fresh: bool = field(
        False,
        "train each new trial. Otherwise, a trial reuses the run of another sweep with the same settings and seed",
    )
    register_best: bool = field(
        True,
        "score the kept networks (`keep` in the sweep file) on the test split, and register the network of the best "
        "trial; the test scores do not influence this choice",
    )
    scheduler: Text = field(
        None,
        "address of a Dask scheduler, whose cluster prepares photos and runs trials; none: this machine does both",
        rule="none, or an address such as tcp://host:port",
    )
    dashboard: bool = field(False, "show the study in optuna-dashboard while the sweep runs, and print the address")
    SMOKE = {"max_trials": 2}


class Report(RunSettings):
    """Check claims with MLflow runs, and write a page. Most claims are from the 2016 study (see the README)."""

    STEP = "report"
    from_: Text = field(
        None,
        "results.parquet of an earlier report, from which runs are read",
        rule="a path; default: runs are read from MLflow",
    )
    out: str = field("report", "folder for report.html, report.md and results.parquet")
    sweeps: str = field("sweeps", "folder of the sweep files")
    dataset: Text = field(
        None,
        "dataset whose runs are used",
        rule="a name, or only the digest at the end of a name; default: for each sweep file, the dataset with the "
        "most runs",
    )
    data_dir: str = field("data", "folder or URL of the prepared datasets")
    # With `from`, the report reads no dataset and opens no run.
    DEPENDS = {name: {"from_": None} for name in ("data_dir", "run_name", "tags", "note")}


class Sync(Settings):
    """Upload runs that were saved locally while the MLflow server was unreachable."""

    STEP = "sync"
    folder: str = field(UNSENT_RUNS_FOLDER, "folder of the saved runs")


class Main(DatasetSettings):
    """Run the main steps: prepare a dataset, train, compare, register, and upscale a photo."""

    STEP = "main"
    dataset: str = field("sample", DATASET)
    threads: int = field(0, THREADS, ge=0, le=1024)
    out: str = field("upscaled.png", "file for the upscaled photo; an existing file is replaced")
