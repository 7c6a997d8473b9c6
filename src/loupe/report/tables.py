"""Makes the tables of claims, arms and comparisons."""

from loupe.report.contents import ReportContents, Table
from loupe.report.formatting import (
    DASH,
    format_comparison,
    format_difference,
    format_estimate,
    format_number,
    format_seeds,
)
from loupe.report.verdicts import ClaimVerdict


def make_claims_table(report: ReportContents) -> Table:
    """Make the table of all claims."""
    header = ("claim", "the study says", "verdict", "difference (95 % interval)", "seeds", "budget of each run")
    rows = []
    for result in report.claims:
        verdict = result.verdict
        cells = (verdict.outcome, format_difference(verdict), format_seeds(verdict), verdict.budget or DASH)
        rows.append((verdict.claim.number, verdict.claim.text, *cells))
    return Table(header, tuple(rows))


def make_arms_table(verdict: ClaimVerdict) -> Table:
    """Make the table of a claim's arms."""
    rows = []
    for arm in verdict.arms:
        numbers = (format_number(value) for value in (arm.estimate.mean, arm.estimate.low, arm.estimate.high))
        rows.append((arm.name, *numbers, str(arm.estimate.seeds), arm.learning_rates or DASH))
    return Table(("arm", "mean", "from", "to (95 %)", "seeds", "learning rate"), tuple(rows))


def make_comparisons_table(verdict: ClaimVerdict) -> Table:
    """Make the table of a claim's comparisons."""
    rows = [
        (format_comparison(each), format_estimate(each.estimate), str(each.estimate.seeds), each.outcome)
        for each in verdict.comparisons
    ]
    return Table(("difference", "mean (95 % interval)", "seeds", "verdict"), tuple(rows))


def format_table(table: Table) -> str:
    """Format a table as Markdown. DataFrame.to_markdown pads cells and does not escape `|`."""
    lines = [table.header, tuple("---" for _ in table.header), *table.rows]
    return "\n".join("| " + " | ".join(map(_format_cell, cells)) + " |" for cells in lines)


def escape_html(text: str) -> str:
    """Escape HTML tags."""
    return text.replace("<", "&lt;")


def _format_cell(text: str) -> str:
    return escape_html(" ".join(text.split())).replace("|", r"\|")
