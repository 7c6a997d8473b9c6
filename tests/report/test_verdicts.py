"""Verdicts on arms whose differences are known."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from loupe.errors import UsageError
from loupe.report.claims import Claim
from loupe.report.intervals import FAILS, HOLDS, UNDECIDED, Estimate, Region, estimate
from loupe.report.verdicts import NOT_RUN, judge, name_of

MAE = "metrics.val/best_mae"
SAID: dict[str, Any] = {"number": "6", "text": "a", "metric": "val/best_mae", "arm": {"activation": "tanh"}}
SCORE = st.integers(0, 2000).map(lambda thousandths: thousandths / 1000)
BEATS = {"beats": [{"activation": "relu"}]}


def arms_of(*arms: dict[str, Any]) -> pd.DataFrame:
    """A row for each seed of each arm; a list of values counts by seed."""
    rows: list[dict[str, Any]] = []
    for arm in arms:
        count = max(len(value) for value in arm.values() if isinstance(value, list))
        for seed in range(count):
            rows.append({name: value[seed] if isinstance(value, list) else value for name, value in arm.items()})
            rows[-1] |= {"seed": seed, "settings.seconds": "20.0", "settings.steps": None}
    return pd.DataFrame(rows)


def two(ours: list[float], theirs: list[float], **more: Any) -> pd.DataFrame:
    return arms_of({"activation": "tanh", MAE: ours} | more, {"activation": "relu", MAE: theirs} | more)


def judged(arms: pd.DataFrame, **said: Any) -> Any:
    return judge(Claim.model_validate(SAID | said), arms)


def test_an_interval_is_students() -> None:
    values = np.array([0.1, 0.13, 0.11, 0.16])
    found = estimate(values)
    assert (found.low, found.high) == pytest.approx(t.interval(0.95, 3, values.mean(), values.std(ddof=1) / 2))


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        ([0.21, 0.32, 0.4], HOLDS),
        ([0.09, 0.185, 0.285], FAILS),
        ([0.21, 0.18, 0.3], UNDECIDED),
        ([0.1, 0.2, 0.3], FAILS),
    ],
)
def test_beats_is_decided_by_the_paired_difference(theirs: list[float], verdict: str) -> None:
    found = judged(two([0.1, 0.2, 0.3], theirs), **BEATS)
    assert found.verdict == verdict
    (part,) = found.comparisons
    assert part.estimate.mean == pytest.approx(np.mean([0.1, 0.2, 0.3]) - np.mean(theirs))
    assert part.estimate.seeds == 3
    assert {line.name: line.estimate.mean for line in found.lines} == pytest.approx(
        {"tanh": 0.2, "relu": np.mean(theirs)}
    )


def test_seeds_are_paired_by_their_number_not_their_place() -> None:
    arms = two([0.1, 0.2, 0.3], [0.11, 0.21, 0.31])
    assert judged(arms.sample(frac=1, random_state=1), **BEATS).verdict == HOLDS
    assert judged(arms.drop(index=1), **BEATS).comparisons[0].estimate.seeds == 2


@settings(max_examples=50)
@given(st.lists(st.tuples(SCORE, SCORE), min_size=2, max_size=6), st.booleans())
def test_who_beats_is_beaten_the_other_way_round(values: list[tuple[float, float]], higher: bool) -> None:
    ours, theirs = (list(side) for side in zip(*values, strict=True))
    there, back = (judged(arms, higher=higher, **BEATS) for arms in (two(ours, theirs), two(theirs, ours)))
    if ours == theirs:
        assert there.verdict == back.verdict == FAILS  # who is equal wins nothing
    elif there.verdict == UNDECIDED:
        assert back.verdict == UNDECIDED
        assert there.more_seeds == back.more_seeds
    else:
        assert {there.verdict, back.verdict} == {HOLDS, FAILS}


def test_higher_turns_the_winner_round() -> None:
    arms = two([0.1, 0.2, 0.3], [0.21, 0.32, 0.4])
    assert judged(arms, **BEATS).verdict == HOLDS
    assert judged(arms, higher=True, **BEATS).verdict == FAILS


def test_every_loser_and_every_value_of_each_has_to_be_beaten() -> None:
    easy, hard = two([0.1, 0.1], [0.2, 0.2], out="same"), two([0.1, 0.1], [0.05, 0.05], out="linear")
    assert judged(easy, each="out", **BEATS).verdict == HOLDS
    found = judged(pd.concat([easy, hard]), each="out", **BEATS)
    assert found.verdict == FAILS
    assert found.decisive.name == "activation=tanh, out=linear"
    assert len(found.lines) == 4
    both = arms_of({"activation": "sigmoid", MAE: [0.05, 0.05]})
    assert judged(pd.concat([easy, both]), beats=[*BEATS["beats"], {"activation": "sigmoid"}]).verdict == FAILS


@pytest.mark.parametrize(("within", "verdict"), [(0.2, HOLDS), (0.005, FAILS), (0.0101, UNDECIDED)])
def test_like_is_no_difference_beyond_within(within: float, verdict: str) -> None:
    arms = two([0.1, 0.2, 0.3], [0.111, 0.209, 0.31])
    assert judged(arms, like=BEATS["beats"], within=within).verdict == verdict


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [([1.2, 1.4], HOLDS), ([1.4, 1.5], FAILS), ([1.0, 1.1], FAILS), ([1.3, 1.4], UNDECIDED), ([-math.inf, 2], HOLDS)],
)
def test_between_is_decided_by_its_own_mean(bounds: list[float], verdict: str) -> None:
    arms = arms_of({"activation": "tanh", MAE: [1.29, 1.31, 1.3]})
    found = judged(arms, between=bounds)
    assert found.verdict == verdict
    assert found.comparisons[0].against == ""


def test_another_metric_of_its_own_runs_is_a_rival() -> None:
    arms = arms_of({"activation": "tanh", MAE: [0.1, 0.2, 0.3], "metrics.val/input_mae": [0.09, 0.18, 0.28]})
    assert judged(arms, beats_metric="val/input_mae").verdict == FAILS
    assert judged(arms, like_metric="val/input_mae", within=0.1).verdict == HOLDS
    assert judged(arms, beats_metric="val/input_mae").lines[1].estimate.mean == pytest.approx(0.55 / 3)


def test_the_worst_value_counts_for_each_seed() -> None:
    arms = pd.concat(
        [
            two([0.1, 0.3], [0.2, 0.2], width="64"),
            two([0.3, 0.1], [0.25, 0.25], width="512"),
            two([0.1], [9], width="8"),
        ]
    )
    found = judged(arms[arms["width"] != "8"], worst_over="width", **BEATS)
    assert found.verdict == FAILS  # 0.3 at one of its widths, whichever the seed
    assert found.comparisons[0].estimate.mean == pytest.approx(0.05)
    assert judged(arms, worst_over="width", **BEATS).verdict == NOT_RUN  # width 8 has one seed only
    best = judged(arms[arms["width"] != "8"], worst_over="width", higher=True, **BEATS)
    assert best.comparisons[0].estimate.mean == pytest.approx(-0.1)


def test_change_to_compares_what_the_change_costs() -> None:
    arms = pd.concat(
        [two([0.1, 0.2], [0.3, 0.4], limit="none"), two([0.2, 0.31], [0.31, 0.41], limit="64")], ignore_index=True
    )
    said = {"arm": {"activation": "tanh", "limit": "none"}, "beats": [{"activation": "relu", "limit": "none"}]}
    found = judged(arms, higher=True, change_to={"limit": 64}, **said)
    assert found.comparisons[0].estimate.mean == pytest.approx(0.105 - 0.01)
    assert [line.estimate.mean for line in found.lines] == pytest.approx([0.105, 0.01])


def test_numbers_are_the_same_however_they_are_written() -> None:
    arms = arms_of({"keep_prob": "1.0", MAE: [0.1, 0.1]}, {"keep_prob": "0.5", MAE: [0.2, 0.2]})
    assert judged(arms, arm={"keep_prob": 1}, beats=[{"keep_prob": 0.50}]).verdict == HOLDS


@pytest.mark.parametrize(
    ("arms", "reason"),
    [
        (pd.DataFrame(), "tanh: no run with val/best_mae"),
        (arms_of({"activation": "tanh", MAE: [0.1, 0.1]}), "relu: no run"),
        (two([0.1], [0.2]), "1 seed in common of at least 2"),
        (two([0.1, math.nan], [0.2, 0.3]), "1 seed in common of at least 2"),
        (two([0.1, 0.2], [0.2, 0.3]).rename(columns={MAE: "metrics.other"}), "no run with val/best_mae"),
    ],
)
def test_what_was_not_run_is_said(arms: pd.DataFrame, reason: str) -> None:
    found = judged(arms, **BEATS)
    assert found.verdict == NOT_RUN
    assert reason in found.reason


def test_an_arm_that_does_not_say_which_runs_is_refused() -> None:
    arms = pd.concat([two([0.1, 0.1], [0.2, 0.2], width="64"), two([0.1, 0.1], [0.2, 0.2], width="512")])
    with pytest.raises(UsageError, match="claim 6: tanh has two runs of a seed"):
        judged(arms, **BEATS)
    with pytest.raises(UsageError, match="claim 6: depth is no field"):
        judged(arms, arm={"depth": 1}, beats=[{"depth": 2}])


@given(st.floats(-1, 1), st.floats(0.01, 1), st.integers(2, 8))
def test_so_many_more_seeds_would_decide_and_one_less_would_not(mean: float, deviation: float, seeds: int) -> None:
    region = Region(-0.5, 0.5)
    found = Estimate(mean, deviation, seeds)
    more = region.seeds_missing(found)
    if region.verdict(found) == UNDECIDED and more is not None:
        assert region.verdict(Estimate(mean, deviation, seeds + more)) != UNDECIDED
        assert region.verdict(Estimate(mean, deviation, seeds + more - 1)) == UNDECIDED


def test_a_mean_on_the_bound_is_never_decided() -> None:
    found = judged(two([0.1, 0.2], [0.2, 0.1]), **BEATS)
    assert found.verdict == UNDECIDED
    assert found.more_seeds is None


def test_the_budget_is_that_of_all_runs_that_count() -> None:
    arms = two([0.1, 0.1], [0.2, 0.2])
    assert judged(arms, **BEATS).budget == "20 s of one core"
    arms.loc[0, ["settings.seconds", "settings.steps"]] = ["none", "4000"]
    arms.loc[1, "settings.seconds"] = None
    assert judged(arms, **BEATS).budget == "20 s of one core; 4,000 steps; closed form"


@pytest.mark.parametrize(
    ("arm", "name"),
    [
        ({"activation": "tanh"}, "tanh"),
        ({"keep_prob": "0.5"}, "keep_prob=0.5"),
        ({"mirror": "true"}, "mirror=true"),
        ({"activation": "tanh", "perceptron.hidden": "512,256"}, "activation=tanh, hidden=512,256"),
        ({"sgd.momentum": "0.9", "rmsprop.momentum": "0.5"}, "sgd.momentum=0.9, rmsprop.momentum=0.5"),
        ({}, "its runs"),
    ],
)
def test_an_arm_is_called_by_what_tells_it_apart(arm: dict[str, str], name: str) -> None:
    assert name_of(arm) == name
