"""The contents of a report, independent of the page format: verdicts, tables and images."""

from collections import Counter
from dataclasses import dataclass

from loupe.report.verdicts import OUTCOMES, ClaimVerdict


@dataclass(frozen=True)
class Table:
    """A table of texts. Each row has as many cells as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ReportImage:
    """An image: the stem of its file name, its content as PNG, and its caption."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class ClaimResult:
    """A verdict with the learning curves of its arms.

    Args:
        sweep_file: Path of the sweep file that contains the claim.
        verdict: Verdict of the claim.
        chart: Validation mae of the arms over the budget; None if no run has a curve.
        trends: Sentences about the curves.
    """

    sweep_file: str
    verdict: ClaimVerdict
    chart: ReportImage | None = None
    trends: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that trains the runs of the claim."""
        return f"loupe sweep {self.sweep_file}"


@dataclass(frozen=True)
class ReportContents:
    """All contents of a report.

    Args:
        dataset: Name of the dataset of the runs.
        run_count: Number of runs on the dataset.
        claims: Results of the claims, in order of their numbers.
        leaderboard: The best runs.
        best_network: Description of the network with the best validation score; empty if no run has test scores.
        test_scores: Test scores of the best network and the baselines.
        study_numbers: The numbers of the study with their meaning, and the corresponding numbers of Loupe.
        study_network: Description of the network that was scored with the study's protocol; empty without such a run.
        leader_chart: Learning curves of the best runs.
        comparison: Test images of the best network and the baselines.
        story: Test images of the study's networks.
    """

    dataset: str
    run_count: int
    claims: tuple[ClaimResult, ...]
    leaderboard: Table
    best_network: str
    test_scores: Table
    study_numbers: Table
    study_network: str
    leader_chart: ReportImage | None = None
    comparison: ReportImage | None = None
    story: ReportImage | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of claims per outcome."""
        counts = Counter(result.verdict.outcome for result in self.claims)
        return {name: counts[name] for name in OUTCOMES}

    @property
    def summary(self) -> str:
        """The number of claims per outcome: `31 claims: 12 hold, 9 do not hold, 4 undecided, 6 not run.`"""
        plural = {"holds": "hold", "does not hold": "do not hold"}
        parts = (f"{count} {name if count == 1 else plural.get(name, name)}" for name, count in self.counts.items())
        return f"{len(self.claims)} claim{'' if len(self.claims) == 1 else 's'}: {', '.join(parts)}."

    @property
    def network_images(self) -> tuple[ReportImage, ...]:
        """The images that need trained networks, and therefore cannot be drawn from a table of runs."""
        return tuple(image for image in (self.comparison, self.story) if image is not None)
