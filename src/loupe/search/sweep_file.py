"""The content of a sweep file: its tables, the points of its search space, and the train settings of a point.

A point is a combination of values. A key of [train] or [search] may have a condition before its last dot:
`sgd.momentum` applies only to the optimizer sgd, `perceptron.hidden` only to the network perceptron, and
`initializer=gaussian.stddev` only to the initializer gaussian.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from optuna.trial import FrozenTrial
from pydantic import BaseModel, ConfigDict, Field, model_validator

from loupe.config import parse_settings
from loupe.config.fields import format_value, quote_value
from loupe.errors import UsageError, mask_values
from loupe.report.claims import Claim
from loupe.search.conditions import is_float, is_met, parse_condition, parse_field, to_text
from loupe.search.constraints import Constraint
from loupe.search.values import Range, Values

Params = dict[str, Any]  # a point of the search space: a value per key of [search] whose condition holds
MAX_KEYS = 200
CHECKED_POINTS = 400  # number of random points that are checked before a sampler starts
# Fields of train that [search] must not contain: they are set per sweep, or do not change the network
EXECUTION_FIELDS = ("dataset", "data_dir", "scheduler", "threads", "resume", "quiet", "seed")


class Study(BaseModel):
    """The table [study]; see docs/sweeps.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1, max_length=100, pattern=r"^[\w.+-]+$")
    metric: Literal["val/mae", "val/mse", "val/psnr"] = "val/mae"
    cost: Literal["none", "macs_per_pixel", "weights"] = "none"
    direction: Literal["minimize", "maximize"] = "minimize"
    sampler: Literal["grid", "tpe", "nsga2", "random"] = "grid"
    pruner: Literal["none", "median", "hyperband"] = "none"
    repeats: int = Field(1, ge=1, le=1000)
    tune: tuple[str, ...] = ()
    trials: int = Field(100, ge=1, le=1_000_000)
    startup: int = Field(0, ge=0)
    keep: int = Field(3, ge=1, le=1000)
    constraints: tuple[Constraint, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _set_direction(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        metric = given.get("metric")
        if isinstance(metric, list) and len(metric) == 2:  # two objectives
            given = given | dict(zip(("metric", "cost"), metric, strict=True))
        return {"direction": "maximize" if given.get("metric") == "val/psnr" else "minimize"} | given

    @model_validator(mode="after")
    def _check_fields(self) -> "Study":
        if (self.direction == "maximize") != (self.metric == "val/psnr"):
            direction = "maximize" if self.metric == "val/psnr" else "minimize"
            raise ValueError(f"direction: must be {direction} for {self.metric}, got {self.direction}")
        if self.cost != "none" and self.pruner != "none":
            raise ValueError(f"pruner: must be none with two objectives, got {self.pruner}")
        if self.sampler == "nsga2" and self.cost == "none":
            rule = "must be two objectives with sampler=nsga2, such as ['val/mae', 'macs_per_pixel']"
            raise ValueError(f"metric: {rule}, got {self.metric}")
        unused = {"trials", "startup"} if self.sampler == "grid" else {"repeats", "tune"}
        for name in sorted(unused & self.model_fields_set):
            got = format_value(getattr(self, name))
            raise ValueError(f"{name}: has no effect with sampler={self.sampler}, got {got}")
        if self.startup > self.trials:
            raise ValueError(f"startup: must be at most trials ({self.trials}), got {self.startup}")
        return self


class SweepFile(BaseModel):
    """The tables of a sweep file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    study: Study
    train: dict[str, Any] = Field({}, max_length=MAX_KEYS)
    search: dict[str, Values] = Field({}, max_length=MAX_KEYS)
    claims: tuple[Claim, ...] = Field((), alias="claim")

    @property
    def name(self) -> str:
        """The name of the study."""
        return self.study.name

    @property
    def is_grid(self) -> bool:
        """Whether the sweep trains every point of a grid."""
        return self.study.sampler == "grid"

    @property
    def objective(self) -> str:
        """The metric that ranks trials, measured with the best weights of each training."""
        return self.study.metric.replace("val/", "val/best_")

    @property
    def objectives(self) -> list[str]:
        """The metrics that Optuna gets: `objective`, and the cost of a sweep with two objectives."""
        return [self.objective] if self.study.cost == "none" else [self.objective, self.study.cost]

    @property
    def directions(self) -> Sequence[str]:
        """The direction of each objective."""
        return [self.study.direction, "minimize"][: len(self.objectives)]

    @property
    def has_front(self) -> bool:
        """Whether the sweep has two objectives, and therefore a Pareto front."""
        return self.study.cost != "none"

    @property
    def seeds(self) -> list[int]:
        """The seeds for a point of a grid: `repeats` consecutive numbers from the seed of [train], by default 0."""
        first = int(self.train.get("seed", 0))
        return list(range(first, first + self.study.repeats))

    def to_loss(self, value: float | None) -> float:
        """Return a value of the objective, negated if higher is better; None counts as 0."""
        return (1 if self.study.direction == "minimize" else -1) * float(value or 0)

    def get_loss(self, trial: FrozenTrial) -> float:
        """Return `to_loss` of the first objective of a complete trial."""
        return self.to_loss(trial.values[0])

    def to_json(self) -> dict[str, Any]:
        """Return the file as a dictionary that can be stored as JSON, and that `SweepFile.model_validate` accepts."""
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)

    def order_keys(self) -> list[str]:
        """Return the keys of [search]; a key with a condition comes after the keys on which the condition depends."""
        return sorted(self.search, key=lambda key: self._depths[parse_field(key)])

    @cached_property
    def _depths(self) -> dict[str, int]:
        """The depth of each field: 0 without a condition, else 1 more than the depth of the field in its condition.

        If several keys with different conditions set a field, the largest depth counts.

        Raises:
            UsageError: the conditions form a cycle.
        """
        conditions: dict[str, set[str]] = {}
        for key in (*self.train, *self.search):
            condition = parse_condition(key)
            conditions.setdefault(parse_field(key), set()).update([condition.field] if condition else [])
        depths: dict[str, int] = {}
        try:
            for field in TopologicalSorter(conditions).static_order():
                depths[field] = 1 + max((depths[other] for other in conditions.get(field, ())), default=-1)
        except CycleError as error:
            fields = ", ".join(sorted(set(error.args[1])))
            raise UsageError(f"conditions: must not form a cycle, got a cycle of {fields}") from None
        return depths

    def list_choices(self, key: str) -> list[Any]:
        """Return the values of a key with a list, as Optuna and the settings accept them."""
        values = self.search[key]
        assert isinstance(values, list)
        return [to_text(value) if isinstance(value, list) else value for value in values]

    def is_integer(self, key: str) -> bool:
        """Return whether a key has a range of integers: its ends are integers, and its field is not a float."""
        values = self.search[key]
        return isinstance(values, Range) and values.has_integer_ends and not is_float(parse_field(key))

    def is_active(self, key: str, params: Mapping[str, Any]) -> bool:
        """Return whether a key has no condition, or its condition holds for `params` and [train]."""
        condition = parse_condition(key)
        return condition is None or is_met(condition, self._merge_fields(params))

    def _merge_fields(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the fields that [train] and a point set. The values of the point take precedence.

        Keys of [train] whose condition does not hold are ignored. A key whose condition holds replaces the key of the
        same field without a condition.
        """
        searched = {parse_field(key): value for key, value in params.items()}
        given = dict(searched)
        for key in sorted(self.train, key=lambda key: (self._depths[parse_field(key)], "." in key)):
            condition, field = parse_condition(key), parse_field(key)
            if field not in searched and (condition is None or is_met(condition, given)):
                given[field] = self.train[key]
        return given

    def iterate_points(self, keys: Sequence[str] | None = None, params: Params | None = None) -> Iterator[Params]:
        """Yield every point of a grid, without seeds.

        Args:
            keys: the keys to vary; None varies all.
            params: the values of the other keys.
        """
        keys, params = self.order_keys() if keys is None else keys, params or {}
        if not keys:
            yield params
        elif self.is_active(keys[0], params):
            for value in self.list_choices(keys[0]):
                yield from self.iterate_points(keys[1:], params | {keys[0]: value})
        else:
            yield from self.iterate_points(keys[1:], params)

    def iterate_checked_points(self) -> Iterator[Params]:
        """Yield the points that are checked before a sweep starts: all of a grid, else CHECKED_POINTS random ones."""
        return self.iterate_points() if self.is_grid else self.draw_points()

    def draw_points(self) -> Iterator[Params]:
        """Yield CHECKED_POINTS random points, the same in each call."""
        rng = random.Random(0)
        for _ in range(CHECKED_POINTS):
            params: Params = {}
            for key in self.order_keys():
                if self.is_active(key, params):
                    values = self.search[key]
                    params[key] = (
                        values.draw(rng, self.is_integer(key))
                        if isinstance(values, Range)
                        else rng.choice(self.list_choices(key))
                    )
            yield params

    def create_settings(self, params: Mapping[str, Any], **overrides: Any) -> Any:
        """Return the train settings of a point; `overrides`, such as the seed, replace values.

        Raises:
            UsageError: train does not accept a field or a value.
        """
        return parse_settings("train", self._merge_fields(params) | overrides)

    def group_arms(self) -> list[list[Params]]:
        """Group the points of a grid into arms. The points of an arm differ only in the fields of `tune`."""
        arms: dict[str, list[Params]] = {}
        for params in self.iterate_points():
            fixed = {
                key: format_value(value) for key, value in params.items() if parse_field(key) not in self.study.tune
            }
            arms.setdefault(json.dumps(fixed, sort_keys=True), []).append(params)
        return list(arms.values())

    def count_trials(self) -> int:
        """Return the maximum number of trials of a sweep, without those that replace trials of crashed workers."""
        if not self.is_grid:
            return self.study.trials
        points = [len(arm) for arm in self.group_arms()]
        if not self.study.tune:
            return sum(points) * self.study.repeats
        return sum(points) + len(points) * (self.study.repeats - 1)

    def describe_space(self, digest: str) -> str:
        """Return, as JSON, the parts of [study], [train] and [search] that must stay equal when a study continues.

        `digest`, the digest of the dataset, replaces the name of the dataset.
        """
        names = {"direction", "metric", "cost", "sampler", "pruner", "tune"}
        # Without constraints, omit the key, because the JSON must be equal to that of older versions of Loupe.
        names |= {"constraints"} if self.study.constraints else set()
        study = self.study.model_dump(include=names, mode="json")
        search = {key: value if isinstance(value, list) else value.model_dump() for key, value in self.search.items()}
        return json.dumps(mask_values([study, self.train | {"dataset": digest}, search]), sort_keys=True)


def describe_difference(existing: str | None, space: str) -> str:
    """Return in brackets the first difference between two results of `SweepFile.describe_space`; "" without one."""
    try:
        old, new = json.loads(existing or ""), json.loads(space)
        for name, old_table, new_table in zip(("study", "train", "search"), old, new, strict=True):
            for key in sorted(old_table.keys() | new_table.keys()):
                if old_table.get(key) != new_table.get(key):
                    values = (quote_value(str(table.get(key, "none"))) for table in (old_table, new_table))
                    return " ({}.{}: {} in the study, {} in the sweep file)".format(name, key, *values)
    except (ValueError, AttributeError):  # the text in the study is missing, or another program wrote it
        pass
    return ""
