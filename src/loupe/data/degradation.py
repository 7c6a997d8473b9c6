"""Makes the inputs of a dataset: downscales the labels, and optionally adds noise and JPEG artefacts."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from PIL import Image

from loupe.config.datasets import Preprocess
from loupe.data.labels import FILTERS, shrink_labels
from loupe.imaging.conversion import compress_jpeg
from loupe.imaging.luminance import compute_luminance, get_weights

GRID = 8  # side of a JPEG block in pixels
SUBSAMPLINGS = (0, 2)  # Pillow's numbers for 4:4:4 and 4:2:0
MID_GREY = 127.5


@dataclass(frozen=True)
class Degradation:
    """The random choices for the inputs of one label. The inputs of all scale factors share them.

    Args:
        shrink: a key of FILTERS.
        qualities: the quality of each JPEG compression.
        shift: vertical and horizontal shift of the 8x8 blocks in the first of two compressions, in pixels.
        subsampling: an element of SUBSAMPLINGS.
        noise: standard deviation of the noise in the luminance of mid-grey pixels, in grey values (white is 255).
        shot: share of the variance at mid-grey that comes from shot noise (Poisson); the rest is from Gaussian noise.
        seed: determines the noise.
    """

    shrink: str
    qualities: tuple[int, ...] = ()
    shift: tuple[int, int] = (0, 0)
    subsampling: int = 0
    noise: float = 0.0
    shot: float = 0.0
    seed: int = 0

    @property
    def columns(self) -> dict[str, float | None]:
        """The last JPEG quality and the noise, as columns of the manifest."""
        return {"jpeg_quality": self.qualities[-1] if self.qualities else None, "noise": self.noise}


def draw_degradation(settings: Preprocess, sha256: str, number: int) -> Degradation:
    """Draw the degradation for label `number` of a photo; `sha256` is the content hash of the photo."""
    if settings.degrade == "none" and settings.shrink != "random":
        return Degradation(settings.shrink)
    # The last number of the seed, 1, makes the random numbers independent of those of `cut_labels`.
    rng = np.random.default_rng([settings.seed, int(sha256[:16], 16), number, 1])
    shrink = str(rng.choice(list(FILTERS))) if settings.shrink == "random" else settings.shrink
    if settings.degrade == "none":
        return Degradation(shrink)
    low, high = settings.jpeg_qualities
    compressed, twice = rng.random(2) >= (settings.clean_share, 1 - settings.double_share)
    compression_count = compressed * (1 + twice)
    qualities = rng.integers(low, high + 1, size=2).tolist()[:compression_count]
    shift, subsampling = rng.integers(GRID, size=2).tolist(), int(rng.choice(SUBSAMPLINGS))
    jpeg = Degradation(shrink, tuple(qualities), (shift[0], shift[1]), subsampling)
    if settings.degrade == "jpeg":
        return jpeg
    noise, shot, seed = rng.uniform(*settings.noise_levels), rng.random(), int(rng.integers(2**32))
    return Degradation(shrink, jpeg.qualities, jpeg.shift, subsampling, noise, shot, seed)


def make_inputs(
    labels: list[tuple[np.ndarray, Degradation]], scale: Fraction, settings: Preprocess
) -> list[np.ndarray]:
    """Downscale and degrade labels, and convert them to luminance.

    Args:
        labels: uint8, (label_size, label_size), or (label_size, label_size, 3), with their degradations.
        scale: the scale factor.
        settings: luminance and recompress.

    Returns:
        uint8, (label_size / scale, label_size / scale), per label.
    """
    degradations = [degradation for _, degradation in labels]
    filters = [degradation.shrink for degradation in degradations]
    images = shrink_labels([label for label, _ in labels], scale, filters)
    return [_degrade(*pair, settings) for pair in zip(images, degradations, strict=True)]


def _degrade(image: np.ndarray, degradation: Degradation, settings: Preprocess) -> np.ndarray:
    if settings.recompress is not None:
        image = compress_jpeg(image, settings.recompress)
    if degradation.noise:
        image = _add_noise(image, degradation, settings.luminance)
    for number, quality in enumerate(degradation.qualities, 1):
        # To shift the blocks, rows and columns are added before the compression and removed after it.
        rows, columns = degradation.shift if number < len(degradation.qualities) else (0, 0)
        widths = ((rows, 0), (columns, 0), (0, 0))[: image.ndim]
        image = compress_jpeg(np.pad(image, widths, mode="edge"), quality, degradation.subsampling)[rows:, columns:]
    return to_grey(image, settings.luminance)


def to_grey(image: np.ndarray, luminance: str) -> np.ndarray:
    """Convert a colour image, uint8 (height, width, 3), to luminance. A grey image is returned unchanged."""
    return image if image.ndim == 2 else compute_luminance(Image.fromarray(image), luminance)


def _add_noise(image: np.ndarray, degradation: Degradation, luminance: str) -> np.ndarray:
    rng = np.random.default_rng(degradation.seed)
    # The luminance is a weighted sum of the channels, which have independent noise. Therefore the deviation in the
    # luminance is the deviation in a channel times the norm of the weights.
    deviation = degradation.noise / (1.0 if image.ndim == 2 else float(np.linalg.norm(get_weights(luminance))))
    # The number of photons is Poisson-distributed: its variance equals its mean. `max` prevents a division by 0.
    photons_per_grey_value = MID_GREY / max(degradation.shot * deviation**2, 1e-9)
    noisy = rng.poisson(image * photons_per_grey_value) / photons_per_grey_value
    noisy += rng.normal(0, deviation * np.sqrt(1 - degradation.shot), image.shape)
    return np.rint(noisy).clip(0, 255).astype("uint8")
