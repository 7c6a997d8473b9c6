"""The report step with a table of runs; tests/steps/test_report.py tests it with MLflow."""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import build_env
from made_up import SWEEPS, make_table
from PIL import Image

from loupe.config import parse_settings
from loupe.errors import LoupeError, UsageError
from loupe.report import results
from loupe.steps import report

DOCS = SWEEPS.parent / "docs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a table of runs and its sweep files."""
    folder = tmp_path_factory.mktemp("docs")
    results.write(make_table([SWEEPS / "activation.toml"]), folder / "results.parquet")
    (folder / "sweeps").mkdir()
    for name in ("activation", "loss", "crops"):
        shutil.copy(SWEEPS / f"{name}.toml", folder / "sweeps")
    return folder


def write_report(table: Path, out: Path, **settings: str) -> str:
    """Write a report from a table with the sweep files next to it; return the Markdown page."""
    defaults = {"from_": str(table), "out": str(out), "sweeps": str(table.parent / "sweeps"), "quiet": True}
    report.run(parse_settings("report", defaults | settings))
    return (out / "report.md").read_text()


def test_table_is_enough_for_the_report(folder, tmp_path):
    out = tmp_path / "out"
    markdown = write_report(folder / "results.parquet", out)
    assert (out / "results.parquet").read_bytes() == (folder / "results.parquet").read_bytes()
    assert len([line for line in markdown.splitlines() if line.startswith("| 6 | tanh beats")]) == 1
    assert "| not run | any: no run has val/best_mae |" in markdown  # claim 31: no run of its sweep
    assert write_report(out / "results.parquet", out, sweeps=str(folder / "sweeps")) == markdown


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_keeps_the_earlier_report(folder, tmp_path):
    out = tmp_path / "out"
    write_report(folder / "results.parquet", out)
    before = read_files(out)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["report.html"]) // 2, limits[1]))
    try:
        with pytest.raises(LoupeError, match=r"^out: .* cannot be written: File too large$"):
            write_report(folder / "results.parquet", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_files(out) == before


@pytest.mark.slow
def test_the_locale_does_not_change_the_report(folder, tmp_path):
    write_report(folder / "results.parquet", tmp_path / "utf-8")
    settings = {"from": folder / "results.parquet", "out": tmp_path / "ascii", "sweeps": folder / "sweeps"}
    command = [sys.executable, "-m", "loupe", "report", "--quiet"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run(command, check=True, cwd=tmp_path, env=build_env(**ascii_only))
    assert read_files(tmp_path / "ascii") == read_files(tmp_path / "utf-8")
    assert not read_files(tmp_path / "utf-8")["report.md"].isascii()


def test_missing_dataset_and_missing_sweep_folder_are_refused(folder, tmp_path):
    for field in ("dataset", "sweeps"):
        with pytest.raises(UsageError, match=f"^{field}: .*'nowhere'"):
            write_report(folder / "results.parquet", tmp_path / "out", **{field: "nowhere"})
    assert not (tmp_path / "out").exists()


def test_docs_contain_the_report_of_their_table(tmp_path):
    table = DOCS / "results.parquet"
    out = tmp_path / "out"
    markdown = write_report(table, out, sweeps=str(SWEEPS))
    assert markdown.replace(str(SWEEPS), "sweeps") == (DOCS / "report.md").read_text()
    pd.testing.assert_frame_equal(results.read(out / "results.parquet"), results.read(table))
    assert len(markdown.splitlines()) <= 200
    images = re.findall(r"!\[[^]]+\]\(([^)]+)\)", markdown)
    assert len(images) == 4
    for image in images:
        assert (DOCS / image).stat().st_size <= 60_000
        stored, drawn = (np.asarray(Image.open(folder / image).convert("RGB"), float) for folder in (DOCS, out))
        assert stored.shape == drawn.shape
        assert stored.shape[1] == 800
        assert np.abs(stored - drawn).mean() < 1  # of 255; fonts may differ slightly


@pytest.mark.parametrize("out", ["", "file", "file/below", "link"])
def test_an_out_that_cannot_be_a_folder_is_refused_before_the_table_is_read(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    os.symlink("missing", "link")
    with pytest.raises(UsageError, match=f"^out: must be a folder, got '{out}'$"):
        report.run(parse_settings("report", {"from_": "nowhere.parquet", "out": out}))


@pytest.mark.parametrize("create", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_table_that_is_not_a_file_is_refused(create, folder, tmp_path):
    create(tmp_path / "table")
    with pytest.raises(UsageError, match=r"^from: must be a results.parquet of a report, got "):
        results.read(tmp_path / "table")


@pytest.mark.parametrize("name", ["run_id", "metrics.val/best_mae", "settings.network", "other"])
def test_a_table_with_another_column_is_refused(name, folder, tmp_path):
    table = pq.read_table(folder / "results.parquet")
    values = pa.array([[{"a": 1}]] * len(table))
    kept = table.drop_columns([name]) if name in table.column_names else table
    pq.write_table(kept.append_column(name, values), tmp_path / "table")
    with pytest.raises(UsageError, match=r"^from: must be a results.parquet of a report, got .*: the column "):
        results.read(tmp_path / "table")


def test_a_table_with_two_columns_of_the_same_name_is_refused(folder, tmp_path):
    table = pq.read_table(folder / "results.parquet")
    pq.write_table(table.append_column("run_id", table["run_id"]), tmp_path / "table")
    with pytest.raises(UsageError, match=r"^from: .* several columns have the same name"):
        results.read(tmp_path / "table")
