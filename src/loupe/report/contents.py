"""The contents of a report: verdicts, scores and images."""

from collections import Counter
from dataclasses import dataclass

from loupe.report.intervals import UNDECIDED
from loupe.report.trends import Trend, has_other_curve
from loupe.report.verdicts import NOT_RUN, OUTCOMES, ClaimVerdict


@dataclass(frozen=True)
class ReportImage:
    """An image: stem of the file name, content as PNG, and caption."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class ClaimResult:
    """A verdict with its trend and charts.

    Args:
        sweep_file: path of the sweep file.
        verdict: verdict of the claim.
        chart: validation mae of the arms during the training, or None.
        trend: change of the weakest comparison during the training, or None.
        at_grid_end: whether the chosen learning rate of an arm is the lowest or the highest of its grid.
        loses_to_nearest: whether a run of the arms has a higher validation mae than nearest.
        surprise: text of a surprising result, or "".
        figure: figure of the surprising result, or None.
    """

    sweep_file: str
    verdict: ClaimVerdict
    chart: ReportImage | None = None
    trend: Trend | None = None
    at_grid_end: bool = False
    loses_to_nearest: bool = False
    surprise: str = ""
    figure: ReportImage | None = None

    @property
    def change(self) -> str:
        """The key of the claim's group in `changes` of `report.md.jinja`.

        For a claim that is undecided or not run, the key is the outcome. For a trend of differences, the key is
        `Trend.change`. Otherwise, it is `other value` if the curves do not show the compared value, else `one arm`.
        """
        if self.verdict.outcome in (UNDECIDED, NOT_RUN):
            return self.verdict.outcome
        if self.trend is not None and self.trend.is_difference:
            return self.trend.change
        return "other value" if has_other_curve(self.verdict.claim) else "one arm"


@dataclass(frozen=True)
class QualityScores:
    """The PSNR of an evaluation by JPEG quality: name of the run, table (one row per method), and figure."""

    name: str
    table: list[tuple[str, ...]]
    figure: ReportImage


@dataclass(frozen=True)
class SharedRuns:
    """A number of runs, and the numbers of the claims that all use these runs."""

    run_count: int
    claims: tuple[str, ...]


@dataclass(frozen=True)
class ReportContents:
    """All contents of a report.

    Args:
        datasets: names of the datasets of the runs.
        run_count: number of runs that the claims compare.
        shared_runs: the runs that most claims use.
        steps: smallest and largest number of steps of the claims' runs, as text.
        curve_images: smallest and largest `eval_images` (maximum number of images per validation) of the claims'
            runs, as text.
        draw_photos: number of test photos in the random draws of patches, as text.
        claims: results of the claims, ordered by number.
        best_network: description of the best network, or "".
        best_scores: scores of the best network, and the scores of `read_pre_upscaled_scores`, as texts.
        study_network: description of the network that was scored with the study's protocol, or "".
        study_scores: scores of `study_network`, as texts.
        study_curve: learning curve of `study_network`, or None.
        quality_scores: scores of evaluations by JPEG quality.
        images: results of networks for test photos.
    """

    datasets: tuple[str, ...]
    run_count: int
    shared_runs: SharedRuns
    steps: str
    curve_images: str
    draw_photos: str
    claims: tuple[ClaimResult, ...]
    best_network: str
    best_scores: dict[str, str]
    study_network: str
    study_scores: dict[str, str]
    study_curve: ReportImage | None = None
    quality_scores: tuple[QualityScores, ...] = ()
    images: tuple[ReportImage, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """The number of claims per outcome."""
        counts = Counter(result.verdict.outcome for result in self.claims)
        return {name: counts[name] for name in OUTCOMES}

    @property
    def summary(self) -> str:
        """The number of claims per outcome, such as `2 claims: 1 holds, 1 does not hold, 0 undecided, 0 not run.`"""
        plural = {"holds": "hold", "does not hold": "do not hold"}
        parts = (f"{count} {name if count == 1 else plural.get(name, name)}" for name, count in self.counts.items())
        return f"{len(self.claims)} claim{'' if len(self.claims) == 1 else 's'}: {', '.join(parts)}."

    @property
    def surprises(self) -> tuple[ClaimResult, ...]:
        """The results with a surprise."""
        return tuple(result for result in self.claims if result.surprise)

    @property
    def figures(self) -> tuple[ReportImage, ...]:
        """The figures of the surprises, and `study_curve`."""
        figures = (*(result.figure for result in self.claims), self.study_curve)
        return tuple(figure for figure in figures if figure is not None)
