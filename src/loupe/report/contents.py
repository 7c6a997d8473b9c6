"""What a report says, before it is a page: verdicts, tables and images."""

from collections import Counter
from dataclasses import dataclass

from loupe.report.verdicts import VERDICTS, Verdict


@dataclass(frozen=True)
class Table:
    """A table of words: as many in each row as in the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A image: the stem of its file, its bytes as PNG, and what it shows."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Judged:
    """A claim's verdict with its trend.

    Args:
        file: the sweep file that the claim stands in, whose command makes its runs.
        verdict: of the claim.
        trend: validation mae of its arms over the budget; None where no run has a curve.
        trends: sentences on the trend.
    """

    file: str
    verdict: Verdict
    trend: Picture | None = None
    trends: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What makes the runs that the verdict comes from."""
        return f"loupe sweep --sweep {self.file}"


@dataclass(frozen=True)
class Report:
    """All of it.

    Args:
        dataset: whose runs are judged.
        runs: how many of them there are.
        judged: the claims, by number.
        leaderboard: the best runs.
        best: the name of the network that the test table is of; empty where no run has test scores.
        test: that network beside the baselines.
        study: the study's numbers, read correctly, and ours.
        theirs: the network whose numbers stand there by the study's protocol; empty where there is none.
        leaders: learning curves.
        comparison: the best network's images beside the baselines'.
        story: crops by the study's networks, one after the other.
    """

    dataset: str
    runs: int
    judged: tuple[Judged, ...]
    leaderboard: Table
    best: str
    test: Table
    study: Table
    theirs: str
    leaders: Picture | None = None
    comparison: Picture | None = None
    story: Picture | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many claims have each verdict."""
        found = Counter(part.verdict.verdict for part in self.judged)
        return {name: found[name] for name in VERDICTS}

    @property
    def summary(self) -> str:
        """`31 claims: 12 hold, 9 do not hold, 4 undecided, 6 not run.`"""
        plural = {"holds": "hold", "does not hold": "do not hold"}
        parts = (f"{count} {name if count == 1 else plural.get(name, name)}" for name, count in self.counts.items())
        return f"{len(self.judged)} claim{'' if len(self.judged) == 1 else 's'}: {', '.join(parts)}."

    @property
    def images(self) -> tuple[Picture, ...]:
        """Every image that the page shows."""
        found = [part.trend for part in self.judged] + [self.leaders, self.comparison, self.story]
        return tuple(image for image in found if image is not None)
