"""A conditioned network gets the JPEG quality of each photo, and the outcome contains this quality."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from loupe.errors import LoupeError
from loupe.imaging import isolated_reader
from loupe.imaging.image_data import ImageData
from loupe.imaging.jpeg_quality import compute_strength
from loupe.photos.inputs import PhotoJob
from loupe.photos.networks import LoadedModel, Networks
from loupe.photos.outcomes import Outcome, describe_assumptions
from loupe.photos.processing import ProcessingOptions, process_jobs
from loupe.photos.sizes import Target
from loupe.photos.upscaling import UpscaleTransform, upscale_image
from loupe.upscalers.baselines import FilterUpscaler
from loupe.upscalers.tiling import SelfEnsemble

SCALE = Fraction(3, 2)


class Conditioned:
    """Bicubic interpolation that records the strengths of its images."""

    def __init__(self):
        self._filter = FilterUpscaler("bicubic", SCALE)
        self.geometry = replace(self._filter.geometry, condition="jpeg")
        self.strengths = set()

    def __call__(self, images):
        assert images.shape[3] == 2
        self.strengths |= set(np.unique(images[..., 1]).tolist())
        return self._filter(images)


class Sharpener:
    """Bicubic interpolation that does not count as a filter, so that noise is removed first."""

    def __init__(self):
        self._filter = FilterUpscaler("bicubic", SCALE)
        self.geometry = self._filter.geometry

    def __call__(self, images):
        return self._filter(images)


def upscale(photo, out, model, jpeg_quality=None, scale=SCALE):
    networks = Networks([SCALE], lambda scale: LoadedModel("m", model))
    options = ProcessingOptions(UpscaleTransform(Target(scale), networks, jpeg_quality), overwrite=True)
    (outcome,) = process_jobs([PhotoJob(photo, out)], options, lambda _: None)
    return outcome


@pytest.fixture
def files(tmp_path, real_crop):
    photo = real_crop("coffee.png", 200, 150, 48, 40)
    for name, options in (("a.jpg", {"quality": 60}), ("b.png", {})):
        photo.save(tmp_path / name, **options)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "c.png")
    return tmp_path


@pytest.mark.parametrize("direct", [True, False], ids=["in this process", "in the child process"])
@pytest.mark.parametrize(
    ("name", "given", "quality"),
    [("a.jpg", None, 60), ("b.png", None, 100), ("c.png", None, 60), ("a.jpg", 30, 30), ("b.png", 45, 45)],
)
def test_the_quality_of_the_file_or_of_the_setting_is_assumed(files, monkeypatch, direct, name, given, quality):
    if not direct:
        monkeypatch.setattr(isolated_reader, "MAX_DIRECT_PIXELS", 0)
    model = Conditioned()
    outcome = upscale(files / name, files / "out.png", SelfEnsemble(model) if direct else model, given)
    assert (outcome.reason, outcome.assumed_quality) == ("", quality)
    assert model.strengths == {np.float32(compute_strength(quality))}


def test_other_networks_assume_nothing_and_refuse_a_quality(files):
    model = FilterUpscaler("bicubic", SCALE)
    assert upscale(files / "a.jpg", files / "out.png", model).assumed_quality is None
    reason = upscale(files / "a.jpg", files / "out.png", model, 50).reason
    assert reason == "jpeg_quality: must be auto if no network adapts to the quality, got 50"


def test_a_network_that_cannot_be_loaded_is_reported_with_its_reason_only(files):
    def load(scale):
        raise LoupeError("model: the file is damaged")

    options = ProcessingOptions(UpscaleTransform(Target(SCALE), Networks([SCALE], load)))
    (outcome,) = process_jobs([PhotoJob(files / "a.jpg", files / "out.png")], options, lambda _: None)
    assert outcome.reason == "model: the file is damaged"


def test_a_photo_that_needs_no_network_accepts_a_quality(files):
    for model in (FilterUpscaler("bicubic", SCALE), Conditioned()):
        outcome = upscale(files / "a.jpg", files / "out.png", model, 75, scale=Fraction(1))
        assert (outcome.reason, outcome.assumed_quality) == ("", None)


def test_the_assumptions_of_several_photos_are_one_text():
    def describe(*qualities):
        return describe_assumptions([Outcome(None, assumed_quality=quality) for quality in qualities])

    assert describe(None, None) == describe() == ""
    assert describe(75, None) == "assumed JPEG quality 75"
    assert describe(75, 60, 90) == "assumed JPEG quality 60 to 90"
    assert describe(60, 100) == "assumed JPEG quality 60 to 100 (100: no artefacts)"
    noises = [Outcome(None, removed_noise=noise) for noise in (0, 3.42, 8.06)]
    assert describe_assumptions(noises) == "removed noise of 2 of them (standard deviation 3.4 to 8.1)"
    both = Outcome(None, assumed_quality=75, removed_noise=3.42)
    assert describe_assumptions([both]) == "assumed JPEG quality 75; removed noise (standard deviation 3.4)"


def test_all_frames_are_denoised_as_the_first(tmp_path, real_crop):
    clean = real_crop("coffee.png", 200, 150, 130, 140)
    pixels = np.asarray(clean, float) + np.random.default_rng(0).normal(0, 9, (140, 130, 3))
    rough = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype("uint8"))
    rough.save(tmp_path / "a.png", save_all=True, append_images=[clean], duration=50)
    rough.save(tmp_path / "b.png")
    clean.save(tmp_path / "c.png", save_all=True, append_images=[rough], duration=50)
    noise = upscale(tmp_path / "b.png", tmp_path / "out.png", Sharpener()).removed_noise
    assert noise == pytest.approx(9, rel=0.2)
    for name, expected in (("a.png", noise), ("c.png", 0)):
        assert upscale(tmp_path / name, tmp_path / "out.png", Sharpener()).removed_noise == expected
        with Image.open(tmp_path / "out.png") as result:
            result.seek(1)
            second = np.asarray(result.convert("RGB"))
        frame = ImageData(np.asarray(clean if name == "a.png" else rough), noise=expected)
        networks = Networks([SCALE], lambda scale: LoadedModel("m", Sharpener()))
        stream = upscale_image(frame, Target(SCALE), networks)
        assert np.array_equal(second, np.concatenate(list(stream.strips)))
