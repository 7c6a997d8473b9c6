"""The step that judges and writes the pages, from a table; from a store: tests/steps/test_report.py."""

import re
import shutil
from pathlib import Path

import pytest
from made_up import SWEEPS, table_of

from loupe.config import parse_settings
from loupe.errors import UsageError
from loupe.report import results
from loupe.report.readme import MARKER
from loupe.steps import report

ROOT = SWEEPS.parent
README = "# Title\n<!-- report: summary -->\n<!-- report: end -->\n<!-- report: claims -->\n<!-- report: end -->\n"


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A folder such as docs: a table, and a image that no table can give."""
    folder = tmp_path_factory.mktemp("docs")
    results.write(table_of([SWEEPS / "dropout.toml"]), folder / "results.parquet")
    for name in ("sweeps", "images"):
        (folder / name).mkdir()
    for name in ("dropout", "loss", "crops"):
        shutil.copy(SWEEPS / f"{name}.toml", folder / "sweeps")
    (folder / "images" / "story.png").write_bytes(b"\x89PNG story")
    return folder


def from_table(table: Path, out: Path, **more: str) -> str:
    """The Markdown page of a report from a table, by the sweep files beside it."""
    given = {"from_": str(table), "out": str(out), "sweeps": str(table.parent / "sweeps"), "quiet": True}
    report.run(parse_settings("report", given | more))
    return (out / "report.md").read_text()


def test_a_table_is_enough_for_the_pages_and_for_readme(kept, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(README)
    markdown = from_table(kept / "results.parquet", tmp_path / "out", readme=str(readme))
    out = tmp_path / "out"
    assert (out / "images" / "story.png").read_bytes() == b"\x89PNG story"
    named = set(re.findall(r"\(images/([\w-]+)\.png\)", markdown))
    assert named == {path.stem for path in (out / "images").iterdir()}
    assert (out / "results.parquet").read_bytes() == (kept / "results.parquet").read_bytes()
    claims = [line for line in readme.read_text().splitlines() if line.startswith("| 18 ")]
    assert len(claims) == 1
    assert claims[0] in markdown
    assert "Not run: any: no run with val/best_mae." in markdown  # claim 31, whose points the table has not
    again = from_table(out / "results.parquet", out, readme=str(readme), sweeps=str(kept / "sweeps"))
    assert again == markdown


def test_a_wrong_readme_stops_it_before_anything_is_written(kept, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- report: clams -->\n<!-- report: end -->\n")
    with pytest.raises(UsageError, match="clams"):
        from_table(kept / "results.parquet", tmp_path / "out", readme=str(readme))
    assert not list(tmp_path.glob("out/*.*"))


def test_a_dataset_or_a_folder_of_sweeps_that_is_not_there_is_refused(kept, tmp_path):
    for field in ("dataset", "sweeps"):
        with pytest.raises(UsageError, match=f"^{field}: .*'nowhere'"):
            from_table(kept / "results.parquet", tmp_path / "out", **{field: "nowhere"})


def test_the_pages_of_docs_and_the_tables_of_readme_are_those_of_the_table(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text((ROOT / "README.md").read_text())
    table = ROOT / "docs" / "results.parquet"
    markdown = from_table(table, tmp_path / "out", readme=str(readme), sweeps=str(SWEEPS))
    assert MARKER.search(readme.read_text())
    assert readme.read_text() == (ROOT / "README.md").read_text()
    assert markdown.replace(str(SWEEPS), "sweeps") == (ROOT / "docs" / "report.md").read_text()
    assert (tmp_path / "out" / "results.parquet").read_bytes() == table.read_bytes()
