"""Reads a sweep file, and checks it whole against the settings of train before anything starts."""

import tomllib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loupe.config.fields import format_value, quote_value
from loupe.config.steps import Sweep
from loupe.config.training import NETWORKS, OPTIMIZERS, GradientTrain
from loupe.errors import UsageError
from loupe.search.sweep_file import PLACE, Chosen, Range, SweepFile, condition_of, field_of

LARGEST_FILE = 2**20  # bytes of a sweep file
MOST_POINTS = 100_000  # of a grid


def read(file: str | Path, settings: Sweep | None = None) -> SweepFile:
    """Read a sweep file and check it whole.

    Args:
        file: its path.
        settings: name, dataset, pruner and seed to take instead of the file's; smoke shrinks its trainings.

    Raises:
        UsageError: the file, a table, a field or a value is not as it must be.
    """
    given = _tables(Path(file))
    try:
        sweep = SweepFile.model_validate(given)
        if settings:
            sweep = SweepFile.model_validate(_changed(given, settings))
        _check(sweep)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
        rule = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        shown = "" if first["type"] == "value_error" else f", got {quote_value(first['input'])}"
        raise UsageError(f"sweep: {file}: {place}: {rule}{shown}") from None
    except (UsageError, ValueError, OverflowError) as error:  # the latter two: of numbers beyond all bounds
        raise UsageError(f"sweep: {file}: {error}") from None
    return sweep


def _tables(file: Path) -> dict[str, Any]:
    """A file of TOML as it stands."""
    try:
        if file.is_fifo() or file.is_char_device():  # reading one would wait for ever
            raise UsageError(f"sweep: must be a file, got {str(file)!r}")
        with file.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: of a name that holds a zero
        raise UsageError(f"sweep: {str(file)!r} cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(content) > LARGEST_FILE:
        raise UsageError(f"sweep: must be a file of at most {LARGEST_FILE} bytes, got {str(file)!r}")
    try:
        return tomllib.loads(content.decode())
    except RecursionError:
        raise UsageError(f"sweep: {file} is no TOML that can be read: it is nested too deeply") from None
    except ValueError as error:  # of TOML, of UTF-8, or of numbers with too many digits
        raise UsageError(f"sweep: {file} is no TOML: {error}") from None


def _changed(given: dict[str, Any], settings: Sweep) -> dict[str, Any]:
    """The tables of a valid file, with what was given instead."""
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
        searched = {field_of(key) for key in given.get("search", {})}
        sizes = {"seconds"}.union(*(vars(part).get("SMOKE", {}) for part in (GradientTrain, *NETWORKS.values())))
        for name in sizes - searched:
            train = {key: value for key, value in train.items() if field_of(key) != name}
        train["smoke"] = True
    return given | {"study": study, "train": train}


def _check(sweep: SweepFile) -> None:
    """Refuse what could not be trained, before anything starts."""
    for place in (*(f"train.{key}" for key in sweep.train), *(f"search.{key}" for key in sweep.search)):
        condition = condition_of(place.partition(".")[2])
        if condition and (not condition[1] or not (condition[0] in ("network", "optimizer") or _known(condition[0]))):
            raise UsageError(f"{place}: the condition must be a network, an optimizer or field=value")
    for key, values in sweep.search.items():
        if isinstance(values, list) and (not values or len(set(map(format_value, sweep.choices(key)))) < len(values)):
            raise UsageError(f"search.{key}: must hold values, each once, got {str(values)[:200]}")
        if isinstance(values, Range) and sweep.study.sampler == "grid":
            raise UsageError(f"search.{key}: a grid needs a list of values, got a range")
        if field_of(key) in PLACE:
            raise UsageError(f"search.{key}: cannot be searched; seeds come from study.repeats")
        if key in sweep.train:
            raise UsageError(f"search.{key}: stands in [train], too")
    for name in sweep.study.tune:
        if name not in map(field_of, sweep.search):
            raise UsageError(f"study.tune: {name} is not in [search]")
    if sweep.study.sampler == "grid" and next(islice(sweep.points(), MOST_POINTS, None), None) is not None:
        raise UsageError(f"search: a grid has at most {MOST_POINTS} points, got more; take sampler=random or tpe")
    used: set[str] = set()
    for chosen in sweep.points() if sweep.study.sampler == "grid" else sweep.drawn():
        fields = [field_of(key) for key in chosen]
        twice = [name for name in fields if fields.count(name) > 1]
        if twice:
            raise UsageError(f"search: {twice[0]} is set twice at one point")
        try:
            sweep.settings(chosen)
        except UsageError as error:
            raise UsageError(f"{_table(sweep, chosen, str(error))}{error}") from None
        used |= chosen.keys()
    never = [key for key in sweep.search if key not in used]
    if never and sweep.study.sampler == "grid":
        raise UsageError(f"search.{never[0]}: its condition holds at no point")


def _table(sweep: SweepFile, chosen: Chosen, refusal: str) -> str:
    """Where the field that the settings refuse stands, as `search.` or `train.`; nowhere: nothing."""
    field = refusal.partition(":")[0]
    tables: dict[str, Iterable[str]] = {"search": chosen, "train": sweep.train}
    found = (
        f"{table}.{key.removesuffix(field)}"
        for table, keys in tables.items()
        for key in keys
        if field_of(key) == field and sweep.applies(key, chosen)
    )
    return next(found, "")


def _known(field: str) -> bool:
    return any(field in settings.model_fields for settings in (*NETWORKS.values(), *OPTIMIZERS.values()))
