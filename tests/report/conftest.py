"""Fixtures of the report's tests: a synthetic table of two real sweep files, and the report on it."""

import pytest
from made_up import FILES, make_report, make_table

from loupe.report import results
from loupe.report.contents import ReportImage


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """All runs of both sweep files, written to Parquet and read again."""
    path = tmp_path_factory.mktemp("table") / "results.parquet"
    results.write(make_table(FILES), path)
    return results.read(path)


@pytest.fixture(scope="session")
def report(table):
    """The report on the table, with an image of networks."""
    return make_report(table, FILES, ReportImage("story", b"\x89PNG", "Crops & text"))
