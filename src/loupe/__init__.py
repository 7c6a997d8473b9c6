"""Loupe upscales photos with neural networks, and trains, compares and registers these networks."""

import os
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
        from importlib import import_module

        return import_module("loupe.tracking.upscaler").Upscaler
    raise AttributeError(f"module 'loupe' has no attribute {name!r}")
