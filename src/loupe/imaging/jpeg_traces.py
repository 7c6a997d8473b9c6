"""Estimates the quality of a JPEG from its pixels, for photos that were saved again in a lossless format."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from loupe.imaging.jpeg_quality import LUMINANCE_TABLE, compute_table_percent

BLOCK = 8  # side of a JPEG block in pixels
WINDOW = 2 * BLOCK - 1  # contains a whole JPEG block, wherever the block begins
# Maximum number of sampled blocks per direction. 144 blocks take 12 ms. 400 blocks take three times as long, and
# correct only 4 of 624 estimates for the Kodak photos.
MAX_SAMPLES = 12
QUALITIES = np.arange(5, 99)  # at higher qualities, the rounding of the pixels hides the quantisation steps
MIN_STEP = 3  # coefficients with smaller quantisation steps are ignored
MIN_COEFFICIENTS = 100  # fewer coefficients do not suffice for an estimate
# Minimum share of coefficients that are multiples of their quantisation steps. The share is above 0.9 with the right
# table, and about 0.4 for photos that were never compressed.
MIN_SHARE = 0.75
WEIGHTS = np.array([0.299, 0.587, 0.114], "float32")  # of red, green and blue in the luminance of a JPEG (JFIF)


def _build_transform() -> np.ndarray:
    """Return the two-dimensional DCT of a block (ITU-T T.81, A.3.3) as a matrix, (pixels, coefficients)."""
    index = np.arange(BLOCK)
    cosines = np.cos(np.pi * (2 * index + 1) * index[:, None] / (2 * BLOCK)) / 2
    cosines[0] /= np.sqrt(2)
    return np.kron(cosines, cosines).T.astype("float32")


def estimate_jpeg_quality(pixels: np.ndarray) -> int | None:
    """Estimate the quality at which an image was previously compressed as JPEG.

    The DCT coefficients of a decoded JPEG are multiples of the quantisation steps (Z. Fan and R. de Queiroz, 2003).
    Cropping preserves this property; resizing and editing destroy it.

    Args:
        pixels: uint8, (height, width, bands).

    Returns:
        5 to 98; None if the pixels do not show that the image was a JPEG.
    """
    if min(pixels.shape[:2]) < WINDOW:
        return None
    coefficients = _transform_blocks(pixels)
    steps = np.clip((LUMINANCE_TABLE * compute_table_percent(QUALITIES)[:, None] + 50) // 100, 1, 255)[:, None, 1:]
    ratios = np.abs(coefficients / steps.astype("float32"))  # (qualities, blocks, coefficients)
    counted = (ratios > 0.5) & (steps >= MIN_STEP)  # 0 is a multiple of every step
    counts = counted.sum(axis=(1, 2))
    multiples = counted & (np.abs(ratios - np.round(ratios)) < 0.2)
    shares = np.where(counts < MIN_COEFFICIENTS, 0, multiples.sum(axis=(1, 2)) / np.maximum(counts, 1))
    best = shares.argmax()
    return int(QUALITIES[best]) if shares[best] >= MIN_SHARE else None


def _transform_blocks(pixels: np.ndarray) -> np.ndarray:
    """Return the DCT coefficients of JPEG blocks except the mean of each block, (blocks, 63).

    A cropped image may begin inside a JPEG block. The function chooses the offset of the blocks at which most
    coefficients are 0, because JPEG sets small coefficients to 0.
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
