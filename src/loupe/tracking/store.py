"""Creates MLflow's SQLite store, either completely or not at all."""

import fcntl
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import sqlalchemy

from loupe.imaging.atomic import publish


def create_store() -> None:
    """Create the SQLite file that the tracking URI names, if it is missing or empty; else do nothing.

    MLflow migrates a new file in dozens of transactions. If a process is killed during these, or two processes
    migrate at the same time, no later process can use the file. Therefore only one process at a time creates the
    file. The file has a temporary name until the last migration is done.
    """
    uri = mlflow.get_tracking_uri()
    database = sqlalchemy.make_url(uri).database if uri.startswith("sqlite") else None
    if not database or database.startswith((":memory:", "file:")):
        return
    file = Path(database)
    if _is_complete(file):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_name(f"{file.name}.lock")
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # the system releases the lock of a killed process
        if not _is_complete(file):
            _create(file)
        lock.unlink(missing_ok=True)  # a process that creates a new lock file later finds the complete store


def _is_complete(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _create(file: Path) -> None:
    prefix = f"{file.name}.part-"
    for old in file.parent.iterdir():
        if old.name.startswith(prefix):  # left by a killed process, since only this process has the lock
            shutil.rmtree(old)
    with TemporaryDirectory(prefix=prefix, dir=file.parent) as folder:
        part = file.parent / Path(folder).name / file.name
        escaped = str(part).replace("%", "%25")  # SQLAlchemy decodes URLs
        mlflow.MlflowClient(f"sqlite:///{escaped}").search_experiments()  # creates the file
        publish(part, file)
