"""Loupe upscales photos with neural networks, and trains, compares and registers these networks.

The functions of this module run the steps in notebooks and scripts: `loupe.train(network="perceptron", steps=2000)`.
Their arguments are the fields of the step; `loupe STEP --help` lists the fields. Values can be Python objects or the
texts of the command line. A wrong name or value raises `loupe.errors.UsageError` before anything starts. Each
function opens an MLflow run. If another run is already open, the new run is its child.
"""

import os
from importlib import import_module
from typing import Any

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


# The results have the type Any, because only the modules of the steps import their types.


def prepare(**fields: Any) -> Any:
    """Prepare a dataset from photos, or open the dataset if it exists; the fields are those of `loupe preprocess`.

    Returns:
        A `loupe.data.dataset.Dataset`; its attribute `location` is a value of the field `dataset`.
    """
    return _run("preprocess", fields)


def train(**fields: Any) -> Any:
    """Train one network on a dataset, and score it; the fields are those of `loupe train`.

    Returns:
        A `loupe.steps.train.Training` with the attributes run_id, network, seconds, validation_mae and summary.
    """
    return _run("train", fields)


def evaluate(**fields: Any) -> Any:
    """Score models and baselines; the fields are those of `loupe evaluate`.

    Returns:
        A dict: the content of the file that `loupe evaluate --out scores.json` writes.
    """
    return _run("evaluate", fields)


def register(**fields: Any) -> Any:
    """Register the model of a run; the fields are those of `loupe register`.

    Returns:
        A `loupe.steps.register.Registration` with the attributes name, version, is_champion and reason.
    """
    return _run("register", fields)


def sweep(**fields: Any) -> Any:
    """Search hyperparameters with a sweep file; the fields are those of `loupe sweep`.

    Returns:
        The id of the best trial's run as str; None if no trial has a value.
    """
    return _run("sweep", fields)


def _run(step: str, fields: dict[str, Any]) -> Any:
    import_module("loupe.cli.main").set_environment()
    settings = import_module("loupe.config").parse_settings(step, fields)
    return import_module(f"loupe.steps.{step}").run(settings)
