"""Trained networks compete to become champion: `loupe register` compares them on the photos of one gate dataset."""

import pytest
from jobs import list_runs, loupe, open_store
from PIL import ImageFilter

SIDE, PHOTOS = 64, 72  # 9 photos are in the test split; the gate needs 8


@pytest.fixture
def folder(tmp_path, real_crop):
    """A folder with real photos, and with other photos that are blurred."""
    for kind, name in {"sharp": "astronaut.png", "blurred": "coffee.png"}.items():
        (tmp_path / kind).mkdir()
        for number in range(PHOTOS):
            photo = real_crop(name, number % 9 * 56, number // 9 * 48, SIDE, SIDE)
            photo = photo.filter(ImageFilter.GaussianBlur(2)) if kind == "blurred" else photo
            photo.save(tmp_path / kind / f"{number:02}.png")
    return tmp_path


@pytest.mark.slow(40)
def test_only_a_model_that_is_better_on_the_gate_dataset_becomes_champion(folder):
    client = open_store(folder)

    def prepare(kind):
        # The bundled networks are poor at noise: a small network is better after a few steps.
        noise = ["--degrade", "camera", "--noise_levels", "15,20", "--clean_share", 1]
        loupe("preprocess", "--source", kind, "--label_size", 60, *noise, "--quiet", cwd=folder)
        (dataset,) = (folder / "data").glob(f"{kind}-*")
        return dataset

    def train_and_register(dataset, *words):
        """Return the finished training, the printed decision, and the number of the champion."""
        network = ["--layers", 1, "--filters", 8, "--crop-size", 20, "--eval_every", 40, "--quiet", *words]
        loupe("train", "--dataset", dataset, *network, cwd=folder)
        run = list_runs(folder)[0]
        decision = loupe("register", "--run", run.info.run_id, cwd=folder).stdout
        aliases = client.get_registered_model("loupe").aliases
        assert sum(version.run_id == run.info.run_id for version in client.search_model_versions()) == 1
        return run, decision, aliases.get("champion")

    dataset = prepare("sharp")
    _, decision, champion = train_and_register(dataset, "--skip", "none", "--steps", 2)
    assert "of the bundled network small of 3:2 on 9 photos of sharp-" in decision
    assert champion is None
    *_, decision, champion = train_and_register(dataset, "--smoke")
    assert "a model of a short test (--smoke) becomes champion only by `register --version`" in decision
    assert champion is None
    better, decision, champion = train_and_register(dataset, "--steps", 40)
    assert "/3: champion: mae" in decision
    assert "of the bundled network small of 3:2 on 9 photos of sharp-" in decision
    assert champion == 3

    # On its own blurred photos, the next network has a lower error than the champion on the sharp photos.
    blurred, decision, champion = train_and_register(prepare("blurred"), "--steps", 40)
    for score in ("val/best_mae", "test/mae"):
        assert blurred.data.metrics[score] < better.data.metrics[score]
    assert "/4: not champion" in decision
    assert "of loupe version 3 on 9 photos of sharp-" in decision
    assert champion == 3
    assert client.get_registered_model("loupe").tags["loupe.gate_dataset"] == dataset.name
    loupe("register", "--run", blurred.info.run_id, cwd=folder)
    assert len(client.search_model_versions("name = 'loupe'")) == 4
