"""The base classes of the settings, which are immutable, validated and convertible to text and back."""

from collections.abc import Iterable
from contextlib import suppress
from copy import copy
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from loupe.config.fields import Tags, Text, field, format_value, is_true
from loupe.errors import UsageError, mask_secrets

MAX_SEED = 2**31 - 1
GIVEN = object()  # in DEPENDS, this object means any value except None


class SettingsError(UsageError):
    """A setting is unknown, out of range or in conflict with another setting. The message has one line."""


class Settings(BaseModel):
    """The base class of all settings, with the field that every step has.

    A subclass may set these class attributes. DEFAULTS and DEPENDS are merged with those of the base classes.
        STEP: the name of the step.
        DEFAULTS: new defaults of inherited fields.
        DEPENDS: by field name, the conditions under which the field has an effect; all must be met. A condition maps
            another field to its required value, to a frozenset of accepted values, or to GIVEN.
        HELP_GROUPS: the fields that the help lists in a separate group: names of fields by title of the group.
    """

    # Validators are built on first use, because a step uses only 2 of about 30 classes.
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True
    )
    STEP: ClassVar[str] = ""
    DEFAULTS: ClassVar[dict[str, Any]] = {}
    DEPENDS: ClassVar[dict[str, dict[str, Any]]] = {}
    HELP_GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {}

    quiet: bool = field(False, "print only errors")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for name, default in cls._collect("DEFAULTS").items():
            if name in cls.model_fields:
                cls.model_fields[name] = copy(cls.model_fields[name])
                cls.model_fields[name].default = default

    @model_validator(mode="after")
    def _refuse_unused_fields(self) -> "Settings":
        for name, other in self.list_unused_fields().items():
            if name in self.model_fields_set:
                raise ValueError(
                    f"{name}: has no effect with {other.rstrip('_')}={format_value(getattr(self, other))}, "
                    f"got {format_value(getattr(self, name))}"
                )
        return self

    @classmethod
    def _collect(cls, attribute: str) -> dict[str, Any]:
        """Merge a dictionary attribute of this class with this attribute of the base classes."""
        merged: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            merged |= vars(base).get(attribute, {})
        return merged

    def list_unused_fields(self) -> dict[str, str]:
        """Return the fields that have no effect, each with the field whose value is the reason."""
        return {
            name: other
            for name, others in self._collect("DEPENDS").items()
            for other, required in others.items()
            if not _is_met(getattr(self, other), required)
        }

    def to_texts(self) -> dict[str, str]:
        """Return the fields as texts by name, for the params of runs and the manifests of datasets.

        Secrets are masked. Fields without effect, `quiet`, and the name, tags and note of the run are omitted.
        """
        dropped = {*RunSettings.model_fields, *self.list_unused_fields()}
        return {name: _to_text(value) for name, value in self if name not in dropped}

    def select(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the values of the given fields by name."""
        return {name: getattr(self, name) for name in names}


class RunSettings(Settings):
    """The settings of a step that opens an MLflow run."""

    run_name: Text = field(None, "name of the run in MLflow", rule="a name; default: chosen by Loupe")
    tags: Tags = field(
        (), "tags of the run in MLflow", rule="none, or key=value, comma-separated, such as owner=ana,stage=draft"
    )
    note: Text = field(None, "description of the run in MLflow, as Markdown", rule="none or a text")


class DatasetSettings(RunSettings):
    """The settings of a step that prepares a dataset, or that uses a dataset and prepares it if necessary.

    A subclass may set this class attribute:
        SMOKE: the defaults of fields if `smoke` is set.
    """

    SMOKE: ClassVar[dict[str, Any]] = {}

    data_dir: str = field("data", "folder or URL of the prepared datasets, such as s3://bucket/prefix")
    scheduler: Text = field(
        None,
        "address of a Dask scheduler, whose cluster prepares photos; none: this machine prepares them",
        rule="none, or an address such as tcp://host:port",
    )
    seed: int = field(0, "seed of all random numbers", ge=0, le=MAX_SEED)
    smoke: bool = field(False, "run a short test: small defaults for the fields that determine the duration")

    @model_validator(mode="before")
    @classmethod
    def _apply_smoke_values(cls, given: dict[str, Any]) -> dict[str, Any]:
        if not is_true(given.get("smoke", False)):
            return given
        # Omit the smoke value of a field without effect: `steps` would be refused with `flops`.
        smoke_values = {
            name: value
            for name, value in cls._collect("SMOKE").items()
            if name in cls.model_fields and cls._has_effect(name, given)
        }
        return smoke_values | given

    @classmethod
    def _has_effect(cls, name: str, given: dict[str, Any]) -> bool:
        """Return whether the given values, before their validation, meet the conditions of a field in DEPENDS."""
        for other, required in cls._collect("DEPENDS").get(name, {}).items():
            with suppress(ValidationError):  # raised again when the settings are validated
                annotation = cls.model_fields[other].rebuild_annotation()
                if other in given and not _is_met(TypeAdapter(annotation).validate_python(given[other]), required):
                    return False
        return True


def list_choices(annotation: Any) -> tuple[Any, ...]:
    """Return the values that a field with a Literal type accepts, without None; () for other fields."""
    if getattr(annotation, "__origin__", None) is Literal:
        return get_args(annotation)
    return tuple(choice for part in get_args(annotation) for choice in list_choices(part))


def _to_text(value: Any) -> str:
    if isinstance(value, tuple) and value:
        # Each URL is masked separately, because the pattern of a secret may also match the start of the next URL.
        return ",".join(map(_to_text, value))
    return mask_secrets(format_value(value))


def _is_met(value: Any, required: Any) -> bool:
    if required is GIVEN:
        return value is not None
    return value in required if isinstance(required, frozenset) else bool(value == required)
