"""Training batches depend on seed and step; input and label have the same position and symmetry."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.data import patches as module
from loupe.data.pairs import Pairs
from loupe.data.patches import Patches, apply_symmetry, cut_squares
from loupe.errors import UsageError
from loupe.imaging.conversion import from_floats

SCALES = [Fraction(3, 2), Fraction(2), Fraction(3)]


def pairs_of(*images, scale=Fraction(3, 2)):
    inputs, labels = zip(*images, strict=True)
    return Pairs.from_images([{}] * len(inputs), list(inputs), list(labels), scale)


def photos(scale, count=3, side=24):
    """Pairs of random pixels."""
    rng = np.random.default_rng(1)
    large = int(side * scale)
    sizes = [side, large] * count
    images = [rng.integers(0, 256, (size, size), dtype="uint8") for size in sizes]
    return pairs_of(*zip(images[::2], images[1::2], strict=True), scale=scale)


def rulers(scale, side=24, across=False):
    """A pair whose values are the row (or column) of each pixel, in pixels of the input and of the label."""
    images = [np.repeat(np.arange(size, dtype="uint8")[:, None], size, 1) for size in (side, int(side * scale))]
    return pairs_of([image.T if across else image for image in images], scale=scale)


def same(batch, other):
    return all(np.array_equal(a, b) for a, b in zip(batch, other, strict=True))


@pytest.mark.parametrize("scale", SCALES)
def test_a_batch_has_the_requested_sides_as_floats(scale):
    inputs, labels = Patches(photos(scale), 8, "aligned", True, seed=0).draw_batch(0, 5)
    assert inputs.shape == (5, 8, 8, 1)
    assert labels.shape == (5, 8 * scale, 8 * scale, 1)
    assert inputs.dtype == labels.dtype == np.float32
    assert -1 <= min(inputs.min(), labels.min()) < max(inputs.max(), labels.max()) <= 1


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31 - 1), steps=st.lists(st.integers(0, 10**8), min_size=1, max_size=5))
def test_a_batch_depends_on_seed_and_step_only(seed, steps):
    used, fresh = (Patches(photos(Fraction(3, 2)), 8, "aligned", True, seed) for _ in range(2))
    batches = [used.draw_batch(step, 4) for step in steps]
    assert all(
        same(fresh.draw_batch(step, 4), batch) for step, batch in reversed(list(zip(steps, batches, strict=True)))
    )


def test_batches_differ_between_steps_and_seeds():
    patches = {seed: Patches(photos(Fraction(3, 2)), 8, "aligned", True, seed) for seed in (0, 1)}
    batches = [patches[seed].draw_batch(step, 4) for seed in (0, 1) for step in (0, 1)]
    assert not any(same(a, b) for number, a in enumerate(batches) for b in batches[:number])


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_aligned_crops_have_the_same_position_in_input_and_label(scale, across):
    patches = Patches(rulers(scale, across=across), 8, "aligned", False, seed=0)
    starts = set()
    for small, label in zip(*map(from_floats, patches.draw_batch(0, 200)), strict=True):
        if across:
            small, label = small.swapaxes(0, 1), label.swapaxes(0, 1)
        start = int(small[0, 0, 0])
        assert (small[:, :, 0] == np.arange(start, start + 8)[:, None]).all()
        first = start * scale
        assert first.denominator == 1
        assert (label[:, :, 0] == np.arange(first, first + 8 * scale)[:, None]).all()
        starts.add(start)
    assert starts == set(range(0, 24 - 8 + 1, scale.denominator))


def test_any_uses_every_offset_and_rounds_down_in_the_label():
    patches = Patches(rulers(Fraction(3, 2)), 8, "any", False, seed=0)
    starts = {}
    for small, label in zip(*map(from_floats, patches.draw_batch(0, 300)), strict=True):
        assert (label[:, :, 0] == np.arange(label[0, 0, 0], label[0, 0, 0] + 12)[:, None]).all()
        starts[int(small[0, 0, 0])] = int(label[0, 0, 0])
    assert starts == {start: start * 3 // 2 for start in range(17)}


def eight_ways(image):
    """The 8 symmetries of a square, computed in another way."""
    return [np.rot90(way, quarter) for way in (image, np.fliplr(image)) for quarter in range(4)]


def test_the_eight_symmetries_differ():
    image = np.arange(9).reshape(3, 3)
    found = {apply_symmetry(image, turn).tobytes() for turn in range(8)}
    assert found == {np.ascontiguousarray(way).tobytes() for way in eight_ways(image)}
    assert len(found) == 8


def test_augment_applies_the_same_symmetry_to_input_and_label():
    pairs = photos(Fraction(3, 2), count=1, side=8)
    small, label = pairs[0]
    ways = {a.tobytes(): b for a, b in zip(eight_ways(small), eight_ways(label), strict=True)}
    seen = set()
    for crop, larger in zip(
        *map(from_floats, Patches(pairs, 8, "aligned", True, seed=0).draw_batch(0, 100)), strict=True
    ):
        assert np.array_equal(larger[..., 0], ways[crop.tobytes()])
        seen.add(crop.tobytes())
    assert seen == set(ways)


def test_without_augment_crops_are_not_flipped_or_rotated():
    pairs = photos(Fraction(3, 2), count=1, side=8)
    inputs, labels = map(from_floats, Patches(pairs, 8, "aligned", False, seed=0).draw_batch(0, 20))
    assert (inputs[..., 0] == pairs[0][0]).all()
    assert (labels[..., 0] == pairs[0][1]).all()


def test_batches_use_every_pair():
    pairs = photos(Fraction(2), count=6, side=8)
    inputs, _ = Patches(pairs, 8, "aligned", False, seed=0).draw_batch(0, 100)
    assert {crop.tobytes() for crop in from_floats(inputs)} == {pairs[index][0].tobytes() for index in range(6)}


def test_draw_from_each_cuts_one_crop_of_every_pair_in_order():
    pairs = photos(Fraction(3, 2), count=6, side=8)
    inputs, labels = Patches(pairs, 8, "aligned", False, seed=0).draw_from_each(3)
    for index in range(6):
        assert np.array_equal(from_floats(inputs)[index, ..., 0], pairs[index][0])
        assert np.array_equal(from_floats(labels)[index, ..., 0], pairs[index][1])


def test_draw_from_each_depends_on_seed_and_draw_only():
    patches = Patches(photos(Fraction(3, 2)), 8, "any", False, seed=0)
    first = patches.draw_from_each(1)
    assert not same(patches.draw_from_each(2), first)
    assert same(patches.draw_from_each(1), first)


def test_a_crop_larger_than_the_inputs_is_refused_with_both_sizes():
    with pytest.raises(UsageError, match="24, got 26"):
        Patches(photos(Fraction(3, 2)), 26, "aligned", True, seed=0)


@pytest.fixture
def from_maps(monkeypatch):
    """Makes patches that are cut from memory maps, as for a dataset above the memory limit."""

    def of(*arguments):
        with monkeypatch.context() as patched:
            patched.setattr(module, "MEMORY_LIMIT_BYTES", 0)
            return Patches(*arguments)

    return of


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("crops", ["aligned", "any"])
@pytest.mark.parametrize("scale", SCALES)
def test_crops_from_memory_and_from_memory_maps_are_equal(scale, crops, augment, from_maps):
    pairs = photos(scale, count=5)
    calls = []
    pairs.copy_to_memory, copy = lambda: calls.append(1) or copy(), pairs.copy_to_memory
    for side in (6, 8, 24):
        held = Patches(pairs, side, crops, augment, 7)
        assert len(calls) == 1
        mapped = from_maps(pairs, side, crops, augment, 7)
        assert len(calls) == 1  # nothing was copied into memory
        calls.clear()
        for step in range(3):
            assert same(held.draw_batch(step, 9), mapped.draw_batch(step, 9))
            assert same(held.draw_from_each(step), mapped.draw_from_each(step))


@pytest.mark.parametrize(("over", "held"), [(0, True), (1, False)])
def test_images_are_copied_into_memory_up_to_a_limit(over, held, monkeypatch):
    pairs = photos(Fraction(3, 2), count=4)
    calls = []
    pairs.copy_to_memory, copy = lambda: calls.append(1) or copy(), pairs.copy_to_memory
    monkeypatch.setattr(module, "MEMORY_LIMIT_BYTES", 4 * (24**2 + 36**2) - over)
    Patches(pairs, 8, "aligned", True, 0)
    assert bool(calls) == held


def test_a_batch_does_not_change_images_in_memory():
    pairs = photos(Fraction(3, 2), count=2, side=8)
    patches = Patches(pairs, 8, "aligned", True, seed=0)  # whole images
    before = patches.draw_batch(0, 50)
    patches.draw_batch(1, 50)
    assert same(patches.draw_batch(0, 50), before)
    assert {from_floats(crop).sum() for crop in before[0]} <= {int(pair[0].sum()) for pair in (pairs[0], pairs[1])}


@settings(max_examples=30)
@given(data=st.data(), side=st.integers(1, 12), height=st.integers(12, 20))
def test_cut_squares_cuts_at_the_given_corners(data, side, height):
    images = np.random.default_rng(0).integers(0, 256, (3, height, height + 1), dtype="uint8")
    place = st.tuples(st.integers(0, 2), st.integers(0, height - side), st.integers(0, height + 1 - side))
    places = data.draw(st.lists(place, min_size=1, max_size=5))
    chosen, corners = np.array([at[0] for at in places]), np.array([at[1:] for at in places])
    expected = [images[number, y : y + side, x : x + side] for number, y, x in places]
    np.testing.assert_array_equal(cut_squares(images, chosen, corners, side), expected)
