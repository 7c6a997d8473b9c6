"""Creates MLflow's SQLite store, either completely or not at all."""

import fcntl
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow.exceptions import MlflowException

from loupe.imaging.atomic import publish
from loupe.tracking.locations import get_sqlite_file, make_artifact_location, make_sqlite_uri


def create_store() -> None:
    """Create the SQLite file that the tracking URI names, if it is missing or empty; else do nothing.

    MLflow migrates a new file in dozens of transactions. If a process is killed during these, or two processes
    migrate at the same time, no later process can use the file. Therefore only one process at a time creates the
    file. The file has a temporary name until the last migration is done.
    """
    uri = mlflow.get_tracking_uri()
    file = get_sqlite_file(uri)
    if file is None:
        return
    if "?" not in uri and uri != make_sqlite_uri(file):
        mlflow.set_tracking_uri(make_sqlite_uri(file))  # MLflow's own URI of the default file creates a folder
    if _is_complete(file):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_name(f"{file.name}.lock")
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # the system releases the lock of a killed process
        if not _is_complete(file):
            _create(file)
        lock.unlink(missing_ok=True)  # a process that creates a new lock file later finds the complete store


def set_experiment(name: str) -> None:
    """Choose the experiment of the next runs, and create it if it is missing."""
    location, client = _make_artifact_location(), mlflow.MlflowClient()
    if get_sqlite_file(mlflow.get_tracking_uri()) and location.startswith("file:"):
        with suppress(MlflowException):  # the experiment exists
            client.create_experiment(name, location)
    mlflow.set_experiment(name)


def _make_artifact_location() -> str:
    return make_artifact_location(Path.cwd() / "mlruns")


def _is_complete(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _create(file: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    prefix = f"{file.name}.part-"
    for old in file.parent.iterdir():
        if old.name.startswith(prefix):  # left by a killed process, since only this process has the lock
            shutil.rmtree(old)
    with TemporaryDirectory(prefix=prefix, dir=file.parent) as folder:
        part = file.parent / Path(folder).name / file.name
        SqlAlchemyStore(make_sqlite_uri(part), _make_artifact_location())  # creates the file
        publish(part, file)
