"""The pages and the tables of README."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from made_up import FILES, report_of

from loupe.errors import UsageError
from loupe.report import page
from loupe.report.contents import Judged, Report
from loupe.report.formatting import against, difference, number, standing
from loupe.report.intervals import Estimate, Region
from loupe.report.readme import fill, readme_tables, write_readme
from loupe.report.verdicts import VERDICTS, Comparison


class Page(HTMLParser):
    """Collects the text of a page, and every address in it."""

    VOID = ("meta", "img", "line", "circle", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_holds_all_that_it_needs(report: Report) -> None:
    text = page.html(report)
    found = Page(text)
    assert not found.open
    assert {address.split(",")[0] for address in found.addresses if not address.startswith("#")} == {
        "data:image/png;base64"
    }
    assert not re.search(r"https?:|//\w|@import|url\(|<script", re.sub(r"base64,[\w+/=]+", "", text))
    ids = set(re.findall(r'id="([^"]+)"', text))
    assert {address[1:] for address in found.addresses if address.startswith("#")} == ids
    assert "Crops &amp; text" in text


HARM = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def test_names_are_words_on_both_pages_and_in_readme(report: Report) -> None:
    first = report.judged[0]
    claim = dataclasses.replace(
        first.verdict, claim=first.verdict.claim.model_copy(update={"text": HARM, "note": HARM})
    )
    board = dataclasses.replace(report.leaderboard, rows=((HARM,) * len(report.leaderboard.header),))
    judged = dataclasses.replace(first, file=HARM, verdict=claim, trends=(HARM,))
    harmful = dataclasses.replace(report, dataset=HARM, best=HARM, theirs=HARM, leaderboard=board, judged=(judged,))
    html, markdown = page.html(harmful), page.markdown(harmful)
    for text in (html, markdown, *readme_tables(harmful).values()):
        assert "<script" not in text
        assert "<img src=x" not in text
    assert html.count("&lt;script&gt;") == markdown.count("&lt;script>") > 6
    assert not Page(html).open


def test_each_claim_stands_on_both_pages_with_what_the_judge_said(report: Report) -> None:
    words, markdown = " ".join(" ".join(Page(page.html(report)).words).split()), page.markdown(report)
    table = readme_tables(report)["claims"].splitlines()[2:]
    for part, row in zip(report.judged, table, strict=True):
        verdict = part.verdict
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert cells[0] == verdict.claim.number
        assert cells[2] == standing(verdict)
        assert verdict.verdict in cells[2]
        assert cells[3] == difference(verdict)
        assert number(verdict.decisive.estimate.mean, 3) in cells[3]
        assert row in markdown
        for word in (standing(verdict), difference(verdict), verdict.budget, part.command):
            assert word in words
            assert word in markdown
    assert report.summary in words
    assert report.summary in markdown


def test_markdown_names_a_file_for_each_image(report: Report) -> None:
    named = re.findall(r"!\[[^]]+\]\(images/([\w-]+)\.png\)", page.markdown(report))
    assert sorted(named) == sorted(image.name for image in report.images)
    assert {"story", "leaders", "claim-6"} <= set(named)
    assert len(set(named)) == len(named)


def test_markdown_has_no_broken_table_and_no_empty_stretch(report: Report) -> None:
    text = page.markdown(report)
    assert "\n\n\n" not in text
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
            assert lines[1].startswith("| --- |")


def test_the_same_table_gives_the_same_pages(report: Report, table) -> None:
    again = dataclasses.replace(report_of(table.copy(), FILES), story=report.story)
    assert page.html(again) == page.html(report)
    assert page.markdown(again) == page.markdown(report)


def test_every_verdict_has_its_look(report: Report) -> None:
    first = report.judged[0]
    for verdict in VERDICTS:
        found = dataclasses.replace(first.verdict, verdict=verdict, reason="no run" if verdict == "not run" else "")
        text = page.html(dataclasses.replace(report, judged=(Judged("a.toml", found),)))
        assert f'<span class="verdict {verdict.replace(" ", "-")}">{standing(found)}</span>' in text
        assert ("Not run: no run." in text) == (verdict == "not run")


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
def test_a_difference_names_what_differs(name: str, other: str, text: str) -> None:
    assert against(Comparison(name, other, Estimate(0.1, 0.1, 3), Region())) == text


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
    assert number(value) == text


README = """# Title
<!-- report: claims -->
old
<!-- report: end -->
Between.
<!-- report: test -->
<!-- report: end -->
End.
"""


def test_the_tables_of_readme_are_replaced_and_nothing_else(report: Report, tmp_path) -> None:
    path = tmp_path / "README.md"
    path.write_text(README)
    tables = readme_tables(report)
    write_readme(path, tables)
    text = path.read_text()
    assert "old" not in text
    assert tables["claims"] in text
    assert tables["test"] in text
    outside = re.sub(r"(?s)(<!-- report: (?!end)\w+ -->\n).*?(?=<!-- report: end)", r"\1", text)
    assert outside == README.replace("old\n", "")
    assert fill(text, tables, "README") == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("no marker", "has no marker"),
        ("<!-- report: clams -->\n<!-- report: end -->", "'clams'"),
        ("<!-- report: claims -->\n", "followed by"),
        ("<!-- report: claims -->\n<!-- report: test -->\n<!-- report: end -->", "followed by"),
    ],
)
def test_a_readme_with_wrong_markers_is_refused(text: str, rule: str, tmp_path) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(UsageError, match=rule):
        write_readme(path, {"claims": "", "test": ""})
    assert path.read_text() == text
    with pytest.raises(UsageError, match="cannot be read"):
        write_readme(tmp_path / "nowhere.md", {})
