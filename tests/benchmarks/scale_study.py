"""Trials of one study, taken, reported and told without training: seconds of each call over their number.

    python tests/benchmarks/scale_study.py --trials 10000                      # in a journal file
    python tests/benchmarks/scale_study.py --trials 10000 --storage postgresql # a server, started for this

A worker and the sweep's parent, each with a storage of its own, take turns as they do in a sweep: the parent looks
at the study after every few trials, and the worker is a new one after TRIALS_A_WORKER.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "steps"))

from loupe.search import crew, storages, studies
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


def run(place, sweep):
    """Take every trial to its end; gives the stopwatch."""
    watch = Stopwatch()
    parent = studies.Trials(sweep, storages.opened(place), "digest", "parent")
    while watch.ended < sweep.trials():
        with watch.of("a new worker"):
            worker = studies.Trials(sweep, storages.opened(place), "digest", "parent")
            worker.take  # noqa: B018
        for _ in range(crew.TRIALS_A_WORKER):
            if watch.ended % LOOK_EVERY == 0:
                look(parent, watch)
            if watch.ended == sweep.trials():
                break
            one_trial(worker, sweep, watch)
    look(parent, watch)
    assert parent.ended() == sweep.trials()
    assert not parent.are_open()
    return watch


def look(parent, watch):
    """What `crew.supervise` asks at each of its looks."""
    with watch.of("parent: look"):
        parent.reap(lambda trial: True)
        parent.enqueue(2 * WORKERS + crew.SPARE)
        parent.ended()
        parent.best()
        parent.at_work(), parent.waiting()
        parent.are_open()


def one_trial(worker, sweep, watch):
    """What a worker does with one, without training."""
    with watch.of("ask"):
        trial = worker.take(HERE)
    with watch.of("suggest"):
        chosen = studies.suggest(sweep, trial)
        seed = studies.seed_of(sweep, trial)
    value = chosen["learning_rate"] + 1e-6 * seed
    with watch.of("report"):
        for step in range(REPORTS):
            trial.report(value, step)
            trial.should_prune()
        trial.set_user_attr(studies.RUN, f"run {trial.number}")
    with watch.of("among the best?"):
        worker.is_among_the_best(value)
    with watch.of("tell"):
        worker.study.tell(trial, value)
    watch.ended += 1


def told(watch, trials):
    """A table: milliseconds of each call over the number of ended trials."""
    tenth = trials // 10
    print(f"{'ms, median':>18} | first {tenth} | " + " | ".join(f"to {10 * tenth * n // 10}" for n in (3, 6, 10)) + " | last / first")
    for what in watch.taken:
        first = watch.medians(what, 0, tenth)
        rest = [watch.medians(what, (n - 1) * tenth, n * tenth + 1) for n in (3, 6, 10)]
        print(f"{what:>18} | {first:.2f} | " + " | ".join(f"{value:.2f}" for value in rest) + f" | {rest[-1] / first:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--storage", choices=["journal", "postgresql"], default="journal")
    parser.add_argument("--sampler", choices=["grid", "random", "tpe"], default="grid")
    parser.add_argument("--pruner", choices=["none", "median"], default="none")
    given = parser.parse_args()
    sweep = sweep_of(given.trials, given.sampler, given.pruner)
    with tempfile.TemporaryDirectory() as folder:
        if given.storage == "journal":
            watch = run(f"{folder}/study.log", sweep)
        else:
            import services

            with services.postgresql(Path(folder)) as url:
                watch = run(url, sweep)
    told(watch, given.trials)


if __name__ == "__main__":
    main()
