"""What all settings share: frozen, checked whole, changed by defaults and by `smoke`, told as texts."""

from copy import copy
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from loupe.config.fields import Text, field, format_value, is_true
from loupe.errors import UsageError

GIVEN = object()


class SettingsError(UsageError):
    """A setting is unknown, out of range or at odds with another; its text is one line for the user."""


class Settings(BaseModel):
    """The fields of every step. Subclasses change defaults with DEFAULTS."""

    # What checks a class is built when it is first used: of some thirty, a step uses two.
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True
    )
    STEP: ClassVar[str] = ""
    DEFAULTS: ClassVar[dict[str, Any]] = {}
    # field -> the fields that it depends on, each with the value under which it means something; GIVEN: any
    # but none; a frozenset: any of these
    DEPENDS: ClassVar[dict[str, dict[str, Any]]] = {}

    quiet: bool = field(False, "print nothing but errors")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        changed: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            changed |= vars(base).get("DEFAULTS", {})
        for name in changed.keys() & cls.model_fields.keys():
            cls.model_fields[name] = copy(cls.model_fields[name])
            cls.model_fields[name].default = changed[name]

    @model_validator(mode="after")
    def _refuse_without_effect(self) -> "Settings":
        for name, other in self.list_unused_fields().items():
            if name in self.model_fields_set:
                raise ValueError(
                    f"{name}: has no effect with {other}={format_value(getattr(self, other))}, "
                    f"got {format_value(getattr(self, name))}"
                )
        return self

    @classmethod
    def _depends(cls) -> dict[str, dict[str, Any]]:
        depends: dict[str, dict[str, Any]] = {}
        for base in reversed(cls.__mro__):
            depends |= vars(base).get("DEPENDS", {})
        return depends

    def list_unused_fields(self) -> dict[str, str]:
        return {
            name: other
            for name, others in self._depends().items()
            for other, value in others.items()
            if not _is_met(getattr(self, other), value)
        }

    def to_texts(self) -> dict[str, str]:
        """Each field that has an effect as its one text, as flags and MLflow params show it."""
        dropped = {"quiet", *self.list_unused_fields()}
        return {name: format_value(value) for name, value in self if name not in dropped}


class DatasetSettings(Settings):
    """A step that reads a prepared dataset and prepares it first if necessary. SMOKE has its values for `smoke`."""

    SMOKE: ClassVar[dict[str, Any]] = {}

    data_dir: str = field(
        "data", "where prepared datasets are kept: a folder, or an address such as s3://bucket/prefix"
    )
    scheduler: Text = field(
        None, "Dask scheduler, tcp://host:port; none starts one on all cores", rule="none or an address"
    )
    seed: int = field(0, "all randomness derives from it", ge=0, lt=2**31)
    smoke: bool = field(False, "shrink the step to seconds, to see that it works; fields given stay as given")

    @model_validator(mode="before")
    @classmethod
    def _shrink(cls, given: dict[str, Any]) -> dict[str, Any]:
        if is_true(given.get("smoke", False)):
            sizes: dict[str, Any] = {}
            for base in reversed(cls.__mro__):
                sizes |= vars(base).get("SMOKE", {})
            depends = cls._depends()
            return {
                name: value
                for name, value in sizes.items()
                if name in cls.model_fields and not depends.get(name, {}).keys() & given.keys()
            } | given
        return given


def _is_met(found: Any, value: Any) -> bool:
    if value is GIVEN:
        return found is not None
    return found in value if isinstance(value, frozenset) else bool(found == value)


def list_choices(annotation: Any) -> tuple[Any, ...]:
    """The values of a choice field, () for others; `Crop | None` has the values of `Crop`."""
    if getattr(annotation, "__origin__", None) is Literal:
        return get_args(annotation)
    return tuple(choice for part in get_args(annotation) for choice in list_choices(part))
