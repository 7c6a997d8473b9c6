"""Steps with secrets in their settings: no file and no output contains one."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from jobs import build_env, list_runs

from loupe.config import parse_settings
from loupe.errors import UsageError
from loupe.steps import train
from loupe.tracking import runs
from loupe.tracking.run_notes import ERROR_TAG, NOTE_TAG

SECRET = "hunter2secret"
DRIVER = """
import sys
from contextlib import nullcontext
from unittest import mock
from loupe.cli import main, streams

if __name__ == "__main__":
    streams.open_streams()
    for line in sys.stdin.read().splitlines():
        words = line.split("|")
        is_killed = words[-1] == "killed after the last checkpoint"
        target = "loupe.tracking.training_runs.log_diagnostics"
        with mock.patch(target, side_effect=KeyboardInterrupt) if is_killed else nullcontext():
            print("status", main.main(words[:-1] if is_killed else words), flush=True)
    raise ValueError(f"a traceback with {sys.argv[1]} and {sys.argv[1]}?password=" + sys.argv[2])
"""
PLACE = f"user:{SECRET}@bucket"  # a folder, since fsspec ignores the parts of a file URL
BASE = f"file://{PLACE}"
SWEEP = """
[study]
name = "secret"
[train]
network = "perceptron"
hidden = "16"
steps = 8
eval_every = 4
eval_images = 1
[search]
activation = ["tanh"]
"""


@pytest.fixture
def folder(tmp_path, crops, write_folder):
    """A git repository whose remote has a token, with photos in a folder that a URL with a password names."""
    folder = tmp_path / "work"
    write_folder(folder / PLACE / "photos", crops)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a", "-C", str(folder)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run(
        [*git, "remote", "add", "origin", f"https://{SECRET}@host/a.git?private_token={SECRET}"], check=True
    )
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    return folder


def run(folder, *lines):
    """Run steps in one process; return the exit statuses, and all output."""
    (folder / "driver.py").write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, folder / "driver.py", BASE, SECRET],
        input="\n".join("|".join(line) for line in lines), capture_output=True, text=True, cwd=folder, timeout=300,
        env=build_env(LOUPE_CACHE=str(folder / "cache"), MLFLOW_TRACKING_URI="sqlite:///mlflow.db"),
    )  # fmt: skip
    assert "a traceback with file://user:***@bucket" in done.stderr
    statuses = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("status ")]
    return statuses, done.stdout + done.stderr


def check(folder, output):
    """Check that the secret is not in the output, and in no name and no content of a file that the steps wrote."""
    assert SECRET not in output
    for file in folder.rglob("*"):
        name = str(file.relative_to(folder))
        if not name.startswith((PLACE, ".git")):
            assert SECRET not in name
            assert not file.is_file() or SECRET.encode() not in file.read_bytes(), name


PREPROCESS = ["preprocess", "--source", f"{BASE}/photos", "--label-size", "48", "--scales", "3:2"]


def test_preprocess_stores_and_prints_no_secret(folder):
    statuses, output = run(
        folder,
        PREPROCESS,
        ["preprocess", "--source", f"{BASE}/none"],
        ["preprocess", "--source", f"nosuch://a:{SECRET}@b/c", "--scheduler", f"tcp://a:{SECRET}@b:1"],
        ["preprocess", "--seed", f"http://a:{SECRET}@b"],
    )
    assert statuses == [0, 2, 2, 2], output
    check(folder, output)
    (prepared,) = list_runs(folder)
    assert prepared.data.params["source"] == "file://user:***@bucket/photos"
    assert prepared.data.tags["mlflow.source.git.repoURL"].endswith("host/a.git?private_token=***")


@pytest.mark.parametrize("field", ["data_dir", "dataset"])
def test_a_resumed_run_asks_for_the_url_that_it_does_not_store(field, monkeypatch):
    url = f"s3://k:{SECRET}@bucket/data"
    texts = parse_settings("train", {field: url}).to_texts()
    tags = {"loupe.step": "train", runs.SETTINGS_TAG: json.dumps(texts)}
    found = SimpleNamespace(info=SimpleNamespace(status="KILLED"), data=SimpleNamespace(tags=tags))
    monkeypatch.setattr(runs, "get_run", lambda *_: found)
    with pytest.raises(UsageError, match=rf"^{field}: must have its password or token, .* set data_dir to"):
        train.load_resumed_settings(parse_settings("train", {"resume": "1"}))
    settings = train.load_resumed_settings(parse_settings("train", {"resume": "1", "data_dir": url}))
    assert settings.data_dir == url
    if field == "dataset":
        settings = train.load_resumed_settings(parse_settings("train", {"resume": "1", "dataset": url}))
        assert settings.dataset == url


def test_a_resumed_run_keeps_its_data_dir_and_its_note(monkeypatch):
    texts = parse_settings("train", {"data_dir": "shared"}).to_texts()
    note = "our note\n\nFailed: the disk was full"
    tags = {
        "loupe.step": "train",
        runs.SETTINGS_TAG: json.dumps(texts),
        NOTE_TAG: note,
        ERROR_TAG: "the disk was full",
    }
    found = SimpleNamespace(info=SimpleNamespace(status="FAILED"), data=SimpleNamespace(tags=tags))
    monkeypatch.setattr(runs, "get_run", lambda *_: found)
    settings = train.load_resumed_settings(parse_settings("train", {"resume": "1"}))
    assert (settings.data_dir, settings.note) == ("shared", "our note")
    given = {"resume": "1", "data_dir": "moved", "note": "new"}
    settings = train.load_resumed_settings(parse_settings("train", given))
    assert (settings.data_dir, settings.note) == ("moved", "new")


def test_a_resumed_run_refuses_a_default_that_it_does_not_have(monkeypatch):
    texts = parse_settings("train", {"network": "perceptron", "batch_size": 64}).to_texts()
    tags = {"loupe.step": "train", runs.SETTINGS_TAG: json.dumps(texts)}
    found = SimpleNamespace(info=SimpleNamespace(status="KILLED"), data=SimpleNamespace(tags=tags))
    monkeypatch.setattr(runs, "get_run", lambda *_: found)
    with pytest.raises(UsageError, match=r"^batch_size: must be 64 as in run 1, got 8"):
        train.load_resumed_settings(parse_settings("train", {"resume": "1", "batch_size": "8"}))
    passed = {"dataset": "sample", "network": "convolutional", "scale": "3:2", "smoke": "false"}  # by `mlflow run`
    settings = train.load_resumed_settings(parse_settings("train", {"resume": "1"} | passed))
    assert (settings.network, settings.batch_size) == ("perceptron", 64)


@pytest.mark.slow
def test_train_and_sweep_store_no_secret_and_continue_with_the_full_url(folder):
    statuses, output = run(folder, PREPROCESS)
    assert statuses == [0], output
    (prepared,) = (folder / "data").glob("photos-*")
    prepared.rename(folder / PLACE / prepared.name)
    url = f"{BASE}/{prepared.name}"
    (folder / "sweep.toml").write_text(SWEEP)
    small = ["--network", "perceptron", "--hidden", "16", "--steps", "8", "--eval-every", "4", "--eval-images", "1"]
    statuses, output = run(
        folder,
        ["train", "--dataset", url, *small, "killed after the last checkpoint"],
        ["sweep", "sweep.toml", "--dataset", url, "--workers", "1"],
        ["sweep", "sweep.toml", "--storage", f"nosuch://h/d?password={SECRET}"],
        ["sweep", "sweep.toml", "--storage", f"postgresql://u:{SECRET}@127.0.0.1:1/d"],
        ["sweep", "sweep.toml", "--name", f"http://u:{SECRET}@h"],
        ["report", "--sweeps", "."],
    )
    assert statuses[:5] == [130, 0, 2, 2, 2], output
    check(folder, output)
    trained = next(run for run in list_runs(folder) if run.data.tags["loupe.step"] == "train")
    resume = ["train", "--resume", trained.info.run_id]
    statuses, output = run(folder, resume, [*resume, "--dataset", url])
    assert statuses == [2, 0], output
    assert "dataset: must have its password or token" in output
    check(folder, output)
