"""Measures `loupe restore` and `loupe upscale`: PSNR of photos with Gaussian noise, before and after.

For `upscale`, the noise is added to the photos after they are downscaled to half of their size.

python tests/benchmarks/denoising.py --photos kodak24
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image


def compute_psnr(image: Path, photo: np.ndarray) -> float:
    """PSNR in dB of an 8-bit image file, over all pixels and channels."""
    error = np.square(np.asarray(Image.open(image).convert("RGB"), float) - photo).mean()
    return float(10 * np.log10(255**2 / error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of PNG files")
    parser.add_argument("--sigma", type=float, nargs="+", default=[3, 5, 10, 20], help="of 255 grey values")
    options = parser.parse_args()
    photos = {path.name: np.asarray(Image.open(path).convert("RGB"), float) for path in options.photos.glob("*.png")}
    for sigma in options.sigma:
        with tempfile.TemporaryDirectory() as folder:
            restored = measure(
                photos, Path(folder), sigma, 1, {"nlm": ["restore", "--method", "nlm", "--strength", "1"]}
            )
        upscale = ["upscale", "--scale", "2:1"]
        with tempfile.TemporaryDirectory() as folder:
            ways = {
                "lanczos": [*upscale, "--model", "lanczos"],
                "small, --denoise 0": [*upscale, "--model", "small", "--denoise", "0"],
                "small": [*upscale, "--model", "small"],
            }
            upscaled = measure(photos, Path(folder), sigma, 2, ways)
        print(f"sigma {sigma:g}, restore: {format_means(restored)}; upscale: {format_means(upscaled)}", flush=True)


def measure(
    photos: dict[str, np.ndarray], folder: Path, sigma: float, factor: int, ways: dict[str, list[str]]
) -> dict[str, float]:
    """Return the mean PSNR of the noisy photos (for the factor 1), and of the results of each command."""
    rng, noisy = np.random.default_rng(0), folder / "noisy"
    noisy.mkdir()
    for name, photo in sorted(photos.items()):
        size = photo.shape[1] // factor, photo.shape[0] // factor
        small = np.asarray(Image.fromarray(photo.astype("uint8")).resize(size, Image.Resampling.LANCZOS), float)
        pixels = small + rng.normal(0, sigma, small.shape)
        Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype("uint8")).save(noisy / name)
    folders = {"noisy": noisy} if factor == 1 else {}
    for number, (way, arguments) in enumerate(ways.items()):
        folders[way] = folder / str(number)
        command = [arguments[0], noisy, "--out", folders[way], "--format", "png", *arguments[1:]]
        subprocess.run([sys.executable, "-m", "loupe", *map(str, command)], check=True, capture_output=True)
    return {
        way: float(np.mean([compute_psnr(results / name, photo) for name, photo in photos.items()]))
        for way, results in folders.items()
    }


def format_means(means: dict[str, float]) -> str:
    """Format the means as text."""
    return ", ".join(f"{way} {mean:.2f} dB" for way, mean in means.items())


if __name__ == "__main__":
    main()
