"""The functions `loupe.train` and others; tests/steps/test_notebooks.py runs them."""

import pytest

import loupe
from loupe.errors import UsageError


def test_public_functions_are_steps_and_refuse_wrong_fields() -> None:
    for name in ("preprocess", "train", "evaluate", "register", "sweep"):
        with pytest.raises(UsageError, match=f"sharpness: is not a field of {name}"):
            getattr(loupe, name)(sharpness=1)
    with pytest.raises(AttributeError, match="has no attribute 'sharpen'"):
        loupe.sharpen  # noqa: B018
