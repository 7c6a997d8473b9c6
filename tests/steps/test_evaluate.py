"""Several models in one evaluation keep their own scores, regardless of their names."""

import json
import shutil
from fractions import Fraction
from unittest.mock import Mock

import mlflow
import numpy as np
import pytest
from PIL import Image

from loupe.config import parse_settings
from loupe.data import dataset as data
from loupe.data import sources
from loupe.data.pairs import Pairs
from loupe.data.preparation import prepare
from loupe.errors import LoupeError, UsageError
from loupe.evaluation import figures, protocols
from loupe.steps import evaluate
from loupe.tracking import records
from loupe.upscalers import bundled
from loupe.upscalers.baselines import FilterUpscaler, build_classical, compute_filter_weights
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.tiling import SelfEnsemble, upscale

BASELINES = {"nearest", "bilinear", "bicubic", "lanczos", "ridge"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photos):
    """Return a folder with photos, its own store, and network files with equal names."""
    before, folder = mlflow.get_tracking_uri(), tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        shutil.copytree(photos, "photos")
        for file, size in (("a/model.onnx", "tiny"), ("b/model.onnx", "base"), ("c/lanczos.onnx", "tiny")):
            (folder / file).parent.mkdir()
            shutil.copyfile(bundled.find_file(size, Fraction(3, 2)), file)
        yield folder
    mlflow.set_tracking_uri(before)


def summarised(**given):
    shared = {"photos": "photos", "label_size": 90, "quiet": True}
    return evaluate.run(parse_settings("evaluate", shared | given))


def evaluated(**given):
    return summarised(**given)["scores"]


@pytest.mark.slow
def test_models_with_the_same_file_name_have_separate_rows_and_metrics(folder):
    files = ["a/model.onnx", "b/model.onnx", "c/lanczos.onnx"]
    scores = evaluated(model="small", others=[*files, "bicubic"], out="scores.json", sheet="sheet.png")
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


class Seams:
    """Doubles images and darkens the left half of each block, so that the result depends on `recompose`."""

    geometry = Geometry(4, 8, 4, 0, "rec601")

    def __call__(self, images):
        large = images.repeat(2, axis=1).repeat(2, axis=2)
        return large - 0.5 * (np.arange(large.shape[2]) % 8 < 4)[:, None]


@pytest.mark.parametrize("recompose", ["concatenate", "gaussian"])
@pytest.mark.parametrize(
    ("name", "title"), [("network", "network"), ("lanczos", "lanczos (model)"), ("ridge", "ridge (model)")]
)
def test_the_sheet_shows_the_scored_results_of_the_model_and_the_baselines(name, title, recompose, monkeypatch):
    labels = np.random.default_rng(0).integers(0, 256, (1, 32, 32), "uint8")
    pairs = Pairs.from_images([{"sha256": "0"}], labels[:, ::2, ::2], labels, Fraction(2))
    methods = {"model": Seams(), **build_classical(pairs.scale), "ridge": FilterUpscaler("bicubic", pairs.scale)}
    monkeypatch.setattr(records, "log_figure", Mock())
    monkeypatch.setattr(figures, "save_figure", (save := Mock()))
    settings = parse_settings("evaluate", {"sheet": "sheet.png", "recompose": recompose})
    evaluate._draw_figures(settings, methods, name, pairs)
    inputs, labels = next(pairs.batches(1))
    maes = {key: np.abs(upscale(method, inputs, recompose) - labels).mean() for key, method in methods.items()}
    columns = {"nearest": "nearest", "lanczos": "lanczos", "ridge": "ridge", title: "model"}
    expected = ["input", *(f"{column}\nmae {maes[key]:.4f}" for column, key in columns.items()), "label"]
    assert [axes.get_title() for axes in save.call_args.args[0].axes] == expected


@pytest.mark.parametrize(("protocol", "per_photo"), [("study-patches", 1), ("labels", 2)])
def test_the_number_of_images_is_that_of_the_scored_labels(protocol, per_photo, folder, monkeypatch):
    monkeypatch.setattr(evaluate, "_load_ridge", lambda *_: None)
    crop = {"crop": "random", "labels_per_photo": 2, "label_size": 30}
    summary = summarised(model="tiny", protocol=protocol, **crop)
    (run,) = mlflow.search_runs(output_format="list", max_results=1)
    assert run.info.run_name == "evaluate tiny of 3:2 on photos"
    assert summary["photos"] > 1
    assert summary["images"] == per_photo * summary["photos"]


@pytest.mark.parametrize("ensemble", [False, True])
def test_the_self_ensemble_is_used_for_all_networks(ensemble):
    given = {"model": "tiny", "others": ["small", "bicubic"], "ensemble": ensemble}
    settings = parse_settings("evaluate", given)
    names = evaluate.choose_names(settings)
    others = evaluate._load_others(settings, settings.scale, names)
    networks = [evaluate._load_model(settings, "tiny"), *others.values()]
    assert len(networks) == 2
    assert [isinstance(network.model, SelfEnsemble) for network in networks] == [ensemble] * 2


@pytest.mark.slow
def test_degraded_photos_are_scored_at_each_quality(folder, monkeypatch, capsys):
    weights = compute_filter_weights("lanczos", Fraction(3, 2))
    monkeypatch.setattr(evaluate, "_load_ridge", lambda *_: weights)
    files = {"out": "scores.json", "sheet": "sheet.png"}
    given = {"model": "tiny", "others": "a/model.onnx", "degrade": "jpeg", "qualities": "20,100", "quiet": False}
    summary = summarised(**given, **files)
    assert summary == json.loads((folder / "scores.json").read_text())
    clean, degraded = (summary["qualities"][quality] for quality in ("100", "20"))
    assert clean.keys() == degraded.keys() == {"model", *BASELINES, "a/model.onnx"}
    assert all(clean[name]["psnr"] > degraded[name]["psnr"] for name in clean)
    counts = {(means["photos"], means["interval"]["psnr"]) for means in degraded.values()}
    assert counts == {(summary["photos"], None)}
    assert summary["below_lanczos"].keys() == {"model", "a/model.onnx"}
    run = mlflow.search_runs(output_format="list")[0]
    logged = {name: run.data.metrics[name] for name in ("photos/q100/psnr", "photos/q20/lanczos/psnr")}
    assert logged == {
        "photos/q100/psnr": clean["model"]["psnr"],
        "photos/q20/lanczos/psnr": degraded["lanczos"]["psnr"],
    }
    assert run.data.params["qualities"] == "100,20"
    artifacts = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert artifacts == {"psnr.png", "psnr.txt", "comparison.png", "scores.json", "summary.json"}
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/psnr.txt") in capsys.readouterr().out


@pytest.mark.slow
def test_scores_of_a_shard_that_is_found_damaged_in_the_background_are_not_logged(folder, monkeypatch):
    dataset = prepare(parse_settings("preprocess", {"source": "photos", "label_size": 30, "quiet": True}))
    monkeypatch.setattr(data, "VERIFY_FIRST_BYTES", 0)
    for file in dataset.folder.glob("labels-*"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    weights = compute_filter_weights("lanczos", Fraction(3, 2))
    monkeypatch.setattr(evaluate, "_load_ridge", lambda *_: weights)
    given = {"model": "bicubic", "dataset": dataset.location, "split": "all", "quiet": True}
    with pytest.raises(LoupeError, match="is missing or changed"):
        evaluate.run(parse_settings("evaluate", given))
    (run,) = mlflow.search_runs(filter_string="attributes.status = 'FAILED'", output_format="list")
    assert not run.data.metrics


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "degrade: has no effect with photos=none, got jpeg"),
        ({"photos": "x", "protocol": "classical"}, "degrade: has no effect with protocol=classical, got jpeg"),
        ({"photos": "x", "recompress": 75}, "recompress: has no effect with degrade=jpeg, got 75"),
        ({"photos": "x", "qualities": []}, "qualities: must be numbers from 1 to 100, comma-separated, got '[]'"),
        (
            {"photos": "x", "qualities": "75,0"},
            "qualities: must be numbers from 1 to 100, comma-separated, got '75,0'",
        ),
    ],
)
def test_degraded_inputs_need_photos_and_the_protocol_labels(given, message):
    with pytest.raises(UsageError) as refused:
        parse_settings("evaluate", given | {"degrade": "jpeg"})
    assert str(refused.value) == message


@pytest.mark.parametrize("given", [{"label_size": 90}, {"protocol": "classical"}])
@pytest.mark.parametrize("name", ["sample", "caltech256", "a,b"])
def test_a_folder_of_photos_can_have_the_name_of_a_source_or_a_comma(name, given, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "download", lambda *_, **__: pytest.fail("a source was downloaded"))
    shutil.copytree(photos, name)
    settings = parse_settings("evaluate", {"photos": name, "quiet": True} | given)
    images = protocols.open_images(settings, Fraction(3, 2), "rec601")
    assert {row["path"] for row in images.pairs.rows} == {"0/coffee.png", "1/chelsea.png", "0/rocket.jpg"}
    assert (images.name, images.description) == (name.replace(",", "-"), name)


def test_a_file_of_scores_or_a_sheet_does_not_replace_a_photo_or_each_other(folder):
    photo = next((folder / "photos").glob("**/*.png"))
    for fields in ({"out": str(photo)}, {"sheet": str(photo)}, {"photos": str(photo), "out": str(photo)}):
        with pytest.raises(UsageError, match=r"^(out|sheet): must not replace one of the `photos`, got '"):
            evaluated(model="lanczos", **fields)
    with pytest.raises(UsageError, match=r"^sheet: must be another file than `out`, got './a.png'$"):
        evaluated(model="lanczos", out="a.png", sheet="./a.png")


def test_other_models_without_the_scale_factor_of_the_model_are_refused():
    with pytest.raises(UsageError, match=r"^others: must be .* for the bundled network tiny, got 3:1$"):
        evaluated(model="lanczos", others="tiny", scale="3:1")


def test_photos_that_do_not_exist_are_refused():
    with pytest.raises(UsageError, match=r"^photos: must be a folder, tar file or image that exists, got 'nowhere'$"):
        evaluated(photos="nowhere", model="tiny")


@pytest.mark.parametrize("protocol", ["labels", "classical"])
@pytest.mark.parametrize("content", ["folder", "file"])
def test_photos_without_an_image_are_refused_by_the_name_of_the_field(content, protocol, tmp_path):
    if content == "file":
        (tmp_path / "photos").write_text("no tar", encoding="utf-8")
    else:
        (tmp_path / "photos").mkdir()
    settings = parse_settings("evaluate", {"photos": str(tmp_path / "photos"), "protocol": protocol})
    with pytest.raises(UsageError, match=r"^photos: must (contain an image|be a complete, uncompressed tar), got "):
        protocols.open_images(settings, Fraction(3, 2), "rec601")


def test_inputs_smaller_than_the_patches_of_the_study_are_refused():
    labels = np.zeros((1, 6, 6), "uint8")
    pairs = Pairs.from_images([{"sha256": "0"}], labels[:, :4, :4], labels, Fraction(3, 2))
    settings = parse_settings("evaluate", {"protocol": "study-patches"})
    rule = "must not be study-patches for inputs smaller than a patch of 10x10 pixels"
    with pytest.raises(UsageError, match=f"^protocol: {rule}, got inputs of 4x4 pixels$"):
        protocols.score_images(settings, build_classical(pairs.scale), pairs)


@pytest.mark.parametrize(
    ("model", "others", "names"),
    [
        ("small", ["tiny", "nets/perceptron.onnx"], ["tiny", "perceptron"]),
        ("small", ["runs:/a1/model", "runs:/b2/model"], ["runs:/a1/model", "runs:/b2/model"]),
        ("small", ["runs:/a1/model", "tiny"], ["runs:/a1/model", "tiny"]),
        ("x/net.keras", ["y/net.keras"], ["y/net.keras"]),
        ("bicubic", ["tiny", "ridge"], ["tiny"]),
    ],
)
def test_the_name_of_a_model_is_shortened_if_the_short_name_is_unique(model, others, names):
    found = evaluate.choose_names(parse_settings("evaluate", {"model": model, "others": others}))
    assert [found[name] for name in others if name in found] == names


@pytest.mark.parametrize(
    ("model", "others"), [("small", "tiny,tiny"), ("small", "small"), ("small", "model"), ("x/a.onnx", "x-a.onnx,a")]
)
def test_two_models_of_the_same_name_are_refused(model, others):
    with pytest.raises(UsageError, match=r"^others: must name different models"):
        evaluated(model=model, others=others)


def test_the_error_for_a_missing_model_in_others_names_this_field(folder):
    settings = parse_settings("evaluate", {"others": "tiny,missing.onnx"})
    with pytest.raises(UsageError, match=r"^others: must be champion, .* that exists, got 'missing\.onnx'$"):
        evaluate._load_others(settings, settings.scale, evaluate.choose_names(settings))
