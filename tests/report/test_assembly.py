"""Building the contents of a report from a table of runs."""

import math

import pandas as pd
import pytest
from made_up import DATASET, FILES, SWEEPS, make_report, make_table

from loupe.config import parse_settings
from loupe.errors import UsageError
from loupe.report import assembly, study_numbers
from loupe.report.claims import Surprise
from loupe.report.contents import SharedRuns
from loupe.report.formatting import DASH
from loupe.report.verdicts import NOT_RUN, check_claim
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


def test_best_network_is_the_scored_run_with_the_lowest_validation_mae(report, table):
    best = table[table["metrics.test/mae"].notna()].sort_values("metrics.val/best_mae").iloc[0]
    assert best["run_id"][:8] in report.best_network
    assert report.best_scores["mae"] == f"{best['metrics.test/mae']:.5f}"
    assert report.best_scores["bicubic"] == "0.03600"
    assert report.best_scores["percent"] == f"{50 * best['metrics.test/mae']:.1f}"


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_run_without_a_setting_of_other_runs_has_a_dash(missing, table):
    best = table.iloc[0]
    scores = study_numbers.read_scores(best)
    assert scores["learning_rate"] == f"{float(best['settings.learning_rate']):.2g}".replace("e-0", "e-")
    ridge = best.copy()
    ridge["settings.learning_rate"] = missing
    assert study_numbers.read_scores(ridge) == scores | {"learning_rate": DASH}


def test_the_runs_of_a_sweep_are_on_the_dataset_with_the_most_of_its_runs(table):
    sweep = sweep_loader.load_sweep(FILES[0])
    complete = sweep_arms.find_runs(sweep, table)
    other = table.assign(dataset="other-1", digest="1")
    own = table.assign(sweep=sweep.name)
    for both in (pd.concat([table, other.head(3)]), pd.concat([own, other.assign(sweep="another name")])):
        found = sweep_arms.find_runs(sweep, both)
        assert set(found["dataset"]) == {DATASET}
        assert len(found) == len(complete)
    found = sweep_arms.find_runs(sweep, pd.concat([table.head(3), other]))
    assert set(found["dataset"]) == {"other-1"}


def test_runs_of_arms_that_no_claim_compares_are_not_counted():
    file = SWEEPS / "schedule.toml"
    arms = sweep_arms.find_runs(sweep_loader.load_sweep(file), make_table([file], seeds=3))
    assert set(arms["schedule"]) == {"constant", "cosine", "exponential"}
    assert make_report(make_table([file], seeds=3), [file]).run_count == (arms["schedule"] != "cosine").sum() == 4


def test_the_shared_runs_are_those_of_most_claims(table):
    report = make_report(table, FILES)
    arms = sweep_arms.find_runs(sweep_loader.load_sweep(FILES[0]), table)
    is_shared = (arms["activation"] == "tanh") & (arms["output_activation"] == "linear")
    assert report.shared_runs == SharedRuns(is_shared.sum(), ("6", "7", "8b"))


def test_claims_show_whether_a_run_is_worse_than_nearest(table):
    arms = sweep_arms.find_runs(sweep_loader.load_sweep(FILES[0]), table)
    run_id = arms[arms["activation"] == "relu"]["run_id"].iloc[0]
    assert not any(claim.loses_to_nearest for claim in make_report(table, FILES).claims)
    table = table.assign(
        **{"metrics.val/nearest/mae": table["metrics.val/nearest/mae"].where(table["run_id"] != run_id, 0)}
    )
    claims = make_report(table, FILES).claims
    assert {claim.verdict.claim.number for claim in claims if claim.loses_to_nearest} <= {"7", "8a", "8b"}
    assert any(claim.loses_to_nearest for claim in claims)


@pytest.mark.parametrize(("best_rate", "at_end"), [(3e-4, True), (1e-3, False), (3e-3, True)])
def test_claims_show_whether_a_learning_rate_is_at_an_end_of_its_grid(table, best_rate, at_end):
    rates = table["settings.learning_rate"].astype(float)
    table = table.assign(**{"metrics.val/best_mae": 0.03 + abs(rates - best_rate)})
    claims = make_report(table, [SWEEPS / "dropout.toml"]).claims
    assert [claim.at_grid_end for claim in claims] == [at_end] * len(claims)


def test_a_grid_without_learning_rates_has_no_ends(tmp_path):
    file = tmp_path / "ridge.toml"
    study = '[study]\nname = "ridge"\nrepeats = 3\ntune = ["alpha"]\n'
    file.write_text(study + '[train]\nnetwork = "ridge"\n[search]\nalpha = [0.1, 1]\n', encoding="utf-8")
    arms = sweep_arms.find_runs(sweep_loader.load_sweep(file), make_table([file]))
    assert len(arms) == 2
    assert arms["at_grid_end"].isna().all()


CLAIM_ON_EACH_HIDDEN = """
[study]
name = "made-up"
repeats = 3
[train]
network = "perceptron"
[search]
activation = ["tanh", "relu"]
hidden = ["8", "16"]
[[claim]]
number = 1
text = "tanh beats ReLU"
metric = "val/best_mae"
arm = {activation = "tanh"}
beats = [{activation = "relu"}]
"""


@pytest.mark.parametrize("field", ["each", "worst_over"])
def test_a_claim_is_not_run_if_a_value_of_the_sweep_file_has_no_run(field, tmp_path):
    file = tmp_path / "made-up.toml"
    file.write_text(f'{CLAIM_ON_EACH_HIDDEN}{field} = "hidden"\n', encoding="utf-8")
    runs = make_table([file])
    runs["metrics.val/best_mae"] = runs["settings.activation"].map({"tanh": 0.1, "relu": 0.2})
    complete = make_report(runs, [file]).claims[0].verdict
    partial = make_report(runs[runs["settings.hidden"] == "8"], [file]).claims[0].verdict
    assert (complete.outcome, partial.outcome) == ("holds", NOT_RUN)
    assert partial.reason.endswith("no run has val/best_mae")


def test_only_the_seeds_of_the_sweep_file_count():
    sweep = sweep_loader.load_sweep(FILES[0])
    table = make_table([FILES[0]], seeds=len(sweep.seeds) + 3)
    arms = sweep_arms.find_runs(sweep, table)
    assert set(arms["seed"]) == set(sweep.seeds[1:])
    later = sweep_loader.load_sweep(FILES[0], parse_settings("sweep", {"seed": str(sweep.seeds[-1])}))
    assert set(sweep_arms.find_runs(later, table)["seed"]) == set(later.seeds[1:4])


def test_dataset_is_the_named_one_or_the_most_frequent(table):
    other = table.head(3).assign(dataset="other-ba9876543210", digest="ba9876543210")
    both = pd.concat([table, other])
    assert set(assembly.select_dataset(both, None)["dataset"]) == {DATASET}
    assert len(assembly.select_dataset(both, "ba9876543210")) == 3
    with pytest.raises(UsageError, match=f"other-ba9876543210, {DATASET}"):
        assembly.select_dataset(both, "nowhere")


def test_duplicate_claim_numbers_are_refused(table):
    with pytest.raises(UsageError, match=r"claim 18: must have a number .*, got it in sweeps/dropout\.toml and"):
        make_report(table, [SWEEPS / "dropout.toml"] * 2)


def test_report_without_claims_and_test_scores(table):
    bare = table.drop(columns=[name for name in table if name.startswith("metrics.test/")])
    found = make_report(bare, [])
    assert (found.summary, found.best_network) == ("0 claims: 0 hold, 0 do not hold, 0 undecided, 0 not run.", "")
    assert set(found.best_scores.values()) == set(found.study_scores.values()) == {"–"}


def test_study_run_has_crops_at_any_offset_and_prefers_another_dataset(report, table):
    assert report.study_network == ""
    here = table.assign(**{"metrics.test/patches_mae": 0.06, "metrics.test/draw_difference": 0.011})
    here.loc[here.index[:9], "settings.crop_positions"] = "any"
    there = here.head(9).assign(dataset="recompressed-1", digest="1", **{"metrics.test/patches_mae": 0.064})
    scores = make_report(here, []).study_scores
    assert (scores["patches_mae"], scores["draws"]) == ("0.06000", "1.1")
    found = make_report(pd.concat([here, there], ignore_index=True), [])
    assert (found.study_scores["patches_mae"], found.study_scores["patches_percent"]) == ("0.06400", "3.2")
    assert "on recompressed-1, 1e12 FLOPs" in found.study_network
    assert found.figures[-1] is found.study_curve is not None


def test_scores_contain_a_network_with_upscaled_inputs(table):
    entered = table.head(1).assign(**{"settings.pre_upscale": "lanczos", "metrics.val/input_mae": 0.034})
    entered["metrics.val/best_mae"] = 0.04
    scores = make_report(pd.concat([table, entered], ignore_index=True), []).best_scores
    names = ("network", "filter", "input")
    assert tuple(scores[name] for name in names) == ("0.04000", "lanczos", "0.03400")
    # Runs on another dataset than that of the report do not count.
    other = pd.concat([table, entered.assign(dataset="other-1", digest="1")], ignore_index=True)
    scores = make_report(other, []).best_scores
    assert [scores[name] for name in names] == [DASH] * 3


SURPRISE = {"outcome": "does not hold", "text": "{first} and {second}: {first_steps}, {second_steps}, {budget}"}
CURVES = {"curves": {"keep_prob=1.0": "no dropout", "keep_prob=0.9": "dropout"}}


@pytest.mark.parametrize("figure", [CURVES, {"metrics": {"val/best_mae": "network", "val/lanczos/mae": "Lanczos"}}])
def test_surprise_is_shown_for_its_outcome_only(table, figure):
    sweep = sweep_loader.load_sweep(SWEEPS / "dropout.toml")
    arms = sweep_arms.find_runs(sweep, table).copy()
    surprise = Surprise.model_validate(SURPRISE | figure)
    claim = sweep.claims[0].model_copy(update={"surprise": surprise})
    results = []
    arms["metrics.training_seconds"] = arms["keep_prob"].map({"0.5": 11.0})
    for sign in (1, -1):
        arms["metrics.val/best_mae"] = 0.05 + sign * 0.01 * arms["keep_prob"].astype(float)
        claims = [assembly.ClaimRuns("sweeps/dropout.toml", claim, arms)]
        results.append(assembly.build_report(table, table, claims).claims[0])
    fails, holds = results
    assert (fails.verdict.outcome, holds.verdict.outcome) == ("does not hold", "holds")
    assert fails.surprise == "0.06000 and 0.05500: 400 steps, 400 steps in 11 s, 1e13 FLOPs"
    assert fails.figure.png.startswith(b"\x89PNG")
    assert (holds.surprise, holds.figure) == ("", None)
