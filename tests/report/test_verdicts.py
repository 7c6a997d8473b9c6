"""Verdicts on arms with known differences."""

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
from loupe.report.intervals import FAILS, HOLDS, UNDECIDED, estimate_mean
from loupe.report.verdicts import NOT_RUN, check_claim, format_arm, select_runs

MAE = "metrics.val/best_mae"
FIELDS: dict[str, Any] = {"number": "6", "text": "a", "metric": "val/best_mae", "arm": {"activation": "tanh"}}
SCORE = st.integers(0, 2000).map(lambda thousandths: thousandths / 1000)
BEATS = {"beats": [{"activation": "relu"}]}


def arms_of(*arms: dict[str, Any]) -> pd.DataFrame:
    """Make one row per seed of each arm; a list has one value per seed."""
    rows: list[dict[str, Any]] = []
    for arm in arms:
        count = max(len(value) for value in arm.values() if isinstance(value, list))
        for seed in range(count):
            rows.append({name: value[seed] if isinstance(value, list) else value for name, value in arm.items()})
            rows[-1] |= {"seed": seed, "settings.flops": "1e12", "settings.steps": None}
    return pd.DataFrame(rows)


def two(ours: list[float], theirs: list[float], **more: Any) -> pd.DataFrame:
    return arms_of({"activation": "tanh", MAE: ours} | more, {"activation": "relu", MAE: theirs} | more)


def check(arms: pd.DataFrame, **fields: Any) -> Any:
    return check_claim(Claim.model_validate(FIELDS | fields), arms)


def test_interval_is_that_of_student() -> None:
    values = np.array([0.1, 0.13, 0.11, 0.16])
    found = estimate_mean(values)
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
def test_paired_difference_decides_beats(theirs: list[float], verdict: str) -> None:
    found = check(two([0.1, 0.2, 0.3], theirs), **BEATS)
    assert found.outcome == verdict
    (part,) = found.comparisons
    assert part.estimate.mean == pytest.approx(np.mean([0.1, 0.2, 0.3]) - np.mean(theirs))
    assert part.estimate.seeds == 3
    assert {arm.name: arm.estimate.mean for arm in found.arms} == pytest.approx(
        {"tanh": 0.2, "relu": np.mean(theirs)}
    )


def test_seeds_are_paired_by_number() -> None:
    arms = two([0.1, 0.2, 0.3], [0.11, 0.21, 0.31])
    assert check(arms.sample(frac=1, random_state=1), **BEATS).outcome == HOLDS
    assert check(arms.drop(index=1), **BEATS).comparisons[0].estimate.seeds == 2


@settings(max_examples=50)
@given(st.lists(st.tuples(SCORE, SCORE), min_size=2, max_size=6), st.booleans())
def test_swapping_the_arms_reverses_the_outcome(values: list[tuple[float, float]], higher: bool) -> None:
    ours, theirs = (list(side) for side in zip(*values, strict=True))
    there, back = (check(arms, higher=higher, **BEATS) for arms in (two(ours, theirs), two(theirs, ours)))
    if ours == theirs:
        assert there.outcome == back.outcome == FAILS  # equal values do not beat each other
    elif there.outcome == UNDECIDED:
        assert back.outcome == UNDECIDED
    else:
        assert {there.outcome, back.outcome} == {HOLDS, FAILS}


def test_higher_reverses_the_outcome() -> None:
    arms = two([0.1, 0.2, 0.3], [0.21, 0.32, 0.4])
    assert check(arms, **BEATS).outcome == HOLDS
    assert check(arms, higher=True, **BEATS).outcome == FAILS


def test_claim_must_hold_for_all_arms_and_all_values_of_each() -> None:
    easy, hard = two([0.1, 0.1], [0.2, 0.2], out="same"), two([0.1, 0.1], [0.05, 0.05], out="linear")
    assert check(easy, each="out", **BEATS).outcome == HOLDS
    found = check(pd.concat([easy, hard]), each="out", **BEATS)
    assert found.outcome == FAILS
    assert found.weakest.name == "activation=tanh, out=linear"
    assert len(found.arms) == 4
    both = arms_of({"activation": "sigmoid", MAE: [0.05, 0.05]})
    assert check(pd.concat([easy, both]), beats=[*BEATS["beats"], {"activation": "sigmoid"}]).outcome == FAILS


@pytest.mark.parametrize(("within", "verdict"), [(0.2, HOLDS), (0.005, FAILS), (0.0101, UNDECIDED)])
def test_like_allows_differences_up_to_within(within: float, verdict: str) -> None:
    arms = two([0.1, 0.2, 0.3], [0.111, 0.209, 0.31])
    assert check(arms, like=BEATS["beats"], within=within).outcome == verdict


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [([1.2, 1.4], HOLDS), ([1.4, 1.5], FAILS), ([1.0, 1.1], FAILS), ([1.3, 1.4], UNDECIDED), ([-math.inf, 2], HOLDS)],
)
def test_mean_of_the_arm_decides_between(bounds: list[float], verdict: str) -> None:
    arms = arms_of({"activation": "tanh", MAE: [1.29, 1.31, 1.3]})
    found = check(arms, between=bounds)
    assert found.outcome == verdict
    assert found.comparisons[0].other == ""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"initializer": "gaussian"}, {"bias_initializer": "gaussian"}),
        ({"rmsprop.momentum": "0.9"}, {"sgd.momentum": "0.9"}),
        ({"network": "ridge"}, {"skip": "ridge"}),
    ],
)
def test_arms_with_the_same_short_name_are_compared_under_their_full_names(
    first: dict[str, str], second: dict[str, str]
) -> None:
    third = {"activation": "tanh"}
    arms = arms_of(third | {MAE: [0.3, 0.4]}, first | {MAE: [0.1, 0.2]}, second | {MAE: [0.2, 0.35]})
    names = ["tanh", *(f"{key}={value}" for key, value in (first | second).items())]
    found = check(arms, arm=third, beats=[first, second])
    assert {arm.name: arm.estimate.mean for arm in found.arms} == pytest.approx(
        dict(zip(names, (0.35, 0.15, 0.275), strict=True))
    )
    assert [(part.name, part.other) for part in found.comparisons] == [("tanh", name) for name in names[1:]]
    assert {name: len(rows) for name, rows in select_runs(found.claim, arms).items()} == dict.fromkeys(names, 2)
    assert [(part.name, part.other) for part in check(arms, arm=first, beats=[second]).comparisons] == [
        tuple(names[1:])
    ]


def test_arm_is_compared_with_another_metric() -> None:
    arms = arms_of({"activation": "tanh", MAE: [0.1, 0.2, 0.3], "metrics.val/input_mae": [0.09, 0.18, 0.28]})
    assert check(arms, beats_metric="val/input_mae").outcome == FAILS
    assert check(arms, like_metric="val/input_mae", within=0.1).outcome == HOLDS
    assert check(arms, beats_metric="val/input_mae").arms[1].estimate.mean == pytest.approx(0.55 / 3)


def test_worst_value_counts_per_seed() -> None:
    arms = pd.concat(
        [
            two([0.1, 0.3], [0.2, 0.2], width="64"),
            two([0.3, 0.1], [0.25, 0.25], width="512"),
            two([0.1], [9], width="8"),
        ]
    )
    found = check(arms[arms["width"] != "8"], worst_over="width", **BEATS)
    assert found.outcome == FAILS  # 0.3 at one width per seed
    assert found.comparisons[0].estimate.mean == pytest.approx(0.05)
    assert check(arms, worst_over="width", **BEATS).outcome == NOT_RUN  # width 8 has one seed only
    best = check(arms[arms["width"] != "8"], worst_over="width", higher=True, **BEATS)
    assert best.comparisons[0].estimate.mean == pytest.approx(-0.1)


def test_change_to_compares_changes() -> None:
    arms = pd.concat(
        [two([0.1, 0.2], [0.3, 0.4], limit="none"), two([0.2, 0.31], [0.31, 0.41], limit="64")], ignore_index=True
    )
    fields = {"arm": {"activation": "tanh", "limit": "none"}, "beats": [{"activation": "relu", "limit": "none"}]}
    found = check(arms, higher=True, change_to={"limit": 64}, **fields)
    assert found.comparisons[0].estimate.mean == pytest.approx(0.105 - 0.01)
    assert [arm.estimate.mean for arm in found.arms] == pytest.approx([0.105, 0.01])


def test_numbers_are_compared_by_value() -> None:
    arms = arms_of({"keep_prob": "1.0", MAE: [0.1, 0.1]}, {"keep_prob": "0.5", MAE: [0.2, 0.2]})
    assert check(arms, arm={"keep_prob": 1}, beats=[{"keep_prob": 0.50}]).outcome == HOLDS


@pytest.mark.parametrize(
    ("arms", "reason"),
    [
        (pd.DataFrame(), "tanh: no run has val/best_mae"),
        (arms_of({"activation": "tanh", MAE: [0.1, 0.1]}), "relu: no run has"),
        (two([0.1], [0.2]), "at least 2 common seeds are needed, got 1"),
        (two([0.1, math.nan], [0.2, 0.3]), "at least 2 common seeds are needed, got 1"),
        (two([0.1, 0.2], [0.2, 0.3]).rename(columns={MAE: "metrics.other"}), "no run has val/best_mae"),
    ],
)
def test_claim_that_is_not_run_has_a_reason(arms: pd.DataFrame, reason: str) -> None:
    found = check(arms, **BEATS)
    assert found.outcome == NOT_RUN
    assert reason in found.reason


def test_ambiguous_arms_and_unknown_fields_are_refused() -> None:
    arms = pd.concat([two([0.1, 0.1], [0.2, 0.2], width="64"), two([0.1, 0.1], [0.2, 0.2], width="512")])
    with pytest.raises(UsageError, match="claim 6: must name one run per seed, got two for tanh"):
        check(arms, **BEATS)
    with pytest.raises(UsageError, match="claim 6: must use fields that its sweep searches, got depth"):
        check(arms, arm={"depth": 1}, beats=[{"depth": 2}])


def test_intervals_of_several_comparisons_are_wider() -> None:
    values = two([0.1, 0.2, 0.3], [0.12, 0.228, 0.337])  # p = 0.03
    third = values[values["activation"] == "relu"].assign(activation="sigmoid")
    assert check(values, **BEATS).outcome == HOLDS
    both = check(pd.concat([values, third]), beats=[*BEATS["beats"], {"activation": "sigmoid"}])
    for part in both.comparisons:
        assert part.outcome == UNDECIDED
        half_width = t.isf(0.0125, 2) * part.estimate.deviation / np.sqrt(3)
        assert part.estimate.high == pytest.approx(part.estimate.mean + half_width)
        assert part.estimate.high > 0


@settings(max_examples=50)
@given(st.lists(st.tuples(SCORE, SCORE, SCORE), min_size=3, max_size=6))
def test_the_intervals_decide_the_outcome(values: list[tuple[float, float, float]]) -> None:
    ours, *others = (list(side) for side in zip(*values, strict=True))
    names = ("relu", "sigmoid")
    arms = arms_of(
        {"activation": "tanh", MAE: ours},
        *({"activation": name, MAE: each} for name, each in zip(names, others, strict=True)),
    )
    found = check(arms, beats=[{"activation": name} for name in names])
    estimates = [part.estimate for part in found.comparisons]
    assert (found.outcome == HOLDS) == all(estimate.high < 0 for estimate in estimates)
    assert (found.outcome == FAILS) == any(estimate.low >= 0 for estimate in estimates)


def test_mean_on_the_bound_is_never_decided() -> None:
    found = check(two([0.1, 0.2], [0.2, 0.1]), **BEATS)
    assert found.outcome == UNDECIDED


def test_budget_contains_all_runs() -> None:
    arms = two([0.1, 0.1], [0.2, 0.2])
    assert check(arms, **BEATS).budget == "1e12 FLOPs"
    arms.loc[0, ["settings.flops", "settings.steps"]] = ["none", "4000"]
    arms.loc[1, "settings.flops"] = None
    assert check(arms, **BEATS).budget == "1e12 FLOPs; 4,000 steps; closed form"
    arms["metrics.training_seconds"] = 30.4
    assert check(arms, **BEATS).budget == "1e12 FLOPs (30 s); 4,000 steps; closed form"


def test_budget_shows_the_median_times_of_the_fastest_and_the_slowest_arm() -> None:
    arms = two([0.1, 0.1, 0.1], [0.2, 0.2, 0.2])
    arms["metrics.training_seconds"] = [100, 10, 11, 30, math.nan, 34]
    assert check(arms, **BEATS).budget == "1e12 FLOPs (11 to 32 s)"
    arms["metrics.training_steps"] = [1000, 2000, 2000, 1000, 1000, 1000]  # two networks in the first arm
    assert check(arms, **BEATS).budget == "1e12 FLOPs (10 to 100 s)"


@pytest.mark.parametrize(
    ("arm", "name"),
    [
        ({"activation": "tanh"}, "tanh"),
        ({"keep_prob": "0.5"}, "keep_prob=0.5"),
        ({"mirror": "true"}, "mirror=true"),
        ({"activation": "tanh", "perceptron.hidden": "512,256"}, "activation=tanh, hidden=512,256"),
        ({"sgd.momentum": "0.9", "rmsprop.momentum": "0.5"}, "sgd.momentum=0.9, rmsprop.momentum=0.5"),
        ({}, "all runs"),
    ],
)
def test_name_of_an_arm(arm: dict[str, str], name: str) -> None:
    assert format_arm(arm) == name
