"""Steps in folders whose names are special in URIs, in SQL or in a shell: all files are in that folder."""

import shutil
from pathlib import Path

import mlflow
import optuna
import pytest
import skimage
from jobs import list_runs, loupe, read_error
from mlflow.tracking import fluent
from mlflow.utils.file_utils import local_file_uri_to_path
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from loupe.errors import UsageError
from loupe.search import study_storage
from loupe.tracking import locations, runs, store

NAMES = ["a b", "a?b", "a#b", "a%20b", "100%", "ü", "a'b\"c", "a\nb", "a;b&c=d", "a\\b", "a:b", "a[b]*", "$HOME", "~"]
WORST = " ?#%20ü'\"\n;&=\\:[*$"
AT_THE_START = "~/a:$HOME%"  # a home folder, a scheme and a variable, which other characters would hide
SWEEP = """
[study]
name = "odd"
[train]
network = "perceptron"
hidden = "16,8"
batch_size = 16
steps = 12
eval_every = 4
eval_images = 1
[search]
activation = ["tanh"]
"""


@pytest.mark.parametrize("name", ["plain", WORST, *NAMES])
def test_uris_of_a_path_name_the_path(name, tmp_path, monkeypatch):
    from mlflow.store.db.utils import _make_parent_dirs_if_sqlite
    from mlflow.utils.file_utils import path_to_local_sqlite_uri
    from sqlalchemy import make_url

    file = tmp_path / name / "mlflow.db"
    file.parent.mkdir()
    uri = locations.make_sqlite_uri(file)
    assert make_url(uri).database == str(file)
    assert locations.get_sqlite_file(uri) == locations.get_sqlite_file(path_to_local_sqlite_uri(str(file))) == file
    assert uri == f"sqlite:///{file}" or name != "plain"
    _make_parent_dirs_if_sqlite(uri)
    monkeypatch.chdir(file.parent)
    location = locations.make_artifact_location()
    assert local_file_uri_to_path(location) == str(file.parent / "mlruns")
    assert "'" not in location
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("uri", ["http://host:5000", "sqlite://", "sqlite:///:memory:", "postgresql://host/a"])
def test_other_stores_have_no_file(uri):
    assert locations.get_sqlite_file(uri) is None


def test_store_artifacts_and_journal_are_in_the_working_folder(tmp_path, monkeypatch):
    folder, before = create_folder(tmp_path, WORST), mlflow.get_tracking_uri()
    monkeypatch.chdir(folder)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.setenv(variable, "")  # so that the value after the test is the one before
        monkeypatch.delenv(variable)
    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    mlflow.set_tracking_uri(None)
    try:
        runs.open_store()
        with mlflow.start_run() as run:
            mlflow.log_text("text", "notes/a.txt")
        store.connect(*store.locate_run(run.info.run_id))
        assert Path(mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/notes/a.txt")).read_text() == "text"
        optuna.create_study(storage=study_storage.open_storage(str(store.get_store_folder() / "optuna.journal")))
    finally:
        mlflow.set_tracking_uri(before)
    check_folder(folder, {"mlflow.db", "mlruns", "optuna.journal", "s.png", "s.toml"})
    assert len(list(folder.rglob("a.txt"))) == 1


def test_a_folder_whose_name_is_not_unicode_is_refused_in_one_line(tmp_path):
    folder = create_folder(tmp_path, b"a\xffb".decode(errors="surrogateescape"))
    line = read_error(loupe("train", "--smoke", "--quiet", cwd=folder, status=1))
    assert line.startswith("loupe train: error: path: must be Unicode text, got ")
    assert "a\\udcffb" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", [WORST, AT_THE_START])
def test_all_steps_write_all_their_files_in_their_folder(name, tmp_path):
    folder = create_folder(tmp_path, name)
    loupe("preprocess", "--smoke", "--quiet", cwd=folder)
    dataset = next((folder / "data").iterdir())
    for _ in range(2):
        loupe("sweep", "s.toml", "--dataset", dataset, "--workers", 1, "--quiet", cwd=folder, in_one_process=True)
    loupe("train", "--smoke", "--network", "ridge", "--dataset", dataset, "--quiet", cwd=folder)
    loupe("register", "--include-smoke", "--quiet", cwd=folder)
    loupe("register", "--version", 1, "--quiet", cwd=folder)
    loupe("evaluate", "--model", "models:/loupe@champion", "--dataset", dataset, "--out", "e.json", cwd=folder)
    loupe("upscale", "s.png", "--model", "champion", "--quiet", cwd=folder)
    names = {"data", "e.json", "mlflow.db", "mlruns", "optuna.journal", "s.png", "s.toml", "upscaled"}
    check_folder(folder, names)


def create_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "s.toml").write_text(SWEEP)
    shutil.copy(Path(skimage.__file__).parent / "data" / "coffee.png", folder / "s.png")
    return folder


def check_folder(folder: Path, names: set[str]) -> None:
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {path.name for path in folder.iterdir()} == names
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    assert len(storage.get_all_studies()) == 1
    shutil.copy(folder / "mlflow.db", folder.parent)  # whose path is a URI
    runs = list_runs(folder.parent)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(Path(local_file_uri_to_path(run.info.artifact_uri)).is_relative_to(folder) for run in runs)


def test_a_journal_whose_lock_would_have_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"^storage: must have a file name of at most 200 bytes, got 'ü"):
        study_storage.open_storage(str(tmp_path / ("ü" * 101)))
    optuna.create_study(storage=study_storage.open_storage(str(tmp_path / ("ü" * 100))))
