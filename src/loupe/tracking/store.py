"""Checks and locates the store of the tracking URI, searches its runs, and chooses the experiment.

An SQLite file is created completely or not at all.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import mlflow
import requests
import sqlalchemy
from mlflow.environment_variables import MLFLOW_ALLOW_FILE_STORE
from mlflow.exceptions import MlflowException
from mlflow.utils.uri import is_local_uri

from loupe.errors import LoupeError, UsageError, describe_error, mask_secrets
from loupe.imaging.atomic import publish
from loupe.imaging.file_locks import lock_file
from loupe.tracking.deadline import call_within
from loupe.tracking.locations import get_sqlite_file, make_artifact_location, make_sqlite_uri

# Schemes of tracking URIs
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https")
CHECK_TIMEOUT_S = 20.0
MISSING_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow: missing object or malformed id


def create_store() -> None:
    """Check the store; create a missing or empty SQLite file.

    If MLflow's migrations of a file are interrupted, or run in two processes at a time, the file is unusable.
    Therefore one process creates the file under a temporary name, and renames the complete file.

    Raises:
        UsageError or LoupeError: see `check_store`.
    """
    check_store(writes=False)
    uri = mlflow.get_tracking_uri()
    file = get_sqlite_file(uri)
    if file is None:
        return
    if "?" not in uri and uri != make_sqlite_uri(file):
        # MLflow would use a wrong folder for some unencoded paths; see `make_sqlite_uri`.
        mlflow.set_tracking_uri(make_sqlite_uri(file))
    if _is_complete(file):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(file.with_name(f"{file.name}.lock")):
        if not _is_complete(file):
            _create(file)


def check_store(seconds: float = CHECK_TIMEOUT_S, writes: bool = True) -> None:
    """Check the store before MLflow uses it, because MLflow's retries take minutes.

    For a server, only the URL is checked. An SQLite file that is missing or empty is valid.

    Args:
        seconds: maximum wait for a database.
        writes: whether the caller writes to the store.

    Raises:
        UsageError: the URI is malformed, or needs a missing package.
        LoupeError: the database does not answer, is locked or damaged, is not a file, or, if `writes`, is read-only.
    """
    uri = mlflow.get_tracking_uri()
    scheme = uri.partition(":")[0]
    masked_uri = mask_secrets(uri)
    try:
        if scheme in SERVERS:
            requests.Request("GET", uri).prepare()
            return
        if is_local_uri(uri) and not MLFLOW_ALLOW_FILE_STORE.get():
            reason = "MLflow prefers an existing folder mlruns to mlflow.db, but no longer writes to it"
            raise UsageError(
                "MLFLOW_TRACKING_URI: must be a database, such as sqlite:///mlflow.db, or a server, got "
                f"{masked_uri!r}; {reason}"
            )
        if scheme.partition("+")[0] not in DATABASES:
            return  # other schemes are not checked
        url = sqlalchemy.make_url(uri)
        url.get_dialect().import_dbapi()
    except (ValueError, requests.RequestException, sqlalchemy.exc.ArgumentError) as error:
        raise UsageError(
            f"MLFLOW_TRACKING_URI: must be a valid URL, got {masked_uri!r}: {describe_error(error, uri)}"
        ) from None
    except ImportError as error:
        raise UsageError(
            f"MLFLOW_TRACKING_URI: {masked_uri!r} needs another package: {describe_error(error, uri)}"
        ) from None
    file = get_sqlite_file(uri)
    try:
        if file is not None:
            _check_file(file, seconds, writes)
        elif scheme.partition("+")[0] != "sqlite":
            engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
            call_within(seconds, lambda: engine.connect().close())
    except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, TimeoutError, ValueError) as error:
        raise LoupeError(describe_failure(error)) from None


def search_runs(
    condition: str, limit: int = 100_000, order_by: list[str] | None = None, experiment: str | None = None
) -> list[Any]:
    """Return up to `limit` runs that match an MLflow filter string; without `order_by`, newest first.

    `experiment` is the id of an experiment; None searches all experiments.
    """
    return list(
        mlflow.search_runs(
            experiment_ids=[experiment] if experiment else None,
            filter_string=condition,
            max_results=limit,
            order_by=order_by,
            search_all_experiments=experiment is None,
            output_format="list",
        )
    )


def describe_failure(error: BaseException) -> str:
    """Describe an error of the store in one line."""
    if isinstance(error, LoupeError):
        return str(error)
    uri = mlflow.get_tracking_uri()
    return f"tracking: {mask_secrets(uri)} cannot be used: {describe_error(error, uri)}"


def is_file() -> bool:
    """Return whether the store is an SQLite file."""
    return get_sqlite_file(mlflow.get_tracking_uri()) is not None


def connect(tracking_uri: str, experiment_id: str) -> None:
    """Use the store and experiment that another process got from `locate_run`."""
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(experiment_id=experiment_id)


def locate_run(run_id: str) -> tuple[str, str]:
    """Return the absolute URI of the store, and the id of the run's experiment."""
    uri = mlflow.get_tracking_uri()
    file = get_sqlite_file(uri)
    absolute = make_sqlite_uri(file.resolve()) if file else uri
    return absolute, str(mlflow.get_run(run_id).info.experiment_id)


def get_store_folder() -> Path:
    """Return the folder of an SQLite store; the current folder for other stores."""
    file = get_sqlite_file(mlflow.get_tracking_uri())
    return file.resolve().parent if file else Path.cwd()


def _check_file(file: Path, seconds: float, writes: bool) -> None:
    if file.exists() and not file.is_file():
        raise LoupeError(f"tracking: the store must be a file, got {str(file)!r}")
    if not _is_complete(file):
        return
    if writes and not all(os.access(path, os.W_OK) for path in (file, file.absolute().parent)):
        # While SQLite writes, it creates further files in the folder.
        raise LoupeError(f"tracking: the store and its folder must be writable, got {str(file)!r}")
    location = f"file:{quote(str(file.absolute()))}?mode=rw"
    with closing(sqlite3.connect(location, seconds, uri=True)) as database:
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if writes:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()


def set_experiment(name: str) -> None:
    """Choose the experiment of the next runs, and create it if it is missing."""
    location, client = make_artifact_location(), mlflow.MlflowClient()
    # MLflow decodes the default location of artifacts wrongly; see `make_artifact_location`.
    if get_sqlite_file(mlflow.get_tracking_uri()) and location.startswith("file:"):
        with suppress(MlflowException):  # the experiment exists
            client.create_experiment(name, location)
    mlflow.set_experiment(name)


def _is_complete(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _create(file: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    prefix = f"{file.name}.part-"
    for path in file.parent.iterdir():
        if path.name.startswith(prefix):  # left by a killed process
            shutil.rmtree(path)
    with TemporaryDirectory(prefix=prefix, dir=file.parent) as folder, _without_flushes():
        part = file.parent / Path(folder).name / file.name
        SqlAlchemyStore(make_sqlite_uri(part), make_artifact_location())
        publish(part, file)


@contextmanager
def _without_flushes() -> Iterator[None]:
    """Until the block exits, do not flush SQLite files after each change: `publish` flushes the complete file once.

    The creation of a file then takes 0.8 s instead of 2.4 s.
    """

    def configure(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", configure)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", configure)
