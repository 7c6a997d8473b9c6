"""Upscaling against the arithmetic floor of this machine, and against a peer.

    pytest tests/benchmarks/test_upscaling_speed.py -s

LOUPE_FSRCNN=FSRCNN_x2.pb (the weights that OpenCV's dnn_superres documents) adds the peer, which needs
opencv-contrib-python-headless. Printed, and asserted only with LOUPE_STRICT_TIMINGS=1.
"""

import os
import statistics
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from loupe import Upscaler
from loupe.upscalers import bundled

STRICT = os.environ.get("LOUPE_STRICT_TIMINGS") == "1"
PEER = os.environ.get("LOUPE_FSRCNN")
SMALL, LARGE = (1280, 720), (1920, 1080)


def median_of(work, times):
    """Seconds of a call, after one that does not count."""
    work()
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


@pytest.fixture(scope="module")
def picture():
    import skimage

    image = Image.open(Path(skimage.__file__).parent / "data" / "coffee.png").convert("RGB")
    return image.resize(SMALL, Image.Resampling.LANCZOS)


def test_a_image_in_a_warm_process(picture):
    matrix = np.random.default_rng(0).standard_normal((2048, 2048), "float32")
    rate = 2 * 2048**3 / median_of(lambda: matrix @ matrix, 20)
    model = onnx.load(bundled.find_file("small", Fraction(3, 2)))
    weights = sum(int(np.prod(part.dims)) for part in model.graph.initializer if len(part.dims) == 4)
    floor = 2 * weights * SMALL[0] * SMALL[1] / 4 / rate  # one position for every 2x2 block
    upscaler = Upscaler.load("small")
    assert upscaler(picture).size == LARGE
    seconds = median_of(lambda: upscaler(picture), 7)
    print(f"\nsmall, 1280x720 to 1920x1080: {seconds:.3f} s, {seconds / floor:.2f} times the floor of {floor:.3f} s")
    if STRICT:
        assert seconds <= 0.45
        assert seconds <= 2 * floor
    if PEER:
        from cv2 import dnn_superres

        peer = dnn_superres.DnnSuperResImpl_create()
        peer.readModel(PEER)
        peer.setModel("fsrcnn", 2)
        blue_first = np.asarray(picture)[..., ::-1].copy()

        def by_peer():
            return Image.fromarray(peer.upsample(blue_first)).resize(LARGE, Image.Resampling.LANCZOS)

        other = median_of(by_peer, 5)
        print(f"FSRCNN 2x and Lanczos down: {other:.3f} s, {other / seconds:.1f} times as long")
        assert not STRICT or other >= 3 * seconds
