"""The constraints of a sweep: limits for the metrics of its best trials, such as `weights <= 65000`."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

from optuna.trial import FrozenTrial
from pydantic import AfterValidator

# The metrics of a run, by their names in a constraint
METRICS = {
    "weights": "weights",
    "macs_per_pixel": "macs_per_pixel",
    **{f"val/{score}": f"val/best_{score}" for score in ("mae", "mse", "psnr")},
}


def _parse_constraint(text: str) -> tuple[str, str, float]:
    """Return the metric of a run, the operator and the limit of a constraint; raise ValueError if it is invalid."""
    try:
        name, operator, limit = text.split()
        parsed = METRICS[name], operator, float(limit)
    except (ValueError, KeyError):
        parsed = "", "", math.nan
    if parsed[1] not in ("<=", ">=") or not math.isfinite(parsed[2]):
        raise ValueError(
            f"must be <metric> <= <number> or <metric> >= <number>, with one of the metrics {', '.join(METRICS)}, "
            f"got {text[:80]!r}"
        )
    return parsed


def _format_constraint(text: str) -> str:
    """Return a constraint with single spaces between its parts; raise ValueError if it is invalid."""
    text = " ".join(text.replace("<=", " <= ").replace(">=", " >= ").split())
    _parse_constraint(text)
    return text


Constraint = Annotated[str, AfterValidator(_format_constraint)]


def compute_violations(constraints: Iterable[Constraint], metrics: Mapping[str, float]) -> dict[str, float]:
    """Return by how much the metrics of a run violate each constraint; 0 or less means that they satisfy it.

    The value is NaN if the run does not have the metric.
    """
    parsed = {text: _parse_constraint(text) for text in constraints}
    return {
        text: (metrics.get(name, math.nan) - limit) * (1 if operator == "<=" else -1)
        for text, (name, operator, limit) in parsed.items()
    }


def list_violated(violations: Mapping[str, float]) -> list[str]:
    """Return the violated constraints; `violations` is, for example, `FrozenTrial.constraints`."""
    return [text for text, violation in violations.items() if not violation <= 0]  # also NaN


def is_feasible(trial: FrozenTrial) -> bool:
    """Return whether a complete trial satisfies all constraints of its sweep."""
    return not list_violated(trial.constraints)
