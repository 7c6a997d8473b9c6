"""`loupe <step> --field value`: help, exit statuses and errors."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from loupe import __version__
from loupe.cli.main import main, parse_arguments, run_step
from loupe.config import STEPS
from loupe.config.base import Settings, list_choices
from loupe.config.fields import format_value
from loupe.config.networks import NETWORKS
from loupe.config.optimizers import OPTIMIZERS
from loupe.config.training import GradientTrain, Train
from loupe.errors import LoupeError, UsageError

SLOW_LIBRARIES = ("keras", "tensorflow", "mlflow", "pandas", "matplotlib")


def loupe(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loupe", *arguments], capture_output=True, text=True, cwd=folder, timeout=60
    )


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that replaces a step by one that stores its settings, and raises an error if given."""
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def replace(step: str, error: BaseException | None = None) -> list[Settings]:
        stored: list[Settings] = []

        def run(settings: Settings) -> None:
            stored.append(settings)
            if error:
                raise error

        monkeypatch.setattr(importlib.import_module(f"loupe.steps.{step}"), "run", run)
        return stored

    return replace


def without_spaces(text: str) -> str:
    return re.sub(r"\s", "", text)


def read_help(text: str) -> dict[str, dict[str, str]]:
    """Return title -> flag -> help without spaces."""
    found: dict[str, dict[str, str]] = {}
    title = flag = ""
    for line in text.splitlines():
        if re.fullmatch(r"\S.*:", line):
            title = line[:-1]
            found[title] = {}
        elif match := re.fullmatch(r"  --(\S+)\s+(.*)", line):
            flag = match[1]
            found[title][flag] = without_spaces(match[2])
        elif title and line.strip():
            found[title][flag] += without_spaces(line)
    return found


def groups(step: str) -> dict[str, dict[str, Any]]:
    """Return the fields that the help must list, per title."""
    if step != "train":
        fields = dict(STEPS[step].model_fields)
        titled = STEPS[step].HELP_GROUPS
        return {title: {name: fields.pop(name) for name in names} for title, names in titled.items()} | {
            "fields": fields
        }
    common = {"fields of every network": dict(Train.model_fields)}
    for table, kind, base in ((NETWORKS, "network", Train), (OPTIMIZERS, "optimizer", Settings)):
        for key, settings in table.items():
            own = {name: info for name, info in settings.model_fields.items() if name not in base.model_fields}
            common[f"fields with --{kind} {key}"] = own
    trained = [key for key, network in NETWORKS.items() if issubclass(network, GradientTrain)]
    networks = [common[f"fields with --network {key}"] for key in trained]
    equal = {name: info for name, info in networks[0].items() if name in GradientTrain.model_fields}
    for name in list(equal):
        if len({str(fields[name].default) for fields in networks}) > 1:
            del equal[name]
        else:
            for fields in networks:
                del fields[name]
    return common | {f"fields with --network {' or '.join(trained)}": equal}


@pytest.mark.parametrize("step", STEPS)
def test_help_lists_every_field_with_default_and_range_in_under_a_second(step: str) -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        answer = loupe(step, "--help")
        seconds.append(time.perf_counter() - started)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert min(seconds) < 1
    assert "e+" not in answer.stdout
    found = read_help(answer.stdout)
    for title, fields in groups(step).items():
        shown = next(part for name, part in found.items() if re.match(rf"{title}( \(.*)?$", name))
        flags = {
            name: ("[no-]" if info.annotation is bool else "") + name.rstrip("_").replace("_", "-")
            for name, info in fields.items()
        }
        assert shown.keys() == set(flags.values())
        for name, info in fields.items():
            check_help(name, info, shown[flags[name]])


def check_help(name: str, info: Any, text: str) -> None:
    assert text.startswith(without_spaces(info.description))
    allowed = text.removeprefix(without_spaces(info.description))
    assert re.fullmatch(r"\[.+\]", allowed), name  # a field without default shows its rule
    for part in info.metadata:
        for kind in ("ge", "gt", "le", "lt"):
            if getattr(part, kind, None) is not None:
                assert re.search(rf"(?<!\d){getattr(part, kind):.10g}(?![\d.])", allowed), name
    rule = (info.json_schema_extra or {}).get("rule", "")
    choices = without_spaces(" or ".join(", ".join(map(format_value, list_choices(info.annotation))).rsplit(", ", 1)))
    assert (without_spaces(rule) or choices) in allowed or name == "optimizer"
    if info.default_factory is None and "default" not in rule:
        assert f"default{without_spaces(format_value(info.default) if name != 'categories' else 'all')}]" in allowed
    else:
        assert "default" in text, name


def test_help_of_train_shows_the_default_learning_rate_of_each_optimizer() -> None:
    text = loupe("train", "--help").stdout
    for name, optimizer in OPTIMIZERS.items():
        rate = optimizer.DEFAULTS.get("learning_rate")
        shown = f"{rate:g}" if rate else "that of --network"
        assert re.search(rf"^fields with --optimizer {name} .*\b{shown}", text, re.MULTILINE)


def test_the_command_line_imports_no_slow_library() -> None:
    code = f"import sys, loupe.cli.main; print([name for name in {SLOW_LIBRARIES} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_importing_the_command_line_has_no_side_effects() -> None:
    code = "import gc, os; before = gc.get_threshold(), dict(os.environ); import loupe.cli.main; "
    code += "assert before[0] == gc.get_threshold(); print(*(os.environ.keys() - before[1].keys()))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # those of the package itself, which must be set before the libraries are imported
    assert set(answer.stdout.split()) <= {"ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"}


def test_version_is_that_of_the_package() -> None:
    answer = loupe("--version")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"loupe {__version__}\n", "")


def test_no_arguments_show_the_usage_and_every_step() -> None:
    answer = loupe()
    assert answer.returncode == 2
    shown = answer.stdout + answer.stderr
    assert shown.startswith("usage: loupe <step>")
    assert all(re.search(rf"^  {step} ", shown, re.MULTILINE) for step in STEPS)
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("arguments", "status", "start"),
    [
        (["--help"], 0, "usage: loupe <step>"),
        (["-h", "--quiet"], 0, "usage: loupe <step>"),
        (["--quiet", "--help"], 0, "usage: loupe <step>"),
        (["--quiet", "--version"], 0, f"loupe {__version__}\n"),
        (["--version", "train"], 0, f"loupe {__version__}\n"),
        (["--quiet"], 2, "usage: loupe <step>"),
        (["--help", "preprocess"], 0, "usage: loupe preprocess"),
        (["--quiet", "-h", "preprocess"], 0, "usage: loupe preprocess"),
    ],
    ids=str,
)
def test_options_may_be_before_the_step_or_without_a_step(
    arguments: list[str], status: int, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    printed = capsys.readouterr()
    assert printed.out.startswith(start)
    assert printed.err == ""


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        (["upscale", "-out", "big.jpg"], "'-out'; write --out"),
        (["upscale", "---out=big.jpg"], "'---out=big.jpg'; write --out"),
        (["preprocess", "label_size=90"], "'label_size=90'; write --label-size"),
        (["report", "from", "results.parquet"], "'from'; write --from"),
        (["sweep", "a.toml", "seed"], "'seed'; write --seed"),
        (["preprocess", "-P", "seed=1"], "'-P'; `loupe preprocess --help` lists the fields"),
        (["preprocess", "stray"], "'stray'; `loupe preprocess --help` lists the fields"),
        (["preprocess", "--=5"], "'--=5'; `loupe preprocess --help` lists the fields"),
    ],
    ids=str,
)
def test_a_word_that_is_not_a_flag_is_refused_with_the_flag_of_its_field(
    arguments: list[str], got: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    line = f"arguments: must be --field value, got {got}"
    assert capsys.readouterr().err == f"loupe {arguments[0]}: error: {line}\n"


@pytest.mark.parametrize(
    "repeated", [["--data-dir", "a", "--data_dir", "b"], ["--data-dir=a", "--data-dir=a"]], ids=str
)
def test_a_field_that_is_given_twice_is_refused(repeated: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preprocess", *repeated]) == 2
    line = "data_dir: must be given once, got it twice"
    assert capsys.readouterr().err == f"loupe preprocess: error: {line}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], "bogus"),
        (["bogus", "--seed", "1"], "bogus"),
        (["preprocess", "--bogus", "1"], "bogus: is not a field of preprocess"),
        (["preprocess", "stray"], "stray"),
        (["preprocess", "--data_dir"], "data_dir: must have a value, got none"),
        (["preprocess", "--data-dir", "--seed", "1"], "data_dir: must have a value, got none$"),
        (["upscale", "--suffix", "-2x"], "got none; a value that begins with - is written --suffix=-2x"),
        (["upscale", "--"], "inputs: must be files, folders or patterns, got none"),
        (["preprocess", "--see", "1"], "see: is not a field of preprocess; did you mean seed"),
        (["train", "--learningrate", "1"], "learningrate: is not a field of train; did you mean learning_rate"),
        (["train", "--tags", "loupe.step=x"], "tags: must be key=value.*'loupe.step=x'"),
        (["train", "--tags", "draft"], "tags: must be key=value.*'draft'"),
        (["preprocess", "--seed", "x"], "seed: must be .*'x'"),
        (["preprocess", "--label_size", "100"], "label_size: .*100"),
        (["preprocess", "--source", "nowhere"], "source: .*'nowhere'"),
        (["preprocess", "--categories", "elsewhere"], "categories: .*'elsewhere'"),
        (["train", "--network", "bogus"], "network: must be one of .*'bogus'"),
        (["train", "--network", "ridge", "--hidden", "8"], "hidden: is a field of network=perceptron only"),
        (["train", "--optimizer", "sgd", "--beta_1", "0.5"], "beta_1: is a field of optimizer=adam"),
        (
            ["train", "--network", "perceptron", "--patch", "10:16"],
            "patch: must be input side:label side with the ratio of scale 3:2, such as 10:15, got 10:16",
        ),
        (["train", "--stddev", "0.2"], "stddev: has no effect"),
        (["train", "--steps", "0"], "steps: must be .*'0'"),
        (["upscale", "nowhere.png"], "inputs: .*'nowhere.png'"),
        (["upscale", "--scale", "9"], "scale: must be a ratio such as 3:2 or 1.5, from 1 to 8, got '9'"),
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
def test_wrong_usage_prints_one_line_has_status_2_and_creates_no_file(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    answer = loupe(*arguments, folder=tmp_path)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert re.fullmatch(rf"loupe.*: error: .*{said}.*\n", answer.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", ["torch", "bogus"])
@pytest.mark.parametrize("step", ["main", "train", "evaluate", "register", "sweep", "report", "sync"])
def test_an_unknown_backend_of_keras_is_refused_before_the_step_starts(
    step: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parents[2] / "sweeps" / "smoke.toml", tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", backend)
    assert main([step, *(["smoke.toml"] if step == "sweep" else [])]) == 2
    line = f"KERAS_BACKEND: must be tensorflow or jax, got '{backend}'"
    assert capsys.readouterr().err == f"loupe {step}: error: {line}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["smoke.toml"]


@pytest.mark.parametrize("flag", ["--data_dir", "--data-dir"])
def test_a_flag_is_written_with_underscores_or_dashes(flag: str, received: Any) -> None:
    kept = received("preprocess")
    assert main(["preprocess", flag, "there"]) == 0
    assert kept[0].data_dir == "there"


def test_flags_become_validated_settings(received: Any) -> None:
    kept = received("train")
    arguments = "--network perceptron --patch=8:16 --scale 2 --hidden 64,32 --mirror false --smoke"
    assert main(["train", *arguments.split()]) == 0
    shown = kept[0].to_texts()
    expected = {
        "network": "perceptron", "patch": "8:16", "scale": "2:1", "hidden": "64,32", "mirror": "false",
        "smoke": "true",
    }  # fmt: skip
    assert {name: shown[name.rstrip("_")] for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "overwrite", "inputs"),
    [
        (["--overwrite"], True, ("sample",)),
        (["--overwrite", "cat.png"], True, ("cat.png",)),
        (["--overwrite", "false", "cat.png"], False, ("cat.png",)),
        (["--overwrite=false", "--", "--cat.png"], False, ("--cat.png",)),
        (["cat.png", "--overwrite", "--no-overwrite"], False, ("cat.png",)),
        (["--no-overwrite", "cat.png"], False, ("cat.png",)),
    ],
    ids=str,
)
def test_a_boolean_field_is_set_with_and_without_a_value(
    arguments: list[str], overwrite: bool, inputs: tuple[str, ...], received: Any
) -> None:
    stored = received("upscale")
    assert main(["upscale", *arguments]) == 0
    assert (stored[0].overwrite, stored[0].inputs) == (overwrite, inputs)


def test_a_value_of_a_boolean_field_that_is_also_the_name_of_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["upscale", "--overwrite", "1"]) == 2
    line = "overwrite: must be true or false where a file or folder 1 exists, got '1'; ./1 is the file"
    assert line in capsys.readouterr().err
    assert parse_arguments("upscale", ["--overwrite", "./1"]) == {"overwrite": "true", "inputs": ["./1"]}


def test_no_with_a_field_that_is_not_boolean_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upscale", "--no-scale"]) == 2
    assert "no_scale: is not a field of upscale" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["preprocess", "--quiet"], ["--quiet", "preprocess"]], ids=" ".join)
def test_quiet_is_accepted_before_and_after_the_step(arguments: list[str], received: Any) -> None:
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


def test_photos_after_their_flag_are_comma_separated(received: Any) -> None:
    kept = received("upscale")
    assert main(["upscale", "--inputs", "cat.png,dog.png"]) == 0
    assert kept[0].inputs == ("cat.png", "dog.png")


@pytest.mark.parametrize(
    ("step", "arguments"),
    [
        ("upscale", ["--inputs", "cat.png", "dog.png"]),
        ("upscale", ["dog.png", "--inputs=cat.png"]),
        ("restore", ["--inputs", "cat.png", "--", "dog.png"]),
        ("sweep", ["--sweep", "a.toml", "b.toml"]),
    ],
)
def test_a_field_with_and_without_its_flag_is_refused(
    step: str, arguments: list[str], received: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stored, name = received(step), "sweep" if step == "sweep" else "inputs"
    assert main([step, *arguments]) == 2
    line = f"{name}: must be given with or without --{name}, got both"
    assert capsys.readouterr().err == f"loupe {step}: error: {line}\n"
    assert stored == []


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("source: is\nnot there"), 2, "source: is not there"),
        (LoupeError("training: broke"), 1, "training: broke"),
        (OSError(28, "No space left on device"), 1, "[Errno 28] No space left on device"),
        (MemoryError("cannot allocate 9 GiB"), 1, "memory: there is not enough: cannot allocate 9 GiB"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, BaseException) else "",
)
def test_an_error_of_the_user_is_printed_in_one_line(
    error: BaseException, status: int, line: str, received: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    received("preprocess", error)
    assert run_step("preprocess", []) == status
    assert capsys.readouterr() == ("", f"loupe preprocess: error: {line}\n")


def test_a_missing_package_is_reported_with_its_extra(received: Any, capsys: pytest.CaptureFixture[str]) -> None:
    received("train", ModuleNotFoundError("No module named 'mlflow'", name="mlflow"))
    assert run_step("train", []) == 2
    assert capsys.readouterr().err == "loupe train: error: needs mlflow: pip install 'loupe-upscale[train]'\n"
    received("train", ModuleNotFoundError("No module named 'loupe.nothing'", name="loupe.nothing"))
    with pytest.raises(ModuleNotFoundError):
        run_step("train", [])


def test_a_defect_keeps_its_traceback(received: Any) -> None:
    received("preprocess", RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        run_step("preprocess", [])
