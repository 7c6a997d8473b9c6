"""Builds the contents of a report from the table of runs and the claims."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from loupe.errors import UsageError
from loupe.report import charts
from loupe.report.claims import Claim
from loupe.report.contents import ClaimResult, ReportContents, ReportImage, SharedRuns
from loupe.report.formatting import DASH, format_estimate, format_number
from loupe.report.quality_scores import read_quality_scores
from loupe.report.study_numbers import find_study_run, read_pre_upscaled_scores, read_scores
from loupe.report.trends import compute_trend
from loupe.report.verdicts import check_claim, format_budget, name_arms, select_runs

STEPS, SECONDS = "metrics.training_steps", "metrics.training_seconds"
DRAWS, TEST_PHOTOS = "draw_difference", "metrics.test/photo_count"
STUDY_BASELINES = {"val/nearest/mae": "nearest", "val/lanczos/mae": "Lanczos"}


@dataclass(frozen=True)
class ClaimRuns:
    """A claim, the path of its sweep file, and the runs that `search.arms.find_runs` finds for the sweep file."""

    sweep_file: str
    claim: Claim
    arms: pd.DataFrame


def select_dataset(table: pd.DataFrame, dataset: str | None) -> pd.DataFrame:
    """Select the runs on one dataset, by its name or digest.

    None selects the dataset with the most trials or, without trials, with the most runs.

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
    table: pd.DataFrame, rows: pd.DataFrame, claims: Iterable[ClaimRuns], images: Iterable[ReportImage] = ()
) -> ReportContents:
    """Check the claims and build the contents of the report.

    Args:
        table: all runs.
        rows: the runs on one dataset, from which the best networks are chosen.
        claims: the claims with their runs, which may be on further datasets.
        images: results of networks for test photos.

    Raises:
        UsageError: two claims have the same number, or `check_claim` raises this error.
    """
    claims = sorted(claims, key=lambda each: each.claim.order)
    datasets = {str(name) for each in claims if len(each.arms) for name in each.arms["dataset"]}
    datasets.add(str(rows["dataset"].iloc[0]))
    best, study_run = find_best_run(rows), find_study_run(table, datasets)
    users = _list_users(claims)
    return ReportContents(
        datasets=tuple(sorted(datasets)),
        run_count=len(users),
        shared_runs=_find_shared_runs(users),
        steps=_format_range([each.arms for each in claims], STEPS),
        curve_images=_format_range([each.arms for each in claims], "settings.eval_images"),
        draw_photos=_format_range([each.arms for each in claims if DRAWS in each.claim.metric], TEST_PHOTOS),
        claims=_check_claims(claims),
        best_network=_describe_run(best),
        best_scores=read_scores(best) | read_pre_upscaled_scores(rows),
        study_network=_describe_run(study_run),
        study_scores=read_scores(study_run),
        study_curve=charts.draw_training("study-curve", study_run, STUDY_BASELINES),
        quality_scores=read_quality_scores(table),
        images=tuple(images),
    )


def rank_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """Rank the complete trials and trainings of the most frequent scale factor by validation mae, lowest first."""
    metric = "metrics.val/best_mae"
    if metric not in rows:
        return rows[:0]
    complete = rows[rows[metric].notna() & (rows["state"] == "COMPLETE") & rows["kind"].isin(["trial", "train"])]
    if "settings.scale" in complete and complete["settings.scale"].notna().any():
        complete = complete[complete["settings.scale"] == complete["settings.scale"].mode().iloc[0]]
    return complete.sort_values([metric, "run_id"])


def find_best_run(rows: pd.DataFrame) -> Any:
    """Find the first run of `rank_runs` that has test scores, or None."""
    ranking = rank_runs(rows)
    scored = ranking[ranking["metrics.test/mae"].notna()] if "metrics.test/mae" in ranking else ranking[:0]
    return scored.iloc[0] if len(scored) else None


def _check_claims(claims: Iterable[ClaimRuns]) -> tuple[ClaimResult, ...]:
    results: dict[str, ClaimResult] = {}
    for claim_runs in claims:
        claim, arms = claim_runs.claim, claim_runs.arms
        other = results.get(claim.number)
        if other is not None:
            raise UsageError(
                f"claim {claim.number}: must have a number that no other claim has, got it in {other.sweep_file} "
                f"and {claim_runs.sweep_file}"
            )
        verdict, runs = check_claim(claim, arms), select_runs(claim, arms)
        groups = f"seeds and {claim.worst_over}" if claim.worst_over else "seeds"
        chart = charts.draw_curves(f"curves-{claim.number}", runs, groups)
        result = ClaimResult(
            claim_runs.sweep_file,
            verdict,
            chart,
            compute_trend(verdict, arms),
            at_grid_end=any("at_grid_end" in rows and rows["at_grid_end"].eq(True).any() for rows in runs.values()),
            loses_to_nearest=any(map(_loses_to_nearest, runs.values())),
        )
        results[claim.number] = _add_surprise(result, runs)
    return tuple(results.values())


def _add_surprise(result: ClaimResult, runs: Mapping[str, pd.DataFrame]) -> ClaimResult:
    """Add the text and figure of `claim.surprise` if the claim has the outcome `surprise.outcome`."""
    verdict = result.verdict
    surprise, weakest = verdict.claim.surprise, verdict.weakest
    if surprise is None or weakest is None or verdict.outcome != surprise.outcome:
        return result
    means = {arm.name: format_number(arm.estimate.mean) for arm in verdict.arms}
    names = {"first": weakest.name, "second": weakest.other}
    values = {key: means.get(name, DASH) for key, name in names.items()}
    values |= {f"{key}_steps": _format_steps(runs.get(name)) for key, name in names.items()}
    values["budget"] = format_budget(rows.drop(columns=SECONDS, errors="ignore") for rows in runs.values())
    text = surprise.text.format(**values, difference=format_estimate(weakest.estimate))
    name = f"claim-{verdict.claim.number}"
    if surprise.curves:
        names = name_arms(verdict.claim)
        figure = charts.draw_curves(name, {label: runs[names[arm]] for arm, label in surprise.curves.items()})
    else:
        figure = charts.draw_values(name, runs[weakest.name], surprise.metrics)
    return replace(result, surprise=text, figure=figure)


def _format_steps(runs: pd.DataFrame | None) -> str:
    """Format the mean number of steps and the median time: `3,349 steps in 158 s`."""
    if runs is None or STEPS not in runs or runs[STEPS].isna().all():
        return DASH
    times = runs[SECONDS].dropna() if SECONDS in runs else pd.Series(dtype=float)
    return f"{runs[STEPS].mean():,.0f} steps" + (f" in {times.median():,.0f} s" if len(times) else "")


def _format_range(tables: Iterable[pd.DataFrame], column: str) -> str:
    """Format the smallest and the largest positive number in a column: `48`, or `40 to 12,000`; else a dash."""
    values = [pd.to_numeric(table[column], errors="coerce") for table in tables if column in table]
    numbers = sorted({float(number) for series in values for number in series if number > 0})
    return " to ".join(f"{number:,.0f}" for number in dict.fromkeys((*numbers[:1], *numbers[-1:]))) or DASH


def _list_users(claims: Iterable[ClaimRuns]) -> dict[str, tuple[str, ...]]:
    """Return the numbers of the claims that use a run, by the id of the run."""
    users: dict[str, dict[str, None]] = defaultdict(dict)  # the keys are the numbers, in the order of the claims
    for each in claims:
        for rows in select_runs(each.claim, each.arms).values() if len(each.arms) else ():
            for run_id in rows["run_id"]:
                users[run_id][each.claim.number] = None
    return {run_id: tuple(numbers) for run_id, numbers in users.items()}


def _find_shared_runs(users: Mapping[str, tuple[str, ...]]) -> SharedRuns:
    """Find the runs that most claims use; `users` is the result of `_list_users`."""
    counts = Counter(users.values())
    numbers = max(counts, key=len, default=())
    return SharedRuns(counts[numbers], numbers)


def _loses_to_nearest(rows: pd.DataFrame) -> bool:
    """Return whether a run has a higher validation mae than nearest."""
    names = ["metrics.val/best_mae", "metrics.val/nearest/mae"]
    return set(names) <= set(rows.columns) and bool((rows[names[0]] > rows[names[1]]).any())


def _describe_run(run: pd.Series | None) -> str:
    """Describe a run with its dataset and budget."""
    if run is None:
        return ""
    return f"{run['name']} (run {run['run_id'][:8]}) on {run['dataset']}, {format_budget([run.to_frame().T])}"
