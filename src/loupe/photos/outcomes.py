"""The outcomes of photos, and a description of what was assumed about the photos."""

from collections.abc import Sequence
from dataclasses import dataclass

from loupe.imaging.jpeg_quality import MAX_QUALITY
from loupe.photos.inputs import PhotoJob
from loupe.photos.sizes import Size


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Args:
        job: the job.
        size: width and height of the result; None if no result was written.
        reason: the reason for a failure, or "".
        omitted: names of metadata that the result does not contain.
        assumed_quality: the JPEG quality that the network assumed for the first image; None without a network that
            takes a quality.
        removed_noise: the noise that was removed from the first image; see `ImageStream`.
        skipped: whether the photo was skipped, because it is larger than the requested size.
    """

    job: PhotoJob
    size: Size | None = None
    reason: str = ""
    omitted: Sequence[str] = ()
    assumed_quality: int | None = None
    removed_noise: float = 0.0
    skipped: bool = False


def describe_assumptions(outcomes: Sequence[Outcome]) -> str:
    """Describe the JPEG qualities that networks assumed, and the noise that was removed; "" if there are neither.

    An example: `assumed JPEG quality 75; removed noise (standard deviation 3.4 to 8.1)`.
    """
    texts = []
    if found := sorted(outcome.assumed_quality for outcome in outcomes if outcome.assumed_quality is not None):
        text = f"assumed JPEG quality {_format_range(str(found[0]), str(found[-1]))}"
        texts.append(f"{text} (100: no artefacts)" if found[-1] == MAX_QUALITY else text)
    if noises := sorted(outcome.removed_noise for outcome in outcomes if outcome.removed_noise):
        deviations = _format_range(f"{noises[0]:.1f}", f"{noises[-1]:.1f}")
        photos = f" of {len(noises)} of them" if len(noises) < len(outcomes) else ""
        texts.append(f"removed noise{photos} (standard deviation {deviations})")
    return "; ".join(texts)


def _format_range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
