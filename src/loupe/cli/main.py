"""Runs `loupe <step> --field value`: parses the arguments, validates the settings, and runs the step.

Exit status: 0 success, 1 failure, 2 wrong usage, 130 after Ctrl-C, 143 after SIGTERM. After these signals, a
running `loupe demo` returns 0.
"""

import argparse
import importlib
import io
import os
import re
import signal
import sys
from contextlib import suppress
from itertools import takewhile
from typing import Any, NoReturn

from loupe import __version__
from loupe.cli import signals
from loupe.cli.extras import describe_missing_package
from loupe.cli.help import format_overview, format_step_help
from loupe.cli.progress import print_error
from loupe.cli.startup import prepare_process
from loupe.cli.streams import use_utf8
from loupe.config import STEPS, explain_unknown_field, list_fields, parse_settings
from loupe.config.fields import quote_value
from loupe.errors import STORE_LIBRARIES, LoupeError, UsageError, describe_error, mask_error, was_raised_by_store

POSITIONAL = {"upscale": "inputs", "restore": "inputs", "sweep": "sweep"}  # fields whose values need no flag
MULTIPLE = {"upscale", "restore"}  # steps with any number of positional arguments
HELP_OPTIONS = {"-h", "--help"}
OPTIONS = {*HELP_OPTIONS, "--quiet", "--version"}  # accepted before the name of the step
BOOLEAN_TEXTS = ("true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n")  # as pydantic accepts them
# Defaults that silence libraries, make Arrow return memory to the system, and stop pydantic's search for plugins.
ENVIRONMENT_DEFAULTS = {
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
LIBRARIES_WITH_USER_ERRORS = (*STORE_LIBRARIES, "distributed")  # their errors are printed without a traceback


def entry() -> NoReturn:
    """Run the command `loupe`."""
    use_utf8()
    prepare_process()
    sys.exit(main())


def main(arguments: list[str] | None = None) -> int:
    """Run `loupe <step> …` and return the exit status. If `arguments` is None, use those of this process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = list(takewhile(OPTIONS.__contains__, words))
    step = next(iter(words[len(options) :]), None)
    if "--version" in options:
        print(f"loupe {__version__}")
        return 0
    if step is None:
        print(format_overview())
        return 0 if HELP_OPTIONS & set(options) else 2
    if step in STEPS:
        return run_step(step, options + words[len(options) + 1 :])
    return _fail("loupe", f"step: must be one of {', '.join(STEPS)}, got {step!r}", 2)


def run_step(step: str, words: list[str]) -> int:
    """Run a step, and return the exit status. An error that the user did not cause is raised again.

    `words` are the arguments without the name of the step.
    """
    set_environment()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for file names that are not valid text
    program = f"loupe {step}"
    try:
        if HELP_OPTIONS & set(words[: _find_separator(step, words)]):
            print(format_step_help(step, POSITIONAL.get(step), step in MULTIPLE), end="")
            return 0
        _enter_callers_folder()
        settings = parse_settings(step, parse_arguments(step, words))
        with signals.raise_on_signals():
            importlib.import_module(f"loupe.steps.{step}").run(settings)
    except KeyboardInterrupt:
        return _fail(program, "interrupted", signals.SIGNAL_STATUS + signal.SIGINT)
    except signals.Terminated:
        return _fail(program, "terminated", signals.SIGNAL_STATUS + signal.SIGTERM)
    except Exception as error:
        text, exit_status = _describe_failure(error)
        # MLflow deletes this variable when a step opens the run that `mlflow run` created, so this run is not open.
        if "MLFLOW_RUN_ID" in os.environ:
            with suppress(ImportError):
                importlib.import_module("loupe.tracking.project_run").log_project_failure(text)
        return _fail(program, text, exit_status)
    return 0


def set_environment() -> None:
    """Set the variables of ENVIRONMENT_DEFAULTS, unless the user has set them."""
    for name, value in ENVIRONMENT_DEFAULTS.items():
        os.environ.setdefault(name, value)


def _enter_callers_folder() -> None:
    """If `mlflow run` started this step in the project's folder, change to the folder in which the user called it."""
    if "MLFLOW_RUN_ID" not in os.environ or not os.path.exists("MLproject"):
        return
    import psutil

    if "PYTHONPATH" in os.environ:  # worker processes start in the new folder, where relative paths would be wrong
        folders = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, folders))
    for parent in psutil.Process().parents():  # the first parent that is a Python process is MLflow
        with suppress(psutil.Error, OSError):
            if "python" in os.path.basename(parent.exe()):
                os.chdir(parent.cwd())
                return


def parse_arguments(step: str, words: list[str]) -> dict[str, str | list[str]]:
    """Parse the arguments of a step.

    Flags are field names with dashes or underscores. `--x` and `--no-x` set a boolean field.

    Returns:
        The text of each given field; a list of texts for the positional arguments of a step in MULTIPLE.

    Raises:
        UsageError: an argument is unknown, a flag has no value, a field that is not boolean is given twice, or a
            field is given both with and without its flag.
    """
    fields = list_fields(step)
    separator = _find_separator(step, words)
    # The command line of pydantic-settings is not used: it adds 35 ms per start, and does not show the ranges of
    # fields and the fields of each network.
    parser = argparse.ArgumentParser(
        argument_default=argparse.SUPPRESS, allow_abbrev=False, add_help=False, exit_on_error=False
    )
    for name, info in fields.items():
        parser.add_argument(_make_flag(name), dest=name, action="store" if info.annotation is bool else _StoreOnce)
    positional = POSITIONAL.get(step)
    if positional:
        parser.add_argument("positional", nargs="*" if step in MULTIPLE else "?")
    booleans = {_make_flag(name) for name, info in fields.items() if info.annotation is bool}
    normalized = _normalize_flags(words[:separator], booleans, positional is not None)
    try:
        given, unknown = parser.parse_known_intermixed_args(normalized)
    except argparse.ArgumentError as error:
        hint = _hint_at_dash(str(error.argument_name), normalized)
        raise UsageError(f"{_find_name(str(error.argument_name))}: must have a value, got none{hint}") from None
    if unknown:
        raise UsageError(_explain_unknown_word(unknown[0], step))
    texts = vars(given)
    values = texts.pop("positional", None)
    if words[separator:]:
        values = [*(values or ()), *words[separator + 1 :]]
    if positional and values is not None:
        if positional in texts:
            raise UsageError(f"{positional}: must be given with or without {_make_flag(positional)}, got both")
        texts[positional] = values
    return texts


class _StoreOnce(argparse.Action):
    """Stores the value of a flag; raises UsageError if the flag is repeated."""

    def __call__(self, _parser: Any, given: argparse.Namespace, value: Any, flag: str | None = None) -> None:
        if hasattr(given, self.dest):
            raise UsageError(f"{_find_name(str(flag))}: must be given once, got it twice")
        setattr(given, self.dest, value)


def _explain_unknown_word(word: str, step: str) -> str:
    """Return the error message for an unknown flag, or for a word such as `-out`, which is not a flag."""
    name = _find_name(word)
    if re.match(r"--\w", word):
        return explain_unknown_field(name, step)
    flags = [_make_flag(field) for field in list_fields(step)]
    hint = f"write {_make_flag(name)}" if _make_flag(name) in flags else f"`loupe {step} --help` lists the fields"
    return f"arguments: must be --field value, got {quote_value(word)}; {hint}"


def _hint_at_dash(flag: str, words: list[str]) -> str:
    """Return how to write a value that begins with one dash, if such a word follows the flag; else ""."""
    following = words[words.index(flag) + 1 :][:1] if flag in words else []
    is_value = following and not following[0].startswith("--")
    return f"; a value that begins with - is written {flag}={following[0]}" if is_value else ""


def _normalize_flags(words: list[str], booleans: set[str], positional: bool) -> list[str]:
    """Replace underscores in flags by dashes, and boolean flags without a value by `--x=true` or `--x=false`.

    If the step takes positional arguments, a word after a boolean flag is positional unless it is in BOOLEAN_TEXTS.

    Raises:
        UsageError: this word, such as `1`, is also the name of a file or folder.
    """
    normalized = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            flag = flag.replace("_", "-")
            has_no_value = not following or following.startswith("--")
            has_no_value = has_no_value or (positional and following.lower() not in BOOLEAN_TEXTS)
            positive_flag = f"--{flag.removeprefix('--no-')}"
            if not equals and flag in booleans and has_no_value:
                equals, value = "=", "true"
            elif not equals and flag in booleans and positional and following.lower() not in ("true", "false"):
                if os.path.exists(following):
                    raise UsageError(
                        f"{_find_name(flag)}: must be true or false where a file or folder {following} exists, got "
                        f"{following!r}; ./{following} is the file"
                    )
            elif not equals and flag not in booleans and positive_flag in booleans:
                flag, equals, value = positive_flag, "=", "false"
        normalized.append(f"{flag}{equals}{value}")
    return normalized


def _make_flag(field: str) -> str:
    return f"--{field.rstrip('_').replace('_', '-')}"  # `--from` sets `from_`, because `from` is a keyword


def _find_name(flag: str) -> str:
    """Return the name of the field in a flag, for messages: `data_dir` for `--data-dir=there`."""
    return flag.lstrip("-").partition("=")[0].replace("-", "_")


def _find_separator(step: str, words: list[str]) -> int:
    """Return the position of `--`; the number of words if `--` is missing or the step is not in MULTIPLE."""
    return words.index("--") if step in MULTIPLE and "--" in words else len(words)


def _describe_failure(error: Exception) -> tuple[str, int]:
    """Return the message and exit status for an error that a user can cause; raise any other error again."""
    missing = describe_missing_package(error)
    if missing or isinstance(error, UsageError):
        return missing or str(error), 2
    # Python raises this error for a file name that is not Unicode text.
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"path: must be Unicode text, got {error.object!r}", 1
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":  # of TensorFlow
        return f"memory: there is not enough: {describe_error(error)}", 1
    text = str(error) or type(error).__name__
    if isinstance(error, LoupeError | OSError):
        return text, 1
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")  # secrets of this URL are masked in the messages of libraries
    database_error = _find_database_error(error)
    if database_error is not None:
        return f"tracking: the store cannot be used: {' '.join(mask_error(str(database_error), uri).split())}", 1
    if type(error).__module__.partition(".")[0] in LIBRARIES_WITH_USER_ERRORS:
        return describe_error(error, uri), 1
    if was_raised_by_store(error):
        return f"tracking: the store cannot be used: {type(error).__name__}: {describe_error(error, uri)}", 1
    raise error


def _find_database_error(error: BaseException | None) -> BaseException | None:
    """Return the database error that caused `error`, without the SQL statement; None if it has another cause."""
    while error is not None and not isinstance(getattr(error, "orig", None), BaseException):
        error = error.__cause__
    return getattr(error, "orig", None)


def _fail(program: str, text: str, status: int) -> int:
    print_error(f"{program}: error: {text}")
    return status
