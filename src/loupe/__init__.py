"""Loupe turns small photos into large ones with networks that it trains, compares and registers."""

import os
from typing import Any

__version__ = "0.2.0"

# The one place that runs before onnxruntime and MLflow are imported in every process: steps, sweep and Dask workers,
# notebooks, served models. onnxruntime reads its switch once, when it is imported; a value of the user's is kept.
for _name, _value in {"ORT_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> Any:
    """`from loupe import Upscaler` without work at `import loupe`."""
    if name == "Upscaler":
        from importlib import import_module

        return import_module("loupe.tracking.upscaler").Upscaler
    raise AttributeError(f"module 'loupe' has no attribute {name!r}")
