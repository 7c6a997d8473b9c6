"""A report as one self-contained HTML page, and as a Markdown page with its images beside it."""

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from loupe.report.contents import Picture, Report
from loupe.report.formatting import difference, measure, seeds, standing
from loupe.report.interval_plot import interval_plot
from loupe.report.tables import arms_table, as_markdown, claims_table, comparisons_table, without_html
from loupe.report.verdicts import Verdict

IMAGES = "images"  # the folder beside the Markdown page


def html(report: Report) -> str:
    """One page that needs nothing beside it: images are inside, and nothing is fetched."""
    page = _templates(escape=True)
    page.filters["inside"] = _inside
    page.filters["plot"] = interval_plot  # of numbers and our own words: safe
    return page.get_template("page.html.jinja").render(report=report)


def markdown(report: Report) -> str:
    """The same for a repository's pages; images are files in `images/`."""
    page = _templates(escape=False)
    page.filters["markdown"] = as_markdown
    page.globals["folder"] = IMAGES
    return page.get_template("page.md.jinja").render(report=report, claims=claims_table(report))


def _templates(escape: bool) -> Environment:
    found = Environment(
        loader=PackageLoader("loupe.report", "."),
        autoescape=escape,
        finalize=None if escape else _as_words,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {
        "standing": standing,
        "difference": difference,
        "seeds": seeds,
        "measure": measure,
        "arms": arms_table,
        "comparisons": comparisons_table,
        "kind": _kind,
    }
    return found


def _as_words(value: Any) -> Any:
    """What a Markdown page shows of a value: words, no HTML."""
    return without_html(value) if isinstance(value, str) else value


def _kind(verdict: Verdict) -> str:
    """The verdict as a class of the style sheet."""
    return verdict.verdict.replace(" ", "-")


def _inside(image: Picture) -> str:
    """A image as the address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(image.png).decode()}"
