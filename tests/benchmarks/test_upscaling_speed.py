"""Compares the time of upscaling with the time that its multiplications need at least, and with FSRCNN.

    pytest tests/benchmarks/test_upscaling_speed.py -s

LOUPE_FSRCNN=FSRCNN_x2.pb (the weights that OpenCV's dnn_superres documents) adds FSRCNN, which needs
opencv-contrib-python-headless. The test prints the times, and checks them only with LOUPE_STRICT_TIMINGS=1.
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
FSRCNN_FILE = os.environ.get("LOUPE_FSRCNN")
SMALL, LARGE = (1280, 720), (1920, 1080)


def time_median(work, times):
    """Return the median run time of a call in s, after one call for warming up."""
    work()
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


@pytest.fixture(scope="module")
def image():
    import skimage

    image = Image.open(Path(skimage.__file__).parent / "data" / "coffee.png").convert("RGB")
    return image.resize(SMALL, Image.Resampling.LANCZOS)


def test_upscaling_in_a_warm_process_is_near_the_floor(image):
    matrix = np.random.default_rng(0).standard_normal((2048, 2048), "float32")
    rate = 2 * 2048**3 / time_median(lambda: matrix @ matrix, 20)
    model = onnx.load(bundled.find_file("small", Fraction(3, 2)))
    weights = sum(int(np.prod(part.dims)) for part in model.graph.initializer if len(part.dims) == 4)
    floor = 2 * weights * SMALL[0] * SMALL[1] / 4 / rate  # one position per 2x2 block
    upscaler = Upscaler.load("small")
    assert upscaler(image).size == LARGE
    seconds = time_median(lambda: upscaler(image), 7)
    print(f"\nsmall, 1280x720 to 1920x1080: {seconds:.3f} s, {seconds / floor:.2f} times the floor of {floor:.3f} s")
    if STRICT:
        assert seconds <= 0.45
        assert seconds <= 2 * floor
    if FSRCNN_FILE:
        from cv2 import dnn_superres

        fsrcnn = dnn_superres.DnnSuperResImpl_create()
        fsrcnn.readModel(FSRCNN_FILE)
        fsrcnn.setModel("fsrcnn", 2)
        blue_first = np.asarray(image)[..., ::-1].copy()

        def upscale_by_fsrcnn():
            return Image.fromarray(fsrcnn.upsample(blue_first)).resize(LARGE, Image.Resampling.LANCZOS)

        other = time_median(upscale_by_fsrcnn, 5)
        print(f"FSRCNN 2x and Lanczos down: {other:.3f} s, {other / seconds:.1f} times as long")
        assert not STRICT or other >= 3 * seconds
