"""Reads the clock of the store, because the clocks of machines can differ by minutes."""

import os
import tempfile
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime

import mlflow
import requests
import sqlalchemy
from mlflow.store.db.utils import get_current_time_millis_expression

from loupe.tracking import server, store
from loupe.tracking.locations import get_sqlite_file

MAX_AGE_S = 60.0  # after this time, the store's clock is read again
# The last reading per tracking URI: `time.monotonic()` and the store's time
_READINGS: dict[str, tuple[float, float]] = {}


def read_clock() -> float:
    """Return the time of the store (server, database or file system), in seconds since 1970.

    If the store does not report its time, return the time of this machine.

    Raises:
        requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError: the store does not answer.
    """
    uri, now = mlflow.get_tracking_uri(), time.monotonic()
    read_at, store_time = _READINGS.get(uri, (-MAX_AGE_S, 0.0))
    if now - read_at >= MAX_AGE_S:
        read_at, store_time = now, _read(uri)
        _READINGS[uri] = read_at, store_time
    return store_time + now - read_at


def _read(uri: str) -> float:
    if server.is_server():
        with suppress(requests.exceptions.SSLError):
            if date := server.send_probe().headers.get("Date"):
                return parsedate_to_datetime(date).timestamp()
        return time.time()  # no date in the answer, or a certificate that `requests` refuses
    file = get_sqlite_file(uri)
    if file is not None:
        with tempfile.TemporaryFile(dir=file.parent) as new_file:
            return os.fstat(new_file.fileno()).st_mtime
    if uri.startswith(store.DATABASES):
        with sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool).connect() as connection:
            expression = get_current_time_millis_expression(connection.dialect.name)
            return float(str(connection.scalar(sqlalchemy.select(expression)))) / 1000
    return time.time()
