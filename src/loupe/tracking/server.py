"""Checks whether the tracking server is reachable, and repeats requests."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import mlflow
import requests
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException

from loupe.cli.progress import print_line
from loupe.errors import LoupeError, UsageError, mask_secrets, was_raised_by_store
from loupe.tracking.deadline import call_within

Result = TypeVar("Result")
PROBE_TIMEOUT_S = 5.0
RETRY_INTERVAL_S = 1.0
STARTUP_TIMEOUT_S = 10.0  # a starting step waits at most this time for the server


def is_server() -> bool:
    """Return whether the store is a server."""
    return mlflow.get_tracking_uri().startswith(("http://", "https://"))


def require_server() -> None:
    """Raise UsageError if the store is not a server."""
    if not is_server():
        uri = mask_secrets(mlflow.get_tracking_uri())
        raise UsageError(f"MLFLOW_TRACKING_URI: must be the URL of the tracking server, got {uri!r}")


def send_probe() -> requests.Response:
    """Send a request to the server; raise requests.RequestException if no answer arrives in PROBE_TIMEOUT_S."""
    url = f"{mlflow.get_tracking_uri().rstrip('/')}/health"
    try:
        return call_within(PROBE_TIMEOUT_S, lambda: requests.get(url, timeout=PROBE_TIMEOUT_S))
    except TimeoutError as error:
        raise requests.Timeout(error) from None


def is_reachable() -> bool:
    """Return whether the server answers now with a status below 500, or the store is not a server."""
    if not is_server():
        return True
    try:
        return send_probe().status_code < 500
    except requests.exceptions.SSLError:
        return True  # the server answered, and MLflow has its own settings for certificates
    except requests.RequestException:
        return False


def is_unreachable_error(error: BaseException) -> bool:
    """Return whether an error of MLflow means that the server is unreachable or fails."""
    if isinstance(error, MlflowException):
        return bool(error.get_http_status_code() >= 500)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return bool(error.response.status_code >= 500)
    return isinstance(error, requests.RequestException)


def is_wrong_answer(error: BaseException) -> bool:
    """Return whether an error means that the server answered, but not as an MLflow server does."""
    if isinstance(error, MlflowException):  # only the message shows that the answer was not a JSON object
        return "successful but the response body was not" in str(error)
    return is_server() and not isinstance(error, OSError) and was_raised_by_store(error)


def describe_unreachable_server() -> str:
    """Return a message about an unreachable server. Other messages can start with it."""
    return f"tracking: {mask_secrets(mlflow.get_tracking_uri())} is unreachable"


def check_reachable(seconds: float = 0) -> None:
    """Wait up to `seconds` until the server is reachable; raise LoupeError if it stays unreachable."""
    deadline = time.monotonic() + seconds
    while not is_reachable():
        if time.monotonic() >= deadline:
            raise LoupeError(describe_unreachable_server())
        time.sleep(RETRY_INTERVAL_S)


def retry_while_unreachable(function: Callable[[], Result], seconds: float, quiet: bool) -> Result:
    """Call an idempotent function, and repeat the call while the server is unreachable, for up to `seconds`.

    After a wrong answer of the server (see `is_wrong_answer`), repeat the call for at most PROBE_TIMEOUT_S. After the
    time limit, raise the error of the last call.
    """
    start, printed = time.monotonic(), False
    while True:
        try:
            return function()
        except (MlflowException, requests.RequestException) as error:
            limit = min(PROBE_TIMEOUT_S, seconds) if is_wrong_answer(error) else seconds
            if not is_server() or not is_unreachable_error(error) or time.monotonic() - start > limit:
                raise
        if not printed:
            print_line(f"{describe_unreachable_server()}; waiting", quiet)
        printed = True
        time.sleep(RETRY_INTERVAL_S)


@contextmanager
def limit_requests(seconds: float | None = None) -> Iterator[None]:
    """Disable MLflow's retries, and limit the wait for an answer to `seconds`, unless the user's limit is smaller.

    None keeps the user's limit. The limits are environment variables, whose previous values are restored when the
    block exits.
    """
    limits = {MLFLOW_HTTP_REQUEST_MAX_RETRIES: 0, MLFLOW_HTTP_REQUEST_TIMEOUT: seconds}
    previous = {variable: variable.get_raw() for variable in limits}
    for variable, limit in limits.items():
        if limit is not None:
            variable.set(min(math.ceil(limit), variable.get()))
    try:
        yield
    finally:
        for variable, text in previous.items():
            os.environ.pop(variable.name, None) if text is None else os.environ.update({variable.name: text})
