"""Finds files of the checkout that are not part of the package, such as the sweep files."""

from pathlib import Path

import loupe


def find_in_checkout(path: str) -> Path:
    """Return a path. If nothing exists there, return the same path in the checkout of the running code, if it exists.

    Args:
        path: such as `sweeps/smoke.toml`, relative to the current folder or to the checkout.
    """
    in_checkout = Path(loupe.__file__).parents[2] / path
    return in_checkout if not Path(path).exists() and in_checkout.exists() else Path(path)
