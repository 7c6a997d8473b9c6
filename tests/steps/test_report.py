"""The report step: pages from a store or a results table, and refusal without results."""

import pytest
from jobs import list_runs, loupe, open_store

from loupe.report import results

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
        ([], "loupe sweep sweeps/activation.toml"),
        (["--from", "nowhere.parquet"], "nowhere.parquet"),
    ],
)
def test_report_without_results_is_refused_in_one_line(tmp_path, arguments, word):
    done = loupe("report", *arguments, cwd=tmp_path, status=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("loupe report: error: ")]
    assert len(lines) == 1
    assert word in lines[0]
    assert not (tmp_path / "report").exists()


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
