"""The measurement of memory counts all processes, and stops a command that takes too much."""

import subprocess
import sys

import pytest
from jobs import build_env
from peak_memory import MemoryWatch, measure_command
from PIL import Image

from loupe.imaging.memory import get_default_budget

ALLOCATE = "import sys; print('ready', flush=True); data = b'x' * {}; sys.stdin.read()"
TWO_PROCESSES = """
import subprocess, sys
data = b"x" * 10**8
child = "data = b'x' * 2 * 10**8; print(flush=True); input()"
with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
    process.stdout.readline()
    process.communicate(b"\\n")
sys.exit(3)
"""


def test_peak_counts_a_process_and_its_children(tmp_path):
    done = measure_command([sys.executable, "-c", ALLOCATE.format(2 * 10**8)], tmp_path, build_env())
    assert (done.status, done.stdout, done.stderr, done.killed) == (0, "ready\n", "", "")
    assert 200 < done.peak_mb < 260
    done = measure_command([sys.executable, "-c", TWO_PROCESSES], tmp_path, build_env())
    assert done.status == 3
    assert 240 < done.peak_mb < 400  # the larger process alone has 210


@pytest.mark.parametrize(("limits", "reason"), [({"kill_mb": 100}, "memory"), ({"timeout_s": 0.1}, "time")])
def test_a_command_beyond_its_limits_is_killed(limits, reason, tmp_path):
    program = "data = b''\nwhile True: data = b'x' * 3 * 10**8"
    done = measure_command([sys.executable, "-c", program], tmp_path, build_env(), **limits)
    assert done.killed == reason
    assert done.status == -9


def test_a_running_process_is_watched():
    command = [sys.executable, "-c", "input(); data = b'x' * 10**8; del data; print(flush=True); input()"]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        with MemoryWatch(process.pid) as watch:
            print(file=process.stdin, flush=True)
            process.stdout.readline()
        process.communicate("\n")
    assert 100 < watch.peak_mb < 160


BUDGET_MB = get_default_budget() / 1e6 + 300


@pytest.fixture(scope="module")
def large_photos(tmp_path_factory):
    """A folder of photos of 169 megapixels with a few hundred kilobytes, and a grey one of one row."""
    folder = tmp_path_factory.mktemp("photos") / "large"
    folder.mkdir()
    Image.new("RGB", (13_000, 13_000), (9, 60, 200)).save(folder / "1.png")
    Image.new("RGBA", (13_000, 13_000), (9, 60, 200, 90)).save(folder / "2.png")
    Image.new("P", (13_000, 13_000)).save(folder / "3.png", transparency=0)
    Image.new("RGB", (13_000, 13_000)).save(folder / "4.jpg", progressive=True)
    Image.new("L", (178_000_000, 1)).save(folder / "5.png")
    Image.new("RGB", (13_000, 13_000)).save(folder / "6.tif", compression="tiff_adobe_deflate")
    Image.new("RGB", (100, 100)).save(folder / "7.png")
    return folder


@pytest.mark.slow(150)
@pytest.mark.xdist_group("large photos")
@pytest.mark.parametrize(
    ("luminance", "crop"),
    [("rec601", "centre"), ("rec709", "fit"), ("relative", "tiles")],
)
def test_preprocess_keeps_to_the_budget(luminance, crop, large_photos, tmp_path):
    command = [sys.executable, "-m", "loupe", "preprocess", "--source", large_photos, "--luminance", luminance]
    done = measure_command([*command, "--crop", crop, "--label-size", 240], tmp_path, build_env(), timeout_s=500)
    assert done.status == 0, done.stderr
    assert done.peak_mb < BUDGET_MB
