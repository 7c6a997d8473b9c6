"""A Dask scheduler that stops, or runs without Loupe, ends a step with one clear error."""

import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import services
from distributed import Client

from loupe.config import parse_settings
from loupe.data.preparation import prepare
from loupe.data.scheduler import connect
from loupe.errors import LoupeError, UsageError

pytestmark = pytest.mark.slow
# `dask scheduler` in an environment without Loupe.
WITHOUT_LOUPE = """
import sys
sys.modules["loupe"] = None
from distributed.cli.dask_scheduler import main
main()
"""


def settings(tmp_path, address):
    fields = {"data_dir": str(tmp_path / "data"), "scheduler": address, "limit": "4", "label_size": "30"}
    return parse_settings("preprocess", fields | {"quiet": "true"})


def wait_for_tasks(address, future):
    """Wait until the scheduler has tasks, while their client works."""
    with Client(address) as observer:
        until = time.monotonic() + 60
        while not observer.run_on_scheduler(lambda dask_scheduler: bool(dask_scheduler.tasks)):
            assert not future.done()
            assert time.monotonic() < until
            time.sleep(0.1)


def test_scheduler_failure_ends_preprocess(tmp_path):
    with ThreadPoolExecutor(1) as thread:
        with services.dask_scheduler(tmp_path / "scheduler") as address:  # without a worker, preprocess waits
            preparing = thread.submit(prepare, settings(tmp_path, address))
            wait_for_tasks(address, preparing)
        with pytest.raises(LoupeError, match=rf"scheduler: '{address}' no longer answers"):
            preparing.result(60)
    assert list((tmp_path / "data").iterdir()) == []


def test_scheduler_failure_ends_the_wait_for_trials(tmp_path):
    def wait_for_a_trial(address):
        with connect(address) as cluster:
            (done,) = wait([cluster.get_executor(pure=False).submit(sum, [1, 2])]).done
            return done.exception()

    with ThreadPoolExecutor(1) as thread:
        with services.dask_scheduler(tmp_path / "scheduler") as address:
            future = thread.submit(wait_for_a_trial, address)
            wait_for_tasks(address, future)
        with pytest.raises(LoupeError, match=rf"scheduler: '{address}' no longer answers"):
            future.result(60)


def test_scheduler_without_loupe_is_refused(tmp_path):
    with (
        services.dask_scheduler(tmp_path / "scheduler", program=("-c", WITHOUT_LOUPE)) as address,
        pytest.raises(UsageError, match=rf"scheduler: must have Loupe installed on .* got '{address}' without Loupe"),
    ):
        prepare(settings(tmp_path, address))
