"""Networks of the scale factor 1:1 in the steps: train, evaluate, register, restore; `upscale` refuses them."""

import io
import os
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.tracking import fluent
from PIL import Image

from loupe.config import parse_settings
from loupe.errors import UsageError
from loupe.models import builder
from loupe.models.onnx_export import export
from loupe.steps import evaluate, preprocess, register, restore, train, upscale

GIVEN = {"scale": "1:1", "condition": "jpeg", "filters": 8, "layers": 1, "crop_size": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photos):
    """Enter a folder with its own store, photos, and an untrained network of the scale factor 1:1."""
    before, folder = mlflow.get_tracking_uri(), tmp_path_factory.mktemp("restore")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # Earlier tests in this process can have chosen an experiment of another store.
        patch.setattr(fluent, "_active_experiment_id", None)
        patch.setenv("MLFLOW_EXPERIMENT_ID", "")  # so that the value after the tests is the one before
        patch.delenv("MLFLOW_EXPERIMENT_ID")
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        (folder / "photos").symlink_to(photos)
        settings = parse_settings("train", GIVEN | {"skip": "none"})
        export(
            builder.build(settings, 32, "rec601"), builder.compute_geometry(settings, 32, "rec601"), Path("n.onnx")
        )
        yield folder
    mlflow.set_tracking_uri(before)


def restored(**given):
    return restore.run(parse_settings("restore", {"overwrite": True, "quiet": False} | given))


def test_large_photos_masks_and_results_cause_no_warning(folder, real_crop, monkeypatch, recwarn, capsys):
    """Pillow warns about images with more than MAX_IMAGE_PIXELS."""
    real_crop("coffee.png", 200, 150, 40, 30).save("photo.png")
    Image.new("L", (40, 30), 255).save("mask.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("photo.png").read_bytes())))
    restored(inputs="-", out="clean.png", method="nlm", mask="mask.png", compare="page.html")
    assert [*recwarn] == []
    assert capsys.readouterr().err == ""


def test_a_photo_is_restored_by_a_network_file(folder, real_crop, capsys):
    real_crop("coffee.png", 200, 150, 61, 40).save("photo.jpg", quality=60, comment=b"A cup")
    restored(inputs="photo.jpg", out="clean.png", model="n.onnx")
    assert capsys.readouterr().out == "clean.png: 61x40, by n.onnx, assumed JPEG quality 60\n"
    before, after = (np.asarray(Image.open(name)).astype(int) for name in ("photo.jpg", "clean.png"))
    assert np.abs(before - after).max() > 10  # the network is untrained
    restored(inputs="photo.jpg", out="kept.png", model="n.onnx", strength=0)
    assert np.array_equal(np.asarray(Image.open("kept.png")), before)


@pytest.mark.parametrize(
    ("step", "given", "message"),
    [
        (restore, {"model": "large"}, "model: must have the scale factor 1:1, got 'large'"),
        (upscale, {"model": "n.onnx"}, "model: must have a scale factor above 1:1, got 'n.onnx'"),
        (evaluate, {"protocol": "classical"}, "protocol: must be labels or study-patches at scale 1:1, got classical"),  # noqa: E501
        (evaluate, {"photos": "photos"}, "degrade: must be jpeg for photos at scale 1:1, got none"),
        (evaluate, {"others": "lanczos"}, "others: must be models of scale 1:1, got lanczos"),
    ],
)  # fmt: skip
def test_other_networks_and_clean_photos_are_refused(folder, step, given, message):
    defaults = {"model": "n.onnx", "quiet": True}
    with pytest.raises(UsageError) as refused:
        step.run(parse_settings(step.__name__.rpartition(".")[2], defaults | given))
    assert str(refused.value) == message


def test_fields_of_the_other_method_are_refused():
    with pytest.raises(UsageError, match=r"^jpeg_quality: has no effect with method="):
        parse_settings("restore", {"method": "nlm", "jpeg_quality": 50})


def test_grey_jpegs_are_scored_next_to_the_input_and_non_local_means(folder):
    given = {"photos": "photos", "label_size": 45, "limit": 2, "degrade": "jpeg", "qualities": "100,20"}
    summary = evaluate.run(parse_settings("evaluate", given | {"model": "n.onnx", "quiet": True}))
    clean, degraded = summary["qualities"].values()
    assert clean.keys() == degraded.keys() == {"model", "input", "nlm"}
    assert clean["input"]["mae"] == 0 < degraded["input"]["mae"]
    assert summary["below_input"] == {"model": [100, 20]}


@pytest.mark.slow
def test_the_champion_of_the_scale_factor_restores(folder, capsys):
    shared = {"data_dir": "data", "quiet": True}
    given = {"source": "photos", "scales": "1:1", "degrade": "jpeg", "jpeg_qualities": "10,30", "label_size": 32}
    preprocess.run(parse_settings("preprocess", shared | given | {"crop": "random", "clean_share": 0}))
    (dataset,) = os.listdir("data")
    trained = train.run(parse_settings("train", shared | GIVEN | {"dataset": f"data/{dataset}", "steps": 12}))
    assert trained.summary.keys() == {"model", "input", "nlm", "ridge"}
    result = register.run(parse_settings("register", shared | {"run": trained.run_id}))
    assert result.name == "loupe-1x"
    assert " of the bundled network small of 1:1 on 1 photo of " in result.reason
    register.run(parse_settings("register", {"scale": "1:1", "version": result.version, "quiet": True}))
    (photo, *_) = sorted(Path("photos").rglob("*.jpg"))
    restored(inputs=str(photo), out="clean.jpg", method="network")
    printed = capsys.readouterr().out
    assert "by models:/loupe-1x@champion (version 1)" in printed
    assert "models:/loupe-1x@champion (version 1): made champion by `loupe register --version`" in printed
