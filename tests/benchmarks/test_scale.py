"""The claims of docs/scale.md at small sizes; the programs in this folder measure them at large sizes.

The tests check memory, database rows and numbers of requests. They do not check run times, which depend on the load.
"""

import io
import tarfile

import pandas as pd
import pytest
import scale_dataset
import scale_preprocess
import scale_report
import scale_study
import scale_sweep
from PIL import Image

from loupe.data.sources import find_bundled_photo
from loupe.search import worker_pool

MAX_MEMORY_RATIO = 1.1  # for four times the photos


@pytest.fixture(scope="module")
def small_tar(tmp_path_factory):
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
def test_preprocess_needs_the_same_memory_for_four_times_the_photos(small_tar, tmp_path):
    few, many = (
        scale_preprocess.measure_memory(
            scale_preprocess.write_tar(small_tar, tmp_path / f"photos-{count}.tar", count)
        )
        for count in (500, 2000)
    )
    for process, before, after in zip(("client", "worker"), few, many, strict=True):
        assert after < MAX_MEMORY_RATIO * before, f"{process}: {before:.0f} MB, then {after:.0f}"


@pytest.mark.slow
def test_opening_a_dataset_needs_little_memory_per_label():
    few, many = (scale_dataset.measure_in_new_process(labels)["MB"] for labels in (1000, 500_000))
    assert many - few < 100  # 0.2 kB per label; a row as a dict needs 1 kB


def test_bare_loop_makes_as_many_labels_as_preprocess(small_tar, tmp_path):
    file = scale_preprocess.write_tar(small_tar, tmp_path / "photos.tar", 40)
    counts, seconds = scale_preprocess.measure_in_new_process(file)
    assert scale_preprocess.run_bare_loop(file)[0] == counts["labels"] == 40
    assert seconds > 0


def test_number_of_waiting_trials_does_not_grow_with_the_sweep(tmp_path):
    sweep = scale_study.create_sweep(1000)
    waited = []

    def poll(parent, watch):
        before = parent.count_waiting()
        parent.enqueue_missing(2 * scale_study.WORKERS + worker_pool.SPARE_TRIALS)
        waited.append((before, parent.count_waiting(), len(parent.optuna_study.trials)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale_study, "poll", poll)
        scale_study.run(str(tmp_path / "study.log"), sweep, 100)
    assert max(after for _, after, _ in waited) == 2 * scale_study.WORKERS + worker_pool.SPARE_TRIALS
    assert min(after for _, after, known in waited if known < 1000) > 0  # a worker never runs out of trials
    assert waited[-1] == (0, 0, 1000)


def test_report_requests_a_curve_only_if_the_run_has_no_tag_for_it(tmp_path, monkeypatch):
    import mlflow

    from loupe.tracking import run_table

    requested = []
    get_history = mlflow.MlflowClient.get_metric_history
    monkeypatch.setattr(
        mlflow.MlflowClient,
        "get_metric_history",
        lambda *arguments: requested.append(arguments[1]) or get_history(*arguments),
    )
    tables = []
    for name, without_tags in (("with", False), ("without", True)):
        uri = f"sqlite:///{tmp_path / name}.db"
        scale_report.fill(uri, 60, without_tags)
        mlflow.set_tracking_uri(uri)
        tables.append(run_table.load_run_table())
        assert len(requested) == len(set(requested)) == (60 if without_tags else 0)
    mlflow.set_tracking_uri(None)
    pd.testing.assert_frame_equal(*tables)
    assert len(tables[0]["curve.step"].iloc[0]) == 17


@pytest.mark.slow(60)
def test_two_workers_run_each_trial_once(tmp_path):
    _, printed, trials, runs = scale_sweep.run(tmp_path, workers=2, trials=4, steps=20)
    sweep = scale_sweep.check(4, trials, runs)
    assert 0 < sweep.data.metrics["overhead"] < 1
    assert "error" not in printed.lower()
    assert not list(tmp_path.rglob("mlflow.db"))  # no local store
