"""Turns `loupe <step> --field value` into checked settings, runs the step, and answers with a status.

Exit status: 0 done, 1 failed, 2 bad usage, 130 ended by Ctrl-C, 143 by SIGTERM. What a user can cause ends in one
line, not in a traceback.
"""

import argparse
import atexit
import gc
import importlib
import io
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

gc.set_threshold(100_000, 50, 50)  # the imports of a step alone trigger hundreds of collections: 12 % of their time
atexit.register(gc.freeze)  # or all that lives to the end is searched for cycles once more: 0.2 s

from loupe import __version__
from loupe.cli import signals
from loupe.cli.progress import print_error
from loupe.config import STEPS, parse_settings
from loupe.config.base import Settings, list_choices
from loupe.config.fields import format_value
from loupe.errors import LoupeError, UsageError

# What a step takes without a flag's name before it.
POSITIONAL = {"upscale": "inputs", "restore": "inputs", "sweep": "sweep"}
SEVERAL = {"upscale", "restore"}  # of which it takes any number
# Unless the environment says otherwise, libraries print nothing beside our lines, Arrow gives memory back, and
# pydantic does not read what all packages say of themselves to find plugins, at every start.
LIBRARIES = {
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
TIDY = {"mlflow", "gradio"}  # libraries that, where they were imported, have something to do when Python ends


def entry(step: str | None = None) -> NoReturn:
    """The command `loupe`, or one step: `main` or `run_step`, and the end of the process with its status.

    Memory is left to the system, which frees it at once, where Python takes 0.08 s of a photo's 0.9.
    """
    status = main() if step is None else run_step(step)
    if sys.modules.keys() & TIDY:
        sys.exit(status)
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        sys.exit(status)
    os._exit(status)


def main(arguments: list[str] | None = None) -> int:
    """Run `loupe <step> …`; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in STEPS:
        return run_step(given[0], given[1:])
    quiet = [word for word in given if word == "--quiet"]
    rest = [word for word in given if word != "--quiet"]
    if quiet and rest and rest[0] in STEPS:
        return run_step(rest[0], [*rest[1:], "--quiet"])
    overview = "\n".join(f"  {name:<11} {settings.__doc__}" for name, settings in STEPS.items())
    parser = _Parser(
        prog="loupe",
        usage="loupe <step> [--field value …]",
        description=f"steps:\n{overview}\n\n`loupe <step> --help` lists the step's fields.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"loupe {__version__}")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors; goes with every step")
    parser.add_argument("step", nargs="?", metavar="<step>", help=argparse.SUPPRESS)
    try:
        step = parser.parse_args(rest).step
    except SystemExit as stop:
        return int(stop.code or 0)
    if step is None:
        parser.print_help()
        return 2
    return _complain("loupe", f"step: must be one of {', '.join(STEPS)}, got {step!r}", 2)


def run_step(step: str, arguments: list[str] | None = None) -> int:
    """Run one step with the flags given (default: those of this process); returns the exit status."""
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)
    try:
        words = sys.argv[1:] if arguments is None else arguments
        words, behind = _before_and_behind(words, step)
        given, unknown = _parser(step).parse_known_intermixed_args(_with_truth(step, words))
        if behind:
            setattr(given, POSITIONAL[step], [*getattr(given, POSITIONAL[step], []), *behind])
        if unknown:
            name = unknown[0].lstrip("-").split("=")[0].replace("-", "_")
            raise UsageError(f"{name}: is no field of {step}; `loupe {step} --help` lists them")
        settings = parse_settings(step, vars(given))
    except SystemExit as stop:
        return int(stop.code or 0)
    except UsageError as error:
        return _complain(f"loupe {step}", str(error), 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        with signals.as_exits():
            importlib.import_module(f"loupe.steps.{step}").run(settings)
    except UsageError as error:
        return _complain(f"loupe {step}", str(error), 2)
    except (LoupeError, OSError) as error:
        return _complain(f"loupe {step}", str(error) or type(error).__name__, 1)
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("mlflow", "distributed", "sqlalchemy", "alembic"):
            raise  # a fault of ours
        return _complain(f"loupe {step}", (str(error) or type(error).__name__).splitlines()[0], 1)
    except KeyboardInterrupt:
        return _complain(f"loupe {step}", "interrupted", signals.SIGNALLED + signal.SIGINT)
    except signals.Terminated:
        return _complain(f"loupe {step}", "terminated", signals.SIGNALLED + signal.SIGTERM)
    return 0


def _before_and_behind(words: list[str], step: str) -> tuple[list[str], list[str]]:
    """Behind `--` there are no flags, only what the step takes any number of."""
    at = words.index("--") if step in SEVERAL and "--" in words else len(words)
    return words[:at], words[at + 1 :]


def _with_truth(step: str, words: list[str]) -> list[str]:
    """`--quiet` alone means `--quiet true`; what stands behind may be the value, or what the step works on."""
    flags = {f"--{name}" for name, info in STEPS[step].model_fields.items() if info.annotation is bool}
    truth = ("true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n")

    def alone(behind: str) -> bool:
        return behind.startswith("--") or not behind or (step in POSITIONAL and behind.lower() not in truth)

    return [
        f"{word}=true" if word in flags and alone(behind) else word
        for word, behind in zip(words, [*words[1:], ""], strict=False)
    ]


def _complain(who: str, text: str, status: int) -> int:
    print_error(f"{who}: error: {text}")
    return status


class _Parser(argparse.ArgumentParser):
    """argparse that complains in one line, and whose help is what `text` gives, where it is asked for."""

    text: Callable[[], str] | None = None

    def error(self, message: str) -> NoReturn:
        sys.exit(_complain(self.prog, message, 2))

    def format_help(self) -> str:
        return self.text() if self.text else super().format_help()


def _parser(step: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"loupe {step}", argument_default=argparse.SUPPRESS, allow_abbrev=False)
    groups = _groups(step)
    for name in dict.fromkeys(name for _, fields in groups for name in fields):
        word = name.rstrip("_")  # `from` cannot be a field's name
        flags = dict.fromkeys((f"--{word}", f"--{word.replace('_', '-')}"))
        parser.add_argument(*flags, dest=name)
        if POSITIONAL.get(step) == name:
            parser.add_argument(name, nargs="*" if step in SEVERAL else "?")
    parser.text = partial(_text, step, groups)
    return parser


def _text(step: str, groups: list[tuple[str, dict[str, Any]]]) -> str:
    place = f" [{POSITIONAL[step]}{' …' if step in SEVERAL else ''}]" if step in POSITIONAL else ""
    lines = [f"usage: loupe {step}{place} [--field value …]", "", str(STEPS[step].__doc__)]
    for title, fields in groups:
        lines += ["", f"{title}:"]
        for name, info in fields.items():
            wrapped = textwrap.wrap(_help(name, info), width=84)
            lines += [f"  --{name.rstrip('_'):<20}  {wrapped[0]}", *(f"{'':26}{line}" for line in wrapped[1:])]
    return "\n".join(lines) + "\n"


def _groups(step: str) -> list[tuple[str, dict[str, Any]]]:
    """The fields of a step under their titles; train's by network and optimizer."""
    if step != "train":
        return [("fields", dict(STEPS[step].model_fields))]
    from loupe.config.training import NETWORKS, OPTIMIZERS, Train

    common = dict(Train.model_fields)
    groups = [("fields of every network", common)]
    for name, network in NETWORKS.items():
        own = {key: info for key, info in network.model_fields.items() if key not in common}
        groups.append((f"--network {name}", own))
    for name, optimizer in OPTIMIZERS.items():
        own = {key: info for key, info in optimizer.model_fields.items() if key not in Settings.model_fields}
        rate = optimizer.DEFAULTS.get("learning_rate")
        shown = f"learning_rate {rate:g} by default" if rate else "learning_rate is the network's by default"
        groups.append((f"--optimizer {name} ({shown})", own))
    return groups


def _help(name: str, info: Any) -> str:
    choices = ", ".join(format_value(choice) for choice in list_choices(info.annotation))
    if info.annotation is bool:
        choices = "true, false"
    if name == "optimizer":
        from loupe.config.training import OPTIMIZERS

        choices = ", ".join(OPTIMIZERS)
    symbols = {"ge": ">= ", "gt": "> ", "le": "<= ", "lt": "< "}
    bounds = " and ".join(
        f"{symbol}{getattr(part, bound):g}"
        for part in info.metadata
        for bound, symbol in symbols.items()
        if getattr(part, bound, None) is not None
    )
    rule = (info.json_schema_extra or {}).get("rule", "")
    default = "" if info.default_factory or info.default is None else f"default {format_value(info.default)}"
    if default == "default none" and name == "categories":
        default = "default all"
    allowed = "; ".join(part for part in (choices or rule, bounds, default) if part)
    return f"{info.description} [{allowed}]" if allowed else str(info.description)
