"""What a sweep file says: its tables, its points and arms, and the settings of train at each point.

A key of [train] or [search] may have a condition before a dot: `sgd.momentum` counts where the optimizer is
sgd, `perceptron.hidden` where the network is perceptron, `initializer=gaussian.stddev` where that field has
that value.
"""

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from loupe.config import parse_settings
from loupe.config.fields import format_value, quote_value
from loupe.config.training import NETWORKS, OPTIMIZERS, Train, build_train_class
from loupe.report.claims import Claim

Chosen = dict[str, Any]  # a key of [search] -> one of its values
MOST_KEYS = 200  # of a table: several times the fields that there are
CHECKED = 400  # points at random that are checked where there are too many, or endlessly many
# Fields of a run that say where and how it was trained, not what.
PLACE = ("dataset", "data_dir", "scheduler", "threads", "resume", "quiet", "seed")


Bounded = Annotated[int | float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]


class Range(BaseModel):
    """Numbers from low to high that a sampler may choose from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: Bounded
    high: Bounded
    log: bool = False
    step: Bounded | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _low_is_low(self) -> "Range":
        if not self.low < self.high or (self.log and (self.low <= 0 or self.step is not None)):
            raise ValueError("low must lie below high, and above 0 without a step where log is true")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether its numbers are whole."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    def drawn(self, rng: random.Random) -> int | float:
        """One of its ends, or a number between them, as a sampler may choose it."""
        if self.step is not None:
            between = self.low + self.step * rng.randint(0, int((self.high - self.low) / self.step))
        elif self.log:
            between = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            between = rng.uniform(self.low, self.high)
        between = min(max(between, self.low), self.high)  # what rounding has led out of it
        return rng.choice([self.low, self.high, int(between) if self.is_whole else between])


def _values(given: Any) -> Any:
    if isinstance(given, dict) and not given.keys() & Range.model_fields.keys():
        raise ValueError(f'a key with a dot must stand in quotes, "….{next(iter(given), "")}"')
    if not isinstance(given, (dict, list, Range)):
        raise ValueError(f"must be a list of values or a range, {{low = …, high = …}}, got {quote_value(given)}")
    return given


Values = Annotated[Range | list[Any], BeforeValidator(_values)]


class Study(BaseModel):
    """The table [study]: what is searched for, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1, max_length=100, pattern=r"^[\w.+-]+$")
    direction: Literal["minimize", "maximize"] = "minimize"
    metric: Literal["val/mae", "val/mse", "val/psnr"] = "val/mae"
    sampler: Literal["grid", "tpe", "random"] = "grid"
    pruner: Literal["none", "median", "hyperband"] = "none"
    repeats: int = Field(1, ge=1, le=1000)
    tune: tuple[str, ...] = ()
    trials: int = Field(100, ge=1, le=1_000_000)
    startup: int = Field(0, ge=0)
    keep: int = Field(3, ge=1, le=1000)

    @model_validator(mode="after")
    def _agrees(self) -> "Study":
        if (self.direction == "maximize") != (self.metric == "val/psnr"):
            raise ValueError(
                f"direction: {self.metric} is better the {'higher' if 'psnr' in self.metric else 'lower'}"
            )
        foreign = {"trials", "startup"} if self.sampler == "grid" else {"repeats", "tune"}
        for name in sorted(foreign & self.model_fields_set):
            raise ValueError(f"{name}: has no effect with sampler={self.sampler}")
        return self


class SweepFile(BaseModel):
    """A sweep file, as it is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    study: Study
    train: dict[str, Any] = Field({}, max_length=MOST_KEYS)
    search: dict[str, Values] = Field({}, max_length=MOST_KEYS)
    claim: tuple[Claim, ...] = ()

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The sentences that it puts to the test."""
        return self.claim

    @property
    def name(self) -> str:
        """Of the study."""
        return self.study.name

    @property
    def value(self) -> str:
        """The metric of a finished trial that is its value: of the network as it is kept."""
        return self.study.metric.replace("val/", "val/best_")

    def ordered(self) -> list[str]:
        """The keys of [search], those with a condition after what it may depend on."""

        def depth(key: str) -> int:
            condition = condition_of(key)
            return 0 if condition is None else 1 if condition[0] in ("network", "optimizer") else 2

        return sorted(self.search, key=depth)

    def choices(self, key: str) -> list[Any]:
        """The values of a key as Optuna and the settings take them; a range's ends."""
        values = self.search[key]
        if isinstance(values, Range):
            return [values.low, values.high]
        return [format_value(tuple(value)) if isinstance(value, list) else value for value in values]

    def applies(self, key: str, chosen: Mapping[str, Any]) -> bool:
        """Whether a key's condition holds, given what has been chosen so far."""
        condition = condition_of(key)
        return condition is None or self._current(condition[0], chosen) == condition[1]

    def _current(self, field: str, chosen: Mapping[str, Any]) -> str | None:
        given = {field_of(key): value for key, value in self.train.items() if condition_of(key) is None}
        given |= {field_of(key): value for key, value in chosen.items()}
        if field not in given:
            network = str(given.get("network", Train.model_fields["network"].default))
            fields = build_train_class(network, given.get("optimizer") if field != "optimizer" else None).model_fields
            return format_value(fields[field].default) if field in fields else None
        return format_value(given[field])

    def points(self, keys: Sequence[str] | None = None, chosen: Chosen | None = None) -> Iterator[Chosen]:
        """Every point of a grid, without seeds, in the order of its keys."""
        keys, chosen = self.ordered() if keys is None else keys, chosen or {}
        if not keys:
            yield chosen
        elif self.applies(keys[0], chosen):
            for value in self.choices(keys[0]):
                yield from self.points(keys[1:], chosen | {keys[0]: value})
        else:
            yield from self.points(keys[1:], chosen)

    def drawn(self) -> Iterator[Chosen]:
        """Some points at random, of the values of lists and the numbers of ranges."""
        rng = random.Random(0)
        for _ in range(CHECKED):
            chosen: Chosen = {}
            for key in self.ordered():
                if self.applies(key, chosen):
                    values = self.search[key]
                    chosen[key] = values.drawn(rng) if isinstance(values, Range) else rng.choice(self.choices(key))
            yield chosen

    def settings(self, chosen: Mapping[str, Any], **more: Any) -> Any:
        """The checked settings of train at a point; raises UsageError."""
        given = {field_of(key): value for key, value in self.train.items() if self.applies(key, chosen)}
        given |= {field_of(key): value for key, value in chosen.items()} | more
        return parse_settings("train", given)

    def arm_of(self, chosen: Mapping[str, Any]) -> str:
        """What a point is called without its tuned fields: points of one arm differ in those alone."""
        kept = {key: format_value(value) for key, value in chosen.items() if field_of(key) not in self.study.tune}
        return json.dumps(kept, sort_keys=True)

    def arms(self) -> dict[str, list[Chosen]]:
        """The points of each arm."""
        found: dict[str, list[Chosen]] = {}
        for chosen in self.points():
            found.setdefault(self.arm_of(chosen), []).append(chosen)
        return found

    def seeds(self) -> list[int]:
        """The seeds of each point."""
        first = int(self.train.get("seed", 0))
        return list(range(first, first + self.study.repeats))

    def trials(self) -> int:
        """How many trials a finished sweep has."""
        if self.study.sampler != "grid":
            return self.study.trials
        points = [len(found) for found in self.arms().values()]
        if not self.study.tune:
            return sum(points) * self.study.repeats
        return sum(points) + len(points) * (self.study.repeats - 1)

    def space(self, digest: str) -> str:
        """What the results of trials depend on; a study is one space. More seeds or trials are no other."""
        study = self.study.model_dump(include={"direction", "metric", "sampler", "pruner", "tune"}, mode="json")
        search = {key: value if isinstance(value, list) else value.model_dump() for key, value in self.search.items()}
        return json.dumps([study, self.train | {"dataset": digest}, search], sort_keys=True)


def condition_of(key: str) -> tuple[str, str] | None:
    """The field and the value under which a key counts; None: always."""
    condition, dot, _ = key.rpartition(".")
    if not dot:
        return None
    if condition in OPTIMIZERS:
        return "optimizer", condition
    if condition in NETWORKS:
        return "network", condition
    field, _, value = condition.partition("=")
    return field, value


def field_of(key: str) -> str:
    """The field of train that a key sets."""
    return key.rpartition(".")[2]
