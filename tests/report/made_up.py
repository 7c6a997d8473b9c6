"""Makes synthetic tables of runs: every point of a sweep file, with random scores derived from the settings."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from loupe.report.assembly import ClaimRuns, build_report, select_dataset
from loupe.report.results import RUN_COLUMNS
from loupe.search import arms as sweep_arms
from loupe.search import sweep_loader

SWEEPS = Path(__file__).parents[2] / "sweeps"
FILES = [SWEEPS / "activation.toml", SWEEPS / "dropout.toml"]
DATASET = "photos-0123456789ab"
BASELINES = {"nearest": 0.05, "bicubic": 0.036, "lanczos": 0.034, "ridge": 0.031}


def make_table(files: Iterable[Path], seeds: int = 3) -> pd.DataFrame:
    """Make one row per point and seed of grids, in the format of the table of runs."""
    rows: dict[str, dict[str, Any]] = {}
    for file in files:
        sweep = sweep_loader.load_sweep(file)
        metrics = {name for claim in sweep.claims for name in (claim.metric, claim.other_metric) if name}
        for chosen in sweep.iterate_points():
            for seed in range(sweep.seeds[0], sweep.seeds[0] + seeds):
                row = _make_row(sweep.create_settings(chosen, seed=seed), metrics)
                rows.setdefault(row["run_id"], row | {"sweep": sweep.name}).update(row)
    for number, row in enumerate(rows.values()):
        row["started"] = f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}"
    return pd.DataFrame(list(rows.values()))


def _make_row(settings: Any, metrics: set[str]) -> dict[str, Any]:
    texts = settings.to_texts()
    run_id = hashlib.sha256(str(texts).encode()).hexdigest()[:32]
    rng = np.random.default_rng(int(run_id[:8], 16))
    mae = 0.03 + 0.01 * rng.random()
    facts = dict.fromkeys(RUN_COLUMNS, "x") | {
        "run_id": run_id,
        "name": f"{texts['network']} {run_id[:3]}",
        "kind": "trial",
    }
    facts |= {"state": "COMPLETE", "dataset": DATASET, "digest": DATASET[-12:]}
    numbers = {name: mae * (0.9 + 0.2 * rng.random()) for name in sorted(metrics)}
    numbers |= {"training_steps": 400, "val/best_mae": mae, "val/nearest/mae": 0.05, "val/lanczos/mae": 0.034}
    if texts["seed"] == "0":
        numbers |= {f"test/{name}/{score}": value for name, value in BASELINES.items() for score in ("mae", "mse")}
        numbers |= {"test/mae": mae + 0.001, "test/mse": mae**2, "test/psnr": 33.3, "test/gain": 1.3}
    steps = list(range(0, 401, 25))
    curve = [0.5] + [mae * (1 + 1 / number) for number in range(1, len(steps))]
    return (
        facts
        | {f"settings.{name}": text for name, text in texts.items()}
        | {f"metrics.{name}": value for name, value in numbers.items()}
        | {"curve.step": steps, "curve.val/mae": curve}
    )


def make_report(table: pd.DataFrame, files: Iterable[Path], *images: Any) -> Any:
    """Make the report on a table with the claims of sweep files."""
    rows = select_dataset(table, None)
    claims = []
    for file in files:
        sweep = sweep_loader.load_sweep(file)
        arms = sweep_arms.find_runs(sweep, rows)
        claims += [ClaimRuns(f"sweeps/{file.name}", claim, arms) for claim in sweep.claims]
    return build_report(table, rows, claims, images)
