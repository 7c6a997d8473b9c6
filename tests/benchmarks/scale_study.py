"""Trials of one study, taken, reported and told without training: seconds of each call over their number.

    python tests/benchmarks/scale_study.py --trials 10000                                     # in a journal file
    python tests/benchmarks/scale_study.py --trials 10000 --taken 400 --storage postgresql    # a server, for this

With --taken, only so many are taken, half of them first and half last; the others are put in between, ended.
A worker and the sweep's parent, each with a storage of its own, take turns as they do in a sweep: the parent looks
at the study after every few trials, and the worker is a new one after MAX_TRIALS_PER_WORKER.
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
from loupe.search.study import ITEM, PARENT, RUN, SweepStudy
from loupe.search.sweep_file import SweepFile

HERE = {"loupe.host": "here", "loupe.pid": "1", "loupe.started": "0.00"}
REPORTS = 5  # points of a trial's curve
WORKERS = 8
LOOK_EVERY = 4  # trials between two looks of the parent: eight workers with trials of a second
POINTS = 10


def sweep_of(trials, sampler="grid", pruner="none"):
    """A study of so many trials: ten points, and as many seeds of each."""
    study = {"name": "scale", "pruner": pruner}
    study |= {"repeats": trials // POINTS} if sampler == "grid" else {"sampler": sampler, "trials": trials}
    search = {"activation": ["tanh", "relu"], "learning_rate": [0.1, 0.03, 0.01, 0.003, 0.001]}
    return SweepFile.model_validate({"study": study, "train": {"network": "perceptron"}, "search": search})


class Stopwatch:
    """Seconds of each call, by what it was and how many trials had ended then."""

    def __init__(self):
        self.taken = defaultdict(list)
        self.ended = 0

    @contextmanager
    def of(self, what):
        started = time.perf_counter()
        yield
        self.taken[what].append((self.ended, time.perf_counter() - started))

    def medians(self, what, low, high):
        """Milliseconds of the calls made while from `low` to `high` trials had ended."""
        found = [seconds for ended, seconds in self.taken[what] if low <= ended < high]
        return 1e3 * statistics.median(found) if found else float("nan")


def run(place, sweep, taken):
    """Take `taken` trials to their end; gives the stopwatch."""
    watch = Stopwatch()
    parent = SweepStudy(sweep, study_storage.open_storage(place), "digest", "parent")
    while watch.ended < sweep.count_trials():
        if taken // 2 <= watch.ended < sweep.count_trials() - taken // 2:
            watch.ended += fill(parent, sweep.count_trials() - taken)
        with watch.of("a new worker"):
            worker = SweepStudy(sweep, study_storage.open_storage(place), "digest", "parent")
            worker.count_open()
        for _ in range(worker_pool.MAX_TRIALS_PER_WORKER):
            if watch.ended % LOOK_EVERY == 0:
                look(parent, watch)
            if watch.ended == sweep.count_trials():
                break
            one_trial(worker, sweep, watch)
    look(parent, watch)
    assert parent.count_ended() == sweep.count_trials()
    assert not parent.count_open()
    return watch


def fill(parent, count):
    """Put so many ended trials into the study, of the items that are not there yet; gives how many."""
    there = {trial.user_attrs[ITEM] for trial in parent.optuna_study.trials}
    points = [chosen | {"seed": seed} for chosen in parent.sweep.iterate_points() for seed in parent.sweep.seeds]
    missing = [point for point in points if json.dumps(point, sort_keys=True) not in there][-count:]
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


def look(parent, watch):
    """What `worker_pool.run_workers` asks at each of its looks."""
    with watch.of("parent: look"):
        parent.fail_orphans(lambda trial: True)
        parent.enqueue_missing(2 * WORKERS + worker_pool.SPARE_TRIALS)
        parent.count_ended()
        parent.find_best()
        parent.count_open()


def one_trial(worker, sweep, watch):
    """What a worker does with one, without training."""
    with watch.of("ask"):
        trial = worker.claim_trial(HERE)
    with watch.of("suggest"):
        chosen = sampling.suggest_params(sweep, trial)
        seed = sampling.suggest_seed(sweep, trial)
    value = chosen["learning_rate"] + 1e-6 * seed
    with watch.of("report"):
        for step in range(REPORTS):
            trial.report(value, step)
            trial.should_prune()
        trial.set_user_attr(RUN, f"run {trial.number}")
    with watch.of("among the best?"):
        worker.is_among_best(value)
    with watch.of("tell"):
        worker.optuna_study.tell(trial, value)
    watch.ended += 1


def told(watch, trials, taken):
    """A table: milliseconds of each call in the first and in the last tenth of the taken trials."""
    some = max(1, taken // 10)
    print(f"ms, median | first {some} | last {some} of {trials} | ratio")
    for what in watch.taken:
        first, last = watch.medians(what, 0, some + 1), watch.medians(what, trials - some, trials + 1)
        print(f"{what} | {first:.2f} | {last:.2f} | {last / first:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--taken", type=int, help="as many as there are, if not given")
    parser.add_argument("--storage", choices=["journal", "postgresql"], default="journal")
    parser.add_argument("--sampler", choices=["grid", "random", "tpe"], default="grid")
    parser.add_argument("--pruner", choices=["none", "median"], default="none")
    given = parser.parse_args()
    sweep = sweep_of(given.trials, given.sampler, given.pruner)
    with tempfile.TemporaryDirectory() as folder:
        if given.storage == "journal":
            watch = run(f"{folder}/study.log", sweep, given.taken or given.trials)
        else:
            import services

            with services.postgresql(Path(folder)) as url:
                watch = run(url, sweep, given.taken or given.trials)
    told(watch, given.trials, given.taken or given.trials)


if __name__ == "__main__":
    main()
