"""Every step that takes a model accepts and refuses the same names, with the same error."""

import os
import shutil
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from PIL import Image

from loupe import Upscaler
from loupe.config import STEPS, parse_settings
from loupe.config.fields import BUNDLED_SIZES
from loupe.data import preparation
from loupe.errors import LoupeError, UsageError
from loupe.photos import worker_pool
from loupe.steps import demo, evaluate, register, train, upscale
from loupe.tracking import logged_models, models, resolver, runs, training_runs
from loupe.upscalers import bundled

# One process: the tests share one store.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("resolver")]

CHAMPION_URI = "models:/loupe@champion"
RUN_URI = "runs:/{run_id}/model"
MODEL_URI = "models:/{model_id}"  # a compiled model that was logged with `mlflow.keras.log_model`, without a run
ACCEPTED = [
    "champion", "bundled", *BUNDLED_SIZES, "nearest", "bilinear", "bicubic", "lanczos", "ridge",
    "network.onnx", "network.keras", RUN_URI, CHAMPION_URI, MODEL_URI,
]  # fmt: skip
REFUSED = {
    "": "must be champion, bundled, tiny",
    "huge": "must be champion, bundled, tiny",
    "missing.onnx": "must be champion, bundled, tiny",
    "missing.keras": "must be champion, bundled, tiny",
    "folder": "must be champion, bundled, tiny",
    "folder.keras": "must be champion, bundled, tiny",
    "text.txt": "must be champion, bundled, tiny",
    "photo.png": "must be champion, bundled, tiny",
    "text.onnx": "is not an ONNX network",
    "text.keras": "cannot be loaded",
    "runs:/0123456789abcdef0123456789abcdef/model": "cannot be loaded",
    "models:/loupe@nobody": "cannot be loaded",
}


@pytest.mark.parametrize("step", ["upscale", "evaluate", "demo", "restore"])
def test_the_help_and_the_error_list_the_same_models(step):
    described = STEPS[step].model_fields["model"].description.split(": ")[-1]
    restore = step == "restore"
    sizes = {size for size in BUNDLED_SIZES if Fraction(1) in bundled.list_scales(size)}
    names = ["champion", "bundled", *sizes] if restore else ACCEPTED[:-5]
    assert all(name in described for name in names)
    with pytest.raises(UsageError) as caught:
        resolver.resolve_model("huge", resolver.ResolveOptions(restore=restore))
    assert str(caught.value) == f"model: must be {described} that exists, got 'huge'"


def test_only_a_keras_file_needs_a_backend_that_loupe_supports(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    file = bundled.find_file("tiny", Fraction(3, 2))
    assert resolver.resolve_model(str(file)).scales == [Fraction(3, 2)]
    (tmp_path / "network.keras").touch()
    with pytest.raises(UsageError, match=r"^KERAS_BACKEND: must be tensorflow or jax, got 'torch'$"):
        resolver.resolve_model(str(tmp_path / "network.keras"))
    monkeypatch.setenv("KERAS_BACKEND", "")
    with pytest.raises(UsageError, match=r"^model: .* cannot be loaded"):
        resolver.resolve_model(str(tmp_path / "network.keras"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns a folder with a champion, model files and the files of REFUSED.

    Also returns the id of the champion's run, and the id of a logged model without a run.
    """
    folder = tmp_path_factory.mktemp("store")
    before, cwd = mlflow.get_tracking_uri(), Path.cwd()
    os.chdir(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        smoke = {"smoke": True, "quiet": True}
        run_id = train.run(parse_settings("train", {"network": "ridge"} | smoke)).run_id
        register.run(parse_settings("register", {"run": run_id, "quiet": True}))
        register.run(parse_settings("register", {"version": 1, "quiet": True}))
        keras = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/model/data/model.keras", dst_path=str(folder))
        shutil.copyfile(keras, folder / "network.keras")
        shutil.copyfile(bundled.find_file("tiny", Fraction(3, 2)), folder / "network.onnx")
        for name in ("folder", "folder.keras"):
            Path(name).mkdir()
        for name in ("text.txt", "text.onnx", "text.keras"):
            Path(name).write_text("not a model")
        network = models.load_keras(models.ModelReference("network", str(folder / "network.keras")))
        network.compile("adam", "mae")
        network.fit(*(np.zeros((1, side, side, 1)) for side in (8, 12)), verbose=0)
        model_id = mlflow.keras.log_model(network, name="mine", pip_requirements=["keras"]).model_id
        yield folder, run_id, model_id
    finally:
        os.chdir(cwd)
        mlflow.set_tracking_uri(before)


@pytest.fixture
def names(trained, monkeypatch):
    """The names in RUN_URI and MODEL_URI, with the folder of the champion as the current one."""
    folder, run_id, model_id = trained
    enter(folder, folder / "data", monkeypatch)
    return {"run_id": run_id, "model_id": model_id}


def enter(folder, data, monkeypatch):
    """Change to a folder with one photo to score, and skip slow code that does not resolve models."""
    monkeypatch.chdir(folder)
    Path("photos").mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (45, 60, 3), "uint8")
    for path in ("photos/photo.png", "photo.png"):
        Image.fromarray(noise).save(path)
    sample = parse_settings("train", {"smoke": True, "data_dir": str(data), "quiet": True})
    monkeypatch.setattr(preparation, "open_sample", lambda *_: preparation.open_or_prepare(sample, "sample"))
    monkeypatch.setattr(evaluate, "_draw_figures", lambda *_: None)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    monkeypatch.setattr(worker_pool.PhotoWorkers, "start", start_one_process)


def start_one_process(workers):
    """Start the process for large photos only; the other one would find the model in the same way."""
    workers._large.start()
    workers._large.wait_until_ready(worker_pool.Control())
    return workers._large.device


def use_model(name, data_dir="data"):
    """Use a model in every way, and return the error of each step, None if it accepts the model."""
    image = Image.new("RGB", (12, 10))
    scored = {"photos": "photos", "label_size": 30, "smoke": True, "quiet": True, "data_dir": data_dir}
    upscaled = {"inputs": "photo.png", "out": "large.png", "overwrite": True, "quiet": True}
    steps = {
        "Upscaler.load": lambda: Upscaler.load(name)(image, scale="3:2"),
        "upscale": lambda: upscale.run(parse_settings("upscale", upscaled | {"model": name})),
        "demo": lambda: demo.run(parse_settings("demo", {"model": name, "port": 0, "quiet": True})),
        "evaluate": lambda: evaluate.run(parse_settings("evaluate", scored | {"model": name})),
    }
    errors = {}
    for step, call in steps.items():
        try:
            call()
            errors[step] = None
        except UsageError as error:
            errors[step] = str(error)
    return errors


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_step_accepts_the_name(name, names):
    assert set(use_model(name.format(**names)).values()) == {None}


@pytest.mark.parametrize("name", REFUSED)
def test_every_step_refuses_the_name_with_the_same_line(name, names):
    errors = set(use_model(name).values())
    assert len(errors) == 1, errors
    error = str(errors.pop())
    assert error.startswith("model: ")
    assert REFUSED[name] in error
    assert name in error
    assert "\n" not in error


@pytest.mark.parametrize(("name", "accepted"), [("champion", True), (CHAMPION_URI, False)])
def test_without_a_store_the_champion_is_the_bundled_network(name, accepted, trained, tmp_path, monkeypatch):
    enter(tmp_path, trained[0] / "data", monkeypatch)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # the folder has no mlflow.db
    errors = set(use_model(name, str(trained[0] / "data")).values())
    if accepted:
        assert errors == {None}
    else:
        assert errors == {f"model: {name} needs an MLflow store that exists: MLFLOW_TRACKING_URI, or ./mlflow.db"}


@pytest.mark.parametrize("name", ["champion", "network.keras", RUN_URI, CHAMPION_URI, MODEL_URI])
def test_training_can_start_from_every_keras_model(name, names):
    model = training_runs.load_initial_network(parse_settings("train", {"initial_weights": name.format(**names)}))
    assert model.name == "loupe.q2.p3.side4.halo4.rec601"


@pytest.mark.parametrize("name", ["tiny", "ridge", "network.onnx", *(name for name in REFUSED if name)])
def test_training_refuses_to_start_from_anything_else(name, names):
    with pytest.raises(UsageError, match=r"^initial_weights: .*") as caught:
        training_runs.load_initial_network(parse_settings("train", {"initial_weights": name}))
    assert name in str(caught.value)


def registered(capsys, **given):
    """Run `register`; returns the line that it prints."""
    register.run(parse_settings("register", given))
    return capsys.readouterr().out.strip()


def get_aliases():
    """Return the champion of `loupe`, and the networks in the champion of `loupe-photo`."""
    client = mlflow.MlflowClient()
    photo = client.get_model_version_by_alias("loupe-photo", "champion")
    champion = models.get_champion(Fraction(3, 2))
    return champion and str(champion.version), photo.description


def test_a_model_that_was_registered_by_hand_becomes_champion_only_by_hand_and_is_rolled_back(trained, names, capsys):
    upscale_settings = parse_settings("upscale", {"inputs": "photo.png", "out": "large.png", "overwrite": True})
    printed = registered(capsys, run=MODEL_URI.format(**names))
    assert printed.startswith("models:/loupe/2: not champion: mae 0.0")
    assert "of loupe version 1 on 3 photos of sample-" in printed
    assert get_aliases()[0] == "1"
    assert registered(capsys, version=2).startswith("models:/loupe/2: champion: made champion by")
    version, networks = get_aliases()
    assert version == "2"
    assert "loupe version 2" in networks
    upscale.run(upscale_settings)
    assert (
        "models:/loupe@champion (version 2): made champion by `loupe register --version`" in capsys.readouterr().out
    )
    assert registered(capsys, rollback=True).startswith("models:/loupe/1: champion: rolled back")
    version, networks = get_aliases()
    assert version == "1"
    assert "loupe version 1" in networks
    assert (
        registered(capsys, rollback=True)
        == "models:/loupe: no champion: rolled back; upscale uses the bundled network"
    )
    version, networks = get_aliases()
    assert version is None
    assert "the bundled network of 3:2" in networks
    with pytest.raises(UsageError, match="rollback: must not be used without a champion, and loupe has none"):
        registered(capsys, rollback=True)
    with pytest.raises(UsageError, match="version: must be a version of loupe, got 7"):
        registered(capsys, version=7)
    # The alias in MLflow's web interface, of a version without an ONNX file.
    mine = mlflow.register_model(MODEL_URI.format(**names), "loupe")
    mlflow.MlflowClient().set_registered_model_alias("loupe", "champion", mine.version)
    with pytest.raises(
        UsageError, match="rollback: must follow a promotion by `loupe register`, got loupe version 3"
    ):
        registered(capsys, rollback=True)
    upscale.run(upscale_settings)
    assert "(version 3): not compared with another model by `loupe register`" in capsys.readouterr().out
    mlflow.MlflowClient().delete_logged_model(mine.source.removeprefix("models:/"))
    upscale.run(upscale_settings)
    streams = capsys.readouterr()
    assert "by the bundled network small of 3:2 (the champion cannot be used)" in streams.out
    assert "the model was deleted; the bundled network is used" in streams.err


@pytest.mark.parametrize("error_class", [UsageError, LoupeError])  # LoupeError: such as a full disk
def test_only_the_scale_factor_with_an_unusable_champion_has_this_reason(error_class, monkeypatch):
    def load(find, options):
        if not loaded:
            raise error_class("model: 'models:/loupe@champion' cannot be loaded")

    loaded = []
    monkeypatch.setattr(resolver, "has_store", lambda: True)
    monkeypatch.setattr(resolver, "_load_from_store", load)
    loader = resolver.ChampionLoader(resolver.ResolveOptions())
    for scale in (Fraction(3, 2), Fraction(2)):
        loaded.append(loader.load(scale).name)
    assert loaded == [
        "the bundled network small of 3:2 (the champion cannot be used)",
        "the bundled network small of 2:1 (no champion)",
    ]


def test_a_wrong_answer_of_the_store_is_a_failure_and_not_a_wrong_usage(monkeypatch):
    monkeypatch.setattr(models, "create_store", lambda: None)
    monkeypatch.setattr(mlflow.models, "get_model_info", lambda uri: [].get)
    with pytest.raises(LoupeError, match=f"model: '{CHAMPION_URI}' cannot be loaded: 'list' object has no") as caught:
        models.find_model(CHAMPION_URI)
    assert not isinstance(caught.value, UsageError)


# Clients of object stores raise errors that are neither MlflowException nor OSError.
@pytest.mark.parametrize("error_class", [mlflow.exceptions.MlflowException, RuntimeError])
@pytest.mark.parametrize(
    ("files", "expected"), [([], UsageError), (["data/model.keras"], LoupeError), (None, LoupeError)]
)
def test_a_failed_download_is_not_a_missing_file(files, expected, error_class, monkeypatch):
    def fail(*_, **__):
        raise error_class("no answer")

    def list_artifacts(artifact_uri):
        return fail() if files is None else [SimpleNamespace(path=file) for file in files]

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", fail)
    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", list_artifacts)
    with pytest.raises(LoupeError, match=r"^model: good cannot be loaded: (no answer|it does not contain)") as caught:
        models.load_keras(models.ModelReference("good", "models:/m-1"))
    assert type(caught.value) is expected


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_a_full_disk_or_memory_is_not_a_wrong_file(error, tmp_path, monkeypatch):
    def fail(file):
        raise error

    file = tmp_path / "network.keras"
    file.touch()
    monkeypatch.setattr("loupe.models.keras_file.load", fail)
    cause = "No space left on device" if str(error) else "MemoryError"
    with pytest.raises(LoupeError, match=rf"^model: good cannot be loaded: .*{cause}") as caught:
        models.load_keras(models.ModelReference("good", str(file)))
    assert not isinstance(caught.value, UsageError)


def test_the_error_for_a_deleted_model_names_the_model_once(monkeypatch):
    def fail(*_):
        raise mlflow.exceptions.MlflowException("", error_code=mlflow.protos.databricks_pb2.RESOURCE_DOES_NOT_EXIST)

    monkeypatch.setattr(models, "create_store", lambda: None)
    monkeypatch.setattr(mlflow.models, "get_model_info", lambda uri: SimpleNamespace(model_id="m-1"))
    monkeypatch.setattr(mlflow.MlflowClient, "get_logged_model", fail)
    with pytest.raises(UsageError, match=r"^model: models:/loupe/1 cannot be loaded: the model was deleted$"):
        models.find_model("models:/loupe/1")


def test_the_best_run_is_searched_among_comparable_runs_of_the_current_experiment(names, monkeypatch):
    client = mlflow.MlflowClient()

    def log(experiment, digest, mae, smoke="false", step="train"):
        tags = {"loupe.step": step, "loupe.scale": "3:1", "loupe.smoke": smoke, "loupe.digest": digest}
        run_id = client.create_run(experiment, tags=tags).info.run_id
        client.log_metric(run_id, "val/best_mae", mae)
        client.set_terminated(run_id)
        return run_id

    mine, other = (client.create_experiment(name) for name in ("mine", "other"))
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)  # the fixture `trained` may have set it for this test
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    rule = "run: must be a finished train run or trial of scale 3:1 in the experiment 'mine'.*"
    with pytest.raises(UsageError, match=f"{rule}`--include-smoke` also uses short tests$"):
        runs.find_best_run("3:1", include_smoke=False)
    with pytest.raises(UsageError, match=f"{rule}`loupe train` creates such a run$"):
        runs.find_best_run("3:1", include_smoke=True)
    log(mine, "easy photos", 0.01)
    best, deleted = log(mine, "photos", 0.03, step="trial"), log(mine, "photos", 0.02, step="trial")
    log(mine, "photos", 0.05)
    monkeypatch.setattr(logged_models, "find_model", lambda run_id: run_id != deleted)
    log(other, "photos", 0.02)
    log(mine, "photos", 0.001, smoke="true")
    assert runs.find_best_run("3:1", include_smoke=False).info.run_id == best
