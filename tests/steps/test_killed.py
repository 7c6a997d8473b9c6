"""Trainings that are killed: what their runs say, and that they continue to the same numbers."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from jobs import build_env, list_runs, loupe, open_store

VARIANT = (
    *["train", "--network", "perceptron", "--hidden", "24,16", "--keep_prob", "0.5", "--augment", "true", "--quiet"],
    *["--optimizer", "rmsprop", "--momentum", "0.9", "--schedule", "exponential", "--batch_size", "32"],
    *["--steps", "160", "--eval_every", "20"],
)


def weights_of(folder, run):
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    return mlflow.keras.load_model(f"runs:/{run.info.run_id}/model").get_weights()


def started(folder, *arguments):
    """A step in the background, in a process group of its own."""
    command = [sys.executable, "-m", "loupe", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=build_env(), start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def wait_for_checkpoint(folder, process, after):
    """Until the open run has a checkpoint of a step beyond `after`; returns the run."""
    for _ in range(3600):
        assert process.poll() is None, "the training ended before it could be killed"
        for run in list_runs(folder) if (folder / "mlflow.db").exists() else []:
            name = run.data.tags.get("loupe.checkpoint", "checkpoint/0.npz")
            if int(name.removeprefix("checkpoint/").removesuffix(".npz")) > after:
                return run
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)  # else it would take a core from all tests behind it
    raise AssertionError("no checkpoint within three minutes")


@pytest.mark.slow
def test_a_training_killed_at_any_moment_continues_to_the_weights_of_an_unbroken_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        loupe("preprocess", "--label_size", "60", "--crop", "centre", "--quiet", cwd=folder)
    dataset = next((whole / "data").iterdir()).name
    variant = [*VARIANT, "--dataset", dataset]
    loupe(*variant, cwd=whole)
    process = started(broken, *variant)
    run = wait_for_checkpoint(broken, process, after=40)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert open_store(broken).get_run(run.info.run_id).info.status == "RUNNING"
    loupe("train", "--resume", run.info.run_id, "--quiet", cwd=broken)
    ended, unbroken = open_store(broken).get_run(run.info.run_id), list_runs(whole)[0]
    assert ended.info.status == "FINISHED"
    assert ended.data.metrics["val/best_mae"] == unbroken.data.metrics["val/best_mae"]
    for ours, theirs in zip(weights_of(broken, ended), weights_of(whole, unbroken), strict=True):
        assert np.array_equal(ours, theirs)
    loupe("train", "--resume", run.info.run_id, cwd=broken, status=2)  # it has ended: there is nothing to resume


@pytest.mark.slow
def test_a_killed_run_is_closed_by_the_next_start_and_a_terminated_one_by_itself(tmp_path):
    loupe("preprocess", "--smoke", "true", "--quiet", cwd=tmp_path)
    arguments = ["train", "--smoke", "true", "--steps", "100000", "--eval_every", "100", "--quiet"]
    states = []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        process = started(tmp_path, *arguments)
        run = wait_for_checkpoint(tmp_path, process, after=0)
        if number == signal.SIGKILL:
            loupe("train", "--resume", run.info.run_id, cwd=tmp_path, status=2)  # it is still running
        os.kill(process.pid, number)
        process.wait(60)
        open_store(tmp_path).delete_tag(run.info.run_id, "loupe.checkpoint")
        states.append(open_store(tmp_path).get_run(run.info.run_id).info.status)
    assert states == ["RUNNING", "KILLED", "KILLED"]
    loupe("preprocess", "--smoke", "true", "--quiet", cwd=tmp_path)
    assert not [run for run in list_runs(tmp_path) if run.info.status == "RUNNING"]
