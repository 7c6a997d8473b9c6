"""The HTML file that compares photos with their results."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from loupe.imaging.image_data import ImageStream
from loupe.imaging.metadata import Metadata
from loupe.imaging.writer import write_photo
from loupe.photos.comparison import render_figure
from loupe.photos.inputs import PhotoJob


@pytest.mark.parametrize(("size", "labels"), [((30, 20), ["original"]), ((45, 30), ["Lanczos", "original pixels"])])
def test_a_photo_is_labelled_original_if_the_result_has_its_size(tmp_path, size, labels):
    Image.new("L", (30, 20), 90).save(tmp_path / "a.png")
    Image.new("L", size, 80).save(tmp_path / "b.png")
    html = render_figure(PhotoJob(tmp_path / "a.png", tmp_path / "b.png"))
    assert re.findall(r'<span class="left"[^>]*>([^<]*)<', html) == labels
    assert re.findall(r'type="radio"[^>]*>([^<]*)<', html) == (labels if len(labels) > 1 else [])
    assert len(re.findall('class="before"', html)) == len(labels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 4])
def test_a_comparison_shows_declared_colours(tmp_path, bands, dtype):
    """With a linear transfer function, the level 0.216 is the level 0.502 of sRGB."""
    white = np.iinfo(dtype).max
    pixels = np.full((20, 30, bands), round(0.216 * white), dtype)
    pixels[..., 3:] = white
    metadata = Metadata(colour_chunks={b"gAMA": (100_000).to_bytes(4, "big")})
    write_photo(tmp_path / "a.png", [ImageStream((30, 20), bands, pixels.dtype, iter([pixels]), metadata)])
    html = render_figure(PhotoJob(tmp_path / "a.png", tmp_path / "a.png"))
    images = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]*)", html)]
    assert len(images) == 2
    for image in images:
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - 128).max() <= 1
        assert "icc_profile" not in image.info
