"""Builds the contents of a report from the table of runs and the claims."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from loupe.errors import UsageError
from loupe.report import charts
from loupe.report.claims import Claim
from loupe.report.contents import ClaimResult, ReportContents, ReportImage, Table
from loupe.report.formatting import DASH, format_number
from loupe.report.study_numbers import find_study_run, make_study_table
from loupe.report.verdicts import check_claim, format_budget, select_runs

LEADERBOARD_ROWS, LEADER_CURVES = 20, 6  # runs in the table and in the chart of the best runs
# For claims about these metrics, the report describes the trend of the validation mae.
CURVE_METRICS = ("val/best_mae", "val/best_mse", "val/best_psnr", "val/lowest_mae", "val/gain")
SCORES = {"mae": "mae", "psnr": "PSNR, dB", "ssim": "SSIM", "mse": "mse"}


@dataclass(frozen=True)
class ClaimRuns:
    """A claim, the path of its sweep file, and the runs of the sweep: one row per arm and seed."""

    sweep_file: str
    claim: Claim
    arms: pd.DataFrame


def select_dataset(table: pd.DataFrame, dataset: str | None) -> pd.DataFrame:
    """Select the runs on one dataset, by its name or digest; None selects the dataset with the most trials.

    Raises:
        UsageError: no run uses the dataset.
    """
    if dataset is None:
        trials = table[table["kind"] == "trial"] if (table["kind"] == "trial").any() else table
        counts = trials["dataset"].value_counts()
        dataset = min(counts[counts == counts.max()].index, default="")
    rows = table[(table["dataset"] == dataset) | (table["digest"] == dataset)]
    if rows.empty:
        names = ", ".join(sorted(table["dataset"].dropna().unique())) or "none"
        raise UsageError(f"dataset: must be the dataset of a run ({names}), got {dataset!r}")
    return rows


def build_report(
    table: pd.DataFrame, rows: pd.DataFrame, claims: Iterable[ClaimRuns], images: Mapping[str, ReportImage]
) -> ReportContents:
    """Check the claims and build the contents of the report.

    Args:
        table: all runs.
        rows: the runs on the dataset of the report.
        claims: the claims with their runs.
        images: the images `comparison` and `story`, if they exist.

    Raises:
        UsageError: two claims have the same number.
    """
    ranking = rank_runs(rows)
    dataset = str(rows["dataset"].iloc[0])
    best, study_run = find_best_run(rows), find_study_run(table, dataset)
    return ReportContents(
        dataset=dataset,
        run_count=len(rows),
        claims=_check_claims(claims),
        leaderboard=_make_leaderboard(ranking.head(LEADERBOARD_ROWS)),
        best_network=_describe_run(best) + _describe_photos(best),
        test_scores=_make_test_table(best),
        study_numbers=make_study_table(table, best, study_run),
        study_network=_describe_run(study_run),
        leader_chart=charts.draw_leaders(
            ranking.drop_duplicates("name").head(LEADER_CURVES), _read_baselines(ranking)
        ),
        comparison=images.get("comparison"),
        story=images.get("story"),
    )


def rank_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """Rank the complete runs of the most frequent scale factor by validation mae."""
    metric = "metrics.val/best_mae"
    if metric not in rows:
        return rows[:0]
    complete = rows[rows[metric].notna() & (rows["state"] == "COMPLETE") & rows["kind"].isin(["trial", "train"])]
    if "settings.scale" in complete and complete["settings.scale"].notna().any():
        complete = complete[complete["settings.scale"] == complete["settings.scale"].mode().iloc[0]]
    return complete.sort_values([metric, "run_id"])


def find_best_run(rows: pd.DataFrame) -> Any:
    """Find the run with test scores and the lowest validation mae, or None."""
    ranking = rank_runs(rows)
    scored = ranking[ranking["metrics.test/mae"].notna()] if "metrics.test/mae" in ranking else ranking[:0]
    return scored.iloc[0] if len(scored) else None


def _check_claims(claims: Iterable[ClaimRuns]) -> tuple[ClaimResult, ...]:
    results: dict[str, ClaimResult] = {}
    for claim_runs in sorted(claims, key=lambda each: each.claim.order):
        claim, arms = claim_runs.claim, claim_runs.arms
        other = results.get(claim.number)
        if other is not None:
            raise UsageError(
                f"claim {claim.number}: must be in one file, got {other.sweep_file} and {claim_runs.sweep_file}"
            )
        verdict, runs = check_claim(claim, arms), select_runs(claim, arms)
        trends = (
            charts.describe_trends(verdict, runs) if claim.metric in CURVE_METRICS and not claim.change_to else ()
        )
        results[claim.number] = ClaimResult(claim_runs.sweep_file, verdict, charts.draw_trend(verdict, runs), trends)
    return tuple(results.values())


def _make_leaderboard(ranking: pd.DataFrame) -> Table:
    header = ("rank", "network", "seed", "sweep", "budget", "validation mae", "test mae", "run")
    rows = []
    for rank, (_, run) in enumerate(ranking.iterrows(), 1):
        scores = (format_number(run.get(f"metrics.{name}")) for name in ("val/best_mae", "test/mae"))
        texts = [DASH if pd.isna(value) else str(value) for value in (run.get("settings.seed"), run["sweep"])]
        rows.append(
            (str(rank), str(run["name"]), *texts, format_budget(run.to_frame().T), *scores, run["run_id"][:8])
        )
    return Table(header, tuple(rows))


def _make_test_table(best: pd.Series | None) -> Table:
    """Make the table of the best network and the baselines."""
    header = ("method", *SCORES.values(), "gain over nearest")
    if best is None:
        return Table(header, ())

    def read_scores(prefix: str) -> dict[str, float]:
        return {score: float(best.get(f"{prefix}{score}", float("nan"))) for score in SCORES}

    names = {key.split("/")[1] for key in best.index if key.startswith("metrics.test/") and key.count("/") == 2}
    methods = {name: read_scores(f"metrics.test/{name}/") for name in names}
    methods["the best network"] = read_scores("metrics.test/")
    nearest = methods.get("nearest", {}).get("mae", float("nan"))
    rows = [
        (name, *(format_number(scores[score]) for score in SCORES), format_number(nearest / scores["mae"], 3))
        for name, scores in sorted(methods.items(), key=lambda item: (-item[1]["mae"], item[0]))
        if not math.isnan(scores["mae"])
    ]
    return Table(header, tuple(rows))


def _read_baselines(runs: pd.DataFrame) -> dict[str, float]:
    """Return the validation mae of nearest and lanczos, as means over the runs."""
    columns = {name: f"metrics.val/{name}/mae" for name in ("nearest", "lanczos")}
    return {name: float(runs[key].mean()) for name, key in columns.items() if key in runs and runs[key].notna().any()}


def _describe_photos(best: pd.Series | None) -> str:
    """Return the number of test photos as text, if it is known."""
    count = math.nan if best is None else float(best.get("metrics.test/photo_count", math.nan))
    return "" if math.isnan(count) else f", tested on {count:.0f} photo{'' if count == 1 else 's'}"


def _describe_run(run: pd.Series | None) -> str:
    """Describe a run with its dataset and budget."""
    if run is None:
        return ""
    return f"{run['name']} (run {run['run_id'][:8]}) on {run['dataset']}, {format_budget(run.to_frame().T)}"
