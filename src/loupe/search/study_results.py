"""The results of a sweep: its table of trials, plots and note in MLflow, and the models that it keeps."""

import shlex

from loupe.cli.progress import print_line
from loupe.errors import LoupeError, mask_secrets
from loupe.search import plots
from loupe.search.study import VIOLATED, SweepStudy
from loupe.search.trial_attributes import REASON, REUSED, RUN
from loupe.tracking import logged_models, records, trials

BEST_RUN_TAG = "loupe.best_run"


def log_study(study: SweepStudy, seconds: float, worker_seconds: float) -> str | None:
    """Log the table of trials, metrics, Optuna's plots, and the id of the best trial's run.

    Args:
        study: the study.
        seconds: the duration of the sweep.
        worker_seconds: the run time of all workers together. The metric `overhead` is the share of this time that is
            not training or scoring.

    Returns:
        The id of the best trial's run; None if no complete trial satisfies the constraints.
    """
    table = study.to_frame()
    records.log_table(table, "trials.json")
    counts = table["state"].value_counts()
    records.log_metrics({f"trials/{state.lower()}": float(count) for state, count in counts.items()})
    overhead = {"overhead": 1 - study.sum_work_seconds() / worker_seconds} if worker_seconds else {}
    records.log_metrics({"sweep_seconds": seconds} | overhead)
    for name, figure in plots.plot_study(
        study.optuna_study, study.sweep.order_keys(), study.sweep.objectives
    ).items():
        records.log_figure(figure, f"plots/{name}.png")
    best = study.find_best()
    if best is None:
        return None
    run_id = str(best.user_attrs[RUN])
    records.log_metrics({f"best/{study.sweep.objective}": float(best.values[0])})
    records.log_tags({BEST_RUN_TAG: run_id, "loupe.best_trial": str(best.number)})
    return run_id


WORKER_CRASHED = "the process of a worker ended during the training"


def check_failures(study: SweepStudy) -> None:
    """Raise LoupeError if no trial is complete or pruned, and a trial failed or the workers of all trials crashed."""
    table = study.to_frame()
    states = set(table["state"])
    if states & {"COMPLETE", "PRUNED"} or not ("FAIL" in states or states == {"ORPHANED"}):
        return
    failed = table[table["state"].isin(["FAIL", "ORPHANED"])]
    reason = failed[REASON].fillna("").iloc[-1] or WORKER_CRASHED
    raise LoupeError(f"trials: all {len(failed)} failed; the last error: {reason}")


def delete_other_models(study: SweepStudy) -> list[str]:
    """Delete the models of the trials, except for registered models and those of the best trials.

    Returns:
        The ids of the runs of the best trials: up to `keep` runs or, with two objectives, those of the Pareto front.
    """
    kept_runs = [str(trial.user_attrs[RUN]) for trial in study.list_kept()]
    for run in trials.find_trials(study.parent):
        if run.info.run_id not in kept_runs:
            logged_models.delete_unregistered_models(run.info.run_id)
    return kept_runs


def print_summary(study: SweepStudy, best_run: str | None, location: str, quiet: bool) -> None:
    """Print the number of trials per state, the best trial, and the commands that show the trials and the study.

    Args:
        study: the study.
        best_run: the id of the best trial's run, or None.
        location: the location of the study; see `open_storage`.
        quiet: print nothing.
    """
    table = study.to_frame()
    states = ", ".join(f"{count} {state.lower()}" for state, count in table["state"].value_counts().items())
    reused = int(table[REUSED].sum()) if len(table) else 0
    print_line(
        f"sweep {study.sweep.name}: {states}; {reused} reused from earlier runs{_count_violating(study)}",
        quiet,
    )
    trial = study.find_best()
    if trial:
        fields = ", ".join(f"{name}={value}" for name, value in trial.params.items())
        print_line(f"best: {study.sweep.study.metric} {trial.values[0]:.5f}, run {best_run}: {fields}", quiet)
    command = f"pip install optuna-dashboard && optuna-dashboard {shlex.quote(mask_secrets(location))}"
    print_line(f"to compare the trials: mlflow ui; to open the study: {command}", quiet)


def describe_study(study: SweepStudy, best_run: str | None) -> str:
    """Return the note (the description in MLflow) of the sweep's run; for `best_run`, see `print_summary`."""
    names = ", ".join(f"`{name}`" for name in study.sweep.order_keys())
    counts = f"{study.count_ended()} trials{_count_violating(study)}"
    text = f"Sweep {study.sweep.name}: {counts}. The names of the trials contain the values of {names}."
    best = study.find_best()
    if best is None:
        return text
    values = ", ".join(f"{name}={value}" for name, value in best.params.items())
    score = f"{study.sweep.study.metric} {best.values[0]:.5f}"
    return f"{text} Best trial: {score} with {values}, run {best_run}."


def _count_violating(study: SweepStudy) -> str:
    """Return the number of trials that violate a constraint, as the end of a sentence; "" without constraints."""
    limits = study.sweep.study.constraints
    return f"; {study.to_frame()[VIOLATED].astype(bool).sum()} violate {' or '.join(limits)}" if limits else ""
