"""Makes the tables of claims, arms and comparisons."""

from loupe.report.contents import ReportContents
from loupe.report.formatting import (
    DASH,
    format_comparison,
    format_difference,
    format_estimate,
    format_seeds,
    format_trend,
)
from loupe.report.verdicts import ClaimVerdict

Table = list[tuple[str, ...]]  # the header, then the rows


def make_claims_table(report: ReportContents) -> Table:
    """Make the table of all claims."""
    header = ("no.", "claim", "verdict", "difference (interval)", "trend at 25, 50, 100 %", "seeds", "budget")
    rows: Table = [header]
    for result in report.claims:
        verdict = result.verdict
        numbers = (format_difference(verdict), format_trend(result.trend), format_seeds(verdict))
        rows.append((verdict.claim.number, verdict.claim.text, verdict.outcome, *numbers, verdict.budget or DASH))
    return rows


def make_arms_table(verdict: ClaimVerdict) -> Table:
    """Make the table of a claim's arms."""
    rows: Table = [("arm", "mean (95 % interval)", "seeds", "learning rate")]
    for arm in verdict.arms:
        rows.append((arm.name, format_estimate(arm.estimate), str(arm.estimate.seeds), arm.learning_rates or DASH))
    return rows


def make_comparisons_table(verdict: ClaimVerdict) -> Table:
    """Make the table of a claim's comparisons."""
    rows: Table = [("difference", "mean (interval)", "seeds", "verdict")]
    for each in verdict.comparisons:
        rows.append((format_comparison(each), format_estimate(each.estimate), str(each.estimate.seeds), each.outcome))
    return rows


def format_table(table: Table) -> str:
    """Format a table as Markdown. DataFrame.to_markdown is not used: it does not escape `|`, and pads cells."""
    lines = [table[0], tuple("---" for _ in table[0]), *table[1:]]
    return "\n".join("| " + " | ".join(map(_format_cell, cells)) + " |" for cells in lines)


def escape_html(text: str) -> str:
    """Escape HTML tags."""
    return text.replace("<", "&lt;")


def _format_cell(text: str) -> str:
    return escape_html(" ".join(text.split())).replace("|", r"\|")
