"""Measures `loupe restore`: PSNR of photos with Gaussian noise, before and after.

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
    parser.add_argument("--sigma", type=float, nargs="+", default=[5, 10, 20], help="of 255 grey values")
    options = parser.parse_args()
    photos = {path.name: np.asarray(Image.open(path).convert("RGB"), float) for path in options.photos.glob("*.png")}
    for sigma in options.sigma:
        rng = np.random.default_rng(0)
        with tempfile.TemporaryDirectory() as folder:
            noisy, clean = Path(folder, "noisy"), Path(folder, "clean")
            noisy.mkdir()
            for name, photo in sorted(photos.items()):
                pixels = photo + rng.normal(0, sigma, photo.shape)
                Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype("uint8")).save(noisy / name)
            arguments = ["restore", noisy, "--out", clean, "--method", "nlm", "--strength", "1", "--format", "png"]
            subprocess.run([sys.executable, "-m", "loupe", *map(str, arguments)], check=True, capture_output=True)
            means = [
                np.mean([compute_psnr(images / name, photo) for name, photo in photos.items()])
                for images in (noisy, clean)
            ]
        print(f"sigma {sigma:g}: {means[0]:.1f} dB with noise, {means[1]:.1f} dB restored")


if __name__ == "__main__":
    main()
