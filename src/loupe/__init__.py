"""Loupe upscales photos with neural networks, and trains, compares and registers these networks.

The functions of this module run the steps in notebooks and scripts: `loupe.train(network="perceptron", steps=2000)`.
Their arguments are the fields of the step; `loupe STEP --help` lists the fields. Values can be Python objects or the
texts of the command line. A wrong name or value raises `loupe.errors.UsageError` before anything starts. Each function
opens an MLflow run. If another run is already open, the new run is its child.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loupe.data.dataset import Dataset
    from loupe.steps.register import Registration
    from loupe.steps.train import Training

__version__ = "0.2.0"

# The telemetry of onnxruntime and MLflow is off unless the user sets these variables. onnxruntime reads its variable
# only during its import. In every process (steps, workers, notebooks, served models), this module runs before that
# import.
for _name, _value in {"ORT_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> Any:
    """Import `Upscaler` on first use, so that `import loupe` is fast."""
    if name == "Upscaler":
        return import_module("loupe.tracking.upscaler").Upscaler
    raise AttributeError(f"module 'loupe' has no attribute {name!r}")


def prepare(**fields: Any) -> "Dataset":
    """Prepare a dataset from photos, or open the dataset if it exists; the fields are those of `loupe preprocess`."""
    dataset: Dataset = _run("preprocess", fields)
    return dataset


def train(**fields: Any) -> "Training":
    """Train one network on a dataset, and score it; the fields are those of `loupe train`."""
    training: Training = _run("train", fields)
    return training


def evaluate(**fields: Any) -> dict[str, Any]:
    """Score models and baselines; the fields are those of `loupe evaluate`.

    Returns:
        The content of the file that `loupe evaluate --out scores.json` writes.
    """
    summary: dict[str, Any] = _run("evaluate", fields)
    return summary


def register(**fields: Any) -> "Registration":
    """Register the model of a run; the fields are those of `loupe register`."""
    registration: Registration = _run("register", fields)
    return registration


def sweep(**fields: Any) -> str | None:
    """Search hyperparameters with a sweep file; the fields are those of `loupe sweep`.

    Returns:
        The id of the best trial's run; None if no trial has a value.
    """
    run_id: str | None = _run("sweep", fields)
    return run_id


def _run(step: str, fields: dict[str, Any]) -> Any:
    import_module("loupe.cli.main").set_environment()
    settings = import_module("loupe.config").parse_settings(step, fields)
    return import_module(f"loupe.steps.{step}").run(settings)
