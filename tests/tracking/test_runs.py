"""Runs of dead processes are closed; runs of live processes stay open."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest
from jobs import ROOT, build_env
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from loupe.cli import signals
from loupe.cli.main import run_step
from loupe.config import parse_settings
from loupe.errors import UsageError
from loupe.steps import sync
from loupe.tracking import (
    checkpoints,
    curves,
    delivery,
    liveness,
    record_handlers,
    records,
    run_notes,
    run_table,
    runs,
    trials,
)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow.MlflowClient]:
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


def create_run(client: mlflow.MlflowClient, **tags: str) -> str:
    named = {name.replace("_", "."): value for name, value in tags.items()}
    return str(client.create_run("0", tags=named).info.run_id)


def get_status(client: mlflow.MlflowClient, run_id: str) -> str:
    return str(client.get_run(run_id).info.status)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"scale": 3}', "[" * 100_000, "{}"])
def test_changed_tags_of_a_run_are_refused_in_one_line(text: str) -> None:
    run = SimpleNamespace(info=SimpleNamespace(run_id="1"), data=SimpleNamespace(tags={runs.SETTINGS_TAG: text}))
    with pytest.raises(
        UsageError, match=r"^loupe\.settings: must (be a JSON object of texts|contain scale) in run 1, got '"
    ):
        runs.read_settings(run, "scale")
    with pytest.raises(UsageError, match=r"^run: must have the tags loupe\.dataset and loupe\.digest, got run 1$"):
        runs.read_dataset(run)


@pytest.mark.parametrize("text", ["", "{", "7", "[[1]]", '[["a", 1]]', "[[1, {}]]", "[[Infinity, 1]]", "[" * 100_000])
def test_a_changed_curve_tag_is_not_used(text: str) -> None:
    run = SimpleNamespace(info=None, data=SimpleNamespace(tags={curves.CURVE_TAG: text}, metrics={}))
    assert curves.read_curve(run) == []
    run.data.tags[curves.CURVE_TAG] = "[[5,0.5]]"
    assert curves.read_curve(run) == [(5, 0.5)]


def test_a_run_of_mlflow_run_is_closed_if_its_process_died_before_it_tagged_the_run(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    died, works = (create_run(client, mlflow_source_type="PROJECT") for _ in range(2))
    by_hand = create_run(client, mlflow_source_type="LOCAL")
    step = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"MLFLOW_RUN_ID": works})
    time.sleep(0.5)
    # another test may use `mlflow run` at the same time
    monkeypatch.setattr(psutil, "process_iter", lambda: [psutil.Process(step.pid)])
    try:
        liveness.close_orphaned_runs()
        assert [get_status(client, run) for run in (died, works, by_hand)] == ["KILLED", "RUNNING", "RUNNING"]
    finally:
        step.communicate(b"\n")
    started = client.get_run(works).info.start_time / 1000
    by_module, script = ["python", "-m", "mlflow", "run", "."], ["python", "/usr/bin/mlflow", "run", "."]
    for words, created, status in (
        (by_module, started - 1, "RUNNING"),
        (script, started - 1, "RUNNING"),
        (script, started + 1, "KILLED"),
    ):
        project = SimpleNamespace(cmdline=words.copy, environ=dict, create_time=partial(float, created))
        monkeypatch.setattr(psutil, "process_iter", lambda project=project: [project])
        liveness.close_orphaned_runs()
        assert get_status(client, works) == status


def test_an_orphaned_run_of_another_user_does_not_stop_a_step(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_others = create_run(client, loupe_host="elsewhere", loupe_pid="1", loupe_heartbeat="1")

    def refuse(*_: Any) -> None:
        raise MlflowException("Permission denied", error_code=PERMISSION_DENIED)

    monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", refuse)
    liveness.close_orphaned_runs()
    assert get_status(client, of_others) == "RUNNING"


def test_a_process_on_another_machine_is_dead_after_the_heartbeat_timeout(client: mlflow.MlflowClient) -> None:
    ages = {"old": 2 * liveness.HEARTBEAT_TIMEOUT_S, "new": 0.0}
    found = {
        name: create_run(client, loupe_host="elsewhere", loupe_pid="1", loupe_heartbeat=f"{time.time() - age:.0f}")
        for name, age in ages.items()
    }
    found["none"] = create_run(client, loupe_host="elsewhere", loupe_pid="1")
    liveness.close_orphaned_runs()
    assert {name: get_status(client, run) for name, run in found.items()} == {
        "old": "KILLED", "new": "RUNNING", "none": "RUNNING",
    }  # fmt: skip
    liveness.send_heartbeat(found["none"])
    assert liveness.is_alive(client.get_run(found["none"]).data.tags)


# A container with process ids of its own, the host name of this machine, and the same folders.
CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
OPEN_RUN = """
import json, signal, sys
from loupe.tracking import liveness
print(json.dumps(liveness.make_process_tags()), flush=True)
signal.pause()
"""


@pytest.mark.parametrize("prefix", [[], CONTAINER], ids=["process", "container"])
def test_the_run_of_a_process_with_the_same_host_name_stays_open_while_the_process_is_alive(
    prefix: list[str], client: mlflow.MlflowClient
) -> None:
    if prefix and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the system does not allow containers")
    command = [*prefix, sys.executable, "-c", OPEN_RUN]
    env = build_env(MLFLOW_TRACKING_URI=mlflow.get_tracking_uri())
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    try:
        tags = json.loads(process.stdout.readline())
        run = str(client.create_run("0", tags=tags).info.run_id)
        assert tags["loupe.host"] == liveness.make_process_tags()["loupe.host"]
        liveness.close_orphaned_runs()
        assert get_status(client, run) == "RUNNING"
    finally:
        process.kill()
        if not prefix:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a process that its parent has not awaited
            assert not liveness.is_alive(tags)
        process.wait()
    if prefix:
        client.set_tag(run, liveness.HEARTBEAT_TAG, str(time.time() - 2 * liveness.HEARTBEAT_TIMEOUT_S))
    liveness.close_orphaned_runs()
    assert get_status(client, run) == "KILLED"


def test_a_reused_process_id_is_not_the_process_of_the_run() -> None:
    tags = liveness.make_process_tags()
    assert liveness.is_alive(tags)
    assert not liveness.is_alive(tags | {"loupe.started": "1"})
    assert liveness.is_alive(tags | {"loupe.started": "1", "loupe.namespace": "of another container"})


def test_heartbeats_have_the_time_of_the_store(client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create_run(client, loupe_host="elsewhere")
    store_time = time.time()
    monkeypatch.setattr(time, "time", lambda: store_time - 600)  # the clock of this machine is slow
    liveness.send_heartbeat(run)
    assert abs(float(client.get_run(run).data.tags[liveness.HEARTBEAT_TAG]) - store_time) < 5
    liveness.close_orphaned_runs()
    assert get_status(client, run) == "RUNNING"


def test_logging_to_an_ended_run_keeps_its_status(client: mlflow.MlflowClient) -> None:
    run = create_run(client)
    client.set_terminated(run, "FINISHED")
    with records.log_to_run(run):
        records.log_metrics({"test/mae": 0.1, "test/ssim": float("nan")})
        records.log_tags({"kept": "yes"})
        records.log_json({"a": 1}, "a.json")
    there = client.get_run(run)
    assert (there.info.status, there.data.metrics, there.data.tags["kept"]) == ("FINISHED", {"test/mae": 0.1}, "yes")
    assert mlflow.active_run() is None


@pytest.mark.usefixtures("unraisable_hook")
@pytest.mark.parametrize("inside", [True, False], ids=["in the run", "while it starts"])
@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_closes_the_run_as_killed_with_its_params(
    number: int, raised: type[BaseException], inside: bool, client: mlflow.MlflowClient
) -> None:
    def work() -> None:
        with signals.raise_on_signals(), runs.open_run(start, {"network": "ridge"}, quiet=True):
            if inside:
                os.kill(os.getpid(), number)
                time.sleep(5)

    def start() -> object:
        started.append(mlflow.start_run())
        if not inside:
            os.kill(os.getpid(), number)
        return started[0]

    started: list[mlflow.ActiveRun] = []
    with pytest.raises(raised):
        work()
    run = client.get_run(started[0].info.run_id)
    assert (run.info.status, run.data.params) == ("KILLED", {"network": "ridge"})
    assert mlflow.active_run() is None


@pytest.mark.usefixtures("unraisable_hook")
def test_a_signal_whose_exception_a_library_replaces_closes_the_run_as_killed(client: mlflow.MlflowClient) -> None:
    def work() -> None:
        with signals.raise_on_signals(), runs.open_run(start, {}, quiet=True):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            except SystemExit:
                raise RuntimeError("InvalidArgumentError REPLACED BY Terminated") from None  # as TensorFlow does

    def start() -> object:
        started.append(mlflow.start_run())
        return started[0]

    started: list[mlflow.ActiveRun] = []
    with pytest.raises((SystemExit, RuntimeError)):
        work()
    run = client.get_run(started[0].info.run_id)
    assert (run.info.status, run.data.tags.get("loupe.error")) == ("KILLED", None)


@pytest.mark.parametrize(
    ("killed_by", "left"), [("_close_run", True), ("log_record", True), (None, False)], ids=["before", "after", "no"]
)
def test_the_checkpoint_of_a_run_is_removed_after_the_run_has_finished(
    killed_by: str | None, left: bool, client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise MemoryError

    with suppress(MemoryError), runs.open_run(mlflow.start_run, {}, quiet=True) as run_id:
        checkpoints.save_checkpoint({"weights": np.zeros(3)}, 7)
        if killed_by:
            monkeypatch.setattr(delivery, killed_by, kill)
    assert checkpoints.has_checkpoint(run_id) == left
    if left:
        assert checkpoints.load_checkpoint(run_id)["weights"].shape == (3,)
    assert (get_status(client, run_id) == "FINISHED") == (killed_by != "_close_run")
    mlflow.end_run()


def test_a_trial_that_was_killed_twice_continues_from_its_last_checkpoint(client: mlflow.MlflowClient) -> None:
    first = create_run(client)
    with records.log_to_run(first):
        checkpoints.save_checkpoint({"weights": np.ones(3)}, 7)
    second = create_run(client, **{"loupe.continues": first})  # killed before its first checkpoint
    third = create_run(client, **{"loupe.continues": second})
    loaded = trials.load_checkpoint(third)
    assert loaded is not None
    assert loaded["weights"].tolist() == [1, 1, 1]
    assert trials.load_checkpoint(create_run(client)) is None


@pytest.mark.parametrize("failing", ["remove_artifact", "delete_tag"])
def test_a_checkpoint_whose_removal_failed_is_removed_by_the_next_try(
    failing: str, client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError

    run_id, remove = create_run(client), record_handlers.RECORD_HANDLERS["remove checkpoint"]
    with records.log_to_run(run_id):
        checkpoints.save_checkpoint({"weights": np.zeros(3)}, 7)
    with monkeypatch.context() as patch:
        patch.setattr(record_handlers if failing == "remove_artifact" else mlflow.MlflowClient, failing, fail)
        with pytest.raises(ConnectionError):
            remove(run_id, {}, None)
    assert checkpoints.has_checkpoint(run_id)
    remove(run_id, {}, None)
    assert not checkpoints.has_checkpoint(run_id)
    assert not client.list_artifacts(run_id)


def test_an_answer_of_another_form_fails_the_run_in_one_line(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(_: object) -> None:
        with runs.open_run(mlflow.start_run, {}, quiet=True) as run_id:
            started.append(run_id)
            records.log_tags({"a": "b"})

    started: list[str] = []
    monkeypatch.setattr(delivery, "is_server", lambda: True)
    monkeypatch.setitem(delivery.RECORD_HANDLERS, "tags", lambda *_: len(None))  # type: ignore[arg-type]
    monkeypatch.setattr(sync, "run", step)
    assert run_step("sync", []) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("loupe ")]
    assert line.startswith("loupe sync: error: tracking: the store cannot be used: TypeError: ")
    assert get_status(client, started[0]) == "FAILED"


def test_a_run_that_finishes_during_the_search_for_orphans_stays_finished(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(client, loupe_host="here")

    def ends(tags: object) -> bool:
        client.set_terminated(run)
        return False  # its process has exited

    monkeypatch.setattr(liveness, "is_alive", ends)
    liveness.close_orphaned_runs()
    assert get_status(client, run) == "FINISHED"


def test_a_failed_run_says_why_and_the_next_try_removes_the_reason(client: mlflow.MlflowClient) -> None:
    settings = parse_settings("register", {"note": "My **note**", "tags": "owner=ana,stage=a=b", "run_name": "mine"})
    with pytest.raises(ZeroDivisionError), runs.open_step_run(settings, "register x") as run:
        1 / 0  # noqa: B018
    found = client.get_run(run)
    assert (found.info.status, found.info.run_name) == ("FAILED", "mine")
    assert found.data.tags[run_notes.ERROR_TAG] == "ZeroDivisionError: division by zero"
    assert found.data.tags[run_notes.NOTE_TAG] == "My **note**\n\nFailed: ZeroDivisionError: division by zero"
    assert (found.data.tags["owner"], found.data.tags["stage"]) == ("ana", "a=b")
    assert not found.data.params.keys() & {"note", "tags", "run_name"}
    with pytest.raises(UsageError), runs.open_step_run(settings, "register x", continues=run):
        raise UsageError("x: must be 1, got http://u:secret@host")
    assert (
        client.get_run(run).data.tags[run_notes.NOTE_TAG]
        == "My **note**\n\nFailed: x: must be 1, got http://***@host"
    )
    with runs.open_step_run(settings, "register x", continues=run):
        pass
    found = client.get_run(run)
    assert found.info.status == "FINISHED"
    assert run_notes.ERROR_TAG not in found.data.tags
    assert found.data.tags[run_notes.NOTE_TAG] == "My **note**"
    assert "loupe.continues" not in found.data.tags


def test_the_table_has_the_runs_of_all_experiments_if_the_store_returns_them_in_pages(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, tags = mlflow.MlflowClient.search_experiments, {"loupe.step": "train", "loupe.smoke": "false"}
    monkeypatch.setattr(
        mlflow.MlflowClient, "search_experiments", lambda *args, **given: search(*args, **given | {"max_results": 1})
    )
    experiments = ("0", client.create_experiment("e"))
    found = [client.create_run(experiment, tags=tags).info.run_id for experiment in experiments]
    for run in found:
        client.set_terminated(run)
    assert set(run_table.load_run_table()["run_id"]) == set(found)


@pytest.mark.parametrize("run_id", ["0" * 32, "", "no/id"])
def test_a_missing_run_is_refused_with_the_name_of_the_setting(run_id: str, client: mlflow.MlflowClient) -> None:
    with pytest.raises(UsageError, match=f"^resume: must be a run in sqlite:.*, got '{run_id}'$"):
        runs.get_run(run_id, "resume")


@pytest.mark.parametrize(
    ("status", "reason"), [("RUNNING", "has ended, got .*, which is still running"), ("FINISHED", "was interrupted")]
)
def test_a_run_that_another_process_has_resumed_meanwhile_is_not_opened(
    status: str, reason: str, client: mlflow.MlflowClient
) -> None:
    run = str(client.create_run("0", tags=liveness.make_process_tags()).info.run_id)
    client.update_run(run, status)
    with (
        pytest.raises(UsageError, match=f"^resume: must be a run that {reason}"),
        runs.open_step_run(parse_settings("train", {}), "train", continues=run),
    ):
        pass
    assert get_status(client, run) == status


@pytest.mark.parametrize(("given", "expected"), [("my name", "my name"), ("bold-asp-123", "register x")])
def test_a_joined_run_keeps_the_name_of_the_user(
    given: str, expected: str, client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = client.create_run(client.create_experiment("e"), run_name=given)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", created.info.experiment_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", created.info.run_id)
    with runs.open_step_run(parse_settings("register", {}), "register x"):
        pass
    assert client.get_run(created.info.run_id).info.run_name == expected


def test_a_resumed_run_keeps_its_name(client: mlflow.MlflowClient) -> None:
    created = client.create_run(client.create_experiment("e"), run_name="exp-lr-3")
    client.set_terminated(created.info.run_id, "KILLED")
    with runs.open_step_run(parse_settings("train", {}), "train", continues=created.info.run_id):
        pass
    assert client.get_run(created.info.run_id).info.run_name == "exp-lr-3"


def test_the_experiment_of_an_earlier_step_is_no_choice_of_the_user(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_experiment() -> str:
        with runs.open_step_run(parse_settings("register", {}), "register") as run_id:
            return str(client.get_experiment(client.get_run(run_id).info.experiment_id).name)

    for variable in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(variable, "")  # so that the value after the test is the one before
        monkeypatch.delenv(variable)
    assert find_experiment() == "loupe"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "second")
    assert find_experiment() == "second"
    mlflow.set_experiment("of the user")
    assert find_experiment() == "of the user"


def test_a_search_by_a_setting_finds_the_runs_of_all_spellings(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mlflow run` logs the values of -P as typed, and quotes values with spaces, before the step starts."""
    pattern = re.search(r"``(tags\.`loupe\.settings` LIKE .*)``", (ROOT / "docs" / "fields.md").read_text())
    assert pattern
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    typed = {"learning_rate": "1e-3", "augment": "True", "network": "perceptron", "hidden": "'32, 16'"}
    for given in (typed, typed | {"learning_rate": "1.0E-03"}, typed | {"learning_rate": "0.002"}):
        run = create_run(client)
        for name, text in given.items():
            client.log_param(run, name, text)
        monkeypatch.setenv("MLFLOW_RUN_ID", run)
        unquoted = {name: text.strip("'") for name, text in given.items()}
        with runs.open_step_run(parse_settings("train", unquoted), "train"):
            pass
        typed_names = "augment, hidden" if given["learning_rate"] == "0.002" else "learning_rate, augment, hidden"
        assert f"params: {typed_names} are logged as typed; " in capsys.readouterr().out
    exact = {"learning_rate": "0.001", "augment": "true", "network": "perceptron", "hidden": "32,16"}
    with runs.open_step_run(parse_settings("train", exact), "train"):
        pass
    assert "as typed" not in capsys.readouterr().out

    def count(filter_string: str) -> int:
        return len(mlflow.search_runs(search_all_experiments=True, filter_string=filter_string))

    learning_rate = pattern.group(1)
    assert count(learning_rate) == 3
    assert count(learning_rate.replace('"0.001"', '"0.002"')) == 1
    assert count("""tags.`loupe.settings` LIKE '%"augment": "true"%'""") == 4
    assert count("""tags.`loupe.settings` LIKE '%"hidden": "32,16"%'""") == 4


def test_a_step_that_did_not_start_says_why_in_the_run_of_mlflow_run(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(client)
    monkeypatch.setenv("MLFLOW_RUN_ID", run)
    assert run_step("train", ["--activation", "swish"]) == 2
    tags = client.get_run(run).data.tags
    assert tags[run_notes.ERROR_TAG] == "activation: must be one of tanh, sigmoid, relu, got 'swish'"
    assert tags[run_notes.NOTE_TAG] == f"Failed: {tags[run_notes.ERROR_TAG]}"


def test_paths_under_mlflow_run_count_from_the_folder_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process is the first Python process above the step, as MLflow is under `mlflow run`."""
    project, caller = tmp_path / "project", tmp_path / "caller"
    project.mkdir()
    caller.mkdir()
    (project / "MLproject").touch()
    monkeypatch.chdir(caller)
    code = "from loupe.cli.main import run_step; import os; run_step('sync', ['--bogus']); print(os.getcwd())"
    command = ["sh", "-c", f'{sys.executable} -c "{code}"; true']
    for variables, folder in (({"MLFLOW_RUN_ID": "1"}, caller), ({}, project)):
        env = build_env() | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == str(folder), done.stderr
