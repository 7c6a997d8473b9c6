"""Fixtures of data tests: a Dask cluster of one process, and settings for small photos."""

import pytest

from loupe.config import parse_settings


@pytest.fixture(scope="session")
def scheduler():
    """Address of a Dask cluster of one process, which all tests of preparing may share."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def preprocess(tmp_path, scheduler):
    """Settings for small photos; `data_dir` is a folder of the test, the cluster is the shared one."""

    def settings(**given):
        defaults = {"data_dir": str(tmp_path / "data"), "scheduler": scheduler, "label_size": "30", "quiet": "true"}
        return parse_settings("preprocess", defaults | given)

    return settings
