"""The report step: pages from a store or a results table, and refusal without results."""

from types import SimpleNamespace

import pandas as pd
import pytest
from jobs import list_runs, loupe, open_store

from loupe.config import parse_settings
from loupe.data import dataset, preparation
from loupe.errors import LoupeError, UsageError
from loupe.report import assembly, results
from loupe.steps import report

TINY = """
[study]
name = "tiny"
metric = "val/mae"
sampler = "grid"
repeats = 2
[train]
dataset = "sample"
network = "perceptron"
skip = "ridge"
steps = 4
eval_every = 2
eval_images = 4
batch_size = 16
[search]
hidden = ["none", "16"]
[[claim]]
number = "1"
text = "A hidden layer beats none"
metric = "val/best_mae"
arm = {hidden = "16"}
beats = [{hidden = "none"}]
"""


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "got none in MLflow; to create runs: loupe sweep sweeps/activation.toml"),
        (["--from", "nowhere.parquet"], "nowhere.parquet"),
    ],
)
def test_report_without_results_is_refused_in_one_line(tmp_path, arguments, word):
    done = loupe("report", *arguments, cwd=tmp_path, status=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("loupe report: error: ")]
    assert len(lines) == 1
    assert word in lines[0]
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("error", [UsageError, LoupeError])
def test_a_report_without_the_model_of_the_best_run_has_no_images_of_networks(error, monkeypatch, capsys):
    def load_deleted_model(row):
        raise error(f"model: {row['name']} cannot be loaded")

    best = pd.Series({"dataset": "photos-1f", "settings.scale": "3:2", "run_id": "1", "name": "best"})
    monkeypatch.setattr(assembly, "find_best_run", lambda rows: best)
    monkeypatch.setattr(preparation, "find_dataset", lambda *_: "data/photos-1f")
    monkeypatch.setattr(dataset, "Dataset", lambda location: SimpleNamespace(load_pairs=lambda *_: None))
    monkeypatch.setattr(report, "_load_network", load_deleted_model)
    assert report._draw_images(parse_settings("report", {}), pd.DataFrame()) == ()
    printed = capsys.readouterr().out
    assert printed == "the report has no images of networks because model: best cannot be loaded\n"


@pytest.mark.slow
def test_report_writes_pages_and_a_table_that_reproduces_them(tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "tiny.toml").write_text(TINY)
    loupe("sweep", "--sweep", "sweeps/tiny.toml", cwd=tmp_path, in_one_process=True)
    loupe("report", cwd=tmp_path)
    page = tmp_path / "report" / "report.html"
    run = next(run for run in list_runs(tmp_path) if run.data.tags.get("loupe.step") == "report")
    assert [item.path for item in open_store(tmp_path).list_artifacts(run.info.run_id)] == ["report.html"]
    assert run.info.status == "FINISHED"
    assert "most detailed region" in page.read_text(encoding="utf-8")  # images of networks
    assert len(results.read(tmp_path / "report" / "results.parquet")) == 4
    loupe("report", "--from", "report/results.parquet", "--out", "reproduced", cwd=tmp_path)
    reproduced = tmp_path / "reproduced" / "report.md"
    assert reproduced.read_bytes() == page.with_suffix(".md").read_bytes()
