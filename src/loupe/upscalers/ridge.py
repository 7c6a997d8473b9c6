"""Ridge regression from the pixels around a block of the input to its block of the label."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from loupe.data.dataset import Dataset, Pairs
from loupe.errors import LoupeError, describe_error
from loupe.imaging.atomic import remove_leftovers, write_atomically
from loupe.upscalers.baselines import MARGIN
from loupe.upscalers.geometry import Geometry

ALPHA = 0.01
FITTED_ON = 2048  # images at most, evenly spread: millions of rows for the 81 or 100 pixels of a window


def fit(pairs: Pairs, alpha: float = ALPHA) -> np.ndarray:
    """Fit on all blocks of up to FITTED_ON pairs, without an intercept.

    The normal equations (X'X + alpha) W = X'Y are summed up image by image, since X has a row a block:
    the same solution as scikit-learn's Ridge, in memory that does not grow with the images.

    Args:
        pairs: images to fit on.
        alpha: weight of the squared coefficients, at least 0.

    Returns:
        float32, (window * window, p * p): window = q + 8 pixels around each q x q block.
    """
    q, p = pairs.scale.denominator, pairs.scale.numerator
    window = q + 2 * MARGIN
    squares = alpha * np.eye(window * window)
    products = np.zeros((window * window, p * p))
    for inputs, labels in pairs.spread(FITTED_ON).batches(16):
        rows, columns = (side // q * q for side in inputs.shape[1:3])
        x = extract_windows(inputs[:, :rows, :columns], q)
        large = labels[:, : rows * p // q, : columns * p // q, 0]
        y = large.reshape(len(large), rows // q, p, columns // q, p).transpose(0, 1, 3, 2, 4).reshape(-1, p * p)
        x = x.reshape(-1, window * window).astype("float64")
        squares += x.T @ x
        products += x.T @ y
    try:
        return np.linalg.solve(squares, products).astype("float32")
    except np.linalg.LinAlgError:  # alpha 0 on images that are all alike
        return np.linalg.lstsq(squares, products, rcond=None)[0].astype("float32")


def load_or_fit(dataset: Dataset, scale: Fraction) -> np.ndarray:
    """The ridge of a dataset's training split, fitted once and kept beside the shards."""
    file = dataset.folder / f"ridge-{scale.numerator}x{scale.denominator}.npy"
    if not file.exists():
        remove_leftovers(dataset.folder)
        weights = fit(dataset.pairs("train", scale))
        with write_atomically(file) as partial, partial.open("wb") as stream:
            np.save(stream, weights)
    return load_weights(file, scale)


def load_weights(file: Path, scale: Fraction) -> np.ndarray:
    """The ridge of a scale that a file holds; raises LoupeError where it is none."""
    q, p = scale.denominator, scale.numerator
    try:
        weights = np.load(file, allow_pickle=False)
        if weights.shape != ((q + 2 * MARGIN) ** 2, p * p) or weights.dtype != np.float32:
            raise ValueError(f"it holds {weights.dtype} {weights.shape}")
    except (OSError, ValueError, EOFError, AttributeError, MemoryError) as error:  # AttributeError: of an archive
        raise LoupeError(f"ridge: {str(file)!r} is no ridge of {p}:{q}: {describe_error(error)}") from None
    return weights


def extract_windows(images: np.ndarray, q: int) -> np.ndarray:
    """The window around each block: (n, h, w, 1) to (n, h/q, w/q, window * window), mirrored at the border."""
    side = q + 2 * MARGIN
    padded = np.pad(images[..., 0], ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), mode="symmetric")
    views = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))[:, ::q, ::q]
    return views.reshape(*views.shape[:3], side * side)


class RidgeUpscaler:
    """Fitted weights with the face of a model, in numpy.

    Args:
        weights: what `fit` gives, (window * window, p * p).
        scale: p/q, in lowest terms.
        luminance: of the images that it was fitted on.
    """

    def __init__(self, weights: np.ndarray, scale: Fraction, luminance: str) -> None:
        self.geometry = build_geometry(scale, luminance)
        self._weights = weights

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Float32 (n, h, w, 1) in [-1, 1] to (n, h p/q, w p/q, 1); h, w multiples of q."""
        q, p = self.geometry.q, self.geometry.p
        large = []
        for image in images:
            blocks = extract_windows(image[None], q)[0] @ self._weights  # (h/q, w/q, p*p)
            rows, columns = blocks.shape[:2]
            image = blocks.reshape(rows, columns, p, p).transpose(0, 2, 1, 3)
            large.append(image.reshape(rows * p, columns * p, 1))
        return np.stack(large)


def build_geometry(scale: Fraction, luminance: str) -> Geometry:
    """Of a ridge: the smallest blocks of the scale, and a halo of whole blocks that hold the margin."""
    q = scale.denominator
    return Geometry(q, scale.numerator, MARGIN, MARGIN, luminance)
