"""A logged model has the final metrics of its run, linked to the dataset: a search for models uses them."""

from pathlib import Path
from types import SimpleNamespace

import keras
import mlflow
import pytest

from loupe.config import parse_settings
from loupe.data import dataset as data
from loupe.data.preparation import prepare
from loupe.errors import LoupeError
from loupe.models.builder import build_ridge
from loupe.tracking import logged_models, models, records, training_runs
from loupe.tracking.record_handlers import RECORD_HANDLERS
from loupe.upscalers import ridge
from loupe.upscalers.geometry import Geometry

DATASET = {"name": "photos-1f", "digest": "1f", "source_type": "local", "source": "{}", "context": "training"}
MAES = (0.5, 0.2, 0.1, 0.3)  # of validation, at steps 0, 10, 20, 30


def log(run_id: str, maes: tuple[float, ...], final: dict[str, float]) -> None:
    """Log the records of a training with these validation scores and final metrics."""
    points = [{"step": 10 * number, "metrics": {"val/mae": mae}} for number, mae in enumerate(maes)]
    name = Geometry(q=1, p=1, min_side=1, halo=0, luminance="rec601").name
    image = keras.Input((None, None, 1))
    model = keras.Model(image, keras.layers.Conv2D(1, 1)(image), name=name)
    with records.log_to_run(run_id):
        records.log_record("input", DATASET)
        for point in points:
            records.log_metrics(point["metrics"] | ({"loss": 1.0} if point["step"] else {}), point["step"])
        records.log_metrics(final)
        models.log_model(model, points)


def metrics_of_model(run_id: str) -> dict[str, list[float]]:
    """Return the values of each metric that is linked to the last model of the run and to the dataset."""
    model = logged_models.find_model(run_id)
    found: dict[str, list[float]] = {}
    for metric in model.metrics:
        assert (metric.dataset_name, metric.dataset_digest) == ("photos-1f", "1f")
        found.setdefault(metric.key, []).append(metric.value)
    return found


def test_a_model_has_the_metrics_of_the_best_step_and_the_final_ones(run_id: str) -> None:
    log(run_id, MAES, {"test/mae": 0.11})
    assert metrics_of_model(run_id) == {"val/mae": [0.1], "loss": [1.0], "test/mae": [0.11]}
    history = mlflow.MlflowClient().get_metric_history(run_id, "val/mae")
    assert [point.value for point in history] == list(MAES)


def test_a_model_that_is_not_trained_by_steps_has_its_metrics(run_id: str) -> None:
    log(run_id, MAES[:1], {"val/best_mae": 0.5})
    assert metrics_of_model(run_id) == {"val/mae": [0.5], "val/best_mae": [0.5]}


def test_linking_again_adds_only_the_metrics_that_were_logged_since(run_id: str) -> None:
    log(run_id, MAES, {"val/best_mae": 0.1})
    with records.log_to_run(run_id):
        records.log_metrics({"test/mae": 0.11})
        for _ in range(2):
            records.log_record("model metrics", {"step": 20})
    assert metrics_of_model(run_id) == {"val/mae": [0.1], "loss": [1.0], "val/best_mae": [0.1], "test/mae": [0.11]}
    assert len(mlflow.MlflowClient().get_metric_history(run_id, "test/mae")) == 1


def test_metrics_are_linked_without_a_dataset_or_not_at_all_if_the_server_rejected_the_dataset_or_the_model(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with records.log_to_run(run_id):
        records.log_metrics({"val/mae": 0.1})
        records.log_record("model metrics", {"step": 0})
    monkeypatch.setitem(RECORD_HANDLERS, "input", lambda *record: None)
    log(run_id, MAES, {})
    model = logged_models.find_model(run_id)
    assert {(metric.key, metric.value, metric.dataset_name) for metric in model.metrics} == {
        ("val/mae", 0.1, None), ("loss", 1.0, None)
    }  # fmt: skip


def test_a_search_by_metric_and_dataset_finds_the_better_model_first(run_id: str) -> None:
    other = str(mlflow.MlflowClient().create_run("0").info.run_id)
    log(run_id, (0.9, 0.1), {"test/mae": 0.12})
    log(other, (0.3, 0.2), {"test/mae": 0.22})
    dataset = {"dataset_name": "photos-1f", "dataset_digest": "1f"}
    found = mlflow.search_logged_models(
        experiment_ids=["0"],
        filter_string="metrics.`val/mae` < 0.25",
        datasets=[dataset],
        order_by=[{"field_name": "metrics.val/mae", **dataset}],
        output_format="list",
    )
    assert [model.source_run_id for model in found] == [run_id, other]


def test_scores_of_a_shard_that_is_found_damaged_in_the_background_are_not_logged(
    run_id: str, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"source": str(photo_folder), "label_size": "30", "data_dir": str(tmp_path / "data"), "quiet": "true"}
    dataset, settings = prepare(parse_settings("preprocess", given)), parse_settings("train", {"network": "ridge"})
    weights = ridge.load_or_fit(dataset, settings.scale)
    monkeypatch.setattr(data, "VERIFY_FIRST_BYTES", 0)
    for file in dataset.folder.glob("labels-*"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    model = build_ridge(weights, settings.scale, "rec601")
    with records.log_to_run(run_id), pytest.raises(LoupeError, match="is missing or changed"):
        training_runs.log_result(model, settings, dataset, weights, [])
    assert not mlflow.MlflowClient().get_run(run_id).data.metrics


def test_a_training_on_inputs_smaller_than_a_patch_of_the_study_logs_no_scores_of_patches(
    run_id: str, photo_folder: Path, tmp_path: Path
) -> None:
    given = {"source": str(photo_folder), "data_dir": str(tmp_path / "data"), "quiet": "true", "scales": "3:2"}
    settings = parse_settings("train", {"network": "ridge"})
    for label_size, is_scored in ((12, False), (15, True)):  # inputs of 8x8 and 10x10 pixels
        dataset = prepare(parse_settings("preprocess", given | {"label_size": label_size}))
        weights = ridge.load_or_fit(dataset, settings.scale)
        with records.log_to_run(run_id):
            training_runs.log_result(build_ridge(weights, settings.scale, "rec601"), settings, dataset, weights, [])
        logged = mlflow.MlflowClient().get_run(run_id).data.metrics
        assert "test/mae" in logged
        assert ({"test/patches_mae", "test/draw_difference"} <= logged.keys()) == is_scored


def test_the_image_of_a_point_is_logged_before_its_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run logs both if the metrics are missing."""
    logged: list[str] = []
    point = SimpleNamespace(step=3, metrics={"val/mae": 0.5})
    monkeypatch.setattr(mlflow, "active_run", lambda: SimpleNamespace(info=SimpleNamespace(run_id="1")))
    monkeypatch.setattr(training_runs.loop, "fit", lambda model, settings, splits, report, resume: report(point, {}))
    for module, name in ((training_runs, "log_predictions"), (training_runs.records, "log_metrics")):
        monkeypatch.setattr(module, name, lambda *values, name=name: logged.append(name))
    monkeypatch.setattr(training_runs.checkpoints, "save_checkpoint", lambda *values: None)
    training_runs.fit_network(None, parse_settings("train", {}), None, None, None)  # type: ignore[arg-type]
    assert logged == ["log_predictions", "log_metrics"]
