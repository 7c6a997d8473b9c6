"""Computes scores of images against their labels, as arrays (n,). Pixel values are in [-1, 1]."""

import numpy as np

PEAK = 2.0  # difference between white (1) and black (-1)
MIN_MSE = 1e-9  # limits psnr to 96 dB
SSIM_WINDOW = 11  # side of the window in pixels
SCORES = ("mae", "psnr", "ssim", "mse")


def mse(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the mean squared error of each image; both arrays are (n, height, width, 1) in [-1, 1]."""
    return np.square(images.astype("float64") - labels).mean(axis=(1, 2, 3))


def mae(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the mean absolute error of each image; both arrays are (n, height, width, 1) in [-1, 1]."""
    return np.abs(images.astype("float64") - labels).mean(axis=(1, 2, 3))


def psnr(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the peak signal-to-noise ratio of each image in dB: 10 log10(PEAK^2 / mse)."""
    return convert_to_psnr(mse(images, labels))


def convert_to_psnr(mean_squared_error: np.ndarray) -> np.ndarray:
    """Convert mean squared errors to PSNR in dB."""
    return 10 * np.log10(PEAK**2 / np.maximum(mean_squared_error, MIN_MSE))


def ssim(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the structural similarity of each image (Wang et al. 2004): Gaussian window, sigma 1.5, range 2.

    The similarity is NaN for images with a side below SSIM_WINDOW.
    """
    from skimage.metrics import structural_similarity

    if min(images.shape[1:3]) < SSIM_WINDOW:
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


def compute_scores(images: np.ndarray, labels: np.ndarray, names: tuple[str, ...] = SCORES) -> dict[str, np.ndarray]:
    """Clip images to [-1, 1], and compute scores, (n,) each, by name.

    Args:
        images: (n, height, width, 1).
        labels: (n, height, width, 1) in [-1, 1].
        names: a selection of SCORES.
    """
    clipped = np.clip(images, -1, 1)
    functions = {"mae": mae, "psnr": psnr, "ssim": ssim, "mse": mse}
    return {name: functions[name](clipped, labels) for name in names}


def compute_lost_dark_share(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the share of a label's dark pixels (< 0) that are not dark in the image; NaN without dark pixels."""
    dark = labels < 0
    lost = (dark & (images >= 0)).sum(axis=(1, 2, 3))
    count = dark.sum(axis=(1, 2, 3))
    return np.where(count > 0, lost / np.maximum(count, 1), np.nan)


def compute_gradient_energy(images: np.ndarray) -> np.ndarray:
    """Compute the sum of squared differences between neighbouring pixels of each image. Blur reduces this sum."""
    vertical, horizontal = (
        np.square(np.diff(images.astype("float64"), axis=axis)).sum(axis=(1, 2, 3)) for axis in (1, 2)
    )
    return vertical + horizontal


def compute_seam_errors(images: np.ndarray, labels: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean absolute errors of each image at the borders of squares and inside the squares.

    A square contains the pixels of the result that a network computes from one block of its input. The error inside
    is NaN if all pixels are at borders.

    Args:
        images: (n, height, width, 1).
        labels: (n, height, width, 1).
        block: side of a square in pixels of the result.
    """
    error = np.abs(images.astype("float64") - labels)[..., 0]
    border_rows, border_columns = (np.isin(np.arange(side) % block, (0, block - 1)) for side in error.shape[1:])
    border = border_rows[:, None] | border_columns[None, :]
    inside = error[:, ~border].mean(axis=1) if block > 2 else np.full(len(error), np.nan)
    return error[:, border].mean(axis=1), inside
