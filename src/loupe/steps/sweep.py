"""A study of trials from a sweep file: planned, run by workers, and its best network registered."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loupe.cli.progress import print_line
from loupe.config import parse_settings
from loupe.config.fields import hide_password
from loupe.config.steps import Sweep
from loupe.errors import LoupeError, UsageError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from loupe.data.dataset import Dataset
    from loupe.search.jobs import Job
    from loupe.search.study import Trials
    from loupe.search.sweep_file import SweepFile


def run(settings: Sweep) -> str | None:
    """Search; gives the id of the best trial's run, or None where no trial has a value."""
    from loupe.search import study, study_storage, sweep_loader, worker_pool
    from loupe.tracking import records, runs, trials

    runs.tag_project_run()
    sweep = sweep_loader.read(settings.sweep, settings)
    place = settings.storage or str(runs.get_store_folder() / "optuna.journal")
    if settings.dashboard:
        print_line(_dashboard(place), settings.quiet)
        return None
    cores = worker_pool.cores(settings.scheduler)  # fails before anything is written if the scheduler is unreachable
    workers = settings.workers or cores
    count = min(sweep.trials(), settings.max_trials or sweep.trials())
    points = len(sweep.arms()) if sweep.study.sampler == "grid" else sweep.trials()
    print_line(f"sweep {sweep.name}: {points} points, {sweep.trials()} trials, {workers} workers", settings.quiet)
    database = study_storage.opened(place) if "://" in place else None
    if database is None:
        study_storage.check_journal(Path(place))
    dataset = _dataset(settings, sweep)
    _refuse_beside_another(sweep.name)
    held = study.Trials(sweep, database or _journal(place), dataset.digest, "")
    with runs.step_run(settings, f"sweep {sweep.name}") as run_id:
        records.log_tags({trials.SWEEP_TAG: sweep.name, trials.SPACE_TAG: sweep.space(dataset.digest)})
        records.log_file(Path(settings.sweep))
        records.log_dataset(dataset, "training")
        held.parent = run_id
        _take_over(sweep, dataset.digest, run_id)
        started = time.monotonic()
        busy = worker_pool.supervise(settings, held, _job(settings, sweep, place, dataset, run_id, count), workers)
        best = _log(held, time.monotonic() - started, busy)
        _refuse_failure(held)
        kept = _kept(held)
        if best and settings.champion:
            _register(settings, kept, dataset, best)
    _tell(settings, held, best, place)
    return best


def _refuse_beside_another(name: str) -> None:
    from loupe.tracking import liveness, trials

    for other in trials.find_sweep_runs(name):
        if other.info.status == "RUNNING" and liveness.is_alive(other.data.tags):
            raise UsageError(
                f"sweep: {name!r} is being run already, by process {other.data.tags['loupe.pid']} of "
                f"{other.data.tags['loupe.host']} (run {other.info.run_id})"
            )


def _dataset(settings: Sweep, sweep: "SweepFile") -> "Dataset":
    from loupe.data import preparation

    shared = {name: getattr(settings, name) for name in ("quiet", "data_dir", "scheduler")}
    source = _source(settings, sweep)
    return preparation.open_or_prepare(parse_settings("train", source | shared), source["dataset"])


def _source(settings: Sweep, sweep: "SweepFile") -> dict[str, Any]:
    """What the dataset is prepared from where it is not there yet."""
    return {"dataset": str(sweep.train.get("dataset", "sample")), "smoke": settings.smoke, "seed": settings.seed}


def _journal(place: str) -> "BaseStorage":
    from loupe.search import study_storage

    study_storage.cut_half_line(Path(place))
    return study_storage.opened(place)


def _take_over(sweep: "SweepFile", digest: str, run_id: str) -> None:
    """What an earlier start of this sweep, broken off, has done is this one's."""
    from loupe.tracking import trials

    for other in trials.find_sweep_runs(sweep.name):
        unfinished = other.info.run_id != run_id and other.info.status != "FINISHED"
        if unfinished and other.data.tags.get(trials.SPACE_TAG) == sweep.space(digest):
            trials.adopt_trials(other.info.run_id, run_id)


def _job(settings: Sweep, sweep: "SweepFile", place: str, dataset: "Dataset", run_id: str, count: int) -> "Job":
    from loupe.data import storage
    from loupe.search.jobs import Job
    from loupe.tracking import runs

    uri, experiment = runs.locate_run(run_id)
    return Job(
        sweep=sweep.model_dump(mode="json", exclude_unset=True),
        storage=storage.absolute(place),
        tracking_uri=uri,
        experiment_id=experiment,
        parent=run_id,
        dataset=storage.absolute(dataset.place),
        digest=dataset.digest,
        source=_source(settings, sweep),
        place={name: getattr(settings, name) for name in ("data_dir", "threads")},
        trials=count,
        deadline=time.time() + settings.timeout if settings.timeout else None,
        fresh=settings.fresh,
    )


def _log(held: "Trials", seconds: float, busy: float) -> str | None:
    """Log what came out: the table of trials, Optuna's plots, the best run; gives that.

    Args:
        held: the trials.
        seconds: that the sweep took until here.
        busy: that its workers lived, all together; what of it was not the trials' own work is overhead.
    """
    from loupe.search import plots
    from loupe.search.study import RUN
    from loupe.tracking import records

    table = held.table()
    records.log_table(table, "trials.json")
    counts = table["state"].value_counts()
    records.log_metrics({f"trials/{state.lower()}": float(count) for state, count in counts.items()})
    records.log_metrics({"sweep_seconds": seconds} | ({"overhead": 1 - held.work() / busy} if busy else {}))
    for name, figure in plots.plot_study(held.study, held.sweep.ordered()).items():
        records.log_figure(figure, f"plots/{name}.png")
    best = held.best_first()
    if not best:
        return None
    found = str(best[0].user_attrs[RUN])
    records.log_metrics({f"best/{held.sweep.value}": float(best[0].value)})
    records.log_tags({"best_run": found, "best_trial": str(best[0].number)})
    return found


def _refuse_failure(held: "Trials") -> None:
    """A sweep none of whose trials could be trained has failed, and says why the last did."""
    from loupe.search.study import WHY

    table = held.table()
    failed = table[table["state"] == "FAIL"]
    if len(failed) and not table["state"].isin(["COMPLETE", "PRUNED"]).any():
        raise LoupeError(f"trials: each of {len(failed)} has failed; the last: {failed[WHY].iloc[-1]}")


def _kept(held: "Trials") -> list[str]:
    """The runs of the best few trials; the networks of the others are removed."""
    from loupe.search.study import RUN
    from loupe.tracking import trials

    ranked = list(dict.fromkeys(str(trial.user_attrs[RUN]) for trial in held.best_first()))
    kept = ranked[: held.sweep.study.keep]
    for run in trials.find_trials(held.parent):
        if run.info.run_id not in kept:
            trials.delete_model(run.info.run_id)
    return kept


def _register(settings: Sweep, kept: list[str], dataset: "Dataset", best: str) -> None:
    """Score the best few on test, and register the best."""
    from loupe.steps import register, train
    from loupe.tracking import models, records, runs, training_runs, trials
    from loupe.upscalers import ridge

    for run_id in kept:
        run = runs.get_run(run_id, "run")
        given = parse_settings("train", runs.read_settings(run) | {"quiet": True})
        if not trials.has_model(run_id):
            if run_id == best:  # taken from another sweep, which did not keep it
                trained = train.run(given)
                best = trained.run_id
                records.log_tags({"best_run": best})
            continue
        if "test/mae" in run.data.metrics:
            continue
        model = models.load_keras(models.ModelReference(run_id, f"runs:/{run_id}/model", run_id))
        weights = ridge.load_or_fit(dataset, given.scale)
        with records.log_to_run(run_id):
            points = trials.load_points(run_id)
            training_runs.log_result(model, given, dataset, weights, points)
            models.log_model_metrics(points)
            training_runs.log_ridge(weights, given)
    shared = {name: getattr(settings, name) for name in ("smoke", "data_dir", "scheduler", "seed")}
    verdict = register.run(parse_settings("register", {"run": best, "quiet": True} | shared))
    print_line(
        f"models:/{verdict.name}/{verdict.version}: {'champion' if verdict.won else 'not champion'}: {verdict.why}",
        settings.quiet,
    )


def _tell(settings: Sweep, held: "Trials", best: str | None, place: str) -> None:
    from loupe.search.study import REUSED

    table = held.table()
    states = ", ".join(f"{count} {state.lower()}" for state, count in table["state"].value_counts().items())
    taken = int(table[REUSED].sum()) if len(table) else 0
    print_line(f"sweep {held.sweep.name}: {states}; {taken} taken from earlier runs", settings.quiet)
    first = held.best_first()
    if first:
        fields = ", ".join(f"{name}={value}" for name, value in first[0].params.items())
        print_line(f"best: {held.sweep.study.metric} {first[0].value:.5f}, run {best}: {fields}", settings.quiet)
    print_line(f"compare the trials: mlflow ui; the study: {_dashboard(place)}", settings.quiet)


def _dashboard(place: str) -> str:
    return f"pip install optuna-dashboard && optuna-dashboard {shlex.quote(hide_password(place))}"


if __name__ == "__main__":
    from loupe.cli.main import entry

    entry("sweep")
