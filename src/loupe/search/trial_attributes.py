"""The user attributes of trials: names, and the values of FAILURE. Studies store them, so they must not change."""

ITEM = "item"  # the name of the trial's item; see `SweepItems`
RESUMED_RUN = "resume"  # if a trial replaces a trial whose worker crashed: the id of the run of that trial
RUN = "run"  # the id of the trial's MLflow run, or of the run whose result the trial reuses
OWNER = "owner"  # the tags of the worker's process
PARENT = "parent"  # the id of the sweep's run
FAILURE = "ended"  # for a failed trial: FAILED or ORPHANED
REASON = "why"  # the error message
LAST_VALUE = "last"  # the value of the sweep's metric at the last point of the learning curve
REUSED = "reused"  # whether the result comes from a run of another sweep
WORK_SECONDS = "work"  # the duration of training and scoring in seconds
FAILED = "error"  # a value of FAILURE: the training raised an error
ORPHANED = "orphan"  # a value of FAILURE: the worker crashed
