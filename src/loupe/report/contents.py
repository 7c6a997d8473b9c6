"""The contents of a report: verdicts, tables and images."""

from collections import Counter
from dataclasses import dataclass

from loupe.report.verdicts import OUTCOMES, ClaimVerdict


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ReportImage:
    """An image: stem of the file name, content as PNG, and caption."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class ClaimResult:
    """A verdict with the learning curves of its arms.

    Args:
        sweep_file: path of the sweep file.
        verdict: verdict of the claim.
        chart: validation mae of the arms over the budget, or None.
        trends: sentences about the curves.
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
        dataset: name of the dataset of the runs.
        run_count: number of runs on the dataset.
        claims: results of the claims, ordered by number.
        leaderboard: the best runs.
        best_network: description of the best network, or "".
        test_scores: of the best network and the baselines.
        study_numbers: the numbers of the study and of Loupe.
        study_network: description of the network that was scored with the study's protocol, or "".
        leader_chart: learning curves of the best runs.
        comparison: test images of the best network and the baselines.
        story: test images of the study's networks.
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
        """The number of claims per outcome."""
        counts = Counter(result.verdict.outcome for result in self.claims)
        return {name: counts[name] for name in OUTCOMES}

    @property
    def summary(self) -> str:
        """The number of claims per outcome, such as `31 claims: 12 hold, 9 do not hold.`"""
        plural = {"holds": "hold", "does not hold": "do not hold"}
        parts = (f"{count} {name if count == 1 else plural.get(name, name)}" for name, count in self.counts.items())
        return f"{len(self.claims)} claim{'' if len(self.claims) == 1 else 's'}: {', '.join(parts)}."

    @property
    def network_images(self) -> tuple[ReportImage, ...]:
        """The images that need trained networks."""
        return tuple(image for image in (self.comparison, self.story) if image is not None)
