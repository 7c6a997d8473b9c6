"""Fixtures of the data tests: a Dask cluster of one process, and settings for small photos."""

import pytest

from loupe.config import parse_settings


@pytest.fixture(scope="session")
def scheduler():
    """The address of a Dask cluster that tests share; local processes would be started for each call."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def preprocess(tmp_path, scheduler):
    """Makes settings for small photos; `data_dir` is a folder of the test, the scheduler is the shared one."""

    def settings(**given):
        defaults = {"data_dir": str(tmp_path / "data"), "scheduler": scheduler, "label_size": "30", "quiet": "true"}
        return parse_settings("preprocess", defaults | given)

    return settings
