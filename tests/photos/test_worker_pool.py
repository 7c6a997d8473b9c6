"""The worker processes of a server: limits, small and large photos, time, memory, clients that leave."""

import io
import os
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from loupe.errors import UsageError
from loupe.photos import worker_pool
from loupe.photos.worker import PhotoRequest
from loupe.photos.worker_pool import BusyError, Control, PhotoWorkers, StoppedError
from loupe.upscalers import bundled

FILES = {str(scale): str(bundled.find_file("tiny", scale)) for scale in bundled.list_scales("tiny")}
LIMITS = {"max_pixels": 64_000_000, "max_result_pixels": 64_000_000, "max_pages": 500}
SLOW_SIZE = 4000, 4000  # upscaling it takes seconds


@pytest.fixture(scope="module")
def workers():
    made = PhotoWorkers("loupe.photos.worker", {"files": FILES})
    made.start()
    yield made
    made.close()


def write(folder, name, size, **options):
    file = folder / name
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), "uint8")).save(file, **options)
    return file


def request(photo, scale="3/2", **more):
    return PhotoRequest(str(photo), str(photo.parent), scale, **LIMITS | more)


def read_pids(workers):
    return [worker._process.pid for worker in (workers._small, workers._large)]


def test_photo_is_upscaled_in_the_process_for_its_size(workers, tmp_path):
    fractions = []
    small = workers.upscale(request(write(tmp_path, "small.png", (60, 40))), Control(60), fractions.append)
    assert (small.reason, Path(small.out).name, fractions[-1]) == ("", "small-1.5x.png", 1)
    with Image.open(small.out) as image:
        assert image.size == (90, 60)
    large = workers.upscale(
        request(write(tmp_path, "large.png", (1200, 900)), suffix=".jpg", shown=(80, 60)), Control(60)
    )
    assert (large.reason, Path(large.out).name) == ("", "large-1.5x.jpg")
    assert "large.png: 1200×900 to 1800×1350, by " in large.figure
