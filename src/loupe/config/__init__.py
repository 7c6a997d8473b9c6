"""The settings of the steps, one class per step.

The classes define the name, default, range and help text of every field.

The command line and the params of MLflow runs derive from these classes. Tests compare MLproject and the sweep files
with these classes. The settings of `train` combine the fields of one network with the fields of one optimizer. Ridge
regression has no optimizer.
"""

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from loupe.config.base import DatasetSettings, Settings, SettingsError
from loupe.config.fields import quote_value


class _Steps(Mapping[str, type[Settings]]):
    """Maps each step to its settings class. A class is imported on first use, so that `loupe upscale` starts fast."""

    MODULES = {
        "main": "steps", "preprocess": "datasets", "train": "training", "evaluate": "evaluation", "register": "steps",
        "sweep": "steps", "report": "steps", "sync": "steps", "upscale": "photos", "restore": "photos",
        "demo": "photos",
    }  # fmt: skip

    def __getitem__(self, step: str) -> type[Settings]:
        settings_class: type[Settings] = getattr(
            import_module(f"loupe.config.{self.MODULES[step]}"), step.capitalize()
        )
        return settings_class

    def __iter__(self) -> Iterator[str]:
        return iter(self.MODULES)

    def __len__(self) -> int:
        return len(self.MODULES)

    def __contains__(self, step: object) -> bool:
        return step in self.MODULES


STEPS = _Steps()


def parse_settings(step: str, given: dict[str, Any]) -> Any:
    """Validate the settings of a step.

    Args:
        step: a key of STEPS.
        given: the text or value of each field; missing fields take their defaults. A path may be an `os.PathLike`.

    Returns:
        An instance of the step's settings class.

    Raises:
        SettingsError: a field is unknown, out of range, without effect, or in conflict with another field.
    """
    settings_class = STEPS[step]
    if step == "train":
        from loupe.config.networks import build_train_class

        for name in ("network", "optimizer"):
            if not isinstance(given.get(name, ""), str):
                raise SettingsError(f"{name}: must be a name, got {quote_value(given[name])}")
        settings_class = build_train_class(given.get("network", "convolutional"), given.get("optimizer"))
    fields = settings_class.model_fields
    texts = {name: _convert_paths(value, fields[name]) if name in fields else value for name, value in given.items()}
    try:
        return settings_class.model_validate(texts)
    except ValidationError as error:
        raise SettingsError(_describe_error(error, step)) from None


def _convert_paths(value: Any, info: FieldInfo) -> Any:
    """Convert an `os.PathLike`, also in a list, to text. For a list field, a path becomes a list of one text."""
    if isinstance(value, os.PathLike):
        value = os.fsdecode(value)
        return [value] if get_origin(info.annotation) is tuple else value  # the text would be split at its commas
    if isinstance(value, list | tuple):
        return [os.fsdecode(part) if isinstance(part, os.PathLike) else part for part in value]
    return value


def group_fields(step: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the fields of a step in groups with titles; `train` has a group per network and per optimizer."""
    if step != "train":
        fields, titled = _sort_fields(STEPS[step]), STEPS[step].HELP_GROUPS
        groups = [(title, {name: fields.pop(name) for name in names}) for title, names in titled.items()]
        return [("fields", fields), *groups]
    from loupe.config.networks import NETWORKS
    from loupe.config.optimizers import OPTIMIZERS
    from loupe.config.training import GradientTrain, Train

    trained = {name: network for name, network in NETWORKS.items() if issubclass(network, GradientTrain)}
    shared = {
        name: info
        for name, info in _sort_fields(GradientTrain, without=Train).items()
        if all(network.model_fields[name].default == info.default for network in trained.values())
    }
    groups = [("fields of every network", _sort_fields(Train))]
    for key, network in NETWORKS.items():
        fields = _sort_fields(network, without=Train)
        own = {name: info for name, info in fields.items() if name not in shared}
        groups.append((f"fields with --network {key}", own))
    groups.append((f"fields with --network {' or '.join(trained)}", shared))
    for name, optimizer in OPTIMIZERS.items():
        fields = _sort_fields(optimizer, without=Settings)
        rate = optimizer.DEFAULTS.get("learning_rate")
        default = f"{rate:g}" if rate else "that of --network"
        groups.append((f"fields with --optimizer {name} (default learning_rate: {default})", fields))
    return groups


def list_fields(step: str) -> dict[str, Any]:
    """Return all fields of a step by name."""
    return {name: info for _, fields in group_fields(step) for name, info in fields.items()}


def _sort_fields(settings: type[Settings], without: type[Settings] | None = None) -> dict[str, Any]:
    """Return the fields of a settings class in the order of the help.

    The fields that the class itself defines are first; the fields of `DatasetSettings` are last. The fields of the
    base class `without` are excluded.
    """
    fields = settings.model_fields
    names = [name for name in settings.__annotations__ if name in fields]
    names += [name for name in fields if name not in DatasetSettings.model_fields]
    excluded_fields = without.model_fields if without else {}
    return {name: fields[name] for name in [*names, *fields] if name not in excluded_fields}


def _describe_error(error: ValidationError, step: str) -> str:
    """Return one line with the field, the rule and the value."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    value = quote_value(first["input"])
    if first["type"] == "extra_forbidden":
        return _describe_unknown_field(name, step, value)
    rule = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if first["type"] == "int_parsing_size":
        rule = "must be an integer of fewer digits"
    if first["type"] == "literal_error":
        rule = f"must be one of {first['ctx']['expected']}".replace("'", "").replace(" or ", ", ")
    return f"{name.rstrip('_')}: {rule}, got {value}" if name else rule


def _describe_unknown_field(name: str, step: str, value: str) -> str:
    if step == "train":
        from loupe.config.networks import find_field_owners

        if elsewhere := find_field_owners(name):
            return f"{name}: is a field of {' and '.join(elsewhere)} only, got {value}"
    return explain_unknown_field(name, step)


def explain_unknown_field(name: str, step: str) -> str:
    """Return the error message for an unknown field, with a similar field or the command that lists the fields."""
    import difflib

    similar = difflib.get_close_matches(name, list_fields(step), 1)
    hint = f"did you mean {similar[0].removesuffix('_')}?" if similar else f"`loupe {step} --help` lists the fields"
    return f"{name}: is not a field of {step}; {hint}"
