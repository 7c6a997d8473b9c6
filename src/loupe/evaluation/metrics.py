"""Scores of images against their labels: one value an image, on the scale of [-1, 1]."""

import numpy as np

PEAK = 2.0  # of [-1, 1]
LEAST_MSE = 1e-9  # so that psnr stays finite, at 96 dB, where a image equals its label
SCORES = ("mae", "psnr", "ssim", "mse")


def mse(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean squared error of each image; both (n, height, width, 1) in [-1, 1]; returns (n,)."""
    return np.square(images.astype("float64") - labels).mean(axis=(1, 2, 3))


def mae(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean absolute error of each image; both (n, height, width, 1) in [-1, 1]; returns (n,)."""
    return np.abs(images.astype("float64") - labels).mean(axis=(1, 2, 3))


def psnr(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in dB, 10 log10(peak^2 / mse) with peak 2; returns (n,)."""
    return 10 * np.log10(PEAK**2 / np.maximum(mse(images, labels), LEAST_MSE))


def ssim(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Structural similarity of each image (Wang et al. 2004): Gaussian window of sigma 1.5, range 2.

    Images with a side below 11 have no window: nan.
    """
    from skimage.metrics import structural_similarity

    if min(images.shape[1:3]) < 11:
        return np.full(len(images), np.nan)
    return np.array(
        [
            structural_similarity(
                label[..., 0],
                image[..., 0],
                data_range=PEAK,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
            for image, label in zip(images, labels, strict=True)
        ]
    )


def scores(images: np.ndarray, labels: np.ndarray, names: tuple[str, ...] = SCORES) -> dict[str, np.ndarray]:
    """Scores, all or those named, of each image, clipped to [-1, 1] first.

    Args:
        images: (n, height, width, 1).
        labels: likewise, in [-1, 1].
        names: of SCORES.

    Returns:
        name -> (n,).
    """
    clipped = np.clip(images, -1, 1)
    known = {"mae": mae, "psnr": psnr, "ssim": ssim, "mse": mse}
    return {name: known[name](clipped, labels) for name in names}


def lost_dark_share(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share of each label's pixels below 0 that the image has at or above 0; nan without such pixels; (n,)."""
    dark = labels < 0
    lost = (dark & (images >= 0)).sum(axis=(1, 2, 3))
    count = dark.sum(axis=(1, 2, 3))
    return np.where(count > 0, lost / np.maximum(count, 1), np.nan)


def gradient_energy(images: np.ndarray) -> np.ndarray:
    """Sum of squared differences between neighbouring pixels of each image: what blur takes away; (n,)."""
    down, across = (np.square(np.diff(images.astype("float64"), axis=axis)).sum(axis=(1, 2, 3)) for axis in (1, 2))
    return down + across


def seam_errors(images: np.ndarray, labels: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute error of each image on the borders of its block x block blocks, and inside them.

    Args:
        images: (n, height, width, 1).
        labels: likewise.
        block: side of a block; below 3 there is no inside: nan.

    Returns:
        Two of (n,).
    """
    error = np.abs(images.astype("float64") - labels)[..., 0]
    down, across = (np.isin(np.arange(side) % block, (0, block - 1)) for side in error.shape[1:])
    border = down[:, None] | across[None, :]
    inside = error[:, ~border].mean(axis=1) if block > 2 else np.full(len(error), np.nan)
    return error[:, border].mean(axis=1), inside
