"""Removes noise by non-local means: the mean over pixels with a similar neighbourhood.

scikit-image is not used: it takes 198 MB on disk, and twice the time.
"""

import itertools
import math
from fractions import Fraction

import numpy as np

from loupe.config.fields import get_block_sides
from loupe.upscalers.geometry import Geometry

REACH = 6  # largest shift between compared pixels, per axis
MARGIN = REACH + 2  # at a given noise, the result of a part of an image depends on this many pixels around the part
PAD = REACH + 3  # mirrored pixels on each side of an image
COMPARED_PIXELS = 16  # the neighbourhood has 4x4 pixels
# A distance is a sum of squared differences of 16 pixels. But `unit_distance` in `denoise` is for 25 pixels, as in
# scikit-image with `patch_size=5`.
PATCH_PIXELS = 25
BANDWIDTH = 0.7  # factor of the noise in `unit_distance`; better for the 24 Kodak photos than 0.4, 0.6, 0.8
LARGEST_DISTANCE = 5.0  # as a multiple of `unit_distance`; larger distances get the weight 0
QUANTILE = 0.125  # of the parts of an image, sorted by their responses; the noise is estimated in these parts
# Mean response squared, divided by the mean squared response. It is 0.64 for Gaussian noise, at least 0.54 for photos
# with noise, and at most 0.48 for text on a screen, whose responses are few and large.
MIN_SHAPE = 0.52


def denoise(image: np.ndarray, noise: float) -> np.ndarray:
    """Remove noise from an image.

    The weights are those of Buades, Coll and Morel 2005, computed as in Darbon et al. 2008 and scaled as in
    `skimage.restoration.denoise_nl_means` with `fast_mode=True`, `patch_size=5` and `patch_distance=6`.

    Args:
        image: float32, (height, width, channels), any range.
        noise: standard deviation of the noise, on the scale of the image.

    Returns:
        float32, (height, width, channels).
    """
    height, width, channels = image.shape
    planes = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    padded = np.pad(planes, ((0, 0), (PAD, PAD), (PAD, PAD)), mode="reflect")
    weight_sum, weighted_planes = np.ones((height, width), "float32"), planes.copy()
    # `noise_distance` is the mean distance that noise causes, and is subtracted from each distance. The weight is 1/e
    # where the remaining distance is `unit_distance`.
    noise_distance = np.float32(2 * noise**2 * channels * COMPARED_PIXELS)
    unit_distance = np.float32(channels * (BANDWIDTH * max(noise, 1e-4)) ** 2 * PATCH_PIXELS)
    for down, right in itertools.product(range(-REACH, REACH + 1), range(REACH + 1)):
        # Skip the zero shift, because the initial sums contain it. Also skip shifts straight up: each of them has the
        # same weights as its opposite, and is added together with it below.
        if (right, down) <= (0, 0):
            continue
        top, bottom = min(0, -down), max(height, height - down)
        distances = _sum_squared_differences(padded, (top, bottom), (-right, width), (down, right)) - noise_distance
        weights = np.exp(-np.maximum(distances, 0) / unit_distance)
        weights[weights < np.exp(-LARGEST_DISTANCE)] = 0
        # Both directions of the shift. y, x: the shift. row, column: the position in `weights` of the weight of the
        # image's top left pixel.
        for y, x, row, column in ((down, right, -top, right), (-down, -right, -top - down, 0)):
            weight = weights[row : row + height, column : column + width]
            weight_sum += weight
            for weighted, plane in zip(weighted_planes, padded, strict=True):
                weighted += weight * plane[PAD + y : PAD + y + height, PAD + x : PAD + x + width]
    return np.moveaxis(weighted_planes / weight_sum, 0, -1)


class NonLocalMeans:
    """Non-local means as a model of the scale factor 1:1. The noise of each image or tile is estimated."""

    def __init__(self, luminance: str) -> None:
        q, p = get_block_sides(Fraction(1))
        self.geometry = Geometry(q, p, q, -(-MARGIN // q) * q, luminance)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Denoise images; see `UpscalingModel`."""
        return np.stack([denoise(image, estimate_noise(image[..., 0])) for image in images])


def estimate_noise(grey: np.ndarray) -> float:
    """Estimate the standard deviation of the noise of an image.

    The noise is proportional to the mean response of a filter that ignores flat areas and uniform gradients (Immerkær
    1996, Fast Noise Variance Estimation). Texture also has a response. Therefore this function divides the image
    into up to 64 parts, and computes the mean of the non-zero responses of each part. The estimate uses the 12.5 %
    quantile of these means. A part, such as a white border, is omitted if another part has at least twice as many
    non-zero responses.

    Args:
        grey: (height, width), of any range.

    Returns:
        The standard deviation, on the scale of `grey`; 0 if a side has fewer than 3 pixels or all responses are 0.
    """
    return _measure_noise(grey)[0]


def estimate_white_noise(grey: np.ndarray) -> float:
    """Estimate the standard deviation of white noise, without the texture of an image.

    The mean of 2x2 pixels has half of the white noise, but as much texture as the pixels. For 24 Kodak photos and
    their halves, the largest result is 1.6; that of `estimate_noise` is 6.4.

    Args:
        grey: as in `estimate_noise`.

    Returns:
        The standard deviation, on the scale of `grey`; 0 if the image contains no noise that looks Gaussian.
    """
    rows, columns = (side // 2 * 2 for side in grey.shape)
    blocks = grey[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).mean((1, 3))
    (fine, shape), (coarse, _) = _measure_noise(grey), _measure_noise(blocks)
    return math.sqrt(max(0.0, fine**2 - coarse**2) * 4 / 3) if shape >= MIN_SHAPE else 0.0


def _measure_noise(grey: np.ndarray) -> tuple[float, float]:
    """Return the noise as `estimate_noise` does, and the median shape (see MIN_SHAPE) of the parts that it uses."""
    if min(grey.shape) < 3:
        return 0.0, 0.0
    rows = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    response = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])
    parts = [
        part
        for band in np.array_split(response, min(8, len(response)))
        for part in np.array_split(band, min(8, response.shape[1]), axis=1)
    ]
    counts = [np.count_nonzero(part) for part in parts]
    largest = max(counts)
    if not largest:
        return 0.0, 0.0
    used = [(part, count) for part, count in zip(parts, counts, strict=True) if count > largest / 2]
    means = np.array([part.sum() / count for part, count in used])
    quietest = np.argsort(means)[: max(1, int(QUANTILE * len(used)))]
    shapes = [used[number][0].mean() ** 2 / np.square(used[number][0]).mean() for number in quietest]
    return float(np.quantile(means, QUANTILE) * math.sqrt(math.pi / 2) / 6), float(np.median(shapes))


def _sum_squared_differences(
    padded: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], shift: tuple[int, int]
) -> np.ndarray:
    """Sum the squared differences between an image and its shifted copy.

    For each pixel, the sum is over all channels of 4x4 pixels: from one row and column before the pixel to two rows
    and columns after it.

    Args:
        padded: the image with PAD mirrored pixels on each side, (channels, height, width).
        rows: the first row of the result, and the row after its last row. Row 0 is the first row of the image without
            mirrored rows.
        columns: the same for columns.
        shift: down and right.
    """
    top, bottom = PAD + rows[0] - 1, PAD + rows[1] + 2
    left, right = PAD + columns[0] - 1, PAD + columns[1] + 2
    down, across = shift
    original = padded[:, top:bottom, left:right]
    shifted = padded[:, top + down : bottom + down, left + across : right + across]
    squares = np.square(original - shifted).sum(0)
    two_rows = squares[:-1] + squares[1:]
    four_rows = two_rows[:-2] + two_rows[2:]
    two_columns = four_rows[:, :-1] + four_rows[:, 1:]
    return np.asarray(two_columns[:, :-2] + two_columns[:, 2:])
