"""What a worker must know, and how its process is started: here, or on a Dask worker."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

STDERR_LINES = 40  # of a worker that died: enough for a traceback of Keras


@dataclass(frozen=True)
class Job:
    """What a worker must know."""

    sweep: dict[str, Any]  # the checked sweep file
    storage: str  # Optuna's
    tracking_uri: str
    experiment_id: str
    parent: str  # the sweep's run
    dataset: str  # where it is
    digest: str
    source: dict[str, Any]  # dataset, smoke, seed: what it is prepared from
    place: dict[str, Any]  # data_dir, threads
    trials: int  # that it runs at most
    deadline: float | None  # time after which none starts
    fresh: bool


def start(job: Job) -> int:
    """Run a worker process to its end, here or on a Dask worker; gives how many trials it ran.

    Raises:
        RuntimeError: it died. The first line of the text is a summary; the end of its standard error follows.
    """
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
    if job.place["threads"]:
        cores = str(job.place["threads"])
        environment |= {"TF_NUM_INTRAOP_THREADS": cores, "TF_NUM_INTEROP_THREADS": cores, "OMP_NUM_THREADS": cores}
    done = subprocess.run(
        [sys.executable, "-m", "loupe.search.worker", str(os.getpid())],
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()[-STDERR_LINES:] or ["it printed nothing"]
        summary = f"a worker died with status {done.returncode}: {lines[-1]}"
        raise RuntimeError("\n  ".join([summary, *lines]))
    return int(done.stdout.split()[-1])
