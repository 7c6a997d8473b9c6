"""From a table of runs to all that a report says."""

import pandas as pd
import pytest
from made_up import BASELINES, DATASET, FILES, SWEEPS, report_of, table_of

from loupe.errors import UsageError
from loupe.report import assembly
from loupe.report.charts import trends
from loupe.report.claims import Claim
from loupe.report.verdicts import NOT_RUN, judge, runs_of
from loupe.search import arms as found_arms
from loupe.search import sweep_loader

WITH_CLAIMS = [file for file in sorted(SWEEPS.glob("*.toml")) if sweep_loader.load_sweep(file).claims]


@pytest.mark.parametrize("file", WITH_CLAIMS, ids=lambda file: file.stem)
def test_every_claim_of_a_sweep_file_is_decided_by_its_own_points(file):
    sweep, table = sweep_loader.load_sweep(file), table_of([file], seeds=2)
    arms = found_arms.find_runs(sweep, table)
    for claim in sweep.claims:
        found = judge(claim, arms)
        assert found.verdict != NOT_RUN, found.reason
        assert found.budget


def test_the_order_of_the_table_changes_no_verdict(report, table):
    shuffled = table.sample(frac=1, random_state=0, ignore_index=True)
    assert [part.verdict for part in report_of(shuffled, FILES).judged] == [part.verdict for part in report.judged]
    arms = found_arms.find_runs(sweep_loader.load_sweep(FILES[0]), shuffled)
    assert (arms["activation"] == arms["settings.activation"]).all()


def test_no_two_files_have_a_claim_of_one_number():
    numbers = [claim.number for file in WITH_CLAIMS for claim in sweep_loader.load_sweep(file).claims]
    assert len(set(numbers)) == len(numbers)
    claims = {int(number.rstrip("abcdef")) for number in numbers}
    assert claims == set(range(1, 32))


def test_a_report_counts_its_verdicts(report):
    verdicts = [part.verdict for part in report.judged]
    assert [found.claim.number for found in verdicts] == ["6", "7", "8a", "8b", "18", "19"]
    assert sum(report.counts.values()) == 6
    assert report.summary.startswith("6 claims: ")
    for found in verdicts:
        assert report.counts[found.verdict] >= 1


def test_the_leaderboard_is_by_validation_and_the_test_table_of_a_run_with_test_scores(report, table):
    maes = sorted(table["metrics.val/best_mae"])
    assert [row[5] for row in report.leaderboard.rows] == [f"{mae:.5f}" for mae in maes[:20]]
    kept = table[table["metrics.test/mae"].notna()].sort_values("metrics.val/best_mae").iloc[0]
    assert kept["run_id"][:8] in report.best
    assert {row[0] for row in report.test.rows} == {*BASELINES, "the best network"}
    shown = [float(row[1]) for row in report.test.rows]
    assert shown == sorted(shown, reverse=True)


def test_the_dataset_is_the_one_of_most_trials_or_the_one_named(table):
    other = table.head(3).assign(dataset="other-ba9876543210", digest="ba9876543210")
    both = pd.concat([table, other])
    assert set(assembly.on_dataset(both, None)["dataset"]) == {DATASET}
    assert len(assembly.on_dataset(both, "ba9876543210")) == 3
    with pytest.raises(UsageError, match=f"other-ba9876543210, {DATASET}"):
        assembly.on_dataset(both, "nowhere")


def test_claims_of_one_number_are_refused(table):
    with pytest.raises(UsageError, match=r"claim 18: stands in both sweeps/dropout\.toml and sweeps/dropout\.toml"):
        report_of(table, [SWEEPS / "dropout.toml"] * 2)


def test_a_report_without_claims_or_test_scores_is_still_one(table):
    bare = table.drop(columns=[name for name in table if name.startswith("metrics.test/")])
    found = report_of(bare, [])
    assert (found.summary, found.best, found.test.rows) == (
        "0 claims: 0 hold, 0 do not hold, 0 undecided, 0 not run.", "", ()
    )  # fmt: skip


def test_the_box_of_the_studys_numbers_has_ours_beside_them(report):
    rows = {row[0]: row for row in report.study.rows}
    mae = float(next(row[1] for row in report.test.rows if row[0] == "the best network"))
    assert rows["0.064, «6 %»"][3] == f"mae {mae:.5f} on whole images: {50 * mae:.1f} % of full scale"
    assert rows["bicubic 0.052, nearest 0.105"][3] == "bicubic 0.03600, nearest 0.05000"
    assert rows["0.064, «6 %»"][2] == "–"  # no run by the study's protocol
    assert report.theirs == ""


def test_the_studys_protocol_is_crops_at_any_offset_on_photos_of_another_dataset_first(table):
    here = table.assign(**{"metrics.test/patches_mae": 0.06, "metrics.test/draw_difference": 0.011})
    here.loc[here.index[:9], "settings.crops"] = "any"
    there = here.head(9).assign(dataset="recompressed-1", digest="1", **{"metrics.test/patches_mae": 0.064})
    assert report_of(here, []).study.rows[2][2] == "mae 0.06000 on random patches; two draws differ by 1.1 %"
    found = report_of(pd.concat([here, there], ignore_index=True), [])
    assert found.study.rows[0][2] == "mae 0.06400 on random patches: 3.2 % of full scale"
    assert "on recompressed-1, 10 s of one core" in found.theirs


def test_a_network_stands_beside_its_own_input(table):
    entered = table.head(1).assign(**{"settings.pre_upscale": "lanczos", "metrics.val/input_mae": 0.034})
    entered["metrics.val/best_mae"] = 0.04
    rows = report_of(pd.concat([table, entered], ignore_index=True), []).study.rows
    assert rows[-1][3] == "on validation: network 0.04000, its input by lanczos 0.03400"


def test_the_trend_tells_a_gap_that_closes():
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
    (sentence,) = trends(judge(claim, arms), runs_of(claim, arms))
    assert "−0.100 at half of the budget, −0.0100 at its end: the gap is closing" in sentence
