"""Loupe upscales photos with neural networks, and trains, compares and registers these networks.

Each function of this module runs one step: `loupe.train(network="perceptron", steps=2000)`. The arguments are the
fields that `loupe STEP --help` lists, as Python objects or texts. A wrong name or value raises
`loupe.errors.UsageError`. Each function opens an MLflow run. If a run is already open, the new run is its child.
"""

import os
from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# Turn telemetry off, but keep values that the user has set. This must happen before onnxruntime is imported.
for _name, _value in {"ORT_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> Any:
    """Import `Upscaler` on first use, so that `import loupe` is fast."""
    if name == "Upscaler":
        return import_module("loupe.tracking.upscaler").Upscaler
    raise AttributeError(f"module 'loupe' has no attribute {name!r}")


# The functions return Any, because this module imports the types of their results only when a step runs.


def preprocess(**fields: Any) -> Any:
    """Prepare or open a dataset, as `loupe preprocess`.

    Returns:
        A `loupe.data.dataset.Dataset`. Its attribute `location` is a valid value of the field `dataset`.
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
        A dict with the content of the file that `loupe evaluate --out scores.json` writes. An undefined score,
        such as the SSIM of images below 11x11 pixels, is NaN in the dict and null in the file.
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
        The id of the best trial's run, or of a new run if the network of that run was deleted and is trained again.
        None if no complete trial satisfies the constraints of the sweep file.
    """
    return _run("sweep", fields)


def _run(step: str, fields: dict[str, Any]) -> Any:
    import_module("loupe.cli.main").set_environment()
    settings = import_module("loupe.config").parse_settings(step, fields)
    return import_module(f"loupe.steps.{step}").run(settings)
