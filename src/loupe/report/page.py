"""Renders a report as Markdown, and converts the Markdown to one HTML page."""

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt

from loupe.report.contents import ReportContents, ReportImage
from loupe.report.formatting import fill, format_metric
from loupe.report.tables import escape_html, format_table, make_arms_table, make_claims_table, make_comparisons_table

IMAGE_FOLDER = "images"  # next to the Markdown page
DATA_URI = "data:image/png;base64,"
HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Loupe: the claims of the study</title>
<style>
body {{ margin: 0 auto; max-width: 72rem; padding: 1.5rem; font: 16px/1.5 system-ui, sans-serif; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #8886; }}
h3 {{ margin-top: 2rem; }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; font-size: .88rem; }}
th, td {{ padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #8886; }}
img {{ max-width: 100%; background: #fff; }}
@media print {{ body {{ font-size: 10pt; }} img, tr {{ break-inside: avoid; }} }}
</style>
</head>
<body>
{body}</body>
</html>
"""


class _PageParser(MarkdownIt):
    """A Markdown parser that keeps links and images as text, except embedded images."""

    def validateLink(self, url: str) -> bool:  # noqa: N802 (name of markdown-it)
        return url.startswith(DATA_URI)


def render_html(report: ReportContents) -> str:
    """Render the report with the details of each claim as one HTML page."""
    parser = _PageParser("commonmark", {"html": False}).enable("table")
    return HTML.format(body=parser.render(_render(report, True)))


def render_markdown(report: ReportContents) -> str:
    """Render the report as Markdown without the details of each claim. The page refers to image files."""
    return _render(report, False)


def _render(report: ReportContents, embed_images: bool) -> str:
    environment = Environment(
        loader=PackageLoader("loupe.report", "."),
        finalize=lambda value: escape_html(value) if isinstance(value, str) else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the page is Markdown
    )
    environment.filters |= {
        "metric": format_metric,
        "fill": fill,
        "markdown": format_table,
        "arms": make_arms_table,
        "comparisons": make_comparisons_table,
        "address": _embed if embed_images else lambda image: f"{IMAGE_FOLDER}/{image.name}.png",
    }
    template = environment.get_template("report.md.jinja")
    return template.render(report=report, claims=make_claims_table(report), details=embed_images)


def _embed(image: ReportImage) -> str:
    """Return the data URI of an image."""
    return DATA_URI + base64.b64encode(image.png).decode()
