"""Hashes the code that determines trained weights, so that a sweep reuses only results of equal code."""

import ast
import hashlib
from functools import cache
from pathlib import Path

import loupe
from loupe.config.fields import get_block_sides
from loupe.config.training import TRAINED_SCALES

# Files and folders of Loupe whose code affects trained weights, in addition to the results of `get_block_sides`
TRAINING_CODE = (
    "config/optimizers.py",
    "data/array_files.py",
    "data/dataset.py",
    "data/manifest.py",
    "data/pairs.py",
    "data/patches.py",
    "evaluation/metrics.py",
    "imaging/conversion.py",
    "imaging/jpeg_quality.py",
    "models",
    "training",
    "upscalers/baselines.py",
    "upscalers/geometry.py",
    "upscalers/ridge.py",
    "upscalers/tiling.py",
)


@cache
def hash_training_code(package: Path = Path(loupe.__file__).parent) -> str:
    """Return a hash of the training code without comments and docstrings."""
    # Most changes of config/fields.py do not affect weights. Therefore the results of its function `get_block_sides`
    # are hashed instead of its code.
    code = hashlib.sha256(repr([get_block_sides(scale) for scale in TRAINED_SCALES]).encode())
    for name in TRAINING_CODE:
        path = package / name
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            code.update(strip_prose(file.read_text(encoding="utf-8")).encode())
    return code.hexdigest()[:12]


def strip_prose(source: str) -> str:
    """Return Python source without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
