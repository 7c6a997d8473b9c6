"""The tracking server: whether it is reachable, and how long a request is repeated until it is."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import mlflow
import requests
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.exceptions import MlflowException

from loupe.cli.progress import print_line
from loupe.errors import LoupeError

T = TypeVar("T")
PROBE_TIMEOUT_S = 5.0  # in which a server must answer a probe
RETRY_INTERVAL_S = 1.0
STARTUP_TIMEOUT_S = 10.0  # that a step waits for an unreachable server when it starts


def is_server() -> bool:
    """Whether the store is a server, which can be unreachable, and not a database or file."""
    return mlflow.get_tracking_uri().startswith(("http://", "https://"))


def is_reachable() -> bool:
    """Whether the server answers now; always True for a store that is not a server."""
    if not is_server():
        return True
    try:
        url = f"{mlflow.get_tracking_uri().rstrip('/')}/health"
        return requests.get(url, timeout=PROBE_TIMEOUT_S).status_code < 500
    except requests.exceptions.SSLError:
        return True  # MLflow has its own settings for certificates
    except requests.RequestException:
        return False


def is_unreachable_error(error: BaseException) -> bool:
    """Whether an error of MLflow means that the server is unreachable or cannot work now."""
    if isinstance(error, MlflowException):
        return bool(error.get_http_status_code() >= 500)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return bool(error.response.status_code >= 500)
    return isinstance(error, requests.RequestException)


def unreachable_text() -> str:
    """Return the start of all messages about an unreachable server."""
    return f"tracking: {mlflow.get_tracking_uri()} is unreachable"


def wait_until_reachable() -> None:
    """Wait for the server up to STARTUP_TIMEOUT_S; raises LoupeError if it stays unreachable."""
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while not is_reachable():
        if time.monotonic() > deadline:
            raise LoupeError(unreachable_text())
        time.sleep(RETRY_INTERVAL_S)


def retry_while_unreachable(function: Callable[[], T], seconds: float, quiet: bool) -> T:
    """Call a function, and again while the server is unreachable, for at most `seconds`.

    Args:
        function: it must be idempotent.
        seconds: after which the error is raised.
        quiet: do not print that the server is unreachable.
    """
    deadline, printed = time.monotonic() + seconds, False
    while True:
        try:
            return function()
        except (MlflowException, requests.RequestException) as error:
            if not is_server() or not is_unreachable_error(error) or time.monotonic() > deadline:
                raise
        if not printed:
            print_line(f"{unreachable_text()}; waiting", quiet)
        printed = True
        time.sleep(RETRY_INTERVAL_S)


@contextmanager
def limit_retries(count: int) -> Iterator[None]:
    """Let MLflow repeat a failed request at most `count` times: by default it repeats for minutes.

    A value that the user set in the environment is kept if it is smaller.
    """
    name, before = MLFLOW_HTTP_REQUEST_MAX_RETRIES.name, MLFLOW_HTTP_REQUEST_MAX_RETRIES.get_raw()
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(min(count, MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()))
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
