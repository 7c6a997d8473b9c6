"""Finds and deletes the logged models of a run."""

from typing import Any

import mlflow
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException

from loupe.tracking.store import MISSING_CODES


def find_model(run_id: str) -> Any:
    """Return the newest complete model of a run, or None."""
    complete = (model for model in _list_models(run_id) if model.status == LoggedModelStatus.READY)
    return max(complete, key=lambda model: model.creation_timestamp, default=None)


def delete_models(run_id: str) -> None:
    """Delete the models of a run."""
    _delete(_list_models(run_id))


def delete_unregistered_models(run_id: str) -> None:
    """Delete the models of a run, unless the model registry contains a model of this run."""
    models = _list_models(run_id)
    if models and not mlflow.MlflowClient().search_model_versions(f"run_id = '{run_id}'"):
        _delete(models)


def remove_artifact(artifact_uri: str, name: str) -> None:
    """Remove a file or folder of artifacts; an empty name removes all artifacts."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(artifact_uri).delete_artifacts(name)


def _delete(models: list[Any]) -> None:
    for model in models:
        remove_artifact(model.artifact_location, "")
        mlflow.MlflowClient().delete_logged_model(model.model_id)


def _list_models(run_id: str) -> list[Any]:
    """Return the models of a run, without deleted models.

    The models of an uploaded run can be in another experiment than the run. Only `run.outputs` lists such models.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    experiment_models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    models = {model.model_id: model for model in experiment_models}
    for output in run.outputs.model_outputs if run.outputs else ():
        if output.model_id not in models:
            try:
                models[output.model_id] = client.get_logged_model(output.model_id)
            except MlflowException as error:  # a missing model was deleted
                if error.error_code not in MISSING_CODES:
                    raise
    return list(models.values())
