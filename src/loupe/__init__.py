"""Loupe turns small photos into large ones with networks that it trains, compares and registers."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`from loupe import Upscaler` without work at `import loupe`."""
    if name == "Upscaler":
        from importlib import import_module

        return import_module("loupe.tracking.upscaler").Upscaler
    raise AttributeError(f"module 'loupe' has no attribute {name!r}")
