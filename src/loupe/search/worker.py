"""A worker process of a sweep: claims waiting trials and trains their networks, with one import of TensorFlow.

The command is `python -m loupe.search.worker PARENT_PID`, with the job as JSON on standard input. After each trial,
the worker prints the number of its trials.
"""

import _thread
import json
import os
import socket
import sys
import threading
import time

SHUTDOWN_TIMEOUT_S = 10.0  # after its parent has ended, an interrupted worker exits within this time
IDLE_TIMEOUT_S = 1.5  # a worker exits after this time without a waiting or running trial
POLL_INTERVAL_S = 0.3


def main(parent_pid: int) -> None:
    """Run trials until `max_trials` or `timeout` of the job is reached, no trial is open, or the sweep has ended.

    An open trial waits or runs.

    Raises:
        UsageError: this machine cannot read the journal file of the study.
    """
    from loupe.errors import UsageError
    from loupe.search.study import SweepStudy
    from loupe.search.study_storage import RETRY_TIMEOUT_S, open_storage, retry_database
    from loupe.search.sweep_file import SweepFile
    from loupe.search.worker_job import WorkerJob
    from loupe.tracking import liveness, store

    watcher = ParentWatcher(parent_pid)
    job = WorkerJob(**json.load(sys.stdin))
    deadline = time.monotonic() + job.timeout
    if "://" not in job.storage and not os.path.exists(job.storage):
        raise UsageError(f"storage: must be a database URL: {socket.gethostname()} cannot read {job.storage!r}")
    from loupe.search.trial import open_dataset, run_trial  # this import takes seconds, so the check precedes it

    sweep = SweepFile.model_validate(job.sweep)
    store.connect(job.tracking_uri, job.experiment_id)
    storage = open_storage(job.storage, RETRY_TIMEOUT_S)
    study = retry_database(lambda: SweepStudy(sweep, storage, job.digest, job.parent))
    # Opening the dataset can take minutes, so it precedes the first claim: heartbeats must start soon after a claim.
    open_dataset(job)
    trial_count, last_active = 0, time.monotonic()
    while trial_count < job.max_trials and time.monotonic() < deadline and liveness.is_running(job.parent):
        trial = retry_database(lambda: study.claim_trial(liveness.make_process_tags()))
        if trial is not None:
            run_trial(trial, study, job)
            trial_count += 1
            print(trial_count, flush=True)  # after each trial, for the case that this process crashes later
        if trial is not None or retry_database(study.count_open):
            last_active = time.monotonic()
        elif time.monotonic() - last_active > IDLE_TIMEOUT_S:
            break
        if trial is None:
            time.sleep(POLL_INTERVAL_S)
    watcher.stop()


class ParentWatcher:
    """A thread that ends this process when the parent process has ended."""

    def __init__(self, parent_pid: int) -> None:
        self._parent_pid = parent_pid
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(1.0):
            if os.getppid() != self._parent_pid:
                _thread.interrupt_main()
                if not self._stopped.wait(SHUTDOWN_TIMEOUT_S):
                    os._exit(130)


if __name__ == "__main__":
    from loupe.cli.startup import prepare_process

    prepare_process()
    try:
        main(int(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
