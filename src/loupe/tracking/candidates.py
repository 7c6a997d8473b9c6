"""Finds the model that `register` compares with the champion."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mlflow

from loupe.config.base import DatasetSettings
from loupe.config.fields import URI_SCHEMES, format_value, parse_scale
from loupe.config.steps import Register
from loupe.data import preparation
from loupe.data.dataset import Dataset
from loupe.errors import UsageError
from loupe.tracking import logged_models, models, runs


@dataclass(frozen=True)
class Candidate:
    """A model to register.

    Args:
        reference: the logged model.
        name: the name and id of the run; the name of the model in MLflow if Loupe did not train the model.
        scale: the scale factor.
        dataset: the dataset of the training; None if Loupe did not train the model.
        source: the setting `dataset` of the training; None if Loupe did not train the model.
        is_smoke: whether the training was a short test.
    """

    reference: models.ModelReference
    name: str
    scale: Fraction
    dataset: Dataset | None = None
    source: str | None = None
    is_smoke: bool = False


def find_candidate(settings: Register) -> Candidate:
    """Find the model that the settings select.

    Raises:
        UsageError: the run does not exist or is not a finished training with a model, the model does not exist or
            cannot be loaded, or the dataset is missing or has changed.
    """
    if settings.run.startswith(URI_SCHEMES):
        reference = models.find_model(settings.run)
        model = logged_models.find_model(reference.run_id) if reference.run_id else None
        if model is None or model.model_id != reference.model_id:
            return _describe_foreign_model(reference)
        run = runs.get_run(model.source_run_id, "run")
    elif settings.run == "best":
        run = runs.find_best_run(format_value(settings.scale), settings.include_smoke)
    else:
        run = runs.get_run(settings.run, "run")
    model, tags = logged_models.find_model(run.info.run_id), run.data.tags
    if model is None:
        raise UsageError(f"run: must be a finished train run or trial with a model, got {run.info.run_id!r}")
    name = f"{run.info.run_name} ({run.info.run_id})"
    reference = models.ModelReference.from_logged_model(model.model_id, name)
    if "loupe.step" not in tags:
        return _describe_foreign_model(reference)
    if tags["loupe.step"] not in ("train", "trial") or run.info.status != "FINISHED":
        raise UsageError(f"run: must be the id of a finished train run or trial, got {run.info.run_id!r}")
    texts = runs.read_settings(run, "scale", "dataset", "smoke")
    return Candidate(
        reference,
        reference.name,
        parse_scale(texts["scale"]),
        open_training_dataset(run, settings),
        texts["dataset"],
        is_smoke=texts["smoke"] == "true",
    )


def open_training_dataset(run: Any, settings: Register) -> Dataset:
    """Open the dataset of a train run or trial, or prepare it again; raise UsageError if this fails."""
    texts = runs.read_settings(run, "scale", "dataset", "smoke")
    dataset_settings = make_dataset_settings(settings, texts["smoke"] == "true")
    return preparation.reopen(
        dataset_settings, *runs.read_dataset(run), texts["dataset"], parse_scale(texts["scale"])
    )


def make_dataset_settings(settings: Register, is_smoke: bool) -> DatasetSettings:
    """Return settings to open or prepare the dataset of a training; `is_smoke`: the training was a short test."""
    return DatasetSettings(**settings.select(["data_dir", "quiet"]), smoke=is_smoke)


def _describe_foreign_model(reference: models.ModelReference) -> Candidate:
    """Return the candidate for a model that Loupe did not log; raise UsageError if it is not a logged model."""
    if reference.model_id is None:
        raise UsageError(f"run: must be a logged model of MLflow, got {reference.name}")
    from loupe.models.builder import KerasUpscaler

    model = models.load_keras(reference)
    logged = mlflow.get_logged_model(reference.model_id)
    return Candidate(reference, str(logged.name), KerasUpscaler(model).geometry.scale)
