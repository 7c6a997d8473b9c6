"""Measures the calls of Optuna for the trials of one study, without training, as the number of trials grows.

    python tests/benchmarks/scale_study.py --trials 10000                                     # in a journal file
    python tests/benchmarks/scale_study.py --trials 10000 --taken 400 --storage postgresql    # starts a server

With --taken, workers run only this number of trials: half of them first, and half last. Between the halves, the
program adds ended trials. A worker and the parent process, each with its own storage, take turns as in a sweep: the
parent reads the study after every few trials, and a new worker starts after MAX_TRIALS_PER_WORKER.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "steps"))

import optuna

from loupe.search import sampling, study_storage, worker_pool
from loupe.search.study import SweepStudy
from loupe.search.sweep_file import SweepFile
from loupe.search.trial_attributes import ITEM, PARENT, RUN

HERE = {"loupe.host": "here", "loupe.pid": "1", "loupe.started": "0.00"}
REPORTS = 5  # points of the curve of a trial
WORKERS = 8
POLL_INTERVAL = 4  # trials between two reads of the parent, as with eight workers and trials of one second
POINTS = 10


def create_sweep(trials, sampler="grid", pruner="none"):
    """Return a study of this number of trials: ten points with an equal number of seeds."""
    study = {"name": "scale", "pruner": pruner}
    study |= {"repeats": trials // POINTS} if sampler == "grid" else {"sampler": sampler, "trials": trials}
    search = {"activation": ["tanh", "relu"], "learning_rate": [0.1, 0.03, 0.01, 0.003, 0.001]}
    return SweepFile.model_validate({"study": study, "train": {"network": "perceptron"}, "search": search})


class Stopwatch:
    """The run times of calls, by name and by the number of trials that had ended."""

    def __init__(self):
        self.taken = defaultdict(list)
        self.ended = 0

    @contextmanager
    def time(self, what):
        started = time.perf_counter()
        yield
        self.taken[what].append((self.ended, time.perf_counter() - started))

    def medians(self, what, low, high):
        """Return the median time in ms of the calls made while `low` to `high` trials had ended."""
        found = [seconds for ended, seconds in self.taken[what] if low <= ended < high]
        return 1e3 * statistics.median(found) if found else float("nan")


def run(place, sweep, taken):
    """Run `taken` trials; returns the stopwatch."""
    watch = Stopwatch()
    parent = SweepStudy(sweep, study_storage.open_storage(place), "digest", "parent")
    while watch.ended < sweep.count_trials():
        if taken // 2 <= watch.ended < sweep.count_trials() - taken // 2:
            watch.ended += fill(parent, sweep.count_trials() - taken)
        with watch.time("a new worker"):
            worker = SweepStudy(sweep, study_storage.open_storage(place), "digest", "parent")
            worker.count_open()
        for _ in range(worker_pool.MAX_TRIALS_PER_WORKER):
            if watch.ended % POLL_INTERVAL == 0:
                poll(parent, watch)
            if watch.ended == sweep.count_trials():
                break
            run_trial(worker, sweep, watch)
    poll(parent, watch)
    assert parent.count_ended() == sweep.count_trials()
    assert not parent.count_open()
    return watch


def fill(parent, count):
    """Add `count` ended trials of missing items to the study; returns their number."""
    known = {trial.user_attrs[ITEM] for trial in parent.optuna_study.trials}
    points = [chosen | {"seed": seed} for chosen in parent.sweep.iterate_points() for seed in parent.sweep.seeds]
    missing = [point for point in points if json.dumps(point, sort_keys=True) not in known][-count:]
    ranges = {
        key: optuna.distributions.CategoricalDistribution(parent.sweep.list_choices(key))
        for key in points[0]
        if key != "seed"
    }
    ranges["seed"] = optuna.distributions.IntDistribution(0, 2**31 - 1)
    for point in missing:
        value = point["learning_rate"] + 1e-6 * point["seed"]
        attrs = {ITEM: json.dumps(point, sort_keys=True), RUN: "run", PARENT: "parent"}
        parent.optuna_study.add_trial(optuna.trial.create_trial(
            params=point, distributions=ranges, value=value, user_attrs=attrs,
            intermediate_values=dict.fromkeys(range(REPORTS), value),
        ))  # fmt: skip
    return len(missing)


def poll(parent, watch):
    """Make the calls of one iteration of `worker_pool.run_workers`."""
    with watch.time("parent: poll"):
        parent.fail_orphans(lambda trial: True)
        parent.enqueue_missing(2 * WORKERS + worker_pool.SPARE_TRIALS)
        parent.count_ended()
        parent.find_best()
        parent.count_open()


def run_trial(worker, sweep, watch):
    """Make the calls of a worker for one trial, without training."""
    with watch.time("ask"):
        trial = worker.claim_trial(HERE)
    with watch.time("suggest"):
        chosen = sampling.suggest_params(sweep, trial)
        seed = sampling.suggest_seed(sweep, trial)
    value = chosen["learning_rate"] + 1e-6 * seed
    with watch.time("report"):
        for step in range(REPORTS):
            trial.report(value, step)
            trial.should_prune()
        trial.set_user_attr(RUN, f"run {trial.number}")
    with watch.time("among the best?"):
        worker.is_among_best(value)
    with watch.time("tell"):
        worker.optuna_study.tell(trial, value)
    watch.ended += 1


def print_table(watch, trials, taken):
    """Print the time in ms of each call in the first and in the last tenth of the trials that ran."""
    some = max(1, taken // 10)
    print(f"ms, median | first {some} | last {some} of {trials} | ratio")
    for what in watch.taken:
        first, last = watch.medians(what, 0, some + 1), watch.medians(what, trials - some, trials + 1)
        print(f"{what} | {first:.2f} | {last:.2f} | {last / first:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--taken", type=int, help="default: all")
    parser.add_argument("--storage", choices=["journal", "postgresql"], default="journal")
    parser.add_argument("--sampler", choices=["grid", "random", "tpe"], default="grid")
    parser.add_argument("--pruner", choices=["none", "median"], default="none")
    options = parser.parse_args()
    sweep = create_sweep(options.trials, options.sampler, options.pruner)
    with tempfile.TemporaryDirectory() as folder:
        if options.storage == "journal":
            watch = run(f"{folder}/study.log", sweep, options.taken or options.trials)
        else:
            import services

            with services.postgresql(Path(folder)) as url:
                watch = run(url, sweep, options.taken or options.trials)
    print_table(watch, options.trials, options.taken or options.trials)


if __name__ == "__main__":
    main()
