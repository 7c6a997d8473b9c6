"""A new model becomes champion only if it is better on photos of the gate dataset that no model was selected on."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest

from loupe.config import parse_settings
from loupe.data import preparation
from loupe.data.labels import shrink_label
from loupe.data.pairs import Pairs
from loupe.errors import LoupeError, UsageError
from loupe.photos.networks import load_bundled
from loupe.steps import register
from loupe.tracking import gate, models
from loupe.tracking.candidates import Candidate
from loupe.upscalers.baselines import FilterUpscaler

SCALE, SIDE, PHOTOS = Fraction(3, 2), 48, 12
SETTINGS = parse_settings("register", {})
TASK = {"luminance": "rec601", "shrink": "lanczos", "degrade": "none"}


class PhotoSet:
    """A dataset in memory: `splits` are the splits of its photos by number."""

    is_damaged = False

    def __init__(self, real_crop, splits, name="photos-1f", **settings):
        self.folder, self.digest, self.location, self.settings = Path(name), "1f", name, TASK | settings
        self._splits, self._cut = splits, real_crop

    def read_photo_hashes(self, splits):
        return np.array([f"{number:064}" for number, split in self._splits.items() if split in splits], dtype=str)

    def finish_verification(self):
        if self.is_damaged:
            raise LoupeError("dataset: a shard is damaged")

    def load_pairs(self, split, scale):
        assert split == "all"
        labels = [
            np.asarray(self._cut("coffee.png", number * 40, 100, SIDE, SIDE).convert("L")) for number in self._splits
        ]
        rows = [{"path": str(number), "sha256": f"{number:064}"} for number in self._splits]
        return Pairs.from_images(rows, [shrink_label(label, scale, "lanczos") for label in labels], labels, scale)


@pytest.fixture
def dataset(real_crop):
    """12 test photos, and 2 photos in each other split."""
    splits = ["test"] * PHOTOS + ["train"] * 2 + ["validation"] * 2
    return PhotoSet(real_crop, dict(enumerate(splits)))


def compare(challenger, own, gate_dataset, champion=None):
    candidate = Candidate(models.ModelReference("challenger", "uri"), "challenger", SCALE, own, "photos")
    return gate.compare_with_champion(challenger, candidate, champion, gate_dataset, SETTINGS)


def test_the_first_model_must_beat_the_bundled_network_and_not_only_nearest(dataset):
    result = compare(FilterUpscaler("bilinear", SCALE), dataset, dataset)
    assert result.defender == "the bundled network small of 3:2"
    assert not result.is_better
    assert result.mae > result.defender_mae
    assert result.photos == PHOTOS
    assert compare(load_bundled("base", SCALE).model, dataset, dataset).is_better


def test_scores_of_damaged_images_do_not_decide(dataset):
    dataset.is_damaged = True
    with pytest.raises(LoupeError, match="a shard is damaged"):
        compare(FilterUpscaler("bilinear", SCALE), dataset, dataset)


@pytest.mark.parametrize(
    ("maes", "interval", "is_better"),
    [((0.0417, 0.0200), [0.02, 0.03], False), ((0.0190, 0.0200), [-0.002, 0.0001], False),
     ((0.0190, 0.0200), None, False), ((0.0190, 0.0200), [-0.002, -0.0001], True)],
)  # fmt: skip
def test_a_model_is_better_only_if_the_interval_is_below_zero(maes, interval, is_better):
    mae, defender = maes
    result = gate.GateResult(mae, "small", defender, mae - defender, interval, 9 if interval else 7, "photos-1f")
    assert result.is_better == is_better
    assert ("95 % interval" if interval else "no interval with fewer than 8 photos") in result.reason


def test_a_champion_that_cannot_be_downloaded_does_not_count_as_missing(dataset, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no answer of the object store")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", fail)
    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", fail)
    champion = SimpleNamespace(name="loupe", version="1", source="s3://models/1", run_id="1")
    with pytest.raises(LoupeError, match="model: loupe version 1 cannot be loaded: no answer of the object store"):
        compare(FilterUpscaler("bilinear", SCALE), dataset, dataset, champion)


def test_photos_that_a_model_was_trained_or_selected_on_are_not_compared(dataset, real_crop, monkeypatch):
    champion = SimpleNamespace(name="loupe", version="1", run_id="1")
    splits = {0: "train", 1: "validation", 2: "test", 99: "train"}
    monkeypatch.setattr(gate, "_open_dataset", lambda *_: PhotoSet(real_crop, splits))
    monkeypatch.setattr(gate, "_load_defender", lambda *_: (FilterUpscaler("nearest", SCALE), "nearest"))
    result = compare(FilterUpscaler("bilinear", SCALE), dataset, dataset, champion)
    assert result.photos == PHOTOS - 2
    # A model whose photos are unknown may have been trained on the gate dataset.
    monkeypatch.setattr(gate, "_open_dataset", lambda *_: None)
    other = PhotoSet(real_crop, {50: "train"})
    assert compare(FilterUpscaler("bilinear", SCALE), other, dataset, champion).photos == PHOTOS
    assert compare(FilterUpscaler("bilinear", SCALE), other, dataset).photos == PHOTOS + 4
    with pytest.raises(UsageError, match=r"gate: must contain a photo that neither model .*, got none in photos-1f"):
        compare(FilterUpscaler("bilinear", SCALE), PhotoSet(real_crop, dict.fromkeys(range(16), "train")), dataset)


@pytest.fixture
def recorded(dataset, monkeypatch):
    """The gate dataset is recorded in the tags of the registered model."""
    tags = {"loupe.gate_dataset": "photos-1f", "loupe.gate_digest": "1f", "loupe.gate_source": "photos"}
    monkeypatch.setattr(models, "get_registered_tags", lambda name: tags)
    monkeypatch.setattr(
        preparation, "reopen", lambda settings, *found: dataset if found == (*tags.values(), SCALE) else None
    )
    return tags


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [("luminance", "relative", "rec601"), ("shrink", "box", "lanczos"), ("degrade", "jpeg", "none"),
     ("recompress", "75", "none")],
)  # fmt: skip
def test_a_model_for_another_task_is_refused(recorded, real_crop, field, value, wanted):
    own = PhotoSet(real_crop, {0: "train"}, "blurred-2f", **{field: value})
    candidate = Candidate(models.ModelReference("challenger", "uri"), "challenger", SCALE, own, "blurred")
    rule = f"must be {wanted} for the new model, as in the gate dataset photos-1f of loupe"
    message = f"{field}: {rule}, got {value}; --gate selects"
    with pytest.raises(UsageError, match=message):
        gate.open_gate(SETTINGS, candidate, "rec601")


def test_the_recorded_gate_dataset_is_used_until_another_one_is_given(dataset, recorded, real_crop, monkeypatch):
    own = PhotoSet(real_crop, {0: "train"}, "mine-2f")
    candidate = Candidate(models.ModelReference("challenger", "uri"), "challenger", SCALE, own, "mine")
    assert gate.open_gate(SETTINGS, candidate, "rec601") == (dataset, recorded)
    monkeypatch.setattr(preparation, "open_or_prepare", lambda settings, name, scale: own)
    _, tags = gate.open_gate(parse_settings("register", {"gate": "kodak"}), candidate, "rec601")
    assert tags["loupe.gate_dataset"] == "mine-2f"
    monkeypatch.setattr(models, "get_registered_tags", lambda name: {})
    assert gate.open_gate(SETTINGS, candidate, "rec601")[0] is own


@pytest.mark.parametrize(
    ("better", "known", "smoke", "accepted", "reason"),
    [(True, True, False, True, "95 % interval"), (False, True, False, False, "95 % interval"),
     (True, True, True, False, "a model of a short test (--smoke) becomes champion only by `register --version`"),
     (True, False, False, False, "unknown; `loupe register --scale 3:2 --version 4` makes it the champion")],
)  # fmt: skip
def test_a_better_model_becomes_champion_unless_it_is_of_a_short_test_or_unknown(
    dataset, better, known, smoke, accepted, reason
):
    interval = [-0.002, -0.001] if better else [0.001, 0.002]
    result = gate.GateResult(0.01, "small", 0.02, sum(interval) / 2, interval, PHOTOS, "photos-1f")
    own, version = dataset if known else None, SimpleNamespace(version="4")
    candidate = Candidate(models.ModelReference("challenger", "uri"), "challenger", SCALE, own, is_smoke=smoke)
    found, is_accepted = register._judge(candidate, result, version, False)
    assert is_accepted == accepted
    assert reason in found
