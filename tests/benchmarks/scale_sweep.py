"""A sweep of many trials of a second by many workers, on a PostgreSQL server and an `mlflow server` started here.

    python tests/benchmarks/scale_sweep.py --workers 8 --trials 200

Checked: no error, each point and seed exactly once, in Optuna and in MLflow. Told: trials a second, the share of
overhead (of the workers' lives what is not the trials' own work), and the same without a worker's start.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "steps"))

import services
from jobs import loupe

POINTS = 4
HOURS = 2  # that a sweep may take
SWEEP = """
[study]
name = "scale"
sampler = "grid"
repeats = {seeds}

[train]
dataset = "{dataset}"
network = "perceptron"
hidden = "16,8"
seconds = {seconds}
batch_size = 16
eval_images = 4

[search]
activation = ["tanh", "relu"]
learning_rate = [0.001, 0.003]
"""


def run(folder, workers, trials, seconds=1):
    """Sweep in this folder; gives seconds, and Optuna's and MLflow's records of it."""
    import mlflow
    import optuna

    with services.postgresql(folder / "postgresql") as storage, services.mlflow_server(folder / "mlflow") as server:
        loupe("preprocess", "--smoke", "true", "--quiet", cwd=folder, MLFLOW_TRACKING_URI=server)
        dataset = next((folder / "data").iterdir())
        text = SWEEP.format(seeds=trials // POINTS, dataset=dataset, seconds=seconds)
        (folder / "sweep.toml").write_text(text)
        started = time.perf_counter()
        done = loupe(
            *["sweep", "--sweep", "sweep.toml", "--storage", storage, "--workers", workers, "--threads", 1],
            cwd=folder, timeout=HOURS * 3600, MLFLOW_TRACKING_URI=server,
        )  # fmt: skip
        taken = time.perf_counter() - started
        client = mlflow.MlflowClient(server, server)
        runs, token = [], None
        experiments = [found.experiment_id for found in client.search_experiments()]
        while page := client.search_runs(experiments, max_results=1000, page_token=token):
            runs, token = runs + list(page), page.token
            if not token:
                break
        return taken, done.stdout + done.stderr, optuna.load_study(study_name="scale", storage=storage).trials, runs


def check(trials, found, runs):
    """Every point and seed exactly once, each with a run of its own that has finished, and nothing else."""
    states = Counter(trial.state.name for trial in found)
    assert states == {"COMPLETE": trials}, states
    items = Counter(str(sorted(trial.params.items())) for trial in found)
    assert len(items) == trials
    assert set(items.values()) == {1}
    children = [run for run in runs if run.data.tags.get("loupe.step") == "trial"]
    assert Counter(run.info.status for run in children) == {"FINISHED": trials}
    assert {run.info.run_id for run in children} == {trial.user_attrs["run"] for trial in found}
    assert {run.info.status for run in runs} == {"FINISHED"}
    return next(run for run in runs if run.data.tags.get("loupe.step") == "sweep")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trials", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        taken, said, found, runs = run(Path(folder), given.workers, given.trials)
        print(said)
        sweep = check(given.trials, found, runs)
        first = min(trial.datetime_start for trial in found)
        last = max(trial.datetime_complete for trial in found)
        working = (last - first).total_seconds()
        overhead = sweep.data.metrics["overhead"]
        print(f"{given.trials} trials by {given.workers} workers: {taken:.0f} s, {given.trials / taken:.2f} a second")
        print(f"from the first one's start to the last one's end {given.trials / working:.2f} a second")
        print(f"overhead {overhead:.2f}; errors 0, lost 0, twice 0")


if __name__ == "__main__":
    main()
