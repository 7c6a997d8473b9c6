"""Frozen settings of each step: a field's name, default, range and meaning stand here and nowhere else.

Flags, MLflow params, MLproject and sweep files follow from these classes or are tested against them.
`train` is a union: its class is put together from one network and, where the network is trained by
steps, one optimizer (`variants`), so that a field of another network or optimizer is quote_value.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from loupe.config.base import Settings, SettingsError
from loupe.config.fields import quote_value


class _Steps(Mapping[str, type[Settings]]):
    """Step to class, imported when it is asked for: a photo does not wait for what only training needs."""

    MODULES = {
        "main": "steps", "preprocess": "steps", "train": "training", "evaluate": "steps", "register": "steps",
        "sweep": "steps", "report": "steps", "sync": "steps", "upscale": "photos", "restore": "photos",
        "demo": "photos",
    }  # fmt: skip

    def __getitem__(self, step: str) -> type[Settings]:
        found: type[Settings] = getattr(import_module(f"loupe.config.{self.MODULES[step]}"), step.capitalize())
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.MODULES)

    def __len__(self) -> int:
        return len(self.MODULES)

    def __contains__(self, step: object) -> bool:
        return step in self.MODULES


STEPS = _Steps()


def parse_settings(step: str, given: dict[str, Any]) -> Any:
    """Check what was given for a step, whole, before anything is read or started.

    Args:
        step: a key of STEPS.
        given: field -> text or value; what is not given takes its default.

    Raises:
        SettingsError: naming the field, the rule and the value.
    """
    settings = STEPS[step]
    if step == "train":
        from loupe.config.training import build_train_class

        for name in ("network", "optimizer"):
            if not isinstance(given.get(name, ""), str):
                raise SettingsError(f"{name}: must be a name, got {quote_value(given[name])}")
        settings = build_train_class(given.get("network", "convolutional"), given.get("optimizer"))
    try:
        return settings.model_validate(given)
    except ValidationError as error:
        raise SettingsError(_line(error, step)) from None


def _line(error: ValidationError, step: str) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        if step == "train":
            from loupe.config.training import owners

            if elsewhere := owners(name):
                return f"{name}: is a field of {' and '.join(elsewhere)} only, got {quote_value(first['input'])}"
        return f"{name}: is no field of {step}; `loupe {step} --help` lists them"
    rule = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if first["type"] == "literal_error":
        rule = f"must be one of {first['ctx']['expected']}".replace("'", "").replace(" or ", ", ")
    return f"{name.rstrip('_')}: {rule}, got {quote_value(first['input'])}" if name else rule
