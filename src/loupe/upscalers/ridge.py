"""Ridge regression, which predicts a block of the result from the input block and the pixels around it."""

import io
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from loupe.config.fields import format_value, get_block_sides
from loupe.data.array_files import map_array
from loupe.data.dataset import Dataset
from loupe.data.pairs import Pairs
from loupe.errors import LoupeError, describe_error
from loupe.imaging.atomic import remove_leftovers, write_file
from loupe.upscalers.baselines import MARGIN
from loupe.upscalers.geometry import Geometry

ALPHA = 0.01  # default weight of the L2 penalty
FIT_IMAGES = 2048  # enough: these images have millions of blocks, and a result pixel has only 100 weights (q = 2)

MAX_BLOCKS = 2**17  # blocks per product of matrices, about 160 MB at 3:2


def fit(pairs: Pairs, alpha: float = ALPHA) -> np.ndarray:
    """Fit a ridge regression without an intercept on all blocks of up to FIT_IMAGES evenly spaced pairs.

    Per block, X has one row of input pixels, and Y has one row of label pixels. The normal equations
    (X'X + alpha I) W = X'Y are summed over parts of the blocks, so that the memory does not grow with the number of
    images or their size.

    Args:
        pairs: the images to fit on.
        alpha: weight of the L2 penalty, >= 0.

    Returns:
        float32, (window * window, p * p), where window = q + 2 MARGIN.
    """
    q, p = get_block_sides(pairs.scale)
    window = q + 2 * MARGIN
    squares = alpha * np.eye(window * window)
    products = np.zeros((window * window, p * p))
    for inputs, labels in pairs.subsample(FIT_IMAGES).batches(16):
        for x, y in _split_blocks(inputs, labels, q, p):
            squares += x.T @ x
            products += x.T @ y
    try:
        return np.linalg.solve(squares, products).astype("float32")
    except np.linalg.LinAlgError:  # a singular matrix: alpha=0 and nearly equal images
        return np.linalg.lstsq(squares, products, rcond=None)[0].astype("float32")


def _split_blocks(inputs: np.ndarray, labels: np.ndarray, q: int, p: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield X, float64, and Y of `fit` for some rows of blocks: up to MAX_BLOCKS blocks, but at least one row."""
    count, rows, columns = len(inputs), inputs.shape[1] // q, inputs.shape[2] // q
    windows = _view_windows(inputs[:, : rows * q, : columns * q], q)
    blocks = labels[:, : rows * p, : columns * p].reshape(count, rows, p, columns, p).transpose(0, 1, 3, 2, 4)
    step = max(1, MAX_BLOCKS // (count * columns))
    for start in range(0, rows, step):
        x, y = (part[:, start : start + step] for part in (windows, blocks))
        yield x.reshape(-1, x.shape[3] * x.shape[4]).astype("float64"), y.reshape(-1, p * p)


def load_or_fit(dataset: Dataset, scale: Fraction) -> np.ndarray:
    """Load the ridge weights (see `fit`) from a dataset, or fit them on its training split and store them.

    The name of the file contains the digest, because another dataset can replace the one at this location. While
    shards are verified in the background, the weights are not stored, because a shard may be damaged. In a
    read-only folder, they are not stored either.
    """
    file = dataset.folder / f"ridge-{scale.numerator}x{scale.denominator}-{dataset.digest}.npy"
    if file.exists():
        return load_weights(file, scale)
    weights = fit(dataset.load_pairs("train", scale))
    if dataset.is_verified() and os.access(dataset.folder, os.W_OK):
        remove_leftovers(dataset.folder)
        stream = io.BytesIO()  # np.save to a file would ignore a full disk
        np.save(stream, weights)
        write_file(file, stream.getvalue())
    return weights


def load_weights(file: Path, scale: Fraction) -> np.ndarray:
    """Load ridge weights from a file; raise LoupeError if it is missing, damaged or for another scale factor."""
    q, p = get_block_sides(scale)
    try:
        weights = map_array(file)
        if weights.shape != ((q + 2 * MARGIN) ** 2, p * p) or weights.dtype != np.float32:
            raise ValueError(f"it contains {weights.dtype} {weights.shape}")
    except ValueError as error:
        raise LoupeError(
            f"ridge: {str(file)!r} is not a ridge of {format_value(scale)}: {describe_error(error)}"
        ) from None
    return np.array(weights)


def extract_windows(images: np.ndarray, q: int) -> np.ndarray:
    """Extract the window around each q x q block, with mirrored borders.

    Args:
        images: (n, h, w, 1), h and w multiples of q.
        q: side of a block.

    Returns:
        (n, h/q, w/q, window * window), where window = q + 2 MARGIN.
    """
    windows = _view_windows(images, q)
    return windows.reshape(*windows.shape[:3], -1)


def _view_windows(images: np.ndarray, q: int) -> np.ndarray:
    """Return the windows of `extract_windows` without copies, (n, h/q, w/q, window, window)."""
    side = q + 2 * MARGIN
    padded = np.pad(images[..., 0], ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), mode="symmetric")
    return np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))[:, ::q, ::q]


class RidgeUpscaler:
    """A fitted ridge as an upscaling model, in NumPy.

    Args:
        weights: the result of `fit`.
        scale: the scale factor.
        luminance: the luminance formula of the images that the ridge was fitted on.
    """

    def __init__(self, weights: np.ndarray, scale: Fraction, luminance: str) -> None:
        self.geometry = build_geometry(scale, luminance)
        self._weights = weights

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images; see `UpscalingModel`."""
        q, p = self.geometry.q, self.geometry.p
        large = []
        for image in images:
            blocks = extract_windows(image[None], q)[0] @ self._weights  # (h/q, w/q, p*p)
            rows, columns = blocks.shape[:2]
            image = blocks.reshape(rows, columns, p, p).transpose(0, 2, 1, 3)
            large.append(image.reshape(rows * p, columns * p, 1))
        return np.stack(large)


def build_geometry(scale: Fraction, luminance: str) -> Geometry:
    """Return the geometry of a ridge."""
    return Geometry(*get_block_sides(scale), MARGIN, MARGIN, luminance)
