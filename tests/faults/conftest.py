"""A small dataset for the tests of faults."""

import pytest
from jobs import loupe


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """The folder of a prepared dataset; tests must not change it."""
    folder = tmp_path_factory.mktemp("prepared")
    loupe("preprocess", "--smoke", "--quiet", cwd=folder)
    return next((folder / "data").iterdir())
