"""The Markdown page and the HTML page."""

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from made_up import FILES, make_report

from loupe.report import page
from loupe.report.contents import ReportContents, ReportImage
from loupe.report.formatting import fill, format_comparison, format_difference, format_number, format_trend
from loupe.report.intervals import HOLDS, Estimate, Region
from loupe.report.tables import format_table, make_claims_table
from loupe.report.verdicts import Comparison


class Page(HTMLParser):
    """Collects the texts, addresses and open tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def test_html_page_needs_no_other_file(report: ReportContents) -> None:
    text = page.render_html(report)
    parsed = Page(text)
    assert not parsed.open
    assert {address.split(",")[0] for address in parsed.addresses} == {"data:image/png;base64"}
    assert len(parsed.addresses) == len(report.claims) + 1  # a chart per claim, and the story
    assert not re.search(r"https?:|//\w|@import|url\(|<script", re.sub(r"base64,[\w+/=]+", "", text))
    assert "Crops &amp; text" in text


def test_a_claim_whose_runs_have_no_learning_curve_is_shown(report: ReportContents) -> None:
    claims = tuple(dataclasses.replace(claim, trend=None) for claim in report.claims)
    text = page.render_html(dataclasses.replace(report, claims=claims))
    assert all(claim.verdict.claim.text in text for claim in claims)


HARMFUL = [
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>",
    "![image](http://example.org/image.png) [link](javascript:alert(1)) <http://example.org>",
]


@pytest.mark.parametrize("harm", HARMFUL)
def test_names_add_no_tags_and_no_addresses(report: ReportContents, harm: str) -> None:
    first = report.claims[0]
    verdict = dataclasses.replace(
        first.verdict, claim=first.verdict.claim.model_copy(update={"text": harm, "note": harm})
    )
    result = dataclasses.replace(first, sweep_file=harm, verdict=verdict, surprise=harm)
    texts: dict[str, Any] = {"datasets": (harm,), "best_network": harm, "study_network": harm}
    scores = report.best_scores | {"filter": harm, "network": "1", "input": "1"}
    harmful = dataclasses.replace(report, claims=(result,), best_scores=scores, **texts)
    parsed, markdown = Page(page.render_html(harmful)), page.render_markdown(harmful)
    assert not parsed.open
    assert {address.split(",")[0] for address in parsed.addresses} == {"data:image/png;base64"}
    assert "<" not in markdown
    assert sum("alert(1)" in text for text in parsed.texts) > 6


def test_both_pages_contain_each_claim_and_its_verdict(report: ReportContents) -> None:
    words = " ".join(" ".join(Page(page.render_html(report)).texts).split())
    markdown = page.render_markdown(report)
    rows = format_table(make_claims_table(report)).splitlines()[2:]
    for result, row in zip(report.claims, rows, strict=True):
        verdict = result.verdict
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert cells[0] == verdict.claim.number
        assert cells[2] == verdict.outcome
        assert cells[3] == format_difference(verdict)
        assert format_number(verdict.weakest.estimate.mean, 3) in cells[3]
        assert row in markdown
        assert format_trend(result.trend) in cells[4]
        for word in (verdict.outcome, format_difference(verdict), verdict.budget, f"loupe sweep {result.sweep_file}"):
            assert word in words
    assert report.summary in words
    assert report.summary in markdown


def test_markdown_has_only_the_figures_of_surprises(report: ReportContents) -> None:
    assert "Surprises" not in page.render_markdown(report)
    figure = ReportImage("claim-6", b"\x89PNG", "A figure")
    result = dataclasses.replace(report.claims[0], surprise="A surprising result.", figure=figure)
    markdown = page.render_markdown(dataclasses.replace(report, claims=(result,)))
    assert "A surprising result." in markdown
    assert re.findall(r"!\[[^]]+\]\(([^)]+)\)", markdown) == ["images/claim-6.png"]


def test_each_claim_is_in_one_group_of_changes(report: ReportContents) -> None:
    shown = page.render_markdown(report).split("## What would change our mind")[1]
    groups = re.findall(r"^- \*\*[^*]+\*\*: ([^.]+)\.", shown, re.MULTILINE)
    numbers = [number for group in groups for number in group.split(", ")]
    assert sorted(numbers) == sorted(result.verdict.claim.number for result in report.claims)


def test_scores_fill_a_text_or_are_a_dash() -> None:
    scores = {"mae": "0.064", "mse": "–"}
    assert fill("mae {mae}", scores) == "mae 0.064"
    assert fill("mae {mae}, mse {mse}", scores) == "–"


def test_markdown_tables_are_complete(report: ReportContents) -> None:
    text = page.render_markdown(report)
    assert "\n\n\n" not in text
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
            assert lines[1].startswith("| --- |")


def test_pages_are_deterministic(report: ReportContents, table) -> None:
    again = make_report(table.copy(), FILES, *report.images)
    assert page.render_html(again) == page.render_html(report)
    assert page.render_markdown(again) == page.render_markdown(report)


@pytest.mark.parametrize(
    ("name", "other", "text"),
    [
        ("tanh", "relu", "tanh − relu"),
        ("a=1, b=2", "a=3, b=2", "a=1 − a=3 (b=2)"),
        ("hidden=512,256, b=2", "hidden=512,128, c=2", "hidden=512,256, b=2 − hidden=512,128, c=2"),
        ("xavier", "initializer=gaussian, stddev=0.1", "xavier − initializer=gaussian, stddev=0.1"),
        ("a=1", "a=1, b=2", "a=1 − a=1, b=2"),
        ("tanh", "", "tanh"),
    ],
)
def test_name_of_a_comparison(name: str, other: str, text: str) -> None:
    assert format_comparison(Comparison(name, other, Estimate(0.1, 0.1, 3), Region(), HOLDS)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0266123, "0.02661"),
        (-0.0004, "−0.0004000"),
        (33.5, "33.50"),
        (0.0, "0.000"),
        (float("nan"), "–"),
        (None, "–"),
    ],
)
def test_numbers_have_four_digits(value: float | None, text: str) -> None:
    assert format_number(value) == text
