"""Converts colour images to luminance."""

import numpy as np
from PIL import Image

# Weights of red, green and blue
STUDIO = np.array([65.481, 128.553, 24.966], "float32")  # 219 times REC_601
REC_601 = np.array([0.299, 0.587, 0.114], "float32")
REC_709 = np.array([0.2126, 0.7152, 0.0722], "float32")


def compute_luminance(image: Image.Image, luminance: str) -> np.ndarray:
    """Convert an image to grey. Transparent pixels are blended with white.

    Args:
        image: mode `L`, `RGB`, `LA` or `RGBA`.
        luminance: the formula; images of mode `L` or `LA` are already grey, and do not use it.
            `rec601`: sum of the encoded values, weighted by REC_601, as in Pillow.
            `rec709`: sum of the encoded values, weighted by REC_709.
            `relative`: sum of the values in linear light (IEC 61966-2-1), weighted by REC_709, then encoded again.
            `studio`: 16 + 219 y, where y is the result of `rec601` on a scale from 0 to 1; as in MATLAB's rgb2ycbcr.

    Returns:
        uint8, (height, width).
    """
    image = blend_with_white(image)
    if luminance == "rec601" or image.mode == "L":
        return np.asarray(image.convert("L"))
    if luminance == "relative":
        # A table of 256 values makes the conversion three times as fast.
        table = decode_srgb(np.arange(256, dtype="float32") / 255)
        grey = encode_srgb(table[np.asarray(image)] @ REC_709)
    else:
        encoded = np.asarray(image, "float32") / 255
        grey = encoded @ REC_709 if luminance == "rec709" else (16 + encoded @ STUDIO) / 255
    return np.rint(grey * 255).clip(0, 255).astype("uint8")


def get_weights(luminance: str) -> np.ndarray:
    """Return the weights of red, green and blue for `rec601`, `rec709` or `relative`."""
    return REC_601 if luminance == "rec601" else REC_709


def compute_relative_luminance(encoded: np.ndarray) -> np.ndarray:
    """Compute Rec. 709 luminance in linear light and encode it again (IEC 61966-2-1).

    Args:
        encoded: float32, (height, width, 3). 0 is black, 1 is white; values can be outside this range.

    Returns:
        float32, (height, width), on the scale of `encoded`.
    """
    return encode_srgb(decode_srgb(encoded) @ REC_709)


def decode_srgb(encoded: np.ndarray) -> np.ndarray:
    """Convert the values of sRGB (0 to 1) to linear light (IEC 61966-2-1); the result has the same dtype."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((np.maximum(encoded, 0) + 0.055) / 1.055) ** 2.4)


def encode_srgb(light: np.ndarray) -> np.ndarray:
    """Convert linear light to the values of sRGB; see `decode_srgb`."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


def blend_with_white(image: Image.Image) -> Image.Image:
    """Blend the transparent pixels of a `LA` or `RGBA` image with white; return other images unchanged."""
    if image.mode not in ("LA", "RGBA"):
        return image
    if image.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    grey, alpha = image.split()
    return Image.composite(grey, Image.new("L", image.size, 255), alpha)
