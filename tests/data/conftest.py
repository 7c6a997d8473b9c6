"""Fixtures of the data tests: a Dask cluster of one process, a web server, and settings for small photos."""

import threading
from http.server import ThreadingHTTPServer

import pytest

from loupe.config import parse_settings
from loupe.data import tasks
from loupe.imaging.threads import count_cores


@pytest.fixture(scope="session")
def scheduler():
    """The address of a Dask cluster that tests share; local processes would be started for each call."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def serve():
    """Starts a web server of this machine with a request handler, and returns its URL."""
    started = []

    def start(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def preprocess(tmp_path, monkeypatch):
    """Makes settings for small photos; `data_dir` is a folder of the test.

    Tasks run in this process, unless a test names a scheduler; "none" names the processes of this machine.
    """
    monkeypatch.setattr(tasks, "count_cores", lambda: 1)

    def settings(**given):
        if "scheduler" in given:
            monkeypatch.setattr(tasks, "count_cores", count_cores)
        defaults = {"data_dir": str(tmp_path / "data"), "label_size": "30", "quiet": "true"}
        return parse_settings("preprocess", defaults | given)

    return settings
