"""Measures `loupe report` on a store with many invented trials.

    python tests/benchmarks/scale_report.py --runs 10000                     # MLflow's SQLite file
    python tests/benchmarks/scale_report.py --runs 10000 --store server      # starts an MLflow server
    python tests/benchmarks/scale_report.py --runs 10000 --store postgresql
    … --without-tags                                                         # as older runs without curves in tags

The program inserts the runs into MLflow's tables in one batch, because logging them one by one takes much longer.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "steps"))
sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

import made_up
import services
from jobs import measure_step

FILES = made_up.FILES


def build_rows(runs, without_tags):
    """Return the rows of MLflow's tables for `runs` runs: the points of the sweep files, with enough seeds."""
    seeds = 1 + runs // len(made_up.make_table(FILES, seeds=1))
    table = made_up.make_table(FILES, seeds)[:runs]
    tables = {name: [] for name in ("runs", "params", "tags", "metrics", "latest_metrics")}
    for number, row in enumerate(table.to_dict("records")):
        run, started = {"run_uuid": row["run_id"]}, 1_700_000_000_000 + 1000 * number
        settings, metrics = (
            {name.partition(".")[2]: value for name, value in row.items() if name.startswith(kind) and value == value}
            for kind in ("settings.", "metrics.")
        )
        curve = list(zip(row["curve.step"], row["curve.val/mae"], strict=True))
        tables["runs"].append(
            run | {"name": row["name"], "experiment_id": 0, "status": "FINISHED", "lifecycle_stage": "active"}
            | {"start_time": started, "end_time": started + 900, "artifact_uri": "file:///x", "user_id": "x"}
        )  # fmt: skip
        tags = {"loupe.step": "trial", "loupe.smoke": "false", "trial.state": "COMPLETE", "loupe.commit": "x"}
        tags |= {"loupe.dataset": row["dataset"], "loupe.digest": row["digest"], "loupe.sweep": row["sweep"]}
        tags |= {"loupe.settings": json.dumps(settings)} | (
            {} if without_tags else {"loupe.curve": json.dumps(curve)}
        )
        tables["tags"] += [run | {"key": key, "value": value} for key, value in tags.items()]
        tables["params"] += [run | {"key": key, "value": value} for key, value in settings.items()]
        points = [("val/mae", *point) for point in curve] + [(name, 0, value) for name, value in metrics.items()]
        points = [
            run | {"key": name, "step": step, "value": value, "timestamp": started, "is_nan": False}
            for name, step, value in points
        ]
        tables["metrics"] += points
        tables["latest_metrics"] += {point["key"]: point for point in points}.values()
    return tables


def fill(uri, runs, without_tags):
    """Write the runs to a database."""
    import mlflow
    import sqlalchemy

    mlflow.MlflowClient(uri, uri).search_experiments()  # creates the tables
    engine = sqlalchemy.create_engine(uri)
    known = sqlalchemy.MetaData()
    known.reflect(engine)
    with engine.begin() as connection:
        for name, rows in build_rows(runs, without_tags).items():
            connection.execute(known.tables[name].insert(), rows)
    engine.dispose()


@contextmanager
def run_store(kind, folder, runs, without_tags):
    """Run a store of this kind with the runs; yields its URI."""
    if kind == "postgresql":
        with services.postgresql(folder / "postgresql") as url:
            fill(url, runs, without_tags)
            yield url
        return
    file = folder / ("served/server.db" if kind == "server" else "mlflow.db")
    file.parent.mkdir(exist_ok=True)
    fill(f"sqlite:///{file}", runs, without_tags)
    if kind == "sqlite":
        yield f"sqlite:///{file}"
        return
    with services.mlflow_server(file.parent) as url:
        yield url


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--store", choices=["sqlite", "postgresql", "server"], default="sqlite")
    parser.add_argument("--without-tags", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweeps = folder / "sweeps"
        sweeps.mkdir()
        for file in FILES:
            (sweeps / file.name).write_text(file.read_text())
        started = time.perf_counter()
        with run_store(options.store, folder, options.runs, options.without_tags) as uri:
            print(f"{options.runs} runs written in {time.perf_counter() - started:.0f} s", flush=True)
            seconds, memory = measure_step(
                "report", "--sweeps", sweeps, "--out", folder / "report", cwd=folder, MLFLOW_TRACKING_URI=uri
            )
        assert len(list((folder / "report").iterdir())) >= 3
    print(f"report on {options.runs} runs ({options.store}): {seconds:.1f} s, {memory:.0f} MB")


if __name__ == "__main__":
    main()
