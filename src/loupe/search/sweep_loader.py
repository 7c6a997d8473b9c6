"""Reads a sweep file and checks its points against the settings of train."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from loupe.config.base import MAX_SEED, RunSettings
from loupe.config.fields import format_value, quote_value
from loupe.config.networks import NETWORKS
from loupe.config.optimizers import OPTIMIZERS
from loupe.config.steps import Sweep
from loupe.config.training import GradientTrain
from loupe.errors import UsageError, mask_secrets
from loupe.report.claims import MIN_SEEDS, Claim, format_full_name, normalise_arm
from loupe.search.conditions import is_possible, parse_condition, parse_field, to_text
from loupe.search.sweep_file import EXECUTION_FIELDS, Params, Study, SweepFile
from loupe.search.values import Range

MAX_FILE_BYTES = 2**20
MAX_GRID_POINTS = 100_000
# Fields of train that a sweep sets for all its trials
OPTIONS_OF_SWEEP = set(EXECUTION_FIELDS) - {"dataset", "seed"}


def load_sweep(file: str | Path, settings: Sweep | None = None) -> SweepFile:
    """Read and check a sweep file.

    Args:
        file: the path of the sweep file.
        settings: the settings of the step. Its fields name, dataset, pruner and seed replace the values of the file
            if they are set; for smoke, see `_override`. None uses only the values of the file.

    Raises:
        UsageError: the file cannot be read, or a table, field or value is invalid.
    """
    tables = _read_tables(Path(file))
    try:
        sweep = SweepFile.model_validate(tables)
        in_file = sweep
        if settings:
            sweep = SweepFile.model_validate(_override(tables, settings))
        _check_keys(sweep)
        _check_points(sweep)
        _check_claims(in_file)  # with smoke, the sweep has only one seed
    except ValidationError as error:
        raise UsageError(f"sweep: {file}: {_describe_error(error)}") from None
    except (UsageError, ValueError, OverflowError) as error:
        raise UsageError(f"sweep: {file}: {error}") from None
    return sweep


def _describe_error(error: ValidationError) -> str:
    """Return the key, the rule and the value of the first error."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
    rule = re.sub(r"^\w+ should ", "must ", first["msg"].removeprefix("Value error, "))
    value = "" if first["type"] == "value_error" else f", got {quote_value(first['input'])}"
    if first["type"] == "missing":
        return f"{key}: must be given"
    if first["type"] == "extra_forbidden":
        return f"{key}: must be a table or field of sweep files{value}{_suggest_field(first['loc'])}"
    if first["type"] == "string_pattern_mismatch" and key == "study.name":
        rule = "must have only letters, digits and . _ + -"
    if first["type"] == "tuple_type":
        rule = "must be tables [[claim]]" if key == "claim" else "must be a list"
    return f"{key}: {rule}{value}"


def _suggest_field(location: Sequence[Any]) -> str:
    """Return a suggestion for an unknown table or field, such as `; did you mean study?`, or "".

    `location` contains the table and the field, as in `loc` of pydantic's errors.
    """
    tables: dict[Any, type[BaseModel]] = {"study": Study, "claim": Claim}
    table = tables.get(location[0]) if len(location) > 1 else SweepFile
    names = [field.alias or name for name, field in table.model_fields.items()] if table else []
    similar = difflib.get_close_matches(str(location[-1]), names, 1)
    return f"; did you mean {similar[0]}?" if similar else ""


def _read_tables(file: Path) -> dict[str, Any]:
    try:
        if file.is_fifo() or file.is_char_device():  # opening such a file could block
            raise UsageError(f"sweep: must be a file, got {str(file)!r}")
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UsageError(f"sweep: {str(file)!r} cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(content) > MAX_FILE_BYTES:
        raise UsageError(f"sweep: must be a file of at most {MAX_FILE_BYTES} bytes, got {str(file)!r}")
    try:
        return tomllib.loads(content.decode())
    except RecursionError:
        raise UsageError(f"sweep: {file} is not valid TOML: it is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"sweep: {file} is not valid TOML: {error}") from None


def _override(given: dict[str, Any], settings: Sweep) -> dict[str, Any]:
    """Return the tables of a valid file with the values of the command line.

    With `smoke`, also add `-smoke` to the name of the study, train with one seed, and shorten the trainings.
    """
    study, train = dict(given["study"]), dict(given.get("train", {}))
    if settings.name:
        study["name"] = settings.name
    if settings.pruner != "file":
        study["pruner"] = settings.pruner
    if settings.dataset:
        train["dataset"] = settings.dataset
    if "seed" in settings.model_fields_set:
        train["seed"] = settings.seed
    if settings.smoke:
        study |= {"name": f"{study['name']}-smoke"} | ({"repeats": 1} if "repeats" in study else {})
        searched = {parse_field(key) for key in given.get("search", {})}
        # In train, smoke=true does not replace given values. Therefore remove the fields that determine the duration
        # from [train], except those that [search] also sets.
        durations = {"flops"}.union(*(vars(part).get("SMOKE", {}) for part in (GradientTrain, *NETWORKS.values())))
        train = {key: value for key, value in train.items() if parse_field(key) not in durations - searched}
        train["smoke"] = True
    return given | {"study": study, "train": train}


def _check_keys(sweep: SweepFile) -> None:
    known_fields = {"network", "optimizer"}.union(
        *(settings.model_fields for settings in (*NETWORKS.values(), *OPTIMIZERS.values()))
    )
    for table_key in (*(f"train.{key}" for key in sweep.train), *(f"search.{key}" for key in sweep.search)):
        condition = parse_condition(table_key.partition(".")[2])
        if condition and not (condition.value and condition.field in known_fields):
            raise UsageError(f"{table_key}: the condition must be a network, an optimizer or field=value")
        if condition and not is_possible(condition):
            rule = f"the condition must be a value of {condition.field}"
            raise UsageError(f"{table_key}: {rule}, got {condition.value}")
    for key in sweep.train:
        if parse_condition(key) and parse_field(key) in {"dataset", "seed"}:  # equal for all points
            raise UsageError(f"train.{parse_field(key)}: must not have a condition, got {key}")
    for key in (*sweep.train, *sweep.search):
        if parse_field(key) in {*RunSettings.__annotations__, *OPTIONS_OF_SWEEP}:
            raise UsageError(f"{key}: must not be in a sweep file; `loupe sweep` sets it for the run of the sweep")
    for key, values in sweep.search.items():
        if isinstance(values, list) and (
            not values or len(set(map(format_value, sweep.list_choices(key)))) < len(values)
        ):
            raise UsageError(
                f"search.{key}: must be a list of different values, got {mask_secrets(str(values))[:200]}"
            )
        if isinstance(values, Range) and sweep.is_grid:
            raise UsageError(f"search.{key}: must be a list of values with sampler=grid, got a range")
        if parse_field(key) in EXECUTION_FIELDS:
            hint = "; for several seeds, set study.repeats" if parse_field(key) == "seed" else ""
            raise UsageError(f"search.{key}: must not be in [search]{hint}")
        if key in sweep.train:
            raise UsageError(f"search.{key}: must be in [search] or in [train], got both")
    for name in sweep.study.tune:
        if name not in map(parse_field, sweep.search):
            raise UsageError(f"study.tune: must be fields of [search], got {name}")


def _check_points(sweep: SweepFile) -> None:
    """Raise UsageError if train refuses a point of a grid or, without a grid, one of CHECKED_POINTS random points.

    A grid must also have at most MAX_GRID_POINTS points, all with different settings, and use each key of [search].
    """
    if sweep.is_grid and next(islice(sweep.iterate_points(), MAX_GRID_POINTS, None), None) is not None:
        raise UsageError(f"search: a grid must have at most {MAX_GRID_POINTS} points; use sampler=random or tpe")
    used_keys: set[str] = set()
    known: set[tuple[tuple[str, str], ...]] = set()
    for params in sweep.iterate_checked_points():
        conditional = [key for key in sweep.train if parse_condition(key) and sweep.is_active(key, params)]
        for table, keys in {"search": params, "train": conditional}.items():
            fields = [parse_field(key) for key in keys]
            duplicates = [name for name in fields if fields.count(name) > 1]
            if duplicates:
                raise UsageError(f"{table}: must set each field once per point, got {duplicates[0]} twice")
        try:
            texts = sweep.create_settings(params).to_texts()
        except UsageError as error:
            raise UsageError(f"{_find_table(sweep, params, str(error))}{error}") from None
        used_keys |= params.keys()
        if sweep.is_grid:
            settings = tuple(texts.items())
            if settings in known:  # such as the scale factors 3:2 and 1.5
                got = format_full_name({key: str(value) for key, value in params.items()})
                raise UsageError(
                    f"search: must have different settings at all points, got those of an earlier point at {got}"
                )
            known.add(settings)
    unused = [key for key in sweep.search if key not in used_keys]
    if unused and sweep.is_grid:
        raise UsageError(f"search.{unused[0]}: must have a condition that holds at a point of the grid")
    if sweep.seeds[-1] > MAX_SEED:
        largest = MAX_SEED + 1 - sweep.study.repeats
        raise UsageError(f"seed: must be at most {largest} with repeats={sweep.study.repeats}, got {sweep.seeds[0]}")


def _check_claims(sweep: SweepFile) -> None:
    """Raise UsageError if a claim cannot get a verdict.

    Its arms are not trained, have too few seeds, or are not one network per seed; or two claims have the same number.
    """
    if not sweep.claims:
        return
    if not sweep.is_grid:
        raise UsageError(f"study.sampler: must be grid in a file with claims, got {sweep.study.sampler}")
    needed = MIN_SEEDS + bool(sweep.study.tune)  # the first seed chooses the values of the fields in `tune`
    if sweep.study.repeats < needed:
        file = "a file with claims and tune" if sweep.study.tune else "a file with claims"
        raise UsageError(f"study.repeats: must be at least {needed} in {file}, got {sweep.study.repeats}")
    numbers = [claim.number for claim in sweep.claims]
    points = [
        normalise_arm({key: to_text(value) for key, value in params.items()}) for params in sweep.iterate_points()
    ]
    for claim in sweep.claims:
        unknown = sorted(claim.fields - sweep.search.keys())
        if unknown:
            raise UsageError(f"claim {claim.number}: must use keys of [search], got {unknown[0]}")
        tuned = sorted(key for key in claim.fields if parse_field(key) in sweep.study.tune)
        if tuned:
            raise UsageError(f"claim {claim.number}: must not use fields of study.tune, got {tuned[0]}")
        if numbers.count(claim.number) > 1:
            raise UsageError(f"claim {claim.number}: must have a number of its own, got it twice")
        names = []
        for arm in claim.list_all_arms():
            names.append(format_full_name(arm))
            matches = [point for point in points if normalise_arm(arm).items() <= point.items()]
            if not matches:
                raise UsageError(f"claim {claim.number}: must use arms of the sweep, got {names[-1]}")
            variants = {(point.get(claim.each or ""), point.get(claim.worst_over or "")) for point in matches}
            networks = {
                frozenset((key, value) for key, value in point.items() if parse_field(key) not in sweep.study.tune)
                for point in matches
            }
            if len(networks) > len(variants):
                raise UsageError(f"claim {claim.number}: must use arms with one network per seed, got {names[-1]}")
        for name in claim.surprise.curves if claim.surprise else ():
            if name not in names:
                rule = f"must have arms of the claim as keys, such as {names[0]!r}"
                raise UsageError(f"claim {claim.number}: surprise.curves: {rule}, got {name!r}")


def _find_table(sweep: SweepFile, params: Params, message: str) -> str:
    """Return table and condition of the field that starts a message, such as `search.sgd.`; "" if no key matches."""
    field = message.partition(":")[0]
    tables: dict[str, Iterable[str]] = {"search": params, "train": sweep.train}
    prefixes = (
        f"{table}.{key.removesuffix(field)}"
        for table, keys in tables.items()
        for key in keys
        if parse_field(key) == field and sweep.is_active(key, params)
    )
    return next(prefixes, "")
