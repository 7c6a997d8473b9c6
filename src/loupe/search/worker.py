"""One worker of a sweep: takes waiting trials, trains each, and tells Optuna and MLflow how it went.

It is a process of its own (`python -m loupe.search.worker`, the process that it ends with as argument, its job as
JSON on standard input), so that TensorFlow starts once for many trials and its memory goes with the process.
"""

import json
import os
import socket
import sys
import threading
import time
import traceback

BEAT = 30.0  # seconds between heartbeats
MERCY = 10.0  # seconds in which an interrupted worker may end by itself
LINGER = 1.5  # seconds that a worker waits for more trials before it ends: starting costs more


def main(parent: int) -> None:
    """Take trials until none waits, the deadline is over, the sweep's run is closed, or process `parent` is gone."""
    from loupe.errors import UsageError
    from loupe.search import study, study_storage, trial
    from loupe.search.jobs import Job
    from loupe.search.sweep_file import SweepFile
    from loupe.tracking import liveness, runs

    life = Life(parent)
    job = Job(**json.load(sys.stdin))
    if "://" not in job.storage and not os.path.exists(job.storage):  # else it would make one of its own
        raise UsageError(f"storage: {job.storage!r} is not seen by {socket.gethostname()}; give a database's URL")
    sweep = SweepFile.model_validate(job.sweep)
    runs.connect(job.tracking_uri, job.experiment_id)
    held = study.Trials(sweep, study_storage.opened(job.storage, study_storage.AWAY), job.digest, job.parent)
    trial.dataset_of(job)  # before a trial is taken: of one that is, a sign of life is expected soon
    done, idle = 0, time.monotonic()
    while (
        done < job.trials and (job.deadline is None or time.time() < job.deadline) and liveness.is_running(job.parent)
    ):
        taken = study_storage.patiently(lambda: held.take(liveness.process_tags()))
        if taken is not None:
            trial.run(taken, held, job, life.of)
            done += 1
        elif not held.are_open() and time.monotonic() - idle > LINGER:
            break
        else:
            time.sleep(0.3)
        idle = idle if taken is None and not held.are_open() else time.monotonic()
    life.end()
    print(done)


class Life:
    """A thread that beats on the open trial's run, and ends the process when its parent, killed perhaps, is gone."""

    def __init__(self, parent: int) -> None:
        self._run_id: str | None = None
        self._parent = parent
        self._over = threading.Event()
        threading.Thread(target=self._live, daemon=True).start()

    def of(self, run_id: str | None) -> None:
        """Beat on this run from now on; None: on none."""
        self._run_id = run_id

    def end(self) -> None:
        """Stop beating."""
        self._over.set()

    def _live(self) -> None:
        import _thread

        last = 0.0
        while not self._over.wait(1.0):
            if os.getppid() != self._parent:
                _thread.interrupt_main()
                if not self._over.wait(MERCY):
                    os._exit(130)
            if self._run_id and time.monotonic() - last > BEAT:
                from loupe.tracking import liveness

                last = time.monotonic()
                try:
                    liveness.send_heartbeat(self._run_id)
                except Exception:  # the run counts as dead only after several that failed: the next one may succeed
                    traceback.print_exc()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
