"""Models, checkpoints and ridges that hold code: refused in a line, by every step that takes one, and never run."""

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

NAME = "loupe.q1.p2.side4.halo4.rec601"


class Payload:
    """What writes to a file where it is unpickled."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    """A path that nothing may make; it is looked at after every test."""
    return tmp_path_factory.mktemp("nest") / "canary"


@pytest.fixture(autouse=True)
def unharmed(canary):
    yield
    assert not canary.exists()


# --- ONNX


def save_onnx(file, nodes=("Concat",), inputs=((1, [1, None, None, 1]),), more=(), name=NAME):
    """A network that lays its input beside itself, twice: 1:2 as it should be; or what is asked for instead."""
    given = [helper.make_tensor_value_info(f"x{number}", *of) for number, of in enumerate(inputs)]
    wide = helper.make_node("Concat", ["x0", "x0"], ["wide"], axis=2)
    high = helper.make_node("Concat", ["wide", "wide"], ["y"], axis=1)
    made = [wide, high] if nodes == ("Concat",) else list(nodes)
    graph = helper.make_graph(made, "g", given, [helper.make_tensor_value_info("y", 1, None)], list(more))
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(network, {"loupe": name})
    file.write_bytes(network.SerializeToString())


def weights_elsewhere(place):
    found = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", place), ("offset", "0"), ("length", "16")):
        found.external_data.add(key=key, value=value)
    return found


def adding(place):
    return {
        "nodes": [helper.make_node("ReduceSum", ["w"], ["s"]), helper.make_node("Add", ["x0", "s"], ["y"])],
        "more": [weights_elsewhere(place)],
    }


def filling(*shape):
    sides = onnx.numpy_helper.from_array(np.array(shape), "shape")
    return {"nodes": [helper.make_node("ConstantOfShape", ["shape"], ["y"])], "more": [sides]}


ONNX = {
    "weights in a file of the system": (adding("/etc/passwd"), "is not an ONNX network: .*[Ee]xternal data"),
    "weights above": (adding("../outside/secret.txt"), "is not an ONNX network: .*[Ee]xternal data path"),
    "weights behind a link": (adding("link"), "is not an ONNX network: .*[Ee]xternal data path"),
    "another input": ({"inputs": [(7, [1, None, None, 1])]}, "Type Error"),
    "two inputs, one of another kind": ({"inputs": [(1, [1, None, None, 1]), (7, [1])]}, "must take grey images: "),
    "colour": ({"inputs": [(1, [1, None, None, 3])]}, "must take grey images: "),
    "no input": (filling(1, 2) | {"inputs": []}, "must return float32"),
    "a result of another size": ({"nodes": [helper.make_node("Relu", ["x0"], ["y"])]}, "must return float32"),
    "a result that fills any memory": (filling(10**6, 10**6, 10**6), "must take grey images: "),
    "an unknown operation": (
        {"nodes": [helper.make_node("Evil", ["x0"], ["y"], domain="evil")]},
        "is not an ONNX network",
    ),
    "another program's name": ({"name": "model"}, "must be made by Loupe, got 'model'"),
    "impossible numbers": ({"name": "loupe.q0.p0.side0.halo0.rec601"}, "must have 0 < q < p"),
}


@pytest.mark.parametrize("what", ONNX)
def test_an_onnx_file_that_is_no_such_network_is_refused(what, work, refused, surroundings, photo):
    given, why = ONNX[what]
    (work / "link").symlink_to(surroundings / "secret.txt")
    (work / "photo.png").write_bytes(photo)
    save_onnx(work / "net.onnx", **given)
    said = refused("upscale", "photo.png", "--out", "large.png", "--model", "net.onnx")
    assert re.search(f"model: .*{why}", said)
    assert "secret" not in said.replace("secret.txt", "")


@pytest.mark.parametrize("content", [b"", b"no network", bytes(1000), pickle.dumps(Payload("unharmed"))])
def test_garbage_is_no_onnx_network(content, work, refused, photo):
    (work / "photo.png").write_bytes(photo)
    (work / "net.onnx").write_bytes(content)
    said = refused("upscale", "photo.png", "--out", "large.png", "--model", "net.onnx")
    assert "model: 'net.onnx' is not an ONNX network: " in said


def test_a_network_of_that_kind_is_taken(work, photo):
    (work / "photo.png").write_bytes(photo)
    save_onnx(work / "net.onnx")
    loupe("upscale", "photo.png", "--out", "large.png", "--model", "net.onnx", cwd=work)
    assert (work / "large.png").exists()


# --- Keras


def network(*layers, name=NAME, shape=(None, None, 1)):
    import keras

    image = large = keras.Input(shape)
    for layer in (*layers, keras.layers.UpSampling2D()) if len(shape) == 3 else layers:
        large = layer(large)
    return keras.Model(image, large, name=name)


def lambda_of(canary):
    """A layer whose function makes the canary, once it is called."""
    import keras

    place = str(canary)
    return keras.layers.Lambda(lambda image: (__import__("os").makedirs(place, exist_ok=True), image)[1])


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory, canary):
    """Name -> a .keras file, good or made to do harm."""
    import keras

    folder = tmp_path_factory.mktemp("keras")
    network().save(folder / "good.keras")
    harmful = network(lambda_of(canary))
    harmful.save(folder / "lambda.keras")
    harmful.save(folder / "lambda.h5")
    (folder / "h5.keras").write_bytes((folder / "lambda.h5").read_bytes())
    canary.rmdir()  # building a network calls its layers
    network(keras.layers.Dense(3), shape=(4,)).save(folder / "vector.keras")
    network(name="other").save(folder / "other.keras")
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
    "outside.keras": r"must contain only the parts of a network, got '\.\./\.\./canary'",
    "assets.keras": r"must contain only the parts of a network, got 'assets/\.\./\.\./\.\./canary'",
    "module.keras": "",
    "deep.keras": "",
    "cut.keras": "",
}


@pytest.mark.parametrize("name", KERAS)
def test_a_keras_file_that_holds_anything_but_a_network_is_refused(name, keras_files):
    from loupe.tracking.models import ModelReference, load_keras

    with pytest.raises(UsageError, match=f"model: {name} cannot be loaded: .*{KERAS[name]}") as caught:
        load_keras(ModelReference(name, str(keras_files / name)))
    assert "\n" not in str(caught.value)


def test_a_keras_file_that_unpacks_to_more_than_any_network_is_refused(keras_files, monkeypatch):
    from loupe.models import keras_file
    from loupe.tracking import models

    monkeypatch.setattr(keras_file, "MAX_BYTES", 1000)
    with pytest.raises(
        UsageError, match=r"model: good cannot be loaded: must have at most 1000 bytes uncompressed, got [0-9]+"
    ):
        models.load_keras(models.ModelReference("good", str(keras_files / "good.keras")))


def test_the_harm_is_done_where_it_is_let(keras_files, canary, tmp_path):
    import keras

    np.save(tmp_path / "objects.npy", np.array([Payload(canary)], dtype=object), allow_pickle=True)
    for load in (
        lambda: keras.saving.load_model(keras_files / "lambda.keras", compile=False, safe_mode=False),
        lambda: np.load(tmp_path / "objects.npy", allow_pickle=True),
    ):
        load()
        assert canary.is_dir()
        canary.rmdir()


def test_a_network_is_loaded(keras_files):
    from loupe.tracking.models import ModelReference, load_keras

    assert load_keras(ModelReference("good", str(keras_files / "good.keras"))).name == NAME


# --- the registry, and runs


@pytest.fixture(scope="module")
def kept(tmp_path_factory, keras_files, canary, photo):
    """A folder with a store whose models are made to do harm, and a small dataset."""
    import keras

    folder = tmp_path_factory.mktemp("kept")
    (folder / "photos").mkdir()
    for number in range(6):
        (folder / "photos" / f"{number}.png").write_bytes(photo + bytes(number))
    loupe("preprocess", "--source", "photos", "--label_size", "30", "--quiet", cwd=folder)
    # imported by those that take MLflow's word for which module a model needs
    (folder / "harm.py").write_text(f"import os\nos.makedirs({str(canary)!r})\n")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.get_experiment_by_name("loupe").experiment_id
    given = {"pip_requirements": ["keras"], "name": "model"}
    schema = mlflow.types.Schema([mlflow.types.TensorSpec(np.dtype("float32"), (-1, -1, -1, 1))])
    images = mlflow.models.ModelSignature(schema, schema)
    good, harmful = network(), network(lambda_of(canary))
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
        if name == "pickles":  # and a module to import
            place = Path(mlflow.artifacts.download_artifacts(logged.model_uri))
            (place / "data" / "keras_module.txt").write_text("harm")
    mlflow.set_tracking_uri(before)
    keras.backend.clear_session()
    shutil.rmtree(canary, ignore_errors=True)  # building a network calls its layers
    return folder, runs


class Predictor(mlflow.pyfunc.PythonModel):
    """A model that is pickled as it stands."""

    def __init__(self, canary):
        self.payload = Payload(canary)

    def predict(self, context, model_input, params=None):
        return model_input


VERSIONS = {"lambda": 1, "pickles": 2, "graph": 3, "pyfunc": 4}


def complaint(folder, *arguments, status=2):
    """The one line with which a command in the store's folder ends."""
    done = loupe(*arguments, cwd=folder, status=status)
    # but for the bar, and what TensorFlow prints wherever there is no GPU
    lines = [line for line in done.stderr.splitlines() if not re.search("━|^WARNING: All log|^[IWE]0000", line)]
    assert len(lines) == 1, done.stderr
    assert done.stdout == ""
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "why"), [("lambda", "[Ll]ambda"), ("graph", "no data/model.keras"), ("pyfunc", "no data/model.keras")]
)
def test_evaluate_refuses_a_registered_model_that_holds_code(name, why, kept):
    uri = f"models:/loupe/{VERSIONS[name]}"
    said = complaint(kept[0], "evaluate", "--model", uri, "--photos", "photos", "--label_size", "30")
    assert re.search(rf"loupe evaluate: error: model: {name} \({uri}\) cannot be loaded: .*{why}", said)


@pytest.mark.slow
def test_what_is_pickled_beside_a_network_is_not_looked_at(kept):
    from loupe.tracking.models import ModelReference, load_keras

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{kept[0]}/mlflow.db")
    try:
        assert load_keras(ModelReference("pickles", f"models:/loupe/{VERSIONS['pickles']}")).name == NAME
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lambda", "pyfunc"])
def test_upscale_takes_no_registered_model_but_its_onnx_file(name, kept):
    uri = f"models:/loupe/{VERSIONS[name]}"
    said = complaint(kept[0], "upscale", "photos", "--out", "large", "--model", uri)
    assert f"model: {name} ({uri}) has no ONNX network beside it; register its run" in said
    assert not (kept[0] / "large").exists()


@pytest.mark.slow
def test_train_starts_from_no_network_that_holds_code(kept, keras_files):
    dataset = next((kept[0] / "data").glob("photos-*")).name
    said = complaint(kept[0], "train", "--smoke", "--dataset", dataset, "--crop", "8",
                     "--start", keras_files / "lambda.keras")  # fmt: skip
    assert re.search(r"loupe train: error: model: .*lambda\.keras cannot be loaded: .*[Ll]ambda", said)


def a_train_run(kept, run_id, status):
    """Make a run one of `train` on the small dataset."""
    dataset = next((kept[0] / "data").glob("photos-*")).name
    client = open_store(kept[0])
    given = parse_settings("train", {"dataset": dataset, "smoke": True, "crop": 8, "quiet": True}).to_texts()
    tags = {"step": "train", "settings": json.dumps(given), "dataset": dataset, "digest": dataset.split("-")[-1]}
    for name, value in tags.items():
        client.set_tag(run_id, f"loupe.{name}", value)
    client.set_terminated(run_id, status)
    return client


@pytest.mark.slow
def test_register_takes_no_network_that_holds_code(kept):
    run_id = kept[1]["lambda"]
    client = a_train_run(kept, run_id, "FINISHED")
    versions = len(client.search_model_versions("name = 'loupe'"))
    said = complaint(kept[0], "register", "--run", run_id)
    assert re.search(rf"loupe register: error: model: {run_id} cannot be loaded: .*[Ll]ambda", said)
    assert len(client.search_model_versions("name = 'loupe'")) == versions


PICKLED = {
    "objects": lambda canary: {"progress": np.array([Payload(canary)], dtype=object)},
    "another network": lambda canary: {"progress": np.array(json.dumps({"step": 1})), "weights/0": np.zeros(3)},
    "nothing": lambda canary: {"x": np.zeros(3)},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "status", "why"),
    [
        ("objects", 2, "the checkpoint of run {} cannot be read: .*allow_pickle"),
        ("another network", 1, "the checkpoint is of another network"),
        ("nothing", 1, "must be a checkpoint of a training"),
    ],
)
def test_train_resumes_from_no_checkpoint_that_holds_anything_but_numbers(name, status, why, kept, canary, tmp_path):
    run_id = kept[1]["pyfunc"]
    client = a_train_run(kept, run_id, "KILLED")
    np.savez(tmp_path / "1.npz", allow_pickle=True, **PICKLED[name](canary))
    client.log_artifact(run_id, str(tmp_path / "1.npz"), "checkpoint")
    client.set_tag(run_id, "loupe.checkpoint", "checkpoint/1.npz")
    said = complaint(kept[0], "train", "--resume", run_id, status=status)
    assert re.search(f"loupe train: error: resume: {why.format(run_id)}", said)


@pytest.mark.slow
def test_a_ridge_that_holds_anything_but_its_numbers_is_refused(kept, canary):
    folder = next((kept[0] / "data").glob("photos-*"))
    file = folder / "ridge-3x2.npy"
    for content in (np.array([Payload(canary)], dtype=object), np.zeros((3, 3), "float32")):
        np.save(file, content, allow_pickle=True)
        said = complaint(kept[0], "train", "--smoke", "--dataset", folder.name, "--network", "ridge", status=1)
        assert (
            f"loupe train: error: ridge: '{Path('data') / folder.name / file.name}' is not a ridge of 3:2: " in said
        )
    file.unlink()
