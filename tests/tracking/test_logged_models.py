"""Models of runs whose process was killed while it logged them: only a complete model is used."""

from fractions import Fraction

import keras
import mlflow

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
    name = Geometry(q=1, p=2, min_side=1, halo=0, luminance="rec601").name
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
