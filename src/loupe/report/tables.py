"""The claims as tables: short for README, and of one claim's arms and comparisons for the page."""

from loupe.report.contents import Report, Table
from loupe.report.formatting import against, difference, number, seeds, standing, with_interval
from loupe.report.verdicts import Verdict


def claims_table(report: Report) -> Table:
    """A row a claim."""
    header = ("claim", "the study says", "verdict", "difference (95 % interval)", "seeds", "budget of each run")
    rows = []
    for part in report.judged:
        found = part.verdict
        words = (standing(found), difference(found), seeds(found), found.budget or "–")
        rows.append((found.claim.number, found.claim.text, *words))
    return Table(header, tuple(rows))


def arms_table(verdict: Verdict) -> Table:
    """A row an arm."""
    rows = [
        (line.name, number(line.estimate.mean), number(line.estimate.low), number(line.estimate.high),
         str(line.estimate.seeds), line.rates or "–")
        for line in verdict.lines
    ]  # fmt: skip
    return Table(("arm", "mean", "from", "to (95 %)", "seeds", "learning rate"), tuple(rows))


def comparisons_table(verdict: Verdict) -> Table:
    """A row a comparison; differences are paired by seed."""
    rows = [
        (against(part), with_interval(part.estimate, 3), str(part.estimate.seeds), part.verdict)
        for part in verdict.comparisons
    ]
    return Table(("difference", "mean (95 % interval)", "seeds", "verdict"), tuple(rows))


def as_markdown(table: Table) -> str:
    """The table in Markdown, a line a row; a cell is words, no HTML."""
    lines = [table.header, tuple("---" for _ in table.header), *table.rows]
    return "\n".join("| " + " | ".join(map(_cell, cells)) + " |" for cells in lines)


def without_html(text: str) -> str:
    """Text for a Markdown page, in which HTML would be taken as such."""
    return text.replace("<", "&lt;")


def _cell(text: str) -> str:
    return without_html(" ".join(text.split())).replace("|", r"\|")
