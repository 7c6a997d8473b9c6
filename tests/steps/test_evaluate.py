"""Several models in one evaluation keep their own scores, regardless of their names."""

import json
import shutil
from fractions import Fraction

import mlflow
import pytest
from PIL import Image

from loupe.config import parse_settings
from loupe.errors import UsageError
from loupe.steps import evaluate
from loupe.upscalers import bundled

BASELINES = {"nearest", "bilinear", "bicubic", "lanczos", "ridge"}


@pytest.fixture
def folder(tmp_path, monkeypatch, photos):
    """Return a folder with photos, its own store, and network files with equal names."""
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    shutil.copytree(photos, "photos")
    for file, size in (("a/model.onnx", "tiny"), ("b/model.onnx", "base"), ("c/lanczos.onnx", "tiny")):
        (tmp_path / file).parent.mkdir()
        shutil.copyfile(bundled.find_file(size, Fraction(3, 2)), file)
    yield tmp_path
    mlflow.set_tracking_uri(before)


def evaluated(**given):
    shared = {"photos": "photos", "label_size": 90, "quiet": True}
    return evaluate.run(parse_settings("evaluate", shared | given))["scores"]


@pytest.mark.slow
def test_models_with_the_same_file_name_have_separate_rows_and_metrics(folder):
    files = ["a/model.onnx", "b/model.onnx", "c/lanczos.onnx"]
    scores = evaluated(model="small", beside=[*files, "bicubic"], out="scores.json", sheet="sheet.png")
    assert scores.keys() == {"model", *BASELINES, *files}
    assert scores == json.loads((folder / "scores.json").read_text())["scores"]
    maes = {name: scores[name]["mae"] for name in ("model", "lanczos", *files)}
    assert maes["a/model.onnx"] == maes["c/lanczos.onnx"]
    assert len(set(maes.values())) == len(maes) - 1
    logged = mlflow.search_runs(output_format="list")[0].data.metrics
    assert {name: logged[f"photos/{name.replace('/', '-')}/mae"] for name in files} == {
        name: maes[name] for name in files
    }
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 0


@pytest.mark.parametrize(
    ("model", "beside", "labels"),
    [
        ("small", ["tiny", "nets/perceptron.onnx"], ["tiny", "perceptron"]),
        ("small", ["runs:/a1/model", "runs:/b2/model"], ["runs:/a1/model", "runs:/b2/model"]),
        ("small", ["runs:/a1/model", "tiny"], ["runs:/a1/model", "tiny"]),
        ("x/net.keras", ["y/net.keras"], ["y/net.keras"]),
        ("bicubic", ["tiny", "ridge"], ["tiny"]),
    ],
)
def test_the_label_of_a_model_is_short_if_that_is_unique(model, beside, labels):
    found = evaluate.label_models(parse_settings("evaluate", {"model": model, "beside": beside}))
    assert [found[name] for name in beside if name in found] == labels


@pytest.mark.parametrize(
    ("model", "beside"), [("small", "tiny,tiny"), ("small", "small"), ("small", "model"), ("x/a.onnx", "x-a.onnx,a")]
)
def test_two_models_of_the_same_name_are_refused(model, beside):
    with pytest.raises(UsageError, match=r"^beside: must name different models"):
        evaluated(model=model, beside=beside)
