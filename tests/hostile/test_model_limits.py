"""Model files that would run forever or take gigabytes are refused, within limits of memory and time."""

import io
import json
import signal
import subprocess
import sys
import time
import zipfile
from fractions import Fraction

import h5py
import numpy as np
import onnx
import psutil
import pytest
from jobs import build_env
from onnx import TensorProto, helper, numpy_helper
from peak_memory import measure_command

from loupe.errors import UsageError
from loupe.imaging.decoder import PhotoError
from loupe.imaging.memory import get_default_budget
from loupe.upscalers import isolated
from loupe.upscalers.isolated import IsolatedOnnxUpscaler, StoppedError
from loupe.upscalers.onnx_file import read_network, validate_network

NAME = "loupe.q1.p2.side4.halo4.rec601"
node = helper.make_node
# --- ONNX


def constant(name, values, dtype=np.int64):
    return numpy_helper.from_array(np.array(values, dtype), name)


def double(source="x"):
    """Return nodes that repeat a tensor to twice the size."""
    return [node("Concat", [source] * 2, ["wide"], axis=2), node("Concat", ["wide"] * 2, ["y"], axis=1)]


def build(nodes, weights=(), name=NAME, opset=15):
    image = helper.make_tensor_value_info("x", 1, [1, None, None, 1])
    graph = helper.make_graph(nodes, "g", [image], [helper.make_tensor_value_info("y", 1, None)], list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {"loupe": name})
    return model


def branch(*nodes, inputs=()):
    values = [helper.make_tensor_value_info(name, kind, []) for name, kind in inputs]
    return helper.make_graph(list(nodes), "b", values, [helper.make_tensor_value_info("o", 1, None)])


def add_to(message, field, value):
    getattr(message, field).append(value)
    return message


def refused_operators():
    """Return networks with operators that Loupe does not export."""
    size = constant("s", [1, 10**5, 10**5, 1])
    same = branch(node("Identity", ["x"], ["o"]))
    loop = [("i", 7), ("c", 9)]
    return {
        "Loop": build([node("Loop", ["m", "t"], ["y"], body=branch(inputs=loop))],
                      [constant("m", 2**62), constant("t", True, bool)]),
        "Scan": build([node("Scan", ["x"], ["y"], body=same, num_scan_inputs=1)]),
        "If": build([node("If", ["t"], ["y"], then_branch=same, else_branch=same)], [constant("t", True, bool)]),
        "Expand": build([node("Expand", ["x", "s"], ["y"])], [size]),
        "Tile": build([node("Tile", ["x", "s"], ["y"])], [size]),
        "Resize": build([node("Resize", ["x", "", "f"], ["y"])], [constant("f", [1, 1e4, 1e4, 1], "float32")]),
        "Range": build([node("Range", ["s", "s", "s"], ["y"])], [constant("s", 1)]),
        "Evil": build([node("Evil", ["x"], ["y"], domain="evil")]),
    }  # fmt: skip


def refused_parts():
    """Return networks with other parts than those of Loupe's exports."""
    function = helper.make_function(
        "", "Concat", ["a"], ["b"], [node("Identity", ["a"], ["b"])], [helper.make_opsetid("", 15)]
    )
    sparse = helper.make_sparse_tensor(constant("v", [1.0], "float32"), constant("w", [5]), [10**5, 10**5])
    hidden = node("Relu", ["x"], ["z"], body=branch(node("Identity", ["x"], ["o"])))
    sparse_graph = build(double())
    sparse_graph.graph.sparse_initializer.append(sparse)
    return {
        "function": add_to(build(double()), "functions", function),
        "sparse": sparse_graph,
        "hidden graph": build([hidden, *double()]),
        "huge tensor": build(double(), [TensorProto(name="w", data_type=1, dims=[10**5, 10**5])]),
        "negative tensor": build(double(), [TensorProto(name="w", data_type=1, dims=[-5])]),
        "short tensor": build(double(), [TensorProto(name="w", data_type=1, dims=[5], raw_data=b"1234")]),
        "empty tensor": build(double(), [TensorProto(name="w", data_type=1, dims=[2**40, 0])]),
        "short float16": build(double(), [TensorProto(name="w", data_type=10, dims=[5], raw_data=b"1234")]),
        "double": build(double(), [constant("w", [1], "float64")]),
        "texts": build(double(), [helper.make_tensor("w", TensorProto.STRING, [1], [b"a"])]),
        "no nodes": build([]),
        "too many nodes": build([node("Relu", ["x"], [f"r{number}"]) for number in range(6000)]),
    }


@pytest.mark.parametrize("kind", refused_operators())
def test_operators_that_are_not_exported_are_refused_before_a_session_is_made(kind, tmp_path):
    file = tmp_path / "net.onnx"
    file.write_bytes(refused_operators()[kind].SerializeToString())
    with pytest.raises(UsageError, match=f"must contain only operators that Loupe exports, got '.*{kind}'"):
        validate_network(file, read_network(file))


@pytest.mark.parametrize("kind", refused_parts())
def test_other_parts_of_onnx_are_refused_before_a_session_is_made(kind, tmp_path):
    file = tmp_path / "net.onnx"
    file.write_bytes(refused_parts()[kind].SerializeToString())
    with pytest.raises(UsageError, match="is not an ONNX network of Loupe: must "):
        validate_network(file, read_network(file))


def test_a_network_in_two_parts_is_checked_as_onnxruntime_reads_it(tmp_path):
    file = tmp_path / "net.onnx"
    other = onnx.ModelProto(graph=onnx.GraphProto(node=[node("Tile", ["x", "x"], ["z"])]))
    file.write_bytes(build(double()).SerializeToString() + other.SerializeToString())
    assert [each.op_type for each in onnx.load(file).graph.node] == ["Concat", "Concat", "Tile"]
    with pytest.raises(UsageError, match="got 'Tile'"):
        validate_network(file, read_network(file))


def allowed_operators():
    """Return networks whose operators are allowed, but that take too much memory."""
    fill, join = node("ConstantOfShape", ["s"], ["z"]), node("Concat", ["x", "z"], ["y"], axis=1)
    chain = [
        node("Concat", ["x" if not number else f"a{number - 1}"] * 16, [f"a{number}"], axis=1) for number in range(9)
    ]
    kernel = [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), node("Conv", ["t", "z"], ["y"], pads=[2000] * 4)]
    return {
        "5 GB": build([fill, join], [constant("s", [1, 40_000, 40_000, 1])]),
        "more than the machine": build([fill, join], [constant("s", [10**6] * 3)]),
        "joined 16 ** 9 times": build([*chain, node("Concat", ["a8"], ["y"], axis=1)]),
        "padding": build([node("Pad", ["x", "p"], ["y"])], [constant("p", [0] * 5 + [10**5, 10**5, 0])]),
        "kernel": build([fill, *kernel], [constant("s", [1, 1, 20_000, 20_000])]),
        "blocks": build([node("DepthToSpace", ["x"], ["y"], blocksize=10**9)]),
        "result": build(double(), name=NAME.replace("p2", "p9999")),
        "image": build(double(), name=NAME.replace("side4", "side9999")),
    }  # fmt: skip


@pytest.mark.parametrize("kind", allowed_operators())
def test_networks_that_take_too_much_memory_are_refused(kind, tmp_path):
    file = tmp_path / "net.onnx"
    file.write_bytes(allowed_operators()[kind].SerializeToString())
    with pytest.raises(UsageError, match=r"^model: [^\n]+$"):
        IsolatedOnnxUpscaler(file)


def grow_with_image():
    """Return a network that takes little memory for a small image and much for a large one."""
    nodes = [
        node("Shape", ["x"], ["sides"]),
        node("Gather", ["sides", "one"], ["side"]),
        node("Concat", ["side"] * 4, ["four"], axis=0),
        node("ReduceProd", ["four"], ["count"], keepdims=1),
        node("ConstantOfShape", ["count"], ["z"]),
        node("Gather", ["z", "zero"], ["first"]),
        node("Add", ["x", "first"], ["x1"]),
    ]
    return build([*nodes, *double("x1")], [constant("one", [1]), constant("zero", [0])])


def multiply(count, side):
    """Return a network that multiplies large matrices."""
    nodes = [node("ConstantOfShape", ["s"], ["m0"], value=constant("v", [0.001], "float32"))]
    nodes += [node("MatMul", [f"m{number}", "m0"], [f"m{number + 1}"]) for number in range(count)]
    return build([*nodes, *double()], [constant("s", [side, side])])


def test_a_network_that_takes_too_much_memory_for_a_tile_ends_with_an_error(tmp_path):
    file = tmp_path / "net.onnx"
    file.write_bytes(grow_with_image().SerializeToString())
    network = IsolatedOnnxUpscaler(file)
    file.unlink()  # as the file of a registered model
    for _ in range(2):
        assert network(np.zeros((2, 8, 8, 1), "float32")).shape == (2, 16, 16, 1)
        with pytest.raises(PhotoError, match=r"model: .* cannot") as raised:
            network(np.zeros((1, 250, 250, 1), "float32"))
        assert not isinstance(raised.value, StoppedError)


def test_an_image_is_upscaled_again_if_the_network_failed_for_another_image(tmp_path, monkeypatch):
    file = tmp_path / "net.onnx"
    file.write_bytes(build(double()).SerializeToString())
    network = IsolatedOnnxUpscaler(file)
    children = []

    def stop_first(child, *more):
        children.append(child)
        if len(children) == 1:
            child.stop()  # as another thread does after an error
        return IsolatedOnnxUpscaler._run(network, child, *more)

    monkeypatch.setattr(network, "_run", stop_first)
    assert network(np.zeros((1, 8, 8, 1), "float32")).shape == (1, 16, 16, 1)
    assert len(children) == 2


def test_an_image_is_upscaled_after_the_idle_child_was_killed(tmp_path):
    file = tmp_path / "net.onnx"
    file.write_bytes(build(double()).SerializeToString())
    network = IsolatedOnnxUpscaler(file)
    killed = network._child
    killed.process.kill()
    killed.process.wait()
    assert network(np.zeros((1, 8, 8, 1), "float32")).shape == (1, 16, 16, 1)
    error = network._describe_end(killed)  # of a thread that still waits for the killed child
    assert "onnxruntime crashed" in str(error)
    assert not isinstance(error, StoppedError)


def test_a_network_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    file = tmp_path / "net.onnx"
    file.write_bytes(multiply(2000, 2000).SerializeToString())
    monkeypatch.setattr(isolated, "LOADING_TIMEOUT_S", 1.0)
    with pytest.raises(UsageError, match="takes too long"):
        IsolatedOnnxUpscaler(file)


def test_results_are_those_in_the_own_process(tmp_path):
    from loupe.upscalers import bundled
    from loupe.upscalers.onnx import OnnxUpscaler

    file = bundled.find_file("small", Fraction(3, 2))
    network = IsolatedOnnxUpscaler(file)
    shape = (2, 64, 32, network.geometry.channels)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    assert network.geometry == OnnxUpscaler(file).geometry
    np.testing.assert_array_equal(network(images), OnnxUpscaler(file)(images))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_step_inside_a_network(number, status, tmp_path, photo):
    (tmp_path / "net.onnx").write_bytes(multiply(2000, 2000).SerializeToString())
    (tmp_path / "photo.png").write_bytes(photo)
    command = [sys.executable, "-m", "loupe", "upscale", "photo.png", "--out", "large.png", "--model", "net.onnx"]
    with subprocess.Popen(command, cwd=tmp_path, env=build_env(), stderr=subprocess.PIPE, text=True) as process:
        while not (children := find_children(process.pid)) and process.poll() is None:
            time.sleep(0.05)
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(30) == status, process.stderr.read()
        assert time.monotonic() - started < 5
    assert psutil.wait_procs(children, timeout=5)[1] == []


def find_children(pid):
    """Return the child processes of a process that has started to run a network."""
    try:
        return [
            child for child in psutil.Process(pid).children() if "loupe.upscalers.isolated:serve" in child.cmdline()
        ]
    except psutil.Error:
        return []


MEASURED = {
    "loop": lambda: refused_operators()["Loop"],
    "5 GB": lambda: allowed_operators()["5 GB"],
    "tile": grow_with_image,
    "time": lambda: multiply(4000, 3000),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MEASURED)
def test_upscale_keeps_to_its_limits(kind, tmp_path, photo):
    (tmp_path / "net.onnx").write_bytes(MEASURED[kind]().SerializeToString())
    (tmp_path / "photo.png").write_bytes(photo)
    command = [sys.executable, "-m", "loupe", "upscale", "photo.png", "--out", "large.png", "--model", "net.onnx"]
    done = measure_command(command, tmp_path, build_env())
    assert not done.killed
    assert done.peak_mb < get_default_budget() / 1e6 + 300
    assert done.seconds < 60
    assert done.stderr.count("\n") <= 1


# --- Keras


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The members of a valid .keras file."""
    from loupe.config import parse_settings
    from loupe.models import builder

    file = tmp_path_factory.mktemp("keras") / "good.keras"
    given = {"filters": 4, "layers": 1, "skip": "ridge", "condition": "jpeg"}
    builder.build(parse_settings("train", given), 10, "rec601").save(file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def find_layer(config, kind):
    return next(layer for layer in config["config"]["layers"] if layer["class_name"] == kind)


def widen(config, kind="Conv2D", **values):
    find_layer(config, kind)["config"].update(values)


def add_layer(config, kind, **values):
    config["config"]["layers"].append({"module": "keras.layers", "class_name": kind, "config": values, "name": "more",
                                       "inbound_nodes": []})  # fmt: skip


def rename(config, old, new):
    name = config["config"]["name"]
    assert old in name
    config["config"]["name"] = name.replace(old, new)


def double_channels(config, times):
    """Concatenate the image with itself repeatedly."""
    first = find_layer(config, "Concatenate")
    position = config["config"]["layers"].index(first)
    for number in range(times):
        layer = json.loads(json.dumps(first)) | {"name": f"double{number}"}
        for part in layer["inbound_nodes"][0]["args"][0]:
            part["config"]["keras_history"] = [f"double{number - 1}" if number else first["name"], 0, 0]
        config["config"]["layers"].insert(position + 1 + number, layer)


CONFIGS = {
    "channels": lambda config: double_channels(config, 40),
    "split": lambda config: widen(config, "Split", indices_or_sections=10**6),
    "axis of a split": lambda config: widen(config, "Split", axis=1),
    "axis of a mean": lambda config: widen(config, "Mean", axis=None),
    "shape of a mean": lambda config: widen(config, "Mean", keepdims=False),
    "axis of a concatenation": lambda config: widen(config, "Concatenate", axis=1),
    "channels of the image": lambda config: widen(config, "InputLayer", batch_shape=[None, None, None, 3]),
    "filters": lambda config: widen(config, filters=10**6),
    "negative filters": lambda config: widen(config, filters=-1),
    "fractions of filters": lambda config: widen(config, filters=1e6),
    "kernel": lambda config: widen(config, kernel_size=[10**5, 10**5]),
    "strides": lambda config: widen(config, strides=[2, 2]),
    "dilation": lambda config: widen(config, dilation_rate=[100, 100]),
    "padding": lambda config: widen(config, "Pad", pad_width=[[0, 0], [10**6] * 2, [10**6] * 2, [0, 0]]),
    "blocks": lambda config: widen(config, "DepthToSpace", block_size=10**6),
    "initializer": lambda config: widen(config, kernel_initializer={"class_name": "Orthogonal", "config": {}}),
    "activation": lambda config: widen(config, activation={"class_name": "Lambda", "config": {}}),
    "dtype": lambda config: widen(config, dtype="float64"),
    "declared input": lambda config: find_layer(config, "Conv2D").update(
        build_config={"input_shape": [None, None, None, 10**9]}
    ),
    "input": lambda config: widen(config, "InputLayer", batch_shape=[10**6, None, None, 1]),
    "nested network": lambda config: add_layer(config, "Functional", layers=[]),
    "Sequential": lambda config: config.update(class_name="Sequential"),
    "Embedding": lambda config: add_layer(config, "Embedding", input_dim=10**6, output_dim=10**6),
    "Lambda": lambda config: add_layer(config, "Lambda"),
    "many layers": lambda config: config["config"].update(layers=config["config"]["layers"] * 1000),
    "geometry": lambda config: config["config"].update(name="loupe.q1.p9999.side4.halo4.rec601"),
    "smaller scale factor in the name": lambda config: rename(config, "q2.p3", "q2.p2"),
    "larger scale factor in the name": lambda config: rename(config, "q2.p3", "q2.p4"),
    "result of another layer": lambda config: config["config"].update(
        output_layers=[find_layer(config, "SpaceToDepth")["name"], 0, 0]
    ),
    "two results": lambda config: config["config"].update(output_layers=[config["config"]["output_layers"]] * 2),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_networks_that_loupe_does_not_build_are_refused_before_they_are_built(kind, parts, tmp_path, monkeypatch):
    config = json.loads(parts["config.json"])
    CONFIGS[kind](config)
    check_refused(parts | {"config.json": json.dumps(config).encode()}, tmp_path, monkeypatch)


def check_refused(members, tmp_path, monkeypatch, compression=zipfile.ZIP_STORED):
    import keras

    from loupe.models import keras_file

    file = tmp_path / "net.keras"
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    monkeypatch.setattr(keras.saving, "load_model", None)  # must not be reached
    with pytest.raises((ValueError, UsageError), match="must"):
        keras_file.load(file)


def make_weights(parts, change):
    """Return a changed copy of the HDF5 file."""
    stream = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(stream, "r+") as weights:
        change(weights)
    return stream.getvalue()


def replace_weights(weights, **options):
    del weights["layers/conv2d/vars/0"]
    weights.create_dataset("layers/conv2d/vars/0", **options)


FIRST = "layers/conv2d/vars/0"
WEIGHTS = {
    "huge shape": lambda weights: replace_weights(weights, shape=(10**5, 10**5), dtype="f4"),
    "huge chunks": lambda weights: replace_weights(weights, shape=(10**6, 10**6), dtype="f4", chunks=(10, 10)),
    "compressed": lambda weights: replace_weights(weights, data=np.zeros(10**5, "f4"), compression="gzip"),
    "external file": lambda weights: replace_weights(
        weights, shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)]
    ),
    "objects": lambda weights: replace_weights(weights, data=["a"], dtype=h5py.string_dtype()),
    "doubles": lambda weights: replace_weights(weights, data=np.zeros(4, "f8")),
    "soft link": lambda weights: weights.__setitem__("layers/more", h5py.SoftLink("/layers")),
    "external link": lambda weights: weights.__setitem__("layers/more", h5py.ExternalLink("/etc/passwd", "/")),
    "loop of groups": lambda weights: weights.__setitem__("layers/more", weights["layers"]),
    "more weights": lambda weights: weights.create_dataset("layers/more", data=np.zeros(10, "f4")),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_hostile_weights_are_refused_before_keras_reads_them(kind, parts, tmp_path, monkeypatch):
    check_refused(parts | {"model.weights.h5": make_weights(parts, WEIGHTS[kind])}, tmp_path, monkeypatch)


def test_compressed_archives_are_refused(parts, tmp_path, monkeypatch):
    bomb = parts | {"model.weights.h5": bytes(10**7)}
    check_refused(bomb, tmp_path, monkeypatch, zipfile.ZIP_DEFLATED)


def test_the_result_for_a_large_batch_is_that_of_single_images(parts, tmp_path, monkeypatch):
    from loupe.models import builder, keras_file

    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 2)).astype("float32")
    network = builder.KerasUpscaler(keras_file.load(tmp_path / "net.keras"))
    expected = network(images)
    monkeypatch.setattr(builder, "MAX_UNSPLIT_PIXELS", 0)
    monkeypatch.setattr(builder, "MAX_CALL_BYTES", 1)
    np.testing.assert_allclose(network(images), expected, atol=1e-6)
