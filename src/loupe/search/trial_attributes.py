"""The user attributes of the trials of a sweep's study. The values are stored in studies and must not change."""

ITEM = "item"  # the item that the trial trains
RESUMED_RUN = "resume"  # the run of a crashed worker; the trial continues from the checkpoint of this run
RUN = "run"  # the run of the trial
OWNER = "owner"  # the tags of the worker's process
PARENT = "parent"  # the run of the sweep
FAILURE = "ended"  # FAILED or ORPHANED
REASON = "why"  # the error message
LAST_VALUE = "last"  # the metric at the last point of the curve
REUSED = "reused"  # whether the result comes from another sweep
WORK_SECONDS = "work"  # the duration of training and scoring
FAILED = "error"  # value of FAILURE: the training raised an error
ORPHANED = "orphan"  # value of FAILURE: the worker of the trial crashed
