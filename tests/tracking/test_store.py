"""A new store is either complete or absent, even if processes are killed or start at the same time."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import mlflow
import pytest
from jobs import build_env
from new_stores import copy_new_stores

from loupe.errors import UsageError
from loupe.tracking import champions, models, run_table, runs, store, trials

# One process imports MLflow. Its forks open stores as steps do: a try does not start Python.
TRIES = """
import json, os, random, signal, sys, time
from pathlib import Path
import alembic.command, mlflow
from loupe.tracking import runs

def start(folder):
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.chdir(folder)
        os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        runs.open_store()
        with mlflow.start_run():
            status = 0
    except BaseException as error:
        print(type(error).__name__, error, file=sys.stderr, flush=True)
    finally:
        os._exit(status)

def wait(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def kill(folder):
    step, delay = start(folder), random.uniform(0.02, 1.2)
    while not any(found.name.startswith("mlflow.db") for found in folder.rglob("*")):
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(step, signal.SIGKILL)
    wait(step)
    return [wait(start(folder))]

def race(folder):
    return [wait(step) for step in [start(folder), start(folder)]] + [wait(start(folder))]

random.seed(1)
results = []
for number in range(int(sys.argv[2])):
    folder = Path(sys.argv[1], str(number))
    folder.mkdir()
    statuses = {"kill": kill, "race": race}[sys.argv[3]](folder)
    results.append((folder / "log").read_text()[-500:] if any(statuses) else "works")
print(json.dumps(results))
"""


@pytest.fixture
def new_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a store that does not exist yet."""
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "100 % new" / "mlflow.db"
    mlflow.set_tracking_uri(f"sqlite:///{str(file).replace('%', '%25')}")
    yield file
    mlflow.set_tracking_uri(before)


def tries(folder: Path, count: int, what: str) -> list[str]:
    """Return "works" or the errors of the steps, for each try."""
    done = subprocess.run(
        [sys.executable, "-c", TRIES, str(folder), str(count), what],
        env=build_env(MLFLOW_DISABLE_TELEMETRY="true"), capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_steps_work_after_a_first_step_that_was_killed_at_a_random_moment(tmp_path: Path) -> None:
    assert tries(tmp_path, 20, "kill") == ["works"] * 20


@pytest.mark.slow
def test_two_first_steps_at_the_same_time_both_work(tmp_path: Path) -> None:
    assert tries(tmp_path, 8, "race") == ["works"] * 8


def test_files_of_a_killed_process_are_removed_and_an_empty_store_is_created(
    new_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_create", copy_new_stores())  # the original function
    part = new_store.parent / "mlflow.db.part-killed"
    part.mkdir(parents=True)
    (part / "mlflow.db").write_text("incomplete")
    (new_store.parent / "mlflow.db.lock").touch()
    new_store.touch()
    store.create_store()
    assert [found.name for found in new_store.parent.iterdir()] == ["mlflow.db"]
    created = new_store.read_bytes()
    assert [found.name for found in mlflow.search_experiments()] == ["Default"]
    store.create_store()
    assert new_store.read_bytes() == created


@pytest.mark.parametrize(
    "first",
    [
        runs.open_store,
        lambda: runs.get_run("none", "run"),
        lambda: runs.find_best_run("3:2", include_smoke=False),
        lambda: models.find_model("runs:/none/model"),
        lambda: models.get_champion(Fraction(3, 2)),
        lambda: champions.get_version(Fraction(3, 2), "1"),
        lambda: trials.find_sweep_runs("none"),
        run_table.load_run_table,
    ],
)
def test_every_first_access_to_the_store_creates_it_under_the_lock(
    first: Callable[[], object], new_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Path) -> None:
        raise UsageError(f"creates {file.name}")

    monkeypatch.setattr(store, "_create", refuse)
    with pytest.raises(UsageError, match=r"creates mlflow\.db"):
        first()
    assert not new_store.exists()


def test_servers_and_other_databases_are_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "call_within", lambda seconds, connect: None)
    for uri in ("http://127.0.0.1:1", "postgresql://loupe@127.0.0.1:1/mlflow", "sqlite:///:memory:", "databricks"):
        monkeypatch.setattr(mlflow, "get_tracking_uri", lambda uri=uri: uri)
        store.create_store()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_runs_is_refused_as_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("file:///old/mlruns", "mlruns"):
        monkeypatch.setattr(mlflow, "get_tracking_uri", lambda uri=uri: uri)
        with pytest.raises(
            UsageError, match=f"^MLFLOW_TRACKING_URI: must be a database, .*, got '{uri}'; MLflow prefers"
        ):
            store.check_store()
