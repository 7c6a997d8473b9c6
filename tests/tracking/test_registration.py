"""Registering twice at the same time makes one version; the description of a version has its test scores."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from loupe.config import parse_settings
from loupe.errors import UsageError
from loupe.evaluation import metrics, scoring
from loupe.steps import register
from loupe.tracking import champions, models, registration


def list_versions(name: str) -> list[tuple[int, str]]:
    """Return number and run of the versions of a registered model."""
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    return sorted((int(version.version), version.run_id) for version in found)


def race(monkeypatch: pytest.MonkeyPatch, register: Callable[[], object]) -> tuple[object, object]:
    """Register in a process that is overtaken by another one after it has found no version; returns both results."""
    results: list[object] = []
    create = mlflow.MlflowClient.create_model_version

    def create_later(client: mlflow.MlflowClient, *args: object, **given: object) -> object:
        monkeypatch.setattr(mlflow.MlflowClient, "create_model_version", create)
        assert given["model_id"], "a tracking server refuses a model without its id"
        results.append(register())
        return create(client, *args, **given)

    monkeypatch.setattr(mlflow.MlflowClient, "create_model_version", create_later)
    results.append(register())
    return results[0], results[1]


def test_a_run_that_is_registered_twice_at_the_same_time_has_one_version(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = mlflow.MlflowClient().create_logged_model("0", "model", run_id)
    mlflow.MlflowClient().finalize_logged_model(logged.model_id, "READY")
    reference = models.ModelReference.from_logged_model(logged.model_id, "model")

    def register() -> str:
        return str(registration.register_model(reference, Fraction(3, 2), "a network", {"q": "2"}).version)

    assert race(monkeypatch, register) == ("1", "1")
    assert list_versions("loupe") == [(1, run_id)]
    assert register() == "1"


@pytest.mark.parametrize(
    ("scale", "name", "task"),
    [(Fraction(1), "loupe-1x", "Restores grey photos."), (Fraction(2), "loupe-2x", "Upscales grey photos by 2:1.")],
)
def test_the_description_of_a_registered_model_states_its_task(
    scale: Fraction, name: str, task: str, run_id: str
) -> None:
    logged = mlflow.MlflowClient().create_logged_model("0", "model", run_id)
    mlflow.MlflowClient().finalize_logged_model(logged.model_id, "READY")
    reference = models.ModelReference.from_logged_model(logged.model_id, "model")
    registration.register_model(reference, scale, "a network", {})
    assert mlflow.MlflowClient().get_registered_model(name).description.startswith(task)


def test_a_version_that_the_user_created_is_kept(run_id: str) -> None:
    client = mlflow.MlflowClient()
    logged = client.create_logged_model("0", "model", run_id)
    client.finalize_logged_model(logged.model_id, "READY")
    reference = models.ModelReference.from_logged_model(logged.model_id, "model")
    client.create_registered_model("loupe")
    for _ in range(2):
        client.create_model_version("loupe", reference.uri, run_id, model_id=logged.model_id)
    client.set_registered_model_alias("loupe", "champion", "2")
    assert registration.register_model(reference, Fraction(3, 2), "a network", {}).version == 1
    assert list_versions("loupe") == [(1, run_id), (2, run_id)]
    assert int(client.get_model_version_by_alias("loupe", "champion").version) == 2


def test_networks_that_are_registered_twice_at_the_same_time_make_one_photo_model(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient()
    client.create_registered_model("loupe")
    networks = [client.create_model_version("loupe", "file:/network", other) for other in (run_id, run_id[::-1])]
    logged = client.create_logged_model("0", "photo", run_id)
    monkeypatch.setattr(champions, "_log_photo_model", lambda champions: logged)

    def register(network: int = 0) -> str:
        return champions.register_photo_model(Fraction(3, 2), networks[network])

    with mlflow.start_run():
        assert race(monkeypatch, register) == ("models:/loupe-photo/1",) * 2
        assert len(list_versions(models.PHOTO_MODEL)) == 1
        assert register() == "models:/loupe-photo/1"
        assert register(1) != "models:/loupe-photo/1"
    assert len(list_versions(models.PHOTO_MODEL)) == 2
    assert client.get_model_version_by_alias(models.PHOTO_MODEL, "champion").version != "1"


def test_champions_of_two_scale_factors_that_move_at_the_same_time_are_both_in_the_photo_model(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, given, versions = mlflow.MlflowClient(), [], {}
    for scale, name in {Fraction(3, 2): "loupe", Fraction(2): "loupe-2x"}.items():
        client.create_registered_model(name)
        logged = client.create_logged_model("0", "network", run_id)
        versions[scale] = client.create_model_version(name, f"models:/{logged.model_id}", run_id)

    def log(champions_by_scale: dict[Fraction, Any]) -> Any:
        given.append({scale: found and found.name for scale, found in champions_by_scale.items()})
        if len(given) == 1:
            champions.move_champion(Fraction(2), versions[Fraction(2)])
        return client.create_logged_model("0", "photo", run_id)

    monkeypatch.setattr(champions, "_log_photo_model", log)
    with mlflow.start_run():
        uri = champions.move_champion(Fraction(3, 2), versions[Fraction(3, 2)])
        newest = client.get_model_version_by_alias(models.PHOTO_MODEL, "champion")
        assert given[-1] == {Fraction(3, 2): "loupe", Fraction(2): "loupe-2x", Fraction(3): None, Fraction(4): None}
        assert uri == f"models:/{models.PHOTO_MODEL}/{newest.version}"
        assert newest.description.startswith("Upscales photos with loupe version 1, loupe-2x version 1, ")
        assert len(given) == len(list_versions(models.PHOTO_MODEL)) == 3
        assert champions.move_champion(Fraction(3, 2), versions[Fraction(3, 2)]) == uri
    assert len(given) == 3  # without a race, no version is created


def test_a_deleted_champion_of_another_scale_factor_is_replaced_by_the_bundled_network(
    run_id: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client, given = mlflow.MlflowClient(), []
    deleted, logged = (client.create_logged_model("0", name, run_id) for name in ("model", "photo"))
    for name in ("loupe", "loupe-2x"):
        client.create_registered_model(name)
    version = client.create_model_version("loupe", "file:/network", run_id)
    client.create_model_version("loupe-2x", f"models:/{deleted.model_id}", run_id)
    client.set_registered_model_alias("loupe-2x", "champion", "1")
    client.delete_logged_model(deleted.model_id)
    monkeypatch.setattr(champions, "_log_photo_model", lambda found: given.append(found) or logged)
    with mlflow.start_run():
        champions.register_photo_model(Fraction(3, 2), version)
    assert given == [{Fraction(3, 2): version, Fraction(2): None, Fraction(3): None, Fraction(4): None}]
    line = "model: loupe-2x version 1 cannot be loaded: the model was deleted; loupe-photo gets the bundled network"
    assert line in capsys.readouterr().err


def test_the_photo_model_requires_the_packages_of_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, Any] = {}
    monkeypatch.setattr(mlflow.pyfunc, "log_model", lambda **given: logged.update(given))
    champions._log_photo_model({Fraction(3, 2): None})
    names = {requirement.partition("==")[0] for requirement in logged["pip_requirements"]}
    assert names == {"onnxruntime", "numpy", "pillow", "pyvips[binary]"}


def test_the_evidence_of_a_champion_does_not_grow_and_a_rollback_without_a_champion_has_a_uri(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient()
    monkeypatch.setattr(champions, "register_photo_model", lambda scale, version: "models:/loupe-photo/1")
    client.create_registered_model("loupe")
    client.create_model_version("loupe", "file:/network", run_id)
    reason = "made champion by `loupe register --version`"
    for evidence, expected in (("", reason), (reason, reason), (f"{reason}; mae 0.1", f"{reason}; mae 0.1")):
        client.set_model_version_tag("loupe", "1", models.EVIDENCE_TAG, evidence)
        moved = register.run(parse_settings("register", {"version": "1"}))
        assert (moved.uri, moved.reason) == ("models:/loupe/1", expected)
        assert client.get_model_version("loupe", "1").tags[models.EVIDENCE_TAG] == expected
    moved = register.run(parse_settings("register", {"rollback": "true"}))
    last = mlflow.search_runs(search_all_experiments=True, order_by=["start_time desc"], max_results=1).iloc[0]
    assert moved.uri == last["tags.loupe.version"] == "models:/loupe"
    assert str(moved) == "models:/loupe: no champion: rolled back; upscale uses the bundled network"


def test_a_rollback_to_a_deleted_version_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MlflowException("not found", error_code=RESOURCE_DOES_NOT_EXIST)

    champion = SimpleNamespace(version="2", tags={champions.REPLACED_TAG: "1"})
    monkeypatch.setattr(models, "get_champion", lambda scale: champion)
    monkeypatch.setattr(champions, "create_store", lambda: None)
    monkeypatch.setattr(mlflow, "MlflowClient", lambda: SimpleNamespace(get_model_version=fail))
    with pytest.raises(UsageError) as refused:
        champions.find_previous_champion(Fraction(3, 2))
    expected = "rollback: the previous champion, version 1 of loupe, was deleted; choose the champion with --version"
    assert str(refused.value) == expected


@pytest.mark.parametrize(("photos", "interval"), [(8, " (0.2075 to 0.7925)"), (7, "")])
def test_a_description_has_the_scores_of_model_and_baselines_with_intervals(
    photos: int, interval: str, tmp_path: Path
) -> None:
    values = np.arange(photos) / 7 if photos == 8 else np.full(photos, 0.5)
    rows = {"photo": list("abcdefgh")[:photos], "image": range(photos)} | dict.fromkeys(metrics.SCORES, values)
    table = pd.concat([pd.DataFrame(rows | {"method": name}) for name in ("model", "nearest", "lanczos")])
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(scoring.summarise(table)), encoding="utf-8")
    text = registration.describe_scores(file, Fraction(3, 2))
    assert f"{photos} photos, {'with 95 % intervals' if interval else 'too few for intervals'};" in text
    assert all(f"{name} mae 0.5000{interval};" in text for name in ("model", "nearest", "lanczos"))
    assert registration.describe_scores(None, Fraction(3, 2)) == "unknown."


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"model": 3}', '{"model": {"interval": []}}', "[" * 100_000]
)
def test_changed_scores_of_a_run_do_not_prevent_its_registration(text: str, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(text, encoding="utf-8")
    assert registration.describe_scores(tmp_path / "summary.json", Fraction(3, 2)) == "unknown."
