"""Kills each step a few times; `killing.py` does the same many times."""

import pytest
from killing import kill

pytestmark = pytest.mark.slow(100)
SEED = 6  # of the moments; with it, five kills come before the first undisturbed run


@pytest.mark.parametrize(
    ("step", "times"), [("preprocess", 3), ("upscale", 10), ("train", 3), ("sweep", 2), ("register", 2)]
)
def test_a_killed_step_has_the_same_result_after_a_restart(step, times, tmp_path):
    assert kill(step, times, tmp_path, seed=SEED).total() == times
