"""Estimates the JPEG quality from pixels, for photos that were saved again without loss or with a higher quality."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from loupe.imaging.jpeg_quality import LUMINANCE_TABLE, compute_table_percent

BLOCK = 8  # side of a JPEG block in pixels
WINDOW = 2 * BLOCK - 1  # side of a window in pixels; a window contains a whole block for any offset of the blocks
MAX_SAMPLES = 12  # blocks per direction; 144 blocks take 12 ms, and 400 blocks hardly improve estimates
QUALITIES = np.arange(5, 99)  # at higher qualities, steps are smaller than the rounding errors of pixels
MIN_STEP = 3  # smaller quantisation steps are ignored
MIN_COEFFICIENTS = 100  # qualities with fewer counted coefficients are ignored
# Minimum share of coefficients that are multiples of their steps. The share is above 0.9 at the right quality, and
# 0.4 for images that were never compressed.
MIN_SHARE = 0.75
# An earlier quality must be lower by at least this number. For 24 Kodak photos and qualities from 30 to 98, its share
# is then at least 0.77 after two compressions, and at most 0.66 after one.
MIN_GAP = 10
WEIGHTS = np.array([0.299, 0.587, 0.114], "float32")  # luminance of a JPEG (JFIF)


def _build_transform() -> np.ndarray:
    """Return the two-dimensional DCT (ITU-T T.81, A.3.3) as a matrix, (pixels, coefficients)."""
    index = np.arange(BLOCK)
    cosines = np.cos(np.pi * (2 * index + 1) * index[:, None] / (2 * BLOCK)) / 2
    cosines[0] /= np.sqrt(2)
    return np.kron(cosines, cosines).T.astype("float32")


def estimate_jpeg_quality(pixels: np.ndarray, last: int | None = None) -> int | None:
    """Estimate the quality at which an image was previously compressed as JPEG.

    If it was compressed again with a higher quality, and the 8x8 blocks have the same positions, the result is the
    lower quality, because it caused most of the artefacts. The DCT coefficients of a JPEG are nearly multiples of the
    quantisation steps (Z. Fan and R. de Queiroz, 2003).

    Args:
        pixels: uint8, (height, width, bands).
        last: the quality of the last compression, if it is known.

    Returns:
        5 to 98, or else `last`: without traces of a JPEG, or if a side is shorter than WINDOW.
    """
    if min(pixels.shape[:2]) < WINDOW or (last is not None and last < QUALITIES[0] + MIN_GAP):
        return last
    coefficients = _transform_blocks(pixels)
    steps = np.clip((LUMINANCE_TABLE * compute_table_percent(QUALITIES)[:, None] + 50) // 100, 1, 255)[:, None, 1:]
    ratios = np.abs(coefficients / steps.astype("float32"))  # (qualities, blocks, coefficients)
    # Coefficients near 0 are not counted, because 0 is a multiple of every step.
    counted = (ratios > 0.5) & (steps >= MIN_STEP)
    counts = counted.sum(axis=(1, 2))
    multiples = counted & (np.abs(ratios - np.round(ratios)) < 0.2)
    shares = np.where(counts < MIN_COEFFICIENTS, 0, multiples.sum(axis=(1, 2)) / np.maximum(counts, 1))
    if last is None:
        best = shares.argmax()
        if shares[best] < MIN_SHARE:
            return None
        last = int(QUALITIES[best])
    shares[last - MIN_GAP < QUALITIES] = 0
    best = shares.argmax()
    return int(QUALITIES[best]) if shares[best] >= MIN_SHARE else last


def _transform_blocks(pixels: np.ndarray) -> np.ndarray:
    """Return the DCT coefficients of JPEG blocks, (blocks, 63), without the coefficient of the mean.

    The offset of the blocks in a cropped image is unknown. The offset with the most coefficients near 0 is selected.
    """
    rows, columns = (
        np.unique(np.linspace(0, (side - WINDOW) // BLOCK, MAX_SAMPLES, dtype=int)) * BLOCK
        for side in pixels.shape[:2]
    )
    windows = sliding_window_view(pixels, (WINDOW, WINDOW), axis=(0, 1))[np.ix_(rows, columns)]
    colours = windows.reshape(-1, pixels.shape[2], WINDOW, WINDOW).astype("float32")
    grey = np.tensordot(WEIGHTS, colours[:, :3], (0, 1)) if pixels.shape[2] > 2 else colours[:, 0]
    # (windows, offsets, pixels)
    blocks = sliding_window_view(grey, (BLOCK, BLOCK), axis=(1, 2)).reshape(len(grey), BLOCK**2, BLOCK**2)
    coefficients = (blocks @ _build_transform())[..., 1:]
    offset = (np.abs(coefficients) < 0.5).sum(axis=(0, 2)).argmax()
    return np.unique(coefficients[:, offset].round(2), axis=0)  # equal blocks count once
