"""Models of runs: only a complete model is used, and a sweep keeps registered models."""

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import keras
import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from loupe.search import study_results
from loupe.tracking import logged_models, models, records, registration
from loupe.upscalers.geometry import Geometry

DATASET = {"name": "photos-1f", "digest": "1f", "source_type": "local", "source": "{}", "context": "training"}


def create_incomplete_model(run_id: str) -> str:
    """Create a model as a process that is killed before the upload of the files; returns its id."""
    client = mlflow.MlflowClient()
    model = client.create_logged_model("0", name="model", source_run_id=run_id)
    client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(model.model_id, 0)])
    return str(model.model_id)


def log_model(run_id: str) -> None:
    name = Geometry(q=1, p=1, min_side=1, halo=0, luminance="rec601").name
    with records.log_to_run(run_id):
        records.log_record("input", DATASET)
        records.log_metrics({"val/best_mae": 0.1})
        image = keras.Input((None, None, 1))
        models.log_model(keras.Model(image, keras.layers.Conv2D(1, 1)(image), name=name), [])


def test_an_incomplete_model_is_not_found_and_the_next_model_replaces_it(run_id: str) -> None:
    incomplete = create_incomplete_model(run_id)
    assert logged_models.find_model(run_id) is None
    for _ in range(2):  # a resumed run logs its model again
        log_model(run_id)
    (model,) = mlflow.search_logged_models(["0"], output_format="list")
    assert model.model_id != incomplete
    assert logged_models.find_model(run_id).model_id == model.model_id
    assert [metric.key for metric in model.metrics] == ["val/best_mae"]


def test_an_incomplete_model_is_not_registered(run_id: str) -> None:
    log_model(run_id)
    complete = logged_models.find_model(run_id)
    for _ in range(4):  # MLflow lists the models of a run in the order of their random ids
        create_incomplete_model(run_id)
    assert logged_models.find_model(run_id).model_id == complete.model_id
    reference = models.ModelReference.from_logged_model(complete.model_id, "model")
    version = registration.register_model(reference, Fraction(2), "", {})
    assert version.source == complete.artifact_location


def test_a_sweep_deletes_models_outside_the_best_trials_unless_they_are_registered(run_id: str) -> None:
    client, ids = mlflow.MlflowClient(), dict[str, str]()
    for name in ("best", "champion", "other"):
        tags = {MLFLOW_PARENT_RUN_ID: run_id, "loupe.step": "trial"}
        ids[name] = str(client.create_run("0", tags=tags).info.run_id)
        model = client.create_logged_model("0", name="model", source_run_id=ids[name])
        client.finalize_logged_model(model.model_id, "READY")
        if name == "champion":
            reference = models.ModelReference.from_logged_model(model.model_id, "model")
            registration.register_model(reference, Fraction(2), "", {})
    kept = [SimpleNamespace(user_attrs={"run": ids["best"]})]
    study: Any = SimpleNamespace(parent=run_id, list_kept=lambda: kept)
    assert study_results.delete_other_models(study) == [ids["best"]]
    assert [name for name in ids if logged_models.find_model(ids[name])] == ["best", "champion"]


def test_a_model_of_another_experiment_is_missing_only_if_it_was_deleted(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient()
    model = client.create_logged_model(client.create_experiment("other"), name="model", source_run_id=run_id)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(model.model_id, 0)])
    assert logged_models.find_model(run_id).model_id == model.model_id

    def refuse(*given: object) -> None:
        raise MlflowException("no permission", databricks_pb2.PERMISSION_DENIED)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "get_logged_model", refuse)
        with pytest.raises(MlflowException, match="no permission"):
            logged_models.find_model(run_id)
    client.delete_logged_model(model.model_id)
    assert logged_models.find_model(run_id) is None
