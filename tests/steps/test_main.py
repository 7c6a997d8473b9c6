"""The main job with --smoke: its runs and models, and steps that use them."""

import json
import re
import subprocess
import sys
from contextlib import nullcontext
from fractions import Fraction
from unittest.mock import Mock

import numpy as np
import pytest
from jobs import build_env, list_runs, loupe, open_store
from PIL import Image

from loupe.config import parse_settings
from loupe.data import preparation
from loupe.steps import evaluate, main, train
from loupe.tracking import runs
from loupe.upscalers import bundled

pytestmark = pytest.mark.xdist_group("main")  # one process: the tests share one finished main job
BASELINES = ("nearest", "bilinear", "bicubic", "lanczos", "ridge")


def find_runs_by_step(folder):
    return {run.data.tags["loupe.step"]: run for run in list_runs(folder) if "loupe.step" in run.data.tags}


def test_main_creates_finished_runs_under_one_parent(finished_main):
    runs = [run for run in list_runs(finished_main) if run.data.tags.get("loupe.step")]
    parent = next(run for run in runs if run.data.tags["loupe.step"] == "main")
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    steps = sorted(run.data.tags["loupe.step"] for run in children)
    assert steps == ["evaluate", "preprocess", "register", "train", "train", "train", "upscale"]
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    assert len({run.info.run_name for run in children}) == len(children)


@pytest.mark.parametrize(
    ("step", "title"),
    [("main", r"The test photos of sample-\w+ at 3:2"), ("evaluate", r".+ on test of sample-\w+, ")],
)
def test_the_description_of_a_run_is_its_table_of_scores(step, title, finished_main):
    note = find_runs_by_step(finished_main)[step].data.tags["mlflow.note.content"]
    assert re.fullmatch(rf"{title}.*\n\n```\nmethod +mae (.|\n)+ photos\n```", note)


def test_the_run_of_register_has_its_model_and_the_gate_dataset_as_inputs(finished_main):
    client = open_store(finished_main)
    found = [run for run in list_runs(finished_main) if "gate/mae" in run.data.metrics][-1]
    run = client.get_run(found.info.run_id)  # a search returns runs without their model inputs
    ((dataset,), (model,)) = run.inputs.dataset_inputs, run.inputs.model_inputs
    assert ([tag.value for tag in dataset.tags], run.data.tags["loupe.scale"]) == (["gate"], "3:2")
    assert dataset.dataset.name in run.data.tags["loupe.evidence"]
    assert client.get_logged_model(model.model_id).source_run_id == run.data.params["run"]


def test_main_prints_scores_and_the_next_commands(finished_main):
    printed = (finished_main / "printed.txt").read_text()
    for word in (*BASELINES, "perceptron *", "convolutional *", "champion", "upscaled.png", "mlflow ui", "--steps"):
        assert word in printed
    assert "/keras/" not in (finished_main / "errors.txt").read_text(), "a warning of Keras"
    table = printed.split("trained here")[1]
    assert table.count("\nridge") == 1, "the ridge is a baseline and a trained variant, but one row"
    assert "means over the images of 2 photos" in table
    (decision,) = [line for line in printed.splitlines() if line.startswith("not champion: ")]
    assert "models:/loupe/1" in decision
    assert "of the bundled network small of 3:2 on 2 photos of sample-" in decision
    assert Image.open(finished_main / "upscaled.png").size == (900, 600)  # 600x400 by 3:2


def test_main_scores_the_baselines_on_the_photos_of_the_networks(monkeypatch):
    monkeypatch.setattr(preparation, "find_dataset", lambda *names: "data/photos")
    monkeypatch.setattr(runs, "open_step_run", lambda *arguments: nullcontext())
    monkeypatch.setattr(train, "run", lambda settings: train.Training("0" * 32, settings.network, 1.0, 0.1, {}))
    monkeypatch.setattr(evaluate, "run", (evaluate_calls := Mock(side_effect=InterruptedError)))
    with pytest.raises(InterruptedError):
        main.run(parse_settings("main", {"smoke": True}))
    (settings,) = evaluate_calls.call_args.args
    assert settings.split == "test"
    assert settings.limit is None  # train scores networks on the whole test split


def test_train_run_has_settings_dataset_curves_scores_and_images(finished_main):
    client = open_store(finished_main)
    run = next(run for run in list_runs(finished_main) if run.data.params.get("network") == "convolutional")
    assert run.data.params["filters"] == "8"
    assert run.data.params["skip"] == "ridge"
    inputs = {tag.value: found.dataset for found in run.inputs.dataset_inputs for tag in found.tags}
    assert inputs.keys() == {"training", "validation", "test"}
    dataset = inputs["training"]
    assert dataset.digest == run.data.tags["loupe.digest"]
    assert dataset.name.endswith(dataset.digest)
    assert inputs["test"].digest == f"{dataset.digest}-test"
    assert {"photos": 12, "test_labels": 2, "label_side": 90, "input_side_3:2": 60}.items() <= json.loads(
        dataset.profile
    ).items()
    assert "[-1, 60, 60]" in dataset.schema
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "val/mae")]
    assert steps == list(range(13))  # 12 steps, one point each, and the one before the first
    names = {"train/mse", "train/mae", "train/psnr", "val/psnr", "train/learning_rate", "patches_per_second", "loss"}
    names |= {f"test/{score}" for score in ("mae", "psnr", "ssim")}
    names |= {f"test/{name}/{score}" for name in BASELINES for score in ("mae", "psnr", "ssim")}
    assert names <= run.data.metrics.keys()
    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"curves.png", "predictions.png", "test.json", "ridge-3x2.npy"} <= files
    assert not [item.path for item in client.list_artifacts(run.info.run_id, "checkpoint")]
    model = client.get_logged_model(run.outputs.model_outputs[-1].model_id)
    linked = {metric.key: metric.value for metric in model.metrics if metric.dataset_digest == dataset.digest}
    assert linked["val/mae"] == min(point.value for point in client.get_metric_history(run.info.run_id, "val/mae"))
    assert linked["test/mae"] == run.data.metrics["test/mae"]


@pytest.mark.slow
def test_the_steps_of_a_budget_in_flops_do_not_depend_on_the_number_of_threads(tmp_path):
    network = ["--network", "perceptron", "--hidden", "16,8", "--mirror", "false", "--batch_size", 16]
    for threads in (1, 2):
        budget = ["--flops", "3.4e6", "--threads", threads]
        loupe("train", "--smoke", "true", "--quiet", *network, *budget, cwd=tmp_path)
    for run in list_runs(tmp_path):
        if run.data.tags["loupe.step"] == "train":
            # 3,528 products per patch: 338,688 FLOPs per step
            assert (run.data.params["flops"], run.data.metrics["training_steps"]) == ("3400000.0", 10)
            assert "steps" not in run.data.params
    assert {run.data.params.get("threads") for run in list_runs(tmp_path)} >= {"1", "2"}


def test_preprocess_run_has_manifest_counts_statistics_and_images(finished_main):
    run = find_runs_by_step(finished_main)["preprocess"]
    files = {item.path for item in open_store(finished_main).list_artifacts(run.info.run_id)}
    assert {"manifest.parquet", "pairs.png", "spread-values.png", "spread-images.png"} <= files
    assert run.data.metrics["labels"] == 12
    assert {"labels/mean", "labels/std", "inputs-3x2/mean", "inputs-2x1/std"} <= run.data.metrics.keys()


def test_registered_version_has_geometry_scores_and_an_onnx_file(finished_main):
    version = open_store(finished_main).get_model_version_by_alias("loupe", "champion")
    assert version.tags.keys() == {"loupe.digest", "loupe.evidence", "loupe.replaced"}
    card = ("scikit-image", version.tags["loupe.digest"], "model mae 0.", "lanczos psnr ")
    assert all(text in version.description for text in card)
    model_id = re.search(r"m-[0-9a-f]{32}", version.source)[0]
    files = open_store(finished_main).list_logged_model_artifacts(model_id, "onnx")
    assert [item.path for item in files] == ["onnx/model.onnx"]
    assert "loupe.gate_dataset" not in open_store(finished_main).get_registered_model("loupe").tags  # 2 photos


def test_champion_loads_without_loupe(finished_main):
    """Keras and pyfunc load the champion although `loupe` cannot be imported."""
    code = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "loupe":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
import mlflow, numpy as np
images = np.random.default_rng(0).uniform(-1, 1, (1, 80, 160, 1)).astype("float32")
large = mlflow.keras.load_model("models:/loupe@champion").predict(images, verbose=0)
also = mlflow.pyfunc.load_model("models:/loupe@champion").predict(images)
assert large.shape == (1, 120, 240, 1), large.shape
assert np.allclose(large, also, atol=1e-5)
assert "loupe" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=finished_main,
        env=build_env(PYTHONPATH=""),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_evaluate_writes_the_scores_of_the_model_and_all_baselines(finished_main):
    loupe("evaluate", "--smoke", "true", "--out", "scores.json", cwd=finished_main)
    summary = json.loads((finished_main / "scores.json").read_text())
    assert summary["scores"].keys() == {"model", *BASELINES}
    assert (summary["photos"], summary["images"]) == (2, 2)
    for scores in summary["scores"].values():
        assert scores.keys() >= {"photos", "mae", "psnr", "psnr_of_mse", "ssim", "mse", "interval", "over"}
        assert scores["interval"]["mae"] is None  # fewer than 8 photos
    assert summary["scores"]["model"]["mae"] < summary["scores"]["bicubic"]["mae"]


def read_evaluation(folder):
    """Return the newest run of evaluate, its dataset input, and the metrics of the evaluated model by name."""
    client = open_store(folder)
    newest = next(run for run in list_runs(folder) if run.data.tags.get("loupe.step") == "evaluate")
    run = client.get_run(newest.info.run_id)  # a search returns runs without their model inputs
    ((dataset,), (model,)) = run.inputs.dataset_inputs, run.inputs.model_inputs
    metrics = client.get_logged_model(model.model_id).metrics
    return run, dataset, {metric.key: metric for metric in metrics if metric.run_id == run.info.run_id}


def test_evaluate_links_its_scores_to_the_model_and_to_the_dataset(finished_main, photos):
    loupe("evaluate", "--smoke", "true", cwd=finished_main)
    run, found, metrics = read_evaluation(finished_main)
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "test")]
    assert found.dataset.digest == run.data.tags["loupe.digest"] == metrics["test/mae"].dataset_digest
    assert metrics["test/mae"].value == run.data.metrics["test/mae"]
    assert "test/lanczos/mae" not in metrics
    digests = set()
    cases = {"photos": [["--label_size", 90], ["--label_size", 60]], "classical": [["--protocol", "classical"]]}
    for prefix, given in [(prefix, given) for prefix, variants in cases.items() for given in variants]:
        loupe("evaluate", "--photos", photos, *given, cwd=finished_main)
        run, found, metrics = read_evaluation(finished_main)
        assert found.dataset.digest == run.data.tags["loupe.digest"]
        assert found.dataset.name == metrics[f"{prefix}/mae"].dataset_name
        assert json.loads(found.dataset.profile)["photos"] == 3
        digests.add(found.dataset.digest)
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("recompose", "gaussian"), ("ensemble", "true"), ("protocol", "study-patches"), ("protocol", "classical")],
)
def test_evaluate_scores_a_folder_of_photos(finished_main, tmp_path, field, value, photos):
    out = tmp_path / "scores.json"
    size = [] if value == "classical" else ["--label_size", "90"]
    given = ["--photos", photos, *size, f"--{field}", value, "--out", out]
    loupe("evaluate", *given, cwd=finished_main)
    summary = json.loads(out.read_text())
    assert summary["images"] == 3
    assert ("spread" if value == "study-patches" else "interval") in summary["scores"]["nearest"]


def test_evaluate_scores_additional_models_and_draws_a_sheet(finished_main, tmp_path, photos):
    given = ["--photos", photos, "--label_size", "90", "--model", "small", "--others", "tiny,champion,bicubic"]
    loupe("evaluate", *given, "--out", "scores.json", "--sheet", "sheet.png", cwd=finished_main)
    summary = json.loads((finished_main / "scores.json").read_text())
    assert summary["model"] == "the bundled network small of 3:2"
    assert summary["scores"].keys() == {"model", *BASELINES, "tiny", "champion"}
    assert summary["scores"]["tiny"]["mae"] < summary["scores"]["lanczos"]["mae"]
    with Image.open(finished_main / "sheet.png") as sheet:
        assert sheet.width > 2 * sheet.height > 0


def test_evaluate_scores_an_onnx_file(finished_main, tmp_path, photos):
    file = bundled.find_file("tiny", Fraction(3, 2))
    out = tmp_path / "scores.json"
    loupe("evaluate", "--photos", photos, "--label_size", "90", "--model", file, "--out", out, cwd=finished_main)
    assert json.loads(out.read_text())["model"] == str(file)


@pytest.mark.parametrize(("scale", "size"), [("3:2", (92, 56)), ("2:1", (122, 74)), ("3:1", (183, 111))])
def test_upscale_without_a_champion_uses_the_bundled_network_of_the_scale(finished_main, tmp_path, scale, size):
    Image.open(finished_main / "upscaled.png").resize((61, 37)).save(tmp_path / "photo.png")
    printed = loupe("upscale", "photo.png", "--scale", scale, "--out", "large.png", cwd=tmp_path).stdout
    assert "no champion" in printed
    assert "the bundled network small" in printed
    assert Image.open(tmp_path / "large.png").size == size


@pytest.mark.parametrize(
    ("step", "arguments", "word"),
    [
        ("evaluate", ["--model", "models:/nothing@champion"], "models:/nothing"),
        ("evaluate", ["--model", "no-such-file.keras"], "no-such-file.keras"),
        ("evaluate", ["--others", "no-such-file.onnx"], "no-such-file.onnx"),
        (
            "evaluate",
            ["--model", "large", "--scale", "2:1"],
            "scale: must be 3:2 for the bundled network large of 3:2 (base below JPEG quality 95), got 2:1",
        ),
        ("evaluate", ["--sheet", "nowhere/sheet.png"], "nowhere/sheet.png"),
        ("evaluate", ["--sheet", "sheet.xyz"], "sheet: must end in one of"),
        ("evaluate", ["--out", "."], "out: must be a file, got the folder '.'"),
        ("train", ["--initial-weights", "no-such-file.keras", "--smoke", "true"], "no-such-file.keras"),
        ("evaluate", ["--photos", "nowhere"], "nowhere"),
        ("evaluate", ["--photos", "empty"], "must contain an image"),
        ("train", ["--dataset", "nowhere"], "nowhere"),
        ("train", ["--resume", "0" * 32], "0" * 32),
        ("preprocess", ["--source", "empty"], "must contain an image"),
        ("register", ["--run", "0" * 32], "0" * 32),
        ("upscale", ["nowhere.jpg"], "nowhere.jpg"),
        ("upscale", ["--out", "image.xyz"], "image.xyz"),
        ("main", ["--out", "image.xyz"], "image.xyz"),
        ("train", ["--network", "perceptron", "--patch", "200:300", "--smoke", "true"], "got 200"),
        ("main", ["--dataset", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_a_run_starts(finished_main, step, arguments, word):
    (finished_main / "empty").mkdir(exist_ok=True)
    before = len(list_runs(finished_main))
    done = loupe(step, *arguments, "--quiet", cwd=finished_main, status=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("loupe ")]
    assert len(lines) == 1
    assert word in lines[0]
    assert "Traceback" not in done.stderr
    runs = list_runs(finished_main)
    assert len(runs) == before
    assert not [run for run in runs if run.info.status == "RUNNING"]


def test_upscale_keeps_image_modes(finished_main, tmp_path):
    for mode, suffix in (("L", "png"), ("RGB", "jpg"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpg")):
        photo, out = tmp_path / f"{mode}.{suffix}", tmp_path / f"large-{mode}.{suffix}"
        Image.open(finished_main / "upscaled.png").convert(mode).resize((61, 1 if mode == "L" else 37)).save(photo)
        loupe("upscale", photo, "--out", out, cwd=finished_main)
        large = Image.open(out)
        assert large.size == (92, 2 if mode == "L" else 56)
        assert large.mode == {"P": "RGB", "CMYK": "RGB"}.get(mode, mode)
        assert sorted(tmp_path.glob(".*")) == []


def test_flat_colour_is_unchanged(finished_main, tmp_path):
    Image.new("RGB", (40, 30), (200, 60, 20)).save(tmp_path / "flat.png")
    loupe("upscale", tmp_path / "flat.png", "--out", tmp_path / "large.png", "--model", "ridge", cwd=finished_main)
    assert np.abs(np.asarray(Image.open(tmp_path / "large.png")).astype(int) - (200, 60, 20)).max() <= 2
