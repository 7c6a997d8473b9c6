"""Finds files that are in the git checkout of Loupe, but not in the package, such as the sweep files."""

import os
from pathlib import Path

import loupe


def find_in_checkout(path: str) -> Path:
    """Return an existing path relative to the current folder, or else relative to the checkout of the running code.

    If neither path exists, return the path relative to the current folder. An absolute path is returned unchanged.
    """
    in_checkout = Path(loupe.__file__).parents[2] / path
    return in_checkout if not os.path.exists(path) and os.path.exists(in_checkout) else Path(path)
