"""The conditions in the keys of a sweep file, such as `perceptron` in `perceptron.hidden`."""

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Annotated, Any, NamedTuple, get_args

from pydantic import TypeAdapter

from loupe.config.base import Settings
from loupe.config.fields import format_value
from loupe.config.networks import NETWORKS, build_train_class
from loupe.config.optimizers import OPTIMIZERS
from loupe.config.training import Train


class Condition(NamedTuple):
    """The field and value on which a key depends."""

    field: str
    value: str


def parse_condition(key: str) -> Condition | None:
    """Return the condition of a key, or None."""
    condition, dot, _ = key.rpartition(".")
    if not dot:
        return None
    if condition in OPTIMIZERS:
        return Condition("optimizer", condition)
    if condition in NETWORKS:
        return Condition("network", condition)
    field, _, value = condition.partition("=")
    return Condition(field, value)


def parse_field(key: str) -> str:
    """Return the field of train that a key sets."""
    return key.rpartition(".")[2]


def is_met(condition: Condition, given: Mapping[str, Any]) -> bool:
    """Return whether a condition holds; a field that is not in `given` has its default.

    Values are compared after parsing: for `scale`, 1.5 is equal to 3:2.
    """
    network = to_text(given.get("network", Train.model_fields["network"].default))
    optimizer = to_text(given["optimizer"]) if "optimizer" in given else None
    if network not in NETWORKS or optimizer not in (None, *OPTIMIZERS):
        return False  # `create_settings` will refuse the unknown name
    train_class = build_train_class(network, optimizer)
    fields = train_class.model_fields
    if condition.field not in fields:
        return False
    if condition.field in given:
        text = to_text(given[condition.field])
    else:
        # Some defaults depend on other fields.
        values = {name: info.default for name, info in fields.items() if not info.default_factory}
        try:
            values |= {
                name: _parse(train_class, name, to_text(value)) for name, value in given.items() if name in fields
            }
        except ValueError:
            return False  # `create_settings` will refuse the value
        text = format_value(fields[condition.field].get_default(call_default_factory=True, validated_data=values))
    found, wanted = (_normalise(train_class, condition.field, value) for value in (text, condition.value))
    return found is not None and found == wanted  # `create_settings` will refuse an invalid value


@cache
def is_float(field: str) -> bool:
    """Return whether the type of a field of train includes float."""
    return any(
        field in settings.model_fields and float in _list_types(settings.model_fields[field].annotation)
        for settings in (*NETWORKS.values(), *OPTIMIZERS.values())
    )


def _list_types(annotation: Any) -> list[Any]:
    """List the types in an annotation such as `float | None`."""
    return [annotation, *(found for part in get_args(annotation) for found in _list_types(part))]


def is_possible(condition: Condition) -> bool:
    """Return whether the field of a condition can have its value with some network and optimizer."""
    classes = (build_train_class(network, optimizer) for network in NETWORKS for optimizer in (None, *OPTIMIZERS))
    return any(
        condition.field in found.model_fields and _normalise(found, condition.field, condition.value) is not None
        for found in classes
    )


@lru_cache(maxsize=10_000)
def _normalise(train_class: type[Settings], field: str, text: str) -> str | None:
    """Return the text of a value as Loupe formats it, or None for an invalid value."""
    try:
        return format_value(_parse(train_class, field, text))
    except ValueError:
        return None


@lru_cache(maxsize=10_000)
def _parse(train_class: type[Settings], field: str, text: str) -> Any:
    """Return the value of a text; raise ValueError if the text is invalid."""
    info = train_class.model_fields[field]
    annotation: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    return TypeAdapter(annotation).validate_python(text)


def to_text(value: Any) -> str:
    """Return the text of a value from a sweep file."""
    return format_value(tuple(value) if isinstance(value, list) else value)
