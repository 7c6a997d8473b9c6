"""One small dataset for all faults that happen to what works on it."""

import pytest
from jobs import loupe


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """The folder of a prepared dataset, to be read only."""
    folder = tmp_path_factory.mktemp("prepared")
    loupe("preprocess", "--smoke", "true", "--quiet", cwd=folder)
    return next((folder / "data").iterdir())
