"""A sweep of many trials of a second by many workers, on a PostgreSQL server and an `mlflow server` started here.

    python tests/benchmarks/scale_sweep.py --workers 8 --trials 200

It checks that each point and seed ran exactly once without an error, in Optuna and in MLflow. It prints trials per
second, with and without the start of the workers, and the overhead: the share of the workers' run time that is not
work on trials.
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
TIMEOUT_S = 7200
SWEEP = """
[study]
name = "scale"
sampler = "grid"
repeats = {seeds}

[train]
dataset = "{dataset}"
network = "perceptron"
hidden = "16,8"
steps = {steps}
batch_size = 16
eval_images = 4

[search]
activation = ["tanh", "relu"]
learning_rate = [0.001, 0.003]
"""


def run(folder, workers, trials, steps=600):
    """Run a sweep in a folder; returns its run time in s, its output, the trials in Optuna and the runs in MLflow."""
    import mlflow
    import optuna

    with services.postgresql(folder / "postgresql") as storage, services.mlflow_server(folder / "mlflow") as server:
        loupe("preprocess", "--smoke", "true", "--quiet", cwd=folder, MLFLOW_TRACKING_URI=server)
        dataset = next((folder / "data").iterdir())
        text = SWEEP.format(seeds=trials // POINTS, dataset=dataset, steps=steps)
        (folder / "sweep.toml").write_text(text)
        started = time.perf_counter()
        done = loupe(
            *["sweep", "--sweep", "sweep.toml", "--storage", storage, "--workers", workers, "--threads", 1],
            cwd=folder, timeout=TIMEOUT_S, MLFLOW_TRACKING_URI=server,
        )  # fmt: skip
        seconds_total = time.perf_counter() - started
        client = mlflow.MlflowClient(server, server)
        runs, token = [], None
        experiments = [found.experiment_id for found in client.search_experiments()]
        while page := client.search_runs(experiments, max_results=1000, page_token=token):
            runs, token = runs + list(page), page.token
            if not token:
                break
        return (
            seconds_total,
            done.stdout + done.stderr,
            optuna.load_study(study_name="scale", storage=storage).trials,
            runs,
        )


def check(trials, found, runs):
    """Check that each point and seed has one trial and one finished run; returns the run of the sweep."""
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds_total, printed, found, runs = run(Path(folder), options.workers, options.trials)
        print(printed)
        sweep = check(options.trials, found, runs)
        first = min(trial.datetime_start for trial in found)
        last = max(trial.datetime_complete for trial in found)
        working_s = (last - first).total_seconds()
        overhead = sweep.data.metrics["overhead"]
        rate = options.trials / seconds_total
        print(f"{options.trials} trials by {options.workers} workers: {seconds_total:.0f} s, {rate:.2f} per second")
        print(f"from the start of the first to the end of the last {options.trials / working_s:.2f} per second")
        print(f"overhead {overhead:.2f}; errors 0, lost 0, repeated 0")


if __name__ == "__main__":
    main()
