"""Uploads the records of runs that another process buffered while the tracking server was unreachable."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from loupe.cli.progress import print_error, print_line
from loupe.errors import LoupeError, describe_error, mask_secrets
from loupe.tracking import liveness
from loupe.tracking.buffer import SUFFIX, RunBuffer, lock_buffer
from loupe.tracking.delivery import SERVER_ERRORS, upload_records
from loupe.tracking.record_handlers import RECORD_HANDLERS
from loupe.tracking.server import describe_unreachable_server, is_reachable, is_unreachable_error
from loupe.tracking.store import create_store

# The types of the values that `delivery.start_buffering` writes, by name
DESCRIPTION_TYPES = {
    "run_id": str, "experiment": str, "name": str, "start_time": int, "tags": dict, "params": dict
}  # fmt: skip


def upload_buffered_runs(folder: Path, quiet: bool) -> tuple[int, int]:
    """Upload the buffered runs of ended processes, and delete their files.

    A run that the server does not have is created. The file of a run that was deleted on the server is removed and
    reported. A file that is damaged or cannot be read, or has a record that the server rejects, is kept and reported
    as an error.

    Returns:
        The number of uploaded runs, and the number of files with errors.

    Raises:
        LoupeError: the server is unreachable.
        MlflowException, requests.RequestException: the server became unreachable during the upload.
    """
    uploaded = failed = 0
    files = sorted(folder.glob(f"*{SUFFIX}"))
    for file in files:
        try:
            with lock_buffer(file, wait=False) as is_locked:
                uploaded += is_locked and _upload_buffered_run(file, quiet)
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # a damaged record
            print_error(f"tracking: {file} is not uploaded and stays as it is: {describe_error(error)}")
            failed += 1
        except (*SERVER_ERRORS, OSError) as error:
            if is_unreachable_error(error):
                raise
            if isinstance(error, SERVER_ERRORS) or file.exists():  # a missing file was uploaded by another process
                print_error(f"tracking: {file} is not uploaded completely: {describe_error(error)}")
                failed += 1
    if files:
        with suppress(OSError):  # the folder is not empty
            folder.rmdir()
    return uploaded, failed


def _upload_buffered_run(file: Path, quiet: bool) -> bool:
    """Upload a run, delete its file, and return True.

    If the run is still open in a live process, or was deleted on the server, return False.
    """
    buffer = RunBuffer(file)
    description, unsent = buffer.description, buffer.list_unsent()
    for name, kind in DESCRIPTION_TYPES.items():
        if not isinstance(description.get(name), kind):
            raise ValueError(f"{name}: must be {kind.__name__}, got {description.get(name)!r}")
    unknown = {record.kind for record in unsent} - RECORD_HANDLERS.keys()
    if unknown:
        raise ValueError(f"kind: must be one of {', '.join(RECORD_HANDLERS)}, got {min(unknown)!r}")
    if not is_reachable():
        raise LoupeError(f"{describe_unreachable_server()}; the runs in {file.parent} are not uploaded")
    has_ended = any(record.kind == "end" for record in unsent)
    run = _find_run(description["run_id"])
    # A network file system may not show the lock of another machine. Therefore the heartbeat is also checked.
    if run is not None and not has_ended and liveness.is_alive(run.data.tags):
        return False
    if run is not None and run.info.lifecycle_stage == LifecycleStage.DELETED:  # MLflow rejects all its records
        buffer.remove()
        run_text = f"run {run.info.run_id} ({description['name']})"
        print_line(f"tracking: {run_text} was deleted on the server; {file} is removed", quiet)
        return False
    run_id = str(run.info.run_id) if run else _create_run(buffer)
    upload_records(buffer)
    liveness.mark_killed(run_id)  # has no effect if a record has ended the run
    buffer.remove()
    if unsent:
        uri = mask_secrets(mlflow.get_tracking_uri())
        print_line(f"run {run_id} ({description['name']}): uploaded {len(unsent)} records to {uri}", quiet)
    return True


def _find_run(run_id: str) -> Any:
    """Return a run; None if the server does not have the run."""
    create_store()
    try:
        return mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    return None


def _create_run(buffer: RunBuffer) -> str:
    """Create the run of a buffer on the server, and return its id."""
    description, client = buffer.description, mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(description["experiment"])
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(description["experiment"])
    run = client.create_run(experiment_id, description["start_time"], description["tags"], description["name"])
    run_id = str(run.info.run_id)
    RECORD_HANDLERS["params"](run_id, description["params"], None)
    buffer.mark_sent(0)  # the new run has no records yet, so all are unsent
    buffer.describe(description | {"run_id": run_id})
    return run_id
