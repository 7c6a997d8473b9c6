"""Models, checkpoints and ridge files with code are refused in one line by every step, and the code never runs."""

import json
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import onnx
import pytest
from jobs import loupe, open_store
from onnx import TensorProto, helper

from loupe.config import parse_settings
from loupe.errors import UsageError

pytestmark = pytest.mark.xdist_group("model files")  # one process: the tests share a store
NAME = "loupe.q1.p2.side4.halo4.rec601"


class Payload:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    """A path that must not exist after any test."""
    return tmp_path_factory.mktemp("nest") / "canary"


@pytest.fixture(autouse=True)
def check_canary(canary):
    yield
    assert not canary.exists()


# --- ONNX


def save_onnx(file, nodes=("Concat",), inputs=((1, [1, None, None, 1]),), more=(), name=NAME):
    """Write an ONNX network that repeats its input to twice the size, or has these parts instead."""
    values = [helper.make_tensor_value_info(f"x{number}", *of) for number, of in enumerate(inputs)]
    wide = helper.make_node("Concat", ["x0", "x0"], ["wide"], axis=2)
    high = helper.make_node("Concat", ["wide", "wide"], ["y"], axis=1)
    made = [wide, high] if nodes == ("Concat",) else list(nodes)
    graph = helper.make_graph(made, "g", values, [helper.make_tensor_value_info("y", 1, None)], list(more))
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(network, {"loupe": name})
    file.write_bytes(network.SerializeToString())


def make_external_weights(place):
    found = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", place), ("offset", "0"), ("length", "16")):
        found.external_data.add(key=key, value=value)
    return found


def add_weights(place):
    return {
        "nodes": [helper.make_node("Relu", ["w"], ["s"]), helper.make_node("Add", ["x0", "s"], ["y"])],
        "more": [make_external_weights(place)],
    }


def fill_shape(*shape):
    sides = onnx.numpy_helper.from_array(np.array(shape), "shape")
    return {"nodes": [helper.make_node("ConstantOfShape", ["shape"], ["y"])], "more": [sides]}


ONNX = {
    "weights in a system file": (add_weights("/etc/passwd"), "is not an ONNX network of Loupe: .*got field 13"),
    "weights in a parent folder": (
        add_weights("../outside/secret.txt"),
        "is not an ONNX network of Loupe: .*got field 13",
    ),
    "weights through a link": (add_weights("link"), "is not an ONNX network of Loupe: .*got field 13"),
    "weights without a file": (
        {"more": [TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)]},
        "must contain the values of the tensor 'w', got a reference to another file",
    ),
    "input of another type": ({"inputs": [(7, [1, None, None, 1])]}, "Type Error"),
    "two inputs of different types": ({"inputs": [(1, [1, None, None, 1]), (7, [1])]}, "must take float32 "),
    "colour": ({"inputs": [(1, [1, None, None, 3])]}, "must take float32 "),
    "no input": (fill_shape(1, 2) | {"inputs": []}, "must return float32"),
    "output of another size": ({"nodes": [helper.make_node("Relu", ["x0"], ["y"])]}, "must return float32"),
    "output larger than the memory": (fill_shape(10**6, 10**6, 10**6), "must take float32 "),
    "an unknown operation": (
        {"nodes": [helper.make_node("Evil", ["x0"], ["y"], domain="evil")]},
        "is not an ONNX network",
    ),
    "another program's name": ({"name": "model"}, "must be made by Loupe, got a model with the name 'model'"),
    "impossible numbers": ({"name": "loupe.q0.p0.side0.halo0.rec601"}, "must have 0 < q <= p"),
}


@pytest.mark.parametrize("name", ONNX)
def test_invalid_onnx_network_is_refused(name, work, refuse, surroundings, photo):
    arguments, reason = ONNX[name]
    (work / "link").symlink_to(surroundings / "secret.txt")
    (work / "photo.png").write_bytes(photo)
    save_onnx(work / "net.onnx", **arguments)
    error = refuse("upscale", "photo.png", "--out", "large.png", "--model", "net.onnx")
    assert re.search(f"model: .*{reason}", error)
    assert "secret" not in error.replace("secret.txt", "")


@pytest.mark.parametrize("content", [b"", b"no network", bytes(1000), pickle.dumps(Payload("unharmed"))])
def test_file_that_is_not_onnx_is_refused(content, work, refuse, photo):
    (work / "photo.png").write_bytes(photo)
    (work / "net.onnx").write_bytes(content)
    error = refuse("upscale", "photo.png", "--out", "large.png", "--model", "net.onnx")
    assert "model: 'net.onnx' is not an ONNX network of Loupe: " in error


def test_valid_onnx_network_is_used(work, photo):
    (work / "photo.png").write_bytes(photo)
    save_onnx(work / "net.onnx")
    loupe("upscale", "photo.png", "--out", "large.png", "--model", "net.onnx", cwd=work)
    assert (work / "large.png").exists()


# --- Keras


def build_network(*layers, name=NAME, shape=(None, None, 1)):
    import keras

    image = large = keras.Input(shape)
    for layer in (*layers, keras.layers.Conv2D(4, 1)) if len(shape) == 3 else layers:
        large = layer(large)
    if len(shape) == 3:
        large = keras.ops.depth_to_space(large, 2)
    return keras.Model(image, large, name=name)


def make_lambda(canary):
    """Return a layer that creates the canary when it is called."""
    import keras

    place = str(canary)
    return keras.layers.Lambda(lambda image: (__import__("os").makedirs(place, exist_ok=True), image)[1])


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory, canary):
    """A folder of valid and hostile .keras files."""
    import keras

    folder = tmp_path_factory.mktemp("keras")
    build_network().save(folder / "good.keras")
    harmful = build_network(make_lambda(canary))
    harmful.save(folder / "lambda.keras")
    harmful.save(folder / "lambda.h5")
    (folder / "h5.keras").write_bytes((folder / "lambda.h5").read_bytes())
    canary.rmdir()  # Keras calls the layers when it builds a network
    build_network(keras.layers.Dense(3), shape=(4,)).save(folder / "vector.keras")
    build_network(name="other").save(folder / "other.keras")
    (folder / "pickle.keras").write_bytes(pickle.dumps(Payload(canary)))
    (folder / "empty.keras").write_bytes(b"")
    good = zipfile.ZipFile(folder / "good.keras")
    parts = {name: good.read(name) for name in good.namelist()}
    calls = b'{"module": "os", "class_name": "mkdir", "config": {"path": "%s"}, "registered_name": null}'
    changed = {
        "outside.keras": parts | {"../../canary": b"x"},
        "assets.keras": parts | {"assets/../../../canary": b"x"},
        "module.keras": parts | {"config.json": calls % str(canary).encode()},
        "deep.keras": parts | {"config.json": b'{"config":' * 100_000 + b"1" + b"}" * 100_000},
        "cut.keras": parts | {"model.weights.h5": parts["model.weights.h5"][:500]},
    }
    for name, members in changed.items():
        with zipfile.ZipFile(folder / name, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    return folder


KERAS = {
    "lambda.keras": "[Ll]ambda",
    "lambda.h5": "must be a .keras file",
    "h5.keras": "not a zip file",
    "vector.keras": r"must take grey images, \(n, h, w, 1\)",
    "pickle.keras": "not a zip file",
    "empty.keras": "not a zip file",
    "outside.keras": r"must contain only metadata.json, .*, got '\.\./\.\./canary'",
    "assets.keras": r"must contain only metadata.json, .*, got 'assets/\.\./\.\./\.\./canary'",
    "module.keras": "",
    "deep.keras": "",
    "cut.keras": "",
}


@pytest.mark.parametrize("name", KERAS)
def test_hostile_keras_file_is_refused(name, keras_files):
    from loupe.tracking.models import ModelReference, load_keras

    with pytest.raises(UsageError, match=f"model: {name} cannot be loaded: .*{KERAS[name]}") as caught:
        load_keras(ModelReference(name, str(keras_files / name)))
    assert "\n" not in str(caught.value)


def test_keras_file_with_too_large_contents_is_refused(keras_files, monkeypatch):
    from loupe.models import keras_file
    from loupe.tracking import models

    monkeypatch.setitem(keras_file.MAX_BYTES, "config.json", 1000)
    with pytest.raises(
        UsageError, match=r"model: good cannot be loaded: must have at most 1000 bytes in config.json, got [0-9]+"
    ):
        models.load_keras(models.ModelReference("good", str(keras_files / "good.keras")))


def test_hostile_files_run_code_without_the_safe_loaders(keras_files, canary, tmp_path):
    import keras

    np.save(tmp_path / "objects.npy", np.array([Payload(canary)], dtype=object), allow_pickle=True)
    for load in (
        lambda: keras.saving.load_model(keras_files / "lambda.keras", compile=False, safe_mode=False),
        lambda: np.load(tmp_path / "objects.npy", allow_pickle=True),
    ):
        load()
        assert canary.is_dir()
        canary.rmdir()


def test_valid_keras_network_is_loaded(keras_files):
    from loupe.tracking.models import ModelReference, load_keras

    assert load_keras(ModelReference("good", str(keras_files / "good.keras"))).name == NAME


# --- Registry and runs


@pytest.fixture(scope="module")
def hostile_store(tmp_path_factory, keras_files, canary, real_crop):
    """A folder with a small dataset and a store of hostile models, and the ids of their runs."""
    import keras

    folder = tmp_path_factory.mktemp("hostile_store")
    (folder / "photos").mkdir()
    for number in range(6):
        real_crop("coffee.png", 64 * number, 60, 64, 48).save(folder / "photos" / f"{number}.png")
    loupe("preprocess", "--source", "photos", "--label_size", "30", "--quiet", cwd=folder)
    # MLflow would import the module that keras_module.txt names.
    (folder / "hostile.py").write_text(f"import os\nos.makedirs({str(canary)!r})\n")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.get_experiment_by_name("loupe").experiment_id
    given = {"pip_requirements": ["keras"], "name": "model"}
    schema = mlflow.types.Schema([mlflow.types.TensorSpec(np.dtype("float32"), (-1, -1, -1, 1))])
    images = mlflow.models.ModelSignature(schema, schema)
    good, harmful = build_network(), build_network(make_lambda(canary))
    log = {
        "lambda": lambda: mlflow.keras.log_model(harmful, **given),
        "pickles": lambda: mlflow.tensorflow.log_model(good, custom_objects={"x": Payload(canary)}, **given),
        "graph": lambda: mlflow.keras.log_model(good, save_exported_model=True, signature=images, **given),
        "pyfunc": lambda: mlflow.pyfunc.log_model(python_model=Predictor(canary), **given),
    }
    runs = {}
    for name, make in log.items():
        with mlflow.start_run(experiment_id=experiment, run_name=name) as run:
            logged = make()
        runs[name] = run.info.run_id
        mlflow.register_model(logged.model_uri, "loupe")
        if name == "pickles":
            place = Path(mlflow.artifacts.download_artifacts(logged.model_uri))
            (place / "data" / "keras_module.txt").write_text("hostile")
    mlflow.set_tracking_uri(before)
    keras.backend.clear_session()
    shutil.rmtree(canary, ignore_errors=True)  # Keras calls the layers when it builds a network
    return folder, runs


class Predictor(mlflow.pyfunc.PythonModel):
    """A model that MLflow pickles."""

    def __init__(self, canary):
        self.payload = Payload(canary)

    def predict(self, context, model_input, params=None):
        return model_input


VERSIONS = {"lambda": 1, "pickles": 2, "graph": 3, "pyfunc": 4}


def run_step(folder, *arguments, status=2):
    """Run a step in a folder; returns its only line of output, an error message."""
    done = loupe(*arguments, cwd=folder, status=status)
    # Ignore progress bars and the messages of TensorFlow on a machine without a GPU.
    lines = [line for line in done.stderr.splitlines() if not re.search("━|^WARNING: All log|^[IWE]0000", line)]
    assert len(lines) == 1, done.stderr
    assert done.stdout == ""
    return lines[0]


STEPS = {
    "evaluate": ("--photos", "photos", "--label_size", "30"),
    "upscale": ("photos", "--out", "large"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [("lambda", "[Ll]ambda"), ("graph", "not contain data/model.keras"), ("pyfunc", "not contain data/model.keras")],
)
def test_registered_model_with_code_is_refused(step, name, reason, hostile_store):
    uri = f"models:/loupe/{VERSIONS[name]}"
    error = run_step(hostile_store[0], step, "--model", uri, *STEPS[step])
    assert re.search(rf"loupe {step}: error: model: {name} \({uri}\) cannot be loaded: .*{reason}", error)
    assert not (hostile_store[0] / "large").exists()


def test_pickles_next_to_a_network_are_not_read(hostile_store):
    from loupe.tracking.models import ModelReference, load_keras

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{hostile_store[0]}/mlflow.db")
    try:
        assert load_keras(ModelReference("pickles", f"models:/loupe/{VERSIONS['pickles']}")).name == NAME
    finally:
        mlflow.set_tracking_uri(before)


def test_train_refuses_to_start_from_a_network_with_code(hostile_store, keras_files):
    dataset = next((hostile_store[0] / "data").glob("photos-*")).name
    error = run_step(hostile_store[0], "train", "--smoke", "--dataset", dataset, "--crop-size", "8",
                     "--initial-weights", keras_files / "lambda.keras")  # fmt: skip
    assert re.search(r"loupe train: error: initial_weights: .*lambda\.keras cannot be loaded: .*[Ll]ambda", error)


def make_train_run(hostile_store, run_id, status):
    """Tag a run as one of `train` on the small dataset; returns the client of the store."""
    dataset = next((hostile_store[0] / "data").glob("photos-*")).name
    client = open_store(hostile_store[0])
    given = parse_settings("train", {"dataset": dataset, "smoke": True, "crop_size": 8, "quiet": True}).to_texts()
    tags = {"step": "train", "settings": json.dumps(given), "dataset": dataset, "digest": dataset.split("-")[-1]}
    for name, value in tags.items():
        client.set_tag(run_id, f"loupe.{name}", value)
    client.set_terminated(run_id, status)
    return client


def test_register_refuses_a_network_with_code(hostile_store):
    run_id = hostile_store[1]["lambda"]
    client = make_train_run(hostile_store, run_id, "FINISHED")
    versions = len(client.search_model_versions("name = 'loupe'"))
    error = run_step(hostile_store[0], "register", "--run", run_id)
    assert re.search(rf"loupe register: error: model: .* \({run_id}\) cannot be loaded: .*[Ll]ambda", error)
    assert len(client.search_model_versions("name = 'loupe'")) == versions


CHECKPOINTS = {
    "objects": lambda canary: {"progress": np.array([Payload(canary)], dtype=object)},
    "another network": lambda canary: {"progress": np.array(json.dumps({"step": 1})), "weights/0": np.zeros(3)},
    "nothing": lambda canary: {"x": np.zeros(3)},
}


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("objects", 2, "the checkpoint of run {} cannot be read: .*allow_pickle"),
        ("another network", 1, "must be a checkpoint of this network"),
        ("nothing", 1, "must be a checkpoint of a training"),
    ],
)
def test_train_refuses_to_resume_from_a_hostile_checkpoint(name, status, reason, hostile_store, canary, tmp_path):
    run_id = hostile_store[1]["pyfunc"]
    client = make_train_run(hostile_store, run_id, "KILLED")
    np.savez(tmp_path / "1.npz", allow_pickle=True, **CHECKPOINTS[name](canary))
    client.log_artifact(run_id, str(tmp_path / "1.npz"), "checkpoint")
    client.set_tag(run_id, "loupe.checkpoint", "checkpoint/1.npz")
    error = run_step(hostile_store[0], "train", "--resume", run_id, status=status)
    assert re.search(f"loupe train: error: resume: {reason.format(run_id)}", error)


def test_hostile_ridge_file_is_refused(hostile_store, canary):
    folder = next((hostile_store[0] / "data").glob("photos-*"))
    file = folder / f"ridge-3x2-{folder.name.rpartition('-')[2]}.npy"
    for content in (np.array([Payload(canary)], dtype=object), np.zeros((3, 3), "float32")):
        np.save(file, content, allow_pickle=True)
        error = run_step(
            hostile_store[0], "train", "--smoke", "--dataset", folder.name, "--network", "ridge", status=1
        )
        assert (
            f"loupe train: error: ridge: '{Path('data') / folder.name / file.name}' is not a ridge of 3:2: " in error
        )
    file.unlink()
