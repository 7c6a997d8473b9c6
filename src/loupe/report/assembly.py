"""The table of runs and the claims, to all that a report says."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from loupe.errors import UsageError
from loupe.report import charts
from loupe.report.claims import Claim
from loupe.report.contents import Judged, Picture, Report, Table
from loupe.report.formatting import NOTHING, number
from loupe.report.study_numbers import by_its_protocol, study_table
from loupe.report.verdicts import budget_of, judge, runs_of

BOARD, LEADERS = 20, 6
# Metrics whose trend the curve of validation mae shows.
CURVED = ("val/best_mae", "val/best_mse", "val/best_psnr", "val/lowest_mae", "val/gain")
SCORES = {"mae": "mae", "psnr": "PSNR, dB", "ssim": "SSIM", "mse": "mse"}


@dataclass(frozen=True)
class Case:
    """A claim, the sweep file that it stands in, and the runs of that sweep that it is judged by."""

    file: str
    claim: Claim
    arms: pd.DataFrame


def on_dataset(table: pd.DataFrame, dataset: str | None) -> pd.DataFrame:
    """The runs on one dataset.

    Args:
        table: of all runs.
        dataset: its name or digest; None is the one with the most trials.

    Raises:
        UsageError: there is no run on it.
    """
    if dataset is None:
        trials = table[table["kind"] == "trial"] if (table["kind"] == "trial").any() else table
        counts = trials["dataset"].value_counts()
        dataset = min(counts[counts == counts.max()].index, default="")
    found = table[(table["dataset"] == dataset) | (table["digest"] == dataset)]
    if found.empty:
        names = ", ".join(sorted(table["dataset"].dropna().unique())) or "none"
        raise UsageError(f"dataset: must be one that runs are on ({names}), got {dataset!r}")
    return found


def gathered(table: pd.DataFrame, here: pd.DataFrame, cases: Iterable[Case], made: Mapping[str, Picture]) -> Report:
    """Judge the claims and gather the rest.

    Args:
        table: of all runs.
        here: of the runs on the dataset that is judged on.
        cases: the claims with their runs.
        made: the images that need models, `comparison` and `story`, where there are any.

    Raises:
        UsageError: two claims have one number.
    """
    judged = _judged(cases)
    board = leaderboard(here)
    dataset = str(here["dataset"].iloc[0])
    best, theirs = best_run(here), by_its_protocol(table, dataset)
    return Report(
        dataset=dataset,
        runs=len(here),
        judged=judged,
        leaderboard=_board_table(board.head(BOARD)),
        best=_called(best),
        test=_test_table(best),
        study=study_table(table, best, theirs),
        theirs=_called(theirs),
        leaders=charts.leaders(board.drop_duplicates("name").head(LEADERS), _baselines(board)),
        comparison=made.get("comparison"),
        story=made.get("story"),
    )


def leaderboard(here: pd.DataFrame) -> pd.DataFrame:
    """The whole runs of the scale that most of them have, best on validation first."""
    metric = "metrics.val/best_mae"
    if metric not in here:
        return here[:0]
    whole = here[here[metric].notna() & (here["state"] == "COMPLETE") & here["kind"].isin(["trial", "train"])]
    if "settings.scale" in whole and whole["settings.scale"].notna().any():
        whole = whole[whole["settings.scale"] == whole["settings.scale"].mode().iloc[0]]
    return whole.sort_values([metric, "run_id"])


def best_run(here: pd.DataFrame) -> Any:
    """The run that is best on validation of those whose model and test scores are kept; None without one."""
    board = leaderboard(here)
    kept = board[board["metrics.test/mae"].notna()] if "metrics.test/mae" in board else board[:0]
    return kept.iloc[0] if len(kept) else None


def _judged(cases: Iterable[Case]) -> tuple[Judged, ...]:
    found: dict[str, Judged] = {}
    for case in sorted(cases, key=lambda case: case.claim.order):
        claim = case.claim
        if claim.number in found:
            raise UsageError(f"claim {claim.number}: stands in both {found[claim.number].file} and {case.file}")
        verdict, runs = judge(claim, case.arms), runs_of(claim, case.arms)
        sentences = charts.trends(verdict, runs) if claim.metric in CURVED and not claim.change_to else ()
        found[claim.number] = Judged(case.file, verdict, charts.trend(verdict, runs), sentences)
    return tuple(found.values())


def _board_table(board: pd.DataFrame) -> Table:
    header = ("place", "network", "seed", "sweep", "budget", "validation mae", "test mae", "run")
    rows = []
    for place, (_, run) in enumerate(board.iterrows(), 1):
        rows.append(
            (
                str(place),
                str(run["name"]),
                _text(run.get("settings.seed")),
                _text(run["sweep"]),
                budget_of(run.to_frame().T),
                number(run["metrics.val/best_mae"]),
                number(run.get("metrics.test/mae")),
                run["run_id"][:8],
            )
        )
    return Table(header, tuple(rows))


def _test_table(best: pd.Series | None) -> Table:
    """The best network between the baselines, worst first."""
    header = ("method", *SCORES.values(), "gain over nearest")
    if best is None:
        return Table(header, ())
    names = {key.split("/")[1] for key in best.index if key.startswith("metrics.test/") and key.count("/") == 2}
    values = {
        name: {score: float(best.get(f"metrics.test/{name}/{score}", float("nan"))) for score in SCORES}
        for name in names
    }
    values["the best network"] = {score: float(best.get(f"metrics.test/{score}", float("nan"))) for score in SCORES}
    nearest = values.get("nearest", {}).get("mae", float("nan"))
    there = {name: scores for name, scores in values.items() if scores["mae"] == scores["mae"]}
    rows = [
        (name, *(number(scores[score]) for score in SCORES), number(nearest / scores["mae"], 3))
        for name, scores in sorted(there.items(), key=lambda item: (-item[1]["mae"], item[0]))
    ]
    return Table(header, tuple(rows))


def _baselines(board: pd.DataFrame) -> dict[str, float]:
    """Validation mae of the classical filters that every trial logs."""
    names = {name: f"metrics.val/{name}/mae" for name in ("nearest", "lanczos")}
    return {
        name: float(board[key].mean()) for name, key in names.items() if key in board and board[key].notna().any()
    }


def _called(run: pd.Series | None) -> str:
    """A run for people, with its dataset and budget; empty for none."""
    if run is None:
        return ""
    return f"{run['name']} (run {run['run_id'][:8]}) on {run['dataset']}, {budget_of(run.to_frame().T)}"


def _text(value: Any) -> str:
    return NOTHING if value is None or pd.isna(value) else str(value)
