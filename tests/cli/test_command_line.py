"""`loupe <step> --field value`: help, statuses, and one line for every complaint."""

import gc
import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from loupe import __version__
from loupe.cli.main import main, run_step
from loupe.config import STEPS
from loupe.config.base import Settings, list_choices
from loupe.config.fields import format_value
from loupe.config.training import NETWORKS, OPTIMIZERS, Train
from loupe.errors import LoupeError, UsageError

SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
HEAVY = ("keras", "tensorflow", "mlflow", "pandas", "matplotlib")


def loupe(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loupe", *arguments], capture_output=True, text=True, cwd=folder, timeout=60
    )


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a step keep the settings that it is given, instead of running."""
    thresholds = gc.get_threshold()
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def of(step: str, error: BaseException | None = None) -> list[Settings]:
        kept: list[Settings] = []

        def run(settings: Settings) -> None:
            kept.append(settings)
            if error:
                raise error

        monkeypatch.setattr(importlib.import_module(f"loupe.steps.{step}"), "run", run)
        return kept

    yield of
    gc.set_threshold(*thresholds)


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def listed(text: str) -> dict[str, dict[str, str]]:
    """The fields of a help text, by title and name, without white space."""
    found: dict[str, dict[str, str]] = {}
    title = name = ""
    for line in text.splitlines():
        if re.fullmatch(r"\S.*:", line):
            title = line[:-1]
            found[title] = {}
        elif match := re.fullmatch(r"  --(\w+)\s+(.*)", line):
            name = match[1]
            found[title][name] = squeezed(match[2])
        elif title and line.strip():
            found[title][name] += squeezed(line)
    return found


def groups(step: str) -> dict[str, dict[str, Any]]:
    """What the help has to list, by title."""
    if step != "train":
        return {"fields": dict(STEPS[step].model_fields)}
    common = {"fields of every network": dict(Train.model_fields)}
    for table, kind, base in ((NETWORKS, "network", Train), (OPTIMIZERS, "optimizer", Settings)):
        for key, settings in table.items():
            own = {name: info for name, info in settings.model_fields.items() if name not in base.model_fields}
            common[f"--{kind} {key}"] = own
    return common


@pytest.mark.parametrize("step", STEPS)
def test_help_lists_every_field_with_default_and_range_in_under_a_second(step: str) -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        answer = loupe(step, "--help")
        seconds.append(time.perf_counter() - started)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert min(seconds) < 1
    found = listed(answer.stdout)
    for title, fields in groups(step).items():
        shown = next(part for name, part in found.items() if re.match(rf"{title}\b", name))
        assert shown.keys() == {field.rstrip("_") for field in fields}
        for name, info in fields.items():
            assert shown[name.rstrip("_")].startswith(squeezed(info.description))
            allowed = shown[name.rstrip("_")].removeprefix(squeezed(info.description))
            # a default of none without a further rule would say nothing of what may be given
            assert re.fullmatch(r"\[.+\]", allowed), name
            for part in info.metadata:
                for bound, sign in SIGNS.items():
                    if getattr(part, bound, None) is not None:
                        assert f"{sign}{getattr(part, bound):g}" in allowed
            if info.annotation is bool:
                assert "true,false" in allowed
            rule = (info.json_schema_extra or {}).get("rule", "")
            if not rule:
                assert squeezed(", ".join(map(format_value, list_choices(info.annotation)))) in allowed
            if info.default_factory is None and info.default not in (None, ()):
                assert f"default{squeezed(format_value(info.default))}]" in allowed


def test_help_of_train_gives_each_optimizer_its_learning_rate() -> None:
    text = loupe("train", "--help").stdout
    for name, optimizer in OPTIMIZERS.items():
        rate = optimizer.DEFAULTS.get("learning_rate")
        shown = f"{rate:g}" if rate else "the network's"
        assert re.search(rf"^--optimizer {name} .*\b{shown}", text, re.MULTILINE)


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, loupe.cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_version_is_the_package_s() -> None:
    answer = loupe("--version")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"loupe {__version__}\n", "")


def test_no_arguments_show_the_usage_and_every_step() -> None:
    answer = loupe()
    assert answer.returncode == 2
    shown = answer.stdout + answer.stderr
    assert shown.startswith("usage: loupe <step>")
    assert all(re.search(rf"^  {step} ", shown, re.MULTILINE) for step in STEPS)
    assert "Traceback" not in shown


def test_help_without_a_step_ends_well() -> None:
    answer = loupe("--help")
    assert answer.returncode == 0
    assert answer.stdout.startswith("usage: loupe <step>")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], "bogus"),
        (["bogus", "--seed", "1"], "--seed"),
        (["preprocess", "--bogus", "1"], "bogus: is no field of preprocess"),
        (["preprocess", "stray"], "stray"),
        (["preprocess", "--seed"], "seed"),
        (["preprocess", "--see", "1"], "see: is no field"),
        (["preprocess", "--seed", "x"], "seed: must be .*'x'"),
        (["preprocess", "--label_size", "100"], "label_size: .*100"),
        (["preprocess", "--source", "nowhere"], "source: .*'nowhere'"),
        (["preprocess", "--categories", "elsewhere"], "categories: .*'elsewhere'"),
        (["train", "--network", "bogus"], "network: must be one of .*'bogus'"),
        (["train", "--network", "ridge", "--hidden", "8"], "hidden: is a field of network=perceptron only"),
        (["train", "--optimizer", "sgd", "--beta_1", "0.5"], "beta_1: is a field of optimizer=adam"),
        (["train", "--network", "perceptron", "--patch", "10:16"], "patch: must be q:p of the scale 3:2, got 10:16"),
        (["train", "--stddev", "0.2"], "stddev: has no effect"),
        (["train", "--steps", "0"], "steps: must be .*'0'"),
        (["upscale", "nowhere.png"], "inputs: .*'nowhere.png'"),
        (["upscale", "--scale", "9"], "scale: must be .* from 1 and up to 8, got '9'"),
        (["upscale", "--out", ""], "out: .* an empty text"),
        (["upscale", "--size", "40by30"], "size: must be .*'40by30'"),
        (["upscale", "--size", "40x30", "--scale", "2"], "size: must not be used with scale"),
        (["upscale", "--resume", "--overwrite"], "resume: must not be used with overwrite"),
        (["upscale", "--model", "nothing.onnx"], "model: .*'nothing.onnx'"),
        (["upscale", "--compare", "page.txt"], "compare: .*'page.txt'"),
        (["upscale", "--out", "image.xyz"], "out: .*'image.xyz'"),
        (["evaluate", "--smoke", "perhaps"], "smoke: .*'perhaps'"),
    ],
    ids=" ".join,
)
def test_bad_usage_ends_in_one_line_with_status_2_and_creates_nothing(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    answer = loupe(*arguments, folder=tmp_path)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert re.fullmatch(rf"loupe.*: error: .*{said}.*\n", answer.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--data_dir", "--data-dir"])
def test_a_flag_is_spelled_with_underscores_or_dashes(flag: str, received: Any) -> None:
    kept = received("preprocess")
    assert main(["preprocess", flag, "there"]) == 0
    assert kept[0].data_dir == "there"


def test_flags_become_checked_settings(received: Any) -> None:
    kept = received("train")
    arguments = "--network perceptron --patch=8:16 --scale 2 --hidden 64,32 --mirror false --smoke"
    assert main(["train", *arguments.split()]) == 0
    shown = kept[0].to_texts()
    expected = {
        "network": "perceptron", "patch": "8:16", "scale": "2:1", "hidden": "64,32", "mirror": "false",
        "smoke": "true",
    }  # fmt: skip
    assert {name: shown[name.rstrip("_")] for name in expected} == expected


@pytest.mark.parametrize("arguments", [["preprocess", "--quiet"], ["--quiet", "preprocess"]], ids=" ".join)
def test_quiet_goes_before_or_behind_the_step(arguments: list[str], received: Any) -> None:
    kept = received("preprocess")
    assert main(arguments) == 0
    assert kept[0].quiet


@pytest.mark.parametrize(
    "arguments",
    [["cat.png", "a,b.png"], ["cat.png", "--scale", "2", "a,b.png"], ["--resume", "cat.png", "a,b.png"]],
    ids=" ".join,
)
def test_photos_need_no_flag(arguments: list[str], received: Any) -> None:
    kept = received("upscale")
    assert main(["upscale", *arguments]) == 0
    assert kept[0].inputs == ("cat.png", "a,b.png")


def test_photos_behind_their_flag_are_comma_separated(received: Any) -> None:
    kept = received("upscale")
    assert main(["upscale", "--inputs", "cat.png,dog.png"]) == 0
    assert kept[0].inputs == ("cat.png", "dog.png")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("source: is\nnot there"), 2, "source: is not there"),
        (LoupeError("training: broke"), 1, "training: broke"),
        (OSError(28, "No space left on device"), 1, "[Errno 28] No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, BaseException) else "",
)
def test_what_a_user_can_cause_ends_in_one_line(
    error: BaseException, status: int, line: str, received: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    received("preprocess", error)
    assert run_step("preprocess", []) == status
    assert capsys.readouterr() == ("", f"loupe preprocess: error: {line}\n")


def test_a_fault_of_the_program_is_not_hidden(received: Any) -> None:
    received("preprocess", RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        run_step("preprocess", [])
