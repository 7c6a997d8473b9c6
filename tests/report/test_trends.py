"""Changes of differences during the training."""

from typing import Any

import pandas as pd
import pytest

from loupe.report.claims import Claim
from loupe.report.trends import Trend, compute_trend
from loupe.report.verdicts import check_claim

FIELDS: dict[str, Any] = {"number": "7", "text": "t", "metric": "val/best_mae", "arm": {"activation": "tanh"}}
BEATS = {"beats": [{"activation": "relu"}]}


def make_arms(**curves: list[float] | None) -> pd.DataFrame:
    """Make two runs per activation with values at 0, 25, 50, 75 and 100 % of the steps; None: without a curve."""
    rows = [
        {"activation": name, "seed": seed, "width": "64", "metrics.val/best_mae": 0.1, "metrics.val/input_mae": 0.2,
         "curve.step": [0, 25, 50, 75, 100] if curve else None, "curve.val/mae": curve}
        for name, curve in curves.items() for seed in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def compute(arms: pd.DataFrame, **fields: Any) -> Trend | None:
    return compute_trend(check_claim(Claim.model_validate(FIELDS | fields), arms), arms)


ARMS = make_arms(tanh=[1.0, 0.5, 0.1, 0.09, 0.09], relu=[1.0, 0.7, 0.2, 0.1, 0.1])


def test_trend_is_the_difference_between_arms_with_curves() -> None:
    trend = compute(ARMS, **BEATS)
    assert trend is not None
    assert trend.is_difference
    assert trend.values == pytest.approx((-0.2, -0.1, -0.01))


def test_worst_value_counts_at_each_point() -> None:
    wide = ARMS.assign(width="512")
    wide["curve.val/mae"] = [[2 * value for value in curve] for curve in ARMS["curve.val/mae"]]
    trend = compute(pd.concat([ARMS, wide], ignore_index=True), worst_over="width", **BEATS)
    assert trend is not None
    assert trend.values == pytest.approx((-0.4, -0.2, -0.02))


@pytest.mark.parametrize(
    "fields",
    [
        {"between": [0, 1]},
        {"beats_metric": "val/input_mae"},
        {"metric": "val/input_mae", **BEATS},
        {"arm": {"activation": "tanh", "recompose": "gaussian"},
         "beats": [{"activation": "relu", "recompose": "gaussian"}]},
    ],
)  # fmt: skip
def test_trend_of_other_values_is_the_mae_of_one_arm(fields: dict[str, Any]) -> None:
    trend = compute(ARMS.assign(recompose="gaussian"), **fields)
    assert trend == Trend(pytest.approx((0.5, 0.1, 0.09)), False)


def test_trend_without_a_curve_is_the_mae_of_the_other_arm() -> None:
    trend = compute(make_arms(tanh=None, relu=[1.0, 0.7, 0.2, 0.1, 0.1]), **BEATS)
    assert trend == Trend(pytest.approx((0.7, 0.2, 0.1)), False)
    assert compute(make_arms(tanh=None, relu=None), **BEATS) is None


@pytest.mark.parametrize(
    ("values", "change"),
    [((0.4, 0.3, 0.19), "shrinks"), ((-0.4, -0.3, -0.21), "steady"), ((-0.1, 0, 0.2), "reverses")],
)
def test_change_of_a_difference(values: tuple[float, float, float], change: str) -> None:
    assert Trend(values, True).change == change


def test_mae_still_falls_if_it_decreases_by_more_than_a_tenth() -> None:
    assert Trend((0.4, 0.2, 0.17), False).still_falls
    assert not Trend((0.4, 0.2, 0.19), False).still_falls
    assert not Trend((0.4, 0.2, 0.1), True).still_falls
