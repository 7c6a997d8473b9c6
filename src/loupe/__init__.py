"""Loupe upscales photos with neural networks, and trains, compares and registers these networks.

The functions of this module run the steps: `loupe.train(network="perceptron", steps=2000)`. Their arguments are the
fields that `loupe STEP --help` lists, as Python objects or texts. A wrong name or value raises
`loupe.errors.UsageError`. Each function opens an MLflow run, inside an open run as its child.
"""

import os
from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# Telemetry is off unless the user sets these variables. They must be set before onnxruntime is imported.
for _name, _value in {"ORT_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> Any:
    """Import `Upscaler` on first use, to import loupe fast."""
    if name == "Upscaler":
        return import_module("loupe.tracking.upscaler").Upscaler
    raise AttributeError(f"module 'loupe' has no attribute {name!r}")


# The results have the type Any: only the steps import their types.


def prepare(**fields: Any) -> Any:
    """Prepare or open a dataset, as `loupe preprocess`.

    Returns:
        A `loupe.data.dataset.Dataset`; `location` is a value of the field `dataset`.
    """
    return _run("preprocess", fields)


def train(**fields: Any) -> Any:
    """Train one network on a dataset, and score it, as `loupe train`.

    Returns:
        A `loupe.steps.train.Training` with the attributes run_id, network, seconds, validation_mae and summary.
    """
    return _run("train", fields)


def evaluate(**fields: Any) -> Any:
    """Score models and baselines, as `loupe evaluate`.

    Returns:
        The content of `loupe evaluate --out scores.json`, a dict.
    """
    return _run("evaluate", fields)


def register(**fields: Any) -> Any:
    """Register the model of a run, as `loupe register`.

    Returns:
        A `loupe.steps.register.Registration` with the attributes name, version, is_champion and reason.
    """
    return _run("register", fields)


def sweep(**fields: Any) -> Any:
    """Search hyperparameters, as `loupe sweep`.

    Returns:
        The id of the best trial's run, or None.
    """
    return _run("sweep", fields)


def _run(step: str, fields: dict[str, Any]) -> Any:
    import_module("loupe.cli.main").set_environment()
    settings = import_module("loupe.config").parse_settings(step, fields)
    return import_module(f"loupe.steps.{step}").run(settings)
