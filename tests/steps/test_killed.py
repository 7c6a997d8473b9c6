"""Killed trainings: the states of their runs, and identical results after they are resumed."""

import os
import signal
import time

import numpy as np
import pytest
from jobs import Step, list_runs, loupe, open_store

VARIANT = (
    *["train", "--network", "perceptron", "--hidden", "24,16", "--keep_prob", "0.5", "--augment", "true", "--quiet"],
    *["--optimizer", "rmsprop", "--momentum", "0.9", "--schedule", "exponential", "--batch_size", "32"],
    *["--steps", "160", "--eval_every", "20"],
)


def load_weights(folder, run):
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    return mlflow.keras.load_model(f"runs:/{run.info.run_id}/model").get_weights()


def wait_for_checkpoint(folder, process, after):
    """Wait until a run has a checkpoint of a later step than `after`; returns the run."""
    for _ in range(3600):
        assert process.poll() is None, "the training ended before it could be killed"
        for run in list_runs(folder) if (folder / "mlflow.db").exists() else []:
            name = run.data.tags.get("loupe.checkpoint", "checkpoint/0.npz")
            if int(name.removeprefix("checkpoint/").removesuffix(".npz")) > after:
                return run
        time.sleep(0.05)
    process.kill()  # so that it does not slow down the other tests
    raise AssertionError("no checkpoint within three minutes")


@pytest.mark.slow
def test_killed_training_resumes_to_the_weights_of_an_uninterrupted_one(tmp_path):
    complete, broken = tmp_path / "complete", tmp_path / "broken"
    for folder in (complete, broken):
        folder.mkdir()
        loupe("preprocess", "--label_size", "60", "--crop", "centre", "--quiet", cwd=folder)
    dataset = next((complete / "data").iterdir()).name
    variant = [*VARIANT, "--dataset", dataset]
    loupe(*variant, cwd=complete)
    process = Step(*variant, cwd=broken)
    run = wait_for_checkpoint(broken, process, after=40)
    process.kill()
    assert open_store(broken).get_run(run.info.run_id).info.status == "RUNNING"
    loupe("train", "--resume", run.info.run_id, "--quiet", cwd=broken)
    ended, uninterrupted = open_store(broken).get_run(run.info.run_id), list_runs(complete)[0]
    assert ended.info.status == "FINISHED"
    history = open_store(broken).get_metric_history(run.info.run_id, "val/mae")
    assert len({point.step for point in history}) == len(history) > 2
    assert "loupe.continues" not in ended.data.tags
    assert ended.data.metrics["val/best_mae"] == uninterrupted.data.metrics["val/best_mae"]
    for weight, expected in zip(load_weights(broken, ended), load_weights(complete, uninterrupted), strict=True):
        assert np.array_equal(weight, expected)
    loupe("train", "--resume", run.info.run_id, cwd=broken, status=2)  # it has finished


@pytest.mark.slow
def test_killed_run_is_closed_by_the_next_step_and_interrupted_runs_close_themselves(tmp_path):
    loupe("preprocess", "--smoke", "true", "--quiet", cwd=tmp_path)
    arguments = ["train", "--smoke", "true", "--steps", "100000", "--eval_every", "100", "--quiet"]
    states = []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        process = Step(*arguments, cwd=tmp_path)
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
