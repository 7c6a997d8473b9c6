"""The names of user attributes of trials, and the values of FAILURE. Studies store them, so they must not change."""

ITEM = "item"  # the name of the trial's item; see `SweepItems`
RESUMED_RUN = "resume"  # the id of a crashed worker's run, which the trial continues
RUN = "run"
OWNER = "owner"  # the tags of the worker's process
PARENT = "parent"  # the id of the sweep's run
FAILURE = "ended"  # FAILED or ORPHANED
REASON = "why"  # the error message
LAST_VALUE = "last"  # the metric at the last point of the curve
REUSED = "reused"  # whether the result comes from another sweep
WORK_SECONDS = "work"  # the duration of training and scoring
FAILED = "error"  # a value of FAILURE: the training raised an error
ORPHANED = "orphan"  # a value of FAILURE: the worker crashed
