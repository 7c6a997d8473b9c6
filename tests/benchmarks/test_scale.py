"""The claims of docs/scale.md at small sizes: what the programs beside this measure at large ones.

Seconds are not asserted, since a neighbour on the cores makes no program slow, but what they come from: memory, how
much a database is asked for, how many requests a report takes.
"""

import io
import tarfile

import pandas as pd
import pytest
import scale_preprocess
import scale_report
import scale_study
import scale_sweep
from PIL import Image

from loupe.data.sources import find_bundled_photo
from loupe.search import worker_pool

AT_MOST = 1.1  # times the memory, for four times the photos


@pytest.fixture(scope="module")
def some_photos(tmp_path_factory):
    """A tar of a dozen crops of a real photo."""
    file = tmp_path_factory.mktemp("photos") / "some.tar"
    with Image.open(find_bundled_photo()) as photo, tarfile.open(file, "w") as tar:
        for number in range(12):
            stream = io.BytesIO()
            photo.crop((20 * number, 10 * number, 20 * number + 190, 10 * number + 170)).save(stream, "JPEG")
            member = tarfile.TarInfo(f"{number:02d}.jpg")
            member.size = len(stream.getvalue())
            tar.addfile(member, io.BytesIO(stream.getvalue()))
    return file


@pytest.mark.slow
def test_preparing_four_times_the_photos_takes_the_same_memory(some_photos, tmp_path):
    few, many = (
        scale_preprocess.peaks_of_command(
            scale_preprocess.write_tar(some_photos, tmp_path / f"photos-{count}.tar", count)
        )
        for count in (500, 2000)
    )
    for what, before, after in zip(("client", "worker"), few, many, strict=True):
        assert after < AT_MOST * before, f"{what}: {before:.0f} MB, then {after:.0f}"


def test_the_bare_loop_makes_as_many_labels_as_preparing(some_photos, tmp_path):
    file = scale_preprocess.write_tar(some_photos, tmp_path / "photos.tar", 40)
    counts, seconds, listing = scale_preprocess.of_loupe(file)
    assert scale_preprocess.bare_loop(file)[0] == counts["labels"] == 40
    assert 0 < listing < seconds


def test_few_trials_wait_however_many_are_wanted(tmp_path):
    sweep = scale_study.sweep_of(1000)
    waited = []

    def look(parent, watch):
        before = parent.count_waiting()
        parent.enqueue_missing(2 * scale_study.WORKERS + worker_pool.SPARE_TRIALS)
        waited.append((before, parent.count_waiting(), len(parent.optuna_study.trials)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale_study, "look", look)
        scale_study.run(str(tmp_path / "study.log"), sweep, 100)
    assert max(after for _, after, _ in waited) == 2 * scale_study.WORKERS + worker_pool.SPARE_TRIALS
    assert min(after for _, after, known in waited if known < 1000) > 0  # a worker always finds one
    assert waited[-1] == (0, 0, 1000)


def test_a_report_asks_for_no_curve_that_stands_with_its_run(tmp_path, monkeypatch):
    import mlflow

    from loupe.tracking import run_table

    asked = []
    answer = mlflow.MlflowClient.get_metric_history
    monkeypatch.setattr(
        mlflow.MlflowClient, "get_metric_history", lambda *given: asked.append(given[1]) or answer(*given)
    )
    tables = []
    for name, without_tags in (("with", False), ("without", True)):
        uri = f"sqlite:///{tmp_path / name}.db"
        scale_report.fill(uri, 60, without_tags)
        mlflow.set_tracking_uri(uri)
        tables.append(run_table.load_run_table())
        assert len(asked) == len(set(asked)) == (60 if without_tags else 0)
    mlflow.set_tracking_uri(None)
    pd.testing.assert_frame_equal(*tables)
    assert len(tables[0]["curve.step"].iloc[0]) == 17


@pytest.mark.slow
@pytest.mark.xdist_group("sweep services")
def test_many_short_trials_by_several_workers_are_each_run_once(tmp_path):
    taken, said, found, runs = scale_sweep.run(tmp_path, workers=4, trials=16, seconds=0.3)
    sweep = scale_sweep.check(16, found, runs)
    assert 0 < sweep.data.metrics["overhead"] < 1
    assert "error" not in said.lower()
    assert taken > 0
