"""The scores of `loupe evaluate --degrade jpeg` in the report."""

import dataclasses
import re
from typing import Any

import pandas as pd

from loupe.report import page
from loupe.report.contents import ReportContents
from loupe.report.quality_scores import read_quality_scores


def make_evaluation(run_id: str, started: str, scores: dict[str, float]) -> dict[str, Any]:
    facts = {"run_id": run_id, "name": "evaluate small on kodak24", "kind": "evaluate", "started": started}
    return facts | {f"metrics.photos/{name}psnr": value for name, value in scores.items()}


SCORES = {"q100/": 34.0, "q100/lanczos/": 33.0, "q75/": 32.25, "q75/lanczos/": 31.0}
TABLE = pd.DataFrame(
    [
        make_evaluation("new", "2026-01-02", SCORES),
        make_evaluation("old", "2026-01-01", dict.fromkeys(SCORES, 20.0)),
        make_evaluation("other", "2026-01-01", {"q75/": 29.0}) | {"name": "evaluate base on kodak24"},
        make_evaluation("without compression", "2026-01-03", {"": 35.0, "lanczos/": 33.0}),
        make_evaluation("a training", "2026-01-03", {"q75/": 35.0}) | {"kind": "train"},
    ]
)


def test_scores_are_those_of_the_newest_evaluation_by_quality_and_method() -> None:
    scores = {each.name: each.table for each in read_quality_scores(TABLE)}
    assert scores == {
        "evaluate base on kodak24 (run other)": [("method", "75"), ("model", "29.00")],
        "evaluate small on kodak24 (run new)": [
            ("method", "100", "75"), ("lanczos", "33.00", "31.00"), ("model", "34.00", "32.25"),
        ],
    }  # fmt: skip


def test_only_the_html_page_has_tables_and_figures_of_scores_by_quality(report: ReportContents) -> None:
    title = "Photos with JPEG artefacts"
    assert title not in page.render_html(report)
    report = dataclasses.replace(report, quality_scores=read_quality_scores(TABLE))
    assert title not in page.render_markdown(report)
    section = page.render_html(report).partition(title)[2].partition("Each claim")[0]
    assert section.count("<table>") == section.count("<img ") == 2
    assert "<td>32.25</td>" in section
    assert re.search(r'src="data:image/png;base64,iVBOR', section)
