"""Writes the help texts of the command line from the settings."""

import textwrap
from typing import Any

from loupe.config import STEPS, group_fields
from loupe.config.base import list_choices
from loupe.config.fields import format_value

WIDTH = 84  # maximum length of a line of a field's help, in characters
COMPARISONS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def format_overview() -> str:
    """Return the help of `loupe` without a step."""
    steps = "\n".join(f"  {name:<11} {settings.__doc__}" for name, settings in STEPS.items())
    return f"""usage: loupe <step> [--<field> <value> …]

steps:
{steps}

options:
  --help      show this text; `loupe <step> --help` lists the fields of a step
  --version   show the version
  --quiet     print only errors; every step accepts this option"""


def format_step_help(step: str, positional: str | None, multiple: bool) -> str:
    """Return the help of a step.

    Args:
        step: a key of STEPS.
        positional: the field whose values need no flag, or None.
        multiple: whether this field takes several values.
    """
    usage = f" [<{positional}>{' …' if multiple else ''}]" if positional else ""
    lines = [f"usage: loupe {step}{usage} [--<field> <value> …]", "", str(STEPS[step].__doc__)]
    for title, fields in group_fields(step):
        lines += ["", f"{title}:"]
        for name, info in fields.items():
            flag = ("[no-]" if info.annotation is bool else "") + name.rstrip("_").replace("_", "-")
            first, *others = textwrap.wrap(_format_field(name, info), width=WIDTH)
            lines += [f"  --{flag:<20}  {first}", *(f"{'':26}{line}" for line in others)]
    return "\n".join(lines) + "\n"


def _format_field(name: str, info: Any) -> str:
    rule = (info.json_schema_extra or {}).get("rule", "")
    default = "" if info.default_factory or "default" in rule else f"default {format_value(info.default)}"
    if name in ("network", "optimizer"):
        from loupe.config.networks import NETWORKS
        from loupe.config.optimizers import OPTIMIZERS

        rule = ", ".join(NETWORKS if name == "network" else OPTIMIZERS)
    if name == "categories":
        default = "default all"
    choices = " or ".join(", ".join(map(format_value, list_choices(info.annotation))).rsplit(", ", 1))
    allowed = "; ".join(part for part in (_describe_bounds(info), rule or choices, default) if part)
    return f"{info.description} [{allowed}]" if allowed else str(info.description)


def _describe_bounds(info: Any) -> str:
    """Return the range of a field, such as "1 to 1024" or ">= 0 and < 1"; "" for a field without a range."""
    bounds = {
        kind: f"{int(bound) if bound == int(bound) else bound}"
        for part in info.metadata
        for kind in COMPARISONS
        if (bound := getattr(part, kind, None)) is not None
    }
    if bounds.keys() == {"ge", "le"}:
        return f"{bounds['ge']} to {bounds['le']}"
    return " and ".join(f"{COMPARISONS[kind]} {bound}" for kind, bound in bounds.items())
