"""Building the contents of a report from a table of runs."""

import pandas as pd
import pytest
from made_up import BASELINES, DATASET, FILES, SWEEPS, make_report, make_table

from loupe.errors import UsageError
from loupe.report import assembly
from loupe.report.charts import describe_trends
from loupe.report.claims import Claim
from loupe.report.verdicts import NOT_RUN, check_claim, select_runs
from loupe.search import arms as sweep_arms
from loupe.search import sweep_loader

WITH_CLAIMS = [file for file in sorted(SWEEPS.glob("*.toml")) if sweep_loader.load_sweep(file).claims]


@pytest.mark.parametrize("file", WITH_CLAIMS, ids=lambda file: file.stem)
def test_points_of_a_sweep_decide_all_its_claims(file):
    sweep, table = sweep_loader.load_sweep(file), make_table([file], seeds=3)
    arms = sweep_arms.find_runs(sweep, table)
    for claim in sweep.claims:
        verdict = check_claim(claim, arms)
        assert verdict.outcome != NOT_RUN, verdict.reason
        assert verdict.budget


def test_verdicts_do_not_depend_on_row_order(report, table):
    shuffled = table.sample(frac=1, random_state=0, ignore_index=True)
    verdicts = [result.verdict for result in report.claims]
    assert [result.verdict for result in make_report(shuffled, FILES).claims] == verdicts
    arms = sweep_arms.find_runs(sweep_loader.load_sweep(FILES[0]), shuffled)
    assert (arms["activation"] == arms["settings.activation"]).all()


def test_claim_numbers_are_unique_and_complete():
    numbers = [claim.number for file in WITH_CLAIMS for claim in sweep_loader.load_sweep(file).claims]
    assert len(set(numbers)) == len(numbers)
    claims = {int(number.rstrip("abcdef")) for number in numbers}
    assert claims == set(range(1, 32))


def test_report_counts_outcomes(report):
    verdicts = [result.verdict for result in report.claims]
    assert [verdict.claim.number for verdict in verdicts] == ["6", "7", "8a", "8b", "18", "19"]
    assert sum(report.counts.values()) == 6
    assert report.summary.startswith("6 claims: ")
    for verdict in verdicts:
        assert report.counts[verdict.outcome] >= 1


def test_leaderboard_is_sorted_by_validation_and_test_table_has_a_scored_run(report, table):
    maes = sorted(table["metrics.val/best_mae"])
    assert [row[5] for row in report.leaderboard.rows] == [f"{mae:.5f}" for mae in maes[:20]]
    kept = table[table["metrics.test/mae"].notna()].sort_values("metrics.val/best_mae").iloc[0]
    assert kept["run_id"][:8] in report.best_network
    assert {row[0] for row in report.test_scores.rows} == {*BASELINES, "the best network"}
    shown = [float(row[1]) for row in report.test_scores.rows]
    assert shown == sorted(shown, reverse=True)


def test_dataset_is_the_named_one_or_the_most_frequent(table):
    other = table.head(3).assign(dataset="other-ba9876543210", digest="ba9876543210")
    both = pd.concat([table, other])
    assert set(assembly.select_dataset(both, None)["dataset"]) == {DATASET}
    assert len(assembly.select_dataset(both, "ba9876543210")) == 3
    with pytest.raises(UsageError, match=f"other-ba9876543210, {DATASET}"):
        assembly.select_dataset(both, "nowhere")


def test_duplicate_claim_numbers_are_refused(table):
    with pytest.raises(UsageError, match=r"claim 18: must be in one file, got sweeps/dropout\.toml and"):
        make_report(table, [SWEEPS / "dropout.toml"] * 2)


def test_report_without_claims_and_test_scores(table):
    bare = table.drop(columns=[name for name in table if name.startswith("metrics.test/")])
    found = make_report(bare, [])
    assert (found.summary, found.best_network, found.test_scores.rows) == (
        "0 claims: 0 hold, 0 do not hold, 0 undecided, 0 not run.", "", ()
    )  # fmt: skip


def test_study_table_contains_own_numbers(report):
    rows = {row[0]: row for row in report.study_numbers.rows}
    mae = float(next(row[1] for row in report.test_scores.rows if row[0] == "the best network"))
    assert rows["0.064, «6 %»"][3] == f"mae {mae:.5f} on whole images: {50 * mae:.1f} % of full scale"
    assert rows["bicubic 0.052, nearest 0.105"][3] == "bicubic 0.03600, nearest 0.05000"
    assert rows["0.064, «6 %»"][2] == "–"  # no run by the study's protocol
    assert report.study_network == ""


def test_study_run_has_crops_at_any_offset_and_prefers_another_dataset(table):
    here = table.assign(**{"metrics.test/patches_mae": 0.06, "metrics.test/draw_difference": 0.011})
    here.loc[here.index[:9], "settings.crops"] = "any"
    there = here.head(9).assign(dataset="recompressed-1", digest="1", **{"metrics.test/patches_mae": 0.064})
    assert (
        make_report(here, []).study_numbers.rows[2][2] == "mae 0.06000 on random patches; two draws differ by 1.1 %"
    )
    found = make_report(pd.concat([here, there], ignore_index=True), [])
    assert found.study_numbers.rows[0][2] == "mae 0.06400 on random patches: 3.2 % of full scale"
    assert "on recompressed-1, 1e12 FLOPs" in found.study_network


def test_study_table_compares_a_network_with_its_input(table):
    entered = table.head(1).assign(**{"settings.pre_upscale": "lanczos", "metrics.val/input_mae": 0.034})
    entered["metrics.val/best_mae"] = 0.04
    rows = make_report(pd.concat([table, entered], ignore_index=True), []).study_numbers.rows
    assert rows[-1][3] == "mae on validation photos: network 0.04000, its input (upscaled by lanczos) 0.03400"


def test_trend_describes_a_shrinking_difference():
    rows = [
        {"activation": name, "seed": seed, "metrics.val/best_mae": end, "settings.steps": "100",
         "curve.step": [0, 25, 50, 75, 100], "curve.val/mae": [1.0, 0.5, half, end, end]}
        for name, half, end in (("tanh", 0.1, 0.09), ("relu", 0.2, 0.1))
        for seed in range(2)
    ]  # fmt: skip
    claim = Claim(
        number="7", text="t", metric="val/best_mae", arm={"activation": "tanh"}, beats=({"activation": "relu"},)
    )
    arms = pd.DataFrame(rows)
    (sentence,) = describe_trends(check_claim(claim, arms), select_runs(claim, arms))
    assert "−0.100 at half of the budget, −0.0100 at the end. The difference shrinks" in sentence
