"""Exported networks give the results of Keras, without the copies that tf2onnx makes for padding."""

from collections import Counter
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest

from loupe.config import parse_settings
from loupe.models import builder, onnx_export
from loupe.models.builder import KerasUpscaler
from loupe.models.onnx_export import export
from loupe.upscalers.onnx import OnnxUpscaler
from loupe.upscalers.tiling import upscale

LAYERS = 2


@pytest.mark.parametrize("scale", ["1:1", "3:2", "2:1", "3:1", "4:1"])
def test_an_exported_network_gives_the_same_result_with_one_padding_node_per_layer(
    scale: str, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(0)
    given = {"network": "convolutional", "filters": 8, "layers": LAYERS, "skip": "none", "scale": scale}
    settings = parse_settings("train", given)
    model = builder.build(settings, 32, "rec601")
    assert export(model, builder.compute_geometry(settings, 32, "rec601"), tmp_path / "model.onnx") <= 1e-5
    nodes = Counter(node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node)
    assert nodes["Pad"] == nodes["Conv"] - LAYERS - 1  # 1x1 convolutions, one per layer and the last, have no padding
    assert nodes["Compress"] == 0
    image = np.random.default_rng(0).uniform(-1, 1, (1, 38, 51, 1)).astype("float32")
    found = upscale(OnnxUpscaler(tmp_path / "model.onnx"), image)
    assert found.shape[1] == 38 * settings.scale
    np.testing.assert_allclose(found, upscale(KerasUpscaler(model), image), atol=1e-5)


def test_an_export_that_differs_from_the_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loupe.errors import LoupeError

    def twice_the_weights(network: onnx.ModelProto) -> onnx.ModelProto:
        for part in network.graph.initializer:
            if len(part.dims) == 4:
                part.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(part), part.name))
        return network

    monkeypatch.setattr(onnx_export, "_merge_padding", twice_the_weights)
    settings = parse_settings("train", {"network": "convolutional", "filters": 8, "layers": 1, "skip": "none"})
    model = builder.build(settings, 32, "rec601")
    with pytest.raises(LoupeError, match="ONNX: must differ from Keras by at most"):
        export(model, builder.compute_geometry(settings, 32, "rec601"), tmp_path / "model.onnx")
