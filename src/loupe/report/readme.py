"""The report's tables in README: what stands between a marker and the next end is replaced."""

import re
from collections.abc import Mapping
from pathlib import Path

from loupe.errors import UsageError
from loupe.imaging.atomic import write_atomically
from loupe.report.contents import Report
from loupe.report.tables import as_markdown, claims_table

# <!-- report: claims --> … <!-- report: end -->
PLACE = re.compile(r"(<!-- report: (?!end )(\w+) -->\n).*?(<!-- report: end -->)", re.DOTALL)
MARKER = re.compile(r"<!-- report: (\w+) -->")


def readme_tables(report: Report) -> dict[str, str]:
    """The tables that a README may show, by the name in their marker."""
    return {
        "summary": report.summary,
        "claims": as_markdown(claims_table(report)),
        "leaderboard": as_markdown(report.leaderboard),
        "test": as_markdown(report.test),
        "study": as_markdown(report.study),
    }


def write_readme(path: Path, tables: Mapping[str, str]) -> None:
    """Replace what stands between the markers of a Markdown file.

    Raises:
        UsageError: the file is missing, has no marker, one of another name, or one without its end.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise UsageError(f"readme: {str(path)!r} cannot be read: {error.strerror}") from None
    filled = fill(text, tables, str(path))
    with write_atomically(path) as partial:
        partial.write_text(filled)


def fill(text: str, tables: Mapping[str, str], name: str) -> str:
    """The text with the tables between its markers; `name` is what errors call it."""
    names = MARKER.findall(text)
    starts = [found for found in names if found != "end"]
    unknown = [found for found in starts if found not in tables]
    if not starts:
        raise UsageError(f"readme: {name!r} has no marker such as <!-- report: claims -->")
    if unknown:
        raise UsageError(f"readme: a marker must name one of {', '.join(tables)}, got {unknown[0]!r} in {name!r}")
    if names != [found for start in starts for found in (start, "end")]:
        raise UsageError(f"readme: each marker in {name!r} must be followed by <!-- report: end -->")
    return PLACE.sub(lambda found: f"{found[1]}\n{tables[found[2]]}\n\n{found[3]}", text)
