"""What tests of the report share: a made-up table of two real sweep files, as it is read from its file."""

import pytest
from made_up import FILES, report_of, table_of

from loupe.report import results
from loupe.report.contents import Picture


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """Every run of both, with its numbers as Parquet holds them."""
    path = tmp_path_factory.mktemp("table") / "results.parquet"
    results.write(table_of(FILES), path)
    return results.read(path)


@pytest.fixture(scope="session")
def report(table):
    """The report on them, with a image of the story."""
    return report_of(table, FILES, story=Picture("story", b"\x89PNG", "Crops & text"))
