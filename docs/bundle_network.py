"""Write a trained network as an ONNX file of the package.

    python docs/bundle_network.py SIZE FILE.keras [FILE.keras ...] [--float16]

With several files, the weights are the means of the weights in all files. With `--float16`, the file stores the
kernels of convolutions as float16, which halves its size. onnxruntime converts them to float32 when it loads the
network, so the speed does not change.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import onnx

from loupe.config.fields import BUNDLED_SIZES
from loupe.models import onnx_export
from loupe.upscalers import bundled
from loupe.upscalers.geometry import Geometry


def bundle_network(size: str, files: Sequence[Path]) -> Path:
    """Write the network of `.keras` files to the folder of the bundled networks; returns the ONNX file.

    Means of weights: Wortsman et al. 2022, "Model soups" (arXiv 2203.05482). The files must be one network, trained
    further in different ways.
    """
    models = [keras.saving.load_model(file, compile=False) for file in files]
    model = models[0]
    model.set_weights([np.mean(same, axis=0) for same in zip(*(each.get_weights() for each in models), strict=True)])
    geometry = Geometry.from_name(model.name)
    out = bundled.FOLDER / f"{size}-{geometry.scale.numerator}x{geometry.scale.denominator}.onnx"
    onnx_export.export(model, geometry, out)
    return out


def store_as_float16(file: Path) -> None:
    """Store the kernels of convolutions as float16, each followed by a cast to float32."""
    network = onnx.load(file)
    casts = []
    for part in network.graph.initializer:
        if part.data_type == onnx.TensorProto.FLOAT and len(part.dims) == 4:
            kernel, name = onnx.numpy_helper.to_array(part), part.name
            part.CopyFrom(onnx.numpy_helper.from_array(kernel.astype("float16"), f"{name}/float16"))
            casts.append(onnx.helper.make_node("Cast", [part.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *network.graph.node]
    del network.graph.node[:]
    network.graph.node.extend(nodes)
    onnx.save(network, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=BUNDLED_SIZES)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--float16", action="store_true")
    arguments = parser.parse_args()
    written = bundle_network(arguments.size, arguments.files)
    if arguments.float16:
        store_as_float16(written)
    print(f"{written}: {written.stat().st_size:,} bytes")
