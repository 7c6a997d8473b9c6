"""The devices that run ONNX networks, with a stub of onnxruntime's sessions in place of an accelerator."""

from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from loupe import Upscaler
from loupe.cli import main, progress
from loupe.config.fields import Device
from loupe.errors import UsageError
from loupe.photos.worker_pool import PhotoWorkers
from loupe.tracking import photo_runs, records
from loupe.upscalers import bundled
from loupe.upscalers.isolated import IsolatedOnnxUpscaler
from loupe.upscalers.onnx import CPU, PROVIDERS, OnnxUpscaler

FILE = bundled.find_file("tiny", Fraction(3, 2))
IMAGES = np.random.default_rng(0).uniform(-1, 1, (1, 20, 30, 2)).astype("float32")  # with the strength of artefacts
PROVIDER = {device: provider for device, (provider, _) in PROVIDERS.items()}
MISSING = "device: {0} cannot be used: the installed onnxruntime has no {1}; the CPU is used"
NOT_FOUND = "device: {0} cannot be used: onnxruntime does not find the device or its libraries; the CPU is used"
REFUSED = "device: {0} cannot be used: the device is busy; the CPU is used"


@pytest.fixture
def install(monkeypatch):
    """Return a function that installs a stub whose build supports some devices, all of which are really the CPU.

    A device in `broken` maps to the behaviour of its session: `raises`, `ignored` (onnxruntime uses the CPU and only
    logs it) or `fails` (the first call raises). The function returns a list of the providers of all sessions.
    """
    progress.print_error_once.cache_clear()
    make_session, made = onnxruntime.InferenceSession, []

    def install_stub(*devices, broken=()):
        def make(file, options, providers, enable_fallback=1):
            names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
            made.append(names[0])
            session = make_session(file, options, providers=[PROVIDER[CPU]])
            behaviour = dict(broken).get(names[0])
            if behaviour == "raises":
                raise RuntimeError("the device is busy\nand more")
            if behaviour == "fails":
                monkeypatch.setattr(session, "run", lambda *given: make(file, options, [PROVIDER["cuda"]]))
                broken[names[0]] = "raises"
            if behaviour != "ignored":
                session.get_providers = lambda: names
            return session

        names = [*(PROVIDER[device] for device in devices), PROVIDER[CPU]]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
        monkeypatch.setattr(onnxruntime, "InferenceSession", make)
        return made

    return install_stub


def test_each_device_has_a_provider():
    assert {"auto", *PROVIDERS} == set(Device.__args__)


@pytest.mark.parametrize(
    ("available", "wanted", "used"),
    [
        ([], "auto", CPU),
        (["coreml"], "auto", CPU),
        (["cuda"], "auto", "cuda"),
        (["directml"], "auto", "directml"),
        (["directml", "cuda"], "auto", "cuda"),
        (["cuda"], CPU, CPU),
        (["coreml"], "coreml", "coreml"),
        (["cuda", "directml"], "directml", "directml"),
    ],
)
def test_the_provider_of_the_device_runs_the_network(available, wanted, used, install):
    expected = OnnxUpscaler(FILE)(IMAGES)
    made = install(*available)
    network = OnnxUpscaler(FILE, device=wanted)
    assert (network.device, network.fallback, made) == (used, "", [PROVIDER[used]])
    np.testing.assert_array_equal(network(IMAGES), expected)


@pytest.mark.parametrize(
    ("wanted", "available", "behaviour", "line"),
    [
        *((device, "", "", MISSING) for device in ("cuda", "coreml", "directml")),
        *(
            (device, "cuda", behaviour, line)
            for device in ("auto", "cuda")
            for behaviour, line in (("raises", REFUSED), ("ignored", NOT_FOUND), ("fails", REFUSED))
        ),
    ],
)
def test_the_cpu_replaces_a_device_that_cannot_be_used(wanted, available, behaviour, line, install):
    expected = OnnxUpscaler(FILE)(IMAGES)
    made = install(*filter(None, [available]), broken={PROVIDER["cuda"]: behaviour})
    network = OnnxUpscaler(FILE, device=wanted)
    device = available or wanted
    assert (network.device, network.fallback) == (CPU, line.format(device, PROVIDER[device]))
    assert made[-1] == PROVIDER[CPU]
    np.testing.assert_array_equal(network(IMAGES), expected)


def test_an_invalid_file_is_an_error_on_every_device(tmp_path, install):
    install("cuda")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(UsageError, match="is not an ONNX network"):
        OnnxUpscaler(tmp_path / "text.onnx", device="cuda")


def test_an_incomplete_onnxruntime_is_an_error_of_one_line(monkeypatch):
    monkeypatch.delattr(onnxruntime, "get_available_providers")
    with pytest.raises(UsageError, match="onnxruntime: must be complete"):
        OnnxUpscaler(FILE)


@pytest.mark.parametrize("step", ["upscale", "evaluate", "demo"])
def test_an_unknown_device_is_refused(step, capsys):
    assert main.run_step(step, ["--device", "tpu"]) == 2
    line = "device: must be one of auto, cpu, cuda, coreml, directml, got 'tpu'"
    assert capsys.readouterr().err == f"loupe {step}: error: {line}\n"
    with pytest.raises(UsageError, match=line):
        Upscaler.load(device="tpu")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder with two photos, which need different networks for the same size."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name, side in (("small", 20), ("large", 30)):
        Image.new("L", (side, side), 90).save(f"photos/{name}.png")
    return "photos"


@pytest.mark.parametrize(
    ("device", "available", "name", "line"),
    [
        ("auto", [], "small of 2:1,", ""),
        ("cpu", ["cuda"], "small of 2:1,", ""),
        ("auto", ["cuda"], "small of 2:1 on cuda,", ""),
        ("cuda", [], "small of 2:1,", MISSING.format("cuda", PROVIDER["cuda"])),
    ],
)
def test_upscale_names_the_device_and_reports_a_fallback_once(device, available, name, line, photos, install, capsys):
    install(*available)
    words = [photos, "--out", "out", "--size", "40x40", "--model", "small", "--device", device]
    assert main.run_step("upscale", words) == 0
    printed = capsys.readouterr()
    assert name in printed.out
    assert [found for found in printed.err.splitlines() if found.startswith("device:")] == [line] * bool(line)


def test_the_run_has_the_device(tmp_path, monkeypatch, install):
    install("cuda")
    logged = {}
    monkeypatch.setattr(photo_runs, "open_photo_run", lambda settings: nullcontext())
    monkeypatch.setattr(photo_runs, "_is_run_open", lambda: True)
    monkeypatch.setattr(records, "log_record", lambda kind, content, *file: logged.update(content))
    Image.new("L", (20, 20), 90).save(tmp_path / "photo.png")
    words = [f"{tmp_path}/photo.png", "--out", f"{tmp_path}/out.png", "--model", "tiny"]
    assert main.run_step("upscale", words) == 0
    assert (logged["loupe.model"], logged["loupe.device"]) == ("the bundled network tiny of 3:2 on cuda", "cuda")


def test_a_model_that_is_not_an_onnx_network_is_reported(photos, install, capsys):
    install("cuda")
    assert main.run_step("upscale", [photos, "--out", "out", "--model", "lanczos", "--device", "cuda"]) == 0
    assert "device: cuda runs only ONNX networks, not lanczos\n" in capsys.readouterr().err


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has CUDA")
def test_a_network_of_another_origin_reports_its_device():
    line = MISSING.format("cuda", PROVIDER["cuda"])
    for device, fallback in (("auto", ""), ("cuda", line)):
        network = IsolatedOnnxUpscaler(FILE, device=device)
        assert (network.device, network.fallback) == (CPU, fallback)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has CUDA")
def test_the_two_processes_of_the_demo_report_a_fallback_once(capfd):
    progress.print_error_once.cache_clear()
    workers = PhotoWorkers("loupe.web.worker:serve_model", {"model": "tiny", "device": "cuda"})
    try:
        assert workers.start() == CPU
    finally:
        workers.close()
    assert capfd.readouterr().err == MISSING.format("cuda", PROVIDER["cuda"]) + "\n"
