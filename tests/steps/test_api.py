"""The functions `loupe.train` and others; tests/steps/test_notebooks.py runs them."""

import pytest

import loupe
from loupe.config import STEPS
from loupe.errors import UsageError


def test_public_functions_are_steps_and_refuse_wrong_fields() -> None:
    for name in ("prepare", "train", "evaluate", "register", "sweep"):
        function = getattr(loupe, name)
        with pytest.raises(
            UsageError, match=rf"sharpness: is not a field of {name if name in STEPS else 'preprocess'}"
        ):
            function(sharpness=1)
    with pytest.raises(AttributeError, match="has no attribute 'sharpen'"):
        loupe.sharpen  # noqa: B018
